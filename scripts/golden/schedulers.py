#!/usr/bin/env python3
"""Makes tests/fixtures/schedulers/diffusers.json: runs of diffusers' schedulers with an exact model.

Needs torch, numpy, scipy and diffusers (versions are recorded in the file). Data is the mixture
0.3 N(-1, 0.2^2) + 0.7 N(0.5, 0.35^2) in every coordinate, so the best prediction is known in closed form. The
model sees what a network would see: the scaled state and the time that the scheduler passes, from which it
takes alpha and sigma (between two entries of a table ln alpha is linear in the index). Noise is a fixed list
of numbers, one for each draw. Every run is made twice: with the scheduler as it is, which keeps its tables and
noise levels in f32, and with the scheduler's float32 replaced by float64.

Of each run the file has the configuration, the times of all model calls, the noise levels of the grid and
the end.
"""
import contextlib
import importlib
import json
import math
import pathlib
import sys
import types

import numpy as np
import torch

import diffusers

diffusers.utils.logging.set_verbosity_error()
# DPMSolverSDEScheduler draws from torchsde, which the fixed noise replaces.
sys.modules.setdefault("torchsde", types.ModuleType("torchsde"))
from diffusers.schedulers.scheduling_dpmsolver_sde import DPMSolverSDEScheduler  # noqa: E402

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "schedulers"
DATA = [(0.3, -1.0, 0.2), (0.7, 0.5, 0.35)]
START = [[0.7, -1.1, 0.15], [1.9, -0.4, 2.6]]


def noise(i):
    """The number of draw i."""
    return 0.8 * math.sin(1.3 + 2.1 * i)


def x0_of(x, alpha, sigma):
    """The mean of the data given x = alpha x_0 + sigma eps."""
    logits, means = [], []
    for w, m, s in DATA:
        v = alpha**2 * s**2 + sigma**2
        logits.append(math.log(w) - 0.5 * math.log(v) - (x - alpha * m) ** 2 / (2 * v))
        means.append(m + alpha * s**2 * (x - alpha * m) / v)
    share = torch.softmax(torch.stack(logits), 0)
    return (share * torch.stack(means)).sum(0)


class Narrow:
    """A module whose float32 is float64."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, "float64" if name == "float32" else name)


class Brownian:
    """Increments of a path whose halves of a step are the draws."""

    def __init__(self, *_, **__):
        self.draw, self.first = 0, None

    def __call__(self, sigma, sigma_next):
        sigma, sigma_next = float(sigma), float(sigma_next)
        z = noise(self.draw)
        self.draw += 1
        if self.first is None or self.first[0] != sigma:
            self.first = (sigma, sigma_next, z)
            return z
        start, middle, before = self.first
        self.first = None
        total = math.sqrt(start - sigma_next)
        return (math.sqrt(start - middle) * before + math.sqrt(middle - sigma_next) * z) / total


@contextlib.contextmanager
def patched(module, wide):
    """Fixed noise in a scheduler's module, and f64 arithmetic where `wide`."""
    draws = iter(range(1 << 20))
    saved = {name: getattr(module, name) for name in ("torch", "np", "randn_tensor") if hasattr(module, name)}

    def randn_tensor(shape, dtype=None, **_):
        return torch.full(tuple(shape), noise(next(draws)), dtype=dtype or torch.get_default_dtype())

    if "randn_tensor" in saved:
        module.randn_tensor = randn_tensor
    if hasattr(module, "BrownianTreeNoiseSampler"):
        module.BrownianTreeNoiseSampler = Brownian
    if wide:
        torch.set_default_dtype(torch.float64)
        module.torch = Narrow(torch)
        if "np" in saved:
            module.np = Narrow(np)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        for name, value in saved.items():
            setattr(module, name, value)


def levels(scheduler):
    """alpha and sigma at a (fractional) index of a table."""
    logs = 0.5 * scheduler.alphas_cumprod.double().log().numpy()

    def at(t):
        low = min(max(int(math.floor(t)), 0), len(logs) - 2)
        log = logs[low] + (t - low) * (logs[low + 1] - logs[low])
        if not math.isfinite(log):
            log = logs[low] if t == low else -math.inf
        return math.exp(log), math.sqrt(-math.expm1(2 * log))

    return at


def predict(kind, config, at, x, t):
    """What a network of the kind would return."""
    prediction = config.get("prediction_type", "epsilon")
    if kind == "edm":
        sigma, data = math.exp(4 * t), config.get("sigma_data", 0.5)
        total = sigma**2 + data**2
        y = x * math.sqrt(total)
        return (x0_of(y, 1.0, sigma) - data**2 / total * y) / (sigma * data / math.sqrt(total))
    if kind == "ipndm":
        alpha, sigma = math.cos(0.5 * math.pi * t), math.sin(0.5 * math.pi * t)
        x0 = x0_of(x, alpha, sigma)
        return alpha * (x - alpha * x0) / sigma - sigma * x0
    if kind == "flow":
        sigma = t / config.get("num_train_timesteps", 1000)
        return (x - x0_of(x, 1 - sigma, sigma)) / sigma
    if kind == "ve":
        return (x0_of(x, 1.0, t) - x) / t**2
    alpha, sigma = at(t)
    x0 = x0_of(x, alpha, sigma)
    eps = (x - alpha * x0) / sigma
    if prediction == "epsilon":
        return eps
    return x0 if prediction in ("sample", "original_sample") else alpha * eps - sigma * x0


def run(name, options, steps, eta, wide):
    cls = DPMSolverSDEScheduler if name == "DPMSolverSDEScheduler" else getattr(diffusers, name)
    module = importlib.import_module(cls.__module__)
    kind = {"EDM": "edm", "Flo": "flow", "Sco": "ve", "IPN": "ipndm"}.get(name[:3], "table")
    dtype = torch.float64 if wide else torch.float32
    with patched(module, wide):
        scheduler = cls(**options)
        scheduler.set_timesteps(steps)
        if kind == "ve":
            scheduler.set_sigmas(steps)
        at = levels(scheduler) if kind == "table" else None
        calls = []
        x = torch.tensor(START, dtype=torch.float64).reshape(2, 1, 1, 3) * float(
            getattr(scheduler, "init_noise_sigma", 1.0))
        x = x.to(dtype)

        def model(x, t):
            t = float(t)
            calls.append(t)
            return predict(kind, options, at, x.double(), t).to(dtype)

        if kind == "ve":
            for i, t in enumerate(scheduler.timesteps):
                sigma = scheduler.sigmas[i]
                for _ in range(scheduler.config.correct_steps):
                    x = scheduler.step_correct(model(x, sigma), x).prev_sample
                out = scheduler.step_pred(model(x, sigma), t, x)
                x, mean = out.prev_sample, out.prev_sample_mean
            x = mean
        else:
            extra = {"eta": eta} if eta else {}
            if eta:
                scheduler_noise = iter(range(steps))
            for t in scheduler.timesteps:
                inp = x if kind == "flow" else scheduler.scale_model_input(x, t)
                out = model(inp, t)
                if eta:
                    extra["variance_noise"] = torch.full_like(x, noise(next(scheduler_noise)))
                x = scheduler.step(out, t, x, **extra).prev_sample
        sigmas = getattr(scheduler, "sigmas", None)
        if sigmas is not None and kind in ("table", "edm"):
            sigmas = [float(s) for s in sigmas]
            # Schedulers of second order list inner points twice, KDPM2 the last one as well.
            if getattr(scheduler, "order", 1) == 2:
                sigmas = sigmas[:1] + sigmas[1 : 2 * steps - 2 : 2] + [0.0]
        else:
            sigmas = None
        in_y = kind == "table" and getattr(scheduler, "is_scale_input_called", False)
        if in_y and sigmas[-1] > 0:
            x = x / math.sqrt(1 + sigmas[-1] ** 2)
    return {
        "calls": calls,
        "sigmas": sigmas,
        "end": [float(v) for v in x.double().flatten()],
    }


SPACINGS = ("linspace", "leading", "trailing")
LEVELS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02}


def cases():
    """(name, class, options, eta)"""
    ddpm, ddim, pndm = "DDPMScheduler", "DDIMScheduler", "PNDMScheduler"
    free = {"clip_sample": False}
    for s in SPACINGS:
        yield f"ddim {s}", ddim, {"timestep_spacing": s, **free}, 0.0
        yield f"ddpm {s} large", ddpm, {"timestep_spacing": s, "variance_type": "fixed_large", **free}, 0.0
        yield f"pndm {s}", pndm, {"timestep_spacing": s}, 0.0
        yield f"plms {s}", pndm, {"timestep_spacing": s, "skip_prk_steps": True}, 0.0
        yield f"pndm {s} v", pndm, {"timestep_spacing": s, "prediction_type": "v_prediction"}, 0.0
    yield "ddim defaults", ddim, {}, 0.0
    yield "ddim trailing clipped v", ddim, {
        "timestep_spacing": "trailing", "prediction_type": "v_prediction", "clip_sample_range": 0.9}, 0.0
    yield "ddim linspace eta", ddim, {"timestep_spacing": "linspace"}, 0.7
    yield "ddim leading eta clipped", ddim, {"steps_offset": 1}, 1.0
    yield "ddim onto entry 0", ddim, {"set_alpha_to_one": False, "steps_offset": 1, **free}, 0.0
    yield "ddim identity at the end", ddim, {"set_alpha_to_one": False, **free}, 0.0
    yield "ddim thresholding", ddim, {"thresholding": True, "sample_max_value": 1.2}, 0.0
    yield "ddim zero snr", ddim, {
        "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction",
        **free}, 0.0
    yield "ddim sample cosine", ddim, {
        "prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2", **free}, 0.0
    yield "ddpm defaults", ddpm, {}, 0.0
    yield "ddpm small log v", ddpm, {
        "variance_type": "fixed_small_log", "prediction_type": "v_prediction", "steps_offset": 1}, 0.0
    yield "ddpm large leading offset", ddpm, {"variance_type": "fixed_large", "steps_offset": 1}, 0.0
    yield "ddpm sigmoid sample", ddpm, {
        "beta_schedule": "sigmoid", "prediction_type": "sample", "timestep_spacing": "linspace"}, 0.0
    yield "ddpm laplace", ddpm, {"beta_schedule": "laplace", **free}, 0.0
    yield "ddpm thresholding", ddpm, {"thresholding": True, "sample_max_value": 1.5}, 0.0
    yield "plms stable diffusion", pndm, {
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "skip_prk_steps": True,
        "steps_offset": 1}, 0.0
    yield "pndm alpha to one", pndm, {"set_alpha_to_one": True}, 0.0
    betas = [0.0004 * (1 + i) for i in range(100)]
    yield "ddim trained betas", ddim, {"trained_betas": betas, "num_train_timesteps": 100, **free}, 0.0

    dpm, single = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
    deis, unipc = "DEISMultistepScheduler", "UniPCMultistepScheduler"
    for s in SPACINGS:
        yield f"dpm {s}", dpm, {"timestep_spacing": s}, 0.0
        yield f"dpm 3 heun {s} v", dpm, {
            "timestep_spacing": s, "solver_order": 3, "solver_type": "heun", "prediction_type": "v_prediction",
            "steps_offset": 1}, 0.0
        yield f"deis {s}", deis, {"timestep_spacing": s}, 0.0
        yield f"unipc {s}", unipc, {"timestep_spacing": s}, 0.0
    for level in LEVELS + ("use_lu_lambdas",):
        yield f"dpm {level}", dpm, {level: True}, 0.0
        yield f"dpm {level} onto sigma_min", dpm, {level: True, "final_sigmas_type": "sigma_min"}, 0.0
        if level != "use_lu_lambdas":
            yield f"single {level}", single, {level: True}, 0.0
            yield f"deis {level}", deis, {level: True}, 0.0
            yield f"unipc {level}", unipc, {level: True, "solver_order": 3}, 0.0
    yield "dpm karras cosine", dpm, {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"}, 0.0
    yield "dpm sigma_min", dpm, {"final_sigmas_type": "sigma_min"}, 0.0
    yield "dpm sigma_min euler at final", dpm, {
        "final_sigmas_type": "sigma_min", "lower_order_final": False, "euler_at_final": True}, 0.0
    yield "dpm not lowered", dpm, {"final_sigmas_type": "sigma_min", "lower_order_final": False}, 0.0
    yield "dpm 3", dpm, {"solver_order": 3}, 0.0
    yield "dpm 1 sample", dpm, {"solver_order": 1, "prediction_type": "sample"}, 0.0
    for order, kind in ((2, "midpoint"), (2, "heun"), (3, "midpoint")):
        yield f"dpm noise {order} {kind}", dpm, {
            "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": order,
            "solver_type": kind}, 0.0
        yield f"dpm sde {order} {kind}", dpm, {
            "algorithm_type": "sde-dpmsolver++", "solver_order": order, "solver_type": kind}, 0.0
        yield f"single {order} {kind}", single, {"solver_order": order, "solver_type": kind}, 0.0
        yield f"single noise {order} {kind}", single, {
            "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": order,
            "solver_type": kind, "lower_order_final": True}, 0.0
    yield "dpm sde noise", dpm, {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}, 0.0
    yield "dpm thresholding", dpm, {"thresholding": True, "sample_max_value": 1.2}, 0.0
    yield "dpm noise thresholding", dpm, {
        "thresholding": True, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, 0.0
    yield "dpm zero snr", dpm, {
        "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction",
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, 0.0
    yield "single 3 heun sigma_min", single, {
        "solver_order": 3, "solver_type": "heun", "final_sigmas_type": "sigma_min"}, 0.0
    yield "single 1", single, {"solver_order": 1}, 0.0
    yield "deis 3", deis, {"solver_order": 3}, 0.0
    yield "deis 1 v", deis, {"solver_order": 1, "prediction_type": "v_prediction"}, 0.0
    yield "deis 3 not lowered", deis, {"solver_order": 3, "lower_order_final": False}, 0.0
    yield "deis thresholding", deis, {"thresholding": True}, 0.0
    for order in (1, 2, 3):
        for kind in ("bh1", "bh2"):
            # Onto clean data bh1 is not finite.
            last = "zero" if kind == "bh2" else "sigma_min"
            yield f"unipc {order} {kind}", unipc, {
                "solver_order": order, "solver_type": kind, "final_sigmas_type": last}, 0.0
    yield "unipc noise", unipc, {"predict_x0": False, "final_sigmas_type": "sigma_min"}, 0.0
    yield "unipc 3 not lowered", unipc, {
        "solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"}, 0.0
    yield "unipc thresholding", unipc, {"thresholding": True, "prediction_type": "sample"}, 0.0

    families = {
        "euler": "EulerDiscreteScheduler", "heun": "HeunDiscreteScheduler", "lms": "LMSDiscreteScheduler",
        "kdpm2": "KDPM2DiscreteScheduler", "sde": "DPMSolverSDEScheduler",
        "euler-a": "EulerAncestralDiscreteScheduler", "kdpm2-a": "KDPM2AncestralDiscreteScheduler",
    }
    for short, cls in families.items():
        for s in SPACINGS:
            yield f"{short} {s}", cls, {"timestep_spacing": s, **LINEAR}, 0.0
        yield f"{short} defaults v", cls, {"prediction_type": "v_prediction"}, 0.0
        if short == "euler-a":
            continue
        for level in LEVELS:
            yield f"{short} {level}", cls, {level: True}, 0.0
        yield f"{short} karras leading", cls, {
            "use_karras_sigmas": True, "timestep_spacing": "leading", "steps_offset": 1}, 0.0
        yield f"{short} karras trailing", cls, {
            "use_karras_sigmas": True, "timestep_spacing": "trailing"}, 0.0
    yield "euler sigma_min", families["euler"], {"final_sigmas_type": "sigma_min"}, 0.0
    yield "euler sample", families["euler"], {"prediction_type": "sample"}, 0.0
    yield "euler own ends", families["euler"], {
        "use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 60.0}, 0.0
    yield "euler zero snr", families["euler"], {
        "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}, 0.0
    yield "heun clipped", families["heun"], {"clip_sample": True, "clip_sample_range": 0.8}, 0.0
    yield "heun exp", families["heun"], {"beta_schedule": "exp"}, 0.0
    yield "lms sample", families["lms"], {"prediction_type": "sample"}, 0.0

    yield "edm euler", "EDMEulerScheduler", {}, 0.0
    yield "edm euler exponential", "EDMEulerScheduler", {
        "sigma_schedule": "exponential", "sigma_max": 60.0, "sigma_data": 0.7}, 0.0
    yield "edm euler sigma_min", "EDMEulerScheduler", {"final_sigmas_type": "sigma_min", "rho": 5.0}, 0.0
    for order in (1, 2, 3):
        yield f"edm dpm {order}", "EDMDPMSolverMultistepScheduler", {"solver_order": order}, 0.0
    yield "edm dpm sde", "EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 0.0
    yield "edm dpm heun sigma_min", "EDMDPMSolverMultistepScheduler", {
        "solver_type": "heun", "final_sigmas_type": "sigma_min", "thresholding": True}, 0.0
    for shift in (1.0, 3.0):
        yield f"flow euler {shift}", "FlowMatchEulerDiscreteScheduler", {"shift": shift}, 0.0
        yield f"flow heun {shift}", "FlowMatchHeunDiscreteScheduler", {"shift": shift}, 0.0
    yield "ve", "ScoreSdeVeScheduler", {"sigma_max": 50.0}, 0.0
    yield "ipndm", "IPNDMScheduler", {}, 0.0
    yield "ve uncorrected", "ScoreSdeVeScheduler", {"correct_steps": 0, "sigma_max": 20.0}, 0.0


def main():
    result = []
    for steps in (10, 17):
        for name, cls, options, eta in cases():
            if steps == 17 and not name.startswith(("dpm", "single", "deis 3", "unipc 3", "pndm l", "lms l")):
                continue
            try:
                exact, narrow = (run(cls, options, steps, eta, wide) for wide in (True, False))
            except IndexError as error:
                # A class whose rounded times begin with the same one twice runs off its own list.
                print(f"left out, it fails: {name} {steps}: {error}", file=sys.stderr)
                continue
            numbers = exact["end"] + narrow["end"]
            if not all(map(math.isfinite, numbers)):
                print(f"left out, not finite: {name} {steps}", file=sys.stderr)
                continue
            result.append({
                "name": f"{name} {steps}",
                "config": {"_class_name": cls, **options},
                "eta": eta,
                "steps": steps,
                "calls": exact["calls"],
                "sigmas": exact["sigmas"],
                "end": exact["end"],
                "end_f32": narrow["end"],
            })
    OUT.mkdir(parents=True, exist_ok=True)
    text = {
        "versions": {"diffusers": diffusers.__version__, "torch": torch.__version__, "numpy": np.__version__},
        "start": START[0] + START[1],
        "runs": result,
    }
    rounded = json.loads(json.dumps(text), parse_float=lambda s: float(f"{float(s):.12g}"))
    lines = [json.dumps(run) for run in rounded.pop("runs")]
    head = json.dumps(rounded)[:-1]
    (OUT / "diffusers.json").write_text(head + ', "runs": [\n' + ",\n".join(lines) + "\n]}\n")
    print(f"{len(result)} runs")


main()

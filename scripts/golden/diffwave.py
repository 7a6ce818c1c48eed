#!/usr/bin/env python3
"""Makes tests/fixtures/diffwave/*: small checkpoints of the DiffWave projects and what their networks make of a batch.

    python scripts/golden/diffwave.py SASHIMI VOCODER LMNT

with working copies of albertfgu/diffwave-sashimi (d35c153), philsyn/DiffWave-Vocoder (b1648aa) and lmnt-com/diffwave
(0594106). Needs torch, numpy and einops (versions are recorded in the files).

Every checkpoint is written by torch.save in its project's own form. Weights follow from their names: SplitMix64
seeded with FNV-1a-64 of the name, u in [0, 1) with 53 bits, rounded to f32. Matrices of 512 columns have one column,
repeated, so that the files stay small. Networks run in f64 on the CPU.

Two things of the projects are replaced: `.cuda()` (nothing to run it on), and, in diffwave-sashimi, the fallback of
the Cauchy sum for machines without its CUDA extension, which leaves out one of each pair of conjugate poles.
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

from formula import uniform

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "diffwave"


def stream(name, shape):
    return torch.from_numpy(uniform(name, math.prod(shape))).reshape(shape)


def data(name, shape):
    return 2 * stream(name, shape) - 1


def fill(name, shape):
    end = name.rsplit(".", 1)[-1]
    if len(shape) == 2 and shape[1] in (128, 512):  # the embedding of the step
        column = data(name, [shape[0], 1]) * 8 / shape[1]
        return column.float().expand(shape)
    u = stream(name, shape)
    if end in ("weight_g", "s"):
        value = 0.75 + 0.5 * u
    elif end == "log_dt":
        value = math.log(0.02) + math.log(25) * u
    elif end == "inv_w_real":
        value = math.log(0.5) + 0.4 * (2 * u - 1)
    elif end == "w_imag":
        value = -0.5 - 12 * u
    elif end in ("C", "B", "P"):
        value = 2 * u - 1
    elif len(shape) >= 2:
        value = (2 * u - 1) * math.sqrt(3 / math.prod(shape[1:]))
    else:
        value = 0.2 * (2 * u - 1)
    return value.float()


def refill(net, keep=()):
    state = net.state_dict()
    filled = {k: v if k.endswith(keep) else fill(k, list(v.shape)) for k, v in state.items()}
    net.load_state_dict(filled)
    return type(state)(filled)


def record(name, y, **rest):
    out = {"versions": {"torch": torch.__version__}, **rest}
    out |= {"size": list(y.shape), "values": y.detach().double().flatten().tolist()}
    (OUT / f"{name}.json").write_text(json.dumps(out) + "\n")
    print(name, list(y.shape), y.norm().item())


@contextlib.contextmanager
def project(path, *names):
    """Modules of a project, with nothing of it left behind."""
    sys.path.insert(0, str(path))
    before = set(sys.modules)
    try:
        yield [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(path))
        for name in set(sys.modules) - before:
            if str(path) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def conjugates(v, z, w):
    """The Cauchy sum over both poles of each pair."""
    v, z, w = v.unsqueeze(-1), z.unsqueeze(-2), w.unsqueeze(-1)
    return (v / (z - w) + v.conj() / (z - w.conj())).sum(-2)


def batch(length, hop, mel):
    x = data("x", [2, 1, length])
    return x, (data("mel", [2, 80, -(-length // hop) + 1]) if mel else None)


def wavenet(sashimi, vocoder):
    with project(sashimi, "models.wavenet") as [module]:
        for name, mel in [("wavenet", False), ("wavenet-mel", True)]:
            net = module.WaveNet(
                res_channels=4, skip_channels=6, num_res_layers=3, dilation_cycle=10, unconditional=not mel,
                mel_upsample=[2, 4],
            ).double()
            state = refill(net)
            x, spec = batch(40, 8, mel)
            t = [3.0, 120.5]
            y = net((x, torch.tensor(t).reshape(2, 1)), mel_spec=spec)
            folder = OUT / f"wnet_h4_d3_T{50 if mel else 200}_betaT{0.05 if mel else 0.02}"
            folder.mkdir(parents=True, exist_ok=True)
            torch.save({"model_state_dict": state, "optimizer_state_dict": {}}, folder / f"{name}.pkl")
            record(name, y, t=t, file=f"{folder.name}/{name}.pkl", hop=8)
    with project(vocoder, "WaveNet") as [module]:
        net = module.WaveNet_vocoder(1, 4, 4, 1, 2, 10, 128, 512, 512).double()
        state = refill(net)
        x, spec = batch(300, 256, True)
        t = [3.0, 40.5]
        y = net((x, spec, torch.tensor(t).reshape(2, 1)))
        torch.save(
            {"model_state_dict": state, "optimizer_state_dict": {}}, OUT / "12000.pkl",
            _use_new_zipfile_serialization=False,
        )
        record("vocoder", y, t=t, file="12000.pkl", hop=256)


def sashimi(path):
    shapes = [("sashimi", True, False, 64), ("sashimi-plain", False, False, 64), ("sashimi-mel", True, True, 64)]
    with project(path, "models.sashimi", "models.s4") as [module, s4]:
        s4.has_cauchy_extension = s4.has_pykeops = False
        s4.cauchy_naive = conjugates
        for name, unet, mel, length in shapes:
            torch.manual_seed(0)
            layer = s4.S4
            module.S4 = lambda d, **rest: layer(d, d_state=8, **rest)
            net = module.Sashimi(
                d_model=4, n_layers=1, pool=[2, 4], unet=unet, unconditional=not mel, mel_upsample=[2, 4], L=length
            ).double()
            state = refill(net, ("kernel.L",))
            x, spec = batch(length, 8, mel)
            t = [3.0, 120.5]
            with torch.no_grad():
                y = net((x, torch.tensor(t).reshape(2, 1)), mel_spec=spec)
                # The first call turned the C of every layer into that of its length.
                after = net.state_dict()
            state = {k: after[k].float() if k.endswith(".C") else v for k, v in state.items()}
            state |= {k: v for k, v in after.items() if k.endswith("kernel.L")}
            # Once more, with C as it is in the file.
            net.load_state_dict(state)
            with torch.no_grad():
                y = net((x, torch.tensor(t).reshape(2, 1)), mel_spec=spec)
            folder = OUT / f"unet_T{50 if mel else 200}_betaT{0.05 if mel else 0.02}"
            folder.mkdir(exist_ok=True)
            torch.save({"model_state_dict": state, "optimizer_state_dict": {}}, folder / f"{name}.pkl")
            record(name, y, t=t, file=f"{folder.name}/{name}.pkl", hop=8)


def lmnt(path):
    with project(path / "src", "diffwave.model", "diffwave.params") as [module, params]:
        for name, mel in [("lmnt", True), ("lmnt-unconditional", False)]:
            options = params.AttrDict(params.params)
            options.override(dict(
                residual_layers=3, residual_channels=4, dilation_cycle_length=2, unconditional=not mel,
                audio_len=40,
            ))
            options = params.AttrDict(options.__dict__)
            # The table of steps is of the default dtype.
            torch.set_default_dtype(torch.float32)
            net = module.DiffWave(options).double()
            torch.set_default_dtype(torch.float64)
            state = refill(net)
            x, spec = batch(512 if mel else 40, 256, mel)
            spec = data("mel", [2, 80, 2]) if mel else None
            ys, t = [], [10.0, 30.25]
            for i, step in enumerate([torch.tensor([10]), torch.tensor([30.25], dtype=torch.float64)]):
                part = spec[i:i + 1] if mel else None
                ys.append(net(x[i:i + 1, 0], step, part))
            torch.save({"step": 777, "model": state, "optimizer": {}, "params": dict(options), "scaler": {}},
                       OUT / f"{name}.pt")
            record(name, torch.cat(ys), t=t, file=f"{name}.pt", hop=256, frames=2 if mel else None)


def main():
    if len(sys.argv) != 4:
        print("skipped: it needs the working copies SASHIMI VOCODER LMNT as arguments", file=sys.stderr)
        return
    torch.set_default_dtype(torch.float64)
    torch.Tensor.cuda = lambda self, *a, **k: self
    # A logger's decorator is all that diffwave-sashimi takes from this package.
    rank = types.ModuleType("pytorch_lightning.utilities")
    rank.rank_zero_only = lambda f: f
    sys.modules |= {"pytorch_lightning": types.ModuleType("pytorch_lightning"), "pytorch_lightning.utilities": rank}
    sys.modules.setdefault("opt_einsum", types.SimpleNamespace(contract=torch.einsum, contract_expression=None))
    OUT.mkdir(parents=True, exist_ok=True)
    paths = [pathlib.Path(p).resolve() for p in sys.argv[1:4]]
    wavenet(paths[0], paths[1])
    lmnt(paths[2])
    sashimi(paths[0])


if __name__ == "__main__":
    main()

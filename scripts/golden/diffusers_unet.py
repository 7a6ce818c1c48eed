#!/usr/bin/env python3
"""Makes tests/fixtures/diffusers/: networks and pipelines of diffusers with weights that follow from names.

Needs torch, numpy and diffusers (versions are recorded). The weights of networks/*.json are not stored: they
are the formula of networks.py, but for the Fourier frequencies `time_proj.weight` [F], which are 16 (2u - 1).
Outputs are those of UNet2DModel in f32 on one CPU thread.

Together the configurations have every block type that UNet2DModel can build and run (DownEncoderBlock2D and
UpDecoderBlock2D it can build but not run), and every option.
"""
import json
import math
import pathlib
import shutil

import diffusers
import torch

from networks import data, fill, fnv, stream

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "diffusers"
VERSIONS = {"torch": torch.__version__, "diffusers": diffusers.__version__}


def weights(name, shape):
    if name == "time_proj.weight" and len(shape) == 1:
        return 16 * (2 * torch.from_numpy(stream(name, math.prod(shape))) - 1)
    return fill(name, shape)


def built(config):
    net = diffusers.UNet2DModel(**config).eval()
    state = {k: weights(k, list(v.shape)).float() for k, v in net.state_dict().items()}
    net.load_state_dict(state)
    return net


def short(values):
    return [float(f"{v:.8g}") for v in values.detach().double().flatten().tolist()]


def network(name, config, t, labels=None):
    net = built(config)
    size = config["sample_size"]
    size = size if isinstance(size, list) else [size, size]
    x = data("x", [len(t), config.get("in_channels", 3), *size]).float()
    given = labels
    if isinstance(labels, str):  # vectors
        given = data(labels, [len(t), net.time_embedding.linear_2.weight.shape[0]]).float()
    elif labels is not None:
        given = torch.tensor(labels)
    y = net(x, torch.tensor(t), class_labels=given).sample
    out = {
        "versions": VERSIONS,
        "config": json.loads(net.to_json_string()),
        "tensors": {k: list(v.shape) for k, v in net.state_dict().items()},
        "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
        "t": t, "labels": labels, "size": list(y.shape), "values": short(y),
    }
    (OUT / "networks").mkdir(parents=True, exist_ok=True)
    (OUT / "networks" / f"{name}.json").write_text(json.dumps(out) + "\n")
    print(f"{name}: {out['parameters']} parameters, largest output {y.abs().max():.3g}")


def sizes(configs):
    """Counts of the parameters of large networks, and a hash of the names and shapes of their tensors."""
    out = {}
    for name, config in configs.items():
        with torch.device("meta"):
            net = diffusers.UNet2DModel(**config)
        lines = sorted(f"{k} {list(v.shape)}\n" for k, v in net.state_dict().items())
        out[name] = {
            "config": json.loads(net.to_json_string()), "tensors": len(lines), "hash": f"{fnv(''.join(lines)):016x}",
            "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
        }
        print(f"{name}: {out[name]['parameters']} parameters in {len(lines)} tensors")
    (OUT / "sizes.json").write_text(json.dumps(out) + "\n")


def pipeline(name, scheduler, steps, config, cls=diffusers.DDPMPipeline):
    """The folder, once with .safetensors and once with .bin weights, and the end of a run from a given start."""
    net = built(config)
    for kind, safe in (("", True), ("-bin", False)):
        folder = OUT / f"{name}{kind}"
        shutil.rmtree(folder, ignore_errors=True)
        cls(unet=net, scheduler=scheduler).save_pretrained(folder, safe_serialization=safe)
    x = data("latents", [2, config["in_channels"], config["sample_size"], config["sample_size"]]).float() * 1.7
    out = {"versions": VERSIONS, "steps": steps, "one": short(net(x, torch.tensor([500, 500])).sample)}
    scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        model = net(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(model, t, x).prev_sample
    out["end"] = short(x)
    (OUT / f"{name}.json").write_text(json.dumps(out) + "\n")
    print(f"{name}: {steps} steps end at {x.abs().max():.3g}")


def score_pipeline(name, scheduler, steps, config, seeds):
    """The folder of a ScoreSdeVePipeline, and the ends of its runs with each of the seeds."""
    net = built(config)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    diffusers.ScoreSdeVePipeline(unet=net, scheduler=scheduler).save_pretrained(folder)
    ends = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn([1, 3, config["sample_size"], config["sample_size"]], generator=generator)
        x = x * scheduler.init_noise_sigma
        scheduler.set_timesteps(steps)
        scheduler.set_sigmas(steps)
        for i, t in enumerate(scheduler.timesteps):
            sigma = scheduler.sigmas[i] * torch.ones(1)
            for _ in range(scheduler.config.correct_steps):
                x = scheduler.step_correct(net(x, sigma).sample, x, generator=generator).prev_sample
            step = scheduler.step_pred(net(x, sigma).sample, t, x, generator=generator)
            x, mean = step.prev_sample, step.prev_sample_mean
        ends.append(mean)
    out = {"versions": VERSIONS, "steps": steps, "seeds": seeds, "end": short(torch.cat(ends))}
    (OUT / f"{name}.json").write_text(json.dumps(out) + "\n")
    print(f"{name}: {steps} steps end at {max(e.abs().max() for e in ends):.3g}")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    network("resnet-blocks", dict(
        down_block_types=["ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
        block_out_channels=[16, 32, 32], layers_per_block=1, sample_size=[8, 16], downsample_type="resnet",
        upsample_type="resnet", act_fn="mish", resnet_time_scale_shift="scale_shift", attention_head_dim=8,
        norm_num_groups=8, attn_norm_num_groups=4, dropout=0.1, num_class_embeds=5, norm_eps=1e-6,
    ), [7, 650], [3, 0])
    network("conv-blocks", dict(
        down_block_types=["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"],
        up_block_types=["ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        block_out_channels=[16, 32, 32], layers_per_block=2, sample_size=8, downsample_padding=0, freq_shift=1,
        flip_sin_to_cos=False, attention_head_dim=None, norm_num_groups=8, mid_block_scale_factor=1.5,
    ), [999, 10])
    network("skip-blocks", dict(
        down_block_types=["SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"],
        up_block_types=["SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"],
        block_out_channels=[32, 32, 64], layers_per_block=1, sample_size=8, time_embedding_type="fourier",
        attention_head_dim=None, norm_num_groups=None, center_input_sample=True, norm_eps=1e-6,
        mid_block_scale_factor=math.sqrt(2), flip_sin_to_cos=True, freq_shift=0,
    ), [0.5, 30.0])
    network("skip-mixed", dict(
        down_block_types=["AttnSkipDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "SkipUpBlock2D"],
        block_out_channels=[32, 64], layers_per_block=1, sample_size=8, attention_head_dim=16,
        resnet_time_scale_shift="scale_shift", norm_num_groups=16,
    ), [3, 400])
    network("k-blocks", dict(
        down_block_types=["KDownBlock2D", "KDownBlock2D"], up_block_types=["KUpBlock2D", "KUpBlock2D"],
        block_out_channels=[32, 64], layers_per_block=2, sample_size=8, act_fn="gelu", norm_num_groups=8,
        attention_head_dim=16,
    ), [20, 900])
    network("k-mixed", dict(
        down_block_types=["KDownBlock2D"], up_block_types=["UNetResUpBlock2D"], block_out_channels=[32],
        layers_per_block=1, sample_size=6, in_channels=1, out_channels=1, norm_num_groups=8, add_attention=False,
    ), [20, 900])
    network("learned-time", dict(
        down_block_types=["UNetResAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "AttnUpBlock2D"],
        block_out_channels=[16, 32], layers_per_block=1, sample_size=8, time_embedding_type="learned",
        num_train_timesteps=20, time_embedding_dim=24, mid_block_type=None, class_embed_type="timestep",
        act_fn="relu", attention_head_dim=12, norm_num_groups=8, out_channels=6,
    ), [0, 19], [4, 17])
    network("label-vectors", dict(
        down_block_types=["DownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "UpBlock2D"],
        block_out_channels=[15, 30], layers_per_block=1, sample_size=4, class_embed_type="identity",
        act_fn="GELU", norm_num_groups=5, add_attention=False,
    ), [5, 50], "vectors")
    network("label-numbers", dict(
        down_block_types=["AttnDownBlock2D"], up_block_types=["AttnUpBlock2D"], block_out_channels=[16],
        layers_per_block=1, sample_size=4, in_channels=1, out_channels=1, class_embed_type="timestep",
        attention_head_dim=4, norm_num_groups=4, act_fn="swish",
    ), [5, 50], [2, 30])

    ddpm = dict(
        sample_size=256, block_out_channels=[128, 128, 256, 256, 512, 512], downsample_padding=0, norm_eps=1e-6,
        flip_sin_to_cos=False, freq_shift=1, attention_head_dim=None,
        down_block_types=["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
    )
    ncsnpp = dict(
        sample_size=256, block_out_channels=[128, 128, 256, 256, 256, 256, 256], center_input_sample=True,
        time_embedding_type="fourier", norm_num_groups=None, norm_eps=1e-6, attention_head_dim=None,
        mid_block_scale_factor=math.sqrt(2),
        down_block_types=["SkipDownBlock2D"] * 4 + ["AttnSkipDownBlock2D"] + ["SkipDownBlock2D"] * 2,
        up_block_types=["SkipUpBlock2D"] * 2 + ["AttnSkipUpBlock2D"] + ["SkipUpBlock2D"] * 4,
    )
    adm = dict(
        sample_size=64, block_out_channels=[192, 384, 576, 768], layers_per_block=3, num_class_embeds=1000,
        attention_head_dim=64, resnet_time_scale_shift="scale_shift", downsample_type="resnet",
        upsample_type="resnet", attn_norm_num_groups=32,
        down_block_types=["ResnetDownsampleBlock2D"] + ["AttnDownBlock2D"] * 3,
        up_block_types=["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"],
    )
    sizes({"default": dict(sample_size=32), "ddpm-256": ddpm, "ncsnpp-256": ncsnpp, "imagenet-64": adm})

    tiny = dict(
        down_block_types=["DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"],
        block_out_channels=[4, 4], layers_per_block=1, sample_size=8, in_channels=1, out_channels=1,
        attention_head_dim=2, norm_num_groups=2, time_embedding_dim=8,
    )
    pipeline("ddim", diffusers.DDIMScheduler(), 10, tiny, diffusers.DDIMPipeline)
    score_pipeline("score-ve", diffusers.ScoreSdeVeScheduler(sigma_max=20.0), 10, dict(
        down_block_types=["SkipDownBlock2D", "SkipDownBlock2D"], up_block_types=["SkipUpBlock2D", "SkipUpBlock2D"],
        block_out_channels=[4, 4], layers_per_block=1, sample_size=8, time_embedding_type="fourier",
        attention_head_dim=None, norm_num_groups=None, center_input_sample=True, norm_eps=1e-6, time_embedding_dim=8,
        mid_block_scale_factor=math.sqrt(2),
    ), [0, 7])

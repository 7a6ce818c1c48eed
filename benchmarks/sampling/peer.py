"""The peer of `gen sample`: diffusers' UNet2DModel (35.7 M parameters) with DPMSolverMultistepScheduler, PNG files.

`save` writes a model folder with random weights; `sample` loads it, draws the images and writes them.
"""

import argparse
import json
import pathlib

import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DModel
from PIL import Image


def save(args):
    torch.manual_seed(0)
    if args.tiny:
        net = UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 64), norm_num_groups=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    else:
        net = UNet2DModel(
            sample_size=32, in_channels=3, out_channels=3, freq_shift=1, flip_sin_to_cos=False,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(128, 256, 256, 256), layers_per_block=2, downsample_padding=0,
            attention_head_dim=None, norm_num_groups=32, norm_eps=1e-6)
    net.save_pretrained(args.model)
    DPMSolverMultistepScheduler(num_train_timesteps=1000, beta_schedule="linear").save_pretrained(args.model)


@torch.no_grad()
def sample(args):
    if args.threads:
        torch.set_num_threads(args.threads)
    net = UNet2DModel.from_pretrained(args.model).eval()
    if args.dtype == "bf16-weights":
        net = net.to(torch.bfloat16).to(memory_format=torch.channels_last)
    scheduler = DPMSolverMultistepScheduler.from_pretrained(args.model)
    out = pathlib.Path(args.out)
    out.mkdir(exist_ok=True, parents=True)
    channels, size = net.config.in_channels, net.config.sample_size
    for start in range(0, args.images, args.batch):
        seeds = range(start, min(start + args.batch, args.images))
        x = torch.stack([
            torch.randn((channels, size, size), generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        scheduler.set_timesteps(args.steps)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
            for t in scheduler.timesteps:
                given = x.to(torch.bfloat16).to(memory_format=torch.channels_last) if args.dtype == "bf16-weights" else x
                eps = net(given, t).sample.float()
                x = scheduler.step(eps, t, x).prev_sample
        x = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for seed, image in zip(seeds, x):
            Image.fromarray(image.squeeze()).save(out / f"{seed:06d}.png")


parser = argparse.ArgumentParser()
parser.add_argument("what", choices=["save", "sample", "versions"])
parser.add_argument("--model")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--images", type=int, default=16)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--threads", type=int)
parser.add_argument("--dtype", choices=["f32", "bf16", "bf16-weights"], default="f32")
args = parser.parse_args()
if args.what == "versions":
    print(json.dumps({"torch": torch.__version__, "diffusers": diffusers.__version__}))
else:
    save(args) if args.what == "save" else sample(args)

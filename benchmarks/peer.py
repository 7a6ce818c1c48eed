"""The peer of `gen bench`: the same network in Python PyTorch, timed in the same way.

Prints one JSON object: images a second (median over repetitions), peak memory, start-up time.
"""

import time

START = time.perf_counter()

import argparse
import json
import pathlib
import resource
import statistics
import sys

import torch


def unet2d():
    """`google/ddpm-cifar10-32` (35.7 M parameters) from diffusers, random weights."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32, in_channels=3, out_channels=3, center_input_sample=False,
        time_embedding_type="positional", freq_shift=1, flip_sin_to_cos=False,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(128, 256, 256, 256), layers_per_block=2, mid_block_scale_factor=1,
        downsample_padding=0, act_fn="silu", attention_head_dim=None, norm_num_groups=32, norm_eps=1e-6,
    )


def versions():
    found = {"torch": torch.__version__}
    if "diffusers" in sys.modules:
        found["diffusers"] = sys.modules["diffusers"].__version__
    return found


def floor(args):
    """What the libraries below both programs reach on this machine in one large call: GFLOP/s of a 2048^3
    matrix product and of a 3x3 convolution of 256 channels at 16x16, channels-last."""
    kind = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    a = torch.randn(2048, 2048).to(kind)
    x = torch.randn(args.batch, 256, 16, 16).to(kind).to(memory_format=torch.channels_last)
    w = torch.randn(256, 256, 3, 3).to(kind).to(memory_format=torch.channels_last)
    calls = {
        "matmul": (lambda: a @ a, 2 * 2048**3),
        "conv": (lambda: torch.nn.functional.conv2d(x, w, padding=1), 2 * args.batch * 256 * 256 * 9 * 256),
    }
    out = {"who": "floor", "what": "floor", "dtype": args.dtype, "device": "cpu", "versions": versions(),
           "threads": torch.get_num_threads()}
    with torch.no_grad():
        for name, (call, flops) in calls.items():
            seconds = []
            for i in range(args.warmup + args.reps):
                start = time.perf_counter()
                call()
                if i >= args.warmup:
                    seconds.append(time.perf_counter() - start)
            out[f"{name}_gflops"] = flops / statistics.median(seconds) / 1e9
            out[f"{name}_seconds"] = seconds
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--net", choices=["unet2d", "digits"], default="unet2d")
    parser.add_argument("--what", choices=["forward", "train", "floor"], default="forward")
    parser.add_argument("--mode", choices=["eager", "compile"], default="eager")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    if args.what == "floor":
        print(json.dumps(floor(args)))
        return
    if args.net == "unet2d":
        net, shape = unet2d(), (3, 32, 32)

        def call(x, t):
            return compiled(x, t, return_dict=False)[0]
    else:
        sys.path.insert(0, str(pathlib.Path(__file__).parent / "digits"))
        from song_unet import digits

        net, shape = digits(), (1, 8, 8)

        def call(x, t):
            return compiled(x, t)

    net = net.to(args.device)
    if args.channels_last:
        net = net.to(memory_format=torch.channels_last)
    compiled = torch.compile(net) if args.mode == "compile" else net
    x = torch.randn(args.batch, *shape, device=args.device)
    if args.channels_last:
        x = x.to(memory_format=torch.channels_last)
    t = torch.linspace(1, 900, args.batch, device=args.device)
    eps = torch.randn_like(x)
    autocast = torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.dtype == "bf16")

    def sync():
        if args.device != "cpu":
            torch.cuda.synchronize()

    if args.what == "train":
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)

        def once():
            with autocast:
                loss = torch.nn.functional.mse_loss(call(x, t).float(), eps)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    else:
        net.eval()

        def once():
            with torch.no_grad(), autocast:
                call(x, t)

    for _ in range(args.warmup):
        once()
    sync()
    first = time.perf_counter() - START
    seconds = []
    for _ in range(args.reps):
        start = time.perf_counter()
        once()
        sync()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({
        "who": "pytorch", "net": args.net, "what": args.what, "mode": args.mode, "dtype": args.dtype,
        "channels_last": args.channels_last, "batch": args.batch, "device": args.device,
        "threads": torch.get_num_threads(), "parameters": sum(p.numel() for p in net.parameters()),
        "images_per_s": args.batch / statistics.median(seconds), "seconds": seconds, "ready_s": first,
        "versions": versions(),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))


main()

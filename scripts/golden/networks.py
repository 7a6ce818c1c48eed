#!/usr/bin/env python3
"""Makes tests/fixtures/networks/*.json: outputs of PyTorch networks whose weights follow from their names.

Needs torch, numpy and diffusers (versions are recorded in the files). No weight is stored: parameter K is
filled from SplitMix64 seeded with FNV-1a-64 of K, u in [0, 1) with 53 bits:
  two or more dimensions   (2u - 1) sqrt(3 / fan_in)
  norm weights             0.75 + 0.5 u
  everything else          0.2 (2u - 1), and `freqs` 4 (2u - 1)
Everything runs in f64 on the CPU (diffusers computes its sinusoids in f32).

UNet2DModel is diffusers' own; the DDPM++/NCSN++ network is written here from the papers (Song et al. 2021,
appendix H; Karras et al. 2022, appendix F), independently of the Rust code.
"""
import json
import math
import pathlib
import sys

import diffusers
import numpy as np
import torch
import torch.nn.functional as F

from formula import fnv, uniform as stream  # noqa: F401

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "networks"


def fill(name, shape):
    u = torch.from_numpy(stream(name, math.prod(shape))).reshape(shape)
    if len(shape) >= 2:
        return (2 * u - 1) * math.sqrt(3 / math.prod(shape[1:]))
    if name.endswith("freqs"):
        return 4 * (2 * u - 1)
    return 0.75 + 0.5 * u if name.endswith("weight") else 0.2 * (2 * u - 1)


def data(name, shape):
    return torch.from_numpy(2 * stream(name, math.prod(shape)) - 1).reshape(shape)


def record(name, y, tensors, **rest):
    flat = y.detach().double().flatten()
    every = max(1, flat.numel() // 96)
    out = {"versions": {"torch": torch.__version__, "diffusers": diffusers.__version__}, **rest}
    out |= {"tensors": tensors, "size": list(y.shape), "sum": flat.sum().item(), "norm": flat.norm().item()}
    out |= {"every": every, "values": flat[::every].tolist()}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(out) + "\n")
    print(name, len(tensors), out["sum"], out["norm"])


def unet2d(name, config, t, classes=None):
    net = diffusers.UNet2DModel(**config).double().eval()
    state = net.state_dict()
    net.load_state_dict({k: fill(k, list(v.shape)) for k, v in state.items()})
    size = config["sample_size"]
    x = data("x", [len(t), config["in_channels"], size, size])
    with torch.no_grad():
        labels = None if classes is None else torch.tensor(classes)
        y = net(x, torch.tensor(t), class_labels=labels).sample
    shapes = {k: list(v.shape) for k, v in state.items()}
    record(name, y, shapes, config={"_class_name": "UNet2DModel", **config}, t=t, classes=classes)


class Song:
    """The DDPM++/NCSN++ network, parameters made on first use."""

    def __init__(self, channels, res, base, mult, blocks, attn, fourier, encoder, decoder, taps, classes):
        self.__dict__.update(locals())
        self.noise = base * (2 if fourier else 1)
        self.tensors = {}
        f = torch.tensor(taps, dtype=torch.float64)
        self.fir = torch.outer(f, f) / f.sum() ** 2

    def p(self, name, *shape):
        self.tensors[name] = list(shape)
        return fill(name, list(shape))

    def filter(self, name):
        self.tensors[f"{name}.resample_filter"] = [1, 1, *self.fir.shape]

    def linear(self, name, x, out, bias=True):
        w = self.p(f"{name}.weight", out, x.shape[1])
        return F.linear(x, w, self.p(f"{name}.bias", out) if bias else None)

    def conv(self, name, x, out, k):
        w = self.p(f"{name}.weight", out, x.shape[1], k, k)
        return F.conv2d(x, w, self.p(f"{name}.bias", out), padding=k // 2)

    def norm(self, name, x):
        c = x.shape[1]
        w, b = self.p(f"{name}.weight", c), self.p(f"{name}.bias", c)
        return F.group_norm(x, min(32, c // 4), w, b, eps=1e-6)

    def blur(self, x, pad):
        c, k = x.shape[1], self.fir.shape[0]
        return F.conv2d(F.pad(x, pad), self.fir.expand(c, 1, k, k), groups=c)

    def down(self, x):  # pads ((p+1)//2, p//2) with p = k - 2, then every second pixel
        p = self.fir.shape[0] - 2
        return self.blur(x, [(p + 1) // 2, p // 2] * 2)[:, :, ::2, ::2]

    def up(self, x):  # zero insertion, pads ((p+1)//2+1, p//2) with p = k - 2, gain 4
        p = self.fir.shape[0] - 2
        b, c, h, w = x.shape
        z = torch.zeros(b, c, 2 * h, 2 * w, dtype=x.dtype)
        z[:, :, ::2, ::2] = x
        return 4 * self.blur(z, [(p + 1) // 2 + 1, p // 2] * 2)

    def block(self, name, x, emb, out, resample=None, attend=False):
        change = {"down": self.down, "up": self.up, None: lambda v: v}[resample]
        if resample:
            self.filter(f"{name}.conv0")
        h = self.conv(f"{name}.conv0", change(F.silu(self.norm(f"{name}.norm0", x))), out, 3)
        h = h + self.linear(f"{name}.affine", emb, out)[:, :, None, None]
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", h)), out, 3)
        short = x
        if resample or x.shape[1] != out:
            if resample:
                self.filter(f"{name}.skip")
            short = self.conv(f"{name}.skip", change(x), out, 1)
        x = (short + h) / math.sqrt(2)
        if attend:
            b, c, hh, ww = x.shape
            qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm2", x), 3 * c, 1).reshape(b, c, 3, hh * ww)
            q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
            w = torch.einsum("bcq,bck->bqk", q, k / math.sqrt(c)).softmax(-1)
            a = torch.einsum("bqk,bck->bcq", w, v).reshape(b, c, hh, ww)
            x = (x + self.conv(f"{name}.proj", a, c, 1)) / math.sqrt(2)
        return x

    def __call__(self, x, t, classes, augment):
        half = self.noise // 2
        if self.fourier:
            phase = 2 * math.pi * t[:, None] * self.p("map_noise.freqs", half)[None]
        else:
            phase = t[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / (half - 1))[None]
        emb = torch.cat([phase.sin(), phase.cos()], 1)
        if self.classes:
            hot = torch.stack([torch.eye(self.classes, dtype=torch.float64)[c] * (c >= 0) for c in classes])
            emb = emb + self.linear("map_label", hot * math.sqrt(self.classes), self.noise)
        if augment is not None:
            emb = emb + self.linear("map_augment", augment, self.noise, bias=False)
        emb = F.silu(self.linear("map_layer0", emb, 4 * self.base))
        emb = F.silu(self.linear("map_layer1", emb, 4 * self.base))
        skips, aux, h = [], x, x
        for level, m in enumerate(self.mult):
            r = self.res >> level
            if level == 0:
                h = self.conv(f"enc.{r}x{r}_conv", h, self.base, 3)
            else:
                h = self.block(f"enc.{r}x{r}_down", h, emb, h.shape[1], "down")
                if self.encoder == "skip":
                    self.filter(f"enc.{r}x{r}_aux_down")
                    aux = self.down(aux)
                    h = h + self.conv(f"enc.{r}x{r}_aux_skip", aux, h.shape[1], 1)
                if self.encoder == "residual":  # filter with margin k/2 + (taps-1)/2, then strided convolution
                    name = f"enc.{r}x{r}_aux_residual"
                    self.filter(name)
                    w = self.p(f"{name}.weight", h.shape[1], aux.shape[1], 3, 3)
                    pad = 1 + (self.fir.shape[0] - 1) // 2
                    low = F.conv2d(self.blur(aux, [pad] * 4), w, self.p(f"{name}.bias", h.shape[1]), stride=2)
                    h = aux = (h + low) / math.sqrt(2)
            skips.append(h)
            for i in range(self.blocks):
                h = self.block(f"enc.{r}x{r}_block{i}", h, emb, self.base * m, None, r in self.attn)
                skips.append(h)
        out = None
        for level, m in reversed(list(enumerate(self.mult))):
            r = self.res >> level
            if level == len(self.mult) - 1:
                h = self.block(f"dec.{r}x{r}_in0", h, emb, h.shape[1], None, True)
                h = self.block(f"dec.{r}x{r}_in1", h, emb, h.shape[1])
            else:
                h = self.block(f"dec.{r}x{r}_up", h, emb, h.shape[1], "up")
            for i in range(self.blocks + 1):
                attend = r in self.attn and i == self.blocks
                h = self.block(f"dec.{r}x{r}_block{i}", torch.cat([h, skips.pop()], 1), emb, self.base * m, None, attend)
            if self.decoder == "skip" or level == 0:
                if out is not None:
                    self.filter(f"dec.{r}x{r}_aux_up")
                    out = self.up(out)
                y = F.silu(self.norm(f"dec.{r}x{r}_aux_norm", h))
                y = self.conv(f"dec.{r}x{r}_aux_conv", y, self.channels, 3)
                out = y if out is None else out + y
        return out


def song(name, t, classes=None, augment=False, **c):
    net = Song(3, 16, 16, [1, 2], 1, [8], c["fourier"], c["encoder"], c["decoder"], c["taps"], 3 if classes else 0)
    x = data("x", [len(t), 3, 16, 16])
    labels = data("augment", [len(t), 9]) if augment else None
    y = net(x, torch.tensor(t, dtype=torch.float64), classes, labels)
    config = {"type": "song-unet", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.0}
    config |= {"attn_resolutions": [8], "channel_mult_noise": 2 if c["fourier"] else 1}
    config |= {"augment_dim": 9 if augment else 0, "embedding_type": "fourier" if c["fourier"] else "positional"}
    config |= {"encoder_type": c["encoder"], "decoder_type": c["decoder"], "resample_filter": c["taps"]}
    record(name, y, net.tensors, config=config, t=t, classes=classes)


CIFAR10 = dict(
    act_fn="silu", attention_head_dim=None, block_out_channels=[128, 256, 256, 256], center_input_sample=False,
    down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], downsample_padding=0,
    flip_sin_to_cos=False, freq_shift=1, in_channels=3, layers_per_block=2, mid_block_scale_factor=1, norm_eps=1e-6,
    norm_num_groups=32, out_channels=3, sample_size=32, time_embedding_type="positional",
    up_block_types=["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
)
SMALL = dict(
    attention_head_dim=8, block_out_channels=[16, 32], down_block_types=["DownBlock2D", "AttnDownBlock2D"],
    in_channels=1, layers_per_block=1, mid_block_scale_factor=math.sqrt(2), norm_num_groups=8, num_class_embeds=10,
    out_channels=1, resnet_time_scale_shift="scale_shift", sample_size=16, center_input_sample=True,
    up_block_types=["AttnUpBlock2D", "UpBlock2D"],
)

if __name__ == "__main__":
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    sys.stdout.reconfigure(line_buffering=True)
    song("song-standard", [3.0, 0.5], [1, -1], True, fourier=False, encoder="standard", decoder="standard", taps=[1, 1])
    song("song-residual", [-0.7, 0.4], fourier=True, encoder="residual", decoder="standard", taps=[1, 3, 3, 1])
    song("song-skip", [0.3, 1.1], [0, 2], fourier=True, encoder="skip", decoder="skip", taps=[1, 3, 3, 1])
    unet2d("unet2d-small", SMALL, [7, 650], [3, 9])
    unet2d("unet2d-cifar10", CIFAR10, [999, 10])

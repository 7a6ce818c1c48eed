"""The network of models/digits-edm in PyTorch: the DDPM++ U-Net of EDM (Karras et al. 2022, appendix F), written
from the paper with torch.nn layers, channels (32, 64), two blocks a level, attention at 4x4."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, inp, out, emb, resample=None, attend=False):
        super().__init__()
        self.resample = resample
        self.norm0 = nn.GroupNorm(min(32, inp // 4), inp, eps=1e-6)
        self.conv0 = nn.Conv2d(inp, out, 3, padding=1)
        self.affine = nn.Linear(emb, out)
        self.norm1 = nn.GroupNorm(min(32, out // 4), out, eps=1e-6)
        self.conv1 = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(inp, out, 1) if resample or inp != out else None
        if attend:
            self.norm2 = nn.GroupNorm(min(32, out // 4), out, eps=1e-6)
            self.qkv = nn.Conv2d(out, 3 * out, 1)
            self.proj = nn.Conv2d(out, out, 1)
        self.attend = attend

    def change(self, x):
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x

    def forward(self, x, emb):
        h = self.conv0(self.change(F.silu(self.norm0(x))))
        h = F.silu(self.norm1(h + self.affine(emb)[:, :, None, None]))
        h = self.conv1(h)
        short = self.skip(self.change(x)) if self.skip is not None else x
        x = (short + h) * math.sqrt(0.5)
        if self.attend:
            b, c, height, width = x.shape
            q, k, v = self.qkv(self.norm2(x)).reshape(b, 3, 1, c, height * width).transpose(3, 4).unbind(1)
            a = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, height, width)
            x = (x + self.proj(a)) * math.sqrt(0.5)
        return x


class SongUNet(nn.Module):
    def __init__(self, channels=1, resolution=8, width=32, mult=(1, 2), blocks=2, attention=(4,)):
        super().__init__()
        emb = 4 * width
        self.register_buffer("freqs", 10000 ** -(torch.arange(width // 2) / (width // 2 - 1)))
        self.map0, self.map1 = nn.Linear(width, emb), nn.Linear(emb, emb)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, now = [width], width
        for level, m in enumerate(mult):
            res = resolution >> level
            if level:
                self.down.append(Block(now, now, emb, resample="down"))
                skips.append(now)
            for _ in range(blocks):
                self.down.append(Block(now, width * m, emb, attend=res in attention))
                now = width * m
                skips.append(now)
        for level, m in reversed(list(enumerate(mult))):
            res = resolution >> level
            if level == len(mult) - 1:
                self.up += [Block(now, now, emb, attend=True), Block(now, now, emb)]
            else:
                self.up.append(Block(now, now, emb, resample="up"))
            for i in range(blocks + 1):
                block = Block(now + skips.pop(), width * m, emb, attend=res in attention and i == blocks)
                block.takes_skip = True
                self.up.append(block)
                now = width * m
        self.norm = nn.GroupNorm(min(32, now // 4), now, eps=1e-6)
        self.last = nn.Conv2d(now, channels, 3, padding=1)

    def forward(self, x, t):
        phase = t[:, None] * self.freqs
        emb = F.silu(self.map1(F.silu(self.map0(torch.cat([phase.sin(), phase.cos()], 1)))))
        h = self.first(x)
        skips = [h]
        for block in self.down:
            h = block(h, emb)
            skips.append(h)
        for block in self.up:
            if getattr(block, "takes_skip", False):
                h = torch.cat([h, skips.pop()], 1)
            h = block(h, emb)
        return self.last(F.silu(self.norm(h)))


def digits():
    return SongUNet()

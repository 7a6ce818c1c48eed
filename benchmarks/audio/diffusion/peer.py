#!/usr/bin/env python3
"""One training step of the networks of models/diffwave-small and models/diffwave-sashimi-small in eager PyTorch.

    python3 peer.py diffwave|sashimi [--batch N] [--length L] [--rounds N] [--device cpu|cuda]

Forward, mean squared error, backward and AdamW, on random waveforms; prints one JSON line with the median in ms.
Written from the papers' formulas. The kernels of the state-space layers come from the Cauchy form of the generating
function, as published, a few channels at a time so that they fit into memory.
"""
import argparse
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


def conv(i, o, k=1, d=1):
    return nn.utils.parametrizations.weight_norm(nn.Conv1d(i, o, k, dilation=d, padding=d * (k // 2)))


def zero(i):
    layer = nn.Conv1d(i, 1, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(128, 512), nn.Linear(512, 512)
        self.register_buffer("f", torch.exp(-torch.arange(64) * math.log(10000) / 63))

    def forward(self, t):
        phase = t[:, None] * self.f
        return F.silu(self.b(F.silu(self.a(torch.cat([phase.sin(), phase.cos()], 1)))))


class WaveBlock(nn.Module):
    def __init__(self, r, s, d):
        super().__init__()
        self.fc, self.dilated, self.res, self.skip = nn.Linear(512, r), conv(r, 2 * r, 3, d), conv(r, r), conv(r, s)

    def forward(self, x, e):
        a, b = self.dilated(x + self.fc(e)[:, :, None]).chunk(2, 1)
        z = torch.tanh(a) * torch.sigmoid(b)
        return (x + self.res(z)) * math.sqrt(0.5), self.skip(z)


class DiffWave(nn.Module):
    def __init__(self, r=128, s=256, n=30, cycle=10):
        super().__init__()
        self.first, self.step = conv(1, r), Step()
        self.blocks = nn.ModuleList(WaveBlock(r, s, 2 ** (k % cycle)) for k in range(n))
        self.head = nn.Sequential(conv(s, s), nn.ReLU(), zero(s))

    def forward(self, x, t):
        x, e, total = F.relu(self.first(x)), self.step(t), 0
        for block in self.blocks:
            x, skip = block(x, e)
            total = total + skip
        return self.head(total * len(self.blocks) ** -0.5)


class S4(nn.Module):
    def __init__(self, h, n=32, part=8):
        super().__init__()
        self.part = part
        self.log_dt = nn.Parameter(math.log(1e-3) + math.log(100) * torch.rand(h))
        self.real = nn.Parameter(torch.full((h, n), math.log(0.5)))
        self.imag = nn.Parameter(-math.pi * torch.arange(n).repeat(h, 1))
        self.b, self.p, self.c = (nn.Parameter(torch.randn(*s, h, n, 2)) for s in ([1], [1], [2]))
        self.d = nn.Parameter(torch.randn(h))

    def kernel(self, length, log_dt, real, imag, b, p, c):
        dt = log_dt.exp()[:, None]
        b, p, c = (torch.view_as_complex(v.contiguous()) for v in (b, p, c))
        poles = dt * torch.complex(-real.exp(), imag)
        om = torch.exp(-2j * math.pi * torch.arange(length // 2 + 1, device=dt.device) / length)
        den = 2 * (1 - om) - (1 + om) * poles[..., None]
        other = 2 * (1 - om) - (1 + om) * poles.conj()[..., None]

        def cauchy(v):
            v = (dt * v)[..., None]
            return (v / den + v.conj() / other).sum(-2)

        r01, r11 = cauchy(b * p.conj()), cauchy(p * p.conj())
        k = 2 * (cauchy(b * c) - (1 + om) * r01 * cauchy(p * c) / (1 + (1 + om) * r11))
        return torch.fft.irfft(k, n=length)

    def forward(self, u):
        length = u.shape[-1]
        parts = zip(*(v.split(self.part, dim) for v, dim in (
            (self.log_dt, 0), (self.real, 0), (self.imag, 0), (self.b, 1), (self.p, 1), (self.c, 1))))
        k = torch.cat([checkpoint(self.kernel, length, *part, use_reentrant=False) for part in parts], 1)
        k = F.pad(k[0], (0, length)) + F.pad(k[1].flip(-1), (length, 0))
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(k, n=2 * length))[..., :length]
        return y + u * self.d[:, None]


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.m, self.s = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))

    def forward(self, x):
        std, mean = torch.std_mean(x, dim=1, unbiased=False, keepdim=True)
        return (self.s / (std + 1e-8)) * (x - mean + self.m)


class Unit(nn.Module):
    def __init__(self, h):
        super().__init__()
        self.fc, self.layer, self.mix = nn.Linear(512, h), S4(h), nn.Conv1d(h, 2 * h, 1)
        self.ff, self.norms = nn.Sequential(conv(h, 2 * h), nn.GELU(), conv(2 * h, h)), nn.ModuleList([Norm(), Norm()])

    def forward(self, x, e):
        x = x + F.glu(self.mix(F.gelu(self.layer(self.norms[0](x) + self.fc(e)[:, :, None]))), 1)
        return x + self.ff(self.norms[1](x))


class Pool(nn.Module):
    def __init__(self, i, o, p, up):
        super().__init__()
        self.p, self.up, self.linear = p, up, conv(i, o * p) if up else conv(i * p, o)

    def forward(self, x, e):
        if self.up:
            y = self.linear(x)
            return y.unflatten(1, (-1, self.p)).transpose(2, 3).flatten(2)
        return self.linear(x.unflatten(2, (-1, self.p)).transpose(2, 3).flatten(1, 2))


class Sashimi(nn.Module):
    def __init__(self, h=64, n=6, pool=(4, 4)):
        super().__init__()
        self.first, self.step, self.norm = conv(1, h), Step(), Norm()
        self.head = nn.Sequential(conv(h, h), nn.ReLU(), zero(h))
        down, up = [], []
        for p in pool:
            down += [Unit(h) for _ in range(n)] + [Pool(h, 2 * h, p, False)]
            up = [Pool(2 * h, h, p, True)] + [Unit(h) for _ in range(n)] + up
            h *= 2
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.centre = nn.ModuleList(Unit(h) for _ in range(n))

    def forward(self, x, t):
        x, e, skips = F.relu(self.first(x)), self.step(t), []
        for layer in self.down:
            skips.append(x)
            x = layer(x, e)
        before = x
        for layer in self.centre:
            x = layer(x, e)
        x = x + before
        for layer in self.up:
            x = layer(x, e) + skips.pop()
        return self.head(self.norm(x))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("network", choices=["diffwave", "sashimi"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=16000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    net = {"diffwave": DiffWave, "sashimi": Sashimi}[args.network]().to(args.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    x = torch.randn(args.batch, 1, args.length, device=args.device)
    t = torch.rand(args.batch, device=args.device) * 199
    times = []
    for i in range(args.rounds + 1):
        start = time.perf_counter()
        F.mse_loss(net(x, t), x).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if args.device != "cpu":
            torch.cuda.synchronize()
        if i > 0:  # the first step is not counted
            times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"program": f"torch {torch.__version__} eager", "network": args.network, "batch": args.batch,
                      "length": args.length, "ms": statistics.median(times),
                      "parameters": sum(p.numel() for p in net.parameters())}))


if __name__ == "__main__":
    main()

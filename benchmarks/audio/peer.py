#!/usr/bin/env python3
"""The U-Net SaShiMi with 6.8 M parameters in eager PyTorch, written from its formulas: what step.rs is timed against.

    peer.py step BATCH STEPS            generated samples per second
    peer.py train BATCH STEPS [LENGTH]  training steps per second

Stepping keeps the linear form of the recurrence, O(N) per feature, with everything that does not change computed once;
training computes the kernels by the Cauchy form from the row of the finite kernel, as published code does. Prints one JSON object.
"""
import json
import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.m, self.s = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))

    def forward(self, x):
        std, mean = torch.std_mean(x, dim=-1, unbiased=False, keepdim=True)
        return (self.s / std) * (x - mean + self.m)


class S4(nn.Module):
    """y = K * u + D u, then GELU, a linear map and GLU; x [B, L, H]."""

    def __init__(self, h, n=64):
        super().__init__()
        self.h, self.half = h, n // 2
        k = torch.arange(n // 2) * 1.0
        self.inv_dt = nn.Parameter(torch.rand(h, 1) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        self.a_real = nn.Parameter(torch.full((h, n // 2), math.log(0.5)))
        self.a_imag = nn.Parameter((math.pi * k).repeat(h, 1))
        self.b, self.c, self.p = (nn.Parameter(torch.randn(h, n // 2, 2) * s) for s in (1.0, 0.7, 0.7))
        self.d = nn.Parameter(torch.randn(h))
        self.out = nn.Linear(h, 2 * h)

    def parts(self):
        a = torch.complex(-self.a_real.exp(), -self.a_imag)
        return a, *(torch.view_as_complex(v) for v in (self.b, self.c, self.p)), self.inv_dt.exp()

    def ready(self):
        a, b, c, p, dt = self.parts()
        e = 1 / (1 - dt / 2 * a)
        g = 1 + dt / 2 * 2 * (p.conj() * e * p).real.sum(-1, keepdim=True)
        beta = dt * 2 * (p.conj() * e * b).real.sum(-1, keepdim=True)
        self.diagonal, self.column = (1 + dt / 2 * a) * e, dt / 2 * e * p
        self.row = 2 * p.conj() * e / g
        self.input, self.output = dt * e * b - self.column * beta / g, c

    def step(self, u, x):
        s = 2 * (self.row * x).real.sum(-1, keepdim=True)
        x = self.diagonal * x - self.column * s + self.input * u.unsqueeze(-1)
        y = 2 * (self.output * x).real.sum(-1) + self.d * u
        return F.glu(self.out(F.gelu(y)), -1), x

    def kernel(self, length):
        a, b, c, p, dt = self.parts()
        omega = torch.exp(-2j * math.pi * torch.arange(length // 2 + 1, dtype=torch.double) / length).to(a.dtype)
        a, b, c, p = (torch.cat([v, v.conj()], -1) for v in (a, b, c, p))
        weights = 1 / (2 * (1 - omega) - (1 + omega) * (dt * a).unsqueeze(-1))
        q = torch.stack([b * c, b * p.conj(), p * c, p * p.conj()], 1) * dt.unsqueeze(-1)
        r = q @ weights
        hat = 2 * (r[:, 0] - (1 + omega) * r[:, 1] * r[:, 2] / (1 + (1 + omega) * r[:, 3]))
        return torch.fft.irfft(hat, n=length)

    def forward(self, x):
        u = x.transpose(1, 2)
        length = u.shape[-1]
        spectrum = torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(self.kernel(length), n=2 * length)
        y = torch.fft.irfft(spectrum, n=2 * length)[..., :length] + self.d.unsqueeze(-1) * u
        return F.glu(self.out(F.gelu(y).transpose(1, 2)), -1)


class FeedForward(nn.Module):
    def __init__(self, h):
        super().__init__()
        self.a, self.b = nn.Linear(h, 2 * h), nn.Linear(2 * h, h)

    def forward(self, x):
        return self.b(F.gelu(self.a(x)))

    def step(self, x, state):
        return self.forward(x), state


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.norm, self.inner = Norm(), inner

    def forward(self, x):
        return x + self.inner(self.norm(x))

    def step(self, x, state):
        y, state = self.inner.step(self.norm(x), state)
        return x + y, state


class Level(nn.Module):
    def __init__(self, h, n, pools):
        super().__init__()
        run = lambda: nn.ModuleList(Residual(f(h)) for _ in range(n) for f in (S4, FeedForward))
        self.down, self.factor = run(), pools[0] if pools else 0
        if pools:
            self.coarser, self.finer = nn.Linear(h * pools[0], 2 * h), nn.Linear(2 * h, h * pools[0])
            self.below, self.up = Level(2 * h, n, pools[1:]), run()

    def forward(self, x):
        first, outs = x, [x]
        for layer in self.down:
            x = layer(x)
            outs.append(x)
        if not self.factor:
            return x + first
        b, length, h = x.shape
        coarse = self.coarser(x.view(b, -1, self.factor, h).transpose(2, 3).flatten(2))
        y = F.pad(self.finer(self.below(coarse))[:, :-1], (0, 0, 1, 0))
        x = y.view(b, -1, h, self.factor).transpose(2, 3).reshape(b, length, h) + outs.pop()
        for layer in self.up:
            x = layer(x) + outs.pop()
        return x

    def begin(self, batch):
        state = lambda layers: [torch.zeros(batch, l.inner.h, l.inner.half, dtype=torch.cfloat)
                                if isinstance(l.inner, S4) else None for l in layers]
        self.states = [state(self.down), state(self.up) if self.factor else []]
        if self.factor:
            self.group = []
            self.pending = torch.zeros(batch, self.finer.out_features // self.factor, self.factor)
            self.below.begin(batch)

    def step(self, x):
        first, outs = x, [x]
        for i, layer in enumerate(self.down):
            x, self.states[0][i] = layer.step(x, self.states[0][i])
            outs.append(x)
        if not self.factor:
            return x + first
        delayed = self.pending[..., len(self.group)]
        self.group.append(x)
        if len(self.group) == self.factor:
            y = self.below.step(self.coarser(torch.stack(self.group, -1).flatten(1)))
            self.group, self.pending = [], self.finer(y).view(*self.pending.shape)
        x = delayed + outs.pop()
        for i, layer in enumerate(self.up):
            x, self.states[1][i] = layer.step(x, self.states[1][i])
            x = x + outs.pop()
        return x


class Sashimi(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.level = nn.Embedding(256, 64), Level(64, 8, [4, 4])
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 256)

    def forward(self, x):
        return self.head(self.norm(self.level(self.embedding(x))))

    def step(self, x):
        return self.head(self.norm(self.level.step(self.embedding(x))))


def main():
    mode, batch, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.manual_seed(0)
    model = Sashimi()
    if mode == "step":
        with torch.inference_mode():
            for module in model.modules():
                if isinstance(module, S4):
                    module.ready()
            model.level.begin(batch)
            x = torch.full((batch,), 128)
            for i in range(steps + 32):
                if i == 32:
                    start = time.perf_counter()
                x = model.step(x).argmax(-1)
            seconds, count = time.perf_counter() - start, batch * steps
    else:
        length = int(sys.argv[4]) if len(sys.argv) > 4 else 16000
        x = torch.randint(256, (batch, length))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        for i in range(steps + 1):
            if i == 1:
                start = time.perf_counter()
            optimizer.zero_grad()
            F.cross_entropy(model(x).flatten(0, 1), x.flatten()).backward()
            optimizer.step()
        seconds, count = time.perf_counter() - start, steps
    print(json.dumps({"mode": mode, "batch": batch, "steps": steps, "threads": torch.get_num_threads(),
                      "parameters": sum(p.numel() for p in model.parameters()), "per_second": round(count / seconds, 4)}))


if __name__ == "__main__":
    main()

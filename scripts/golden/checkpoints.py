#!/usr/bin/env python3
"""Makes tests/fixtures/checkpoints: checkpoints in the layouts of EDM, score_sde, DiT and SiT with tiny networks,
and what each of them makes of a noisy image.

The networks are written here from the papers and the layouts' descriptions, independently of the Rust code; the
DDPM++/NCSN++ network of the EDM files is that of networks.py, a diffusers DiT is diffusers' own. For every file
NAME there is NAME.json: process times `t`, classes, and the denoised images for the input of networks.py's `data`.

Weights follow from their names (networks.py) and are rounded to f16, which the files hold. To keep files small,
the tensors of the zip checkpoints are views of one storage.
"""
import argparse
import collections
import json
import math
import pickle
import sys
import types

import diffusers
import torch
import torch.nn.functional as F

import networks
from networks import data, stream

OUT = networks.OUT.parent / "checkpoints"
F64 = torch.float64


def rounded(fill):
    return lambda name, shape: fill(name, shape).half().double()


networks.fill = rounded(networks.fill)
fill = networks.fill


class Values:
    """Tensors by name and shape, in f16. With `size` they are views of one storage of so many values, and the weights
    of norms of another, at places that follow from their names."""

    def __init__(self, size=0, gain=0.15):
        self.base = torch.from_numpy(gain * (2 * stream("base", size) - 1)).half()
        self.norms = torch.from_numpy(0.75 + 0.5 * stream("norms", 1024)).half()

    def __call__(self, name, shape):
        n = math.prod(shape)
        if len(self.base) == 0 or name.endswith(".0.W"):
            return fill(name, shape).half()
        base = self.norms if len(shape) == 1 and name.endswith("weight") else self.base
        start = networks.fnv(name) % (len(base) - n + 1)
        return base[start : start + n].view(shape)


def note(name, x0, t, **rest):
    flat = x0.detach().double().flatten()
    out = {"versions": {"torch": torch.__version__, "diffusers": diffusers.__version__}, "t": t, **rest}
    out |= {"shape": list(x0.shape[1:]), "norm": flat.norm().item()}
    every = max(1, flat.numel() // 64)
    out |= {"every": every, "values": flat[::every].tolist()}
    (OUT / f"{name}.json").write_text(json.dumps(out) + "\n")
    print(name, list(x0.shape), out["norm"])


# EDM: pickled objects with their source text.

persistence = types.ModuleType("torch_utils.persistence")


def _reconstruct_persistent_obj(meta):
    raise RuntimeError("never called")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
_reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
sys.modules["torch_utils"] = types.ModuleType("torch_utils")
sys.modules["torch_utils.persistence"] = persistence


class Persistent(torch.nn.Module):
    """Pickles as an object of class `kind` of NVlabs' persistence does."""

    def __init__(self, kind, kwargs, **attributes):
        super().__init__()
        self.__dict__["kind"] = kind
        for key, value in attributes.items():
            setattr(self, key, value)
        self._init_args = ()
        self._init_kwargs = kwargs

    def __reduce__(self):
        state = {k: v for k, v in self.__dict__.items() if k != "kind"}
        text = f"raise SystemExit('the source of {self.kind} was run')\n"
        meta = dict(type="class", version=6, module_src=text, class_name=self.kind, state=state)
        return (_reconstruct_persistent_obj, (meta,), None)


def grow(root, name, tensor, trained):
    """Puts a tensor at a dotted name below a module."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            inner = torch.nn.ModuleDict() if part in ("enc", "dec") else Persistent("Part", {})
            root.add_module(part, inner)
        root = root._modules[part]
    if trained:
        root.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
    else:
        root.register_buffer(leaf, tensor)


def edm(name, kind, net, net_class, options, attributes, t, classes, scalings):
    """Runs `net` on its own x within the scalings (skip, out, input, noise) of each sigma, and writes the pickle."""
    side, channels = options["img_resolution"], options["in_channels"]
    x = data("x", [len(t), channels, side, side]) * 2
    rows = [torch.tensor(v, dtype=F64).reshape(-1, 1, 1, 1) for v in zip(*[scalings(s) for s in t])]
    skip, out, scale, noise = rows
    y = net(x * scale, noise.flatten(), classes, None)[:, :channels]
    inner = Persistent(net_class, options, img_resolution=side, label_dim=options["label_dim"])
    for key, shape in net.tensors.items():
        if key.endswith("resample_filter"):
            grow(inner, key, net.fir.reshape(shape).half(), False)
        else:
            grow(inner, key, fill(key, shape).half(), not key.endswith("freqs"))
    outer = Persistent(kind, {"img_resolution": side, "img_channels": channels}, use_fp16=False, **attributes)
    outer.add_module("model", inner)
    snapshot = dict(ema=outer.eval(), loss_fn=Persistent("EDMLoss", {}), augment_pipe=None, dataset_kwargs={"path": "x"})
    with open(OUT / f"{name}.pkl", "wb") as file:
        pickle.dump(snapshot, file)
    note(name, skip * x + out * y, t, classes=classes, scale=2.0)


class Adm(networks.Song):
    """The U-Net of ADM in EDM's form."""

    def __init__(self, channels, out, res, base, mult, blocks, attn, classes):
        super().__init__(channels, res, base, mult, blocks, attn, False, None, None, [1, 1], classes)
        self.out = out

    def norm(self, name, x):
        c = x.shape[1]
        w, b = self.p(f"{name}.weight", c), self.p(f"{name}.bias", c)
        return F.group_norm(x, min(32, c // 4), w, b, eps=1e-5)

    def block(self, name, x, emb, out, resample=None, attend=False):
        change = {"down": self.down, "up": self.up, None: lambda v: v}[resample]
        if resample:
            self.filter(f"{name}.conv0")
        h = self.conv(f"{name}.conv0", change(F.silu(self.norm(f"{name}.norm0", x))), out, 3)
        scale, shift = self.linear(f"{name}.affine", emb, 2 * out)[:, :, None, None].chunk(2, 1)
        h = F.silu(self.norm(f"{name}.norm1", h) * (1 + scale) + shift)
        h = self.conv(f"{name}.conv1", h, out, 3)
        if resample:
            self.filter(f"{name}.skip")
        short = change(x)
        if x.shape[1] != out:
            short = self.conv(f"{name}.skip", short, out, 1)
        x = short + h
        if attend and out >= 64:  # heads of 64 channels
            b, c, hh, ww = x.shape
            n = c // 64
            qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm2", x), 3 * c, 1)
            q, k, v = qkv.reshape(b * n, c // n, 3, hh * ww).unbind(2)
            w = torch.einsum("bcq,bck->bqk", q, k / math.sqrt(c // n)).softmax(-1)
            a = torch.einsum("bqk,bck->bcq", w, v).reshape(b, c, hh, ww)
            x = x + self.conv(f"{name}.proj", a, c, 1)
        return x

    def __call__(self, x, t, classes, augment):
        half = self.base // 2
        phase = t[:, None] * 10000.0 ** (-torch.arange(half, dtype=F64) / half)[None]
        emb = torch.cat([phase.cos(), phase.sin()], 1)
        emb = F.silu(self.linear("map_layer0", emb, 4 * self.base))
        emb = self.linear("map_layer1", emb, 4 * self.base)
        if self.classes:
            hot = torch.stack([torch.eye(self.classes, dtype=F64)[c] * (c >= 0) for c in classes])
            emb = emb + self.linear("map_label", hot, 4 * self.base, bias=False)
        emb = F.silu(emb)
        skips, h = [], x
        for level, m in enumerate(self.mult):
            r = self.res >> level
            if level == 0:
                h = self.conv(f"enc.{r}x{r}_conv", h, self.base * m, 3)
            else:
                h = self.block(f"enc.{r}x{r}_down", h, emb, h.shape[1], "down")
            skips.append(h)
            for i in range(self.blocks):
                h = self.block(f"enc.{r}x{r}_block{i}", h, emb, self.base * m, None, r in self.attn)
                skips.append(h)
        for level, m in reversed(list(enumerate(self.mult))):
            r = self.res >> level
            if level == len(self.mult) - 1:
                h = self.block(f"dec.{r}x{r}_in0", h, emb, h.shape[1], None, True)
                h = self.block(f"dec.{r}x{r}_in1", h, emb, h.shape[1])
            else:
                h = self.block(f"dec.{r}x{r}_up", h, emb, h.shape[1], "up")
            for i in range(self.blocks + 1):
                h = torch.cat([h, skips.pop()], 1)
                h = self.block(f"dec.{r}x{r}_block{i}", h, emb, self.base * m, None, r in self.attn)
        return self.conv("out_conv", F.silu(self.norm("out_norm", h)), self.out, 3)


def adm_network():
    """The network by itself, as networks.py has its own: too large for a file."""
    net = Adm(3, 3, 8, 64, [1, 2], 1, [4], 3)
    t = [-0.7, 0.4]
    y = net(data("x", [2, 3, 8, 8]), torch.tensor(t, dtype=F64), [1, -1], None)
    config = {"type": "adm", "model_channels": 64, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
    networks.record("adm", y, net.tensors, config=config, t=t, classes=[1, -1])


def edm_files():
    def plain(sigma_data):
        def at(s):
            total = s * s + sigma_data**2
            return sigma_data**2 / total, s * sigma_data / math.sqrt(total), 1 / math.sqrt(total), math.log(s) / 4
        return at

    song = dict(img_resolution=8, in_channels=3, out_channels=3, label_dim=3, model_channels=8, channel_mult=[1, 1],
                num_blocks=1, attn_resolutions=[], embedding_type="fourier", encoder_type="residual",
                decoder_type="standard", channel_mult_noise=2, resample_filter=[1, 3, 3, 1], augment_dim=0, dropout=0.05)
    net = networks.Song(3, 8, 8, [1, 1], 1, [], True, "residual", "standard", [1, 3, 3, 1], 3)
    facts = dict(img_resolution=8, img_channels=3, label_dim=3, sigma_min=0, sigma_max=float("inf"), sigma_data=0.6)
    edm("edm-ncsnpp", "EDMPrecond", net, "SongUNet", song, facts, [0.05, 3.0], [1, -1], plain(0.6))

    # VP: noise index 999 t(sigma), D = x - sigma F(x / sqrt(1 + sigma^2)).
    def vp(s):
        t = (math.sqrt(0.1**2 + 2 * 19.9 * math.log(1 + s * s)) - 0.1) / 19.9
        return 1.0, -s, 1 / math.sqrt(s * s + 1), 999 * t

    song = dict(img_resolution=8, in_channels=1, out_channels=1, label_dim=0, model_channels=8, channel_mult=[1, 1],
                num_blocks=1, attn_resolutions=[4])
    net = networks.Song(1, 8, 8, [1, 1], 1, [4], False, "standard", "standard", [1, 1], 0)
    facts = dict(img_resolution=8, beta_d=19.9, beta_min=0.1, M=1000, epsilon_t=1e-5, sigma_min=0.001, sigma_max=152.2)
    edm("edm-vp", "VPPrecond", net, "SongUNet", song, facts, [0.05, 3.0], None, vp)

    # ADM within the cosine schedule: D = x - sigma F(...), index 999 - j of the level u_j next to sigma.
    u = [0.0] * 1001
    bar = lambda j: math.sin(math.pi / 2 * j / 1000 / 1.008) ** 2
    for j in range(1000, 0, -1):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(bar(j - 1) / bar(j), 0.001) - 1)

    def iddpm(s):
        j = min(range(1001), key=lambda j: abs(u[j] - s))
        return 1.0, -s, 1 / math.sqrt(s * s + 1), 999 - j

    adm = dict(img_resolution=4, in_channels=2, out_channels=4, label_dim=3, model_channels=8, channel_mult=[1, 1],
               num_blocks=1, attn_resolutions=[2], augment_dim=0, dropout=0.1)
    net = Adm(2, 4, 4, 8, [1, 1], 1, [2], 3)
    facts = dict(img_resolution=4, img_channels=2, label_dim=3, C_1=0.001, C_2=0.008, M=1000, sigma_min=0.008, sigma_max=2e4)
    edm("edm-adm", "iDDPMPrecond", net, "DhariwalUNet", adm, facts, [u[700], u[300]], [0, 2], iddpm)


# score_sde: one flat list of modules.


class ScoreSde:
    """DDPM, DDPM++ and NCSN++ in score_sde's layout; parameters are made on first use, which is their order."""

    def __init__(self, kind, base, mult, blocks, attn, side, values, channels=3, image="none", out="none"):
        self.__dict__.update(locals())
        self.taps = [1, 3, 3, 1] if kind == "ncsnpp" else [1, 1]
        self.groups = (lambda c: 32) if kind == "ddpm" else (lambda c: min(32, c // 4))
        self.tensors = {}

    def p(self, name, *shape):
        name = f"{self.k}.{name}"
        self.tensors.setdefault(name, list(shape))
        return self.values("ema." + name, list(shape)).double()

    def linear(self, name, x, out):
        w, b = self.p(f"{name}weight", out, x.shape[1]), self.p(f"{name}bias", out)
        return F.linear(x, w, b)

    def conv(self, name, x, out, k, stride=1, padding=None):
        w, b = self.p(f"{name}weight", out, x.shape[1], k, k), self.p(f"{name}bias", out)
        return F.conv2d(x, w, b, stride=stride, padding=k // 2 if padding is None else padding)

    def norm(self, name, x):
        c = x.shape[1]
        w, b = self.p(f"{name}weight", c), self.p(f"{name}bias", c)
        return F.group_norm(x, self.groups(c), w, b, eps=1e-6)

    def nin(self, name, x, out):
        w, b = self.p(f"{name}.W", x.shape[1], out), self.p(f"{name}.b", out)
        return torch.einsum("bihw,io->bohw", x, w) + b[:, None, None]

    def filter(self, x, pad):
        f = torch.tensor(self.taps, dtype=F64)
        f = torch.outer(f, f) / f.sum() ** 2
        c = x.shape[1]
        return F.conv2d(F.pad(x, pad), f.expand(c, 1, *f.shape), groups=c)

    def down(self, x):
        p = len(self.taps) - 2
        return self.filter(x, [(p + 1) // 2, p // 2] * 2)[:, :, ::2, ::2]

    def up(self, x):
        p = len(self.taps) - 2
        b, c, h, w = x.shape
        z = torch.zeros(b, c, 2 * h, 2 * w, dtype=x.dtype)
        z[:, :, ::2, ::2] = x
        return 4 * self.filter(z, [(p + 1) // 2 + 1, p // 2] * 2)

    def res(self, x, temb, out, resample=None):
        h = F.silu(self.norm_("GroupNorm_0", x))
        if resample:
            h, x = resample(h), resample(x)
        h = self.conv("Conv_0.", h, out, 3)
        h = h + self.linear("Dense_0.", F.silu(temb), out)[:, :, None, None]
        h = self.conv("Conv_1.", F.silu(self.norm_("GroupNorm_1", h)), out, 3)
        if self.kind == "ddpm":
            x = self.nin("NIN_0", x, out) if x.shape[1] != out else x
            y = x + h
        else:
            x = self.conv("Conv_2.", x, out, 1) if x.shape[1] != out or resample else x
            y = (x + h) / math.sqrt(2)
        self.k += 1
        return y

    def norm_(self, name, x):
        return self.norm(f"{name}.", x)

    def attention(self, x):
        b, c, h, w = x.shape
        y = self.norm_("GroupNorm_0", x)
        q, k, v = [self.nin(f"NIN_{i}", y, c).flatten(2) for i in range(3)]
        a = torch.einsum("bcq,bck->bqk", q, k / math.sqrt(c)).softmax(-1)
        y = self.nin("NIN_3", torch.einsum("bqk,bck->bcq", a, v).reshape(b, c, h, w), c)
        self.k += 1
        return x + y if self.kind == "ddpm" else (x + y) / math.sqrt(2)

    def one(self, layer, *args):
        y = layer("", *args)
        self.k += 1
        return y

    def __call__(self, x, t, fourier):
        """The raw output; `t` is a label, or the noise level of a Fourier network."""
        self.k = 0
        if fourier:
            phase = 2 * math.pi * t.log()[:, None] * self.p("W", self.base)[None] * 16
            temb = torch.cat([phase.sin(), phase.cos()], 1)
            self.k += 1
        else:
            half = self.base // 2
            phase = t[:, None] * 10000.0 ** (-torch.arange(half, dtype=F64) / (half - 1))[None]
            temb = torch.cat([phase.sin(), phase.cos()], 1)
        temb = self.one(self.linear, temb, 4 * self.base)
        temb = self.one(self.linear, F.silu(temb), 4 * self.base)
        h, aux = self.one(self.conv, x, self.base, 3), x
        skips = [h]
        for level, m in enumerate(self.mult):
            for _ in range(self.blocks):
                h = self.res(h, temb, self.base * m)
                if self.side >> level in self.attn:
                    h = self.attention(h)
                skips.append(h)
            if level + 1 < len(self.mult):
                h, aux = self.smaller(h, aux, temb)
                skips.append(h)
        h = self.res(h, temb, h.shape[1])
        h = self.attention(h)
        h = self.res(h, temb, h.shape[1])
        picture = None
        for level, m in reversed(list(enumerate(self.mult))):
            for _ in range(self.blocks + 1):
                h = self.res(torch.cat([h, skips.pop()], 1), temb, self.base * m)
            if self.side >> level in self.attn:
                h = self.attention(h)
            if self.out == "skip":
                y = self.one(self.norm, h)
                y = self.one(self.conv, F.silu(y), self.channels, 3)
                picture = y if picture is None else self.up(picture) + y
            if level > 0 and self.kind == "ddpm":
                h = self.one(lambda _, v: self.conv("Conv_0.", v.repeat_interleave(2, 2).repeat_interleave(2, 3), v.shape[1], 3), h)
            elif level > 0:
                h = self.res(h, temb, h.shape[1], self.up)
        if picture is not None:
            return picture
        h = F.silu(self.one(self.norm, h))
        return self.one(self.conv, h, self.channels, 3)

    def smaller(self, h, aux, temb):
        if self.kind == "ddpm":
            pad = lambda _, v: self.conv("Conv_0.", F.pad(v, [0, 1, 0, 1]), v.shape[1], 3, 2, 0)
            return self.one(pad, h), aux
        h = self.res(h, temb, h.shape[1], self.down)
        if self.image == "residual":  # pads by (2, 2), filters, convolves with stride 2 and no padding
            aux = self.one(lambda _, v: self.conv("Conv2d_0.", self.filter(v, [2, 2] * 2), h.shape[1], 3, 2, 0), aux)
            h = aux = (aux + h) / math.sqrt(2)
        if self.image == "skip":
            aux = self.down(aux)
            h = h + self.one(lambda _, v: self.conv("Conv_0.", v, h.shape[1], 1), aux)
        return h, aux


def score_sde(name, kind, base, mult, attn, side, t, process, fourier=False, values=Values(10_000), **rest):
    net = ScoreSde(kind, base, mult, 1, attn, side, values, **rest)
    x = data("x", [len(t), net.channels, side, side])
    s = torch.tensor(t, dtype=F64)
    low, high = 0.01, 50.0
    sigma = low * (high / low) ** s  # of data in [0, 1]
    wide = lambda v: v.reshape(-1, 1, 1, 1)
    if process == "ve":
        # The network sees 2y - 1 of an image y in [0, 1]; score h/sigma; denoised y + sigma^2 score.
        label = sigma if fourier else torch.round((1 - s) * 999)
        x = x * 2 * wide(sigma)
        y = (x + 1) / 2
        h = net(2 * y - 1, label, fourier)
        x0 = 2 * (y + wide(sigma) ** 2 * (h / wide(sigma))) - 1
        scale = [2 * v for v in sigma.tolist()]
    else:
        alpha = torch.exp(-s * s * 19.9 / 4 - s * 0.1 / 2)
        std = (1 - alpha**2).sqrt() if process == "vp" else 1 - alpha**2
        x0 = (x - wide(std) * net(x, 999 * s, False)) / wide(alpha)
        scale = None
    frozen = lambda key: key == "0.W" and fourier
    model = collections.OrderedDict()
    model["module.sigmas"] = torch.linspace(math.log(high), math.log(low), 1000, dtype=F64).exp().float()
    for key, shape in net.tensors.items():
        value = values("ema." + key, shape) * 16 if frozen(key) else values(key, shape)
        model[f"module.all_modules.{key}"] = value
    shadow = [values("ema." + key, shape) for key, shape in net.tensors.items() if not frozen(key)]
    ema = {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow}
    state = {"optimizer": {"state": {}, "param_groups": [{"lr": 2e-4}]}, "model": model, "ema": ema, "step": 1234}
    torch.save(state, OUT / f"{name}.pth")
    note(name, x0, t, scale=scale, side=side, tensors=len(shadow))


def score_sde_files():
    score_sde("ddpmpp", "ddpmpp", 8, [1, 2], [4], 8, [0.1, 0.8], "subvp", channels=1)
    score_sde("ncsnpp", "ncsnpp", 8, [1, 1], [4], 8, [0.2, 0.6], "ve", fourier=True, image="residual")
    score_sde("ncsnpp-skip", "ncsnpp", 4, [1, 2], [], 8, [0.2, 0.6], "ve", fourier=True, image="skip", out="skip")
    index = [1 - 700 / 999, 1 - 350 / 999]
    score_sde("ncsnpp-discrete", "ncsnpp", 8, [1, 1], [4], 8, index, "ve", image="residual", channels=1)
    score_sde("ddpm", "ddpm", 32, [1, 1], [4], 8, [0.1, 0.8], "vp", channels=1, values=Values(20_000, 0.1))


# DiT and SiT.


class Dit:
    """The transformer of DiT and SiT by its published names."""

    def __init__(self, channels, side, patch, width, depth, heads, classes):
        self.__dict__.update(locals())
        self.values = Values(6 * width * width + 997)
        self.tensors = {}

    def p(self, name, *shape):
        self.tensors[name] = self.values(name, list(shape))
        return self.tensors[name].double()

    def linear(self, name, x, out):
        return F.linear(x, self.p(f"{name}.weight", out, x.shape[-1]), self.p(f"{name}.bias", out))

    def positions(self):
        n = self.side // self.patch
        rows = []
        for y in range(n):
            for x in range(n):
                w = 10000.0 ** (-torch.arange(self.width // 4, dtype=F64) / (self.width // 4))
                rows.append(torch.cat([(x * w).sin(), (x * w).cos(), (y * w).sin(), (y * w).cos()]))
        self.tensors["pos_embed"] = torch.stack(rows)[None].float()
        return torch.stack(rows)[None]

    def __call__(self, x, t, classes):
        b, c, h, w = x.shape
        p, d, n = self.patch, self.width, h // self.patch
        positions = self.positions()
        kernel, bias = self.p("x_embedder.proj.weight", d, c, p, p), self.p("x_embedder.proj.bias", d)
        z = F.conv2d(x, kernel, bias, stride=p).flatten(2).transpose(1, 2) + positions
        phase = t[:, None] * torch.exp(-math.log(10000) * torch.arange(128, dtype=F64) / 128)[None]
        cond = self.linear("t_embedder.mlp.0", torch.cat([phase.cos(), phase.sin()], 1), d)
        cond = self.linear("t_embedder.mlp.2", F.silu(cond), d)
        table = self.p("y_embedder.embedding_table.weight", self.classes + 1, d)
        cond = F.silu(cond + table[[self.classes if k < 0 else k for k in classes]])
        norm = lambda v: F.layer_norm(v, [d], eps=1e-6)
        for i in range(self.depth):
            at = f"blocks.{i}."
            m = self.linear(f"{at}adaLN_modulation.1", cond, 6 * d)[:, None].chunk(6, 2)
            qkv = self.linear(f"{at}attn.qkv", norm(z) * (1 + m[1]) + m[0], 3 * d)
            q, k, v = qkv.reshape(b, n * n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
            a = (q @ k.transpose(-1, -2) / math.sqrt(d // self.heads)).softmax(-1) @ v
            z = z + m[2] * self.linear(f"{at}attn.proj", a.transpose(1, 2).reshape(b, n * n, d), d)
            y = F.gelu(self.linear(f"{at}mlp.fc1", norm(z) * (1 + m[4]) + m[3], 4 * d), approximate="tanh")
            z = z + m[5] * self.linear(f"{at}mlp.fc2", y, d)
        m = self.linear("final_layer.adaLN_modulation.1", cond, 2 * d)[:, None].chunk(2, 2)
        y = self.linear("final_layer.linear", norm(z) * (1 + m[1]) + m[0], p * p * 2 * c)
        y = torch.einsum("nhwpqc->nchpwq", y.reshape(b, n, n, p, p, 2 * c)).reshape(b, 2 * c, h, w)
        return y[:, :c]


def dit_files():
    net = Dit(4, 8, 2, 64, 2, 1, 5)
    classes = [3, -1]
    # DiT: index i of the linear table of 1000 betas; the file is a state dict by itself.
    bars = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=F64)).cumprod(0)
    index = [99, 700]
    x = data("x", [2, 4, 8, 8])
    eps = net(x, torch.tensor(index, dtype=F64), classes)
    bar = bars[index].reshape(-1, 1, 1, 1)
    state = collections.OrderedDict((key, value) for key, value in net.tensors.items())
    torch.save(state, OUT / "dit.pt")
    note("dit", (x - (1 - bar).sqrt() * eps) / bar.sqrt(), [(i + 1) / 1000 for i in index], classes=classes, scale=None)
    # SiT: time from noise (0) to data (1), velocity data - noise of x = t data + (1 - t) noise.
    t = torch.tensor([0.9, 0.25], dtype=F64)
    v = net(x, t, classes)
    args = argparse.Namespace(path_type="Linear", prediction="velocity", num_classes=5, model="tiny")
    raw = {key: net.values("raw." + key, list(value.shape)) for key, value in net.tensors.items()}
    raw["pos_embed"] = state["pos_embed"]
    torch.save({"model": raw, "ema": state, "opt": {}, "args": args}, OUT / "training.pt")
    note("training", x + (1 - t).reshape(-1, 1, 1, 1) * v, (1 - t).tolist(), classes=classes, scale=None)


def diffusers_dit():
    config = dict(num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
                  patch_size=2, num_embeds_ada_norm=5, norm_eps=1e-5)
    net = diffusers.DiTTransformer2DModel(**config).double().eval()
    state = net.state_dict()
    shared = lambda k: k.replace("transformer_blocks.1.norm1.emb", "transformer_blocks.0.norm1.emb")
    net.load_state_dict({k: fill(shared(k), list(v.shape)) for k, v in state.items()})
    x, index, classes = data("x", [2, 4, 8, 8]), [99, 700], [3, 5]
    eps = net(x, torch.tensor(index), class_labels=torch.tensor(classes)).sample[:, :4]
    bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=F64)).cumprod(0)[index].reshape(-1, 1, 1, 1)
    x0 = (x - (1 - bar).sqrt() * eps) / bar.sqrt()
    tensors = {k: list(v.shape) for k, v in state.items()}
    config = {"_class_name": "DiTTransformer2DModel", **config}
    note("diffusers-dit", x0, [0.1, 0.701], classes=[3, -1], scale=None, config=config, tensors=tensors)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    adm_network()
    edm_files()
    score_sde_files()
    dit_files()
    diffusers_dit()

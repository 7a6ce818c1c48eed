#!/usr/bin/env python3
"""Makes tests/fixtures/sashimi: checkpoints of state-spaces/s4 with tiny networks, and what the reference code makes
of a few tokens.

    scripts/golden/audio_networks.py CHECKOUT     (or STATE_SPACES=CHECKOUT) of github.com/state-spaces/s4

needs torch, einops, omegaconf and hydra-core. Networks have random weights, run once in f64 (which turns C into the row
of a finite kernel), are rounded to f32 and run again: NAME.pt holds the weights, NAME.json tokens and logits.
"""
import json
import os
import sys
import types
from pathlib import Path

import torch

OUT = Path(__file__).resolve().parents[2] / "tests/fixtures/sashimi"
VOCAB, WIDTH, LENGTH = 16, 8, 32
POOL = [2, 2]


def stub(name, **values):
    module = types.ModuleType(name)
    vars(module).update(values)
    sys.modules[name] = module
    return module


def checkout():
    place = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("STATE_SPACES")
    if not place:
        print("no checkout of state-spaces/s4 given: the fixtures stay as they are", file=sys.stderr)
        sys.exit(0)
    sys.path.insert(0, place)
    # Logging decorators are all that is used of it.
    rank = stub("pytorch_lightning.utilities", rank_zero_only=lambda f: f)
    stub("pytorch_lightning", utilities=rank)
    torch.set_default_dtype(torch.float64)


class Model(torch.nn.Module):
    """Embedding, backbone and output layer, named as in Lightning checkpoints."""

    def __init__(self, backbone, channels_first, width):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Embedding(VOCAB, width))
        self.model = backbone
        head = torch.nn.Module()
        head.output_transform = torch.nn.Linear(width, VOCAB)
        self.decoder = torch.nn.Sequential(head)
        self.channels_first = channels_first

    def forward(self, tokens):
        x = self.encoder(tokens)
        y = self.model(x.transpose(1, 2) if self.channels_first else x)
        y = y[0] if isinstance(y, tuple) else y
        return self.decoder[0].output_transform(y.transpose(1, 2) if self.channels_first else y)


def perturb(model):
    """Values away from what they begin with, so that no part can be left out unseen."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 0.3 if "norm" in name else 0.05
            p.add_(scale * torch.randn_like(p))


def tokens(batch=2):
    return torch.randint(VOCAB, (batch, LENGTH))


def save(name, model, keep=lambda state: state, x=None, **rest):
    perturb(model)
    x = tokens() if x is None else x
    model.eval()
    with torch.no_grad():
        model(x)  # sets l_kernel
        for p in list(model.parameters()):
            p.copy_(p.float().double())
        y = model(x)
    state = {k: v.float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save(keep(state), OUT / f"{name}.pt")
    note = {"torch": torch.__version__, "tokens": x.tolist(), "logits": [round(v, 12) for v in y.flatten().tolist()], **rest}
    (OUT / f"{name}.json").write_text(json.dumps(note) + "\n")
    print(name, sum(p.numel() for p in model.parameters()), y.abs().max().item(), file=sys.stderr)
    return state, x, y


def training(unet, n_layers, **layer):
    from omegaconf import OmegaConf

    from src.models.sequence.backbones.sashimi import Sashimi
    from src.models.sequence.backbones.unet import SequenceUNet

    options = dict(_name_="s4", d_state=8, final_act="glu", transposed=True, **layer)
    norm = {"_name_": "layer"}
    common = dict(d_model=WIDTH, n_layers=n_layers, pool=POOL, expand=2, ff=2, prenorm=True, transposed=True,
                  layer=OmegaConf.create(options).copy(), residual="R", norm=norm)
    common["layer"] = dict(options)
    backbone = SequenceUNet(**common, cff=2) if unet else Sashimi(**common)
    return Model(backbone, False, WIDTH)


def standalone(unet, n_layers, **layer):
    from models.sashimi.sashimi import Sashimi

    backbone = Sashimi(d_model=WIDTH, n_layers=n_layers, pool=POOL, unet=unet, **layer)
    return Model(backbone, False, WIDTH)


def old_names(state):
    """The names of version 3 of the layer: one `layer` less, other parameters."""
    out = {}
    for name, value in state.items():
        name = name.replace(".layer.layer.kernel.", ".layer.kernel.kernel.").replace(".layer.layer.D", ".layer.D")
        for new, old in [("inv_dt", "log_dt"), ("A_real", "inv_w_real"), ("A_imag", "w_imag"), ("l_kernel", "L")]:
            if name.endswith(f".kernel.{new}"):
                name = name[: -len(new)] + old
                value = value.squeeze(1) if new == "inv_dt" else -value if new == "A_imag" else value
        out[name] = value
    return out


def s4d():
    from models.s4.s4d import S4D

    layer = S4D(6, d_state=8)
    perturb(layer)
    u = torch.randn(2, 6, LENGTH)
    layer.eval()
    with torch.no_grad():
        y = layer(u)[0]
    values = {k: [list(v.shape), torch.view_as_real(v).flatten().tolist() if v.is_complex() else v.flatten().tolist()]
              for k, v in layer.state_dict().items()}
    note = {"torch": torch.__version__, "state": values, "u": u.flatten().tolist(), "y": y.flatten().tolist()}
    (OUT / "s4d.json").write_text(json.dumps(note) + "\n")


class Wave(Model):
    """Training pads with silence in front."""

    def forward(self, x):
        field = self.model.receptive_field
        silence = torch.full((x.shape[0], 4 * field), VOCAB // 2)
        return super().forward(torch.cat([silence, x], 1))[:, -x.shape[1]:]


def wavenet():
    from src.models.baselines.wavenet import WaveNetModel

    backbone = WaveNetModel(layers=10, blocks=1, dilation_channels=6, residual_channels=4, skip_channels=10,
                            end_channels=12, classes=VOCAB)
    save("wavenet", Wave(backbone, False, VOCAB))


def main():
    checkout()
    OUT.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    exp = dict(dt_transform="exp", lr=0.001)
    soft = dict(dt_transform="softplus", lr=0.001)
    save("training", training(False, 1, n_ssm=1, **soft))
    hyper = {"model": {"layer": {"dt_transform": "exp"}}}
    save("training-unet", training(True, 1, **exp), lambda state: {
        "state_dict": state, "global_step": 7, "hyper_parameters": hyper, "epoch": 1})
    save("standalone", standalone(False, 1, n_ssm=2))
    save("standalone-unet", standalone(True, 1, mode="diag", init="diag-lin", disc="zoh"))
    save("version-3", training(False, 1, n_ssm=1, **exp), old_names)
    s4d()
    wavenet()


if __name__ == "__main__":
    main()

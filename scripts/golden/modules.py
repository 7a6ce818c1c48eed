"""Writes tests/fixtures/modules: TorchScript modules with the signatures that people use.

Each computes 0.5 x + 0.25 t, plus 2 y where it takes a class.
"""

import pathlib
from typing import Dict, Optional, Tuple

import torch
from torch import Tensor

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/modules"


class Base(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.5))
        self.register_buffer("b", torch.tensor(0.25))

    def eps(self, x: Tensor, t: Tensor) -> Tensor:
        return self.a * x + self.b * t.view(-1, 1, 1, 1)


class Plain(Base):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.eps(x, t)


class InTuple(Base):
    def forward(self, sample: Tensor, timestep: Tensor) -> Tuple[Tensor]:
        return (self.eps(sample, timestep),)


class InDict(Base):
    def forward(self, sample: Tensor, timestep: Tensor) -> Dict[str, Tensor]:
        return {"extra": timestep, "sample": self.eps(sample, timestep)}


class WithOptional(Base):
    def forward(self, x: Tensor, t: Tensor, y: Optional[Tensor] = None) -> Tensor:
        out = self.eps(x, t)
        if y is not None:
            out = out + 2.0 * y.view(-1, 1, 1, 1)
        return out


class WithClass(Base):
    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.eps(x, t) + 2.0 * y.view(-1, 1, 1, 1)


class LearnedVariance(Base):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out = self.eps(x, t)
        return torch.cat([out, -out], dim=1)


OUT.mkdir(parents=True, exist_ok=True)
for name, module in {"tensor": Plain(), "tuple": InTuple(), "dict": InDict(), "optional": WithOptional(),
                     "class": WithClass(), "learned_variance": LearnedVariance()}.items():
    torch.jit.script(module).save(str(OUT / f"{name}.pt"))
print("torch", torch.__version__)

"""Small files of PyTorch and numpy that tests/readers.rs reads. Made with torch 2.11, numpy 2.

Usage: python scripts/golden/readers.py tests/fixtures/metric
"""

import collections
import sys
from pathlib import Path

import numpy as np
import torch


def state():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return collections.OrderedDict(
        [
            ("conv.weight", base),
            ("tied", base),  # the same storage
            ("transposed", base.t()),
            ("slice", base[1:3, 2:5]),
            ("half", torch.tensor([1.5, -2.0], dtype=torch.float16)),
            ("bfloat16", torch.tensor([1.5, -2.0], dtype=torch.bfloat16)),
            ("long", torch.tensor([1, -(2**40)])),
            ("bool", torch.tensor([True, False, True])),
            ("bn.num_batches_tracked", torch.tensor(7)),
            ("empty", torch.zeros(0, 3)),
            ("parameter", torch.nn.Parameter(torch.tensor([0.25]))),
        ]
    )


class Custom:
    """A class that no reader knows."""

    def __init__(self):
        self.weights = {"w": torch.tensor([3.0, 4.0])}
        self.note = "hello"


class Plain(torch.nn.Module):
    """Features are the mean colours."""

    def forward(self, img):
        return img.mean(dim=(2, 3))


class Nvidia(torch.nn.Module):
    """The call convention of NVIDIA's Inception file, with mean colours as features and two classes."""

    def forward(
        self, img: torch.Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> torch.Tensor:
        x = img.to(torch.float32).mean(dim=(2, 3))
        if return_features:
            return x
        logits = x[:, :2] / 100
        if not no_output_bias:
            logits = logits + 1000 * torch.tensor([0.0, 1.0])
        return logits.softmax(dim=1)


def main(folder):
    torch.jit.script(Plain()).save(folder / "plain.pt")
    torch.jit.script(Nvidia()).save(folder / "nvidia.pt")
    for name, zipped in [("zip", True), ("legacy", False)]:
        save = lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=zipped)
        save(state(), folder / f"state-{name}.pth")
        nested = {"model": state(), "step": 12, "lr": 0.5, "betas": (0.9, 0.99), "name": "run"}
        save(nested, folder / f"nested-{name}.pth")
        save({"object": Custom(), "x": torch.ones(2)}, folder / f"object-{name}.pth")
    f = np.asfortranarray(np.arange(6, dtype=">u2").reshape(2, 3))
    np.savez_compressed(folder / "arrays.npz", f=f, b=np.array([True, False]), h=np.float16([0.5, -1]), s=np.float64(3))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

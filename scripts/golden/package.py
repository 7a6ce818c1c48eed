"""Writes tests/fixtures/modules/package.pt2: an AOTInductor package for any x86-64 processor.

It computes 0.5 x + 0.25 t + b for x [B, 1, 4, 4], any B. Needs torch and a C++ compiler.
"""

import pathlib
import subprocess
import tempfile
import zipfile

import torch
from torch._inductor import config, cpp_builder
from torch._inductor.runtime.runtime_utils import cache_dir

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/modules/package.pt2"

# No instructions beyond the baseline, so that the fixture runs everywhere.
config.cpp.simdlen = 1
flags = cpp_builder._get_optimization_cflags


def portable(*args, **kwargs):
    """No instruction set of this machine, and no paths of it in messages."""
    torch_dir = pathlib.Path(torch.__file__).parent
    maps = [f"fmacro-prefix-map={torch_dir}=torch", f"fmacro-prefix-map={cache_dir()}=inductor"]
    found = flags(*args, **kwargs)
    if isinstance(found, tuple):
        return tuple([*(f for f in part if "march" not in f), *maps] if i == 0 else part
                     for i, part in enumerate(found))
    return [*(f for f in found if "march" not in f), *maps]


def shrink(path):
    """Empties the sources (the loader wants their names only), strips the library, compresses."""
    with zipfile.ZipFile(path) as archive:
        members = {name: b"" if name.endswith(".cpp") else archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            if name.endswith(".so"):
                with tempfile.NamedTemporaryFile(suffix=".so") as file:
                    pathlib.Path(file.name).write_bytes(data)
                    subprocess.run(["strip", "--strip-unneeded", file.name], check=True)
                    data = pathlib.Path(file.name).read_bytes()
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


cpp_builder._get_optimization_cflags = portable


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.arange(16, dtype=torch.float32).view(1, 1, 4, 4) / 16)

    def forward(self, x, t):
        return 0.5 * x + 0.25 * t.view(-1, 1, 1, 1) + self.bias


batch = torch.export.Dim("batch", min=1, max=1024)
with torch.no_grad():
    program = torch.export.export(
        Net().eval(), (torch.zeros(2, 1, 4, 4), torch.zeros(2)), dynamic_shapes=({0: batch}, {0: batch}))
    torch._inductor.aoti_compile_and_package(program, package_path=str(OUT))
    shrink(OUT)
    loaded = torch._inductor.aoti_load_package(str(OUT))
    x, t = torch.randn(3, 1, 4, 4), torch.rand(3)
    assert torch.allclose(loaded(x, t), Net()(x, t))
print("torch", torch.__version__, OUT.stat().st_size, "bytes")

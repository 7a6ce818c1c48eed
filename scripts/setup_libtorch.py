#!/usr/bin/env python3
"""Get libtorch 2.11.0 once, check it, and link it as `.libtorch` in this checkout.

libtorch comes from the `torch` wheel on PyPI (CUDA 13 build). The wheel's `lib` and `include`
folders are unpacked into ${XDG_CACHE_HOME:-~/.cache}/gen/libtorch-2.11.0; every later checkout
reuses them. On a machine without an NVIDIA device only two small CUDA wheels come with it, because
`libtorch_cpu.so` itself needs their libraries; with a device (or --cuda) all CUDA wheels that the
torch wheel names are unpacked too.

An existing libtorch wins: LIBTORCH=DIR, or LIBTORCH_USE_PYTORCH=1 for that of the current Python.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSION = "2.11.0"
# (requirement, sha256 by machine) of what even a CPU-only machine needs.
WHEELS = [
    (
        f"torch=={VERSION}",
        {
            "x86_64": "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
            "aarch64": "d91aac77f24082809d2c5a93f52a5f085032740a1ebc9252a7b052ef5a4fddc6",
        },
    ),
    (
        "nvidia-cuda-runtime==13.0.96",
        {
            "x86_64": "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
            "aarch64": "ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55",
        },
    ),
    (
        "nvidia-cuda-cupti==13.0.85",
        {
            "x86_64": "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
            "aarch64": "796bd679890ee55fb14a94629b698b6db54bcfd833d391d5e94017dd9d7d3151",
        },
    ),
]
# libtorch is the same in the wheels of every Python version; one is named so that one hash serves all.
PYTHON = ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "none"]
GLIBCS = (5, 12, 17, 24, 25, 26, 27, 28, 31, 34)


def say(text):
    print(f"setup: {text}", file=sys.stderr, flush=True)


def fail(what, hint):
    print(f"error: {what}\nhint: {hint}", file=sys.stderr)
    sys.exit(1)


def platforms(machine):
    tags = [f"manylinux_2_{n}_{machine}" for n in GLIBCS]
    tags += [f"manylinux{year}_{machine}" for year in (1, 2010, 2014)] + ["any"]
    return [flag for tag in tags for flag in ("--platform", tag)]


def download(requirement, dest, machine, deps=False):
    command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--dest", str(dest)]
    command += [*PYTHON, *platforms(machine), "--progress-bar", "off", "-q", requirement]
    if not deps:
        command.append("--no-deps")
    before = set(dest.iterdir())
    if subprocess.run(command).returncode != 0:
        fail(
            f"pip could not download {requirement}",
            "check the network and `python3 -m pip --version`, or set LIBTORCH to a libtorch 2.11 folder",
        )
    return sorted(set(dest.iterdir()) - before)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def unpack(wheel, dest):
    """The libraries and headers of a wheel; nothing else of it is needed."""
    keep = re.compile(r"^(torch/(lib|include)/|torch/version\.py$|nvidia/)")
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if keep.match(member.filename) and not member.is_dir():
                archive.extract(member, dest)


def cuda_requirements(torch_wheel):
    """The nvidia wheels that the torch wheel itself pins."""
    with zipfile.ZipFile(torch_wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    wanted = (line[len("Requires-Dist: "):] for line in lines if line.startswith("Requires-Dist: "))
    return [w.split(";")[0].strip() for w in wanted if w.startswith(("nvidia-", "cuda-toolkit"))]


def has_nvidia_device():
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def fetch(cache, machine, cuda):
    cache.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix="libtorch-", dir=cache.parent))
    try:
        wheels = building / "wheels"
        wheels.mkdir()
        torch_wheel = None
        for requirement, hashes in WHEELS:
            say(f"downloading {requirement}")
            (wheel,) = download(requirement, wheels, machine)
            if sha256(wheel) != hashes[machine]:
                fail(
                    f"{wheel.name}: sha256 is {sha256(wheel)}, expected {hashes[machine]}",
                    "the download is damaged or was tampered with; run `make setup` again",
                )
            torch_wheel = torch_wheel or wheel
            unpack(wheel, building)
        if cuda:
            for requirement in cuda_requirements(torch_wheel):
                say(f"downloading {requirement}")
                for wheel in download(requirement, wheels, machine, deps=True):
                    unpack(wheel, building)
        shutil.rmtree(wheels)
        (building / "complete").write_text("cuda\n" if cuda else "cpu\n")
        if cache.exists():
            shutil.rmtree(cache)
        building.rename(cache)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def link(target):
    place = Path(__file__).resolve().parent.parent / ".libtorch"
    if place.is_symlink() or place.exists():
        if place.resolve() == target.resolve():
            return
        place.unlink()
    place.symlink_to(target)
    say(f".libtorch -> {target}")


def existing():
    """A libtorch the user names, or None."""
    if os.environ.get("LIBTORCH_USE_PYTORCH") == "1":
        code = "import torch, os; print(torch.__version__, os.path.dirname(torch.__file__))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if found.returncode != 0:
            fail("LIBTORCH_USE_PYTORCH=1: this python3 has no torch", f"pip install torch=={VERSION}")
        version, folder = found.stdout.strip().split(" ", 1)
        if not version.startswith(VERSION):
            fail(f"LIBTORCH_USE_PYTORCH=1: torch is {version}", f"pip install torch=={VERSION}")
        return Path(folder)
    named = os.environ.get("LIBTORCH")
    if named and Path(named).resolve() != (Path(__file__).resolve().parent.parent / ".libtorch").resolve():
        if not (Path(named) / "lib" / "libtorch_cpu.so").exists():
            fail(f"LIBTORCH={named}: no lib/libtorch_cpu.so there", "name the folder that holds lib/ and include/")
        return Path(named)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--cuda", action="store_true", help="get the CUDA libraries too (default where a device is)")
    group.add_argument("--cpu", action="store_true", help="leave the CUDA libraries out")
    args = parser.parse_args()
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        fail(f"no libtorch wheel for {sys.platform} {machine}", "set LIBTORCH to a libtorch 2.11 folder")
    if (named := existing()) is not None:
        link(named)
        return
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = base / "gen" / f"libtorch-{VERSION}"
    cuda = args.cuda or (has_nvidia_device() and not args.cpu)
    complete = cache / "complete"
    have = complete.read_text().strip() if complete.exists() else None
    if have is None or (cuda and have != "cuda"):
        fetch(cache, machine, cuda)
    else:
        say(f"libtorch {VERSION} ({have}) is in the cache")
    link(cache / "torch")


main()

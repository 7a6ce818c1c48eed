#!/usr/bin/env python3
"""Runs gen and its peers in turn (A B A B ...) and appends the medians to <suite>/results.jsonl.

    python3 benchmarks/bench.py unet32|digits|sampling|eval-fid|audio|text [--python PYTHON] [--rounds N] [--quick]

Needs only the standard library; the peers run in PYTHON (one with torch and diffusers), or are left out.
A process reports the time of each repetition itself where a network call is timed; start to finish, peak memory
and CPU time are measured from outside, in the same way for every program.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
GEN = pathlib.Path(os.environ.get("GEN", ROOT / "target/release/gen"))


def run(command):
    """Runs a program; gives its standard output, wall and CPU seconds, and peak memory in MiB."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=err, text=True, cwd=ROOT)
        out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            err.seek(0)
            sys.exit(f"failed ({child.returncode}): {shlex.join(map(str, command))}\n{err.read()[-2000:]}")
    return out, {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def cpu_flags():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    return [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {f}" in text]


class Results:
    """Collects the runs of a suite and writes one line for each case and program."""

    def __init__(self, suite, python):
        git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
        dirty = subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain", "--", "src"],
                               capture_output=True, text=True).stdout.strip()
        self.common = {
            "suite": suite, "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "commit": commit + ("+" if dirty else "") if commit else None, "device": "cpu",
            "machine": {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)), "flags": cpu_flags(),
                        "system": f"{platform.system()} {platform.machine()}"},
            "gen": run([GEN, "--version"])[0].split()[1],
        }
        self.file = HERE / suite / "results.jsonl"
        self.python = python

    def write(self, line):
        line = self.common | {"load": os.getloadavg()[0]} | line
        with open(self.file, "a") as file:
            file.write(json.dumps(line) + "\n")

    def measure(self, case, programs, rounds, value):
        """`programs`: name -> command. Runs all of them `rounds` times in turn. `value(out, outside)` gives the
        list of seconds of a run and what else it said of itself."""
        seconds, outside, said = ({name: [] for name in programs} for _ in range(3))
        for turn in range(rounds):
            for name, command in programs.items():
                out, seen = run(command)
                more, about = value(out, seen)
                seconds[name] += more
                outside[name].append(seen)
                said[name] = about
                print(f"  {case} {name} {turn + 1}/{rounds}: {statistics.median(more):.4g} s", file=sys.stderr)
        base = statistics.median(seconds["gen"]) if "gen" in programs else None
        for name in programs:
            median = statistics.median(seconds[name])
            line = case | {"who": name, "median_s": median, "min_s": min(seconds[name]), "n": len(seconds[name]),
                           "peak_mib": max(s["peak_mib"] for s in outside[name]),
                           "cpu_s": statistics.median(s["cpu_s"] for s in outside[name]),
                           "gen_is_faster": median / base if base else None} | said[name]
            if "batch" in case:
                line["images_per_s"] = case["batch"] / median
            if name != "gen" and "compile" in name:
                line["ready_s"] = said[name].get("ready_s")
            self.write(line)


def network(suite, args):
    """One network evaluation, and one training step."""
    results = Results(suite, args.python)
    shape, recipe, batch = (("3,32,32", "benchmarks/unet32", 16) if suite == "unet32"
                            else ("1,8,8", "models/digits-edm", 128))
    net, reps = ("unet2d", 3) if suite == "unet32" else ("digits", 20)
    warmup = 1 if suite == "unet32" else 5
    peer = [args.python, HERE / "peer.py", "--net", net, "--threads", args.threads] if args.python else None
    if peer:
        for dtype in ("f32", "bf16"):
            out, _ = run([*peer, "--what", "floor", "--dtype", dtype, "--reps", 9, "--warmup", 2])
            results.write(json.loads(out))

    def value(out, _):
        line = json.loads(out.strip().splitlines()[-1])
        return line["seconds"], {k: line[k] for k in ("threads", "parameters", "ready_s", "versions") if k in line}

    for what in ("forward", "train"):
        for dtype in ("f32", "bf16"):
            options = ["--what", what, "--batch", batch, "--warmup", warmup]
            case = {"what": what, "dtype": dtype, "batch": batch}
            mine = [GEN, "bench", recipe, "--shape", shape, "--threads", args.threads, "-q", "--output", "jsonl",
                    "--formats", dtype, "-r", reps, *options]
            programs = {"gen": [*mine, "--channels-last", "false"], "gen, channels-last": [*mine, "--channels-last", "true"]}
            if peer:
                theirs = [*peer, "--dtype", dtype, "--reps", reps, *options]
                programs["PyTorch eager"] = theirs
                programs["PyTorch eager, channels-last"] = [*theirs, "--channels-last"]
            results.measure(case, programs, args.rounds, value)
            if peer and not args.quick:
                results.measure(case, {"PyTorch torch.compile": [*theirs, "--mode", "compile"]}, 1, value)


def write_npy(path, n, channels_last_shape):
    """An array of bytes of a fixed pattern: something for a recipe to train one step on."""
    shape = (n, *channels_last_shape)
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (63 - (len(header) + 10) % 64) + "\n"
    count = n
    for size in channels_last_shape:
        count *= size
    body = bytes((i * 2654435761 >> 13) & 255 for i in range(count))
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body)


def sampling(suite, args):
    """Whole programs: sampling to files, and start-up."""
    results = Results(suite, args.python)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        write_npy(work / "images.npy", 32, (32, 32, 3))
        unet, digits = work / "unet", work / "digits"
        run([GEN, "train", "benchmarks/unet32", "--data", work / "images.npy", "--out", unet, "-q"])
        run([GEN, "train", "models/digits-edm", "--out", digits, "-q", "--set", "train.steps=1"])
        script = HERE / "sampling/peer.py"
        if args.python:
            run([args.python, script, "save", "--model", work / "peer"])
            run([args.python, script, "save", "--model", work / "peer-tiny", "--tiny"])

        versions = json.loads(run([args.python, script, "versions"])[0]) if args.python else {}

        def whole(_, outside):
            return [outside["wall_s"]], {"versions": versions, "threads": args.threads}

        count = args.images
        for dtype in ("f32", "bf16"):
            mine = [GEN, "sample", "--model", unet, "--solver", "dpm++", "--steps", 10, "--seeds", f"0-{count - 1}",
                    "--batch", 16, "--dtype", dtype, "--threads", args.threads, "--overwrite", "-q"]
            programs = {"gen": [*mine, "--out", work / "out"]}
            if args.python:
                theirs = [args.python, script, "sample", "--model", work / "peer", "--steps", 10, "--images", count,
                          "--batch", 16, "--threads", args.threads, "--out", work / "out-peer"]
                programs["diffusers"] = [*theirs, "--dtype", dtype]
                if dtype == "bf16":
                    programs["diffusers, bf16 weights, channels-last"] = [*theirs, "--dtype", "bf16-weights"]
            results.measure({"what": "sample", "dtype": dtype, "batch": count}, programs, args.rounds, whole)

        one = [GEN, "sample", "--model", digits, "--seeds", 0, "--overwrite", "-q", "--out", work / "one"]
        programs = {"gen": [GEN, "doctor"], "gen --version": [GEN, "--version"]}
        if args.python:
            programs["python: import torch, diffusers"] = [args.python, "-c", "import torch, diffusers"]
        results.measure({"what": "start"}, programs, args.rounds + 2, whole)
        programs = {"gen": one}
        if args.python:
            programs["diffusers"] = [args.python, script, "sample", "--model", work / "peer-tiny", "--steps", 10,
                                     "--images", 1, "--batch", 1, "--out", work / "one-peer"]
        results.measure({"what": "one small image"}, programs, args.rounds + 2, whole)


def with_peer(suite, args):
    """Results, peer and its versions of a suite whose model is made in Python even for gen."""
    if not args.python:
        sys.exit("this suite needs Python even for gen: its weights are made there (--python)")
    script = HERE / suite / "peer.py"
    return Results(suite, args.python), script, json.loads(run([args.python, script, "versions"])[0])


def eval_fid(suite, args):
    """FID of two folders, start to finish."""
    results, script, versions = with_peer(suite, args)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        run([args.python, script, "prepare", "--dir", work, "--images", 256])

        def whole(out, outside):
            return [outside["wall_s"]], {"fid": json.loads(out)["fid"], "versions": versions, "threads": args.threads}

        for name in ("pytorch-fid", "clean-fid"):
            mine = [GEN, "eval-fid", "--images", work / "a", "--ref", work / "b", "--weights", work / "inception.pth",
                    "--allow-unverified-weights", "--suite", name, "--metrics", "fid", "--threads", args.threads, "--json"]
            theirs = [args.python, script, name, "--dir", work, "--threads", args.threads]
            results.measure({"what": name, "batch": 512}, {"gen": mine, name: theirs}, args.rounds, whole)
        run([args.python, script, "statistics", "--dir", work])
        mine = [GEN, "eval-fid", "--images", work / "a.npz", "--ref", work / "b.npz", "--threads", args.threads, "--json"]
        theirs = [args.python, script, "root", "--dir", work, "--threads", args.threads]
        results.measure({"what": "root"}, {"gen": mine, "pytorch-fid": theirs}, args.rounds, whole)


def audio(suite, args):
    """The 6.8 M U-Net SaShiMi: values drawn a second, training steps; and waveform diffusion."""
    results = Results(suite, args.python)
    step, script = ROOT / "target/release/examples/audio_step", HERE / "audio/peer.py"
    if not step.exists():
        sys.exit(f"{step} is missing: cargo build --release --example audio_step")

    def value(out, _):
        line = json.loads(out.strip().splitlines()[-1])
        of_run = line["batch"] if line["mode"] == "step" else 1
        more = {k: line[k] for k in ("threads", "parameters", "first_us", "last_us", "versions") if k in line}
        return [of_run / line["per_second"]], more

    # Steps are chosen so that a run takes some seconds.
    for batch, mine, theirs in ((1, 16000, 400), (64, 1600, 200), (512, 400, 40)):
        threads = 1 if batch == 1 else args.threads
        os.environ["OMP_NUM_THREADS"] = str(threads)
        programs = {"gen": [step, "step", batch, mine]}
        if args.python:
            programs["PyTorch eager"] = [args.python, script, "step", batch, theirs]
        results.measure({"what": "step", "batch": batch}, programs, args.rounds, value)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    programs = {"gen": [step, "train", 1, 3, 16000]}
    if args.python:
        programs["PyTorch eager"] = [args.python, script, "train", 1, 1, 16000]
    results.measure({"what": "train", "batch": 1}, programs, 1 if args.quick else args.rounds, value)

    def diffusion(out, _):
        line = json.loads(out.strip().splitlines()[-1])
        return line["seconds"] if "seconds" in line else [line["ms"] / 1e3], {}

    for recipe, peer in (("diffwave-small", "diffwave"), ("diffwave-sashimi-small", "sashimi")):
        mine = [GEN, "bench", f"models/{recipe}", "--shape", "1,16000", "--what", "train", "--batch", 1, "-r", 2, "--warmup", 1,
                "--threads", args.threads, "--output", "jsonl", "--formats", "f32", "-q"]
        programs = {"gen": mine}
        if args.python:
            programs["PyTorch eager"] = [args.python, HERE / "audio/diffusion/peer.py", peer, "--batch", 1, "--rounds", 2]
        results.measure({"what": recipe, "batch": 1}, programs, 1 if args.quick else args.rounds, diffusion)
    os.environ.pop("OMP_NUM_THREADS")


def text(suite, args):
    """Prompts and decoding of a language model, and its start-up. Rates are the best of all rounds."""
    results, script, versions = with_peer(suite, args)
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "gpt2"
        run([args.python, script, "save", "--model", model])
        # So that `gen sample` has words for tokens; what it says does not matter.
        shutil.copy(ROOT / "tests/fixtures/language/tokenizer.json", model)
        cases = {(dtype, batch): {} for dtype in ("f32", "bf16") for batch in (1, 16)}
        # Round by round over all cases, so that what else the machine does meets them all.
        for turn in range(args.rounds):
            for (dtype, batch), seen in cases.items():
                mine = [GEN, "bench", model, "--formats", dtype, "--batch", batch, "-r", 1, "--threads", args.threads,
                        "--new-tokens", args.new, "-q", "--output", "jsonl"]
                peer = [args.python, script, "time", "--model", model, "--dtypes", dtype, "--batch", batch, "--repeats", 1,
                        "--new", args.new, "--threads", args.threads]
                programs = {"gen": mine, "transformers": peer, "transformers, generate": [*peer, "--generate"]}
                if turn == 0 and not args.quick:
                    programs["transformers, torch.compile"] = [*peer, "--compile"]
                for name, command in programs.items():
                    line = json.loads(run(command)[0].strip().splitlines()[-1])
                    seen.setdefault(name, []).append(line)
                    rate = line["decode_tokens_per_s"]
                    print(f"  {turn + 1} {dtype} {batch} {name}: {rate:.1f} tokens/s", file=sys.stderr)
        for (dtype, batch), seen in cases.items():
            base = max(line["decode_tokens_per_s"] for line in seen["gen"])
            copy = max(line["copy_bytes_per_s"] for line in seen["gen"])
            for name, lines in seen.items():
                best = {k: max(line[k] for line in lines) for k in ("prefill_tokens_per_s", "decode_tokens_per_s")}
                read = best["decode_tokens_per_s"] / batch * seen["gen"][0]["weight_bytes"]
                results.write({
                    "what": "text", "dtype": dtype, "batch": batch, "prompt": lines[0]["prompt"], "new": lines[0]["new"],
                    "who": name, **best, "gen_is_faster": base / best["decode_tokens_per_s"], "copy_bytes_per_s": copy,
                    "share_of_copy": read / copy, "rounds": len(lines), "all": [x["decode_tokens_per_s"] for x in lines],
                    "ready_s": min(x["ready_s"] for x in lines), "peak_mib": max(x["peak_mib"] for x in lines),
                    "threads": args.threads, "versions": versions,
                })

        def whole(_, outside):
            return [outside["wall_s"]], {"versions": versions, "threads": args.threads}

        mine = [GEN, "sample", "--model", model, "--prompt", "a", "--max-new-tokens", 1, "--greedy", "--out", "-", "-q",
                "--dtype", "f32", "--threads", args.threads]
        peer = [args.python, script, "one", "--model", model, "--threads", args.threads]
        results.measure({"what": "one token", "dtype": "f32"}, {"gen": mine, "transformers": peer}, args.rounds, whole)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["unet32", "digits", "sampling", "eval-fid", "audio", "text"])
    parser.add_argument("--python", help="a Python with torch and diffusers; without it there are no peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--images", type=int, default=32, help="images of the sampling suite")
    parser.add_argument("--new", type=int, default=64, help="tokens decoded in the text suite")
    parser.add_argument("--quick", action="store_true", help="leave torch.compile out")
    args = parser.parse_args()
    if not GEN.exists():
        sys.exit(f"{GEN} is missing: run `make build` first")
    {"sampling": sampling, "eval-fid": eval_fid, "audio": audio, "text": text}.get(args.suite, network)(args.suite, args)


main()

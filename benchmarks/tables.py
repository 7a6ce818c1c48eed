#!/usr/bin/env python3
"""Writes the newest run of every results.jsonl as tables between the marks of the READMEs beside it."""

import json
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
# Multiply-adds of a forward pass of one image, in 10^9; a training step is three times that.
GMAC = {"unet32": 6.222}


def newest(suite):
    """The lines of the last run: those of the newest commit, date by date, the last of each case."""
    file = HERE / suite / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    lines.sort(key=lambda line: line["date"])
    last = {}
    for line in lines:
        last[line["what"], line.get("dtype"), line.get("batch"), line["who"]] = line
    return list(last.values())


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def machine(lines):
    line = max(lines, key=lambda line: line["date"])
    versions = {k: v for entry in lines for k, v in (entry.get("versions") or {}).items()}
    said = ", ".join(f"{k} {v}" for k, v in versions.items())
    loads = [entry["load"] for entry in lines]
    said = f"{said}; " if said else ""
    return (f"{line['date'][:10]}, commit {line['commit']}, gen {line['gen']}; {said}{line['machine']['cores']} cores of "
            f"{line['machine']['cpu']} ({', '.join(line['machine']['flags'])}); load average {min(loads):.1f} to "
            f"{max(loads):.1f} during the runs.")


def network(suite, lines):
    parts = [machine(lines)]
    floors = {line["dtype"]: line for line in lines if line["what"] == "floor"}
    for what, title, passes in (("forward", "One network evaluation", 1), ("train", "One training step", 3)):
        chosen = [line for line in lines if line["what"] == what]
        if not chosen:
            continue
        rows = []
        for line in chosen:
            eager = [e for e in chosen if e["who"] == "PyTorch eager" and e["dtype"] == line["dtype"]]
            row = [line["who"], line["dtype"], f"{line['images_per_s']:.4g}",
                   f"{eager[0]['median_s'] / line['median_s']:.2f}" if eager else "", f"{line['peak_mib']:.0f}"]
            if suite in GMAC:
                row.append(f"{2 * passes * GMAC[suite] * line['images_per_s']:.0f}")
            rows.append(row)
        head = ["program", "format", "images/s", "against PyTorch eager, same format", "peak MiB"]
        parts += [f"{title}, batch {chosen[0]['batch']}:", table(head + (["GFLOP/s"] if suite in GMAC else []), rows)]
    if floors:
        rows = [[dtype, f"{line['matmul_gflops']:.0f}", f"{line['conv_gflops']:.0f}"] for dtype, line in floors.items()]
        parts += ["What one large call of the library reaches in the same run, GFLOP/s:",
                  table(["format", "2048^3 matrix product", "3x3 convolution, 256 channels at 16x16"], rows)]
    return "\n\n".join(parts)


def sampling(lines):
    parts = [machine(lines)]
    titles = {"sample": "Sampling to PNG files, 10 steps of DPM-Solver++ (2M), start to finish",
              "one small image": "One 8x8 image, 10 steps, start to finish", "start": "Start-up (gen: `gen doctor`, which loads libtorch and tries the devices)"}
    for what, title in titles.items():
        chosen = [line for line in lines if line["what"] == what]
        if not chosen:
            continue
        count = f", {chosen[0]['batch']} images" if "batch" in chosen[0] else ""
        rows = [[line["who"], line.get("dtype", ""), f"{line['median_s']:.2f}", f"{line['gen_is_faster']:.2f}",
                 f"{line['peak_mib']:.0f}"] for line in chosen]
        parts += [f"{title}{count}:", table(["program", "format", "seconds", "times gen's", "peak MiB"], rows)]
    return "\n\n".join(parts)


def eval_fid(lines):
    parts = [machine(lines)]
    for what in dict.fromkeys(line["what"] for line in lines):
        chosen = [line for line in lines if line["what"] == what]
        rate = [f"{line['images_per_s']:.1f}" if "images_per_s" in line else "" for line in chosen]
        rows = [[line["who"], f"{line['fid']:.6f}", f"{line['median_s']:.2f}", n, f"{line['gen_is_faster']:.2f}",
                 f"{line['cpu_s']:.1f}", f"{line['peak_mib']:.0f}"] for line, n in zip(chosen, rate)]
        head = ["program", "FID", "seconds", "images/s", "times gen's", "CPU seconds", "peak MiB"]
        title = "From statistics to the distance (the matrix root)" if what == "root" else f"As {what} measures, 512 images"
        parts += [f"{title}:", table(head, rows)]
    return "\n\n".join(parts)


def audio(lines):
    parts = [machine(lines)]
    step = [line for line in lines if line["what"] == "step"]
    rows = [[str(line["batch"]), str(line["threads"]), line["who"], f"{line['images_per_s']:.0f}",
             f"{line['gen_is_faster']:.1f}", f"{line['peak_mib']:.0f}"] for line in step]
    parts += ["Values drawn a second, 6.8 M parameters, f32:",
              table(["batch", "threads", "program", "values/s", "times gen's", "peak MiB"], rows)]
    own = [line for line in step if "last_us" in line and line["batch"] == 1]
    parts += [f"A step of gen at batch 1 takes {line['first_us']:.0f} us in the first tenth of 16 000 values and "
              f"{line['last_us']:.0f} us in the last." for line in own]
    rows = [[{"train": "SaShiMi U-Net, 6.8 M"}.get(line["what"], line["what"]), line["who"], f"{line['median_s']:.2f}",
             f"{line['gen_is_faster']:.1f}", f"{line['peak_mib']:.0f}"] for line in lines if line["what"] != "step"]
    parts += ["A training step on one clip of 16 000 samples, two threads:",
              table(["network", "program", "seconds", "times gen's", "peak MiB"], rows)]
    return "\n\n".join(parts)


def text(lines):
    parts = [machine(lines)]
    for batch in sorted({line["batch"] for line in lines if line["what"] == "text"}):
        chosen = [line for line in lines if line["what"] == "text" and line["batch"] == batch]
        rows = [[line["who"], line["dtype"], f"{line['prefill_tokens_per_s']:.0f}", f"{line['decode_tokens_per_s']:.1f}",
                 f"{1 / line['gen_is_faster']:.2f}", f"{100 * line['share_of_copy']:.0f} %", f"{line['peak_mib']:.0f}"]
                for line in chosen]
        head = ["program", "format", "prompt tokens/s", "decoded tokens/s", "of gen's", "of a copy's bandwidth", "peak MiB"]
        rates = sorted(line["copy_bytes_per_s"] / 1e9 for line in chosen)
        copy = f"a copy moves {rates[0]:.1f} to {rates[-1]:.1f} GB/s"
        parts += [f"Batch {batch}, prompts of {chosen[0]['prompt']} tokens, {chosen[0]['new']} decoded; {copy}:",
                  table(head, rows)]
    rows = [[line["who"], f"{line['min_s']:.2f}", f"{line['median_s']:.2f}", f"{line['peak_mib']:.0f}"]
            for line in lines if line["what"] == "one token"]
    parts += ["One token of a prompt of one, f32, start to finish:", table(["program", "best, s", "median, s", "peak MiB"], rows)]
    return "\n\n".join(parts)


def main():
    for suite in ("unet32", "digits", "sampling", "eval-fid", "audio", "text"):
        lines = newest(suite)
        if not lines:
            continue
        body = {"sampling": sampling, "eval-fid": eval_fid, "audio": audio, "text": text}.get(suite, lambda found: network(suite, found))(lines)
        for readme in (HERE / suite / "README.md", HERE / "README.md"):
            old = readme.read_text()
            mark = re.compile(rf"(<!-- {suite} -->\n).*?(<!-- end -->)", re.S)
            readme.write_text(mark.sub(lambda m: m[1] + body + "\n" + m[2], old))


main()

#!/bin/sh
# Runs the benchmarks: gen and, where a Python with torch and diffusers can be had, its peers.
#
#   benchmarks/run.sh [unet32] [digits] [sampling] [eval-fid] [audio] [text] [-- OPTIONS OF bench.py]
#
# PYTHON=PATH names a Python that has torch, diffusers and pillow; otherwise one is made outside the tree.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
suites=
while [ $# -gt 0 ]; do
    case $1 in
    --) shift; break ;;
    *) suites="$suites $1"; shift ;;
    esac
done
[ -n "$suites" ] || suites="unet32 digits sampling eval-fid audio text"

python=${PYTHON:-}
if [ -z "$python" ]; then
    venv=${XDG_CACHE_HOME:-$HOME/.cache}/gen/benchmarks-venv
    if ! "$venv/bin/python" -c 'import torch, diffusers, PIL' 2>/dev/null; then
        echo "making $venv with torch and diffusers (a few minutes)" >&2
        if python3 -m venv "$venv" && "$venv/bin/pip" install -q 'torch==2.11.0' torchvision diffusers transformers pillow pytorch-fid clean-fid torch-fidelity; then :; else
            echo "no peers: pip could not install torch and diffusers; gen runs alone" >&2
            venv=
        fi
    fi
    [ -z "$venv" ] || python=$venv/bin/python
elif ! "$python" -c 'import torch, diffusers, PIL'; then
    echo "PYTHON=$python lacks torch, diffusers or pillow" >&2
    exit 2
fi

for suite in $suites; do
    python3 "$here/bench.py" "$suite" ${python:+--python "$python"} "$@"
done
python3 "$here/tables.py"
echo "the tables of benchmarks/README.md are up to date" >&2

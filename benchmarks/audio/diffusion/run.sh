#!/bin/sh
# Times a training step of the two small waveform networks: gen and eager PyTorch in turn, on one machine.
#
#   benchmarks/audio/diffusion/run.sh [DEVICE]     PYTHON=PATH (with torch), BATCH=1, ROUNDS=5
#
# Prints one JSON line for each run.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
device=${1:-cpu} batch=${BATCH:-1} rounds=${ROUNDS:-5}
for pair in diffwave-small:diffwave diffwave-sashimi-small:sashimi; do
    recipe=${pair%%:*} peer=${pair##*:}
    "${GEN:-$root/target/release/gen}" bench "$root/models/$recipe" --shape 1,16000 --what train \
        --batch "$batch" -r "$rounds" --output jsonl --device "$device"
    "${PYTHON:-python3}" "$here/peer.py" "$peer" --batch "$batch" --rounds "$rounds" --device "$device"
done

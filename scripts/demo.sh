#!/bin/sh
# The main job on real data in a few minutes: train on handwritten digits, sample with ten network
# evaluations, measure beside noise, a Gaussian fit and real digits.
set -eu
gen=target/release/gen
out=${GEN_DEMO_OUT:-runs/demo}
rm -rf "$out"
mkdir -p "$out"

echo "1. Training a score network on 1400 real handwritten digits (a few minutes) ..."
$gen train models/digits-edm --out "$out/run"

echo "2. Sampling 397 digits with DPM-Solver at 10 network evaluations ..."
$gen sample --model "$out/run" --solver dpm --steps 10 --seeds 0-396 --batch 397 \
  --out "$out/dpm.npz" --quiet
$gen sample --model "$out/run" --solver dpm --steps 10 --seeds 0-63 \
  --out "$out/images" --grid-image "$out/digits.png" --quiet

echo "3. Measuring against 397 held-out digits that were never trained on"
echo
echo "Frechet distance on the features of a digit classifier (lower is better):"
$gen eval-fid --images "$out/dpm.npz" --ref data/digits --ref-split test --features digits \
  --metrics fid,pr --baselines data/digits
echo
echo "1-nearest-neighbour two-sample accuracy on pixels (0.5: cannot be told from held-out digits):"
$gen eval-fid --images "$out/dpm.npz" --ref data/digits --ref-split test --features pixel8 \
  --metrics nn --baselines data/digits
echo
echo "The same against the training digits (far below 0.5 would mean copying):"
$gen eval-fid --images "$out/dpm.npz" --ref data/digits --ref-split train --features pixel8 --metrics nn
echo
echo "4. Solvers at 5 and 10 evaluations: 1-NN accuracy and Frechet distance"
for solver in ddim dpm++ dpm; do
  for steps in 5 10; do
    $gen sample --model "$out/run" --solver "$solver" --steps $steps --seeds 0-396 --batch 397 \
      --out "$out/compare.npz" --overwrite --quiet
    nn=$($gen eval-fid --images "$out/compare.npz" --ref data/digits --ref-split test --features pixel8 \
      --metrics nn --quiet | awk '/1-NN/ {print $3}')
    fd=$($gen eval-fid --images "$out/compare.npz" --ref data/digits --ref-split test --features digits \
      --metrics fid --quiet | awk '/^FID/ {print $2}')
    printf '   %-6s %2s evaluations   1-NN %s   Frechet %s\n' "$solver" "$steps" "$nn" "$fd"
  done
done
rm -f "$out/compare.npz"
echo
echo "The digits: $out/digits.png"

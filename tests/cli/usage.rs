//! Command lines that cannot be read.

use super::world::Transcript;

#[test]
fn words_that_nobody_knows() {
    let mut t = Transcript::new();
    t.fails(2, "smaple");
    t.fails(2, "frobnicate");
    t.fails(2, "sample --model runs/plain --out x --solvr dpm");
    t.fails(2, "sample --model runs/plain --out x --frobnicate 3");
    t.fails(2, "sample --model runs/plain --out x --solver dmp");
    t.fails(2, "sample --model runs/plain --out x --solver foo");
    t.fails(2, "sample --model runs/plain --out x --format gif");
    t.fails(2, "sample --model runs/plain --out x --latent-dtype f16");
    t.fails(2, "sample --model runs/plain --out x --solver deis --variant foo");
    t.fails(2, "sample --model runs/plain --out x --solver deis --tableau rk5");
    t.fails(2, "sample --model runs/plain --out x --rng mersenne");
    t.fails(2, "train tiny.toml --out x --dtype f8");
    t.fails(2, "eval-fid --images images/good --ref images/real.npz --metrics fid,foo");
    t.fails(2, "eval-fid --images images/good --ref images/real.npz --features dinov2");
    t.fails(2, "eval-fid --images images/good --ref images/real.npz --protocol keras");
    t.fails(2, "completions csh");
    t.check("usage-unknown");
}

#[test]
fn values_out_of_range() {
    let mut t = Transcript::new();
    for flag in [
        "--steps 0",
        "--steps 2.5",
        "--steps -3",
        "--steps many",
        "--nfe 0",
        "--batch 0",
        "--order -1",
        "--threads 0",
        "--seeds a",
        "--seeds 5-3",
        "--seeds -1",
        "--seeds 1,,2",
        "--seeds 0-99999999999",
        "--shard 3/3",
        "--shard half",
        "--shard 1/0",
        "--guidance nan",
        "--guidance strong",
        "--eta inf",
        "--sigma-max inf",
        "--s-min nan",
        "--class",
        "--steps",
        "--device tpu",
        "--device cuda:x",
    ] {
        t.fails(2, &format!("sample --model runs/plain --out x {flag}"));
    }
    t.fails(2, "train tiny.toml --out x --steps 0");
    t.fails(2, "train tiny.toml --out x --seed -1");
    t.fails(2, "train tiny.toml --out x --batch 0");
    t.fails(2, "train tiny.toml --out x --duration long");
    t.fails(2, "eval-fid --images images/good --ref images/real.npz --features pixel8 --num some");
    t.fails(2, "eval-fid --images images/good --ref images/real.npz --features pixel8 --metrics pr --pr-k 0");
    t.fails(2, "eval-fid --images images/good --ref images/real.npz --features pixel8 --max nan");
    t.fails(2, "selftest --steps 1");
    t.fails(2, "bench tiny.toml --repeat 0");
    t.check("usage-range");
}

#[test]
fn missing_and_contradicting_options() {
    let mut t = Transcript::new();
    t.fails(2, "sample");
    t.fails(2, "sample --model runs/plain");
    t.fails(2, "train --out x");
    t.fails(2, "train tiny.toml");
    t.fails(2, "eval-fid");
    t.fails(2, "ref-stats --data images/good");
    t.fails(2, "inspect");
    t.fails(2, "completions");
    t.fails(2, "sample --model runs/plain --out x --steps 5 --nfe 5");
    t.fails(2, "sample --model runs/plain --out x --resume --overwrite");
    t.fails(2, "sample --model runs/plain --model runs/vp --out x");
    t.fails(2, "train tiny.toml --out x --steps 5 --duration 5k");
    t.fails(2, "inspect runs/plain runs/vp");
    t.check("usage-missing");
}

#[test]
fn values_from_the_environment_are_checked_too() {
    let mut t = Transcript::new();
    t.env("GEN_STEPS", "0");
    t.fails(2, "sample --model runs/plain --out x");
    t.env("GEN_STEPS", "");
    t.env("GEN_SOLVER", "foo");
    t.fails(2, "sample --model runs/plain --out x");
    t.check("usage-environment");
}

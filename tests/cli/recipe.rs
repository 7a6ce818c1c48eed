//! Recipes that cannot be used: exit code 2, with the key named.

use super::world::{Transcript, world};

#[test]
fn recipes_that_cannot_be_read() {
    let place = world();
    std::fs::write(place.join("broken.toml"), "[model]\ntype = = 3\n").unwrap();
    std::fs::write(place.join("half.toml"), "[model]\ntype = \"mlp\"\n").unwrap();
    let mut t = Transcript::new();
    t.fails(2, "train absent.toml --dry-run");
    t.fails(2, "train absent/recipe.toml --dry-run");
    t.fails(2, "train empty --dry-run");
    t.fails(2, "train broken.toml --dry-run");
    t.fails(2, "train half.toml --dry-run");
    t.fails(2, "train images/real.npz --dry-run");
    t.fails(2, "bench absent.toml");
    t.check("recipe-file");
}

#[test]
fn keys_that_are_wrong() {
    let mut t = Transcript::new();
    for set in [
        "optim.learning_rate=1",
        "optim.lrr=1",
        "mod.x=1",
        "optimizer.lr=1",
        "model.channel=3",
        "train.stepz=3",
        "sample.solver.nme=dpm",
        "ema.tp=1",
        "nokey",
        "=3",
        "optim.lr.x=1",
        "optim.lr=abc",
        "optim.lr=[1]",
        "train.batch=-1",
        "train.batch=1.5",
        "train.seed=-1",
        "model.num_blocks=few",
        "model.channel_mult=2",
        "'model.attn_resolutions=[4, \"a\"]'",
        "ema.decay=x",
        "data.classes=yes",
        "model.type=ncsnp",
        "process.type=foo",
        "objective.type=foo",
        "optim.type=adan",
        "optim.schedule=foo",
        "sample.solver.name=foo",
        "data.split=foo",
        "train.precision=fp8",
        "train.log_every=foo",
        "train.batch=0",
        "train.steps=0",
        "train.accumulate=3",
        "train.keep=0",
    ] {
        t.fails(2, &format!("train tiny.toml --dry-run --set {set}"));
    }
    t.check("recipe-keys");
}

#[test]
fn values_that_make_no_run() {
    let mut t = Transcript::new();
    for set in [
        "optim.lr=-1",
        "optim.lr=nan",
        "process.sigma_min=30",
        "objective.sigma_data=0",
        "model.channel_mult=[]",
        "model.channel_mult=[1,2,2,2,2,2,2]",
        "model.dropout=2",
        "ema.decay=2",
        "optim.betas=[1.5,0.9]",
    ] {
        t.fails(2, &format!("train tiny.toml --data data/digits --out runs/never --set {set}"));
    }
    t.check("recipe-values");
}

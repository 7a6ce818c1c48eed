//! Models that cannot be opened: exit code 4.

use super::world::Transcript;

#[test]
fn models_that_cannot_be_opened() {
    let mut t = Transcript::new();
    for model in [
        "models/absent.safetensors",
        "absent/run",
        "models/cut.safetensors",
        "models/header-cut.safetensors",
        "models/nothing.safetensors",
        "models/no-card.safetensors",
        "models/newer.safetensors",
        "models/other-network.safetensors",
        "models/other-shape.safetensors",
        "models/extra.safetensors",
        "models/renamed.safetensors",
        "models/hub",
        "note.txt",
        "empty",
        "images/real.npz",
    ] {
        t.fails(4, &format!("sample --out x --seeds 0 --model {model}"));
    }
    t.fails(4, "sample --out x --model runs/plain --weights other");
    for folder in [
        "no-weights",
        "no-part",
        "cut",
        "pointer",
        "conditional",
        "activation",
        "other-width",
        "scheduler",
        "whole --weights ema",
    ] {
        t.fails(4, &format!("sample --out x --seeds 0 --model hub/{folder}"));
    }
    t.check("model");
}

#[test]
fn bare_modules_are_asked_what_they_are() {
    let mut t = Transcript::new();
    let start = "sample --out x --seeds 0 --model";
    for flags in ["", " --process vp", " --process vp --shape 1,4,4", " --time steps", " --shape 1,0"] {
        t.fails(2, &format!("{start} models/tensor.pt{flags}"));
    }
    t.fails(4, &format!("{start} models/class.pt --process vp --shape 1,4,4 --prediction eps"));
    t.fails(4, &format!("{start} models/tensor.pt --process vp --shape 1,4,4 --prediction eps --classes 3"));
    t.fails(2, &format!("{start} runs/plain --process vp"));
    t.check("bare-modules");
}

#[test]
fn files_that_cannot_be_listed() {
    let mut t = Transcript::new();
    for path in [
        "models/absent.safetensors",
        "models/cut.safetensors",
        "note.txt",
        "empty",
        "models/hub",
        "hub/no-weights",
        "hub/no-part",
    ] {
        t.fails(4, &format!("inspect {path}"));
    }
    t.check("inspect");
}

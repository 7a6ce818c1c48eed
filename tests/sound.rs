//! Sound through the program: recipes at their published sizes, training, scoring, drawing.
#![allow(clippy::unwrap_used)]

mod common;

use common::{json, root, run, text};
use genlib::data::audio::synthetic::{Signal, Synthetic};
use genlib::net::store::Store;
use genlib::net::{Cond, Mode};
use genlib::objective::Batch;
use genlib::objective::autoregressive::causal;
use genlib::recipe::Recipe;
use genlib::torch::shim::Generator;
use tch::{Device, Kind, Tensor};

/// Builds the recipe's network, trains one step on noise and steps it once; gives its number of parameters.
fn step(name: &str) -> usize {
    let recipe = Recipe::load(&root().join("models").join(name), &[]).unwrap();
    let store = Store::new(Device::Cpu, Kind::Float, 0);
    // Short clips: the network is the same at any length.
    let net = recipe.model.build(&store.root(), &[1, 256], 0).unwrap();
    let x = Generator::new(1).unwrap().normal(&[1, 1, 256], Kind::Float).unwrap().clamp(-1.0, 1.0);
    let batch =
        Batch { x, class: None, augment: None, mel: None, frames: None, draw_seed: 1, mode: Mode::Train };
    let process = recipe.process.build().unwrap();
    let losses = recipe.objective.build().unwrap().loss(net.as_ref(), process.as_ref(), &batch).unwrap();
    let bits = losses.total.double_value(&[]) / 2f64.ln();
    assert!((7.0..10.0).contains(&bits), "{name}: {bits} bits before training");
    losses.total.backward();
    let mut optimizer = recipe.optim.build_grouped(store.trainable(), &store.groups()).unwrap();
    optimizer.step(1e-3, None).unwrap();
    let net = causal(net.as_ref()).unwrap();
    let mut state = net.begin(2, &Cond::default()).unwrap();
    let logits = state.step(&Tensor::from_slice(&[128i64, 128])).unwrap();
    assert_eq!(logits.size(), [2, 256]);
    store.parameters()
}

#[test]
fn published_recipes_have_their_published_sizes() {
    assert_eq!(step("sashimi-sc09"), 4_751_072);
    assert_eq!(step("sashimi-youtubemix"), 4_751_072);
    assert_eq!(step("sashimi-beethoven"), 4_751_072);
    assert_eq!(step("sashimi-sc09-unet"), 6_820_512);
    assert_eq!(step("wavenet-sc09"), 4_244_480);
}

#[test]
fn tones_are_learned_scored_and_drawn() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let recipe = root().join("models/tones");
    run(&["train", text(&recipe), "--out", text(&out), "--steps", "40", "-q"]);
    let scored = json(&["eval-nll", "--model", text(&out), "--data", "synthetic:tones", "--num", "16"]);
    let bits = scored["bits_per_sample"].as_f64().unwrap();
    // Guessing costs 6 bits; below 2.658 no model can go that does not see what it predicts.
    assert!((2.658..5.4).contains(&bits), "{bits}");
    assert_eq!(scored["samples"], 16 * 1024);

    let draw = |place: &str, more: &[&str]| {
        let folder = temp.path().join(place);
        let mut args = vec!["sample", "--model", text(&out), "--length", "256", "--out", text(&folder), "-q"];
        args.extend_from_slice(more);
        run(&args);
        folder
    };
    let all = draw("all", &["--seeds", "0-4", "--deterministic"]);
    let some = draw("some", &["--seeds", "3,1", "--batch", "1", "--deterministic"]);
    for seed in [1, 3] {
        let name = format!("{seed:06}.wav");
        assert_eq!(std::fs::read(all.join(&name)).unwrap(), std::fs::read(some.join(&name)).unwrap());
    }
    // The likelihood reported while drawing is that of scoring what was written, at any temperature.
    let cold =
        draw("cold", &["--seeds", "0-2", "--temperature", "0.7", "--top-p", "0.9", "--bit-depth", "32f"]);
    let lines = std::fs::read_to_string(cold.join("samples.jsonl")).unwrap();
    let drawn: f64 = lines
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["nll_bits"].as_f64().unwrap())
        .sum();
    let scored = json(&[
        "eval-nll",
        "--model",
        text(&out),
        "--data",
        text(&cold),
        "--split",
        "all",
        "--length",
        "256",
    ]);
    let scored = scored["bits_per_sample"].as_f64().unwrap();
    assert!((drawn / 3.0 - scored).abs() < 1e-4 * scored, "{} {scored}", drawn / 3.0);

    // A prefix is kept, and the rest depends on it.
    let prefix = all.join("000002.wav");
    let went = draw("went", &["--seeds", "7", "--prefix", text(&prefix), "--prefix-seconds", "0.01"]);
    let read = |path: &std::path::Path| genlib::io::wav::read(path).unwrap().data;
    let (a, b) = (read(&prefix), read(&went.join("000007.wav")));
    assert!(a.narrow(1, 0, 160).equal(&b.narrow(1, 0, 160)) && !a.equal(&b));
}

#[test]
fn synthetic_clips_are_of_the_length_asked_for() {
    let synthetic = Synthetic { signal: Signal::Comb, length: 250, rate: 8000, held_out: true };
    assert_eq!(synthetic.clips(0, 5, 3).unwrap().size(), [3, 1, 250]);
}

//! Sound through the program: recipes at their published sizes, training, scoring, drawing.
#![allow(clippy::unwrap_used)]

mod common;

use common::{json, outcome, root, run, text};
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
    // At another rate, half as many samples.
    let slow = draw("slow", &["--seeds", "0", "--rate", "8000"]);
    let (rate, frames) = {
        let wave = genlib::io::wav::read(&slow.join("000000.wav")).unwrap();
        (wave.rate, wave.data.size()[1])
    };
    assert_eq!((rate, frames), (8000, 128));
    let prefix = all.join("000002.wav");
    let went = draw("went", &["--seeds", "7", "--prefix", text(&prefix), "--prefix-seconds", "0.01"]);
    let read = |path: &std::path::Path| genlib::io::wav::read(path).unwrap().data;
    let (a, b) = (read(&prefix), read(&went.join("000007.wav")));
    assert!(a.narrow(1, 0, 160).equal(&b.narrow(1, 0, 160)) && !a.equal(&b));
}

#[test]
fn rejection_is_tuned_on_a_classifier() {
    let temp = tempfile::tempdir().unwrap();
    let (model, out) = (root().join("models/spoken-digits"), temp.path().join("out"));
    let draw = |seeds: &str, out: &std::path::Path| {
        let mut args =
            vec!["sample", "--model", text(&model), "--length", "256", "--reject", "tune", "--json"];
        args.extend(["--seeds", seeds, "--out", text(out)]);
        outcome(&args)
    };
    let went = draw("0-39", &out);
    assert!(went.status.success(), "{}", String::from_utf8_lossy(&went.stderr));
    let said: serde_json::Value = serde_json::from_slice(&went.stdout).unwrap();
    let reject = &said["reject"];
    assert_eq!(reject["samples"], 40, "{said}");
    let (low, high) = (reject["low"].as_f64().unwrap(), reject["high"].as_f64().unwrap());
    assert!((0.0..=0.4).contains(&low) && (0.0..=0.4).contains(&high), "{said}");
    let lines = std::fs::read_to_string(out.join("samples.jsonl")).unwrap();
    let kept = lines.lines().filter(|l| l.contains("\"kept\":true")).count();
    assert_eq!(reject["kept"], kept, "{said}");
    assert_eq!(reject["tuned"]["test_all"]["n"], 20);
    let few = draw("0-29", &temp.path().join("few"));
    assert_eq!(few.status.code(), Some(2), "{}", String::from_utf8_lossy(&few.stderr));
}

#[test]
fn synthetic_clips_are_of_the_length_asked_for() {
    let synthetic = Synthetic { signal: Signal::Comb, length: 250, rate: 8000, held_out: true };
    assert_eq!(synthetic.clips(0, 5, 3).unwrap().size(), [3, 1, 250]);
}

/// A short sound of two sines at 22 050 Hz.
fn write_sound(path: &std::path::Path, frames: i64) {
    let t = Tensor::arange(frames, (Kind::Float, Device::Cpu)) / 22_050.0;
    let wave = ((&t * 2765.0).sin() * 0.3 + (&t * 9110.0).sin() * 0.1).unsqueeze(0);
    genlib::io::wav::write(path, &wave, 22_050, genlib::io::wav::WavFormat::Pcm16).unwrap();
}

#[test]
fn a_vocoder_makes_sounds_of_spectrograms() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    std::fs::create_dir(at("real")).unwrap();
    for (i, frames) in [6000, 6000, 5000, 7000].into_iter().enumerate() {
        write_sound(&at("real").join(format!("{i}.wav")), frames);
    }
    let recipe = root().join("models/diffwave-ljspeech");
    let mut train = vec!["train", text(&recipe), "--data"];
    let (real, out) = (at("real"), at("run"));
    train.extend([text(&real), "--out", text(&out), "--steps", "1", "-q"]);
    for set in [
        "model.res_channels=8",
        "model.skip_channels=8",
        "model.layers=2",
        "model.dilation_cycle=2",
        "data.audio.length=2048",
        "train.batch=2",
        "train.sample_every=1",
    ] {
        train.extend(["--set", set]);
    }
    run(&train);

    let sample = |more: &[&str]| {
        let mut args = vec!["sample", "--model", text(&out), "--steps", "2", "--solver", "ddim", "-q"];
        args.extend_from_slice(more);
        outcome(&args)
    };
    let made = at("made");
    let went = sample(&["--mel", text(&real), "--out", text(&made)]);
    assert!(went.status.success(), "{}", String::from_utf8_lossy(&went.stderr));
    let frames = |folder: &std::path::Path, i: usize| {
        genlib::io::wav::read(&folder.join(format!("{i:06}.wav"))).unwrap().data.size()[1]
    };
    assert_eq!([0, 1, 2, 3].map(|i| frames(&made, i)), [6000, 6000, 5000, 7000]);
    assert!(!made.join("000004.wav").exists(), "one sound of each spectrogram");
    // The same whatever is computed beside it.
    let alone = at("alone");
    assert!(
        sample(&["--mel", text(&real), "--seeds", "0-3", "--batch", "1", "--out", text(&alone)])
            .status
            .success()
    );
    let read = |folder: &std::path::Path| genlib::io::wav::read(&folder.join("000001.wav")).unwrap().data;
    assert!((read(&made) - read(&alone)).abs().max().double_value(&[]) < 1e-3);

    // An array of frames, two sounds of it; --length cuts.
    let mel = at("mel.npz");
    let spectrum = genlib::torch::spectrum::MelSpectrogram::diffwave();
    let wave = genlib::io::wav::read(&at("real").join("2.wav")).unwrap().data;
    let array = genlib::io::npy::Array::from_tensor(&spectrum.run(&wave).unwrap().squeeze()).unwrap();
    genlib::io::npz::write(&mel, |out| out.array("mel", &array)).unwrap();
    let cut = at("cut");
    assert!(
        sample(&["--mel", text(&mel), "--seeds", "0,1", "--length", "4000", "--out", text(&cut)])
            .status
            .success()
    );
    assert_eq!((frames(&cut, 0), frames(&cut, 1)), (4000, 4000));

    for (code, words, more) in [
        (2, "--mel", vec![]),
        (2, "not that long", vec!["--mel", text(&mel), "--length", "9000"]),
        (3, "absent", vec!["--mel", "absent.npz"]),
        (2, "beta 2 is not", vec!["--mel", text(&mel), "--fast-schedule", "0.5,2"]),
    ] {
        let place = at("none");
        let mut args = vec!["--seeds", "0", "--out", text(&place)];
        args.extend(more);
        let went = sample(&args);
        let said = String::from_utf8_lossy(&went.stderr);
        assert_eq!(went.status.code(), Some(code), "{said}");
        assert!(said.contains(words) && !said.contains("panicked"), "{said}");
        assert!(!place.join("000000.wav").exists());
    }
    let fast = at("fast");
    let six = "1e-4,1e-3,1e-2,0.05,0.2,0.5";
    let went = outcome(&[
        "sample",
        "--model",
        text(&out),
        "--mel",
        text(&mel),
        "--fast-schedule",
        six,
        "--seeds",
        "0",
        "--out",
        text(&fast),
        "--json",
    ]);
    let said: serde_json::Value = serde_json::from_slice(&went.stdout).unwrap();
    assert_eq!(said["nfe"], 6, "{said}");
}

#[test]
fn what_is_trained_can_be_heard_and_the_rate_falls_on_plateaus() {
    let temp = tempfile::tempdir().unwrap();
    let recipe = root().join("models/tones");
    let train = |place: &str, steps: &str, keep: &str| {
        let out = temp.path().join(place);
        let mut args =
            vec!["train", text(&recipe), "--out", text(&out), "--steps", steps, "-q", "--set", keep];
        // Nothing is learned with such a rate: no loss is better than the first.
        for set in [
            "train.batch=2",
            "data.audio.length=64",
            "train.validate_every=1",
            "train.validate_count=2",
            "train.log_every=1",
            "train.sample_every=2",
            "train.sample_count=2",
            "optim.schedule=plateau",
            "optim.patience=1",
            "optim.factor=0.5",
            "optim.warmup=0",
            "optim.lr=1e-12",
        ] {
            args.extend(["--set", set]);
        }
        run(&args);
        out
    };
    let rates = |out: &std::path::Path| -> Vec<f64> {
        let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
        let lines = log.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        lines.filter_map(|l| l["lr"].as_f64()).collect()
    };
    let whole = train("whole", "6", "train.keep=1");
    assert_eq!(
        rates(&whole).iter().map(|lr| lr / 1e-12).map(|x| (x * 1e6).round() / 1e6).collect::<Vec<_>>(),
        [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    );
    // A run that is cut knows how long it has waited.
    let _ = train("cut", "2", "train.keep=1");
    let cut = train("cut", "6", "train.keep=1");
    assert_eq!(rates(&whole), rates(&cut));
    for seed in 0..2 {
        let wave =
            genlib::io::wav::read(&whole.join(format!("samples/00000002/{seed:06}.wav"))).unwrap().data;
        assert_eq!(wave.size(), [1, 64]);
    }
    assert!(whole.join("samples/00000002.png").exists());
    let digits = root().join("models/digits-edm");
    let error = outcome(&[
        "train",
        text(&digits),
        "--set",
        "optim.schedule=plateau",
        "--out",
        text(&temp.path().join("no")),
    ]);
    assert_eq!(error.status.code(), Some(2), "{}", String::from_utf8_lossy(&error.stderr));
}

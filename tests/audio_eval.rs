//! `gen eval-audio` from files to figures.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{json, root, text};
use genlib::data::audio::{AudioSpec, Clips, Part};
use genlib::data::quantize::Quantizer;
use genlib::io::sound::Sound;
use genlib::io::wav::{WavFormat, write_sound};
use genlib::math::rng::SplitMix64;
use genlib::metric::audio::fad::fad;
use genlib::metric::audio::features::{SoundExtractor, collect};
use genlib::metric::audio::predictor::{Domain, Fit};
use genlib::metric::audio::scores::{Probabilities, is_standard, mis};
use genlib::metric::audio::spectral::{log_spectral_distance, mr_stft, si_sdr};
use tch::{Device, Kind, Tensor};

fn noise(folder: &Path, n: usize, frames: impl Fn(usize) -> usize, gain: f64, seed: u64) {
    std::fs::create_dir_all(folder).unwrap();
    let mut random = SplitMix64::new(seed);
    for i in 0..n {
        let data = (0..frames(i)).map(|_| (0.1 * gain * random.normal()) as f32).collect();
        let sound = Sound { channels: 1, rate: 8000, data };
        write_sound(&folder.join(format!("{i}.wav")), &sound, WavFormat::F32).unwrap();
    }
}

fn embedder() -> String {
    root().join("tests/fixtures/audio/embedder.pt").display().to_string()
}

#[test]
fn embeddings_of_a_module() {
    let temp = tempfile::tempdir().unwrap();
    let (a, b) = (temp.path().join("a"), temp.path().join("b"));
    noise(&a, 12, |i| 6400 + 640 * (i % 3), 1.0, 1);
    noise(&b, 10, |_| 6400, 2.0, 2);
    let features = format!("torchscript:{}", embedder());
    let common =
        ["eval-audio", "--audio", text(&a), "--ref", text(&b), "--ref-split", "all", "--features", &features];
    let found = json(
        &[&common[..], &["--metrics", "fad,fad-inf,is,mis,am,fid,ndb", "--cells", "4", "--per-file"]]
            .concat(),
    );

    // The same by hand: padding is not embedded.
    let extractor = SoundExtractor::torchscript(Path::new(&embedder()), Device::Cpu).unwrap();
    let open = |path: &Path| Clips::open(path, Part::All, &AudioSpec::default()).unwrap();
    let frames = |clips: &Clips| -> (Tensor, Tensor) {
        let all: Vec<usize> = (0..clips.len()).collect();
        let out = collect(clips, &all, &extractor, 5, &mut |_| ()).unwrap();
        (out.frames().unwrap(), out.logits.unwrap())
    };
    let ((x, logits), (y, _)) = (frames(&open(&a)), frames(&open(&b)));
    assert_eq!((x.size(), y.size()), (vec![4 * (100 + 110 + 120), 4], vec![1000, 4]));
    let near = |name: &str, want: f64| {
        let got = found[name].as_f64().unwrap();
        assert!((got / want - 1.0).abs() < 1e-5, "{name}: {got} {want}");
    };
    near("fad", fad(&x, &y).unwrap());
    let p = Probabilities::of_logits(&logits).unwrap();
    near("is", is_standard(&p));
    near("mis", mis(&p, 10_000, 0));
    assert_eq!((found["frames"].as_u64(), found["frames_ref"].as_u64()), (Some(1320), Some(1000)));
    assert!(found["fad_inf"]["value"].as_f64().unwrap() > 0.0);
    assert!(found["am"].as_f64().unwrap() > 0.0 && found["fid"].as_f64().unwrap() > 0.0);
    let files = found["files"].as_array().unwrap();
    assert_eq!((files.len(), files[0]["name"].as_str()), (12, Some("0.wav")));
    assert!(files.iter().all(|f| f["fad"].as_f64().unwrap() > 0.0 && f["class"].is_u64()));

    // A set is at no distance from itself.
    let same = json(&[
        "eval-audio",
        "--audio",
        text(&a),
        "--ref",
        text(&a),
        "--ref-split",
        "all",
        "--features",
        &features,
    ]);
    assert!(same["fad"].as_f64().unwrap().abs() < 1e-6);
    let few = temp.path().join("few");
    noise(&few, 2, |_| 128, 1.0, 3);
    let refused = common::outcome(&[
        "eval-audio",
        "--audio",
        text(&few),
        "--ref",
        text(&b),
        "--ref-split",
        "all",
        "--features",
        &features,
    ]);
    let err = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(3));
    assert!(err.contains("4 frames of 4 numbers: a covariance needs at least 5"), "{err}");
}

#[test]
fn pairs_of_the_same_name() {
    let temp = tempfile::tempdir().unwrap();
    let (a, b) = (temp.path().join("a"), temp.path().join("b"));
    noise(&a, 3, |i| 4000 + i, 1.0, 1);
    noise(&b, 4, |_| 4100, 1.0, 2);
    let found = json(&[
        "eval-audio",
        "--audio",
        text(&a),
        "--ref",
        text(&b),
        "--ref-split",
        "all",
        "--metrics",
        "stft,si-sdr,lsd",
    ]);
    let wave = |folder: &Path, i: i64, n: i64| {
        genlib::io::wav::read(&folder.join(format!("{i}.wav"))).unwrap().data.narrow(1, 0, n)
    };
    let mean = |f: &dyn Fn(&Tensor, &Tensor) -> f64| {
        (0..3).map(|i| f(&wave(&a, i, 4000 + i), &wave(&b, i, 4000 + i))).sum::<f64>() / 3.0
    };
    for (got, want) in [
        (&found["mr_stft"]["total"], mean(&|x, y| mr_stft(x, y).unwrap().total)),
        (&found["si_sdr"], mean(&|x, y| si_sdr(x, y).unwrap())),
        (&found["lsd"], mean(&|x, y| log_spectral_distance(x, y).unwrap())),
    ] {
        assert!((got.as_f64().unwrap() - want).abs() < 1e-6, "{got} {want}");
    }
    assert!(found["notes"].to_string().contains("3 pairs differ in length"));
}

#[test]
fn the_linear_predictor_of_the_spoken_digits() {
    let data = root().join("data/spoken-digits");
    let found = json(&[
        "eval-audio",
        "--audio",
        text(&data),
        "--split",
        "test",
        "--length",
        "4096",
        "--baseline",
        "lpc:8",
    ]);
    let spec = AudioSpec { length: Some(4096), ..AudioSpec::default() };
    let codes = |part: Part| {
        let clips = Clips::open(&data, part, &spec).unwrap();
        assert_eq!((clips.classes(), clips.rate(), clips.shape()), (10, 8000, [1, 4096]));
        let all: Vec<_> = (0..clips.len()).map(|i| clips.get(i).unwrap()).collect();
        let (wave, frames, labels) = genlib::data::audio::stack(&all, 1).unwrap();
        assert_eq!(labels.unwrap().size(), [clips.len() as i64]);
        (Quantizer::default().encode(&wave.squeeze_dim(1)).unwrap(), frames)
    };
    let ((train, train_frames), (test, test_frames)) = (codes(Part::Train), codes(Part::Test));
    let mut fit = Fit::new(Quantizer::default(), Domain::Codes, 8).unwrap();
    fit.add(&train, Some(&train_frames)).unwrap();
    let bits = fit.finish().unwrap().bits(&test, Some(&test_frames), 0).unwrap();
    let want = bits.mean();
    assert!((found["baseline"]["bits_codes"].as_f64().unwrap() - want).abs() < 1e-9);
    assert_eq!(
        found["baseline"]["samples"].as_f64(),
        Some(test_frames.sum(Kind::Int64).int64_value(&[]) as f64)
    );
    // Below 8 bits, the cost of saying nothing, and above what order 32 reaches.
    assert!(want < 7.5 && want > 6.5, "{want}");
    let parts =
        [Part::Train, Part::Validation, Part::Test].map(|p| Clips::open(&data, p, &spec).unwrap().len());
    assert_eq!(parts, [584, 54, 56]);
}

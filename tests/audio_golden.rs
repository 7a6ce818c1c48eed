//! Spectra, resampling, quantisation and distances against librosa, torchaudio and auraloss
//! (scripts/golden/audio_metrics.py).
#![allow(clippy::unwrap_used)]

use std::path::Path;

use genlib::data::quantize::{QuantKind, Quantizer};
use genlib::io::bytes::tensor_to_f64;
use genlib::io::safetensors::File;
use genlib::math::mel::{MelBank, MelScale};
use genlib::math::resample::{Quality, Resampler};
use genlib::metric::audio::spectral::{mr_stft, si_sdr};
use genlib::torch::spectrum::MelSpectrogram;
use tch::{Kind, Tensor};

fn golden() -> File {
    File::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/audio/audio.safetensors")).unwrap()
}

/// Largest difference of two tensors.
fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

#[test]
fn filter_banks() {
    let file = golden();
    let bank = MelBank {
        rate: 16_000.0,
        n_fft: 512,
        bands: 20,
        low: 100.0,
        high: 7000.0,
        scale: MelScale::Slaney,
        area: true,
    };
    for (bank, name) in
        [(bank, "mel_slaney"), (MelBank { scale: MelScale::Htk, area: false, ..bank }, "mel_htk")]
    {
        let got = Tensor::from_slice(&bank.weights()).reshape([20, 257]);
        let want = file.tensor(name).unwrap();
        let scale = want.max().double_value(&[]);
        // torchaudio computes its corners in f32.
        assert!(gap(&got, &want) < 2e-5 * scale, "{name}: {}", gap(&got, &want));
    }
}

#[test]
fn mel_spectrograms() {
    let file = golden();
    let x = file.tensor("x22").unwrap().unsqueeze(0);
    for kind in [Kind::Float, Kind::Double] {
        let x = x.to_kind(kind);
        let got = MelSpectrogram::diffwave().run(&x).unwrap().squeeze_dim(0);
        // The logarithm of small magnitudes: f32 on both sides.
        assert!(gap(&got, &file.tensor("philsyn").unwrap()) < 2e-3, "philsyn");
        let got = MelSpectrogram::diffwave_lmnt().run(&x).unwrap().squeeze_dim(0);
        assert!(gap(&got, &file.tensor("lmnt").unwrap()) < 2e-5, "lmnt");
        let x = file.tensor("x16").unwrap().to_kind(kind).unsqueeze(0) / 32_768.0;
        let got = MelSpectrogram::sc09().run(&x).unwrap().squeeze_dim(0);
        assert!(gap(&got, &file.tensor("sc09").unwrap()) < 2e-3, "sc09");
    }
}

#[test]
fn resampling_is_torchaudios() {
    let file = golden();
    // In double precision: in single, torchaudio computes its filters in it, too, to 2e-6.
    let x: Vec<f32> = Vec::try_from(file.tensor("x44").unwrap()).unwrap();
    for (name, from, to, quality) in [
        ("fast_44100_16000", 44_100, 16_000, Quality::Fast),
        ("fast_16000_44100", 16_000, 44_100, Quality::Fast),
        ("fast_48000_8000", 48_000, 8000, Quality::Fast),
        ("best_44100_16000", 44_100, 16_000, Quality::Best),
    ] {
        let mut got = Resampler::new(from, to, quality).unwrap().run(&x);
        got.truncate(1500);
        let got = Tensor::from_slice(&got);
        let difference = gap(&got, &file.tensor(name).unwrap());
        assert!(difference < 1e-6, "{name}: {difference}");
    }
}

#[test]
fn quantisation_is_torchaudios() {
    let file = golden();
    let q = Quantizer { kind: QuantKind::TorchaudioMulaw, ..Quantizer::default() };
    let line = Tensor::linspace(-1.2, 1.2, 1001, (Kind::Float, tch::Device::Cpu));
    let got = q.encode(&line).unwrap();
    let want = file.tensor("mulaw_codes").unwrap().to_kind(Kind::Int64).clamp(0, 255);
    assert!(got.equal(&want));
    let all = Tensor::arange(256, (Kind::Int64, tch::Device::Cpu));
    assert!(gap(&q.decode(&all).unwrap(), &file.tensor("mulaw_decoded").unwrap()) < 2e-6);
}

#[test]
fn distances_are_auraloss() {
    let file = golden();
    let (x, y) = (file.tensor("noisy").unwrap(), file.tensor("target").unwrap());
    let want = tensor_to_f64(&file.tensor("distances").unwrap()).unwrap();
    let got = [mr_stft(&x, &y).unwrap().total, si_sdr(&x, &y).unwrap()];
    for (got, want) in got.iter().zip(&want) {
        assert!((got / want - 1.0).abs() < 1e-5, "{got} {want}");
    }
}

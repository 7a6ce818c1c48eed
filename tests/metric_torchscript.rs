//! TorchScript modules as feature extractors, in both call conventions (`scripts/golden/readers.py`).

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use genlib::io::bytes::tensor_to_f64;
use genlib::metric::features::{Extractor, Wanted};
use genlib::metric::torchscript::ScriptExtractor;
use tch::{Device, Tensor};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metric").join(name)
}

fn images() -> Tensor {
    // Mean colours 50, 100, 200 and 10, 20, 30.
    let colours = Tensor::from_slice(&[50u8, 100, 200, 10, 20, 30]).view([2, 3, 1, 1]);
    colours.expand([2, 3, 4, 4], false).contiguous()
}

#[test]
fn both_conventions_give_features_of_unscaled_images() {
    for name in ["plain.pt", "nvidia.pt"] {
        let script = ScriptExtractor::open(&fixture(name), Device::Cpu).unwrap();
        for _ in 0..2 {
            let out = script.extract(&images(), Wanted::default()).unwrap();
            assert_eq!(tensor_to_f64(&out.pool).unwrap(), [50., 100., 200., 10., 20., 30.], "{name}");
        }
        assert!(script.name().ends_with(name));
    }
}

#[test]
fn class_probabilities_come_without_the_bias() {
    let wanted = Wanted { logits: true, spatial: false };
    let script = ScriptExtractor::open(&fixture("nvidia.pt"), Device::Cpu).unwrap();
    let logits = tensor_to_f64(&script.extract(&images(), wanted).unwrap().logits.unwrap()).unwrap();
    // Up to a constant per row: differences of the classes are (100 - 50) / 100 and (20 - 10) / 100.
    assert!(
        (logits[1] - logits[0] - 0.5).abs() < 1e-6 && (logits[3] - logits[2] - 0.1).abs() < 1e-6,
        "{logits:?}"
    );
    let plain = ScriptExtractor::open(&fixture("plain.pt"), Device::Cpu).unwrap();
    let error = plain.extract(&images(), wanted).unwrap_err();
    assert_eq!(error.kind().exit_code(), 2);
}

#[test]
fn other_files_are_model_errors() {
    for name in ["state-zip.pth", "arrays.npz", "absent.pt"] {
        let error = ScriptExtractor::open(&fixture(name), Device::Cpu).unwrap_err();
        assert_eq!(error.kind().exit_code(), 4, "{error}");
    }
    let weights = ScriptExtractor::open(&fixture("state-zip.pth"), Device::Cpu).unwrap_err();
    assert!(weights.to_string().contains("weights only"), "{weights}");
    let error = genlib::io::pth::Checkpoint::open(&fixture("plain.pt")).unwrap_err().to_string();
    assert!(error.contains("TorchScript module"), "{error}");
}

//! Vision transformers against transformers, from the 8-bit picture on (`scripts/golden/vision_transformers.py`).

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use genlib::io::bytes::tensor_to_f64;
use genlib::io::safetensors;
use genlib::metric::features::{Extractor, Wanted};
use genlib::metric::transformer::{Family, Resizing, TransformerExtractor};
use genlib::net::vit_config::PositionRule;
use genlib::net::vit_weights;
use tch::{Device, Kind, Tensor};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vit").join(name)
}

fn golden(name: &str) -> Tensor {
    safetensors::File::open(&fixture("golden.safetensors")).unwrap().tensor(name).unwrap()
}

fn picture(h: usize, w: usize) -> Tensor {
    let v = |c: usize, y: usize, x: usize| (7 * x + 13 * y + 29 * c + 90 * ((x / 8 + y / 8) % 2)) % 256;
    let values: Vec<u8> = (0..3 * h * w).map(|i| v(i / (h * w), i / w % h, i % w) as u8).collect();
    Tensor::from_slice(&values).view([1, 3, h as i64, w as i64])
}

fn images() -> [Tensor; 2] {
    [picture(48, 64), picture(300, 210)]
}

fn features(extractor: &TransformerExtractor) -> Tensor {
    // Pictures of different sizes share a batch.
    assert!(extractor.any_size());
    let inputs = images().map(|i| extractor.prepare(&i).unwrap());
    extractor.forward(&Tensor::cat(&inputs, 0), Wanted::default()).unwrap().pool
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

fn open(name: &str, family: Family, positions: Option<PositionRule>) -> TransformerExtractor {
    let path = fixture(name);
    TransformerExtractor::with_positions(&path, family, Resizing::Pil8, Device::Cpu, positions).unwrap()
}

#[test]
fn dinov2_is_that_of_transformers_and_of_facebook() {
    for name in ["dinov2", "dinov2-giant"] {
        let (hub, by_size) = (golden(&format!("{name}/hub")), golden(&format!("{name}/by-size")));
        let own = features(&open(name, Family::Dinov2, None));
        assert!(gap(&own, &hub) < 1e-5, "{name}: {}", gap(&own, &hub));
        let other = features(&open(name, Family::Dinov2, Some(PositionRule::Size)));
        assert!(gap(&other, &by_size) < 1e-5, "{name}: {}", gap(&other, &by_size));
        // The two rules can be told apart.
        assert!(gap(&hub, &by_size) > 3e-5);
    }
}

#[test]
fn the_input_is_what_pil_makes() {
    let extractor = open("dinov2", Family::Dinov2, None);
    let want = tensor_to_f64(&golden("dinov2/input-sum")).unwrap();
    for (image, want) in images().iter().zip(want) {
        let got = extractor.prepare(image).unwrap().sum(Kind::Double).double_value(&[]);
        assert!((got - want).abs() < 1e-6 * want.abs(), "{got} {want}");
    }
}

#[test]
fn a_file_of_facebook_needs_no_config() {
    let own = features(&open("dinov2_vits14.pth", Family::Dinov2, None));
    assert!(gap(&own, &golden("dinov2/hub")) < 1e-5);
}

#[test]
fn registers_are_known() {
    let extractor = open("dinov2-registers", Family::Dinov2, None);
    assert!(extractor.name().ends_with("-registers"), "{}", extractor.name());
    assert!(gap(&features(&extractor), &golden("dinov2-registers/by-size")) < 1e-5);
}

#[test]
fn clip_gives_the_image_embedding() {
    let extractor = open("clip", Family::Clip, None);
    let own = features(&extractor);
    assert!(gap(&own, &golden("clip")) < 1e-5, "{}", gap(&own, &golden("clip")));
    assert_eq!(extractor.name(), "clip-2x16-p16-10");
}

#[test]
fn what_does_not_fit_is_named() {
    let fails = |path: &Path, family: Family, part: &str| {
        let error = TransformerExtractor::open(path, family, Resizing::Pil8, Device::Cpu).unwrap_err();
        assert_eq!(error.kind().exit_code(), 4, "{error}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    };
    fails(&fixture("clip"), Family::Dinov2, "a network of type `clip`");
    fails(&fixture("absent"), Family::Clip, "absent");
    let dir = tempfile::tempdir().unwrap();
    let copy = |edit: &dyn Fn(&mut serde_json::Value), drop: &str| {
        let file = safetensors::File::open(&fixture("dinov2/model.safetensors")).unwrap();
        let mut tensors = file.tensors().unwrap();
        tensors.remove(drop);
        safetensors::write(&dir.path().join("model.safetensors"), tensors, &Default::default()).unwrap();
        let text = std::fs::read_to_string(fixture("dinov2/config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        edit(&mut config);
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    };
    copy(&|_| {}, "encoder.layer.1.attention.attention.key.bias");
    fails(dir.path(), Family::Dinov2, "no key bias of `blocks.1`");
    copy(&|_| {}, "layernorm.weight");
    fails(dir.path(), Family::Dinov2, "norm.weight");
    copy(&|c| c["num_hidden_layers"] = 1.into(), "");
    fails(dir.path(), Family::Dinov2, "unknown to the network: `blocks.1");
    copy(&|c| c["hidden_size"] = 32.into(), "");
    fails(dir.path(), Family::Dinov2, "expected shape");
    copy(&|c| c["num_attention_heads"] = 3.into(), "");
    fails(dir.path(), Family::Dinov2, "3 heads");
    copy(&|c| c["model_type"] = "bert".into(), "");
    fails(dir.path(), Family::Dinov2, "model type `bert`");
    copy(&|c| c["patch_size"] = "x".into(), "");
    fails(dir.path(), Family::Dinov2, "option `patch_size`");
    copy(&|_| {}, "");
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    fails(dir.path(), Family::Dinov2, "holds none of model.safetensors");
    assert!(vit_weights::open(&fixture("dinov2"), Device::Cpu, |c| c.patch = 0).is_err());
}

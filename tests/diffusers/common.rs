//! The fixtures, and folders made of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use genlib::error::Error;
use genlib::io::safetensors;
use genlib::math::rng::{SplitMix64, fnv1a64};
use genlib::model::open::{OpenOptions, Opened, open};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/diffusers")
}

pub fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

pub fn stream(name: &str, shape: &[i64], value: impl Fn(f64) -> f64) -> Tensor {
    let mut stream = SplitMix64::new(fnv1a64(name.as_bytes()));
    let n = shape.iter().product::<i64>();
    let values: Vec<f64> = (0..n).map(|_| value(stream.uniform())).collect();
    Tensor::from_slice(&values).reshape(shape).to_kind(Kind::Float)
}

/// The parameters of the fixtures: values follow from the name.
pub fn fill(name: &str, shape: &[i64]) -> Tensor {
    let gain = (3.0 / shape.iter().skip(1).product::<i64>() as f64).sqrt();
    stream(name, shape, |u| match shape.len() {
        2.. => (2.0 * u - 1.0) * gain,
        _ if name == "time_proj.weight" => 16.0 * (2.0 * u - 1.0),
        _ if name.ends_with("weight") => 0.75 + 0.5 * u,
        _ => 0.2 * (2.0 * u - 1.0),
    })
}

pub fn data(name: &str, shape: &[i64]) -> Tensor {
    stream(name, shape, |u| 2.0 * u - 1.0)
}

pub fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The largest absolute difference to the fixture's values, in f32.
pub fn gap(got: &Tensor, want: &Value) -> f64 {
    let want = Tensor::from_slice(&floats(want));
    assert_eq!(got.kind(), Kind::Float);
    assert_eq!(got.numel(), want.numel());
    assert!(want.abs().max().double_value(&[]) > 0.1);
    (got.contiguous().view([-1]) - want).abs().max().double_value(&[])
}

/// A folder of its own with a copy of a fixture.
pub fn copied(name: &str) -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join(name);
    copy(&fixtures().join(name), &to);
    (temp, to)
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() { copy(&from, &to) } else { assert!(fs::copy(from, to).is_ok()) }
    }
}

pub fn opened(path: &Path) -> Result<Opened, Error> {
    open(path, &OpenOptions::default(), Device::Cpu)
}

pub fn weights(folder: &Path) -> PathBuf {
    folder.join("unet/diffusion_pytorch_model.safetensors")
}

pub fn tensors(folder: &Path) -> BTreeMap<String, Tensor> {
    safetensors::File::open(&weights(folder)).unwrap().tensors().unwrap()
}

pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let meta = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::write(path, tensors.iter().map(|(n, t)| (n.as_str(), t)), &meta).unwrap();
}

/// A folder with the config of a fixture and weights by the formula.
pub fn folder_of(name: &str) -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().to_owned();
    let file = read(&fixtures().join(format!("networks/{name}.json")));
    fs::write(folder.join("config.json"), file["config"].to_string()).unwrap();
    let shapes: BTreeMap<String, Vec<i64>> = serde_json::from_value(file["tensors"].clone()).unwrap();
    let all = shapes.iter().map(|(n, s)| (n.clone(), fill(n, s))).collect();
    write(&folder.join("diffusion_pytorch_model.safetensors"), &all);
    (temp, folder)
}

/// Opening fails as a bad model, and the message names the culprit.
pub fn refused(folder: &Path, words: &[&str]) {
    let error = opened(folder).unwrap_err();
    assert_eq!(error.kind().exit_code(), 4, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is not in: {error}");
    }
    assert!(error.hint_text().is_some(), "{error}");
}

//! Checkpoints of state-spaces/s4 against the outputs of its own code.
//!
//! `fixtures/sashimi` was made by `scripts/golden/audio_networks.py`.

#![allow(clippy::unwrap_used)] // unwrap: a failing test is to panic

use std::collections::BTreeMap;
use std::path::PathBuf;

use genlib::model::open::{OpenOptions, Opened, open};
use genlib::model::state_spaces::s4d_layer;
use genlib::net::layers::ssm::{DtTransform, S4, S4Config, SsmMode};
use genlib::net::sashimi::{NormKind, SashimiConfig, Wiring};
use genlib::net::spec::NetSpec;
use genlib::net::store::Store;
use genlib::net::{Cond, Mode};
use genlib::torch::runtime::Dtype;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

fn path(name: &str) -> PathBuf {
    PathBuf::from(format!("{}/tests/fixtures/sashimi/{name}", env!("CARGO_MANIFEST_DIR")))
}

fn note(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path(&format!("{name}.json"))).unwrap()).unwrap()
}

fn floats(value: &Value) -> Tensor {
    Tensor::from_slice(&serde_json::from_value::<Vec<f64>>(value.clone()).unwrap())
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Opens a fixture in f64 and compares logits of the convolution and of the recurrence.
fn agrees(name: &str) -> Opened {
    let _guard = tch::no_grad_guard();
    let options = OpenOptions { dtype: Dtype::F64, ..OpenOptions::default() };
    let model = open(&path(&format!("{name}.pt")), &options, Device::Cpu).unwrap();
    let note = note(name);
    let rows: Vec<Vec<i64>> = serde_json::from_value(note["tokens"].clone()).unwrap();
    let x = Tensor::from_slice2(&rows);
    let net = model.net.causal().unwrap();
    let got = net.logits(&x, &Cond::default(), Mode::Eval).unwrap();
    let want = floats(&note["logits"]).reshape(got.size());
    // Weights are in f32; C is solved for in f64 and kept in f32.
    assert!(gap(&got, &want) < 2e-5, "{name}: {}", gap(&got, &want));
    let mut steps = net.begin(x.size()[0], &Cond::default()).unwrap();
    let each: Vec<Tensor> = (0..x.size()[1]).map(|t| steps.step(&x.select(1, t)).unwrap()).collect();
    let stepped = Tensor::stack(&each, 1);
    assert!(gap(&stepped, &got) < 1e-8, "{name}: {}", gap(&stepped, &got));
    drop(steps);
    model
}

fn config(model: &Opened) -> SashimiConfig {
    match &model.card.model {
        NetSpec::Sashimi(config) => config.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_training_code_s_standard_wiring() {
    let model = agrees("training");
    let c = config(&model);
    assert_eq!(
        (c.wiring, c.norm, c.weight_norm(), c.layer.n_ssm),
        (Wiring::Standard, NormKind::Scalar, true, 1)
    );
    assert_eq!(
        (c.layer.dt_transform, c.bits, c.pool, c.layer.d_state),
        (DtTransform::Softplus, 4, vec![2, 2], 8)
    );
    assert_eq!((model.card.shape.clone(), model.card.rate), (vec![1, 32], Some(16_000)));
    assert!(model.notes.iter().any(|n| n.contains("softplus")), "{:?}", model.notes);
}

#[test]
fn the_training_code_s_unet_in_a_lightning_checkpoint() {
    let model = agrees("training-unet");
    let c = config(&model);
    assert_eq!((c.wiring, c.weight_norm(), c.layer.n_ssm), (Wiring::Unet, false, 0));
    assert_eq!((c.layer.dt_transform, model.card.trained.steps), (DtTransform::Exp, 7));
    assert!(!model.notes.iter().any(|n| n.contains("exponential")), "{:?}", model.notes);
}

#[test]
fn the_standalone_file_s_standard_wiring() {
    let c = config(&agrees("standalone"));
    assert_eq!((c.norm, c.weight_norm(), c.layer.n_ssm, c.layer.d_state), (NormKind::Layer, false, 2, 64));
}

#[test]
fn the_standalone_file_s_nested_unet_with_diagonal_layers() {
    let c = config(&agrees("standalone-unet"));
    assert_eq!((c.wiring, c.n_layers, c.layer.mode), (Wiring::Unet, 1, SsmMode::S4d));
}

#[test]
fn names_of_version_3() {
    assert_eq!(config(&agrees("version-3")).layer.dt_transform, DtTransform::Exp);
}

#[test]
fn the_wavenet_baseline() {
    let model = agrees("wavenet");
    match &model.card.model {
        NetSpec::Wavenet(c) => assert_eq!((c.blocks, c.layers, c.receptive_field()), (1, 10, 1024)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_layer_of_the_standalone_s4d_file() {
    let note = note("s4d");
    let state: BTreeMap<String, (Vec<i64>, Vec<f64>)> =
        serde_json::from_value(note["state"].clone()).unwrap();
    let tensors = state
        .into_iter()
        .map(|(name, (mut shape, values))| {
            if name == "kernel.C" && values.len() as i64 == 2 * shape.iter().product::<i64>() {
                shape.push(2);
            }
            (format!("s4_layers.0.{name}"), Tensor::from_slice(&values).reshape(shape))
        })
        .collect();
    let ours = s4d_layer(&tensors, "s4_layers.0.").unwrap();
    let layer_tensors: BTreeMap<String, Tensor> = ours
        .iter()
        .filter_map(|(name, t)| Some((name.strip_prefix("layer.")?.to_owned(), t.shallow_clone())))
        .collect();
    let config = S4Config {
        d_model: 6,
        d_state: 8,
        mode: SsmMode::S4d,
        init: "lin".to_owned(),
        n_ssm: 0,
        dt_transform: DtTransform::Exp,
        ..S4Config::default()
    };
    let store = Store::empty(Device::Cpu, Kind::Double);
    let layer = S4::new(&store.root(), &config).unwrap();
    store.load(&layer_tensors, "s4d").unwrap();
    let u = floats(&note["u"]).reshape([2, 6, 32]);
    let y = layer.convolve(&u).unwrap().gelu("none").transpose(1, 2);
    let y = y.linear(&ours["output_linear.0.weight"], Some(&ours["output_linear.0.bias"])).glu(-1);
    let want = floats(&note["y"]).reshape([2, 6, 32]).transpose(1, 2);
    assert!(gap(&y, &want) < 1e-12, "{}", gap(&y, &want));
    assert!(s4d_layer(&tensors, "s4_layers.1.").is_err());
}

#[test]
fn damaged_and_partial_checkpoints_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("part.safetensors");
    let full = genlib::io::pth::Checkpoint::open(&path("training.pt")).unwrap().tensors().unwrap();
    let error = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut tensors = full.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
        change(&mut tensors);
        let list = tensors.iter().map(|(n, t)| (n.as_str(), t.shallow_clone()));
        genlib::io::safetensors::write(&file, list, &BTreeMap::new()).unwrap();
        let error = open(&file, &OpenOptions::default(), Device::Cpu).unwrap_err();
        assert_eq!(error.kind().exit_code(), 4, "{error}");
        error.to_string()
    };
    assert!(error(&|t| drop(t.remove("encoder.0.weight"))).contains("encoder.0.weight"));
    assert!(error(&|t| drop(t.remove("model.norm.bias"))).contains("model.norm.bias"));
    let name = "model.c_layers.0.layer.layer.kernel.P";
    assert!(
        error(&|t| drop(t.insert(name.into(), Tensor::ones([1, 1, 3, 2], (Kind::Float, Device::Cpu)))))
            .contains("kernel.P")
    );
    let name = "model.d_layers.0.linear.weight_v";
    assert!(
        error(&|t| drop(t.insert(name.into(), Tensor::ones([7, 5], (Kind::Float, Device::Cpu)))))
            .contains("pool")
    );
    let name = "model.c_layers.0.layer.layer.kernel.l_kernel";
    assert!(error(&|t| drop(t.insert(name.into(), Tensor::from(-3i64)))).contains("l_kernel"));
}

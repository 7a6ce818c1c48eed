//! Networks against independent implementations and published sizes.
//!
//! `fixtures/networks/*.json` were made by `scripts/golden/networks.py`; weights follow from their names.

#![allow(clippy::unwrap_used)] // unwrap: a failing test is to panic

use std::collections::BTreeMap;

use genlib::math::rng::{SplitMix64, fnv1a64};
use genlib::net::song_unet::{SongUNet, SongUNetConfig};
use genlib::net::spec::NetSpec;
use genlib::net::store::{Store, channels_last};
use genlib::net::unet2d::UNet2D;
use genlib::net::unet2d_config::UNet2DConfig;
use genlib::net::{Cond, Mode, Network};
use genlib::torch::shim::{Autocast, Generator};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/networks/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn stream(name: &str, shape: &[i64], value: impl Fn(f64) -> f64) -> Tensor {
    let mut stream = SplitMix64::new(fnv1a64(name.as_bytes()));
    let n = shape.iter().product::<i64>();
    let values: Vec<f64> = (0..n).map(|_| value(stream.uniform())).collect();
    Tensor::from_slice(&values).reshape(shape)
}

/// The parameters of the fixtures: values follow from the name.
fn fill(name: &str, shape: &[i64]) -> Tensor {
    let gain = (3.0 / shape.iter().skip(1).product::<i64>() as f64).sqrt();
    stream(name, shape, |u| match shape.len() {
        2.. => (2.0 * u - 1.0) * gain,
        _ if name.ends_with("freqs") => 4.0 * (2.0 * u - 1.0),
        _ if name.ends_with("weight") => 0.75 + 0.5 * u,
        _ => 0.2 * (2.0 * u - 1.0),
    })
}

fn shapes(file: &Value) -> BTreeMap<String, Vec<i64>> {
    serde_json::from_value(file["tensors"].clone()).unwrap()
}

/// Fills `store` and checks that its names and shapes are those of the fixture.
fn load(store: &Store, file: &Value) {
    let shapes = shapes(file);
    let ours: BTreeMap<String, Vec<i64>> = store.named().into_iter().map(|(n, t)| (n, t.size())).collect();
    assert_eq!(ours, shapes);
    let constant = |name: &str| name.ends_with("resample_filter");
    let values = shapes.iter().filter(|(n, _)| !constant(n)).map(|(n, s)| (n.clone(), fill(n, s))).collect();
    store.load(&values, "fixture").unwrap();
}

fn floats(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Output of `net` for the fixture's input, in f64, against the fixture's.
fn compare(net: &dyn Network, file: &Value, tolerance: f64) {
    let _guard = tch::no_grad_guard();
    let t = Tensor::from_slice(&floats(&file["t"]));
    let shape: Vec<i64> = t.size().into_iter().chain(net.sample_shape().iter().copied()).collect();
    let x = stream("x", &shape, |u| 2.0 * u - 1.0);
    let class: Option<Vec<i64>> = serde_json::from_value(file["classes"].clone()).unwrap();
    let augmented = file["config"]["augment_dim"].as_i64().unwrap_or(0) > 0;
    let cond = Cond {
        class: class.map(|c| Tensor::from_slice(&c)),
        augment: augmented.then(|| stream("augment", &[shape[0], 9], |u| 2.0 * u - 1.0)),
        ..Cond::default()
    };
    for x in [x.shallow_clone(), channels_last(&x).unwrap()] {
        let y = net.forward(&x, &t, &cond, Mode::Eval).unwrap();
        assert_eq!(y.size(), shape);
        let flat = y.contiguous().flatten(0, -1);
        let norm = file["norm"].as_f64().unwrap();
        assert!((flat.norm().double_value(&[]) / norm - 1.0).abs() < tolerance);
        let scale = norm / (flat.numel() as f64).sqrt();
        let got = Vec::<f64>::try_from(flat.slice(0, None, None, file["every"].as_i64().unwrap())).unwrap();
        for (got, want) in got.iter().zip(floats(&file["values"])) {
            assert!((got - want).abs() < tolerance * scale, "{got} {want}");
        }
    }
}

fn song_agrees(name: &str) {
    let file = fixture(name);
    let spec: NetSpec = serde_json::from_value(file["config"].clone()).unwrap();
    let store = Store::empty(Device::Cpu, Kind::Double);
    let classes = if file["classes"].is_null() { 0 } else { 3 };
    let net = spec.build(&store.root(), &[3, 16, 16], classes).unwrap();
    load(&store, &file);
    compare(net.as_ref(), &file, 1e-10);
}

#[test]
fn ddpmpp_with_classes_and_augmentation_agrees_with_pytorch() {
    song_agrees("song-standard");
}

#[test]
fn ncsnpp_with_a_residual_encoder_agrees_with_pytorch() {
    song_agrees("song-residual");
}

#[test]
fn the_skip_encoder_and_decoder_agree_with_pytorch() {
    song_agrees("song-skip");
}

fn unet2d_agrees(name: &str) {
    let file = fixture(name);
    let (config, shape, classes) = UNet2DConfig::from_diffusers(&file["config"]).unwrap();
    let store = Store::empty(Device::Cpu, Kind::Double);
    let net = UNet2D::new(&store.root(), &config, &shape, classes).unwrap();
    load(&store, &file);
    // diffusers computes the embedding of time in f32.
    compare(&net, &file, 2e-5);
}

#[test]
fn a_small_unet2d_with_every_option_agrees_with_diffusers() {
    unet2d_agrees("unet2d-small");
}

#[test]
fn the_ddpm_cifar10_network_agrees_with_diffusers() {
    unet2d_agrees("unet2d-cifar10");
}

fn song_size(config: &SongUNetConfig, classes: i64) -> (usize, usize, usize) {
    let store = Store::empty(Device::Cpu, Kind::Float);
    SongUNet::new(&store.root(), config, &[3, 32, 32], classes).unwrap();
    (store.parameters(), store.trainable().len(), store.named().len())
}

#[test]
fn edm_networks_have_their_published_sizes() {
    let (ddpmpp, ncsnpp) = (SongUNetConfig::ddpmpp(), SongUNetConfig::ncsnpp());
    // Trained scalars, trained tensors, and all tensors with the resampling filters and Fourier frequencies.
    assert_eq!(song_size(&ddpmpp, 0), (55_733_891, 417, 425));
    assert_eq!(song_size(&ddpmpp, 10), (55_735_299, 419, 427));
    assert_eq!(song_size(&ncsnpp, 0), (56_397_827, 421, 432));
    assert_eq!(song_size(&ncsnpp, 10), (56_400_643, 423, 434));
}

#[test]
fn score_sde_networks_are_configurations_of_the_same() {
    let ddpmpp = SongUNetConfig::default();
    let ncsnpp =
        SongUNetConfig { channel_mult: vec![1, 2, 2, 2], augment_dim: 0, ..SongUNetConfig::ncsnpp() };
    let deep = |c: &SongUNetConfig| SongUNetConfig { num_blocks: 8, ..c.clone() };
    assert_eq!(song_size(&ddpmpp, 0).0, 61_804_419);
    assert_eq!(song_size(&deep(&ddpmpp), 0).0, 106_632_579);
    assert_eq!(song_size(&ncsnpp, 0).0, 62_758_787);
    assert_eq!(song_size(&deep(&ncsnpp), 0).0, 107_586_947);
}

#[test]
fn the_ddpm_cifar10_network_has_its_published_size() {
    let store = Store::empty(Device::Cpu, Kind::Float);
    UNet2D::new(&store.root(), &UNet2DConfig::ddpm_cifar10(), &[3, 32, 32], 0).unwrap();
    assert_eq!((store.parameters(), store.named().len()), (35_746_307, 328));
}

fn small(type_: &str, store: &Store, classes: i64) -> Box<dyn Network> {
    let text = format!(
        "type = \"{type_}\"\nmodel_channels = 32\nnum_blocks = 1\nchannel_mult = [1, 2]\nattn_resolutions = [8]"
    );
    toml::from_str::<NetSpec>(&text).unwrap().build(&store.root(), &[3, 16, 16], classes).unwrap()
}

fn normal(shape: &[i64], seed: u64) -> Tensor {
    Generator::new(seed).unwrap().normal(shape, Kind::Float).unwrap()
}

#[test]
fn bf16_autocast_stays_close_to_f32() {
    let _guard = tch::no_grad_guard();
    for type_ in ["ddpmpp", "ncsnpp"] {
        let store = Store::new(Device::Cpu, Kind::Float, 1);
        let net = small(type_, &store, 0);
        store
            .load(&store.named().into_iter().map(|(n, t)| (n.clone(), fill(&n, &t.size()))).collect(), "x")
            .unwrap();
        let (x, t) = (normal(&[2, 3, 16, 16], 2), Tensor::from_slice(&[0.1f32, -0.4]));
        let full = net.forward(&x, &t, &Cond::default(), Mode::Eval).unwrap();
        store.channels_last().unwrap();
        let autocast = Autocast::to(Kind::BFloat16, false).unwrap();
        let half = net.forward(&channels_last(&x).unwrap(), &t, &Cond::default(), Mode::Eval).unwrap();
        drop(autocast);
        assert_eq!(half.kind(), Kind::BFloat16);
        let gap = (half.to_kind(Kind::Float) - &full).norm() / full.norm();
        assert!(gap.double_value(&[]) < 0.03, "{type_} {gap:?}");
    }
}

#[test]
fn every_parameter_has_a_gradient_in_f32_and_under_autocast() {
    for bf16 in [false, true] {
        let store = Store::new(Device::Cpu, Kind::Float, 4);
        let net = small("ncsnpp", &store, 3);
        store.channels_last().unwrap();
        let cond = Cond {
            class: Some(Tensor::from_slice(&[2i64, -1])),
            augment: Some(normal(&[2, 9], 8)),
            ..Cond::default()
        };
        let guard = bf16.then(|| Autocast::to(Kind::BFloat16, false).unwrap());
        let (x, t) =
            (channels_last(&normal(&[2, 3, 16, 16], 5)).unwrap(), Tensor::from_slice(&[0.1f32, -0.4]));
        let y = net.forward(&x, &t, &cond, Mode::Train).unwrap();
        drop(guard);
        (y.to_kind(Kind::Float) - normal(&[2, 3, 16, 16], 6)).square().mean(Kind::Float).backward();
        for (name, p) in store.trainable() {
            let grad = p.grad();
            assert!(grad.defined() && bool::try_from(grad.isfinite().all()).unwrap(), "{name}");
            assert_eq!(grad.kind(), Kind::Float);
        }
    }
}

#[test]
fn a_fresh_network_is_nearly_silent() {
    // Last layers start near zero, so that a preconditioned network starts as c_skip x.
    let store = Store::new(Device::Cpu, Kind::Float, 11);
    let net = small("ddpmpp", &store, 0);
    let _guard = tch::no_grad_guard();
    let y = net.forward(&normal(&[4, 3, 16, 16], 1), &normal(&[4], 2), &Cond::default(), Mode::Eval).unwrap();
    assert!(y.std(false).double_value(&[]) < 1e-4);
}

#[test]
fn classes_must_fit_the_network() {
    let store = Store::new(Device::Cpu, Kind::Float, 1);
    let net = small("ddpmpp", &store, 0);
    let cond = Cond { class: Some(Tensor::from_slice(&[1i64])), ..Cond::default() };
    let error = net.forward(&normal(&[1, 3, 16, 16], 1), &normal(&[1], 2), &cond, Mode::Eval).unwrap_err();
    assert_eq!(error.kind().exit_code(), 2);
    let spec: NetSpec = toml::from_str("type = \"ddpmpp\"").unwrap();
    assert!(spec.build(&Store::empty(Device::Cpu, Kind::Float).root(), &[3, 30, 30], 0).is_err());
    assert!(spec.build(&Store::empty(Device::Cpu, Kind::Float).root(), &[16000], 0).is_err());
}

#[test]
fn small_networks_run_and_depend_on_every_input() {
    let _guard = tch::no_grad_guard();
    let store = Store::new(Device::Cpu, Kind::Float, 1);
    let mlp = toml::from_str::<NetSpec>("type = \"mlp\"\nwidths = [64, 64]").unwrap();
    let net = mlp.build(&(store.root() / "mlp"), &[1, 8, 8], 10).unwrap();
    let x = normal(&[3, 1, 8, 8], 1);
    let run = |x: &Tensor, t: f32, class: i64| {
        let cond = Cond { class: Some(Tensor::from_slice(&[class; 3])), ..Cond::default() };
        net.forward(x, &Tensor::from_slice(&[t; 3]), &cond, Mode::Eval).unwrap()
    };
    let base = run(&x, 0.2, 4);
    assert_eq!(base.size(), [3, 1, 8, 8]);
    for other in [run(&(&x + 0.1), 0.2, 4), run(&x, 0.3, 4), run(&x, 0.2, -1)] {
        assert!((other - &base).abs().max().double_value(&[]) > 1e-4);
    }

    let cnn = toml::from_str::<NetSpec>("type = \"digit-cnn\"").unwrap();
    let small = Store::new(Device::Cpu, Kind::Float, 2);
    let net = cnn.build(&small.root(), &[1, 8, 8], 10).unwrap();
    assert!(small.parameters() * 4 < 3_000_000);
    assert_eq!(net.forward(&x, &normal(&[3], 1), &Cond::default(), Mode::Eval).unwrap().size(), [3, 10]);
}

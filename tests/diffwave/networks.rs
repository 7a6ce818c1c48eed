//! The networks by themselves: published sizes, what they depend on, and how they start.

use genlib::net::diffwave::{DiffWaveConfig, MelConfig, StepTable};
use genlib::net::spec::NetSpec;
use genlib::net::store::Store;
use genlib::net::{Cond, Mode, Network};
use genlib::objective::{Batch, ObjectiveSpec};
use genlib::process::ProcessSpec;
use genlib::torch::shim::Generator;
use tch::{Device, Kind, Tensor};

use super::data;

pub fn parameters(spec: &NetSpec) -> usize {
    let store = Store::empty(Device::Cpu, Kind::Float);
    drop(spec.build(&store.root(), &[1, 16000], 0).unwrap());
    store.parameters()
}

fn wavenet(res_channels: i64, skip_channels: i64, layers: i64, mel: Option<MelConfig>) -> DiffWaveConfig {
    let dilation_cycle = if layers == 36 { 12 } else { 10 };
    DiffWaveConfig { res_channels, skip_channels, layers, dilation_cycle, mel, ..DiffWaveConfig::default() }
}

#[test]
fn the_convolutional_networks_have_their_published_sizes() {
    let own = || Some(MelConfig::default());
    let shared = || Some(MelConfig { shared: true, ..MelConfig::default() });
    assert_eq!(DiffWaveConfig::default(), wavenet(256, 256, 36, None));
    for (config, want) in [
        (wavenet(256, 256, 36, None), 24_071_681),
        (wavenet(256, 256, 36, own()), 25_590_161),
        (wavenet(128, 256, 30, None), 6_827_393),
        (wavenet(128, 256, 30, own()), 7_463_033),
        (DiffWaveConfig { residual_with_step: true, ..wavenet(64, 64, 30, own()) }, 2_637_305),
        (DiffWaveConfig { residual_with_step: true, ..wavenet(128, 128, 30, own()) }, 6_914_297),
        (DiffWaveConfig { weight_norm: false, ..wavenet(64, 64, 30, shared()) }, 2_619_971),
        (DiffWaveConfig { weight_norm: false, ..wavenet(64, 64, 30, None) }, 2_308_737),
        (DiffWaveConfig { weight_norm: false, ..wavenet(256, 256, 36, None) }, 24_034_305),
    ] {
        assert_eq!(parameters(&NetSpec::DiffWave(config.clone())), want, "{config:?}");
    }
    assert_eq!(wavenet(256, 256, 36, None).receptive_field(), 24_571);
    assert_eq!(wavenet(128, 256, 30, None).receptive_field(), 6_139);
}

/// A network with all parameters drawn, the last layer, too.
pub fn woken(spec: &NetSpec, kind: Kind, length: i64) -> (Box<dyn Network>, Store) {
    let store = Store::new(Device::Cpu, kind, 5);
    let net = spec.build(&store.root(), &[1, length], 0).unwrap();
    let _guard = tch::no_grad_guard();
    for (name, tensor) in store.named() {
        if name.starts_with("final_conv.2") {
            tensor.shallow_clone().copy_(&(data(&name, &tensor.size()) * 0.5));
        }
    }
    (net, store)
}

/// How much the output changes where input and step do: (first output by the last input, any output by the step).
pub fn reach(net: &dyn Network, length: i64) -> (f64, f64) {
    let _guard = tch::no_grad_guard();
    let x = data("x", &[1, 1, length]);
    let run =
        |x: &Tensor, t: f64| net.forward(x, &Tensor::from_slice(&[t]), &Cond::default(), Mode::Eval).unwrap();
    let y = run(&x, 7.0);
    let other = x.copy();
    let _ = other.narrow(2, length - 1, 1).fill_(3.0);
    let by_last = (run(&other, 7.0) - &y).abs().double_value(&[0, 0, 0]);
    (by_last, (run(&x, 90.0) - y).abs().max().double_value(&[]))
}

fn tiny() -> DiffWaveConfig {
    DiffWaveConfig {
        res_channels: 8,
        skip_channels: 6,
        layers: 4,
        dilation_cycle: 4,
        ..DiffWaveConfig::default()
    }
}

#[test]
fn a_convolutional_network_sees_both_ways_within_its_field() {
    let config = tiny();
    let field = (config.receptive_field() - 1) / 2;
    assert_eq!(field, 15);
    let (net, _store) = woken(&NetSpec::DiffWave(config), Kind::Double, 64);
    let (inside, step) = reach(net.as_ref(), field + 1);
    assert!(inside > 1e-9 && step > 1e-4, "{inside} {step}");
    assert_eq!(reach(net.as_ref(), field + 2).0, 0.0);
}

#[test]
fn a_new_network_is_silent_and_its_loss_is_that_of_silence() {
    let process: ProcessSpec = toml::from_str("type = \"ddpm\"\nsteps = 200").unwrap();
    let process = process.build().unwrap();
    for (loss, want) in [("mse", 1.0), ("l1", 0.797885)] {
        let objective: ObjectiveSpec = toml::from_str(&format!(
            "type = \"eps\"\nloss = \"{loss}\"\ntime = {{ type = \"linear\", scale = 200.0, shift = -1.0 }}\n\
             sampling = {{ type = \"discrete\", n = 200 }}"
        ))
        .unwrap();
        let store = Store::new(Device::Cpu, Kind::Float, 5);
        let net = NetSpec::DiffWave(tiny()).build(&store.root(), &[1, 2048], 0).unwrap();
        let x = Generator::new(4).unwrap().normal(&[16, 1, 2048], Kind::Float).unwrap() * 0.1;
        let quiet =
            net.forward(&x, &Tensor::zeros([16], (Kind::Float, Device::Cpu)), &Cond::default(), Mode::Eval);
        assert_eq!(quiet.unwrap().abs().max().double_value(&[]), 0.0);
        let batch = Batch { x, class: None, augment: None, mel: None, draw_seed: 3 };
        let losses = objective.build().unwrap().loss(net.as_ref(), process.as_ref(), &batch).unwrap();
        let got = losses.total.double_value(&[]);
        // 32768 values: the errors of the means are 0.008 and 0.0034.
        assert!((got - want).abs() < 0.03, "{loss}: {got}");
        losses.total.backward();
        let head = store.get("final_conv.2.conv.weight").unwrap().grad();
        assert!(head.abs().max().double_value(&[]) > 0.0);
    }
}

/// Every parameter of a network with all parameters drawn has a finite gradient that is not zero.
pub fn learns(spec: &NetSpec, length: i64, mel: Option<Tensor>) {
    let (net, store) = woken(spec, Kind::Float, length);
    let x = data("x", &[2, 1, length]).to_kind(Kind::Float);
    let cond = Cond { mel, ..Cond::default() };
    let y = net.forward(&x, &Tensor::from_slice(&[3f32, 150.0]), &cond, Mode::Train).unwrap();
    assert_eq!(y.size(), x.size());
    (y * data("target", &[2, 1, length]).to_kind(Kind::Float)).sum(Kind::Float).backward();
    for (name, p) in store.trainable() {
        let grad = p.grad();
        // The last block's residual goes nowhere.
        let unused = name.contains("residual_blocks.3.res_conv");
        assert!(grad.defined() && bool::try_from(grad.isfinite().all()).unwrap(), "{name}");
        assert!(unused || grad.abs().max().double_value(&[]) > 0.0, "{name}");
    }
}

#[test]
fn every_parameter_learns() {
    let mel = Some(MelConfig { bands: 5, upsample: vec![2, 4], shared: false });
    let spectrum = || Some(data("mel", &[2, 5, 9]).to_kind(Kind::Float));
    learns(&NetSpec::DiffWave(tiny()), 64, None);
    learns(
        &NetSpec::DiffWave(DiffWaveConfig { mel: mel.clone(), residual_with_step: true, ..tiny() }),
        64,
        spectrum(),
    );
    let shared = mel.map(|mel| MelConfig { shared: true, ..mel });
    let steps = StepTable::Pow10 { steps: 200 };
    learns(
        &NetSpec::DiffWave(DiffWaveConfig { mel: shared, weight_norm: false, steps, ..tiny() }),
        64,
        spectrum(),
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let build = |text: &str, shape: &[i64], classes: i64| {
        let spec: NetSpec = toml::from_str(text).unwrap();
        spec.build(&Store::empty(Device::Cpu, Kind::Float).root(), shape, classes).map(|_| ()).unwrap_err()
    };
    assert!(build("type = \"diffwave\"", &[3, 32, 32], 0).to_string().contains("waveforms"));
    assert!(build("type = \"diffwave\"", &[1, 16000], 10).to_string().contains("classes"));
    for text in [
        "layers = 0",
        "dilation_cycle = 60",
        "mel = { upsample = [] }",
        "steps = { type = \"pow10\", steps = 1 }",
    ] {
        assert_eq!(
            build(&format!("type = \"diffwave\"\n{text}"), &[1, 16000], 0).kind().exit_code(),
            4,
            "{text}"
        );
    }
    let (plain, _a) = woken(&NetSpec::DiffWave(tiny()), Kind::Float, 64);
    let mel = Some(MelConfig { bands: 5, upsample: vec![2, 4], shared: false });
    let (vocoder, _b) = woken(&NetSpec::DiffWave(DiffWaveConfig { mel, ..tiny() }), Kind::Float, 64);
    let fails = |net: &dyn Network, x: &[i64], mel: Option<&[i64]>, word: &str| {
        let float = (Kind::Float, Device::Cpu);
        let cond = Cond { mel: mel.map(|size| Tensor::zeros(size, float)), ..Cond::default() };
        let t = Tensor::zeros([1], float);
        let error = net.forward(&Tensor::zeros(x, float), &t, &cond, Mode::Eval).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    fails(plain.as_ref(), &[1, 2, 64], None, "waveforms");
    fails(plain.as_ref(), &[1, 1, 64], Some(&[1, 5, 8]), "takes no mel");
    fails(vocoder.as_ref(), &[1, 1, 64], None, "needs a mel");
    fails(vocoder.as_ref(), &[1, 1, 64], Some(&[1, 6, 8]), "expected [1, 5, frames]");
    fails(vocoder.as_ref(), &[1, 1, 64], Some(&[1, 5, 7]), "too short");
}

//! The networks by themselves: published sizes, what they depend on, and how they start.

use genlib::denoiser::network::Compute;
use genlib::net::diffwave::{DiffWaveConfig, DiffWaveSashimiConfig, MelConfig, MelFeatures, StepTable};
use genlib::net::layers::ssm::{S4, S4Config, SsmMode};
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
        let net = NetSpec::DiffWave(tiny()).build(&store.root(), &[1, 4096], 0).unwrap();
        let x = Generator::new(4).unwrap().normal(&[64, 1, 4096], Kind::Float).unwrap() * 0.1;
        let quiet =
            net.forward(&x, &Tensor::zeros([64], (Kind::Float, Device::Cpu)), &Cond::default(), Mode::Eval);
        assert_eq!(quiet.unwrap().abs().max().double_value(&[]), 0.0);
        let batch =
            Batch { x, class: None, augment: None, mel: None, frames: None, mode: Mode::Train, draw_seed: 3 };
        let losses = objective.build().unwrap().loss(net.as_ref(), process.as_ref(), &batch).unwrap();
        let got = losses.total.double_value(&[]);
        // 262144 values: the errors of the means are 0.0028 and 0.0012.
        assert!((got - want).abs() < 0.02, "{loss}: {got}");
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
    let mel = Some(MelConfig { bands: 5, upsample: vec![2, 4], ..MelConfig::default() });
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
    let mel = Some(MelConfig { bands: 5, upsample: vec![2, 4], ..MelConfig::default() });
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

fn small() -> DiffWaveSashimiConfig {
    DiffWaveSashimiConfig {
        d_model: 8,
        n_layers: 1,
        pool: vec![2, 4],
        d_state: 8,
        ..DiffWaveSashimiConfig::default()
    }
}

#[test]
fn the_state_space_networks_have_their_published_sizes() {
    let own = DiffWaveSashimiConfig::default;
    for (config, want) in [
        (own(), 23_470_971),
        (DiffWaveSashimiConfig { mel: Some(MelConfig::default()), ..own() }, 24_106_611),
        (DiffWaveSashimiConfig { d_model: 64, ..own() }, 7_734_267),
        (DiffWaveSashimiConfig { unet: false, ..own() }, 18_579_531),
        (DiffWaveSashimiConfig { d_model: 64, unet: false, ..own() }, 6_025_803),
    ] {
        assert_eq!(parameters(&NetSpec::DiffWaveSashimi(config.clone())), want, "{config:?}");
    }
}

#[test]
fn a_state_space_network_sees_both_ways_and_starts_silent() {
    let spec = NetSpec::DiffWaveSashimi(small());
    let (net, _store) = woken(&spec, Kind::Double, 64);
    let (last, step) = reach(net.as_ref(), 64);
    assert!(last > 1e-7 && step > 1e-4, "{last} {step}");
    let store = Store::new(Device::Cpu, Kind::Double, 5);
    let fresh = spec.build(&store.root(), &[1, 64], 0).unwrap();
    let t = Tensor::from_slice(&[7.0]);
    let y = fresh.forward(&data("x", &[1, 1, 64]), &t, &Cond::default(), Mode::Eval).unwrap();
    assert_eq!(y.abs().max().double_value(&[]), 0.0);
}

#[test]
fn every_parameter_of_a_state_space_network_learns() {
    for (unet, ssm, mel) in
        [(true, SsmMode::Dplr, None), (false, SsmMode::S4d, None), (true, SsmMode::Dplr, Some(vec![2, 4]))]
    {
        let spectrum = mel.is_some().then(|| data("mel", &[2, 5, 9]).to_kind(Kind::Float));
        let mel = mel.map(|upsample| MelConfig { bands: 5, upsample, ..MelConfig::default() });
        learns(&NetSpec::DiffWaveSashimi(DiffWaveSashimiConfig { unet, ssm, mel, ..small() }), 64, spectrum);
    }
}

#[test]
fn a_reversed_layer_of_a_reversed_wave_is_late_by_a_sample() {
    let config = S4Config { d_model: 3, d_state: 8, bidirectional: true, n_ssm: 0, ..S4Config::default() };
    let store = Store::new(Device::Cpu, Kind::Double, 2);
    let layer = S4::new(&store.root(), &config).unwrap();
    let _guard = tch::no_grad_guard();
    let _ = store.get("D").unwrap().zero_();
    let u = data("u", &[2, 3, 32]);
    let y = layer.convolve(&u).unwrap();
    let mut c = store.get("kernel.C").unwrap();
    c.copy_(&c.flip([0]));
    let turned = layer.convolve(&u.flip([2])).unwrap().flip([2]);
    let gap = (turned.narrow(2, 1, 31) - y.narrow(2, 0, 31)).abs().max().double_value(&[]);
    let size = y.abs().max().double_value(&[]);
    assert!(size > 1e-4 && gap < 1e-12 * size, "{gap} {size}");
}

#[test]
fn in_bf16_a_network_is_near_that_in_f32() {
    let _guard = tch::no_grad_guard();
    for spec in [NetSpec::DiffWave(tiny()), NetSpec::DiffWaveSashimi(small())] {
        let (net, store) = woken(&spec, Kind::Float, 64);
        let x = data("x", &[2, 1, 64]).to_kind(Kind::Float);
        let t = Tensor::from_slice(&[3f32, 150.0]);
        let run = |compute: Compute| compute.run(net.as_ref(), &x, &t, &Cond::default(), Mode::Eval).unwrap();
        let want = run(Compute::default());
        let short = Compute { autocast: Some(Kind::BFloat16), ..Compute::default() };
        let near = |y: Tensor| {
            let gap = (y.to_kind(Kind::Float) - &want).abs().max().double_value(&[]);
            assert!(gap < 0.05 * want.abs().max().double_value(&[]), "{gap} {spec:?}");
        };
        near(run(short));
        short.prepare(&store).unwrap();
        near(run(short));
    }
}

#[test]
fn lengths_that_pools_do_not_divide_are_refused() {
    let spec = NetSpec::DiffWaveSashimi(small());
    let store = Store::empty(Device::Cpu, Kind::Float);
    let error = spec.build(&store.root(), &[1, 60], 0).unwrap_err();
    assert_eq!(error.kind().exit_code(), 4);
    assert!(error.to_string().contains("not divisible by 8 (pool 2x4)"), "{error}");
    let (net, _store) = woken(&spec, Kind::Float, 64);
    let float = (Kind::Float, Device::Cpu);
    let run = |length: i64| {
        net.forward(
            &Tensor::zeros([1, 1, length], float),
            &Tensor::zeros([1], float),
            &Cond::default(),
            Mode::Eval,
        )
    };
    assert_eq!(run(60).unwrap_err().kind().exit_code(), 2);
    assert_eq!(run(80).unwrap().size(), [1, 1, 80]);
}

/// The recipes that are shipped, at their published sizes.
#[test]
fn recipes_build_their_networks() {
    for (name, parameters, steps, beta_end) in [
        ("diffwave-sc09", 24_071_681, 200, 0.02),
        ("diffwave-small", 6_827_393, 200, 0.02),
        ("diffwave-sashimi-sc09", 23_470_971, 200, 0.02),
        ("diffwave-sashimi-small", 7_734_267, 200, 0.02),
        ("diffwave-ljspeech", 2_637_305, 50, 0.05),
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name);
        let recipe = genlib::recipe::Recipe::load(&path, &[]).unwrap();
        assert_eq!(self::parameters(&recipe.model), parameters, "{name}");
        assert_eq!(recipe.sample.steps, Some(steps), "{name}");
        assert!(
            matches!(recipe.process, ProcessSpec::Ddpm { steps: n, beta_end: end, .. } if n == steps && end == beta_end),
            "{name}"
        );
        // Trained on the entries of the table, and told their indices.
        let net = TimeProbe::default();
        let process = recipe.process.build().unwrap();
        let x = Tensor::zeros([4096, 1, 1], (Kind::Float, Device::Cpu));
        let batch =
            Batch { x, class: None, augment: None, mel: None, frames: None, mode: Mode::Train, draw_seed: 3 };
        recipe.objective.build().unwrap().loss(&net, process.as_ref(), &batch).unwrap();
        let t = net.0.take().unwrap();
        let off = (&t - t.round()).abs().max().double_value(&[]);
        let ends = (t.min().double_value(&[]).round(), t.max().double_value(&[]).round());
        assert!(off < 1e-4 && ends == (0.0, (steps - 1) as f64), "{name}: {off} {ends:?}");
    }
}

/// Remembers the times that it is told.
#[derive(Debug, Default)]
struct TimeProbe(std::cell::RefCell<Option<Tensor>>);

impl Network for TimeProbe {
    fn forward(&self, x: &Tensor, t: &Tensor, _cond: &Cond, _mode: Mode) -> genlib::error::Result<Tensor> {
        self.0.replace(Some(t.shallow_clone()));
        Ok(x.shallow_clone())
    }
    fn sample_shape(&self) -> &[i64] {
        &[1, 1]
    }
}

/// Two-harmonic tones `[n, 1, length]`, periods of 10 to 40 samples.
fn tones(n: i64, length: i64, seed: u64) -> Tensor {
    let mut rng = genlib::math::rng::SplitMix64::new(seed);
    let mut values = Vec::new();
    for _ in 0..n {
        let f = std::f64::consts::TAU * (0.025 + 0.075 * rng.uniform());
        let phases = [0, 1].map(|_| std::f64::consts::TAU * rng.uniform());
        values.extend((0..length).map(|i| {
            let at = f * i as f64;
            0.4 * (at + phases[0]).sin() + 0.2 * (2.0 * at + phases[1]).sin()
        }));
    }
    Tensor::from_slice(&values).reshape([n, 1, length]).to_kind(Kind::Float)
}

#[test]
fn training_tells_noise_levels_apart() {
    let process: ProcessSpec = toml::from_str("type = \"ddpm\"\nsteps = 50\nbeta_end = 0.05").unwrap();
    let process = process.build().unwrap();
    let steps = 250;
    let spec = NetSpec::DiffWave(DiffWaveConfig {
        res_channels: 16,
        skip_channels: 16,
        layers: 6,
        dilation_cycle: 6,
        ..DiffWaveConfig::default()
    });
    let store = Store::new(Device::Cpu, Kind::Float, 1);
    let net = spec.build(&store.root(), &[1, 128], 0).unwrap();
    let mut noise = Generator::new(9).unwrap();
    let mut loss = |indices: &[i64], seed: u64| {
        let x = tones(16, 128, seed);
        let at = |of: &dyn Fn(&genlib::process::Point) -> f64| {
            let list: Vec<f64> = (0..16)
                .map(|i| {
                    let index = indices[i % indices.len()] as f64;
                    of(&genlib::process::Point::new(process.as_ref(), (index + 1.0) / 50.0))
                })
                .collect();
            Tensor::from_slice(&list).to_kind(Kind::Float).reshape([16, 1, 1])
        };
        let t: Vec<f32> = (0..16).map(|i| indices[i % indices.len()] as f32).collect();
        let eps = noise.normal(&[16, 1, 128], Kind::Float).unwrap();
        let noisy = x * at(&|p| p.alpha) + &eps * at(&|p| p.sigma);
        let out = net.forward(&noisy, &Tensor::from_slice(&t), &Cond::default(), Mode::Train).unwrap();
        (out - eps).square().mean(Kind::Float)
    };
    let optim: genlib::optim::OptimSpec = toml::from_str("type = \"adam\"\nlr = 2e-3").unwrap();
    let mut optimizer = optim.build(store.trainable()).unwrap();
    let mut rng = genlib::math::rng::SplitMix64::new(5);
    for step in 0..steps {
        let indices: Vec<i64> = (0..16).map(|_| (50.0 * rng.uniform()) as i64).collect();
        loss(&indices, 100 + step).backward();
        optimizer.step(2e-3, None).unwrap();
        optimizer.zero_grad().unwrap();
    }
    let _guard = tch::no_grad_guard();
    let mut at = |index: i64| (0..8).map(|i| loss(&[index], i).double_value(&[])).sum::<f64>() / 8.0;
    let levels = [0, 5, 15, 45].map(&mut at);
    // The noise is plain to see where there is much of it.
    assert!(levels.windows(2).all(|pair| pair[1] < pair[0]), "{levels:?}");
    assert!(levels[3] < 0.3 * levels[0], "{levels:?}");
}

#[test]
fn vocoders_are_trained_on_the_spectrogram_of_their_waveforms() {
    let process: ProcessSpec = toml::from_str("type = \"ddpm\"\nsteps = 50\nbeta_end = 0.05").unwrap();
    let process = process.build().unwrap();
    let objective: ObjectiveSpec = toml::from_str(
        "type = \"eps\"\ntime = { type = \"linear\", scale = 50.0, shift = -1.0 }\nsampling = { type = \"discrete\", n = 50 }",
    )
    .unwrap();
    let objective = objective.build().unwrap();
    for features in [MelFeatures::Diffwave, MelFeatures::Lmnt] {
        let mel = Some(MelConfig { bands: 20, upsample: vec![16, 16], features, ..MelConfig::default() });
        for spec in [
            NetSpec::DiffWave(DiffWaveConfig { mel: mel.clone(), ..tiny() }),
            NetSpec::DiffWaveSashimi(DiffWaveSashimiConfig { mel: mel.clone(), ..small() }),
        ] {
            let (net, store) = woken(&spec, Kind::Float, 2048);
            let x = tones(2, 2048, 3);
            let spectrogram = net.spectrogram().unwrap();
            assert_eq!(spectrogram.run(&x.squeeze_dim(1)).unwrap().size(), [2, 20, 9]);
            let batch = Batch {
                x,
                class: None,
                augment: None,
                mel: None,
                frames: None,
                mode: Mode::Train,
                draw_seed: 3,
            };
            let losses = objective.loss(net.as_ref(), process.as_ref(), &batch).unwrap();
            assert!(losses.total.double_value(&[]).is_finite());
            losses.total.backward();
            let mut learned = store.trainable();
            learned.retain(|(name, _)| name.contains("mel_conv"));
            assert!(learned.len() >= 9);
            for (name, p) in learned {
                assert!(p.grad().defined() && p.grad().abs().max().double_value(&[]) > 0.0, "{name}");
            }
        }
    }
    let (plain, _store) = woken(&NetSpec::DiffWave(tiny()), Kind::Float, 64);
    assert!(plain.spectrogram().is_none());
}

//! Checks of sound with their deviations: what a recurrence, a quantiser or a metric must be to the last digits.

use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::SelftestArgs;
use crate::cli::ui::Ui;
use crate::data::quantize::Quantizer;
use crate::error::{Error, Result};
use crate::io::sound::SoundFile;
use crate::io::wav::{WavFormat, write_sound};
use crate::math::resample::{Quality, Resampler};
use crate::metric::audio::scores::{Probabilities, is_reference, is_standard, mis_all_pairs};
use crate::metric::frechet::{Gaussian, distance};
use crate::net::causal::Causal;
use crate::net::layers::ssm::{Discretisation, S4, S4Config, SsmMode};
use crate::net::sashimi::{Sashimi, SashimiConfig, Wiring};
use crate::net::store::Store;
use crate::net::{Cond, Mode};
use crate::torch::shim::Generator;

/// Name, what is allowed, and how the deviation is found.
type Check = (&'static str, f64, fn() -> Result<f64>);

const CHECKS: [Check; 11] = [
    ("S4 (DPLR): recurrence = convolution, 8192 samples", 1e-8, || layer(SsmMode::Dplr)),
    ("S4D: recurrence = convolution, 8192 samples", 1e-10, || layer(SsmMode::S4d)),
    ("S4D kernel: sum against its closed form", 1e-10, dc_gain),
    ("SaShiMi, f64: steps = forward pass", 1e-8, || model(Wiring::Standard, Kind::Double)),
    ("SaShiMi U-Net, f64: steps = forward pass", 1e-8, || model(Wiring::Unet, Kind::Double)),
    ("SaShiMi U-Net, f32: steps = forward pass", 1e-3, || model(Wiring::Unet, Kind::Float)),
    ("SaShiMi: the past knows nothing of the future", 1e-10, causality),
    ("mu-law: codes that do not survive decoding", 0.0, mu_law),
    ("WAV: codes of 16 bits that do not survive a file", 0.0, wav),
    ("resampling 44.1 to 16 kHz: gain at 1 kHz, dB", 0.01, gain),
    ("IS, published IS, mIS and Frechet distance, printed values", 1e-5, metrics),
];

fn gap(a: &Tensor, b: &Tensor) -> Result<f64> {
    let wide = |t: &Tensor| t.f_to_kind(Kind::Double);
    Ok(wide(a)?.f_sub(&wide(b)?)?.f_abs()?.f_max()?.f_double_value(&[])?)
}

/// A layer over a long signal, half of it with the state of the other half.
fn layer(mode: SsmMode) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    let store = Store::new(Device::Cpu, Kind::Double, 1);
    let net = S4::new(&store.root(), &S4Config { d_model: 8, mode, ..S4Config::default() })?;
    let u = Generator::new(2)?.normal(&[1, 8, 8192], Kind::Double)?;
    let whole = net.convolve(&u)?;
    let system = net.discrete(1.0)?;
    let (matrix, skip) = (system.matrix()?, net.skip()?);
    let (b, c) = (halves(&system.b, 1.0)?, halves(&system.c.f_select(0, 0)?, 2.0)?);
    let mut x = Tensor::f_zeros([8, b.size()[1], 1], (Kind::Double, Device::Cpu))?;
    let mut out = Vec::new();
    for t in 0..8192 {
        let now = u.f_select(2, t)?.f_reshape([8, 1, 1])?;
        x = matrix.f_matmul(&x)?.f_add(&b.f_unsqueeze(-1)?.f_mul(&now)?)?;
        let y = c.f_unsqueeze(1)?.f_matmul(&x)?.f_reshape([8])?;
        out.push(y.f_add(&now.f_reshape([8])?.f_mul(&skip)?)?);
    }
    let scale = whole.f_abs()?.f_max()?.f_double_value(&[])?;
    Ok(gap(&Tensor::f_stack(&out, 1)?, &whole.f_squeeze_dim(0)?)? / scale)
}

/// `(scale Re z, -+ scale Im z)`: a column of the state for scale 1, the row of its output for scale 2.
fn halves(z: &Tensor, scale: f64) -> Result<Tensor> {
    let sign = if scale == 1.0 { 1.0 } else { -1.0 };
    let (re, im) = (z.f_real()?.f_mul_scalar(scale)?, z.f_imag()?.f_mul_scalar(sign * scale)?);
    Ok(Tensor::f_cat(&[re, im], -1)?)
}

/// The sum of a kernel is `2 Re sum C B (-1/a)`, whatever the discretisation and the step.
fn dc_gain() -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    let mut worst = 0f64;
    for disc in [Discretisation::Zoh, Discretisation::Bilinear] {
        let config = S4Config {
            d_model: 4,
            // Slow enough that both kernels end within their length.
            d_state: 16,
            mode: SsmMode::S4d,
            init: "lin".to_owned(),
            disc: Some(disc),
            dt_min: 0.05,
            dt_max: 0.1,
            ..S4Config::default()
        };
        let store = Store::new(Device::Cpu, Kind::Double, 3);
        let net = S4::new(&store.root(), &config)?;
        let sum = net.kernel(4096, 1.0)?.f_sum_dim_intlist([2i64].as_slice(), false, Kind::Double)?;
        let part = |name: &str| {
            store
                .get(name)
                .ok_or_else(|| Error::run("no such parameter").at(name))?
                .f_detach()
                .map_err(Error::from)
        };
        let (real, imag) = (part("kernel.A_real")?.f_exp()?.f_neg()?, part("kernel.A_imag")?.f_neg()?);
        let a = Tensor::f_complex(&real, &imag)?;
        let complex = |t: Tensor| -> Result<Tensor> { Ok(t.f_contiguous()?.f_view_as_complex()?) };
        let (b, c) =
            (complex(part("kernel.B")?)?.f_select(0, 0)?, complex(part("kernel.C")?)?.f_select(0, 0)?);
        let each = c.f_mul(&b)?.f_divide(&a)?.f_neg()?.f_real()?.f_mul_scalar(2.0)?;
        let want = each.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        worst = worst.max(gap(&sum.f_squeeze_dim(0)?, &want)?);
    }
    Ok(worst)
}

fn small(wiring: Wiring, kind: Kind) -> Result<(Store, Sashimi)> {
    let config = SashimiConfig { d_model: 16, n_layers: 3, wiring, ..SashimiConfig::default() };
    let store = Store::new(Device::Cpu, kind, 4);
    let net = Sashimi::new(&store.root(), &config, &[1, 256], 0)?;
    Ok((store, net))
}

/// 100 tokens at once and 156 one by one against all of them at once.
fn model(wiring: Wiring, kind: Kind) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    let (_store, net) = small(wiring, kind)?;
    let tokens = Generator::new(5)?.integers(256, &[3, 256])?;
    let want = net.logits(&tokens, &Cond::default(), Mode::Eval)?;
    let mut steps = net.begin(3, &Cond::default())?;
    let mut got = vec![steps.prefill(&tokens.f_narrow(1, 0, 100)?)?];
    for t in 100..256 {
        got.push(steps.step(&tokens.f_select(1, t)?)?.f_unsqueeze(1)?);
    }
    gap(&Tensor::f_cat(&got, 1)?, &want)
}

/// What the outputs before a changed token change by. The output at it must change.
fn causality() -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    let (_store, net) = small(Wiring::Unet, Kind::Double)?;
    let tokens = Generator::new(6)?.integers(256, &[1, 256])?;
    let changed = tokens.f_add_scalar(0)?;
    let _ = changed.f_narrow(1, 79, 1)?.f_fill_((tokens.f_int64_value(&[0, 79])? + 128) % 256)?;
    let logits = |t: &Tensor| net.logits(t, &Cond::default(), Mode::Eval);
    let (a, b) = (logits(&tokens)?, logits(&changed)?);
    if gap(&a.f_select(1, 79)?, &b.f_select(1, 79)?)? < 1e-6 {
        return Err(Error::run("the present is not seen").at("SaShiMi"));
    }
    gap(&a.f_narrow(1, 0, 79)?, &b.f_narrow(1, 0, 79)?)
}

fn mu_law() -> Result<f64> {
    let quantizer = Quantizer::default();
    let codes = Tensor::f_arange(256, (Kind::Int64, Device::Cpu))?.f_unsqueeze(0)?;
    let back = quantizer.encode(&quantizer.decode(&codes)?)?;
    Ok(back.f_ne_tensor(&codes)?.f_sum(Kind::Double)?.f_double_value(&[])?)
}

fn wav() -> Result<f64> {
    let folder = std::env::temp_dir();
    let path = folder.join(format!("gen-selftest-{}.wav", std::process::id()));
    let data: Vec<f32> = (-32768i32..32768).map(|v| v as f32 / 32768.0).collect();
    let sound = crate::io::sound::Sound { data: data.clone(), channels: 1, rate: 16_000 };
    write_sound(&path, &sound, WavFormat::Pcm16)?;
    let back = SoundFile::open(&path).and_then(|file| file.read());
    let _ = std::fs::remove_file(&path);
    Ok(back?.data.iter().zip(&data).filter(|(a, b)| a != b).count() as f64)
}

fn gain() -> Result<f64> {
    let x: Vec<f32> = (0..44_100)
        .map(|i| (std::f64::consts::TAU * 1000.0 * f64::from(i) / 44_100.0).sin() as f32)
        .collect();
    let y = Resampler::new(44_100, 16_000, Quality::Fast)?.run(&x);
    let power = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / v.len() as f64;
    Ok((10.0 * (power(&y[1600..14_400]) / power(&x[4410..39_690])).log10()).abs())
}

fn metrics() -> Result<f64> {
    let rows = [0.7, 0.2, 0.1, 0.6, 0.3, 0.1, 0.1, 0.8, 0.1, 0.2, 0.2, 0.6];
    let p = Probabilities::of(&Tensor::f_from_slice(&rows)?.f_reshape([4, 3])?)?;
    let standard = (is_standard(&p) - 1.281_054).abs();
    let published = (is_reference(&p) - 1.305_175).abs();
    let pairs = (mis_all_pairs(&p) - 1.662_866).abs();
    let eye = Tensor::f_eye(4, (Kind::Double, Device::Cpu))?;
    let of = |mean: f64, scale: f64| -> Result<Gaussian> {
        let mean = Tensor::f_full([4], mean, (Kind::Double, Device::Cpu))?;
        Ok(Gaussian { n: Some(1000), mean, cov: eye.f_mul_scalar(scale)? })
    };
    let frechet = (distance(&of(0.0, 1.0)?, &of(1.0, 4.0)?)? - 8.0).abs();
    Ok(standard.max(published).max(pairs).max(frechet))
}

/// Runs the checks.
pub(super) fn run(args: &SelftestArgs, ui: Ui) -> anyhow::Result<()> {
    let chosen: Vec<&Check> = CHECKS.iter().filter(|(name, _, _)| args.wanted(name)).collect();
    if chosen.is_empty() {
        let text = args.only.as_deref().unwrap_or_default();
        return Err(Error::usage("no such check").at(format!("--only {text}")).into());
    }
    ui.line(format!("{:<60}{:>11}{:>11}", "check", "deviation", "allowed"))?;
    let mut rows = Vec::new();
    let mut off = Vec::new();
    for (name, allowed, find) in chosen {
        let deviation = find()?;
        let holds = deviation <= *allowed;
        let mark = if holds { "" } else { "  OFF" };
        ui.line(format!("{name:<60}{deviation:>11.1e}{allowed:>11.1e}{mark}"))?;
        rows.push(json!({"check": name, "deviation": deviation, "allowed": allowed, "holds": holds}));
        if !holds {
            off.push(*name);
        }
    }
    let n = rows.len();
    ui.result(&json!({"checks": rows, "off": off.len()}))?;
    match off.first() {
        None => {
            ui.say(format!("{n} checks hold"));
            Ok(())
        }
        Some(first) => Err(Error::run(format!("{} of {n} checks are off", off.len())).why(*first).into()),
    }
}

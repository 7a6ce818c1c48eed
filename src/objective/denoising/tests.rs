//! Losses against their formulas.

use super::*;
use crate::denoiser::precond::TimeInput;
use crate::process::TrigFlow;
use crate::torch::shim::Generator;

/// Returns zero, or what it was told to, and remembers what it saw.
#[derive(Debug, Default)]
struct Probe {
    seen: std::cell::RefCell<Option<(Tensor, Tensor, Option<Tensor>)>>,
    answer: Option<Tensor>,
}

impl Network for Probe {
    fn forward(&self, x: &Tensor, t: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        assert_eq!(mode, Mode::Train);
        let class = cond.class.as_ref().map(Tensor::shallow_clone);
        self.seen.replace(Some((x.shallow_clone(), t.shallow_clone(), class)));
        Ok(self.answer.as_ref().map_or_else(|| x.zeros_like(), Tensor::shallow_clone))
    }
    fn sample_shape(&self) -> &[i64] {
        &[3, 4, 4]
    }
}

fn noise(shape: &[i64], seed: u64) -> Tensor {
    Generator::new(seed).unwrap().normal(shape, Kind::Float).unwrap()
}

fn objective(precond: Precond) -> Denoising {
    Denoising {
        precond,
        sampling: TimeSampling::LogNormal { p_mean: -1.2, p_std: 1.2 },
        t_min: 1e-3,
        t_max: None,
        weighting: Weighting::Uniform,
        reduce: Reduce::Mean,
        distance: Distance::Mse,
        class_dropout: 0.0,
    }
}

fn plain(prediction: Prediction) -> Precond {
    Precond::Plain { prediction, time: TimeInput::default(), factor: 1.0 }
}

fn batch(x: Tensor, class: Option<Tensor>) -> Batch {
    Batch { x, class, augment: None, mel: None, frames: None, mode: Mode::Train, draw_seed: 11 }
}

#[test]
fn a_silent_network_has_edm_loss_1_per_dimension() {
    let x = noise(&[512, 3, 4, 4], 1) * 0.5;
    let losses = objective(Precond::Edm { sigma_data: 0.5 })
        .loss(&Probe::default(), &TrigFlow, &batch(x, None))
        .unwrap();
    let total = losses.total.double_value(&[]);
    // 24576 values: four standard errors of a mean of squares of unit normals.
    assert!((total - 1.0).abs() < 4.0 * (2.0 / 24_576f64).sqrt(), "{total}");
    assert_eq!(losses.total.size(), Vec::<i64>::new().as_slice());
}

#[test]
fn the_edm_loss_is_the_weighted_denoising_error() {
    let (x0, eps, f) = (noise(&[5, 3, 4, 4], 1), noise(&[5, 3, 4, 4], 2), noise(&[5, 3, 4, 4], 3));
    let net = Probe { answer: Some(f.shallow_clone()), ..Probe::default() };
    let points = levels(-1.2, 1.2, 5, &mut SplitMix64::new(4));
    let sd = 0.5f64;
    let got = objective(Precond::Edm { sigma_data: sd })
        .loss_at(&net, &points, &eps, (&Cond::default(), Mode::Train), &x0)
        .unwrap();
    let mut want = 0.0;
    for (i, p) in points.iter().enumerate() {
        let (i, rho) = (i as i64, p.sigma);
        let (x0, y) = (x0.get(i), x0.get(i) + eps.get(i) * rho);
        let total = rho * rho + sd * sd;
        let d = &y * (sd * sd / total) + f.get(i) * (rho * sd / total.sqrt());
        want += (total / (rho * sd).powi(2) * (d - x0).square()).mean(Kind::Float).double_value(&[]) / 5.0;
    }
    let got = got.total.double_value(&[]);
    assert!((got / want - 1.0).abs() < 1e-4, "{got} {want}");
}

#[test]
fn the_exact_answer_has_no_loss_in_every_parameterisation() {
    let (x0, eps) = (noise(&[4, 3, 4, 4], 1), noise(&[4, 3, 4, 4], 2));
    let points: Vec<Point> = [0.1, 0.4, 0.6, 0.9].map(|t| Point::new(&TrigFlow, t)).to_vec();
    let col = |of: &dyn Fn(&Point) -> f64| {
        Tensor::from_slice(&points.iter().map(of).collect::<Vec<f64>>())
            .to_kind(Kind::Float)
            .reshape([4, 1, 1, 1])
    };
    let (alpha, sigma) = (col(&|p| p.alpha), col(&|p| p.sigma));
    let answers = [
        (Prediction::Eps, eps.shallow_clone()),
        (Prediction::X0, x0.shallow_clone()),
        (Prediction::V, &alpha * &eps - &sigma * &x0),
        (Prediction::Velocity, col(&|p| p.dalpha) * &x0 + col(&|p| p.dsigma) * &eps),
        (Prediction::Score, -&eps / &sigma),
    ];
    for (prediction, answer) in answers {
        let net = Probe { answer: Some(answer), ..Probe::default() };
        for weighting in [Weighting::Uniform, Weighting::Likelihood, Weighting::MinSnr { gamma: 5.0 }] {
            let objective = Denoising { weighting, ..objective(plain(prediction)) };
            let got = objective.loss_at(&net, &points, &eps, (&Cond::default(), Mode::Train), &x0).unwrap();
            assert!(got.total.double_value(&[]) < 1e-9, "{prediction:?} {weighting:?}");
        }
        let (x, t, _) = net.seen.take().unwrap();
        assert!((x - (&alpha * &x0 + &sigma * &eps)).abs().max().double_value(&[]) < 1e-6);
        assert!(
            (t / 999.0 - Tensor::from_slice(&[0.1f32, 0.4, 0.6, 0.9])).abs().max().double_value(&[]) < 1e-6
        );
    }
}

#[test]
fn weights_mean_the_same_in_every_parameterisation() {
    // A model off by delta in eps at fixed x_t has the same weighted loss however it is written.
    let (x0, eps) = (noise(&[1, 3, 4, 4], 1), noise(&[1, 3, 4, 4], 2));
    let delta = noise(&[1, 3, 4, 4], 5) * 0.1;
    let p = Point::new(&TrigFlow, 0.35);
    let off = &eps + &delta;
    let x0_off = &x0 - &delta * (p.sigma / p.alpha);
    let answers = [
        (Prediction::Eps, off.shallow_clone()),
        (Prediction::X0, x0_off.shallow_clone()),
        (Prediction::V, &off * p.alpha - &x0_off * p.sigma),
        (Prediction::Velocity, &x0_off * p.dalpha + &off * p.dsigma),
        (Prediction::Score, &off * (-1.0 / p.sigma)),
    ];
    let mean = delta.square().mean(Kind::Float).double_value(&[]);
    let snr = (p.alpha / p.sigma).powi(2);
    for (prediction, answer) in answers {
        let net = Probe { answer: Some(answer), ..Probe::default() };
        for (weighting, want) in [
            (Weighting::Likelihood, p.g2() / (p.sigma * p.sigma) * mean),
            (Weighting::MinSnr { gamma: 1.5 }, snr.min(1.5) / snr * mean),
        ] {
            let objective = Denoising { weighting, ..objective(plain(prediction)) };
            let got = objective.loss_at(&net, &[p], &eps, (&Cond::default(), Mode::Train), &x0).unwrap();
            let got = got.total.double_value(&[]);
            assert!((got / want - 1.0).abs() < 1e-4, "{prediction:?} {weighting:?} {got} {want}");
        }
    }
}

#[test]
fn half_sums_are_half_the_number_of_values_times_the_mean() {
    let (x0, eps) = (noise(&[2, 3, 4, 4], 1), noise(&[2, 3, 4, 4], 2));
    let points = vec![Point::new(&TrigFlow, 0.5); 2];
    let total = |reduce| {
        let objective = Denoising { reduce, ..objective(plain(Prediction::Eps)) };
        let losses = objective
            .loss_at(&Probe::default(), &points, &eps, (&Cond::default(), Mode::Train), &x0)
            .unwrap();
        losses.total.double_value(&[])
    };
    assert!((total(Reduce::HalfSum) / total(Reduce::Mean) - 24.0).abs() < 1e-4);
}

#[test]
fn absolute_errors_are_weighted_by_roots() {
    let (x0, eps) = (noise(&[2, 3, 4, 4], 1), noise(&[2, 3, 4, 4], 2));
    let points: Vec<Point> = [0.3, 0.6].map(|t| Point::new(&TrigFlow, t)).to_vec();
    let run = |weighting| {
        let objective = Denoising { weighting, distance: Distance::L1, ..objective(plain(Prediction::Eps)) };
        objective.loss_at(&Probe::default(), &points, &eps, (&Cond::default(), Mode::Train), &x0).unwrap()
    };
    let losses = run(Weighting::Uniform);
    let want = eps.abs().mean(Kind::Float).double_value(&[]);
    assert!((losses.total.double_value(&[]) - want).abs() < 1e-6);
    assert_eq!(losses.parts[0].0, "l1");
    let snr = |p: &Point| (p.alpha / p.sigma).powi(2);
    let want: f64 = points
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let weight = snr(p).min(0.7) / snr(p);
            weight.sqrt() * eps.get(i as i64).abs().mean(Kind::Float).double_value(&[]) / 2.0
        })
        .sum();
    let got = run(Weighting::MinSnr { gamma: 0.7 }).total.double_value(&[]);
    assert!((got / want - 1.0).abs() < 1e-5, "{got} {want}");
}

#[test]
fn classes_are_dropped_at_their_rate_and_reproducibly() {
    let x = Tensor::zeros([2000, 3, 4, 4], (Kind::Float, Device::Cpu));
    let objective = Denoising { class_dropout: 0.2, ..objective(plain(Prediction::Eps)) };
    let run = || {
        let net = Probe::default();
        let class = Tensor::full([2000], 7, (Kind::Int64, Device::Cpu));
        let _ = objective.loss(&net, &TrigFlow, &batch(x.shallow_clone(), Some(class))).unwrap();
        net.seen.take().unwrap().2.unwrap()
    };
    let class = run();
    let dropped = class.eq(-1).sum(Kind::Int64).int64_value(&[]);
    assert!((320..480).contains(&dropped), "{dropped}");
    assert_eq!(class.eq(7).sum(Kind::Int64).int64_value(&[]), 2000 - dropped);
    assert!(run().equal(&class));
}

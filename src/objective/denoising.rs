//! Denoising losses: every parameterisation is one regression on the network's raw output.
//!
//! With scalings around the network (`P = skip x_t + out F(input x_t, time)`) and a true prediction
//! `P = a x_0 + b eps`, the output that would be exact is `F = (P - skip x_t)/out`, again a combination of
//! `x_0` and `eps`. So four numbers per sample make the network's input and target, and the loss is
//! `w mean (F - target)^2`. For EDM's scalings this is EDM's weighted loss exactly, since its weight is
//! `1/out^2` (Karras et al. 2022, eq. 8 and appendix B.6); for eps the loss of Ho et al. 2020; for the
//! score that of Song et al. 2021 (eq. 7 with weight sigma^2, or g^2 for maximum likelihood).

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::schedule::{TimeSampling, Times, levels};
use super::{Batch, Losses, Objective};
use crate::denoiser::Prediction;
use crate::denoiser::precond::Precond;
use crate::error::Result;
use crate::math::rng::{SplitMix64, named_seed};
use crate::net::{Cond, Mode, Network};
use crate::process::{Point, Process};

/// Weight of a sample's squared error, by its noise level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Weighting {
    /// One in units of the network's output.
    Uniform,
    /// `g^2` on the score: maximum likelihood (Song et al. 2021, "Maximum likelihood training of
    /// score-based diffusion models").
    Likelihood,
    /// `min(SNR, gamma)` on x_0 (Hang et al. 2023, "Efficient diffusion training via min-SNR weighting").
    MinSnr {
        /// Largest weight.
        #[serde(default = "five")]
        gamma: f64,
    },
}

fn five() -> f64 {
    5.0
}

/// How squared errors of a sample are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduce {
    /// Mean over its values.
    Mean,
    /// Half their sum (score_sde's `reduce_mean = False`).
    HalfSum,
}

/// How far the output is from its target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distance {
    /// Squared error.
    #[default]
    Mse,
    /// Absolute error (Chen et al. 2021, "WaveGrad"; weights count as their square roots).
    L1,
}

impl Distance {
    /// Its name in logs.
    fn name(self) -> &'static str {
        match self {
            Distance::Mse => "mse",
            Distance::L1 => "l1",
        }
    }
}

/// A denoising objective.
#[derive(Debug, Clone, PartialEq)]
pub struct Denoising {
    /// Scalings around the network, the same as at sampling.
    pub precond: Precond,
    /// Distribution of times.
    pub sampling: TimeSampling,
    /// Smallest time.
    pub t_min: f64,
    /// Largest time; that of the process where `None`.
    pub t_max: Option<f64>,
    /// Weight of a sample.
    pub weighting: Weighting,
    /// Reduction over a sample.
    pub reduce: Reduce,
    /// What is reduced.
    pub distance: Distance,
    /// Probability of leaving the class out (Ho and Salimans 2022, "Classifier-free guidance").
    pub class_dropout: f64,
}

/// The numbers of one sample: input `= in_x0 x_0 + in_eps eps`, target likewise.
#[derive(Debug, Clone, Copy)]
struct Mix {
    in_x0: f64,
    in_eps: f64,
    target_x0: f64,
    target_eps: f64,
    time: f64,
    weight: f64,
}

impl Denoising {
    fn points(&self, process: &dyn Process, n: usize, rng: &mut SplitMix64) -> Result<Vec<Point>> {
        // A network preconditioned in rho needs no process: only the ratio matters.
        if let (false, TimeSampling::LogNormal { p_mean, p_std }) =
            (matches!(self.precond, Precond::Plain { .. }), self.sampling)
        {
            return Ok(levels(p_mean, p_std, n, rng));
        }
        let max = self.t_max.unwrap_or_else(|| process.span().max);
        Times { sampling: self.sampling, min: self.t_min, max }.draw(process, n, rng)
    }

    fn mix(&self, p: &Point) -> Mix {
        let s = self.precond.at(p);
        let (x0, eps) = truth(self.precond.prediction(), p);
        // Squared errors of F times these are squared errors of eps, and of x_0.
        let (to_eps, to_x0) = per_output(self.precond.prediction(), p, s.out);
        let weight = match self.weighting {
            // Not the raw score, whose target explodes at small sigma: its error is counted in eps.
            Weighting::Uniform if self.precond.prediction() == Prediction::Score => to_eps,
            Weighting::Uniform => 1.0,
            Weighting::Likelihood => to_eps * p.g2() / (p.sigma * p.sigma),
            Weighting::MinSnr { gamma } => to_x0 * (p.alpha / p.sigma).powi(2).min(gamma),
        };
        Mix {
            in_x0: s.input * p.alpha,
            in_eps: s.input * p.sigma,
            target_x0: (x0 - s.skip * p.alpha) / s.out,
            target_eps: (eps - s.skip * p.sigma) / s.out,
            time: s.time,
            weight,
        }
    }

    /// The loss at given points with given noise.
    fn loss_at(
        &self,
        net: &dyn Network,
        points: &[Point],
        eps: &Tensor,
        (cond, mode): (&Cond, Mode),
        x0: &Tensor,
    ) -> Result<Losses> {
        let mixes: Vec<Mix> = points.iter().map(|p| self.mix(p)).collect();
        let rows = upload(&mixes, x0.device())?;
        let mut shape = vec![1; x0.dim()];
        shape[0] = -1;
        let row = |i: i64| -> Result<Tensor> { Ok(rows.f_get(i)?.f_view(shape.as_slice())?) };
        let combine =
            |a: i64, b: i64| -> Result<Tensor> { Ok(x0.f_mul(&row(a)?)?.f_addcmul(eps, &row(b)?)?) };
        let (input, target) = (combine(0, 1)?, combine(2, 3)?);
        let out = net.forward(&input, &rows.f_get(4)?, cond, mode)?;
        let error = out.f_to_kind(Kind::Float)?.f_sub(&target)?;
        let (error, power) = match self.distance {
            Distance::Mse => (error.f_square()?, 1.0),
            Distance::L1 => (error.f_abs()?, 0.5),
        };
        let mean = error.f_mean(Kind::Float)?;
        #[allow(clippy::cast_precision_loss)]
        let values = (x0.numel() / points.len().max(1)) as f64;
        let mut total = if mixes.iter().all(|m| m.weight == 1.0) {
            mean.shallow_clone()
        } else {
            error.f_mul(&row(5)?.f_pow_tensor_scalar(power)?)?.f_mean(Kind::Float)?
        };
        if self.reduce == Reduce::HalfSum {
            total = total.f_mul_scalar(0.5 * values)?;
        }
        Ok(Losses { total, parts: vec![(self.distance.name(), mean.f_detach()?)] })
    }
}

impl Objective for Denoising {
    fn loss(&self, net: &dyn Network, process: &dyn Process, batch: &Batch) -> Result<Losses> {
        let n = usize::try_from(batch.x.size().first().copied().unwrap_or(0)).unwrap_or(0);
        let points = self.points(process, n, &mut SplitMix64::new(named_seed(batch.draw_seed, "time")))?;
        let class = match &batch.class {
            Some(class) if self.class_dropout > 0.0 && batch.mode == Mode::Train => {
                let mut rng = SplitMix64::new(named_seed(batch.draw_seed, "class"));
                let drop: Vec<bool> = (0..n).map(|_| rng.uniform() < self.class_dropout).collect();
                let drop = Tensor::f_from_slice(&drop)?.f_to_device(class.device())?;
                Some(class.f_masked_fill(&drop, -1)?)
            }
            class => class.as_ref().map(Tensor::shallow_clone),
        };
        let cond = Cond {
            class,
            augment: batch.augment.as_ref().map(Tensor::shallow_clone),
            mel: spectrum(net, batch)?,
        };
        let eps = batch.x.f_randn_like()?;
        self.loss_at(net, &points, &eps, (&cond, batch.mode), &batch.x)
    }
}

/// The spectrogram of a batch: that which is given, or that of its waveforms `[B, 1, L]` for a vocoder.
fn spectrum(net: &dyn Network, batch: &Batch) -> Result<Option<Tensor>> {
    match (&batch.mel, net.spectrogram()) {
        (Some(mel), _) => Ok(Some(mel.shallow_clone())),
        (None, Some(spectrogram)) => {
            let _guard = tch::no_grad_guard();
            Ok(Some(spectrogram.run(&batch.x.f_mean_dim([1i64].as_slice(), false, None::<Kind>)?)?))
        }
        (None, None) => Ok(None),
    }
}

/// `(a, b)` of the true prediction `a x_0 + b eps`.
fn truth(prediction: Prediction, p: &Point) -> (f64, f64) {
    match prediction {
        Prediction::Eps => (0.0, 1.0),
        Prediction::X0 => (1.0, 0.0),
        Prediction::V => (-p.sigma, p.alpha),
        Prediction::Velocity => (p.dalpha, p.dsigma),
        Prediction::Score => (0.0, -p.sigma.recip()),
    }
}

/// Squared factors from an error of the raw output (`out` times it is one of the prediction) to the error of
/// eps and of x_0 that follows from it at fixed `x_t`.
fn per_output(prediction: Prediction, p: &Point, out: f64) -> (f64, f64) {
    let Point { alpha, sigma, .. } = *p;
    let eps = match prediction {
        Prediction::Eps => 1.0,
        Prediction::X0 => alpha / sigma,
        Prediction::V => alpha / (alpha * alpha + sigma * sigma),
        Prediction::Velocity => alpha / (alpha * p.dsigma - p.dalpha * sigma),
        Prediction::Score => sigma,
    };
    let eps = (eps * out).powi(2);
    (eps, eps * (sigma / alpha).powi(2))
}

/// The numbers of the samples as one small copy to the device: rows of `[6, B]` f32.
#[allow(clippy::cast_possible_truncation)]
fn upload(mixes: &[Mix], device: Device) -> Result<Tensor> {
    let fields: [fn(&Mix) -> f64; 6] =
        [|m| m.in_x0, |m| m.in_eps, |m| m.target_x0, |m| m.target_eps, |m| m.time, |m| m.weight];
    let flat: Vec<f32> = fields.iter().flat_map(|of| mixes.iter().map(move |m| of(m) as f32)).collect();
    Ok(Tensor::f_from_slice(&flat)?.f_view([6, -1])?.f_to_device(device)?)
}

#[cfg(test)]
mod tests {
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
            want +=
                (total / (rho * sd).powi(2) * (d - x0).square()).mean(Kind::Float).double_value(&[]) / 5.0;
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
                let got =
                    objective.loss_at(&net, &points, &eps, (&Cond::default(), Mode::Train), &x0).unwrap();
                assert!(got.total.double_value(&[]) < 1e-9, "{prediction:?} {weighting:?}");
            }
            let (x, t, _) = net.seen.take().unwrap();
            assert!((x - (&alpha * &x0 + &sigma * &eps)).abs().max().double_value(&[]) < 1e-6);
            assert!(
                (t / 999.0 - Tensor::from_slice(&[0.1f32, 0.4, 0.6, 0.9])).abs().max().double_value(&[])
                    < 1e-6
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
            let objective =
                Denoising { weighting, distance: Distance::L1, ..objective(plain(Prediction::Eps)) };
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
}

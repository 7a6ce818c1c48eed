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
mod tests;

//! Which times a network is trained at, drawn on the host in f64.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::math::rng::SplitMix64;
use crate::process::{Point, Process};

/// The distribution of training times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TimeSampling {
    /// Uniform over the range of times.
    Uniform {
        /// One uniform offset plus i/B for sample i: the same distribution with less variance of the loss
        /// (Kingma et al. 2021, "Variational diffusion models", appendix I.1).
        #[serde(default)]
        stratified: bool,
    },
    /// Uniform over the table entries `1/n, 2/n, ..., 1`.
    Discrete {
        /// Number of entries.
        n: u32,
    },
    /// `t = 1/(1 + exp(-N(mean, std^2)))` (Esser et al. 2024, "Scaling rectified flow transformers").
    LogitNormal {
        /// Mean of the logit of t.
        #[serde(default)]
        mean: f64,
        /// Its standard deviation.
        #[serde(default = "one")]
        std: f64,
    },
    /// The logit-normal with EDM's parameters: `rho = t/(1-t)` of the linear flow is then distributed as in
    /// EDM (Lipman et al. 2024, "Flow matching guide and code").
    Skewed {
        /// Mean of `ln rho`.
        #[serde(default = "p_mean")]
        p_mean: f64,
        /// Its standard deviation.
        #[serde(default = "p_std")]
        p_std: f64,
    },
    /// `ln rho ~ N(p_mean, p_std^2)` (Karras et al. 2022, Table 1).
    LogNormal {
        /// Mean of `ln rho`.
        #[serde(default = "p_mean")]
        p_mean: f64,
        /// Its standard deviation.
        #[serde(default = "p_std")]
        p_std: f64,
    },
}

fn one() -> f64 {
    1.0
}
pub(super) fn p_mean() -> f64 {
    -1.2
}
pub(super) fn p_std() -> f64 {
    1.2
}

/// Training times and where they lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// Distribution.
    pub sampling: TimeSampling,
    /// Smallest time.
    pub min: f64,
    /// Largest time.
    pub max: f64,
}

impl Times {
    /// `n` times of `process`.
    ///
    /// # Errors
    /// Where the range is empty, or the process has no time of the noise level drawn.
    pub fn draw(&self, process: &dyn Process, n: usize, rng: &mut SplitMix64) -> Result<Vec<Point>> {
        let Times { min, max, sampling } = *self;
        if !(min < max && min.is_finite() && max.is_finite()) {
            return Err(Error::usage(format!("no training times between {min} and {max}")));
        }
        let offset = rng.uniform();
        (0..n)
            .map(|i| {
                let t = match sampling {
                    TimeSampling::Uniform { stratified } => {
                        let u = if stratified { stratum(offset, i, n) } else { rng.uniform() };
                        min + (max - min) * u
                    }
                    TimeSampling::Discrete { n } => {
                        ((f64::from(n) * rng.uniform()).floor() + 1.0) / f64::from(n)
                    }
                    TimeSampling::LogitNormal { mean, std } => logistic(mean + std * rng.normal()),
                    TimeSampling::Skewed { p_mean, p_std } => logistic(p_mean + p_std * rng.normal()),
                    TimeSampling::LogNormal { p_mean, p_std } => {
                        process.t_of_lambda(-(p_mean + p_std * rng.normal()))?
                    }
                };
                Ok(Point::new(process, t.clamp(min, max)))
            })
            .collect()
    }
}

/// `n` noise levels as points of the process `x = x_0 + rho eps`, for networks preconditioned in rho.
#[must_use]
pub fn levels(p_mean: f64, p_std: f64, n: usize, rng: &mut SplitMix64) -> Vec<Point> {
    let point = |ln_rho: f64| {
        let rho = ln_rho.exp();
        Point { t: rho, alpha: 1.0, sigma: rho, dalpha: 0.0, dsigma: 1.0, lambda: -ln_rho }
    };
    (0..n).map(|_| point(p_mean + p_std * rng.normal())).collect()
}

#[allow(clippy::cast_precision_loss)]
fn stratum(offset: f64, i: usize, n: usize) -> f64 {
    (offset + i as f64 / n as f64).fract()
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::TrigFlow;

    fn draw(sampling: TimeSampling, n: usize) -> Vec<Point> {
        let times = Times { sampling, min: 0.0, max: 1.0 };
        times.draw(&TrigFlow, n, &mut SplitMix64::new(5)).unwrap()
    }

    fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
        let n = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / n;
        (mean, (values.map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn distributions_have_their_moments() {
        let logit = |p: &Point| (p.t / (1.0 - p.t)).ln();
        let n = 40_000;
        let skewed = draw(TimeSampling::Skewed { p_mean: -1.2, p_std: 1.2 }, n);
        let (mean, std) = moments(skewed.iter().map(logit));
        assert!((mean + 1.2).abs() < 0.03 && (std - 1.2).abs() < 0.03, "{mean} {std}");
        let rho = draw(TimeSampling::LogNormal { p_mean: -0.4, p_std: 1.0 }, n);
        let (mean, std) = moments(rho.iter().map(|p| p.rho().ln()));
        assert!((mean + 0.4).abs() < 0.03 && (std - 1.0).abs() < 0.03, "{mean} {std}");
        let (mean, std) = moments(draw(TimeSampling::Uniform { stratified: false }, n).iter().map(|p| p.t));
        assert!((mean - 0.5).abs() < 0.01 && (std - 12f64.sqrt().recip()).abs() < 0.01);
    }

    #[test]
    fn strata_are_evenly_spaced_and_tables_are_hit_exactly() {
        let mut t: Vec<f64> =
            draw(TimeSampling::Uniform { stratified: true }, 8).iter().map(|p| p.t).collect();
        t.sort_by(f64::total_cmp);
        assert!(t.windows(2).all(|w| (w[1] - w[0] - 0.125).abs() < 1e-12));
        let table = draw(TimeSampling::Discrete { n: 4 }, 1000);
        for k in 1..=4 {
            let share = table.iter().filter(|p| p.t == f64::from(k) / 4.0).count();
            assert!((150..350).contains(&share), "{k} {share}");
        }
    }

    #[test]
    fn an_empty_range_is_refused() {
        let times = Times { sampling: TimeSampling::Uniform { stratified: false }, min: 1.0, max: 1.0 };
        assert_eq!(times.draw(&TrigFlow, 1, &mut SplitMix64::new(0)).unwrap_err().kind().exit_code(), 2);
    }
}

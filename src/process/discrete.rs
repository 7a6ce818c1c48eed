//! DDPM tables seen as a continuous process.
//!
//! Ho et al. 2020, "Denoising diffusion probabilistic models": `alpha_bar_i = prod_k (1 - beta_k)`.
//! The continuous view is that of Lu et al. 2022, "DPM-Solver", Appendix D.4: entry i stands at
//! `t = (i + 1)/N` and `ln alpha` is piecewise linear in t. Below the first entry the line goes to
//! clean data at t = 0.

use std::f64::consts::FRAC_PI_2;

use super::vp::finite;
use super::{Family, Process, Span};
use crate::error::{Error, Result};
use crate::math::logaddexp;

/// How the betas of a DDPM table run.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum BetaSchedule {
    /// Equally spaced betas (Ho et al. 2020).
    #[default]
    Linear,
    /// Betas whose square roots are equally spaced (latent diffusion).
    ScaledLinear,
    /// Squared cosine `alpha_bar`, betas capped at 0.999 (Nichol and Dhariwal 2021).
    Cosine,
}

/// The table `alpha_bar` `[steps]`. `beta_start` and `beta_end` do not matter for the cosine.
#[must_use]
pub fn alpha_bar(schedule: BetaSchedule, steps: usize, beta_start: f64, beta_end: f64) -> Vec<f64> {
    let between = |a: f64, b: f64, i: usize| a + (b - a) * i as f64 / (steps.max(2) - 1) as f64;
    let cosine = |i: usize| ((i as f64 / steps as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
    let beta = |i: usize| match schedule {
        BetaSchedule::Linear => between(beta_start, beta_end, i),
        BetaSchedule::ScaledLinear => between(beta_start.sqrt(), beta_end.sqrt(), i).powi(2),
        BetaSchedule::Cosine => (1.0 - cosine(i + 1) / cosine(i)).min(0.999),
    };
    let mut product = 1.0;
    (0..steps)
        .map(|i| {
            product *= 1.0 - beta(i);
            product
        })
        .collect()
}

/// A DDPM table as a process on `[1/N, 1]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Discrete {
    alpha_bar: Vec<f64>,
    /// `ln alpha` at `t = i/N`, i = 0 ... N; the first is 0.
    knots: Vec<f64>,
}

/// Tail entries with less signal than this are not sampled from: their half log-SNR is so low that
/// a step from there tells nothing (Lu et al. 2022).
const LOWEST_LAMBDA: f64 = -5.1;

impl Discrete {
    /// The process of the table `alpha_bar`, strictly decreasing in (0, 1).
    ///
    /// # Errors
    /// Where the table is empty or not strictly decreasing in (0, 1).
    pub fn new(alpha_bar: Vec<f64>) -> Result<Self> {
        let falls = std::iter::once(&1.0).chain(&alpha_bar).zip(&alpha_bar).all(|(a, b)| a > b && *b > 0.0);
        if alpha_bar.is_empty() || !falls {
            return Err(Error::usage("bad DDPM table")
                .why("alpha_bar must decrease strictly from below 1 to above 0"));
        }
        let knots = std::iter::once(0.0).chain(alpha_bar.iter().map(|a| 0.5 * a.ln())).collect();
        Ok(Discrete { alpha_bar, knots })
    }

    /// The table.
    #[must_use]
    pub fn alpha_bar(&self) -> &[f64] {
        &self.alpha_bar
    }

    /// The time at which entry `index` stands.
    #[must_use]
    pub fn t_of_index(&self, index: f64) -> f64 {
        (index + 1.0) / self.alpha_bar.len() as f64
    }

    /// The (fractional) index at time `t`, which is what the network was trained with:
    /// `(t - 1/N) N`.
    #[must_use]
    pub fn index_of_t(&self, t: f64) -> f64 {
        t * self.alpha_bar.len() as f64 - 1.0
    }

    /// `ln alpha` and its time derivative.
    fn log_alpha(&self, t: f64) -> (f64, f64) {
        let n = self.alpha_bar.len();
        let place = t * n as f64;
        let i = (place.floor().max(0.0) as usize).min(n - 1);
        let rise = self.knots[i + 1] - self.knots[i];
        (self.knots[i] + (place - i as f64) * rise, rise * n as f64)
    }
}

impl Process for Discrete {
    fn span(&self) -> Span {
        let n = self.alpha_bar.len() as f64;
        let last = self.alpha_bar.iter().rposition(|a| 0.5 * (a / (1.0 - a)).ln() >= LOWEST_LAMBDA);
        Span { min: 1.0 / n, max: last.map_or(1.0, |i| (i + 1) as f64 / n) }
    }

    fn alpha(&self, t: f64) -> f64 {
        self.log_alpha(t).0.exp()
    }

    fn sigma(&self, t: f64) -> f64 {
        (-(2.0 * self.log_alpha(t).0).exp_m1()).sqrt()
    }

    fn dalpha(&self, t: f64) -> f64 {
        let (log_alpha, slope) = self.log_alpha(t);
        slope * log_alpha.exp()
    }

    fn dsigma(&self, t: f64) -> f64 {
        let (log_alpha, slope) = self.log_alpha(t);
        -slope * (2.0 * log_alpha).exp() / self.sigma(t)
    }

    fn lambda(&self, t: f64) -> f64 {
        let log_alpha = self.log_alpha(t).0;
        log_alpha - 0.5 * (-(2.0 * log_alpha).exp_m1()).ln()
    }

    fn t_of_lambda(&self, lambda: f64) -> Result<f64> {
        let log_alpha = -0.5 * logaddexp(-2.0 * lambda, 0.0);
        let n = self.alpha_bar.len();
        // The last knot that is not below, so that the line through it and the next is the right one.
        let i = self.knots.partition_point(|knot| *knot >= log_alpha).saturating_sub(1).min(n - 1);
        let place = i as f64 + (log_alpha - self.knots[i]) / (self.knots[i + 1] - self.knots[i]);
        finite(lambda, place / n as f64)
    }

    fn table_len(&self) -> Option<usize> {
        Some(self.alpha_bar.len())
    }

    fn family(&self) -> Family {
        Family::VariancePreserving
    }
}

//! DDPM tables seen as a continuous process.
//!
//! Ho et al. 2020, "Denoising diffusion probabilistic models": `alpha_bar_i = prod_k (1 - beta_k)`.
//! The continuous view is that of Lu et al. 2022, "DPM-Solver", Appendix D.4: entry i stands at
//! `t = (i + 1)/N` and `ln alpha` is piecewise linear in t. Below the first entry the line goes to
//! clean data at t = 0. In the last interval of a table whose last entry has no signal (`alpha_bar = 0`,
//! where `ln alpha` is infinite) it is alpha itself that is linear.

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
    /// Betas along a logistic curve from -6 to 6 (GeoDiff; Xu et al. 2022).
    Sigmoid,
    /// `alpha_bar` of a Laplace distribution of log-SNRs, betas capped at 0.999.
    Laplace,
    /// `alpha_bar = e^(-12 t)`, betas capped at 0.999.
    Exp,
}

/// Caps the betas of tables that are given by their `alpha_bar`.
const MAX_BETA: f64 = 0.999;

/// `alpha_bar` at `t` of 0 ... 1 for the schedules that are given by it.
fn alpha_bar_at(schedule: BetaSchedule, t: f64) -> f64 {
    match schedule {
        BetaSchedule::Laplace => {
            let log_snr = -0.5 * (0.5 - t).signum() * (1.0 - 2.0 * (0.5 - t).abs() + 1e-6).ln();
            let snr = log_snr.exp();
            (snr / (1.0 + snr)).sqrt()
        }
        BetaSchedule::Exp => (-12.0 * t).exp(),
        _ => ((t + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2),
    }
}

/// The table `alpha_bar` `[steps]`. `beta_start` and `beta_end` matter for the linear schedules and the
/// sigmoid.
#[must_use]
pub fn alpha_bar(schedule: BetaSchedule, steps: usize, beta_start: f64, beta_end: f64) -> Vec<f64> {
    let between = |a: f64, b: f64, i: usize| a + (b - a) * i as f64 / (steps.max(2) - 1) as f64;
    let at = |i: usize| alpha_bar_at(schedule, i as f64 / steps as f64);
    let beta = |i: usize| match schedule {
        BetaSchedule::Linear => between(beta_start, beta_end, i),
        BetaSchedule::ScaledLinear => between(beta_start.sqrt(), beta_end.sqrt(), i).powi(2),
        BetaSchedule::Sigmoid => {
            beta_start + (beta_end - beta_start) / (1.0 + (-between(-6.0, 6.0, i)).exp())
        }
        _ => (1.0 - at(i + 1) / at(i)).min(MAX_BETA),
    };
    from_betas((0..steps).map(beta))
}

/// The table `alpha_bar` of a list of betas.
pub fn from_betas(betas: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut product = 1.0;
    let next = |beta: f64| {
        product *= 1.0 - beta;
        product
    };
    betas.into_iter().map(next).collect()
}

/// The table with no signal in its last entry: `sqrt(alpha_bar)` shifted to 0 there and scaled so that the
/// first entry stays (Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed",
/// algorithm 1). The last entry is then `last`: 0, or a number so small that `1/alpha` is still finite;
/// entries before it that are not above that number are put on the line of `ln alpha_bar` down to it, so
/// that the table still falls.
#[must_use]
pub fn without_terminal_signal(alpha_bar: &[f64], last: f64) -> Vec<f64> {
    let (Some(first), Some(end)) = (alpha_bar.first(), alpha_bar.last()) else {
        return Vec::new();
    };
    let (first, end) = (first.sqrt(), end.sqrt());
    let scale = first / (first - end);
    let mut table: Vec<f64> = alpha_bar.iter().map(|a| ((a.sqrt() - end) * scale).powi(2)).collect();
    let above = table.partition_point(|a| *a > last);
    let steps = (table.len() - above) as f64;
    if let Some(from) = above.checked_sub(1).map(|i| table[i]) {
        for (k, entry) in table[above..].iter_mut().enumerate() {
            *entry = from * (last / from).powf((k + 1) as f64 / steps);
        }
    }
    if let Some(entry) = table.last_mut() {
        *entry = last;
    }
    table
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
    /// The process of the table `alpha_bar`, strictly decreasing in (0, 1); the last entry may be 0.
    ///
    /// # Errors
    /// Where the table is empty or not strictly decreasing from below 1 to 0.
    pub fn new(alpha_bar: Vec<f64>) -> Result<Self> {
        let falls = std::iter::once(&1.0).chain(&alpha_bar).zip(&alpha_bar).all(|(a, b)| a > b && *b >= 0.0);
        if alpha_bar.is_empty() || !falls || alpha_bar[0] == 0.0 {
            return Err(Error::usage("bad DDPM table")
                .why("alpha_bar must decrease strictly from below 1, and not below 0"));
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

    /// The interval in which `t` lies, and the place in it from 0 to 1.
    fn interval(&self, t: f64) -> (usize, f64) {
        let n = self.alpha_bar.len();
        let place = t * n as f64;
        let i = (place.floor().max(0.0) as usize).min(n - 1);
        (i, place - i as f64)
    }

    /// `ln alpha` and its time derivative.
    fn log_alpha(&self, t: f64) -> (f64, f64) {
        let (n, (i, place)) = (self.alpha_bar.len() as f64, self.interval(t));
        if self.knots[i + 1] == f64::NEG_INFINITY {
            let left = (1.0 - place).max(0.0);
            return (self.knots[i] + left.ln(), -n / left);
        }
        let rise = self.knots[i + 1] - self.knots[i];
        (self.knots[i] + place * rise, rise * n)
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
        let (i, _) = self.interval(t);
        if self.knots[i + 1] == f64::NEG_INFINITY {
            return -self.knots[i].exp() * self.alpha_bar.len() as f64;
        }
        let (log_alpha, slope) = self.log_alpha(t);
        slope * log_alpha.exp()
    }

    fn dsigma(&self, t: f64) -> f64 {
        -self.alpha(t) * self.dalpha(t) / self.sigma(t)
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
        let inside = if self.knots[i + 1] == f64::NEG_INFINITY {
            -(log_alpha - self.knots[i]).exp_m1()
        } else {
            (log_alpha - self.knots[i]) / (self.knots[i + 1] - self.knots[i])
        };
        let place = i as f64 + inside;
        finite(lambda, place / n as f64)
    }

    fn table_len(&self) -> Option<usize> {
        Some(self.alpha_bar.len())
    }

    fn family(&self) -> Family {
        Family::VariancePreserving
    }
}

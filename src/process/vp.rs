//! The variance-preserving SDE with linear beta, the continuous limit of DDPM.
//!
//! Song et al. 2021, "Score-based generative modeling through SDEs", equation 11 and Appendix B:
//! `dx = -beta/2 x dt + sqrt(beta) dw`, `beta(t) = beta_min + t (beta_max - beta_min)`, hence
//! `ln alpha = -t^2 (beta_max - beta_min)/4 - t beta_min/2` and `sigma^2 = 1 - alpha^2`.

use super::{Family, Process, Span};
use crate::error::{Error, Result};
use crate::math::logaddexp;

/// The VP process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vp {
    /// `beta(0)`.
    pub beta_min: f64,
    /// `beta(1)`.
    pub beta_max: f64,
}

impl Default for Vp {
    fn default() -> Self {
        Vp { beta_min: 0.1, beta_max: 20.0 }
    }
}

impl Vp {
    /// `beta(t)`.
    #[must_use]
    pub fn beta(&self, t: f64) -> f64 {
        self.beta_min + t * (self.beta_max - self.beta_min)
    }

    /// `ln alpha(t)`.
    #[must_use]
    pub fn log_alpha(&self, t: f64) -> f64 {
        -t * t * (self.beta_max - self.beta_min) / 4.0 - t * self.beta_min / 2.0
    }

    /// The time at which `-2 ln alpha = length`, free of cancellation.
    #[must_use]
    pub(super) fn t_of_length(&self, length: f64) -> f64 {
        let (b0, slope) = (self.beta_min, self.beta_max - self.beta_min);
        2.0 * length / ((b0 * b0 + 2.0 * slope * length).sqrt() + b0)
    }
}

impl Process for Vp {
    fn span(&self) -> Span {
        Span { min: 1e-3, max: 1.0 }
    }

    fn alpha(&self, t: f64) -> f64 {
        self.log_alpha(t).exp()
    }

    fn sigma(&self, t: f64) -> f64 {
        (-(2.0 * self.log_alpha(t)).exp_m1()).sqrt()
    }

    fn dalpha(&self, t: f64) -> f64 {
        -0.5 * self.beta(t) * self.alpha(t)
    }

    fn dsigma(&self, t: f64) -> f64 {
        0.5 * self.beta(t) * (2.0 * self.log_alpha(t)).exp() / self.sigma(t)
    }

    fn lambda(&self, t: f64) -> f64 {
        let log_alpha = self.log_alpha(t);
        log_alpha - 0.5 * (-(2.0 * log_alpha).exp_m1()).ln()
    }

    fn t_of_lambda(&self, lambda: f64) -> Result<f64> {
        finite(lambda, self.t_of_length(logaddexp(-2.0 * lambda, 0.0)))
    }

    fn family(&self) -> Family {
        Family::VariancePreserving
    }
}

/// `t`, or the error that no time has this `lambda`.
pub(super) fn finite(lambda: f64, t: f64) -> Result<f64> {
    if t.is_finite() && t >= 0.0 {
        return Ok(t);
    }
    Err(Error::usage(format!("no time has the half log-SNR {lambda}")))
}

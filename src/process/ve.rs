//! The variance-exploding SDE with a geometric noise level.
//!
//! Song et al. 2021, "Score-based generative modeling through SDEs", equation 9 and Appendix C:
//! `sigma(t) = sigma_min (sigma_max/sigma_min)^t`, `alpha = 1`. `p(x_t | x_0)` has the variance
//! `sigma(t)^2`, not `sigma(t)^2 - sigma(0)^2`: `sigma(0) = sigma_min > 0` is meant.

use super::{Family, Process, Span};
use crate::error::{Error, Result};

/// The VE process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ve {
    /// `sigma(0)`.
    pub sigma_min: f64,
    /// `sigma(1)`.
    pub sigma_max: f64,
}

impl Default for Ve {
    fn default() -> Self {
        Ve { sigma_min: 0.01, sigma_max: 50.0 }
    }
}

impl Ve {
    fn log_ratio(&self) -> f64 {
        (self.sigma_max / self.sigma_min).ln()
    }
}

impl Process for Ve {
    fn span(&self) -> Span {
        Span { min: 1e-5, max: 1.0 }
    }

    fn alpha(&self, _t: f64) -> f64 {
        1.0
    }

    fn sigma(&self, t: f64) -> f64 {
        self.sigma_min * (t * self.log_ratio()).exp()
    }

    fn dalpha(&self, _t: f64) -> f64 {
        0.0
    }

    fn dsigma(&self, t: f64) -> f64 {
        self.sigma(t) * self.log_ratio()
    }

    fn lambda(&self, t: f64) -> f64 {
        -self.sigma_min.ln() - t * self.log_ratio()
    }

    /// Also outside `[0, 1]`: the formula has no ends of its own.
    fn t_of_lambda(&self, lambda: f64) -> Result<f64> {
        let t = (-lambda - self.sigma_min.ln()) / self.log_ratio();
        if t.is_finite() {
            return Ok(t);
        }
        Err(Error::usage(format!("no time has the half log-SNR {lambda}")))
    }

    fn family(&self) -> Family {
        Family::VarianceExploding
    }
}

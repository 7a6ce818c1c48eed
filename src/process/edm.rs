//! The process of EDM: `alpha = 1`, and time is the noise level, `sigma(t) = t`.
//!
//! Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", Table 1.

use super::vp::finite;
use super::{Family, Process, Span};
use crate::error::Result;

/// The EDM process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edm {
    /// The lowest noise level sampled, before the last step to 0.
    pub sigma_min: f64,
    /// The highest noise level sampled.
    pub sigma_max: f64,
}

impl Default for Edm {
    fn default() -> Self {
        Edm { sigma_min: 0.002, sigma_max: 80.0 }
    }
}

impl Process for Edm {
    fn span(&self) -> Span {
        Span { min: self.sigma_min, max: self.sigma_max }
    }

    fn alpha(&self, _t: f64) -> f64 {
        1.0
    }

    fn sigma(&self, t: f64) -> f64 {
        t
    }

    fn dalpha(&self, _t: f64) -> f64 {
        0.0
    }

    fn dsigma(&self, _t: f64) -> f64 {
        1.0
    }

    fn lambda(&self, t: f64) -> f64 {
        -t.ln()
    }

    fn t_of_lambda(&self, lambda: f64) -> Result<f64> {
        finite(lambda, (-lambda).exp())
    }

    fn family(&self) -> Family {
        Family::NoiseLevel
    }
}

//! The sub-VP SDE: the drift of VP with less noise, `sigma = 1 - alpha^2` (not its root).
//!
//! Song et al. 2021, "Score-based generative modeling through SDEs", equation 12 and Appendix C:
//! `dx = -beta/2 x dt + sqrt(beta (1 - alpha^4)) dw`.

use super::vp::finite;
use super::{Family, Process, Span, Vp};
use crate::error::Result;

/// The sub-VP process.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SubVp(
    /// The VP process with the same drift.
    pub Vp,
);

impl Process for SubVp {
    fn span(&self) -> Span {
        self.0.span()
    }

    fn alpha(&self, t: f64) -> f64 {
        self.0.alpha(t)
    }

    fn sigma(&self, t: f64) -> f64 {
        -(2.0 * self.0.log_alpha(t)).exp_m1()
    }

    fn dalpha(&self, t: f64) -> f64 {
        self.0.dalpha(t)
    }

    fn dsigma(&self, t: f64) -> f64 {
        self.0.beta(t) * (2.0 * self.0.log_alpha(t)).exp()
    }

    fn lambda(&self, t: f64) -> f64 {
        self.0.log_alpha(t) - self.sigma(t).ln()
    }

    /// From `rho = (1 - alpha^2)/alpha` follows `ln alpha = -asinh(rho/2)`.
    fn t_of_lambda(&self, lambda: f64) -> Result<f64> {
        finite(lambda, self.0.t_of_length(2.0 * asinh_half_exp(-lambda)))
    }

    fn family(&self) -> Family {
        Family::VariancePreserving
    }
}

/// `asinh(exp(x) / 2)` with all digits also where the argument is tiny.
fn asinh_half_exp(x: f64) -> f64 {
    let z = x.exp() / 2.0;
    // asinh z = ln(1 + z + z^2 / (1 + sqrt(1 + z^2))).
    (z + z * z / (1.0 + (1.0 + z * z).sqrt())).ln_1p()
}

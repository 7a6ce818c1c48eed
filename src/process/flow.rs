//! Flows from noise to data: linear and trigonometric interpolation.
//!
//! Lipman et al. 2023, "Flow matching for generative modeling"; Liu et al. 2023, "Flow straight and
//! fast"; Ma et al. 2024, "SiT" (GVP path). Those papers put data at time 1; here, as everywhere in
//! this library, data is at t = 0: `t = 1 - t_paper`, and velocities point the other way.

use std::f64::consts::FRAC_PI_2;

use super::vp::finite;
use super::{Family, Process, Span};
use crate::error::Result;

/// The linear flow (rectified flow, conditional optimal transport): `alpha = 1 - t`, `sigma = t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow;

impl Process for Flow {
    fn span(&self) -> Span {
        Span { min: 0.0, max: 1.0 }
    }

    fn alpha(&self, t: f64) -> f64 {
        1.0 - t
    }

    fn sigma(&self, t: f64) -> f64 {
        t
    }

    fn dalpha(&self, _t: f64) -> f64 {
        -1.0
    }

    fn dsigma(&self, _t: f64) -> f64 {
        1.0
    }

    fn lambda(&self, t: f64) -> f64 {
        (-t).ln_1p() - t.ln()
    }

    fn t_of_lambda(&self, lambda: f64) -> Result<f64> {
        finite(lambda, 1.0 / (1.0 + lambda.exp()))
    }

    fn family(&self) -> Family {
        Family::Flow
    }
}

/// The trigonometric (variance-preserving) flow: `alpha = cos(pi t/2)`, `sigma = sin(pi t/2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrigFlow;

impl Process for TrigFlow {
    fn span(&self) -> Span {
        Span { min: 0.0, max: 1.0 }
    }

    /// As a sine of the distance to the end, so that it is exactly 0 there.
    fn alpha(&self, t: f64) -> f64 {
        (FRAC_PI_2 * (1.0 - t)).sin()
    }

    fn sigma(&self, t: f64) -> f64 {
        (FRAC_PI_2 * t).sin()
    }

    fn dalpha(&self, t: f64) -> f64 {
        -FRAC_PI_2 * self.sigma(t)
    }

    fn dsigma(&self, t: f64) -> f64 {
        FRAC_PI_2 * self.alpha(t)
    }

    fn lambda(&self, t: f64) -> f64 {
        self.alpha(t).ln() - self.sigma(t).ln()
    }

    fn t_of_lambda(&self, lambda: f64) -> Result<f64> {
        finite(lambda, (-lambda).exp().atan() / FRAC_PI_2)
    }

    fn family(&self) -> Family {
        Family::Flow
    }
}

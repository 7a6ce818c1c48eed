//! Euler-Maruyama on the reverse SDE (Ito).
//!
//! Song et al. 2021, "Score-based generative modeling through SDEs", Appendix E, and the family of SDEs
//! with the same marginals of Karras et al. 2022, equation 6:
//! `dx = (u - 1/2 w score) dt + sqrt(w) dw` backwards in t, with `w = eta^2 g^2`; eta = 0 is the
//! probability-flow ODE, 1 the reverse of the forward SDE. Where the signal dies out at the end (flows)
//! `g^2` is infinite there, so `w = eta^2 alpha g^2` is used for them (any `w` has the same marginals;
//! Ma et al. 2024, "SiT", section 2.3). Weak and strong order 1 (additive noise), one call a step.
//!
//! On the last step onto clean data x_0 is returned. `compat = "reference"` takes steps of
//! `(span)/N` from the N grid nodes and returns the mean of the last, as the reference sampler does.

use tch::Tensor;

use super::exponential::{combine_each, first_order};
use super::{Compat, Form, Run, Solver};
use crate::denoiser::{Denoiser, Prediction, convert};
use crate::error::Result;
use crate::process::{At, Family, Point};

/// Euler-Maruyama.
#[derive(Debug)]
pub(super) struct EulerMaruyama {
    /// Share of the noise.
    pub eta: f64,
    /// How long steps are and how the last one goes.
    pub compat: Compat,
}

impl Solver for EulerMaruyama {
    fn reset(&mut self) {}

    fn calls(&self, _points: &[Point], _i: usize) -> u64 {
        1
    }

    fn stochastic(&self) -> bool {
        self.eta != 0.0
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        let reference = self.compat == Compat::Reference;
        if t.is_clean() && !reference {
            return Ok(first_order(run, Form::Data, &s, &t, &x)?.0);
        }
        let dt = if reference { -run.points()[0].t / run.steps() as f64 } else { t.t - s.t };
        // 1/2 w score = -1/2 (w/sigma) eps, and g^2/sigma = 2 det/alpha.
        let per_sigma = match run.process().family() {
            Family::Flow => 2.0 * s.det(),
            _ => 2.0 * s.det() / s.alpha,
        } * self.eta
            * self.eta;
        let at = At::all(s);
        let from = run.model.prediction();
        let out = run.model.predict(&x, &at, run.cond)?;
        let velocity = convert(&out, &x, &at, from, Prediction::Velocity)?;
        let eps = convert(&out, &x, &at, from, Prediction::Eps)?;
        if self.eta == 0.0 || t.is_clean() {
            return combine_each(&[[1.0, dt, 0.5 * per_sigma * dt]], [&x, &velocity, &eps]);
        }
        let noise = (per_sigma * s.sigma * -dt).sqrt();
        let z = run.normal(&x)?;
        combine_each(&[[1.0, dt, 0.5 * per_sigma * dt, noise]], [&x, &velocity, &eps, &z])
    }
}

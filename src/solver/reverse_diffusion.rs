//! Reverse diffusion: the predictor that discretises the reverse SDE as the forward one is discretised.
//!
//! Song et al. 2021, "Score-based generative modeling through SDEs", Appendix D.1 and E: with
//! `x_s = a x_t + sqrt(v) z` forwards (`a = alpha_s/alpha_t`, `v = sigma_s^2 - a^2 sigma_t^2`) the step is
//! `x_t = (2 - a) x_s + v score + sqrt(v) z`. Weak order 1, one call a step. Onto clean data the
//! predicted data is returned; `compat = "reference"` returns the mean of the step. From pure noise, where
//! x says nothing of x_t, the step draws from the prediction instead.

use tch::Tensor;

use super::exponential::{combine_each, first_order};
use super::{Compat, Form, Run, Solver};
use crate::denoiser::Prediction;
use crate::error::Result;
use crate::process::Point;

/// The reverse-diffusion predictor.
#[derive(Debug)]
pub(super) struct ReverseDiffusion {
    /// How the last step goes.
    pub compat: Compat,
}

impl Solver for ReverseDiffusion {
    fn reset(&mut self) {}

    fn calls(&self, _points: &[Point], _i: usize) -> u64 {
        1
    }

    fn stochastic(&self) -> bool {
        true
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        if t.is_clean() && self.compat == Compat::None {
            return Ok(first_order(run, Form::Data, &s, &t, &x)?.0);
        }
        if s.is_pure_noise() {
            let x0 = run.predict(Prediction::X0, &x, s)?;
            let z = run.normal(&x)?;
            return combine_each(&[[t.alpha, t.sigma]], [&x0, &z]);
        }
        let a = s.alpha / t.alpha;
        // v = sigma_s^2 (1 - e^(-2h)), and the score is -eps/sigma_s.
        let share = -(-2.0 * (t.lambda - s.lambda)).exp_m1();
        let eps = run.predict(Prediction::Eps, &x, s)?;
        let of_eps = -s.sigma * share;
        if t.is_clean() {
            return combine_each(&[[2.0 - a, of_eps]], [&x, &eps]);
        }
        let z = run.normal(&x)?;
        combine_each(&[[2.0 - a, of_eps, s.sigma * share.sqrt()]], [&x, &eps, &z])
    }
}

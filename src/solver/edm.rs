//! EDM's sampler: Heun's (or Euler's) method in the noise level, with churn.
//!
//! Karras et al. 2022, algorithm 2. It works in `y = x/alpha` and `rho = sigma/alpha`, which are x and
//! sigma for EDM's own process, so it runs on every process. Calls: two a step, one on the last step
//! onto clean data and from pure noise. With churn a noise tensor is drawn at every step, also at those
//! where the churn limits make it count for nothing, so that seeds mean the same under any limits.

use tch::Tensor;

use super::exponential::{combine_each, first_order, is_inner};
use super::{Churn, Form, Run, Solver};
use crate::denoiser::Prediction;
use crate::error::Result;
use crate::process::{Family, Point};

/// EDM's sampler.
#[derive(Debug)]
pub(super) struct EdmSampler {
    /// 1 (Euler) or 2 (Heun).
    pub order: usize,
    /// Noise put back in before a step.
    pub churn: Churn,
}

impl Solver for EdmSampler {
    fn reset(&mut self) {}

    fn calls(&self, points: &[Point], i: usize) -> u64 {
        if self.order == 2 && is_inner(&points[i], &points[i + 1]) { 2 } else { 1 }
    }

    fn stochastic(&self) -> bool {
        self.churn.s_churn > 0.0
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        let (mut x, mut s) = (x, s);
        if self.churn.s_churn > 0.0 && !s.is_pure_noise() {
            let (z, level) = (run.normal(&x)?, s.rho());
            if (self.churn.s_min..=self.churn.s_max).contains(&level) {
                let gamma = (self.churn.s_churn / run.steps() as f64).min(2f64.sqrt() - 1.0);
                let raised = level * (1.0 + gamma);
                let hat = match run.process().family() {
                    Family::NoiseLevel => Point::new(run.process(), raised),
                    _ => run.at_lambda(-raised.ln())?,
                };
                let added = ((raised - level) * (raised + level)).sqrt() * self.churn.s_noise;
                x = combine_each(&[[hat.alpha / s.alpha, hat.alpha * added]], [&x, &z])?;
                s = hat;
            }
        }
        if !is_inner(&s, &t) {
            return Ok(first_order(run, Form::Data, &s, &t, &x)?.0);
        }
        let change = t.rho() - s.rho();
        let (cx, cd) = (t.alpha / s.alpha, t.alpha * change);
        let slope = run.predict(Prediction::Eps, &x, s)?;
        let next = combine_each(&[[cx, cd]], [&x, &slope])?;
        if self.order == 1 {
            return Ok(next);
        }
        let slope_there = run.predict(Prediction::Eps, &next, t)?;
        combine_each(&[[cx, 0.5 * cd, 0.5 * cd]], [&x, &slope, &slope_there])
    }
}

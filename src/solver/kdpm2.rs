//! DPM-Solver-2 in the grid's own steps, and its ancestral form.
//!
//! Lu et al. 2022, "DPM-Solver", algorithm 1 with r = 1/2, as k-diffusion steps it (`dpm_2`,
//! `dpm_2_ancestral`; in data form `dpmpp_2s_ancestral`): two calls a step, the second in the middle of it
//! in half log-SNR. With `eta` a step goes below its end, to `sigma_down`, and noise is added:
//! `sigma_up = eta sigma_t sqrt(1 - e^(-2h))`, `sigma_down^2 = sigma_t^2 - sigma_up^2` (Song et al. 2021,
//! DDIM, equation 16). Onto clean data and from pure noise a step is of first order with one call.

use tch::Tensor;

use super::ancestral::fresh_and_kept;
use super::exponential::{combine_each, first_order, is_inner, weights};
use super::{Form, Run, Solver};
use crate::error::Result;
use crate::process::Point;

/// The solver.
#[derive(Debug)]
pub(super) struct Kdpm2 {
    /// Noise or data form.
    pub form: Form,
    /// Share of the noise.
    pub eta: f64,
}

/// The end of a step before its noise comes: `t` with `kept` for its sigma.
pub(super) fn below(t: &Point, kept: f64) -> Point {
    Point { sigma: kept, lambda: (t.alpha / kept).ln(), ..*t }
}

/// A step from pure noise, where everything is forgotten but the predictions.
pub(super) fn from_pure_noise(
    run: &mut Run<'_>,
    x: &Tensor,
    s: Point,
    t: &Point,
    eta: f64,
) -> Result<Tensor> {
    let (x0, eps) = run.both(x, s)?;
    let z = run.normal(x)?;
    let (fresh, kept) = fresh_and_kept(&s, t, eta);
    combine_each(&[[t.alpha, kept, fresh]], [&x0, &eps, &z])
}

impl Solver for Kdpm2 {
    fn reset(&mut self) {}

    fn calls(&self, points: &[Point], i: usize) -> u64 {
        if is_inner(&points[i], &points[i + 1]) { 2 } else { 1 }
    }

    fn stochastic(&self) -> bool {
        self.eta > 0.0
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        if t.is_clean() || (s.is_pure_noise() && self.eta == 0.0) {
            return Ok(first_order(run, self.form, &s, &t, &x)?.0);
        }
        if s.is_pure_noise() {
            return from_pure_noise(run, &x, s, &t, self.eta);
        }
        let (fresh, kept) = fresh_and_kept(&s, &t, self.eta);
        let end = if self.eta == 0.0 { t } else { below(&t, kept) };
        let middle = run.at_lambda(0.5 * (s.lambda + end.lambda))?;
        let m0 = run.predict(self.form.prediction(), &x, s)?;
        let w = weights(self.form, &s, &middle);
        let m1 = run.predict(self.form.prediction(), &combine_each(&[[w.x, w.m]], [&x, &m0])?, middle)?;
        let w = weights(self.form, &s, &end);
        if self.eta == 0.0 {
            return combine_each(&[[w.x, w.m]], [&x, &m1]);
        }
        let z = run.normal(&x)?;
        combine_each(&[[w.x, w.m, fresh]], [&x, &m1, &z])
    }
}

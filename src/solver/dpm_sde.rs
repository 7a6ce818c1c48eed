//! DPM-Solver++ SDE: the stochastic singlestep solver of order 2 in data form.
//!
//! Lu et al. 2022, "DPM-Solver++", algorithm 1 with r = 1/2 on the reverse SDE, as k-diffusion steps it
//! (`dpmpp_sde`): both the stage in the middle of a step (in half log-SNR) and the step itself go below
//! their ends and add noise, `sigma_up = eta sigma_t sqrt(1 - e^(-2h))`. Both noises are increments of one
//! Brownian path W in rho, `(W(rho_s) - W(rho_m))/sqrt(rho_s - rho_m)` and
//! `(W(rho_s) - W(rho_t))/sqrt(rho_s - rho_t)`. Increments over the two halves of a step are independent,
//! so two draws a step make the path. Two calls a step; onto clean data the step returns the prediction.

use tch::Tensor;

use super::ancestral::fresh_and_kept;
use super::exponential::{combine_each, first_order, is_inner, weights};
use super::kdpm2::{below, from_pure_noise};
use super::{Form, Run, Solver};
use crate::denoiser::Prediction;
use crate::error::Result;
use crate::process::Point;

/// The solver.
#[derive(Debug)]
pub(super) struct DpmSde {
    /// Share of the noise.
    pub eta: f64,
}

impl DpmSde {
    /// Factors of x, the prediction and the noise for a step from s to t.
    fn factors(&self, s: &Point, t: &Point) -> [f64; 3] {
        let (fresh, kept) = fresh_and_kept(s, t, self.eta);
        let w = weights(Form::Data, s, &below(t, kept));
        [w.x, w.m, fresh]
    }
}

impl Solver for DpmSde {
    fn reset(&mut self) {}

    fn calls(&self, points: &[Point], i: usize) -> u64 {
        if is_inner(&points[i], &points[i + 1]) { 2 } else { 1 }
    }

    fn stochastic(&self) -> bool {
        self.eta > 0.0
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        if t.is_clean() {
            return Ok(first_order(run, Form::Data, &s, &t, &x)?.0);
        }
        if s.is_pure_noise() {
            return from_pure_noise(run, &x, s, &t, self.eta);
        }
        let middle = run.at_lambda(0.5 * (s.lambda + t.lambda))?;
        let m0 = run.predict(Prediction::X0, &x, s)?;
        let (z0, z1) = (run.normal(&x)?, run.normal(&x)?);
        let stage = combine_each(&[self.factors(&s, &middle)], [&x, &m0, &z0])?;
        let m1 = run.predict(Prediction::X0, &stage, middle)?;
        let [of_x, of_m, of_noise] = self.factors(&s, &t);
        // The shares of the two halves in the increment over the whole step.
        let (rho_s, rho_m, rho_t) = (s.rho(), middle.rho(), t.rho());
        let share = |a: f64, b: f64| of_noise * ((a - b) / (rho_s - rho_t)).sqrt();
        combine_each(&[[of_x, of_m, share(rho_s, rho_m), share(rho_m, rho_t)]], [&x, &m1, &z0, &z1])
    }
}

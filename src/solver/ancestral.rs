//! DDIM with noise eta, and DDPM's ancestral sampling: draws from the Gaussian
//! `q(x_t | x_s, x_0)` with x_0 replaced by its prediction.
//!
//! Song et al. 2021, "Denoising diffusion implicit models", equations 12 and 16; Ho et al. 2020,
//! "Denoising diffusion probabilistic models", equation 7. With `h = lambda_t - lambda_s` and
//! `b = 1 - e^(-2h)` (which is `beta` of the step for VP) the small variance is `sigma_t^2 b`, the large
//! one `sigma_s^2 b`. Written for any `alpha`, `sigma`; in `y = x/alpha` the small variance is k-diffusion's
//! euler-ancestral. One call a step; no noise on the last step onto clean data.
//!
//! `compat = "reference"`: diffusers' DDIM puts the thresholded data together with the noise predicted
//! before thresholding, and steps over a fixed number of entries; its DDPM adds the large variance also on
//! the last step, unless that starts at the first entry.

use tch::Tensor;

use super::exponential::{combine_each, first_order};
use super::{Compat, Form, Run, Solver, Variance};
use crate::denoiser::{Prediction, ThresholdSpec, threshold};
use crate::error::Result;
use crate::process::{Point, Process};

/// The stochastic first-order step.
#[derive(Debug)]
pub(super) struct Ancestral {
    /// Share of the noise: 0 is DDIM, 1 DDPM with the small variance.
    pub eta: f64,
    /// Which variance the noise has.
    pub variance: Variance,
    /// Whether it is diffusers' scheduler.
    pub compat: Compat,
    /// Threshold of the data alone.
    pub threshold: Option<ThresholdSpec>,
}

/// Standard deviations at `t` of the noise that a step from `s` draws anew and of that it keeps.
pub(super) fn fresh_and_kept(s: &Point, t: &Point, eta: f64) -> (f64, f64) {
    let b = -(-2.0 * (t.lambda - s.lambda)).exp_m1();
    let fresh = eta * t.sigma * b.sqrt();
    (fresh, ((t.sigma - fresh) * (t.sigma + fresh)).sqrt())
}

/// Whether `point` is at the first entry of a table.
fn is_first_entry(process: &dyn Process, point: &Point) -> bool {
    process.table_len().is_some_and(|len| point.t * (len as f64) < 1.5)
}

impl Ancestral {
    /// Factors of x, x_0 and the noise.
    fn factors(&self, s: &Point, t: &Point) -> [f64; 3] {
        let (fresh, kept) = fresh_and_kept(s, t, self.eta);
        let noise = match self.variance {
            Variance::Small => fresh,
            Variance::Large => self.eta * s.sigma * (-(-2.0 * (t.lambda - s.lambda)).exp_m1()).sqrt(),
        };
        [kept / s.sigma, t.alpha - kept * s.alpha / s.sigma, noise]
    }

    /// A step that thresholds the data and leaves the noise as it was predicted.
    fn apart(&self, run: &mut Run<'_>, s: Point, t: &Point, x: &Tensor) -> Result<Tensor> {
        let (x0, eps) = run.both(x, s)?;
        let x0 = self.threshold.map_or_else(|| Ok(x0.shallow_clone()), |spec| threshold(&x0, spec))?;
        let (fresh, kept) = fresh_and_kept(&s, t, self.eta);
        if self.eta == 0.0 {
            return combine_each(&[[t.alpha, kept]], [&x0, &eps]);
        }
        let z = run.normal(x)?;
        combine_each(&[[t.alpha, kept, fresh]], [&x0, &eps, &z])
    }
}

impl Solver for Ancestral {
    fn reset(&mut self) {}

    fn calls(&self, _points: &[Point], _i: usize) -> u64 {
        1
    }

    fn stochastic(&self) -> bool {
        self.eta != 0.0
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.end(i));
        let reference = self.compat == Compat::Reference;
        if reference && self.variance == Variance::Small {
            return self.apart(run, s, &t, &x);
        }
        let noisy_end = reference && t.is_clean() && !is_first_entry(run.process(), &s);
        if self.eta == 0.0 || (t.is_clean() && !noisy_end) {
            return Ok(first_order(run, Form::Data, &s, &t, &x)?.0);
        }
        let x0 = run.predict(Prediction::X0, &x, s)?;
        let z = run.normal(&x)?;
        combine_each(&[self.factors(&s, &t)], [&x, &x0, &z])
    }
}

//! DDIM with noise eta, and DDPM's ancestral sampling: draws from the Gaussian
//! `q(x_t | x_s, x_0)` with x_0 replaced by its prediction.
//!
//! Song et al. 2021, "Denoising diffusion implicit models", equations 12 and 16; Ho et al. 2020,
//! "Denoising diffusion probabilistic models", equation 7. With `h = lambda_t - lambda_s` and
//! `b = 1 - e^(-2h)` (which is `beta` of the step for VP) the small variance is `sigma_t^2 b`, the large
//! one `sigma_s^2 b`. Written for any `alpha`, `sigma`. One call a step; no noise on the last step onto
//! clean data.

use tch::Tensor;

use super::exponential::{combine_each, first_order};
use super::{Form, Run, Solver, Variance};
use crate::denoiser::Prediction;
use crate::error::Result;
use crate::process::Point;

/// The stochastic first-order step.
#[derive(Debug)]
pub(super) struct Ancestral {
    /// Share of the noise: 0 is DDIM, 1 DDPM with the small variance.
    pub eta: f64,
    /// Which variance the noise has.
    pub variance: Variance,
}

impl Ancestral {
    /// Factors of x, x_0 and the noise.
    fn factors(&self, s: &Point, t: &Point) -> [f64; 3] {
        let h = t.lambda - s.lambda;
        let b = -(-2.0 * h).exp_m1();
        // Standard deviation of the part of sigma_t that is drawn anew.
        let fresh = self.eta * t.sigma * b.sqrt();
        let kept = ((t.sigma - fresh) * (t.sigma + fresh)).sqrt();
        let noise = match self.variance {
            Variance::Small => fresh,
            Variance::Large => self.eta * s.sigma * b.sqrt(),
        };
        [kept / s.sigma, t.alpha - kept * s.alpha / s.sigma, noise]
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
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        if self.eta == 0.0 || t.is_clean() {
            return Ok(first_order(run, Form::Data, &s, &t, &x)?.0);
        }
        let x0 = run.predict(Prediction::X0, &x, s)?;
        let z = run.normal(&x)?;
        combine_each(&[self.factors(&s, &t)], [&x, &x0, &z])
    }
}

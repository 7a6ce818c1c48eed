//! The Langevin corrector of predictor-corrector sampling.
//!
//! Song et al. 2021, "Score-based generative modeling through SDEs", algorithms 4 and 5: before each
//! step of the predictor, m times `x <- x + e score + sqrt(2 e) z` with `e = 2 a (r |z|/|score|)^2`,
//! `a = (alpha_s/alpha_t)^2` (1 for VE, `1 - beta` for VP). The norms are those of each sample; `control =
//! "batch"` averages them over the batch, as the reference does, so that a sample depends on the others.
//! One call and one draw each. At pure noise there is nothing to correct.

use tch::{Kind, Tensor};

use super::{Control, Langevin, Run, Solver};
use crate::denoiser::Prediction;
use crate::error::Result;
use crate::process::Point;

/// A predictor with the Langevin corrector before each of its steps.
#[derive(Debug)]
pub(super) struct Corrected {
    /// The predictor.
    pub predictor: Box<dyn Solver>,
    /// The corrector's settings.
    pub langevin: Langevin,
}

impl Corrected {
    fn corrections(&self, points: &[Point], i: usize) -> usize {
        if points[i].is_pure_noise() { 0 } else { self.langevin.steps }
    }

    /// Euclidean norm of every sample, as `[B, 1, ...]`.
    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        let batch = x.size().first().copied().unwrap_or(0);
        let mut shape = vec![1; x.dim()];
        if let Some(first) = shape.first_mut() {
            *first = batch;
        }
        let squares = x.f_reshape([batch, -1])?.f_square()?;
        let norms = squares.f_sum_dim_intlist([1i64].as_slice(), false, None::<Kind>)?.f_sqrt()?;
        let norms = match self.langevin.control {
            Control::Sample => norms,
            Control::Batch => norms.f_mean(None::<Kind>)?.f_expand([batch], false)?,
        };
        Ok(norms.f_reshape(&shape)?)
    }
}

impl Solver for Corrected {
    fn reset(&mut self) {
        self.predictor.reset();
    }

    fn calls(&self, points: &[Point], i: usize) -> u64 {
        self.corrections(points, i) as u64 + self.predictor.calls(points, i)
    }

    fn stochastic(&self) -> bool {
        true
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, mut x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        let a = (s.alpha / t.alpha).powi(2);
        for _ in 0..self.corrections(run.points(), i) {
            let score = run.predict(Prediction::Score, &x, s)?;
            let z = run.normal(&x)?;
            let ratio = self.norm(&z)?.f_div(&self.norm(&score)?)?;
            let size =
                ratio.f_square()?.f_multiply_scalar(2.0 * a * self.langevin.snr * self.langevin.snr)?;
            let root = size.f_multiply_scalar(2.0)?.f_sqrt()?;
            x = x.f_addcmul(&score, &size)?.f_addcmul(&z, &root)?;
        }
        self.predictor.step(run, i, x)
    }
}

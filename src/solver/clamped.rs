//! A solver whose state is clamped after every step.
//!
//! Published vocoders (Chen et al. 2021, "WaveGrad", and implementations of DiffWave after it) keep the waveform in
//! [-1, 1] so, noise and all.

use tch::Tensor;

use super::{Run, Solver};
use crate::error::Result;
use crate::process::Point;

/// The solver inside, and the largest magnitude.
#[derive(Debug)]
pub(super) struct Clamped {
    pub inner: Box<dyn Solver>,
    pub max: f64,
}

impl Solver for Clamped {
    fn reset(&mut self) {
        self.inner.reset();
    }

    fn calls(&self, points: &[Point], i: usize) -> u64 {
        self.inner.calls(points, i)
    }

    fn stochastic(&self) -> bool {
        self.inner.stochastic()
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let mut x = self.inner.step(run, i, x)?;
        Ok(x.f_clamp_(-self.max, self.max)?)
    }
}

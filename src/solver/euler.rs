//! Euler's and Heun's method on the probability-flow ODE `dx/dt = u(x, t)` in the process's own time.
//!
//! Song et al. 2021, "Score-based generative modeling through SDEs", equation 13; Karras et al. 2022,
//! algorithm 1 with general `sigma(t)`, `s(t)`. Orders 1 and 2, one and two calls a step. The last step
//! onto clean data returns the predicted data; `compat = "reference"` makes it an Euler step in t, as
//! EDM's ablation sampler does (the same thing where sigma is linear in t).

use tch::Tensor;

use super::exponential::first_order;
use super::{Compat, Form, Run, Solver};
use crate::denoiser::Prediction;
use crate::error::Result;
use crate::process::{Point, combine};

/// Euler (order 1) or Heun (order 2).
#[derive(Debug)]
pub(super) struct Euler {
    /// 1 or 2.
    pub order: usize,
    /// How the last step goes.
    pub compat: Compat,
}

impl Solver for Euler {
    fn reset(&mut self) {}

    fn calls(&self, points: &[Point], i: usize) -> u64 {
        if self.order == 2 && !points[i + 1].is_clean() { 2 } else { 1 }
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        if t.is_clean() && self.compat == Compat::None {
            return Ok(first_order(run, Form::Data, &s, &t, &x)?.0);
        }
        let dt = t.t - s.t;
        let slope = run.predict(Prediction::Velocity, &x, s)?;
        let next = combine(&[(1.0.into(), &x), (dt.into(), &slope)])?;
        if self.calls(run.points(), i) == 1 {
            return Ok(next);
        }
        let slope_there = run.predict(Prediction::Velocity, &next, t)?;
        combine(&[(1.0.into(), &x), ((0.5 * dt).into(), &slope), ((0.5 * dt).into(), &slope_there)])
    }
}

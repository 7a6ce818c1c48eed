//! PNDM: Adams-Bashforth weights of equal steps on the noise, moved by DDIM's transfer.
//!
//! Liu et al. 2022, "Pseudo numerical methods for diffusion models on manifolds", equations 9 to 13. A
//! transfer takes the state from one time to another with a noise that is held fixed, which is a
//! first-order step. Three pseudo Runge-Kutta steps of four calls come first, with the middle of a step
//! in time (warm-up `runge-kutta`), or one step of Heun's kind with two calls and then rising orders (warm-up
//! `heun`, known as PLMS). Then one call a step. The weights take the steps for equal, so the method is of
//! second order. Onto clean data and from pure noise a step is of first order.
//!
//! `compat = "reference"` on the entries of a table is diffusers' scheduler: half steps in whole entries,
//! transfers over a fixed number of entries wherever the next step starts, and, for a network that
//! predicts v, weights on v instead of the noise.

use tch::Tensor;

use super::dpm_multistep::remember;
use super::exponential::{Past, first_order, is_inner, weights};
use super::{Compat, Form, Run, Solver, Warmup};
use crate::denoiser::{Prediction, convert};
use crate::error::Result;
use crate::process::{At, Coef, Point, combine};

/// Steps of a Runge-Kutta warm-up.
const WARM: usize = 3;

/// Adams-Bashforth weights of equal steps, by the number of predictions.
const WEIGHTS: [&[f64]; 4] = [
    &[1.0],
    &[1.5, -0.5],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// The PNDM solver.
#[derive(Debug)]
pub(super) struct Pndm {
    /// How the first predictions come about.
    pub warmup: Warmup,
    /// Whether it is diffusers' scheduler.
    pub compat: Compat,
    /// The last predictions, newest first.
    pub past: Vec<Past>,
}

/// The times of a step.
struct Times {
    /// The middle to which the first stage moves the state.
    middle: Point,
    /// The middle at which the model is asked.
    asked: Point,
    /// The end.
    end: Point,
}

impl Pndm {
    fn times(&self, run: &Run<'_>, i: usize) -> Times {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        let at = |t: f64| Point::new(run.process(), t);
        match run.nodes.stride {
            Some((_, half)) if self.compat == Compat::Reference => {
                Times { middle: at(s.t - half), asked: at(t.t + half), end: t }
            }
            _ => {
                let middle = at(0.5 * (s.t + t.t));
                Times { middle, asked: middle, end: t }
            }
        }
    }

    /// In what form the model's predictions are weighted.
    fn form(&self, run: &Run<'_>) -> Prediction {
        let as_it_is = self.compat == Compat::Reference && run.prediction() == Prediction::V;
        if as_it_is { Prediction::V } else { Prediction::Eps }
    }

    /// The state `x` at `s` moved to `t` with the noise of `m`, a prediction in the form `from`.
    fn transfer(from: Prediction, x: &Tensor, m: &Tensor, s: &Point, t: &Point) -> Result<Tensor> {
        let eps = convert(m, x, &At::all(*s), from, Prediction::Eps)?;
        if t.is_clean() {
            // x_0 = (x - sigma eps)/alpha.
            return combine(&[((t.alpha / s.alpha).into(), x), ((-t.alpha * s.rho()).into(), &eps)]);
        }
        let w = weights(Form::Noise, s, t);
        combine(&[(w.x.into(), x), (w.m.into(), &eps)])
    }

    /// A weighted sum of the last predictions.
    fn mean(&self) -> Result<Tensor> {
        let terms: Vec<(Coef, &Tensor)> =
            WEIGHTS[self.past.len() - 1].iter().zip(&self.past).map(|(w, p)| ((*w).into(), &p.m)).collect();
        combine(&terms)
    }

    fn runge_kutta(&self, run: &Run<'_>, i: usize, x: &Tensor) -> Result<Tensor> {
        let (s, form) = (run.points()[i], self.form(run));
        let Times { middle, asked, end } = self.times(run, i);
        let move_to = |m: &Tensor, t: &Point| Self::transfer(form, x, m, &s, t);
        let first = &self.past[0].m;
        let second = run.predict(form, &move_to(first, &middle)?, asked)?;
        let third = run.predict(form, &move_to(&second, &asked)?, asked)?;
        let fourth = run.predict(form, &move_to(&third, &end)?, end)?;
        let (outer, inner) = (1.0 / 6.0, 1.0 / 3.0);
        let mean = combine(&[
            (outer.into(), first),
            (inner.into(), &second),
            (inner.into(), &third),
            (outer.into(), &fourth),
        ])?;
        move_to(&mean, &end)
    }

    fn heun(&self, run: &Run<'_>, i: usize, x: &Tensor) -> Result<Tensor> {
        let (s, next, form) = (run.points()[i], run.points()[i + 1], self.form(run));
        let first = &self.past[0].m;
        let second = run.predict(form, &Self::transfer(form, x, first, &s, &run.end(i))?, next)?;
        let mean = combine(&[(0.5.into(), first), (0.5.into(), &second)])?;
        let from = match run.nodes.stride {
            Some((stride, _)) if self.compat == Compat::Reference => {
                Point::new(run.process(), next.t + stride)
            }
            _ => s,
        };
        Self::transfer(form, x, &mean, &from, &next)
    }

    /// Whether step `i` is one of the warm-up.
    fn is_warm(&self, points: &[Point], i: usize) -> bool {
        let steps = if self.warmup == Warmup::RungeKutta { WARM } else { 1 };
        i < steps && is_inner(&points[i], &points[i + 1])
    }
}

impl Solver for Pndm {
    fn reset(&mut self) {
        self.past.clear();
    }

    fn calls(&self, points: &[Point], i: usize) -> u64 {
        match (self.is_warm(points, i), self.warmup) {
            (false, _) => 1,
            (true, Warmup::RungeKutta) => 4,
            (true, Warmup::Heun) => 2,
        }
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let s = run.points()[i];
        if s.is_pure_noise() {
            let (next, newest) = first_order(run, Form::Noise, &s, &run.end(i), &x)?;
            // Its noise is a node like any other: the weights know no distances.
            remember(&mut self.past, newest, WEIGHTS.len());
            return Ok(next);
        }
        let form = self.form(run);
        let m = run.predict(form, &x, s)?;
        remember(&mut self.past, Past { at: s, m }, WEIGHTS.len());
        if self.is_warm(run.points(), i) {
            return if self.warmup == Warmup::RungeKutta {
                self.runge_kutta(run, i, &x)
            } else {
                self.heun(run, i, &x)
            };
        }
        Self::transfer(form, &x, &self.mean()?, &s, &run.end(i))
    }
}

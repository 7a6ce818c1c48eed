//! The probability-flow ODE by Dormand and Prince's pair 5(4), with adaptive steps in t.
//!
//! Dormand and Prince 1980, "A family of embedded Runge-Kutta formulae"; starting step of Hairer, Norsett
//! and Wanner 1993, "Solving ordinary differential equations I", section II.4; local extrapolation, first
//! same as last, safety 0.9, step factors between 0.2 and 10 and the exponent -1/5: the rule that the
//! score-SDE and flow papers use through scipy. Two calls to start and six an attempt. Each sample has
//! its own time and step; `control = "batch"` takes the error norm over the whole batch, as they do.

use tch::Tensor;

use super::adaptive::{Active, MOST_ATTEMPTS, choose, error_norms, root_mean_square};
use super::exponential::first_order;
use super::{Control, Form, Run, Solver};
use crate::denoiser::Prediction;
use crate::error::{Error, Result};
use crate::process::{At, Coef, Point, combine};

const C: [f64; 6] = [0.2, 0.3, 0.8, 8.0 / 9.0, 1.0, 1.0];
const A: [&[f64]; 6] = [
    &[0.2],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    // The weights of the fifth-order solution: the last stage is the first of the next step.
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];
/// Difference of the fourth- and the fifth-order weights.
const E: [f64; 7] =
    [-71.0 / 57600.0, 0.0, 71.0 / 16695.0, -71.0 / 1920.0, 17253.0 / 339_200.0, -22.0 / 525.0, 1.0 / 40.0];

/// The adaptive Runge-Kutta solver.
#[derive(Debug)]
pub(super) struct Rk45 {
    /// Relative tolerance.
    pub rtol: f64,
    /// Absolute tolerance.
    pub atol: f64,
    /// Whether samples are controlled one by one.
    pub control: Control,
    /// Where the samples stand.
    pub state: Option<State>,
}

/// Where the samples of a run stand.
#[derive(Debug)]
pub(super) struct State {
    t: Vec<f64>,
    /// Step sizes, positive; 0 for samples that are done.
    h: Vec<f64>,
    rejected: Vec<bool>,
    /// Velocity at the current state.
    slope: Tensor,
    fraction: f64,
}

impl Rk45 {
    fn norms(&self, x: &Tensor) -> Result<Vec<f64>> {
        error_norms(x, self.control, root_mean_square)
    }

    /// `atol + rtol size`.
    fn scale(&self, size: &Tensor) -> Result<Tensor> {
        Ok(size.f_abs()?.f_multiply_scalar(self.rtol)?.f_add_scalar(self.atol)?)
    }

    fn start(&self, run: &Run<'_>, x: &Tensor) -> Result<State> {
        let (start, end) = (run.points()[0], run.points()[1]);
        let slope = run.predict(Prediction::Velocity, x, start)?;
        let scale = self.scale(x)?;
        let (d0, d1) = (self.norms(&x.f_div(&scale)?)?, self.norms(&slope.f_div(&scale)?)?);
        let interval = start.t - end.t;
        let first = |(d0, d1): (&f64, &f64)| {
            let h = if *d0 < 1e-5 || *d1 < 1e-5 { 1e-6 } else { 0.01 * d0 / d1 };
            h.min(interval)
        };
        let h0: Vec<f64> = d0.iter().zip(&d1).map(first).collect();
        let at = h0.iter().map(|h| Point::new(run.process(), start.t - h)).collect();
        let x1 = combine(&[(1.0.into(), x), (Coef(h0.iter().map(|h| -h).collect()), &slope)])?;
        let slope_1 = run.predict(Prediction::Velocity, &x1, At::each(at))?;
        let d2 = self.norms(&slope_1.f_sub(&slope)?.f_div(&scale)?)?;
        let h = h0
            .iter()
            .zip(d1.iter().zip(&d2))
            .map(|(h0, (d1, d2))| {
                let d2 = d2 / h0;
                let h1 = if *d1 <= 1e-15 && d2 <= 1e-15 {
                    (h0 * 1e-3).max(1e-6)
                } else {
                    (0.01 / d1.max(d2)).powf(0.2)
                };
                (100.0 * h0).min(h1).min(interval)
            })
            .collect::<Vec<f64>>();
        let batch = h.len();
        Ok(State { t: vec![start.t; batch], h, rejected: vec![false; batch], slope, fraction: 0.0 })
    }
}

impl Solver for Rk45 {
    fn reset(&mut self) {
        self.state = None;
    }

    fn calls(&self, _points: &[Point], i: usize) -> u64 {
        if i == 0 { 8 } else { 6 }
    }

    fn fraction(&self) -> Option<f64> {
        Some(self.state.as_ref().map_or(0.0, |s| s.fraction))
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (start, end) = (run.points()[0], run.points()[1]);
        let mut state = match self.state.take() {
            Some(state) => state,
            None => self.start(run, &x)?,
        };
        // Samples that are done are not computed any more, and nobody steps past the end.
        let active = Active::of(state.t.iter().map(|t| *t > end.t), &x)?;
        let cond = active.take_cond(run.cond)?;
        let t = active.take_list(&state.t);
        let h: Vec<f64> = active.places.iter().map(|k| state.h[*k].min(state.t[*k] - end.t)).collect();
        let (part, slope) = (active.take(&x)?, active.take(&state.slope)?);
        let mut slopes = vec![slope.shallow_clone()];
        let mut next = part.shallow_clone();
        for (c, row) in C.iter().zip(A) {
            let mut terms: Vec<(Coef, &Tensor)> = vec![(1.0.into(), &part)];
            terms.extend(row.iter().zip(&slopes).map(|(a, k)| (Coef(h.iter().map(|h| -h * a).collect()), k)));
            let stage = combine(&terms)?;
            let at = |(t, h): (&f64, &f64)| {
                Point::new(run.process(), if *c == 1.0 && t - h <= end.t { end.t } else { t - c * h })
            };
            let points = t.iter().zip(&h).map(at).collect();
            slopes.push(run.predict_for(&cond, Prediction::Velocity, &stage, points)?);
            next = stage;
        }
        let terms: Vec<(Coef, &Tensor)> =
            E.iter().zip(&slopes).map(|(e, k)| (Coef(h.iter().map(|h| h * e).collect()), k)).collect();
        let scale = self.scale(&part.f_abs()?.f_maximum(&next.f_abs()?)?)?;
        let errors = self.norms(&combine(&terms)?.f_div(&scale)?)?;
        let mut accept = vec![false; h.len()];
        for (j, k) in active.places.iter().enumerate() {
            let error = errors[j];
            let smallest = 10.0 * f64::EPSILON * t[j].abs();
            if !error.is_finite() || h[j] < smallest || i > MOST_ATTEMPTS {
                return Err(Error::run("the adaptive solver cannot meet the tolerance")
                    .at(format!("t = {}", t[j]))
                    .why(format!("error estimate {error} with step {}", h[j]))
                    .hint("raise --rtol and --atol, or use a solver with fixed steps"));
            }
            accept[j] = error < 1.0;
            let factor = 0.9 * error.powf(-0.2);
            if accept[j] {
                state.t[*k] = if h[j] >= t[j] - end.t { end.t } else { t[j] - h[j] };
                state.h[*k] = h[j] * factor.min(if state.rejected[*k] { 1.0 } else { 10.0 });
            } else {
                state.h[*k] = h[j] * factor.max(0.2);
            }
            state.rejected[*k] = !accept[j];
        }
        let newest = slopes.pop().unwrap_or_else(|| slope.shallow_clone());
        state.slope = active.put(&state.slope, choose(&accept, newest, &slope)?)?;
        let mut x = active.put(&x, choose(&accept, next, &part)?)?;
        let left = state.t.iter().map(|t| t - end.t).fold(0.0, f64::max);
        state.fraction = if left == 0.0 { 1.0 } else { (1.0 - left / (start.t - end.t)).min(1.0 - 1e-12) };
        if left == 0.0
            && let Some(clean) = run.points().get(2)
        {
            x = first_order(run, Form::Data, &end, clean, &x)?.0;
        }
        self.state = Some(state);
        Ok(x)
    }
}

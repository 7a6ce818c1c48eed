//! DPM-Solver with adaptive steps: DPM-Solver-12 and DPM-Solver-23.
//!
//! Lu et al. 2022, "DPM-Solver", section 3.4 and Appendix C. The lower-order solution shares the calls of
//! the higher-order one. An attempt of order k costs k calls, accepted or not. Each sample has its own
//! time and step; `control = "batch"` couples the batch by its largest error, as the reference does.

use tch::Tensor;

use super::adaptive::{Active, MOST_ATTEMPTS, choose, error_norms, largest};
use super::dpm_singlestep::{final_2, final_3, stage_1, stage_2};
use super::exponential::{combine_each, first_order};
use super::{Control, Form, Run, Solver, SolverType};
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::process::Point;

/// First step in half log-SNR.
const FIRST_STEP: f64 = 0.05;
/// Safety factor of the step-size rule.
const SAFETY: f64 = 0.9;
/// A sample is done this close to the end, in t.
const CLOSE: f64 = 1e-5;

/// The adaptive solver.
#[derive(Debug)]
pub(super) struct DpmAdaptive {
    /// Noise or data form.
    pub form: Form,
    /// `Midpoint` (the papers') or `Heun` (Taylor).
    pub kind: SolverType,
    /// 2 or 3.
    pub order: usize,
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
    at: Vec<Point>,
    h: Vec<f64>,
    /// The lower-order solution of the last accepted attempt.
    low: Tensor,
    fraction: f64,
}

impl DpmAdaptive {
    /// The two solutions of one attempt from `s` by `h` to `t` for every sample: lower and higher order.
    fn attempt(
        &self,
        run: &Run<'_>,
        cond: &Cond,
        (s, t, h): (&[Point], &[Point], &[f64]),
        x: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (form, kind) = (self.form, self.kind);
        let inner = |r: f64| -> Result<Vec<Point>> {
            s.iter().zip(h).map(|(s, h)| Point::at_lambda(run.process(), s.lambda + r * h)).collect()
        };
        let model = |x: &Tensor, at: &[Point]| run.predict_for(cond, form.prediction(), x, at.to_vec());
        fn each<const N: usize>(
            s: &[Point],
            t: &[Point],
            f: impl Fn(&Point, &Point) -> [f64; N],
        ) -> Vec<[f64; N]> {
            s.iter().zip(t).map(|(s, t)| f(s, t)).collect()
        }
        let r1 = if self.order == 2 { 0.5 } else { 1.0 / 3.0 };
        let s1 = inner(r1)?;
        let m0 = model(x, s)?;
        let x1 = combine_each(&each(s, &s1, |s, t| stage_1(form, s, t)), [x, &m0])?;
        let m1 = model(&x1, &s1)?;
        let second = combine_each(&each(s, t, |s, t| final_2(form, kind, s, t, r1)), [x, &m0, &m1])?;
        if self.order == 2 {
            let first = combine_each(&each(s, t, |s, t| stage_1(form, s, t)), [x, &m0])?;
            return Ok((first, second));
        }
        let r2 = 2.0 / 3.0;
        let s2 = inner(r2)?;
        let x2 = combine_each(&each(s, &s2, |s, t| stage_2(form, s, t, r1, r2)), [x, &m0, &m1])?;
        let m2 = model(&x2, &s2)?;
        let factors = each(s, t, |s, t| final_3(form, kind, s, t, r1, r2));
        Ok((second, combine_each(&factors, [x, &m0, &m1, &m2])?))
    }
}

impl Solver for DpmAdaptive {
    fn reset(&mut self) {
        self.state = None;
    }

    fn calls(&self, _points: &[Point], _i: usize) -> u64 {
        self.order as u64
    }

    fn fraction(&self) -> Option<f64> {
        Some(self.state.as_ref().map_or(0.0, |s| s.fraction))
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (start, end) = (run.points()[0], run.points()[1]);
        let batch = x.size().first().copied().unwrap_or(0) as usize;
        let mut state = match self.state.take() {
            Some(state) => state,
            None => State {
                at: vec![start; batch],
                h: vec![FIRST_STEP; batch],
                low: x.shallow_clone(),
                fraction: 0.0,
            },
        };
        let done = |p: &Point| (p.t - end.t).abs() <= CLOSE;
        // Samples that are done are not computed any more.
        let active = Active::of(state.at.iter().map(|p| !done(p)), &x)?;
        let (s, h) = (active.take_list(&state.at), active.take_list(&state.h));
        let t = s
            .iter()
            .zip(&h)
            .map(|(p, h)| Point::at_lambda(run.process(), p.lambda + h))
            .collect::<Result<Vec<_>>>()?;
        let (part, last_low) = (active.take(&x)?, active.take(&state.low)?);
        let (low, high) = self.attempt(run, &active.take_cond(run.cond)?, (&s, &t, &h), &part)?;
        let size = low.f_abs()?.f_maximum(&last_low.f_abs()?)?;
        let tolerance = size.f_multiply_scalar(self.rtol)?.f_clamp_min(self.atol)?;
        let errors = error_norms(&high.f_sub(&low)?.f_div(&tolerance)?, self.control, largest)?;
        let mut accept = vec![false; errors.len()];
        for (j, k) in active.places.iter().enumerate() {
            let error = errors[j];
            if !error.is_finite() || i > MOST_ATTEMPTS {
                return Err(Error::non_finite("the error estimate", i as u64));
            }
            accept[j] = error <= 1.0;
            if accept[j] {
                state.at[*k] = t[j];
            }
            let wanted = SAFETY * h[j] * error.powf(-1.0 / self.order as f64);
            state.h[*k] = wanted.min(end.lambda - state.at[*k].lambda);
        }
        let mut x = active.put(&x, choose(&accept, high, &part)?)?;
        state.low = active.put(&state.low, choose(&accept, low, &last_low)?)?;
        let whole = end.lambda - start.lambda;
        let left =
            state.at.iter().map(|p| if done(p) { 0.0 } else { end.lambda - p.lambda }).fold(0.0, f64::max);
        // The last bit of rounding must not end a run before its last sample.
        state.fraction = if left == 0.0 { 1.0 } else { (1.0 - left / whole).min(1.0 - 1e-12) };
        if left == 0.0
            && let Some(clean) = run.points().get(2)
        {
            x = first_order(run, Form::Data, &end, clean, &x)?.0;
        }
        self.state = Some(state);
        Ok(x)
    }
}

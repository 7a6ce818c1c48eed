//! UniPC: a predictor and a corrector of the same order from one formula, one call a step.
//!
//! Zhao et al. 2023, "UniPC: a unified predictor-corrector framework for fast sampling", algorithms 1
//! and 2, with `B(h)` = `hh` (bh1) or `e^hh - 1` (bh2), `hh = -h` in data and `h` in noise form. The call
//! at a predicted point corrects the point and then serves as the newest prediction (it is not repeated
//! at the corrected point), so the last point is not corrected. Order p of the predictor converges with
//! p, with the corrector with p + 1. Onto clean data a step is the first-order predictor.

use tch::Tensor;

use super::dpm_multistep::{Lowering, order_of_step, remember, usable};
use super::exponential::{Past, first_order, is_inner, weights};
use super::{Form, Run, Solver, SolverType};
use crate::error::{Error, Result};
use crate::math::{phi_remainder, solve};
use crate::process::{Coef, Point, combine};

/// The UniPC solver.
#[derive(Debug)]
pub(super) struct UniPc {
    /// Noise or data form.
    pub form: Form,
    /// `Bh1` or `Bh2`.
    pub kind: SolverType,
    /// 1, 2 or 3.
    pub order: usize,
    /// Whether the last steps lower the order.
    pub lowering: Lowering,
    /// Whether predicted points are corrected.
    pub corrector: bool,
    /// The last predictions, newest first.
    pub past: Vec<Past>,
    /// The step before: where it started, from which state, and its order.
    pub last: Option<(Point, Tensor, usize)>,
}

/// Factors of a step: `x_t = X x + M m_s + sum_k C_k (m_k - m_s)`.
struct Factors {
    x: f64,
    m: f64,
    /// Of the differences to the earlier predictions, newest first, then (corrector) to the new one.
    c: Vec<f64>,
}

impl UniPc {
    /// The predictor (`corrector` false) or corrector of `order` from `s`, where `past[0]` was made, to `t`.
    fn factors(&self, past: &[Past], s: &Point, t: &Point, order: usize, corrector: bool) -> Result<Factors> {
        let w = weights(self.form, s, t);
        let h = t.lambda - s.lambda;
        let (hh, scale) = match self.form {
            Form::Data => (-h, t.alpha),
            Form::Noise => (h, t.sigma),
        };
        let b = if self.kind == SolverType::Bh1 { hh } else { hh.exp_m1() };
        // Distances to the earlier predictions in units of the step, then 1 for the new one.
        let mut r: Vec<f64> = past[1..order].iter().map(|p| (p.at.lambda - s.lambda) / h).collect();
        if corrector {
            r.push(1.0);
        }
        let n = r.len();
        let rho = if n == 1 {
            vec![0.5]
        } else {
            let rows: Vec<Vec<f64>> = (0..n).map(|i| r.iter().map(|r| r.powi(i as i32)).collect()).collect();
            let mut factorial = 1.0;
            let right: Vec<f64> = (1..=n as u32)
                .map(|i| {
                    factorial *= f64::from(i);
                    phi_remainder(hh, i) * factorial / b
                })
                .collect();
            solve(&rows, &right)
                .ok_or_else(|| Error::run("UniPC's system is singular").at(format!("t = {}", s.t)))?
        };
        let c = rho.iter().zip(&r).map(|(rho, r)| -scale * b * rho / r).collect();
        Ok(Factors { x: w.x, m: w.m, c })
    }

    /// Applies `factors` to the state `x` and the predictions `others`, `m` being the one at the start.
    fn apply(factors: &Factors, x: &Tensor, m: &Tensor, others: &[&Tensor]) -> Result<Tensor> {
        let total: f64 = factors.c.iter().sum();
        let mut terms: Vec<(Coef, &Tensor)> = vec![(factors.x.into(), x), ((factors.m - total).into(), m)];
        terms.extend(factors.c.iter().zip(others).map(|(c, m)| ((*c).into(), *m)));
        combine(&terms)
    }

    /// The corrected state at `s`, where the model has just predicted `newest`.
    fn correct(&self, newest: &Tensor, s: &Point, x: Tensor) -> Result<Tensor> {
        let Some((from, before, order)) = &self.last else {
            return Ok(x);
        };
        // From pure noise the step is infinite: only the data form with a bounded B(h) has a limit.
        let bounded = self.form == Form::Data && self.kind == SolverType::Bh2;
        if !self.corrector || (from.is_pure_noise() && !bounded) {
            return Ok(x);
        }
        let factors = self.factors(&self.past, from, s, *order, true)?;
        let mut others: Vec<&Tensor> = self.past[1..*order].iter().map(|p| &p.m).collect();
        others.push(newest);
        Self::apply(&factors, before, &self.past[0].m, &others)
    }
}

impl Solver for UniPc {
    fn reset(&mut self) {
        self.past.clear();
        self.last = None;
    }

    fn calls(&self, _points: &[Point], _i: usize) -> u64 {
        1
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        if s.is_pure_noise() {
            let (next, newest) = first_order(run, self.form, &s, &t, &x)?;
            remember(&mut self.past, newest, self.order);
            self.last = Some((s, x, 1));
            return Ok(next);
        }
        let m = run.predict(self.form.prediction(), &x, s)?;
        let x = self.correct(&m, &s, x)?;
        if !is_inner(&s, &t) && self.form == Form::Noise {
            // x_0 = (x - sigma eps)/alpha.
            return combine(&[((t.alpha / s.alpha).into(), &x), ((-t.alpha * s.rho()).into(), &m)]);
        }
        remember(&mut self.past, Past { at: s, m }, self.order);
        let order = if is_inner(&s, &t) && t.lambda != s.lambda {
            order_of_step(self.order, usable(&self.past), run.steps() - i, self.lowering)
        } else {
            1
        };
        let factors = self.factors(&self.past, &s, &t, order, false)?;
        let others: Vec<&Tensor> = self.past[1..order].iter().map(|p| &p.m).collect();
        let next = Self::apply(&factors, &x, &self.past[0].m, &others)?;
        self.last = Some((s, x, order));
        Ok(next)
    }
}

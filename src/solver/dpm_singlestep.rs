//! Singlestep DPM-Solver and DPM-Solver++ of order 1 to 3.
//!
//! Lu et al. 2022, "DPM-Solver", algorithms 1, 2 and 4 and Appendix B (noise form); Lu et al. 2022,
//! "DPM-Solver++", algorithm 1 and Appendix B (data form). A step of order k makes k calls at half
//! log-SNRs `lambda_s + r h`; order 3 needs `r_2` near 2/3. Onto clean data (sigma = 0) and from pure
//! noise (alpha = 0), where h is infinite, a step is of first order and makes one call.

use tch::Tensor;

use super::exponential::{combine_each, first_order, is_inner, weights};
use super::{Form, Run, Solver, SolverType};
use crate::error::Result;
use crate::process::Point;

/// Factors of x and m_0 in stage 1, and in a first-order step.
pub(super) fn stage_1(form: Form, s: &Point, s1: &Point) -> [f64; 2] {
    let w = weights(form, s, s1);
    [w.x, w.m]
}

/// Factors of x, m_0 and m_1 in stage 2 of order 3.
pub(super) fn stage_2(form: Form, s: &Point, s2: &Point, r1: f64, r2: f64) -> [f64; 3] {
    let w = weights(form, s, s2);
    let c = r2 / r1 * w.d1;
    [w.x, w.m - c, c]
}

/// Factors of x, m_0 and m_1 in a second-order step.
pub(super) fn final_2(form: Form, kind: SolverType, s: &Point, t: &Point, r1: f64) -> [f64; 3] {
    let w = weights(form, s, t);
    let c = if kind == SolverType::Heun { w.d1 } else { w.d1_half } / r1;
    [w.x, w.m - c, c]
}

/// Factors of x, m_0, m_1 and m_2 in a third-order step.
pub(super) fn final_3(form: Form, kind: SolverType, s: &Point, t: &Point, r1: f64, r2: f64) -> [f64; 4] {
    let w = weights(form, s, t);
    if kind != SolverType::Heun {
        let c = w.d1 / r2;
        return [w.x, w.m - c, 0.0, c];
    }
    // Derivatives of the parabola through the three predictions, times h and h^2.
    let c1 = w.d1 * r2 / ((r2 - r1) * r1) - w.d2 * 2.0 / ((r2 - r1) * r1);
    let c2 = -w.d1 * r1 / ((r2 - r1) * r2) + w.d2 * 2.0 / ((r2 - r1) * r2);
    [w.x, w.m - c1 - c2, c1, c2]
}

/// One step of the run: its order and the inner nodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stages {
    /// 1, 2 or 3.
    pub order: usize,
    /// Inner nodes, as fractions of the step in half log-SNR.
    pub r: (f64, f64),
}

/// The singlestep solver.
#[derive(Debug)]
pub(super) struct Singlestep {
    /// Noise or data form.
    pub form: Form,
    /// `Midpoint` is the papers' solver, `Heun` its Taylor variant.
    pub kind: SolverType,
    /// One entry for each step of the grid.
    pub stages: Vec<Stages>,
}

impl Singlestep {
    fn order(&self, points: &[Point], i: usize) -> usize {
        if is_inner(&points[i], &points[i + 1]) { self.stages[i].order } else { 1 }
    }
}

impl Solver for Singlestep {
    fn reset(&mut self) {}

    fn calls(&self, points: &[Point], i: usize) -> u64 {
        self.order(points, i) as u64
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        let (form, (r1, r2)) = (self.form, self.stages[i].r);
        let order = self.order(run.points(), i);
        if order == 1 {
            return Ok(first_order(run, form, &s, &t, &x)?.0);
        }
        let inner = |r: f64| run.at_lambda(s.lambda + r * (t.lambda - s.lambda));
        let model = |x: &Tensor, at: Point| run.predict(form.prediction(), x, at);
        let s1 = inner(r1)?;
        let m0 = model(&x, s)?;
        let m1 = model(&combine_each(&[stage_1(form, &s, &s1)], [&x, &m0])?, s1)?;
        if order == 2 {
            return combine_each(&[final_2(form, self.kind, &s, &t, r1)], [&x, &m0, &m1]);
        }
        let s2 = inner(r2)?;
        let m2 = model(&combine_each(&[stage_2(form, &s, &s2, r1, r2)], [&x, &m0, &m1])?, s2)?;
        combine_each(&[final_3(form, self.kind, &s, &t, r1, r2)], [&x, &m0, &m1, &m2])
    }
}

/// The orders of the steps of a run with `nfe` calls in all (DPM-Solver, section 3.4: "DPM-Solver-fast").
pub(super) fn orders(order: usize, nfe: usize) -> Vec<usize> {
    let full = nfe / order;
    let mut list = vec![order; full];
    match (order, nfe % order) {
        (3, 0) => {
            list.pop();
            list.extend([2, 1]);
        }
        (_, 0) => {}
        (_, rest) => list.push(rest),
    }
    list
}

#[cfg(test)]
mod tests {
    use super::orders;

    #[test]
    fn the_budget_rule_spends_every_call() {
        assert_eq!(orders(3, 9), [3, 3, 2, 1]);
        assert_eq!(orders(3, 10), [3, 3, 3, 1]);
        assert_eq!(orders(3, 11), [3, 3, 3, 2]);
        assert_eq!(orders(3, 3), [2, 1]);
        assert_eq!(orders(3, 1), [1]);
        assert_eq!(orders(3, 2), [2]);
        assert_eq!(orders(2, 10), [2, 2, 2, 2, 2]);
        assert_eq!(orders(2, 11), [2, 2, 2, 2, 2, 1]);
        assert_eq!(orders(1, 4), [1, 1, 1, 1]);
        for order in 1..=3 {
            for nfe in 1..40 {
                assert_eq!(orders(order, nfe).iter().sum::<usize>(), nfe);
            }
        }
    }
}

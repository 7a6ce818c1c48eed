//! Multistep DPM-Solver and DPM-Solver++ of order 1 to 3: one call a step, earlier predictions reused.
//!
//! Lu et al. 2022, "DPM-Solver++", algorithm 2 and Appendix B; the noise form is the same with eps.
//! The first steps raise the order one by one. The third order needs the second derivative of the
//! prediction; published code leaves out its factor 2 and so is of second order. The true derivative is
//! the default here, `compat = "reference"` the published coefficient. Onto clean data (sigma = 0) and
//! from pure noise (alpha = 0) a step is of first order.

use tch::Tensor;

use super::exponential::{Past, combine_each, first_order, is_inner, weights};
use super::{Compat, Form, Run, Solver, SolverType};
use crate::error::Result;
use crate::process::Point;

/// The multistep solver.
#[derive(Debug)]
pub(super) struct Multistep {
    /// Noise or data form.
    pub form: Form,
    /// `Midpoint` halves the weight of the prediction, `Heun` is the Taylor variant.
    pub kind: SolverType,
    /// 1, 2 or 3.
    pub order: usize,
    /// Whether the last steps lower the order.
    pub lowering: Lowering,
    /// Which coefficient the second derivative has.
    pub compat: Compat,
    /// The last predictions, newest first.
    pub past: Vec<Past>,
}

/// How the last steps of a run lower their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lowering {
    /// Each step has at most the order of the steps left.
    pub all: bool,
    /// The very last step is of first order.
    pub last: bool,
}

/// The order of a step: `left` are to come with this one.
pub(super) fn order_of_step(order: usize, usable: usize, left: usize, lowering: Lowering) -> usize {
    let order = order.min(usable);
    if lowering.all || (lowering.last && left == 1) { order.min(left) } else { order }
}

/// Factors of m_1 and m_2 in derivatives of the prediction: `(D1, D2)` as rows over `(m_0, m_1, m_2)`.
pub(super) fn derivatives(past: &[Past], h: f64, compat: Compat) -> ([f64; 3], [f64; 3]) {
    let r0 = (past[0].at.lambda - past[1].at.lambda) / h;
    let d10 = [1.0 / r0, -1.0 / r0, 0.0];
    let Some(oldest) = past.get(2) else {
        return (d10, [0.0; 3]);
    };
    let r1 = (past[1].at.lambda - oldest.at.lambda) / h;
    let d11 = [0.0, 1.0 / r1, -1.0 / r1];
    let factor = if compat == Compat::Reference { 1.0 } else { 2.0 };
    let row = |f: &dyn Fn(f64, f64) -> f64| std::array::from_fn(|k| f(d10[k], d11[k]));
    (row(&|a, b| a + r0 / (r0 + r1) * (a - b)), row(&|a, b| factor * (a - b) / (r0 + r1)))
}

/// The predictions that may be extrapolated from, newest first: those with a finite half log-SNR.
pub(super) fn usable(past: &[Past]) -> usize {
    past.iter().take_while(|p| p.at.lambda.is_finite()).count()
}

/// Adds a prediction and keeps `order` of them.
pub(super) fn remember(past: &mut Vec<Past>, newest: Past, order: usize) {
    past.insert(0, newest);
    past.truncate(order);
}

impl Solver for Multistep {
    fn reset(&mut self) {
        self.past.clear();
    }

    fn calls(&self, _points: &[Point], _i: usize) -> u64 {
        1
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        if !is_inner(&s, &t) {
            let (next, newest) = first_order(run, self.form, &s, &t, &x)?;
            remember(&mut self.past, newest, self.order);
            return Ok(next);
        }
        let m = run.predict(self.form.prediction(), &x, s)?;
        remember(&mut self.past, Past { at: s, m }, self.order);
        let h = t.lambda - s.lambda;
        let order = order_of_step(self.order, usable(&self.past), run.steps() - i, self.lowering);
        // A step of no length (a grid that ends twice at its lowest level) has no derivatives.
        let order = if h == 0.0 { 1 } else { order };
        let w = weights(self.form, &s, &t);
        let past = &self.past[..order];
        match past {
            [m0] => combine_each(&[[w.x, w.m]], [&x, &m0.m]),
            [m0, m1] => {
                let (d1, _) = derivatives(past, h, self.compat);
                let c = if self.kind == SolverType::Heun { w.d1 } else { w.d1_half };
                combine_each(&[[w.x, w.m + c * d1[0], c * d1[1]]], [&x, &m0.m, &m1.m])
            }
            _ => {
                let (d1, d2) = derivatives(past, h, self.compat);
                let [c0, c1, c2] = std::array::from_fn(|k| w.d1 * d1[k] + w.d2 * d2[k]);
                combine_each(&[[w.x, w.m + c0, c1, c2]], [&x, &past[0].m, &past[1].m, &past[2].m])
            }
        }
    }
}

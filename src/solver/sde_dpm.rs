//! SDE-DPM-Solver++ (data form, order 1 to 3) and SDE-DPM-Solver (noise form, order 1 and 2): multistep
//! exponential integrators of the reverse SDE.
//!
//! Lu et al. 2022, "DPM-Solver++", section 5 and Appendix C, equations for SDE-DPM-Solver(++)-1 and 2M.
//! One call and one draw a step. With exact Brownian increments the noise integral is exact, so only the
//! prediction is approximated. The third order is the exact integral of the parabola: published code has
//! the wrong sign in its last coefficient and lacks the factor 2 of the derivative
//! (`compat = "reference"`). Onto clean data the step returns the prediction.

use tch::Tensor;

use super::dpm_multistep::{Lowering, derivatives, order_of_step, remember, usable};
use super::exponential::{Past, combine_each, first_order, is_inner};
use super::{Compat, Form, Run, Solver, SolverType};
use crate::error::Result;
use crate::math::phi_remainder;
use crate::process::Point;

/// The stochastic multistep solver.
#[derive(Debug)]
pub(super) struct SdeDpm {
    /// Noise or data form.
    pub form: Form,
    /// `Midpoint` or `Heun`.
    pub kind: SolverType,
    /// 1, 2 or 3.
    pub order: usize,
    /// Whether the last steps lower the order.
    pub lowering: Lowering,
    /// Which third-order coefficients.
    pub compat: Compat,
    /// The last predictions, newest first.
    pub past: Vec<Past>,
}

impl SdeDpm {
    /// Factors of x, m, D1, D2 and of the noise for the step from s to t.
    fn factors(&self, s: &Point, t: &Point, order: usize) -> [f64; 5] {
        let h = t.lambda - s.lambda;
        match self.form {
            Form::Data => {
                let z = -2.0 * h;
                let m = -t.alpha * z.exp_m1();
                let first = -phi_remainder(z, 1);
                let d1 = match (order, self.kind) {
                    (2, SolverType::Midpoint) => 0.5 * m,
                    _ => t.alpha * first,
                };
                // The integral of (lambda - lambda_s)^2/(2 h^2) against the kernel.
                let d2 = match self.compat {
                    Compat::None => -t.alpha * phi_remainder(z, 2),
                    Compat::Reference => t.alpha * ((-z.exp_m1() + z) / (z * z) - 0.5),
                };
                [t.sigma / s.sigma * (-h).exp(), m, d1, d2, t.sigma * (-z.exp_m1()).sqrt()]
            }
            Form::Noise => {
                let m = -2.0 * t.sigma * h.exp_m1();
                let d1 = match self.kind {
                    SolverType::Midpoint => 0.5 * m,
                    _ => -2.0 * t.sigma * phi_remainder(h, 1),
                };
                [t.alpha / s.alpha, m, d1, 0.0, t.sigma * (2.0 * h).exp_m1().sqrt()]
            }
        }
    }
}

impl Solver for SdeDpm {
    fn reset(&mut self) {
        self.past.clear();
    }

    fn calls(&self, _points: &[Point], _i: usize) -> u64 {
        1
    }

    fn stochastic(&self) -> bool {
        true
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        if t.is_clean() {
            return Ok(first_order(run, self.form, &s, &t, &x)?.0);
        }
        let m = if is_inner(&s, &t) || self.form == Form::Data {
            run.predict(self.form.prediction(), &x, s)?
        } else {
            // From pure noise x is forgotten altogether: x_t = alpha_t x_0 + sigma_t z.
            let (x0, m) = run.both(&x, s)?;
            let z = run.normal(&x)?;
            remember(&mut self.past, Past { at: s, m }, self.order);
            return combine_each(&[[t.alpha, t.sigma]], [&x0, &z]);
        };
        remember(&mut self.past, Past { at: s, m }, self.order);
        let z = run.normal(&x)?;
        let order = order_of_step(self.order, usable(&self.past).max(1), run.steps() - i, self.lowering);
        let order = if t.lambda == s.lambda { 1 } else { order };
        let [cx, cm, c1, c2, cz] = self.factors(&s, &t, order);
        let past = &self.past[..order];
        match past {
            [m0] => combine_each(&[[cx, cm, cz]], [&x, &m0.m, &z]),
            [m0, m1] => {
                let (d1, _) = derivatives(past, t.lambda - s.lambda, self.compat);
                combine_each(&[[cx, cm + c1 * d1[0], c1 * d1[1], cz]], [&x, &m0.m, &m1.m, &z])
            }
            _ => {
                let (d1, d2) = derivatives(past, t.lambda - s.lambda, self.compat);
                let [a, b, c] = std::array::from_fn(|k| c1 * d1[k] + c2 * d2[k]);
                combine_each(&[[cx, cm + a, b, c, cz]], [&x, &past[0].m, &past[1].m, &past[2].m, &z])
            }
        }
    }
}

//! Explicit Runge-Kutta methods in `rho = sigma/alpha`: in `y = x/alpha` the probability-flow ODE is
//! `dy/drho = eps(alpha y, t(rho))` on every process.
//!
//! Zhang and Chen 2023, "Fast sampling of diffusion models with exponential integrator", section 3.2
//! (rho-RK). Calls a step: the stages of the tableau. Onto clean data and from pure noise (rho infinite)
//! a step is of first order with one call.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::exponential::{first_order, is_inner};
use super::{Form, Run, Solver};
use crate::denoiser::Prediction;
use crate::error::Result;
use crate::process::{Coef, Point, combine};

/// Explicit Runge-Kutta tableaux by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Tableau {
    /// Euler, order 1.
    Euler,
    /// Heun's trapezoid, order 2.
    Heun2,
    /// The explicit midpoint rule, order 2.
    Mid2,
    /// Kutta, order 3.
    Kutta3,
    /// Heun, order 3.
    Heun3,
    /// Ralston, order 3.
    Ralston3,
    /// Van der Houwen (Wray), order 3.
    Houwen3,
    /// Strong stability preserving, order 3.
    Ssp3,
    /// The classical method of order 4.
    Rk4,
}

/// `(a, b)`: rows of stage weights below the diagonal, and the final weights. The nodes are row sums.
type Butcher = (&'static [&'static [f64]], &'static [f64]);

impl Tableau {
    /// The order of the method.
    #[must_use]
    pub fn order(self) -> usize {
        match self {
            Tableau::Euler => 1,
            Tableau::Heun2 | Tableau::Mid2 => 2,
            Tableau::Rk4 => 4,
            _ => 3,
        }
    }

    /// The tableau of an order that is used unless one is named.
    #[must_use]
    pub fn of_order(order: usize) -> Option<Self> {
        [Tableau::Euler, Tableau::Heun2, Tableau::Kutta3, Tableau::Rk4].get(order.checked_sub(1)?).copied()
    }

    fn butcher(self) -> Butcher {
        const THIRD: f64 = 1.0 / 3.0;
        match self {
            Tableau::Euler => (&[&[]], &[1.0]),
            Tableau::Heun2 => (&[&[], &[1.0]], &[0.5, 0.5]),
            Tableau::Mid2 => (&[&[], &[0.5]], &[0.0, 1.0]),
            Tableau::Kutta3 => (&[&[], &[0.5], &[-1.0, 2.0]], &[1.0 / 6.0, 4.0 / 6.0, 1.0 / 6.0]),
            Tableau::Heun3 => (&[&[], &[THIRD], &[0.0, 2.0 * THIRD]], &[0.25, 0.0, 0.75]),
            Tableau::Ralston3 => (&[&[], &[0.5], &[0.0, 0.75]], &[2.0 / 9.0, THIRD, 4.0 / 9.0]),
            Tableau::Houwen3 => (&[&[], &[8.0 / 15.0], &[0.25, 5.0 / 12.0]], &[0.25, 0.0, 0.75]),
            Tableau::Ssp3 => (&[&[], &[1.0], &[0.25, 0.25]], &[1.0 / 6.0, 1.0 / 6.0, 4.0 / 6.0]),
            Tableau::Rk4 => {
                (&[&[], &[0.5], &[0.0, 0.5], &[0.0, 0.0, 1.0]], &[1.0 / 6.0, THIRD, THIRD, 1.0 / 6.0])
            }
        }
    }
}

/// A Runge-Kutta method in rho.
#[derive(Debug)]
pub(super) struct RhoRk(pub Tableau);

/// The state at `to` that is `from`'s moved by `change` of rho along `slopes` with weights `w`.
fn moved(x: &Tensor, from: &Point, to: &Point, change: f64, w: &[f64], slopes: &[Tensor]) -> Result<Tensor> {
    let mut terms: Vec<(Coef, &Tensor)> = vec![((to.alpha / from.alpha).into(), x)];
    terms.extend(w.iter().zip(slopes).map(|(w, k)| ((to.alpha * change * w).into(), k)));
    combine(&terms)
}

impl Solver for RhoRk {
    fn reset(&mut self) {}

    fn calls(&self, points: &[Point], i: usize) -> u64 {
        if is_inner(&points[i], &points[i + 1]) { self.0.butcher().1.len() as u64 } else { 1 }
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        if !is_inner(&s, &t) {
            return Ok(first_order(run, Form::Data, &s, &t, &x)?.0);
        }
        let (a, b) = self.0.butcher();
        let change = t.rho() - s.rho();
        let mut slopes: Vec<Tensor> = Vec::with_capacity(b.len());
        for row in a {
            let node: f64 = row.iter().sum();
            let at = if row.is_empty() {
                s
            } else if (node - 1.0).abs() < 1e-12 {
                t
            } else {
                run.at_lambda(-(s.rho() + node * change).ln())?
            };
            let slope = if row.is_empty() {
                run.predict(Prediction::Eps, &x, at)?
            } else {
                run.predict(Prediction::Eps, &moved(&x, &s, &at, change, row, &slopes)?, at)?
            };
            slopes.push(slope);
        }
        moved(&x, &s, &t, change, b, &slopes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_tableau_satisfies_the_order_conditions() {
        for tableau in Tableau::value_variants() {
            let (a, b) = tableau.butcher();
            let c: Vec<f64> = a.iter().map(|row| row.iter().sum()).collect();
            let sum = |f: &dyn Fn(usize) -> f64| b.iter().enumerate().map(|(i, b)| b * f(i)).sum::<f64>();
            let inner = |i: usize, p: i32| a[i].iter().zip(&c).map(|(a, c)| a * c.powi(p)).sum::<f64>();
            let mut conditions = vec![(1, sum(&|_| 1.0), 1.0), (2, sum(&|i| c[i]), 0.5)];
            conditions.push((3, sum(&|i| c[i] * c[i]), 1.0 / 3.0));
            conditions.push((3, sum(&|i| inner(i, 1)), 1.0 / 6.0));
            conditions.push((4, sum(&|i| c[i].powi(3)), 0.25));
            conditions.push((4, sum(&|i| c[i] * inner(i, 1)), 0.125));
            conditions.push((4, sum(&|i| inner(i, 2)), 1.0 / 12.0));
            let nested = |i: usize| a[i].iter().enumerate().map(|(j, a)| a * inner(j, 1)).sum::<f64>();
            conditions.push((4, sum(&nested), 1.0 / 24.0));
            for (order, got, want) in conditions {
                if order <= tableau.order() {
                    assert!((got - want).abs() < 1e-14, "{tableau:?} order {order}: {got} {want}");
                }
            }
        }
    }
}

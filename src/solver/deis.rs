//! DEIS: exponential Adams-Bashforth methods with the noise extrapolated in t (tAB) or in rho (rhoAB),
//! and iPNDM.
//!
//! Zhang and Chen 2023, "Fast sampling of diffusion models with exponential integrator", equations 14-15
//! (tAB), 17 (rhoAB) and Appendix on iPNDM. Order r uses the last r + 1 predictions; the reported order
//! of convergence is r + 1. One call a step. The variant in ln rho is the noise-form multistep solver with
//! Taylor coefficients and lives there. Onto clean data and from pure noise a step is of first order.
//!
//! iPNDM with `compat = "reference"` is diffusers' scheduler: it keeps its order onto clean data, and from pure
//! noise it takes 0 for the data, whatever the model says.
//!
//! LMS (k-diffusion's linear multistep method) is rhoAB that keeps its order onto clean data, where rho is
//! 0 and the integral is still finite.

use tch::Tensor;

use super::dpm_multistep::{remember, usable};
use super::exponential::{Past, first_order, weights};
use super::{Compat, Form, Run, Solver};
use crate::denoiser::Prediction;
use crate::error::Result;
use crate::math::{gauss_legendre, lagrange, lagrange_integral};
use crate::process::{Coef, Point, Process, combine};

/// In what the noise is a polynomial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extrapolation {
    /// Time.
    T,
    /// `rho = sigma/alpha`.
    Rho,
    /// Nothing: Adams-Bashforth weights of equal steps, whatever the steps are (iPNDM).
    Equal,
}

/// Adams-Bashforth weights of equal steps, by the number of predictions.
const EQUAL: [&[f64]; 4] = [
    &[1.0],
    &[1.5, -0.5],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// The DEIS family.
#[derive(Debug)]
pub(super) struct Deis {
    /// In what the noise is extrapolated.
    pub extrapolation: Extrapolation,
    /// Degree of the polynomial: 0 to 3.
    pub degree: usize,
    /// Whether the step onto clean data has it, too (not in t).
    pub to_clean: bool,
    /// Whether pure noise is taken to hide zeros.
    pub blind: bool,
    /// Gauss-Legendre rule of tAB.
    rule: Vec<(f64, f64)>,
    /// The last predictions, newest first.
    past: Vec<Past>,
}

impl Deis {
    /// The method of `degree` 0 to 3.
    pub(super) fn new(extrapolation: Extrapolation, degree: usize) -> Self {
        Deis {
            extrapolation,
            degree,
            to_clean: false,
            blind: false,
            rule: gauss_legendre(64),
            past: Vec::new(),
        }
    }

    /// LMS of `order` 1 to 4.
    pub(super) fn lms(order: usize) -> Self {
        Deis { to_clean: true, ..Deis::new(Extrapolation::Rho, order - 1) }
    }

    /// iPNDM of `order` 1 to 4.
    pub(super) fn ipndm(order: usize, compat: Compat) -> Self {
        let reference = compat == Compat::Reference;
        Deis { to_clean: reference, blind: reference, ..Deis::new(Extrapolation::Equal, order - 1) }
    }

    /// Factors of the last `count` predictions in the step from s to t.
    fn factors(&self, process: &dyn Process, s: &Point, t: &Point, count: usize) -> Vec<f64> {
        // In rho a step onto clean data, where h is infinite, has finite factors.
        let whole = if t.is_clean() { t.alpha * (t.rho() - s.rho()) } else { weights(Form::Noise, s, t).m };
        let at: Vec<Point> = self.past.iter().take(count).map(|p| p.at).collect();
        let mut factors: Vec<f64> = match self.extrapolation {
            Extrapolation::Equal => return EQUAL[count - 1].iter().map(|w| w * whole).collect(),
            Extrapolation::Rho => {
                let rhos: Vec<f64> = at.iter().map(Point::rho).collect();
                (0..count).map(|j| t.alpha * lagrange_integral(&rhos, j, s.rho(), t.rho())).collect()
            }
            Extrapolation::T => {
                let times: Vec<f64> = at.iter().map(|p| p.t).collect();
                let half = (t.t - s.t) / 2.0;
                let mut sums = vec![0.0; count];
                for (node, weight) in &self.rule {
                    let tau = s.t + half * (node + 1.0);
                    let kernel = t.alpha * weight * half * Point::new(process, tau).drho();
                    for (j, sum) in sums.iter_mut().enumerate() {
                        *sum += kernel * lagrange(&times, j, tau);
                    }
                }
                sums
            }
        };
        // The factors sum to that of a constant prediction, which is known exactly.
        factors[0] = whole - factors[1..].iter().sum::<f64>();
        factors
    }
}

impl Solver for Deis {
    fn reset(&mut self) {
        self.past.clear();
    }

    fn calls(&self, _points: &[Point], _i: usize) -> u64 {
        1
    }

    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let (s, t) = (run.points()[i], run.points()[i + 1]);
        if s.is_pure_noise() && self.blind {
            let m = run.predict(Prediction::Eps, &x, s)?;
            let next = m.f_mul_scalar(t.sigma)?;
            remember(&mut self.past, Past { at: s, m }, self.degree + 1);
            return Ok(next);
        }
        if s.is_pure_noise() || (t.is_clean() && !self.to_clean) {
            let (next, newest) = first_order(run, Form::Noise, &s, &t, &x)?;
            remember(&mut self.past, newest, self.degree + 1);
            return Ok(next);
        }
        let m = run.predict(Prediction::Eps, &x, s)?;
        remember(&mut self.past, Past { at: s, m }, self.degree + 1);
        // In time pure noise is a node like any other; in rho it is infinitely far.
        let count =
            if self.extrapolation == Extrapolation::Rho { usable(&self.past) } else { self.past.len() };
        let factors = self.factors(run.process(), &s, &t, count);
        let mut terms: Vec<(Coef, &Tensor)> = vec![((t.alpha / s.alpha).into(), &x)];
        terms.extend(factors.into_iter().zip(&self.past).map(|(c, p)| (c.into(), &p.m)));
        combine(&terms)
    }
}

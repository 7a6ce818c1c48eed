//! The exponential integrator that the fast solvers share: exact in the linear part of the
//! probability-flow ODE, polynomial in half log-SNR in the prediction.
//!
//! Step from s to t with `h = lambda_t - lambda_s`. In noise form (Lu et al. 2022, "DPM-Solver",
//! proposition 3.1) m is eps, in data form (Lu et al. 2022, "DPM-Solver++", proposition 4.1) it is x_0:
//!
//! `x_t = X x_s + M m + D1 m' + D2 m''`, where `m'`, `m''` are the derivatives of m times h, h^2.

use tch::Tensor;

use super::{Form, Run};
use crate::denoiser::Prediction;
use crate::error::Result;
use crate::math::{phi_data, phi_noise};
use crate::process::{Coef, Point, combine};

/// The factors of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Weights {
    /// Of the state.
    pub x: f64,
    /// Of the prediction.
    pub m: f64,
    /// Of the first derivative, exact for a linear prediction.
    pub d1: f64,
    /// Of the first derivative, the cheaper second-order rule: half the weight of the prediction.
    pub d1_half: f64,
    /// Of the second derivative.
    pub d2: f64,
}

/// The factors of the step from `s` to `t`.
pub(super) fn weights(form: Form, s: &Point, t: &Point) -> Weights {
    let h = t.lambda - s.lambda;
    match form {
        Form::Noise => {
            let phi = phi_noise(h);
            let m = -t.sigma * phi.p1;
            Weights {
                x: t.alpha / s.alpha,
                m,
                d1: -t.sigma * phi.p2,
                d1_half: 0.5 * m,
                d2: -t.sigma * phi.p3,
            }
        }
        Form::Data => {
            let phi = phi_data(h);
            let m = -t.alpha * phi.p1;
            Weights { x: t.sigma / s.sigma, m, d1: t.alpha * phi.p2, d1_half: 0.5 * m, d2: -t.alpha * phi.p3 }
        }
    }
}

impl Form {
    /// The prediction that the form works with.
    pub(super) fn prediction(self) -> Prediction {
        match self {
            Form::Noise => Prediction::Eps,
            Form::Data => Prediction::X0,
        }
    }
}

/// A step between a finite half log-SNR and a finite one: methods of any order may be used.
pub(super) fn is_inner(s: &Point, t: &Point) -> bool {
    !s.is_pure_noise() && !t.is_clean()
}

/// A prediction made at a point.
#[derive(Debug)]
pub(super) struct Past {
    /// Where.
    pub at: Point,
    /// What.
    pub m: Tensor,
}

/// The first-order step (DDIM; Song et al. 2021, "Denoising diffusion implicit models", equation 12)
/// with one model call, legal at both ends of a process. Also returns the prediction in the form asked.
pub(super) fn first_order(
    run: &Run<'_>,
    form: Form,
    s: &Point,
    t: &Point,
    x: &Tensor,
) -> Result<(Tensor, Past)> {
    if is_inner(s, t) || form == Form::Data {
        let m = run.predict(form.prediction(), x, *s)?;
        let w = weights(form, s, t);
        return Ok((combine(&[(w.x.into(), x), (w.m.into(), &m)])?, Past { at: *s, m }));
    }
    // The noise form has 0/0 at the ends: x_t = alpha_t x_0 + sigma_t eps has not.
    if t.is_clean() {
        let x0 = run.predict(Prediction::X0, x, *s)?;
        return Ok((combine(&[(t.alpha.into(), &x0)])?, Past { at: *s, m: x0 }));
    }
    let (x0, eps) = run.both(x, *s)?;
    Ok((combine(&[(t.alpha.into(), &x0), (t.sigma.into(), &eps)])?, Past { at: *s, m: eps }))
}

/// `sum_i c_i x_i` for a step whose factors are arrays, one for all samples or one for each.
pub(super) fn combine_each<const N: usize>(factors: &[[f64; N]], tensors: [&Tensor; N]) -> Result<Tensor> {
    let terms: Vec<(Coef, &Tensor)> = tensors
        .into_iter()
        .enumerate()
        .map(|(k, x)| (Coef(factors.iter().map(|f| f[k]).collect()), x))
        .collect();
    combine(&terms)
}

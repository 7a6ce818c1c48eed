//! Any prediction turned into any other.
//!
//! Everything about `x = alpha x_0 + sigma eps` is a linear combination of `x` and the model's output m.
//! With `det = alpha sigma' - alpha' sigma`:
//!
//! | m | x0 | eps |
//! |---|---|---|
//! | eps | `(x - sigma m)/alpha` | `m` |
//! | x0 | `m` | `(x - alpha m)/sigma` |
//! | v | `(alpha x - sigma m)/(alpha^2 + sigma^2)` | `(sigma x + alpha m)/(alpha^2 + sigma^2)` |
//! | velocity | `(sigma' x - sigma m)/det` | `(alpha m - alpha' x)/det` |
//! | score | `(x + sigma^2 m)/alpha` | `-sigma m` |
//!
//! and back: `v = alpha eps - sigma x_0` (Salimans and Ho 2022), `u = alpha' x_0 + sigma' eps`
//! (Lipman et al. 2023), `score = -eps/sigma` (Song et al. 2021).

use tch::Tensor;

use super::{Denoiser, Prediction};
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::process::{At, Coef, Point, combine};

/// Factors of `x` and of the model's output.
type Weights = (f64, f64);

fn x0_weights(from: Prediction, p: &Point) -> Weights {
    let norm = p.alpha * p.alpha + p.sigma * p.sigma;
    match from {
        Prediction::X0 => (0.0, 1.0),
        Prediction::Eps => (1.0 / p.alpha, -p.sigma / p.alpha),
        Prediction::V => (p.alpha / norm, -p.sigma / norm),
        Prediction::Velocity => (p.dsigma / p.det(), -p.sigma / p.det()),
        Prediction::Score => (1.0 / p.alpha, p.sigma * p.sigma / p.alpha),
    }
}

fn eps_weights(from: Prediction, p: &Point) -> Weights {
    let norm = p.alpha * p.alpha + p.sigma * p.sigma;
    match from {
        Prediction::X0 => (1.0 / p.sigma, -p.alpha / p.sigma),
        Prediction::Eps => (0.0, 1.0),
        Prediction::V => (p.sigma / norm, p.alpha / norm),
        Prediction::Velocity => (-p.dalpha / p.det(), p.alpha / p.det()),
        Prediction::Score => (0.0, -p.sigma),
    }
}

/// `a w_1 + b w_2`; a factor of zero counts for nothing, whatever it multiplies.
fn blend(a: f64, w1: Weights, b: f64, w2: Weights) -> Weights {
    let sum = |u: f64, v: f64| {
        let product = |factor: f64, value: f64| if factor == 0.0 { 0.0 } else { factor * value };
        product(a, u) + product(b, v)
    };
    (sum(w1.0, w2.0), sum(w1.1, w2.1))
}

/// The factors of `x` and of the output that give the form `to`.
fn weights(from: Prediction, to: Prediction, p: &Point) -> Weights {
    if from == to {
        return (0.0, 1.0);
    }
    let (x0, eps) = (x0_weights(from, p), eps_weights(from, p));
    match to {
        Prediction::X0 => x0,
        Prediction::Eps => eps,
        // eps from x0 and x0 from eps are singular at one end each; v and the velocity of such a
        // model are too, except where their factor is zero.
        Prediction::V => blend(p.alpha, eps, -p.sigma, x0),
        Prediction::Velocity => blend(p.dalpha, x0, p.dsigma, eps),
        Prediction::Score => blend(-1.0 / p.sigma, eps, 0.0, x0),
    }
}

/// The form `to` of a model's `output` of the form `from` for `x` `[B, ...]` at the points `at`.
///
/// # Errors
/// Where the form is not defined at the point: x_0 from the noise where there is no signal
/// (`alpha = 0`), the noise or the score from x_0 where there is no noise (`sigma = 0`).
pub fn convert(output: &Tensor, x: &Tensor, at: &At, from: Prediction, to: Prediction) -> Result<Tensor> {
    if from == to {
        return Ok(output.shallow_clone());
    }
    let (mut of_x, mut of_output) = (Vec::new(), Vec::new());
    for point in at.points() {
        let (x, output) = weights(from, to, point);
        if !(x.is_finite() && output.is_finite()) {
            return Err(Error::usage(format!("{} from {} is not defined", name(to), name(from)))
                .at(format!("t = {}", point.t))
                .why(format!("alpha = {}, sigma = {}", point.alpha, point.sigma))
                .hint("keep away from the end of the process with --t-min or --t-max"));
        }
        of_x.push(x);
        of_output.push(output);
    }
    combine(&[(Coef(of_x), x), (Coef(of_output), output)])
}

fn name(prediction: Prediction) -> &'static str {
    match prediction {
        Prediction::Eps => "the noise",
        Prediction::X0 => "the clean data",
        Prediction::V => "v",
        Prediction::Velocity => "the velocity",
        Prediction::Score => "the score",
    }
}

/// The forms a solver may ask for, by one call of the model each. All tensors are `[B, ...]`.
///
/// # Errors
/// All methods fail where the model does, or where [`convert`] does.
#[allow(clippy::missing_errors_doc)]
pub trait DenoiserExt: Denoiser {
    /// The prediction in the form `to`.
    fn predict_as(&self, to: Prediction, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor> {
        convert(&self.predict(x, at, cond)?, x, at, self.prediction(), to)
    }

    /// The noise.
    fn eps(&self, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor> {
        self.predict_as(Prediction::Eps, x, at, cond)
    }

    /// The clean data.
    fn x0(&self, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor> {
        self.predict_as(Prediction::X0, x, at, cond)
    }

    /// The velocity `dx/dt` of the probability-flow ODE.
    fn velocity(&self, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor> {
        self.predict_as(Prediction::Velocity, x, at, cond)
    }

    /// The score.
    fn score(&self, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor> {
        self.predict_as(Prediction::Score, x, at, cond)
    }
}

impl<D: Denoiser + ?Sized> DenoiserExt for D {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Edm, Flow, Process, ProcessName, TrigFlow};
    use tch::Kind;

    const ALL: [Prediction; 5] =
        [Prediction::Eps, Prediction::X0, Prediction::V, Prediction::Velocity, Prediction::Score];

    fn values(t: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(&t.to_kind(Kind::Double).flatten(0, -1)).unwrap()
    }

    #[test]
    fn every_pair_of_forms_is_right_on_every_process() {
        use clap::ValueEnum;
        let (x0, eps) = (Tensor::from_slice(&[0.3, -1.2, 2.0]), Tensor::from_slice(&[1.1, 0.4, -0.7]));
        for name in ProcessName::value_variants() {
            let process = name.spec().build().unwrap();
            let span = process.span();
            for i in 1..=10 {
                let p = Point::new(process.as_ref(), span.min + (span.max - span.min) * f64::from(i) / 11.0);
                let form = |of: Prediction| match of {
                    Prediction::Eps => eps.copy(),
                    Prediction::X0 => x0.copy(),
                    Prediction::V => p.alpha * &eps - p.sigma * &x0,
                    Prediction::Velocity => p.dalpha * &x0 + p.dsigma * &eps,
                    Prediction::Score => -&eps / p.sigma,
                };
                let x: Tensor = p.alpha * &x0 + p.sigma * &eps;
                for from in ALL {
                    for to in ALL {
                        let got = values(&convert(&form(from), &x, &p.into(), from, to).unwrap());
                        // Dividing by a small alpha or sigma magnifies the rounding of x by as much.
                        let scale = (p.rho() + 1.0 / p.rho()) * (1.0 + p.dsigma.abs() + 1.0 / p.sigma);
                        for (got, want) in got.iter().zip(values(&form(to))) {
                            let size = 1.0 + want.abs();
                            assert!(
                                (got - want).abs() < 1e-13 * size * (1.0 + scale),
                                "{name:?} {from:?} {to:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn both_ends_of_a_flow_are_safe_where_they_are_defined() {
        let (x0, eps) = (Tensor::from_slice(&[0.3, -1.2]), Tensor::from_slice(&[1.1, 0.4]));
        for flow in [&Flow as &dyn Process, &TrigFlow] {
            let (noise, data) = (Point::new(flow, 1.0), Point::new(flow, 0.0));
            let u: Tensor = noise.dalpha * &x0 + noise.dsigma * &eps;
            let got = convert(&u, &eps, &noise.into(), Prediction::Velocity, Prediction::X0).unwrap();
            assert!((got - &x0).abs().max().double_value(&[]) < 1e-15);
            let got = convert(&x0, &eps, &noise.into(), Prediction::X0, Prediction::Velocity).unwrap();
            assert!((got - &u).abs().max().double_value(&[]) < 1e-15);
            let got = convert(&eps, &x0, &data.into(), Prediction::Eps, Prediction::X0).unwrap();
            assert_eq!(values(&got), values(&x0));
            let error = convert(&eps, &eps, &noise.into(), Prediction::Eps, Prediction::X0).unwrap_err();
            assert!(error.to_string().contains("alpha = 0"), "{error}");
            assert!(convert(&x0, &x0, &data.into(), Prediction::X0, Prediction::Score).is_err());
        }
    }

    #[test]
    fn samples_may_stand_at_different_points() {
        let edm = Edm::default();
        let at = At::each(vec![Point::new(&edm, 1.0), Point::new(&edm, 2.0)]);
        let (x, m) = (Tensor::from_slice(&[1.0, 1.0]), Tensor::from_slice(&[0.5, 0.5]));
        let got = convert(&m, &x, &at, Prediction::Eps, Prediction::X0).unwrap();
        assert_eq!(values(&got), [0.5, 0.0]);
    }
}

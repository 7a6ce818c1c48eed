//! Gaussian mixtures: data whose exact denoiser is known for every Gaussian process.
//!
//! With components `N(m_k, s_k^2)` (diagonal), `x_t` has the components `N(alpha m_k, v_k)`,
//! `v_k = alpha^2 s_k^2 + sigma^2`, and with the responsibilities `r_k` of `x`
//! `E[x_0 | x] = sum_k r_k (m_k + alpha s_k^2 (x - alpha m_k)/v_k)` and
//! `E[eps | x] = sum_k r_k sigma (x - alpha m_k)/v_k` (Bayes' rule; Efron 2011, "Tweedie's formula").
//! Both are safe at both ends of a process.

use tch::{Kind, Tensor};

use super::{Denoiser, Prediction};
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::process::{At, Process};

/// A Gaussian mixture as a perfect model of a process.
#[derive(Debug)]
pub struct Mixture {
    process: Box<dyn Process>,
    prediction: Prediction,
    /// `ln w_k` `[1, K]`.
    log_weights: Tensor,
    /// `m_k` `[1, K, D]`.
    means: Tensor,
    /// `s_k^2` `[1, K, D]`.
    variances: Tensor,
    dims: i64,
}

/// One component: weight, mean and standard deviation of every coordinate.
pub type Component<'a> = (f64, &'a [f64], &'a [f64]);

impl Mixture {
    /// The mixture of `components` as a model of `process` that predicts in the form `prediction`.
    ///
    /// # Errors
    /// Where there is no component, their dimensions differ, or a weight or deviation is not positive.
    pub fn new(
        process: Box<dyn Process>,
        prediction: Prediction,
        components: &[Component<'_>],
    ) -> Result<Self> {
        let bad = |why: &str| Error::usage("bad mixture").why(why);
        let Some((_, first, _)) = components.first() else {
            return Err(bad("no component"));
        };
        let dims = first.len();
        let total: f64 = components.iter().map(|c| c.0).sum();
        for (weight, mean, std) in components {
            if mean.len() != dims || std.len() != dims || dims == 0 {
                return Err(bad("components of different dimensions"));
            }
            if !(*weight > 0.0 && std.iter().all(|s| *s > 0.0)) {
                return Err(bad("weights and deviations must be positive"));
            }
        }
        let (k, d) = (components.len() as i64, dims as i64);
        let log_weights: Vec<f64> = components.iter().map(|c| (c.0 / total).ln()).collect();
        let means: Vec<f64> = components.iter().flat_map(|c| c.1.iter().copied()).collect();
        let variances: Vec<f64> = components.iter().flat_map(|c| c.2.iter().map(|s| s * s)).collect();
        Ok(Mixture {
            process,
            prediction,
            log_weights: Tensor::f_from_slice(&log_weights)?.f_reshape([1, k])?,
            means: Tensor::f_from_slice(&means)?.f_reshape([1, k, d])?,
            variances: Tensor::f_from_slice(&variances)?.f_reshape([1, k, d])?,
            dims: d,
        })
    }

    /// A one-dimensional mixture of `(weight, mean, standard deviation)`.
    ///
    /// # Errors
    /// As [`Mixture::new`].
    pub fn one_dimensional(
        process: Box<dyn Process>,
        prediction: Prediction,
        components: &[(f64, f64, f64)],
    ) -> Result<Self> {
        let slices: Vec<Component<'_>> = components
            .iter()
            .map(|(w, m, s)| (*w, std::slice::from_ref(m), std::slice::from_ref(s)))
            .collect();
        Mixture::new(process, prediction, &slices)
    }
}

impl Denoiser for Mixture {
    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn process(&self) -> &dyn Process {
        self.process.as_ref()
    }

    fn predict(&self, x: &Tensor, at: &At, _cond: &Cond) -> Result<Tensor> {
        let batch = x.size().first().copied().unwrap_or(0);
        if x.numel() as i64 != batch * self.dims {
            return Err(Error::shape("x", &[batch, self.dims], &x.size()));
        }
        let device = x.device();
        let flat = x.f_to_kind(Kind::Double)?.f_reshape([batch, 1, self.dims])?;
        // [B or 1, 1, 1], so that it broadcasts over samples, components and coordinates.
        let column = |of: fn(&crate::process::Point) -> f64| -> Result<Tensor> { at.coef(of).tensor(&flat) };
        let (alpha, sigma) = (column(|p| p.alpha)?, column(|p| p.sigma)?);
        let (means, variances) = (self.means.f_to_device(device)?, self.variances.f_to_device(device)?);
        let signal = variances.f_mul(&alpha)?;
        let v = signal.f_mul(&alpha)?.f_add(&sigma.f_square()?)?;
        let residual = flat.f_sub(&means.f_mul(&alpha)?)?;
        let whitened = residual.f_div(&v)?;
        let logits = residual
            .f_mul(&whitened)?
            .f_add(&v.f_log()?)?
            .f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Double)?
            .f_multiply_scalar(-0.5)?
            .f_add(&self.log_weights.f_to_device(device)?)?;
        let share = logits.f_softmax(-1, Kind::Double)?.f_unsqueeze(-1)?;
        let mean = |of: &Tensor| -> Result<Tensor> {
            Ok(of.f_mul(&share)?.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Double)?)
        };
        let x0 = || mean(&whitened.f_mul(&signal)?.f_add(&means)?);
        let eps = || mean(&whitened.f_mul(&sigma)?);
        let out = match self.prediction {
            Prediction::X0 => x0()?,
            Prediction::Eps => eps()?,
            Prediction::Score => mean(&whitened)?.f_neg()?,
            Prediction::V => eps()?.f_mul(&alpha)?.f_sub(&x0()?.f_mul(&sigma)?)?,
            Prediction::Velocity => {
                let (dalpha, dsigma) = (column(|p| p.dalpha)?, column(|p| p.dsigma)?);
                x0()?.f_mul(&dalpha)?.f_add(&eps()?.f_mul(&dsigma)?)?
            }
        };
        Ok(out.f_reshape(x.size())?.f_to_kind(x.kind())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoiser::DenoiserExt;
    use crate::process::{Point, Vp};

    fn log_density(x: f64, p: &Point, components: &[(f64, f64, f64)]) -> f64 {
        components
            .iter()
            .map(|(w, m, s)| {
                let v = p.alpha.powi(2) * s * s + p.sigma.powi(2);
                w * (-(x - p.alpha * m).powi(2) / (2.0 * v)).exp() / v.sqrt()
            })
            .sum::<f64>()
            .ln()
    }

    #[test]
    fn the_score_is_the_derivative_of_the_log_density() {
        let components = [(0.3, -1.0, 0.2), (0.7, 0.5, 0.35)];
        for prediction in
            [Prediction::Eps, Prediction::X0, Prediction::V, Prediction::Velocity, Prediction::Score]
        {
            let model = Mixture::one_dimensional(Box::new(Vp::default()), prediction, &components).unwrap();
            for t in [0.05, 0.3, 0.9] {
                let p = Point::new(&Vp::default(), t);
                let x = Tensor::from_slice(&[-1.3, 0.1, 0.8]).reshape([3, 1]);
                let score = model.score(&x, &p.into(), &Cond::default()).unwrap();
                for (i, x) in [-1.3, 0.1, 0.8].into_iter().enumerate() {
                    let h = 1e-5;
                    let slope = (log_density(x + h, &p, &components) - log_density(x - h, &p, &components))
                        / (2.0 * h);
                    let got = score.double_value(&[i as i64, 0]);
                    assert!((got - slope).abs() < 1e-7 * (1.0 + slope.abs()), "{got} {slope}");
                }
            }
        }
    }

    #[test]
    fn coordinates_and_samples_are_kept_apart() {
        let components: [Component<'_>; 2] =
            [(0.5, &[0.0, 1.0], &[0.5, 0.1]), (0.5, &[2.0, -1.0], &[0.3, 0.7])];
        let model = Mixture::new(Box::new(Vp::default()), Prediction::X0, &components).unwrap();
        let (a, b) = (Point::new(&Vp::default(), 0.2), Point::new(&Vp::default(), 0.7));
        let x = Tensor::from_slice(&[0.1f32, 0.4, -0.3, 1.0]).reshape([2, 1, 2]);
        let both = model.predict(&x, &At::each(vec![a, b]), &Cond::default()).unwrap();
        assert_eq!((both.size(), both.kind()), (vec![2, 1, 2], Kind::Float));
        for (i, point) in [a, b].into_iter().enumerate() {
            let one = model.predict(&x.narrow(0, i as i64, 1), &point.into(), &Cond::default()).unwrap();
            assert!(one.equal(&both.narrow(0, i as i64, 1)));
        }
        assert!(
            model
                .predict(&Tensor::zeros([2, 3], (Kind::Float, tch::Device::Cpu)), &a.into(), &Cond::default())
                .is_err()
        );
    }
}

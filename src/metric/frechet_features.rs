//! The Frechet distance straight from features, against one fixed reference.
//!
//! With `S2 = F F^T` and centred features X, `S1 = X^T X / (n - 1)`, the trace of `(S1 S2)^{1/2}` is the nuclear norm
//! of `X F / sqrt(n - 1)`. Where there are fewer images than features this is exact for singular covariances and far
//! cheaper than any root of a `d x d` matrix; and the factor is found once for many sets (resampling, subsets).

use tch::{Device, Kind, Tensor};

use super::distance::rows;
use super::frechet::{Gaussian, check_finite, combine, factor, same_dim, singular_values, symmetric, trace};
use crate::error::{Error, Result};
use crate::io::bytes::tensor_to_f64;

/// A reference to measure many sets against.
#[derive(Debug)]
pub struct Against {
    mean: Tensor,
    trace: f64,
    /// F with `F F^T` = covariance, `[d, r]`.
    factor: Tensor,
}

/// Features less their mean over `sqrt(n - 1)`, and the mean.
#[allow(clippy::cast_precision_loss)]
fn centred(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, _) = rows(x)?;
    if n < 2 {
        return Err(Error::data(format!("{n} images")).why("statistics need at least 2"));
    }
    let x = x.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?;
    let mean = x.f_mean_dim(0i64, false, Kind::Double)?;
    let scaled = x.f_sub(&mean)?.f_div_scalar_((n as f64 - 1.0).sqrt())?;
    Ok((mean, scaled))
}

fn power(x: &Tensor) -> Result<f64> {
    Ok(x.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?)
}

impl Against {
    /// The reference with this mean and covariance.
    ///
    /// # Errors
    /// Where the covariance is not finite.
    pub fn gaussian(reference: &Gaussian) -> Result<Self> {
        check_finite(&reference.cov)?;
        let (lower, info) = reference.cov.f_linalg_cholesky_ex(false, false)?;
        let pivots = tensor_to_f64(&lower.f_diagonal(0, 0, 1)?.f_square()?)?;
        let ends = pivots.iter().fold((f64::INFINITY, 0.0f64), |(a, b), &v| (a.min(v), b.max(v)));
        // Close to singular, a pivot is mostly rounding, and its root is not small.
        let definite = info.f_int64_value(&[])? == 0 && ends.0 > 1e-11 * ends.1;
        let factor = if definite { lower } else { factor(&reference.cov)? };
        Ok(Against { mean: reference.mean.shallow_clone(), trace: trace(&reference.cov)?, factor })
    }

    /// The reference whose features are `y` `[m, d]`.
    ///
    /// # Errors
    /// Where there are fewer than two rows, or they are not finite.
    pub fn features(y: &Tensor) -> Result<Self> {
        let (m, d) = rows(y)?;
        if m > d {
            return Self::gaussian(&Gaussian::fit(y)?);
        }
        check_finite(y)?;
        let (mean, y) = centred(y)?;
        Ok(Against { mean, trace: power(&y)?, factor: y.f_transpose(0, 1)? })
    }

    /// The Frechet distance of the Gaussian fitted to features `x` `[n, d]`.
    ///
    /// # Errors
    /// Where widths differ, there are fewer than two rows, or the result is not finite.
    pub fn distance(&self, x: &Tensor) -> Result<f64> {
        same_dim(rows(x)?.1 as i64, self.factor.size2()?.0)?;
        check_finite(x)?;
        let (mean, x) = centred(x)?;
        let product = x.f_matmul(&self.factor)?;
        let (n, r) = rows(&product)?;
        let root = if n > r {
            // Of full rank: the eigenvalues of the smaller product are the squares, and much cheaper.
            let gram = symmetric(&product.f_transpose(0, 1)?.f_matmul(&product)?)?;
            tensor_to_f64(&gram.f_linalg_eigvalsh("L")?)?.iter().map(|v| v.max(0.0).sqrt()).sum()
        } else {
            singular_values(&product)?.iter().sum()
        };
        combine(&mean, &self.mean, power(&x)?, self.trace, root)
    }
}

/// The Frechet distance between Gaussians fitted to features `[n, d]` and `[m, d]`, straight from the features:
/// exact and cheap where there are fewer images than features.
///
/// # Errors
/// As [`Against::distance`].
pub fn distance_low_rank(x: &Tensor, y: &Tensor) -> Result<f64> {
    Against::features(y)?.distance(x)
}

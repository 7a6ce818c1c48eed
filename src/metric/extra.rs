//! Metrics that cost little once features exist: approximate sliced Wasserstein distance, Vendi score,
//! monge-independent distance (MIND), extrapolation of the Frechet distance to infinitely many samples.

use tch::{Device, Kind, Tensor};

use super::distance::{rows, same_width};
use crate::error::{Error, Result};
use crate::torch::shim::Generator;

/// Approximate sliced 2-Wasserstein distance of the Gaussian kind (Nadjahi et al. 2021, "Fast approximation of
/// the sliced-Wasserstein distance"): `sqrt(|mu1 - mu2|^2/d + (sqrt s1 - sqrt s2)^2)`, `s = mean |x - mu|^2 / d`.
///
/// # Errors
/// Where widths differ.
#[allow(clippy::cast_precision_loss)]
pub fn approximate_sw2(x: &Tensor, y: &Tensor) -> Result<f64> {
    let d = same_width(x, y)? as f64;
    let part = |x: &Tensor| -> Result<(Tensor, f64)> {
        let x = x.f_to_kind(Kind::Double)?;
        let mean = x.f_mean_dim(0i64, false, Kind::Double)?;
        let power = x.f_sub(&mean)?.f_square()?.f_sum_dim_intlist(1i64, false, Kind::Double)?;
        Ok((mean, power.f_mean(Kind::Double)?.f_double_value(&[])? / d))
    };
    let ((mx, sx), (my, sy)) = (part(x)?, part(y)?);
    let shift = mx.f_sub(&my)?.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    Ok((shift / d + (sx.sqrt() - sy.sqrt()).powi(2)).sqrt())
}

/// Vendi score (Friedman and Dieng 2023): the exponential of the entropy of the eigenvalues of `X X^T / n` for
/// rows of unit length; between 1 (all equal) and n (all orthogonal).
///
/// # Errors
/// Where there are no rows.
#[allow(clippy::cast_precision_loss)]
pub fn vendi(x: &Tensor) -> Result<f64> {
    let (n, d) = rows(x)?;
    if n == 0 {
        return Err(Error::data("no images"));
    }
    let x = x.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
    let norm = x.f_square()?.f_sum_dim_intlist(1i64, true, Kind::Double)?.f_sqrt()?.f_clamp_min(1e-300)?;
    let x = x.f_div(&norm)?;
    // The two Gram matrices have the same non-zero eigenvalues; the smaller one is cheaper.
    let transposed = x.f_transpose(0, 1)?;
    let gram = if n <= d { x.f_matmul(&transposed)? } else { transposed.f_matmul(&x)? };
    let values = gram.f_div_scalar(n as f64)?.f_linalg_eigvalsh("L")?;
    let values = crate::io::bytes::tensor_to_f64(&values)?;
    let entropy: f64 = values.iter().filter(|&&v| v > 0.0).map(|&v| -v * v.ln()).sum();
    Ok(entropy.exp())
}

/// MIND: `3 d` times the mean, over `directions` random unit vectors, of the mean squared difference of the
/// sorted projections (sliced 2-Wasserstein distance, scaled). The larger set is cut to the size of the smaller.
///
/// # Errors
/// Where widths differ.
#[allow(clippy::cast_precision_loss)]
pub fn mind(x: &Tensor, y: &Tensor, directions: usize, seed: u64) -> Result<f64> {
    let d = same_width(x, y)?;
    let n = rows(x)?.0.min(rows(y)?.0) as i64;
    if n == 0 || directions == 0 {
        return Err(Error::data("no images"));
    }
    let mut draw = Generator::new(seed)?;
    let v = draw.normal(&[d as i64, directions as i64], Kind::Double)?;
    let v = v.f_div(&v.f_square()?.f_sum_dim_intlist(0i64, true, Kind::Double)?.f_sqrt()?)?;
    let sorted = |x: &Tensor| -> Result<Tensor> {
        let x = x.f_narrow(0, 0, n)?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
        Ok(x.f_matmul(&v)?.f_sort(0, false)?.0)
    };
    let mean = sorted(x)?.f_sub(&sorted(y)?)?.f_square()?.f_mean(Kind::Double)?;
    Ok(3.0 * d as f64 * mean.f_double_value(&[])?)
}

/// The sizes of the subsets behind the extrapolation to infinitely many images: 15 equally spaced ones from
/// min(5000, max(n / 10, 2)) to n, as dgm-eval takes them.
#[must_use]
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn infinity_sizes(n: usize) -> Vec<usize> {
    let first = (n as f64 / 10.0).clamp(2.0, 5000.0);
    (0..15).map(|i| (first + (n as f64 - first) * f64::from(i) / 14.0) as usize).collect()
}

/// Least-squares line `FD_N = intercept + slope / N` (Chong and Forsyth 2020, "Effectively unbiased FID"):
/// intercept (the value at infinitely many samples) and slope.
///
/// # Errors
/// Where there are fewer than two different N.
#[allow(clippy::cast_precision_loss)]
pub fn at_infinity(points: &[(usize, f64)]) -> Result<(f64, f64)> {
    let n = points.len() as f64;
    let (mx, my) = points.iter().fold((0.0, 0.0), |(a, b), &(k, v)| (a + 1.0 / k as f64 / n, b + v / n));
    let (mut sxx, mut sxy) = (0.0, 0.0);
    for &(k, v) in points {
        let dx = 1.0 / k as f64 - mx;
        sxx += dx * dx;
        sxy += dx * (v - my);
    }
    if sxx <= 0.0 || sxx.is_nan() {
        return Err(Error::run("extrapolation needs at least two sample sizes"));
    }
    let slope = sxy / sxx;
    Ok((my - slope * mx, slope))
}

//! The Frechet distance between Gaussians fitted to features (Heusel et al. 2017, "GANs trained by a two
//! time-scale update rule", equation 6):
//! `FD = |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr((S1 S2)^{1/2})`.
//!
//! Moments are accumulated in f64, shifted by the mean of the first batch, with divisor N - 1. The square root
//! itself is never formed: with `S1 = C C^T` its trace is the sum of the roots of the eigenvalues of
//! `C^T S2 C`. The root of an eigenvalue that should be 0 and comes out 1e-17 is 3e-9, and there may be thousands,
//! so where covariances are close to singular the trace is the nuclear norm of `F1^T F2` with `S = F F^T` from
//! the eigenvalues that are not zero within rounding: singular values have errors of the unit roundoff. Where
//! there are fewer images than features, the centred features themselves are the factors. Nothing is added to
//! the diagonal in any case.

use tch::{Device, Kind, Tensor};

use super::distance::rows;
use crate::error::{Error, Result};
use crate::io::bytes::tensor_to_f64;

/// Mean and covariance of features.
#[derive(Debug)]
pub struct Gaussian {
    /// Number of samples; nothing where a file does not say it.
    pub n: Option<u64>,
    /// Mean `[d]`, f64 on the CPU.
    pub mean: Tensor,
    /// Covariance `[d, d]` with divisor N - 1, f64 on the CPU.
    pub cov: Tensor,
}

/// Streaming moments of features.
#[derive(Debug, Default)]
pub struct Moments {
    n: u64,
    sums: Option<Sums>,
}

/// Sums of `x - shift` and of its outer products.
#[derive(Debug)]
struct Sums {
    shift: Tensor,
    first: Tensor,
    second: Tensor,
}

#[allow(clippy::cast_precision_loss)]
impl Moments {
    /// No samples yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of samples so far.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Adds features `[B, d]` of any float type.
    ///
    /// # Errors
    /// Where the width differs from that of earlier batches.
    pub fn update(&mut self, features: &Tensor) -> Result<()> {
        let (count, width) = rows(features)?;
        if count == 0 {
            return Ok(());
        }
        let x = features.f_detach()?.f_to_kind(Kind::Double)?;
        let sums = match &mut self.sums {
            Some(sums) => sums,
            None => {
                let options = (Kind::Double, x.device());
                let shift = x.f_mean_dim(0i64, false, Kind::Double)?;
                let d = width as i64;
                self.sums.insert(Sums {
                    shift,
                    first: Tensor::f_zeros(d, options)?,
                    second: Tensor::f_zeros([d, d], options)?,
                })
            }
        };
        if sums.shift.size() != [width as i64] {
            return Err(Error::run(format!(
                "features of width {width} after ones of {:?}",
                sums.shift.size()
            )));
        }
        let y = x.f_sub(&sums.shift)?;
        let _ = sums.first.f_add_(&y.f_sum_dim_intlist(0i64, false, Kind::Double)?)?;
        let _ = sums.second.f_addmm_(&y.f_transpose(0, 1)?, &y)?;
        self.n += count as u64;
        Ok(())
    }

    /// Adds the samples of `other` (another shard).
    ///
    /// # Errors
    /// Where widths differ.
    pub fn merge(&mut self, other: &Moments) -> Result<()> {
        let Some(from) = &other.sums else { return Ok(()) };
        let Some(into) = &mut self.sums else {
            let copy = |t: &Tensor| t.f_to_dtype(Kind::Double, false, true);
            self.sums = Some(Sums {
                shift: copy(&from.shift)?,
                first: copy(&from.first)?,
                second: copy(&from.second)?,
            });
            self.n = other.n;
            return Ok(());
        };
        if from.shift.size() != into.shift.size() {
            return Err(Error::run("moments of features of different widths"));
        }
        // With e = shift' - shift: sum(x - shift) = first' + n' e, and likewise for the outer products.
        let n = other.n as f64;
        let device = into.shift.device();
        let (first, second) = (from.first.f_to_device(device)?, from.second.f_to_device(device)?);
        let e = from.shift.f_to_device(device)?.f_sub(&into.shift)?;
        let cross = first.f_outer(&e)?;
        let _ = into.second.f_add_(&second)?.f_add_(&cross)?.f_add_(&cross.f_transpose(0, 1)?)?;
        let _ = into.second.f_add_(&e.f_outer(&e)?.f_mul_scalar_(n)?)?;
        let _ = into.first.f_add_(&first)?.f_add_(&e.f_mul_scalar(n)?)?;
        self.n += other.n;
        Ok(())
    }

    /// Mean and covariance of all samples.
    ///
    /// # Errors
    /// Where there are fewer than two samples, or features are not finite.
    pub fn finish(&self) -> Result<Gaussian> {
        let sums = match &self.sums {
            Some(sums) if self.n >= 2 => sums,
            _ => return Err(Error::data(format!("{} images", self.n)).why("statistics need at least 2")),
        };
        let n = self.n as f64;
        let mean = sums.first.f_div_scalar(n)?.f_add_(&sums.shift)?.f_to_device(Device::Cpu)?;
        let mut centred = sums.second.f_sub(&sums.first.f_outer(&sums.first)?.f_div_scalar_(n)?)?;
        let cov = centred.f_div_scalar_(n - 1.0)?.f_to_device(Device::Cpu)?;
        if !tensor_to_f64(&mean)?.iter().all(|v| v.is_finite()) {
            return Err(Error::run("features are not finite").hint("the images or the weights are damaged"));
        }
        Ok(Gaussian { n: Some(self.n), mean, cov })
    }
}

impl Gaussian {
    /// The Gaussian fitted to features `[n, d]`.
    ///
    /// # Errors
    /// As [`Moments::finish`].
    pub fn fit(features: &Tensor) -> Result<Self> {
        let mut moments = Moments::new();
        moments.update(features)?;
        moments.finish()
    }

    /// Width of the features.
    #[must_use]
    pub fn dim(&self) -> i64 {
        self.mean.size().first().copied().unwrap_or(0)
    }

    /// Whether there were too few samples for a covariance of full rank (false where their number is unknown).
    #[must_use]
    pub fn rank_deficient(&self) -> bool {
        self.n.is_some_and(|n| n < self.dim().unsigned_abs() + 1)
    }
}

/// How the trace of the root was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Cholesky factor of the first covariance and eigenvalues: fast.
    Cholesky,
    /// Factors of both covariances and singular values: accurate for singular covariances.
    Factors,
}

/// The Frechet distance between two Gaussians.
///
/// # Errors
/// Where dimensions differ, or the result is not finite or clearly negative.
pub fn distance(a: &Gaussian, b: &Gaussian) -> Result<f64> {
    same_dim(a.dim(), b.dim())?;
    check_finite(&a.cov)?;
    check_finite(&b.cov)?;
    let prefer = if a.rank_deficient() || b.rank_deficient() { Route::Factors } else { Route::Cholesky };
    let root = trace_root(&a.cov, &b.cov, prefer)?.0;
    combine(&a.mean, &b.mean, trace(&a.cov)?, trace(&b.cov)?, root)
}

pub(super) fn same_dim(a: i64, b: i64) -> Result<()> {
    if a == b {
        return Ok(());
    }
    Err(Error::data("statistics of different extractors")
        .why(format!("{a} and {b} numbers per image"))
        .hint("2048 is the Inception network, 2023 its spatial features, 1024 DINOv2"))
}

/// LAPACK may answer anything for a matrix with NaN in it.
pub(super) fn check_finite(matrix: &Tensor) -> Result<()> {
    if matrix.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
        return Err(Error::run("frechet distance").why("features or a covariance are not finite"));
    }
    Ok(())
}

pub(super) fn trace(cov: &Tensor) -> Result<f64> {
    Ok(cov.f_trace()?.f_double_value(&[])?)
}

pub(super) fn combine(mean1: &Tensor, mean2: &Tensor, trace1: f64, trace2: f64, root: f64) -> Result<f64> {
    let shift = mean1.f_sub(mean2)?.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    let distance = shift + trace1 + trace2 - 2.0 * root;
    if !distance.is_finite() || distance < -1e-6 * (trace1 + trace2) {
        return Err(Error::run(format!("frechet distance of {distance}"))
            .why("the covariances are damaged: they are not finite, or not positive semi-definite"));
    }
    Ok(distance)
}

pub(super) fn symmetric(m: &Tensor) -> Result<Tensor> {
    Ok(m.f_add(&m.f_transpose(0, 1)?)?.f_mul_scalar_(0.5)?)
}

/// Largest error of the trace, relative to the sum of both traces, that the fast route may have.
const FAST_ERROR: f64 = 1e-10;

/// `tr((S1 S2)^{1/2})` and the route taken: `prefer`, or [`Route::Factors`] where Cholesky fails or would lose
/// accuracy.
///
/// # Errors
/// Where libtorch fails.
pub fn trace_root(s1: &Tensor, s2: &Tensor, prefer: Route) -> Result<(f64, Route)> {
    if prefer == Route::Cholesky
        && let Some(root) = by_cholesky(s1, s2)?
    {
        return Ok((root, Route::Cholesky));
    }
    let singular = singular_values(&factor(s1)?.f_transpose(0, 1)?.f_matmul(&factor(s2)?)?)?;
    Ok((singular.iter().sum(), Route::Factors))
}

/// The fast route; nothing where it is not possible or not accurate.
fn by_cholesky(s1: &Tensor, s2: &Tensor) -> Result<Option<f64>> {
    let (factor, info) = s1.f_linalg_cholesky_ex(false, false)?;
    if info.f_int64_value(&[])? != 0 {
        return Ok(None);
    }
    let inner = factor.f_transpose(0, 1)?.f_matmul(s2)?.f_matmul(&factor)?;
    let values = tensor_to_f64(&symmetric(&inner)?.f_linalg_eigvalsh("L")?)?;
    // Eigenvalues carry an absolute error e of the unit roundoff times the largest one; that of a root is
    // e / (2 sqrt(lambda)), and at most sqrt(e).
    let e = f64::EPSILON * values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let error: f64 = values.iter().map(|&v| (e / (2.0 * v.max(e).sqrt())).min(e.sqrt())).sum();
    let accurate = error <= FAST_ERROR * (trace(s1)? + trace(s2)?);
    Ok(accurate.then(|| values.iter().map(|v| v.max(0.0).sqrt()).sum()))
}

/// F with `F F^T = S`, from the eigenvalues that are not zero within rounding.
pub(super) fn factor(s: &Tensor) -> Result<Tensor> {
    let (values, vectors) = symmetric(s)?.f_linalg_eigh("L")?;
    let host = tensor_to_f64(&values)?;
    let top = host.last().copied().unwrap_or(0.0);
    #[allow(clippy::cast_precision_loss)]
    let floor = top * f64::EPSILON * host.len() as f64;
    // Ascending: the zero ones come first.
    let zeros = host.iter().take_while(|&&v| v <= floor).count();
    let (start, len) = (zeros as i64, (host.len() - zeros) as i64);
    let roots = values.f_narrow(0, start, len)?.f_sqrt()?.f_unsqueeze(0)?;
    Ok(vectors.f_narrow(1, start, len)?.f_mul(&roots)?)
}

/// Singular values; the empty list of an empty matrix.
pub(super) fn singular_values(m: &Tensor) -> Result<Vec<f64>> {
    if m.numel() == 0 {
        return Ok(Vec::new());
    }
    // A name of the driver is for CUDA only, and tch can pass no other; the decomposition without vectors
    // is the same routine.
    tensor_to_f64(&m.f_svd(true, false)?.1)
}

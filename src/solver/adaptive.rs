//! What the adaptive solvers share: a step size and a time of its own for every sample of the batch.

use tch::{Kind, Tensor};

use super::Control;
use crate::error::Result;

/// Attempts after which a run is given up.
pub(super) const MOST_ATTEMPTS: usize = 100_000;

/// Root mean square of `error / (atol + rtol size)` or of `error / max(atol, rtol size)` over each
/// sample, read to the host: one synchronisation an attempt. With batch control every sample gets the
/// norm of the batch: `couple` of all.
pub(super) fn error_norms(scaled: &Tensor, control: Control, couple: fn(&[f64]) -> f64) -> Result<Vec<f64>> {
    let batch = scaled.size().first().copied().unwrap_or(0);
    let squares = scaled.f_reshape([batch, -1])?.f_to_kind(Kind::Double)?.f_square()?;
    let means = squares.f_mean_dim([1i64].as_slice(), false, Kind::Double)?.f_sqrt()?;
    let norms = Vec::<f64>::try_from(&means.f_to_device(tch::Device::Cpu)?)?;
    Ok(match control {
        Control::Sample => norms,
        Control::Batch => vec![couple(&norms); norms.len()],
    })
}

/// The largest value.
pub(super) fn largest(norms: &[f64]) -> f64 {
    norms.iter().copied().fold(0.0, |a, b| if b.is_nan() || a.is_nan() { f64::NAN } else { a.max(b) })
}

/// The root mean square of values that are root mean squares over equally many elements.
pub(super) fn root_mean_square(norms: &[f64]) -> f64 {
    (norms.iter().map(|n| n * n).sum::<f64>() / norms.len() as f64).sqrt()
}

/// `a` where `take` is set, else `b`, sample by sample.
pub(super) fn choose(take: &[bool], a: Tensor, b: &Tensor) -> Result<Tensor> {
    if take.iter().all(|t| *t) {
        return Ok(a);
    }
    let mut shape = vec![1; a.dim()];
    if let Some(first) = shape.first_mut() {
        *first = take.len() as i64;
    }
    let mask = Tensor::f_from_slice(take)?.f_reshape(&shape)?.f_to_device(a.device())?;
    Ok(a.f_where_self(&mask, b)?)
}

//! What the adaptive solvers share: a step size and a time of its own for every sample of the batch.

use tch::{Kind, Tensor};

use super::Control;
use crate::error::Result;
use crate::net::Cond;

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

/// The samples of a batch that are still on their way: only they are computed.
#[derive(Debug)]
pub(super) struct Active {
    /// Their places in the batch.
    pub places: Vec<usize>,
    /// The same as a tensor; none where all samples are active.
    rows: Option<Tensor>,
}

impl Active {
    /// Those samples of `x` `[B, ...]` for which `is_active` holds.
    pub(super) fn of(is_active: impl Iterator<Item = bool>, x: &Tensor) -> Result<Self> {
        let places: Vec<usize> = is_active.enumerate().filter(|(_, a)| *a).map(|(k, _)| k).collect();
        let all = x.size().first().is_some_and(|batch| *batch == places.len() as i64);
        let rows = if all {
            None
        } else {
            let rows: Vec<i64> = places.iter().map(|k| *k as i64).collect();
            Some(Tensor::f_from_slice(&rows)?.f_to_device(x.device())?)
        };
        Ok(Active { places, rows })
    }

    /// Their part of a tensor over the batch.
    pub(super) fn take(&self, x: &Tensor) -> Result<Tensor> {
        match &self.rows {
            None => Ok(x.shallow_clone()),
            Some(rows) => Ok(x.f_index_select(0, rows)?),
        }
    }

    /// Their part of a list over the batch.
    pub(super) fn take_list<T: Copy>(&self, list: &[T]) -> Vec<T> {
        self.places.iter().map(|k| list[*k]).collect()
    }

    /// `whole` with their part replaced.
    pub(super) fn put(&self, whole: &Tensor, part: Tensor) -> Result<Tensor> {
        match &self.rows {
            None => Ok(part),
            Some(rows) => Ok(whole.f_index_copy(0, rows, &part)?),
        }
    }

    /// Their part of a condition.
    pub(super) fn take_cond(&self, cond: &Cond) -> Result<Cond> {
        let part = |x: &Option<Tensor>| x.as_ref().map(|x| self.take(x)).transpose();
        Ok(Cond { class: part(&cond.class)?, augment: part(&cond.augment)?, mel: part(&cond.mel)? })
    }
}

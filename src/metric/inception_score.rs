//! Inception Score (Salimans et al. 2016, "Improved techniques for training GANs"):
//! `IS = exp(E_x KL(p(c|x) || p(c)))`, per split, natural logarithm, in f64.

use tch::{Device, Kind, Tensor};

use super::distance::rows;
use super::kid::MeanStd;
use super::numpy_rng::RandomState;
use crate::error::{Error, Result};

/// In which order rows are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IsOrder {
    /// Shuffled by `RandomState(2020)`, as torch-fidelity does.
    Shuffled,
    /// As they come, as the original and the ADM evaluator do.
    Sequential,
}

/// Inception Score of class logits `[N, C]`: mean and population deviation over `splits` splits of rows
/// `k N / K .. (k + 1) N / K`.
///
/// # Errors
/// Where there are fewer rows than splits.
pub fn inception_score(logits: &Tensor, splits: usize, order: IsOrder) -> Result<MeanStd> {
    let (n, _) = rows(logits)?;
    if splits == 0 || splits > n {
        return Err(Error::usage(format!("{splits} splits of {n} images")).at("--is-splits"));
    }
    let mut logits = logits.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
    if order == IsOrder::Shuffled {
        let index: Vec<i64> = RandomState::new(2020).permutation(n).into_iter().map(|i| i as i64).collect();
        logits = logits.f_index_select(0, &Tensor::f_from_slice(&index)?)?;
    }
    let bounds: Vec<(usize, usize)> = (0..splits).map(|k| (k * n / splits, (k + 1) * n / splits)).collect();
    of_splits(&logits, &bounds)
}

/// Inception Score over consecutive splits of `chunk` rows in their order; a shorter one at the end counts as much
/// as the others. The rule of the ADM evaluator, with chunks of 5000.
///
/// # Errors
/// Where there are no rows.
pub fn inception_score_chunks(logits: &Tensor, chunk: usize) -> Result<MeanStd> {
    let (n, _) = rows(logits)?;
    let chunk = chunk.max(1);
    let bounds: Vec<(usize, usize)> = (0..n).step_by(chunk).map(|i| (i, (i + chunk).min(n))).collect();
    if bounds.is_empty() {
        return Err(Error::data("no images"));
    }
    of_splits(&logits.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?, &bounds)
}

/// Scores of the splits `bounds` of logits in f64.
#[allow(clippy::cast_precision_loss)]
fn of_splits(logits: &Tensor, bounds: &[(usize, usize)]) -> Result<MeanStd> {
    // In the log domain 0 log 0 is exp(-large) * -large = 0.
    let log_p = logits.f_log_softmax(1, Kind::Double)?;
    let mut scores = Vec::with_capacity(bounds.len());
    for &(start, end) in bounds {
        let part = log_p.f_narrow(0, start as i64, (end - start) as i64)?;
        let log_q = part.f_logsumexp(0i64, true)?.f_sub_scalar(((end - start) as f64).ln())?;
        let kl = part.f_exp()?.f_mul(&part.f_sub(&log_q)?)?.f_sum_dim_intlist(1i64, false, Kind::Double)?;
        scores.push(kl.f_mean(Kind::Double)?.f_double_value(&[])?.exp());
    }
    Ok(MeanStd::of(&scores))
}

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
#[allow(clippy::cast_precision_loss)]
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
    // In the log domain 0 log 0 is exp(-large) * -large = 0.
    let log_p = logits.f_log_softmax(1, Kind::Double)?;
    let mut scores = Vec::with_capacity(splits);
    for k in 0..splits {
        let (start, end) = (k * n / splits, (k + 1) * n / splits);
        let part = log_p.f_narrow(0, start as i64, (end - start) as i64)?;
        let log_q = part.f_logsumexp(0i64, true)?.f_sub_scalar(((end - start) as f64).ln())?;
        let kl = part.f_exp()?.f_mul(&part.f_sub(&log_q)?)?.f_sum_dim_intlist(1i64, false, Kind::Double)?;
        scores.push(kl.f_mean(Kind::Double)?.f_double_value(&[])?.exp());
    }
    Ok(MeanStd::of(&scores))
}

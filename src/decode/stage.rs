//! The stages of a sampler: each takes logits and removes candidates, or changes their weights.
//!
//! Logits are `[B, V]` f64; a removed candidate has the logit -inf. Probabilities are those at that point of the
//! chain, so the order of stages matters. Nothing is read back from the device.

use tch::{Kind, Tensor};

use crate::error::Result;

/// One stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stage {
    /// Logits divided by T > 0.
    Temperature(f64),
    /// `T = low + (high - low) (H / ln n)^exponent`, of n candidates with entropy H (llama.cpp).
    DynamicTemperature {
        /// T of a sure model.
        low: f64,
        /// T of one that knows nothing.
        high: f64,
        /// How T rises between.
        exponent: f64,
    },
    /// The k largest logits; those equal to the k-th stay (Fan et al. 2018).
    TopK(i64),
    /// The nucleus: the most probable candidates until their sum reaches p (Holtzman et al. 2020).
    TopP(f64),
    /// Candidates of at least this share of the largest probability (Nguyen et al. 2024).
    MinP(f64),
    /// Locally typical: candidates in the order of `|-ln p - H|` until their sum reaches tau, with those that tie
    /// with the last (Meister et al. 2023).
    Typical(f64),
    /// Candidates of at least this probability (Hewitt et al. 2022).
    Epsilon(f64),
    /// The same with `min(eps, sqrt(eps) e^{-H})` (Hewitt et al. 2022).
    Eta(f64),
    /// Logits within n population standard deviations of the largest (Tang et al. 2024).
    TopNSigma(f64),
    /// Of the 100 most probable, renormalised: candidates while the running sum of `-p ln p` is at most h H
    /// (Potraghloo et al. 2025).
    TopH(f64),
    /// With this probability: where at least two candidates reach the threshold, all of these but the least
    /// probable go.
    Xtc {
        /// How often.
        probability: f64,
        /// What a candidate must reach; above 0.5 nothing can happen.
        threshold: f64,
    },
}

/// Number of candidates that top-h looks at.
const TOP_H: i64 = 100;

impl Stage {
    /// Its name on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Stage::Temperature(_) | Stage::DynamicTemperature { .. } => "temperature",
            Stage::TopK(_) => "top-k",
            Stage::TopP(_) => "top-p",
            Stage::MinP(_) => "min-p",
            Stage::Typical(_) => "typical-p",
            Stage::Epsilon(_) => "epsilon",
            Stage::Eta(_) => "eta",
            Stage::TopNSigma(_) => "top-n-sigma",
            Stage::TopH(_) => "top-h",
            Stage::Xtc { .. } => "xtc",
        }
    }

    /// Applies the stage to `logits` `[B, V]` f64. `keep` candidates stay in any case (in the stage's own order);
    /// `u` gives the next number in [0, 1) of every sample, `[B]`, where the stage draws.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn apply(&self, logits: &Tensor, keep: i64, u: &mut dyn FnMut() -> Result<Tensor>) -> Result<Tensor> {
        let kept = match *self {
            Stage::Temperature(t) => return Ok(logits.f_div_scalar(t)?),
            Stage::DynamicTemperature { low, high, exponent } => {
                return dynamic(logits, low, high, exponent);
            }
            Stage::TopK(k) => at_least_last(logits, k.max(keep))?,
            Stage::TopP(p) => {
                // Removed where the sum from the least probable on is at most 1 - p, as transformers has it.
                let (sorted, order) = logits.f_sort_stable(true, -1, false)?;
                let sums = sorted.f_softmax(-1, Kind::Double)?.f_cumsum(-1, Kind::Double)?;
                let kept = ends(&sums.f_gt(1.0 - p)?, keep, true)?;
                unsort(&kept, &order)?
            }
            Stage::MinP(share) => {
                let p = logits.f_softmax(-1, Kind::Double)?;
                let most = p.f_amax(-1, true)?.f_mul_scalar(share)?;
                p.f_ge_tensor(&most)?.f_logical_or(&largest(&p, keep)?)?
            }
            Stage::Typical(tau) => typical(logits, tau, keep)?,
            Stage::Epsilon(eps) => {
                let p = logits.f_softmax(-1, Kind::Double)?;
                p.f_ge(eps)?.f_logical_or(&at_least_last(logits, keep)?)?
            }
            Stage::Eta(eps) => {
                let p = logits.f_softmax(-1, Kind::Double)?;
                let cutoff = entropy(&p)?.f_neg()?.f_exp()?.f_mul_scalar(eps.sqrt())?.f_clamp_max(eps)?;
                p.f_ge_tensor(&cutoff)?.f_logical_or(&at_least_last(logits, keep)?)?
            }
            Stage::TopNSigma(n) => {
                let finite = logits.f_isfinite()?;
                let count = finite.f_sum_dim_intlist(-1, true, Kind::Double)?;
                let zeroed = logits.f_masked_fill(&finite.f_logical_not()?, 0.0)?;
                let mean = zeroed.f_sum_dim_intlist(-1, true, Kind::Double)?.f_div(&count)?;
                let off = logits.f_sub(&mean)?.f_masked_fill(&finite.f_logical_not()?, 0.0)?;
                let var = off.f_square()?.f_sum_dim_intlist(-1, true, Kind::Double)?.f_div(&count)?;
                let low = logits.f_amax(-1, true)?.f_sub(&var.f_sqrt()?.f_mul_scalar(n)?)?;
                logits.f_ge_tensor(&low)?
            }
            Stage::TopH(h) => top_h(logits, h)?,
            Stage::Xtc { probability, threshold } => {
                if threshold > 0.5 {
                    return Ok(logits.shallow_clone());
                }
                let fires = u()?.f_to_kind(Kind::Double)?.f_lt(probability)?.f_unsqueeze(-1)?;
                let p = logits.f_softmax(-1, Kind::Double)?;
                let high = p.f_ge(threshold)?;
                // Of those that reach the threshold the least probable stays: the last in descending order.
                let (sorted, order) = p.f_sort_stable(true, -1, true)?;
                let n = high.f_sum_dim_intlist(-1, true, Kind::Int64)?;
                let at = Tensor::f_arange(sorted.size()[1], (Kind::Int64, p.device()))?.f_unsqueeze(0)?;
                let gone = at.f_lt_tensor(&n.f_sub_scalar(1)?)?;
                let gone = unsort(&gone, &order)?.f_logical_and(&fires)?;
                gone.f_logical_not()?
            }
        };
        Ok(logits.f_masked_fill(&kept.f_logical_not()?, f64::NEG_INFINITY)?)
    }
}

/// Entropy of `p` `[B, V]` in nats, `[B, 1]`; candidates of probability 0 count nothing.
fn entropy(p: &Tensor) -> Result<Tensor> {
    Ok(p.f_special_entr()?.f_sum_dim_intlist(-1, true, Kind::Double)?)
}

/// Mask in the original order from one in a sorted order.
fn unsort(mask: &Tensor, order: &Tensor) -> Result<Tensor> {
    Ok(mask.f_zeros_like()?.f_scatter(-1, order, mask)?)
}

/// `mask` (in a sorted order) with its first, or `last`, n places set.
fn ends(mask: &Tensor, n: i64, last: bool) -> Result<Tensor> {
    let v = mask.size()[1];
    let n = n.clamp(0, v);
    let kept = mask.f_alias_copy()?;
    let start = if last { v - n } else { 0 };
    let _ = kept.f_narrow(-1, start, n)?.f_fill_(1)?;
    Ok(kept)
}

/// The n most probable candidates.
fn largest(p: &Tensor, n: i64) -> Result<Tensor> {
    let (_, index) = p.f_topk(n.clamp(0, p.size()[1]), -1, true, true)?;
    let none = p.f_zeros_like()?.f_to_kind(Kind::Bool)?;
    Ok(none.f_scatter_value(-1, &index, 1)?)
}

/// The n largest logits, with those that equal the last of them.
fn at_least_last(logits: &Tensor, n: i64) -> Result<Tensor> {
    let n = n.clamp(1, logits.size()[1]);
    let (top, _) = logits.f_topk(n, -1, true, true)?;
    Ok(logits.f_ge_tensor(&top.f_narrow(-1, n - 1, 1)?)?)
}

fn dynamic(logits: &Tensor, low: f64, high: f64, exponent: f64) -> Result<Tensor> {
    let p = logits.f_softmax(-1, Kind::Double)?;
    let n = logits.f_isfinite()?.f_sum_dim_intlist(-1, true, Kind::Double)?;
    // One candidate has no entropy and needs no temperature.
    let most = n.f_log()?.f_clamp_min(f64::MIN_POSITIVE)?;
    let t = entropy(&p)?.f_div(&most)?.f_pow_tensor_scalar(exponent)?.f_mul_scalar(high - low)?;
    Ok(logits.f_div(&t.f_add_scalar(low)?)?)
}

fn typical(logits: &Tensor, tau: f64, keep: i64) -> Result<Tensor> {
    let log_p = logits.f_log_softmax(-1, Kind::Double)?;
    let p = log_p.f_exp()?;
    let off = log_p.f_add(&entropy(&p)?)?.f_abs()?;
    // A candidate that was removed before is infinitely far off, and last.
    let off = off.f_masked_fill(&p.f_eq(0.0)?, f64::INFINITY)?;
    let (sorted, order) = off.f_sort_stable(true, -1, false)?;
    let sums = p.f_gather(-1, &order, false)?.f_cumsum(-1, Kind::Double)?;
    let last = sums.f_lt(tau)?.f_sum_dim_intlist(-1, true, Kind::Int64)?;
    let last = last.f_clamp_max(logits.size()[1] - 1)?;
    let limit = sorted.f_gather(-1, &last, false)?;
    let kept = ends(&sorted.f_le_tensor(&limit)?, keep, false)?;
    unsort(&kept, &order)
}

fn top_h(logits: &Tensor, h: f64) -> Result<Tensor> {
    let n = TOP_H.min(logits.size()[1]);
    let (top, order) = logits.f_topk(n, -1, true, true)?;
    let terms = top.f_softmax(-1, Kind::Double)?.f_special_entr()?;
    let limit = terms.f_sum_dim_intlist(-1, true, Kind::Double)?.f_mul_scalar(h)?;
    let kept = ends(&terms.f_cumsum(-1, Kind::Double)?.f_le_tensor(&limit)?, 1, false)?;
    let none = logits.f_zeros_like()?.f_to_kind(Kind::Bool)?;
    Ok(none.f_scatter(-1, &order, &kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: [f64; 6] = [0.45, 0.25, 0.15, 0.08, 0.05, 0.02];
    const D: [f64; 6] = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125];

    fn run(p: &[f64], stages: &[Stage], keep: i64) -> Vec<usize> {
        let mut z = Tensor::from_slice(p).log().reshape([1, -1]);
        let mut zero = || Ok(Tensor::from_slice(&[0f64]));
        for stage in stages {
            z = stage.apply(&z, keep, &mut zero).unwrap();
        }
        let z = Vec::<f64>::try_from(z.view(-1)).unwrap();
        assert!(z.iter().all(|v| !v.is_nan()));
        z.iter().enumerate().filter(|(_, v)| v.is_finite()).map(|(i, _)| i).collect()
    }

    fn first(n: usize) -> Vec<usize> {
        (0..n).collect()
    }

    #[test]
    fn typical_sets_of_the_definition() {
        let typical = |p: &[f64], tau| run(p, &[Stage::Typical(tau)], 1);
        for (tau, kept) in [
            (0.1, vec![1]),
            (0.2, vec![1]),
            (0.3, vec![1, 2]),
            (0.5, first(3)),
            (0.7, first(3)),
            (0.9, first(4)),
            (0.95, first(5)),
            (0.97, first(5)),
            (0.99, first(6)),
        ] {
            assert_eq!(typical(&P, tau), kept, "tau {tau}");
        }
        for (tau, kept) in [
            (0.2, vec![1]),
            (0.25, vec![1]),
            (0.5, first(2)),
            (0.75, first(2)),
            (0.9, first(4)),
            (0.95, first(6)),
        ] {
            assert_eq!(typical(&D, tau), kept, "tau {tau}");
        }
        assert_eq!(run(&D, &[Stage::Typical(0.2)], 2), [0, 1]);
        assert_eq!(typical(&[0.4, 0.2, 0.2, 0.2], 0.5), [1, 2, 3]);
        assert_eq!(typical(&[0.4, 0.2, 0.2, 0.2], 0.3), [1, 2, 3]);
        assert_eq!(typical(&[0.97, 0.01, 0.01, 0.01], 0.5), [0]);
        for tau in [0.01, 0.5, 0.99] {
            assert_eq!(typical(&[0.25; 4], tau), first(4));
        }
        // A candidate of probability 0 is no NaN.
        assert_eq!(typical(&[0.5, 0.0, 0.5], 0.9), [0, 2]);
    }

    #[test]
    fn the_order_of_stages_matters() {
        let (hot, cold) = (Stage::Temperature(2.0), Stage::Temperature(0.5));
        assert_eq!(run(&P, &[hot, Stage::Typical(0.5)], 1), [1, 2, 3]);
        assert_eq!(run(&P, &[Stage::Typical(0.5), hot], 1), first(3));
        assert_eq!(run(&P, &[cold, Stage::Typical(0.5)], 1), [0]);
        assert_eq!(run(&P, &[Stage::TopK(3), Stage::Typical(0.5)], 1), first(2));
        assert_eq!(run(&P, &[Stage::Typical(0.5), Stage::TopK(3)], 1), first(3));
    }

    #[test]
    fn the_other_samplers_keep_what_their_definitions_say() {
        let one = |stage| run(&P, &[stage], 1);
        for (p, n) in [(0.4, 1), (0.6, 2), (0.75, 3), (0.9, 4)] {
            assert_eq!(one(Stage::TopP(p)), first(n), "top-p {p}");
        }
        for (m, n) in [(0.1, 5), (0.2, 3), (0.4, 2)] {
            assert_eq!(one(Stage::MinP(m)), first(n), "min-p {m}");
        }
        assert_eq!(one(Stage::Epsilon(0.06)), first(4));
        for (eps, n) in [(0.06, 4), (0.1, 4), (0.3, 3)] {
            assert_eq!(one(Stage::Eta(eps)), first(n), "eta {eps}");
        }
        assert_eq!(one(Stage::TopNSigma(1.0)), first(2));
        assert_eq!(one(Stage::TopNSigma(1.5)), first(3));
        assert_eq!(run(&P, &[Stage::Temperature(3.0), Stage::TopNSigma(1.5)], 1), first(3));
        for (h, n) in [(0.4, 1), (0.6, 2), (0.8, 3)] {
            assert_eq!(one(Stage::TopH(h)), first(n), "top-h {h}");
        }
        assert_eq!(one(Stage::Xtc { probability: 0.5, threshold: 0.1 }), [2, 3, 4, 5]);
        assert_eq!(one(Stage::Xtc { probability: 0.0, threshold: 0.1 }), first(6));
        assert_eq!(one(Stage::Xtc { probability: 1.0, threshold: 0.6 }), first(6));
        assert_eq!(one(Stage::TopK(2)), first(2));
        assert_eq!(run(&[0.3, 0.2, 0.2, 0.3], &[Stage::TopK(3)], 1), first(4));
        assert_eq!(run(&P, &[Stage::Epsilon(0.9)], 2), first(2));
        assert_eq!(run(&P, &[Stage::TopP(0.01)], 3), first(3));
    }

    #[test]
    fn dynamic_temperature_follows_the_entropy() {
        let z = Tensor::from_slice(&P).log().reshape([1, -1]);
        let mut none = || Ok(Tensor::from_slice(&[0f64]));
        let stage = Stage::DynamicTemperature { low: 0.5, high: 1.5, exponent: 1.0 };
        let t = z.double_value(&[0, 0]) / stage.apply(&z, 1, &mut none).unwrap().double_value(&[0, 0]);
        assert!((t - (0.5 + 1.420_555_42 / 6f64.ln())).abs() < 1e-8, "{t}");
    }
}

//! From logits to the next token.

use tch::{Kind, Tensor};

use super::spec::SamplerSpec;
use super::stage::Stage;
use crate::error::Result;

/// What was drawn at one position; nothing is read back from the device.
#[derive(Debug)]
pub struct Choice {
    /// `[B]` i64.
    pub tokens: Tensor,
    /// Logarithm of their probabilities under the model itself (before any stage), `[B]` f32.
    pub log_probs: Tensor,
    /// Entropy of the model's distribution in nats, `[B]` f32.
    pub entropy: Tensor,
}

/// Draws tokens through a chain of stages.
#[derive(Debug, Clone)]
pub struct Chooser {
    chain: Vec<Stage>,
    greedy: bool,
    keep: i64,
}

impl Chooser {
    /// A chooser by `spec`.
    ///
    /// # Errors
    /// As [`SamplerSpec::chain`].
    pub fn new(spec: &SamplerSpec) -> Result<Self> {
        Ok(Chooser { chain: spec.chain()?, greedy: spec.is_greedy(), keep: spec.min_tokens_to_keep })
    }

    /// Random numbers that one choice takes from a sample's stream.
    #[must_use]
    pub fn draws(&self) -> i64 {
        1 + self.chain.iter().filter(|stage| matches!(stage, Stage::Xtc { .. })).count() as i64
    }

    /// The logits after all stages, `[B, V]` f64; -inf where a candidate is removed. `u` `[B, draws]` in [0, 1).
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn filter(&self, logits: &Tensor, u: &Tensor) -> Result<Tensor> {
        let mut next = 0;
        let mut draw = || -> Result<Tensor> {
            next += 1;
            Ok(u.f_select(1, next)?)
        };
        let mut z = logits.f_to_kind(Kind::Double)?;
        for stage in &self.chain {
            z = stage.apply(&z, self.keep, &mut draw)?;
        }
        Ok(z)
    }

    /// Probabilities after all stages, `[B, V]` f64, of logits `[B, V]`: all on one token where the choice is greedy.
    /// `u` `[B, draws]` in [0, 1).
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn distribution(&self, logits: &Tensor, u: &Tensor) -> Result<Tensor> {
        if self.greedy {
            let none = logits.f_zeros_like()?.f_to_kind(Kind::Double)?;
            return Ok(none.f_scatter_value(-1, &logits.f_argmax(-1, true)?, 1.0)?);
        }
        Ok(self.filter(logits, u)?.f_softmax(-1, Kind::Double)?)
    }

    /// Draws from `logits` `[B, V]` by inverting the distribution function; `u` `[B, draws]` in [0, 1).
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn choose(&self, logits: &Tensor, u: &Tensor) -> Result<Choice> {
        self.choose_adapted(logits, logits, u)
    }

    /// The same from `adapted` logits, such as those with penalties; likelihood and entropy are those of `own`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn choose_adapted(&self, own: &Tensor, adapted: &Tensor, u: &Tensor) -> Result<Choice> {
        let logits = adapted;
        let log_p = own.f_log_softmax(-1, Kind::Float)?;
        let p = log_p.f_exp()?;
        let entropy = p.f_special_entr()?.f_sum_dim_intlist(-1, false, Kind::Float)?;
        let tokens = if self.greedy {
            logits.f_argmax(-1, false)?
        } else if self.chain.is_empty() && std::ptr::eq(own, adapted) {
            invert(&p, &u.f_select(1, 0)?)?
        } else {
            invert(&self.distribution(logits, u)?, &u.f_select(1, 0)?)?
        };
        let log_probs = log_p.f_gather(-1, &tokens.f_unsqueeze(-1)?, false)?.f_squeeze_dim(-1)?;
        Ok(Choice { tokens, log_probs, entropy })
    }
}

/// The first token at which the running sum of `weights` `[B, V]` exceeds `u` times the whole.
fn invert(weights: &Tensor, u: &Tensor) -> Result<Tensor> {
    let sums = weights.f_cumsum(-1, Kind::Double)?;
    let last = weights.size().last().copied().unwrap_or(1) - 1;
    let level = u.f_to_kind(Kind::Double)?.f_unsqueeze(-1)?.f_mul(&sums.f_narrow(-1, last, 1)?)?;
    let below = sums.f_le_tensor(&level)?.f_sum_dim_intlist(-1, false, Kind::Int64)?;
    // `u` is below 1, so at least one sum exceeds the level but for rounding.
    Ok(below.f_clamp(0, last)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::spec::Order;
    use crate::torch::shim::Generator;

    fn draws(p: &[f64], spec: &SamplerSpec, n: i64) -> Vec<f64> {
        let mut random = Generator::new(7).unwrap();
        let chooser = Chooser::new(spec).unwrap();
        let u = random.integers(1 << 24, &[n, chooser.draws()]).unwrap().to_kind(Kind::Float)
            / f64::from(1 << 24);
        let logits = Tensor::from_slice(p).log().to_kind(Kind::Float).expand([n, p.len() as i64], false);
        let choice = chooser.choose(&logits, &u).unwrap();
        let counts = choice.tokens.bincount(None::<Tensor>, p.len() as i64);
        Vec::<f64>::try_from(counts.to_kind(Kind::Double)).unwrap()
    }

    fn chi2(counts: &[f64], p: &[f64]) -> f64 {
        let n: f64 = counts.iter().sum();
        let total: f64 = p.iter().sum();
        counts.iter().zip(p).map(|(c, p)| (c - n * p / total).powi(2) / (n * p / total)).sum()
    }

    #[test]
    fn a_million_draws_follow_the_distribution() {
        let p = [0.4, 0.3, 0.2, 0.06, 0.04];
        // 99.9 % of the chi-square distribution with 4 degrees of freedom lies below 18.5.
        assert!(chi2(&draws(&p, &SamplerSpec::default(), 1_000_000), &p) < 18.5);
        let squared: Vec<f64> = p.iter().map(|p| p * p).collect();
        let half = SamplerSpec { temperature: 0.5, ..SamplerSpec::default() };
        assert!(chi2(&draws(&p, &half, 1_000_000), &squared) < 18.5);
    }

    #[test]
    fn the_nucleus_keeps_the_token_that_crosses() {
        let p = [0.1, 0.4, 0.2, 0.3];
        let nucleus = |top_p| SamplerSpec { top_p, order: Order::Llama, ..SamplerSpec::default() };
        let counts = draws(&p, &nucleus(0.5), 200_000);
        assert_eq!((counts[0], counts[2]), (0.0, 0.0));
        assert!(chi2(&[counts[1], counts[3]], &[0.4, 0.3]) < 10.8);
        let tiny = draws(&p, &nucleus(1e-9), 1000);
        assert_eq!(tiny, [0.0, 1000.0, 0.0, 0.0]);
        let greedy = draws(&p, &SamplerSpec { greedy: true, ..SamplerSpec::default() }, 1000);
        assert_eq!(greedy, tiny);
    }

    #[test]
    fn top_choices_are_excluded_as_often_as_asked() {
        let p = [0.5, 0.3, 0.2];
        let xtc = SamplerSpec { xtc_probability: 0.25, xtc_threshold: 0.25, ..SamplerSpec::default() };
        // In a quarter of the draws token 0 is out, and 1 and 2 share what is left.
        let want = [0.75 * 0.5, 0.75 * 0.3 + 0.25 * 0.6, 0.75 * 0.2 + 0.25 * 0.4];
        assert!(chi2(&draws(&p, &xtc, 300_000), &want) < 13.8);
    }

    #[test]
    fn likelihoods_are_the_models_own() {
        let p = [0.1f64, 0.4, 0.2, 0.3];
        let logits = Tensor::from_slice(&p).log().reshape([1, 4]);
        let u = Tensor::from_slice(&[0.99f32]).reshape([1, 1]);
        let cold = SamplerSpec { temperature: 0.3, top_p: 0.8, ..SamplerSpec::default() };
        let choice = Chooser::new(&cold).unwrap().choose(&logits, &u).unwrap();
        let token = usize::try_from(choice.tokens.int64_value(&[0])).unwrap();
        assert!((choice.log_probs.double_value(&[0]) - p[token].ln()).abs() < 1e-6);
        let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
        assert!((choice.entropy.double_value(&[0]) - entropy).abs() < 1e-6);
        // The ends of [0, 1).
        let at = |u: f32| {
            let u = Tensor::from_slice(&[u]).reshape([1, 1]);
            let all = Chooser::new(&SamplerSpec::default()).unwrap();
            all.choose(&logits, &u).unwrap().tokens.int64_value(&[0])
        };
        assert_eq!((at(0.0), at(0.05), at(0.3), at(0.999_999_94)), (0, 0, 1, 3));
    }
}

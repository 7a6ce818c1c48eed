//! What every stage of a sampler does to one distribution.

use serde::Serialize;
use tch::{Kind, Tensor};

use super::spec::SamplerSpec;
use super::text::TextSettings;
use crate::error::Result;

/// A candidate for the next token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Candidate {
    /// The token.
    pub token: i64,
    /// Its probability after the stage.
    pub p: f64,
}

/// A distribution after a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// The stage; `model` is the distribution before all of them.
    pub stage: String,
    /// Candidates that are left.
    pub kept: i64,
    /// What they had together before the stage.
    pub mass: f64,
    /// Entropy after it, in nats.
    pub entropy: f64,
    /// The most probable candidates after it.
    pub top: Vec<Candidate>,
}

/// The model's own distribution of `logits` `[V]`, and what is left of it after each stage of `spec`; each with its
/// `top` most probable candidates. XTC is shown as it is where it strikes.
///
/// # Errors
/// As [`SamplerSpec::chain`], or where libtorch fails.
pub fn explain(logits: &Tensor, spec: &SamplerSpec, top: i64) -> Result<Vec<Explained>> {
    let _no_grad = tch::no_grad_guard();
    let mut z = logits.f_to_kind(Kind::Double)?.f_unsqueeze(0)?;
    let mut p = z.f_softmax(-1, Kind::Double)?;
    let mut out = vec![state("model".to_owned(), &p, 1.0, top)?];
    let strike = Tensor::f_zeros([1], (Kind::Double, logits.device()))?;
    let stages = if spec.is_greedy() { Vec::new() } else { spec.chain()? };
    for stage in stages {
        z = stage.apply(&z, spec.min_tokens_to_keep, &mut || Ok(strike.shallow_clone()))?;
        let kept = z.f_isfinite()?;
        let mass = p.f_mul(&kept.f_to_kind(Kind::Double)?)?.f_sum(Kind::Double)?.f_double_value(&[])?;
        p = z.f_softmax(-1, Kind::Double)?;
        out.push(state(format!("{stage:?}"), &p, mass, top)?);
    }
    if spec.is_greedy() {
        let (_, token) = p.f_max_dim(-1, false)?;
        let best = Candidate { token: token.f_int64_value(&[0])?, p: 1.0 };
        let mass = p.f_max()?.f_double_value(&[])?;
        out.push(Explained { stage: "Greedy".to_owned(), kept: 1, mass, entropy: 0.0, top: vec![best] });
    }
    Ok(out)
}

impl TextSettings {
    /// As [`explain`] for the first token after `prompt`, whose logits are `[1, V]`, with all penalties.
    ///
    /// # Errors
    /// As [`explain`].
    pub fn explain(&self, logits: &Tensor, prompt: &[i64], top: i64) -> Result<Vec<Explained>> {
        explain(&self.adapted(logits, prompt, &[&[]])?.f_select(0, 0)?, &self.sampler, top)
    }
}

fn state(stage: String, p: &Tensor, mass: f64, top: i64) -> Result<Explained> {
    let count = p.f_gt(0.0)?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
    let entropy = p.f_special_entr()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    let (values, tokens) = p.f_topk(top.min(p.size()[1]), -1, true, true)?;
    let (values, tokens) =
        (Vec::<f64>::try_from(values.f_flatten(0, -1)?)?, Vec::<i64>::try_from(tokens.f_flatten(0, -1)?)?);
    let all = tokens.into_iter().zip(values).map(|(token, p)| Candidate { token, p });
    Ok(Explained { stage, kept: count, mass, entropy, top: all.filter(|c| c.p > 0.0).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Order;

    const P: [f64; 6] = [0.45, 0.25, 0.15, 0.08, 0.05, 0.02];

    fn of(spec: &SamplerSpec) -> Vec<Explained> {
        explain(&Tensor::from_slice(&P).log(), spec, 10).unwrap()
    }

    #[test]
    fn every_stage_says_what_it_leaves() {
        let typical = |tau| SamplerSpec { typical_p: tau, ..SamplerSpec::default() };
        let got = of(&typical(0.2));
        assert_eq!(got.len(), 2);
        assert!((got[0].entropy - 1.420_555_42).abs() < 1e-8 && got[0].kept == 6);
        assert_eq!((got[1].kept, got[1].top[0].token), (1, 1));
        assert!((got[1].mass - 0.25).abs() < 1e-12 && got[1].entropy.abs() < 1e-12);
        // Temperature first or last.
        let chain = |order| SamplerSpec { temperature: 2.0, order, ..typical(0.5) };
        let hf = of(&chain(Order::Hf));
        assert!((hf[1].top[0].p - 0.304_09).abs() < 1e-5 && hf[1].kept == 6, "{hf:?}");
        let kept = |e: &Explained| {
            let mut all: Vec<i64> = e.top.iter().map(|c| c.token).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(kept(&hf[2]), [1, 2, 3]);
        assert_eq!(kept(&of(&chain(Order::Llama))[1]), [0, 1, 2]);
    }

    #[test]
    fn greedy_is_one_candidate() {
        let got = of(&SamplerSpec { greedy: true, ..SamplerSpec::default() });
        assert_eq!((got[1].kept, got[1].top[0].token), (1, 0));
        assert!((got[1].mass - 0.45).abs() < 1e-12);
    }
}

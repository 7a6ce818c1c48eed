//! Contrastive search (Su et al. 2022): of the likeliest tokens the one that is most unlike what was said.

use tch::{Device, Kind, Tensor};

use super::text::{Continuation, Finish, TextSettings, first, no_cache, no_candidate};
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::net::causal::{Causal, Steps};

/// How much it matters, and among how many tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrastive {
    /// Weight of unlikeness in [0, 1].
    pub alpha: f64,
    /// Number of candidates.
    pub top_k: i64,
}

/// Continues `prompt` by the token v of the `top_k` likeliest that maximises `(1 - alpha) p(v) - alpha max_j cos(h_v,
/// h_j)`, with h the last layer's output after the final norm, at v and at all tokens j before it. Of `settings` the
/// sampler, mirostat and the generator are not used. `watch` sees every new token and may end the text by `true`.
///
/// # Errors
/// Where the prompt is empty, the network keeps no keys and values, it fails, or `watch` fails.
pub fn search_contrastive(
    net: &dyn Causal,
    prompt: &[i64],
    how: &Contrastive,
    settings: &TextSettings,
    device: Device,
    watch: &mut dyn FnMut(i64) -> Result<bool>,
) -> Result<Continuation> {
    let _no_grad = tch::no_grad_guard();
    let prompts = [prompt.to_vec()];
    settings.check(&prompts)?;
    if how.top_k < 1 || !(0.0..=1.0).contains(&how.alpha) {
        return Err(Error::usage(format!("contrastive search among {} with {}", how.top_k, how.alpha)));
    }
    let mut state = net.begin(1, &Cond::default())?;
    if state.cache().is_none() {
        return Err(no_cache("contrastive search"));
    }
    let mut logits = first(&mut *state, &prompts, settings.max_new, device)?;
    let mut said = Directions::new(&hidden(&mut *state)?.f_squeeze_dim(0)?, settings.max_new)?;
    let k = how.top_k.min(logits.size()[1]);
    let mut text = Continuation::default();
    let mut chosen = 0;
    while text.tokens.len() < settings.max_new {
        let adapted = settings.adapted(&logits, prompt, &[&text.tokens])?;
        let (p, tokens) = adapted.f_softmax(-1, Kind::Double)?.f_squeeze_dim(0)?.f_topk(k, 0, true, true)?;
        if !p.f_sum(Kind::Double)?.f_double_value(&[])?.is_finite() {
            return Err(no_candidate());
        }
        let log_p = logits.f_log_softmax(-1, Kind::Float)?;
        let entropy = log_p.f_exp()?.f_special_entr()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        // Every candidate goes on from the one that was chosen last.
        if let Some(cache) = state.cache() {
            cache.select(&vec![chosen; usize::try_from(k).unwrap_or(1)])?;
        }
        let after = state.step(&tokens)?;
        let directions = unit(&hidden(&mut *state)?.f_squeeze_dim(1)?)?;
        let likeness = said.nearest(&directions)?.f_to_kind(Kind::Double)?;
        let score = p.f_mul_scalar(1.0 - how.alpha)?.f_sub(&likeness.f_mul_scalar(how.alpha)?)?;
        let score = score.f_masked_fill(&p.f_eq(0.0)?, f64::NEG_INFINITY)?;
        chosen = score.f_argmax(None, false)?.f_int64_value(&[])?;
        let token = tokens.f_int64_value(&[chosen])?;
        text.log_probs.push(log_p.f_double_value(&[0, token])?);
        text.entropies.push(entropy);
        if settings.eos.contains(&token) {
            text.finish = Finish::Eos;
            break;
        }
        text.tokens.push(token);
        if watch(token)? {
            text.finish = Finish::Stop;
            break;
        }
        said.push(&directions.f_narrow(0, chosen, 1)?)?;
        logits = after.f_narrow(0, chosen, 1)?;
    }
    Ok(text)
}

/// The last layer's output for the tokens absorbed last.
fn hidden(state: &mut dyn Steps) -> Result<Tensor> {
    let found = state.cache().and_then(|cache| cache.hidden());
    found.ok_or_else(|| no_cache("contrastive search"))
}

/// Rows `[N, D]` of length 1.
fn unit(rows: &Tensor) -> Result<Tensor> {
    let rows = if rows.kind() == Kind::Double { rows.shallow_clone() } else { rows.f_to_kind(Kind::Float)? };
    let length = rows.f_norm_scalaropt_dim(2.0, [1i64].as_slice(), true)?;
    Ok(rows.f_div(&length.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)?)
}

/// Unit vectors of all tokens so far, in memory with room for the rest.
struct Directions {
    room: Tensor,
    len: i64,
}

impl Directions {
    fn new(hidden: &Tensor, more: usize) -> Result<Self> {
        let (len, width) = hidden.size2()?;
        let known = unit(hidden)?;
        let room = Tensor::f_zeros([len + more as i64, width], (known.kind(), known.device()))?;
        room.f_narrow(0, 0, len)?.f_copy_(&known)?;
        Ok(Directions { room, len })
    }

    fn push(&mut self, row: &Tensor) -> Result<()> {
        self.room.f_narrow(0, self.len, 1)?.f_copy_(row)?;
        self.len += 1;
        Ok(())
    }

    /// The largest cosine of each of `rows` `[N, D]` with those here, `[N]`.
    fn nearest(&self, rows: &Tensor) -> Result<Tensor> {
        let all = self.room.f_narrow(0, 0, self.len)?;
        Ok(rows.f_matmul(&all.f_transpose(0, 1)?)?.f_amax(1, false)?)
    }
}

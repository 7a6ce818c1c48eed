//! Continuing texts: prompts of different lengths in one batch, stops, penalties, one stream of random numbers each.

use tch::{Device, Kind, Tensor};

use super::choose::Chooser;
use super::mirostat::Mirostat;
use super::penalty::Penalties;
use super::spec::SamplerSpec;
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::net::causal::{Causal, Steps};
use crate::noise::streams::{Rng, Streams};

/// Steps whose random numbers are drawn together. Texts depend on it; it must not change.
const CHUNK: i64 = 64;

/// How texts are continued.
#[derive(Debug, Clone)]
pub struct TextSettings {
    /// The sampler.
    pub sampler: SamplerSpec,
    /// What has been said weighs against saying it again.
    pub penalties: Penalties,
    /// Mirostat in place of all truncation.
    pub mirostat: Option<Mirostat>,
    /// New tokens at most.
    pub max_new: usize,
    /// New tokens before a text may end.
    pub min_new: usize,
    /// Tokens that end a text; they are not part of it.
    pub eos: Vec<i64>,
    /// The generator of the texts' streams.
    pub rng: Rng,
}

impl TextSettings {
    /// Whether the token after `said` new ones is chosen by the model's own logits.
    pub(super) fn is_plain(&self, said: usize) -> bool {
        self.penalties.is_neutral() && said >= self.min_new
    }

    /// What penalties, and an end before its time, make of the logits of the token after `prompt` and `output`.
    pub(super) fn adapt(&self, logits: &mut [f64], prompt: &[i64], output: &[i64]) {
        self.penalties.apply(logits, prompt, output);
        if output.len() < self.min_new {
            for eos in &self.eos {
                if let Some(v) = usize::try_from(*eos).ok().and_then(|i| logits.get_mut(i)) {
                    *v = f64::NEG_INFINITY;
                }
            }
        }
    }

    /// The same for logits `[B, V]` of the texts `outputs` of one prompt; f64 unless nothing changes.
    pub(super) fn adapted(&self, logits: &Tensor, prompt: &[i64], outputs: &[&[i64]]) -> Result<Tensor> {
        if outputs.iter().all(|output| self.is_plain(output.len())) {
            return Ok(logits.shallow_clone());
        }
        let rows = logits.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
        let mut out = Vec::with_capacity(outputs.len());
        for (i, output) in outputs.iter().enumerate() {
            let mut row = Vec::<f64>::try_from(rows.f_get(i as i64)?)?;
            self.adapt(&mut row, prompt, output);
            out.push(Tensor::f_from_slice(&row)?);
        }
        Ok(Tensor::f_stack(&out, 0)?.f_to_device(logits.device())?)
    }

    /// Checks what every way of continuing needs.
    pub(super) fn check(&self, prompts: &[Vec<i64>]) -> Result<()> {
        self.penalties.check()?;
        if prompts.iter().any(Vec::is_empty) || prompts.is_empty() {
            return Err(Error::usage("the prompt is empty").hint("give at least one token"));
        }
        Ok(())
    }
}

/// That no token can be chosen.
pub(super) fn no_candidate() -> Error {
    Error::run("no candidate is left")
        .why("every token has probability 0, or the logits are not finite")
        .hint("loosen the sampler, or try --dtype f32")
}

/// That a way of continuing needs keys and values of every token.
pub(super) fn no_cache(what: &str) -> Error {
    Error::usage(format!("{what} needs a transformer"))
        .why("the model keeps a state of constant size, which cannot go back to an earlier token")
        .hint("leave it out")
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// An end token came.
    Eos,
    /// The caller stopped it.
    Stop,
    /// It has its length.
    #[default]
    Length,
}

/// A continued text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Continuation {
    /// New tokens.
    pub tokens: Vec<i64>,
    /// Their log-probabilities under the model itself, in nats.
    pub log_probs: Vec<f64>,
    /// Entropy of the model's distribution where each was drawn, in nats.
    pub entropies: Vec<f64>,
    /// Why it ended.
    pub finish: Finish,
}

/// The texts of a batch on their way.
struct Batch<'a> {
    prompts: &'a [Vec<i64>],
    settings: &'a TextSettings,
    chooser: Chooser,
    mirostats: Vec<Option<Mirostat>>,
    done: Vec<Option<Continuation>>,
    going: Vec<Continuation>,
}

/// Continues `prompts`, the i-th with random numbers of `seeds[i]`. `watch` sees every new token as (text, token) and
/// may end that text by `true`.
///
/// # Errors
/// Where a prompt is empty, the network fails, a distribution has no candidate left, or `watch` fails.
pub fn continue_texts(
    net: &dyn Causal,
    prompts: &[Vec<i64>],
    seeds: &[u64],
    settings: &TextSettings,
    device: Device,
    watch: &mut dyn FnMut(usize, i64) -> Result<bool>,
) -> Result<Vec<Continuation>> {
    let _no_grad = tch::no_grad_guard();
    settings.check(prompts)?;
    let n = prompts.len();
    let mut batch = Batch {
        prompts,
        settings,
        chooser: Chooser::new(&settings.sampler)?,
        mirostats: vec![settings.mirostat.clone(); n],
        done: vec![None; n],
        going: vec![Continuation::default(); n],
    };
    let mut streams = Streams::new(settings.rng, seeds)?;
    let mut state = net.begin(n as i64, &Cond::default())?;
    let mut logits = first(&mut *state, prompts, settings.max_new, device)?;
    let mut rows: Vec<usize> = (0..n).collect();
    let draws = batch.chooser.draws();
    let mut random = Tensor::new();
    for step in 0..settings.max_new as i64 {
        if step % CHUNK == 0 {
            random = streams.uniform(CHUNK * draws)?.f_view([n as i64, CHUNK, draws])?;
        }
        let index: Vec<i64> = rows.iter().map(|r| *r as i64).collect();
        let u = random.f_select(1, step % CHUNK)?.f_index_select(0, &Tensor::f_from_slice(&index)?)?;
        let tokens = batch.choose(&rows, &logits, &u, step as usize)?;
        let mut stay = Vec::new();
        for (k, (&row, &token)) in rows.iter().zip(&tokens).enumerate() {
            if batch.take(row, token, watch)? {
                stay.push(k);
            }
        }
        if stay.is_empty() || step + 1 == settings.max_new as i64 {
            break;
        }
        if stay.len() < rows.len()
            && let Some(cache) = state.cache()
        {
            let kept: Vec<i64> = stay.iter().map(|k| *k as i64).collect();
            cache.select(&kept)?;
            rows = stay.iter().map(|k| rows[*k]).collect();
        }
        let next: Vec<i64> =
            rows.iter().map(|r| batch.going[*r].tokens.last().copied().unwrap_or(0)).collect();
        logits = state.step(&Tensor::f_from_slice(&next)?.f_to_device(device)?)?;
    }
    Ok(batch.finish())
}

/// Takes the prompts in, shorter ones padded on the left; logits `[B, V]` of what follows.
pub(super) fn first(
    state: &mut dyn Steps,
    prompts: &[Vec<i64>],
    max_new: usize,
    device: Device,
) -> Result<Tensor> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let pads: Vec<i64> = prompts.iter().map(|p| (longest - p.len()) as i64).collect();
    let padded: Vec<i64> = prompts
        .iter()
        .flat_map(|p| std::iter::repeat_n(0, longest - p.len()).chain(p.iter().copied()))
        .collect();
    let tokens = Tensor::f_from_slice(&padded)?.f_view([prompts.len() as i64, longest as i64])?;
    let tokens = tokens.f_to_device(device)?;
    match state.cache() {
        Some(cache) => {
            cache.reserve((longest + max_new) as i64)?;
            cache.prefill_padded(&tokens, &pads)
        }
        None if pads.iter().any(|p| *p > 0) => {
            Err(Error::usage("prompts of different lengths").hint("this model takes them one at a time"))
        }
        None => Ok(state.prefill(&tokens)?.f_select(1, -1)?),
    }
}

impl Batch<'_> {
    /// The next token of each of `rows` from `logits` `[rows, V]`.
    fn choose(&mut self, rows: &[usize], logits: &Tensor, u: &Tensor, step: usize) -> Result<Vec<i64>> {
        let plain = self.settings.is_plain(step) && self.settings.mirostat.is_none();
        let adapted = if plain { logits.shallow_clone() } else { self.adapt(rows, logits)? };
        let u = u.f_to_device(logits.device())?;
        let choice = if plain {
            self.chooser.choose(logits, &u)?
        } else {
            self.chooser.choose_adapted(logits, &adapted, &u)?
        };
        let host = |t: &Tensor| -> Result<Vec<f64>> {
            Ok(Vec::<f64>::try_from(t.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)?)
        };
        let mut tokens: Vec<i64> = Vec::<i64>::try_from(choice.tokens.f_to_device(Device::Cpu)?)?;
        let (mut log_probs, entropies) = (host(&choice.log_probs)?, host(&choice.entropy)?);
        if self.settings.mirostat.is_some() {
            self.steer(rows, logits, &adapted, &host(&u.f_select(1, 0)?)?, (&mut tokens, &mut log_probs))?;
        }
        for (k, &row) in rows.iter().enumerate() {
            if log_probs[k].is_nan() {
                return Err(no_candidate());
            }
            self.going[row].log_probs.push(log_probs[k]);
            self.going[row].entropies.push(entropies[k]);
        }
        Ok(tokens)
    }

    /// The logits after penalties, and without an end before its time.
    fn adapt(&self, rows: &[usize], logits: &Tensor) -> Result<Tensor> {
        let mut out = Vec::with_capacity(rows.len());
        for (k, &row) in rows.iter().enumerate() {
            let z = logits.f_get(k as i64)?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
            let mut z = Vec::<f64>::try_from(z)?;
            self.settings.adapt(&mut z, &self.prompts[row], &self.going[row].tokens);
            out.push(Tensor::f_from_slice(&z)?);
        }
        Ok(Tensor::f_stack(&out, 0)?.f_to_device(logits.device())?)
    }

    /// Mirostat's draws in place of the chooser's.
    fn steer(
        &mut self,
        rows: &[usize],
        logits: &Tensor,
        adapted: &Tensor,
        u: &[f64],
        (tokens, log_probs): (&mut [i64], &mut [f64]),
    ) -> Result<()> {
        let own = logits.f_log_softmax(-1, Kind::Float)?.f_to_device(Device::Cpu)?;
        let t = if self.settings.sampler.temperature > 0.0 { self.settings.sampler.temperature } else { 1.0 };
        let p = adapted.f_div_scalar(t)?.f_softmax(-1, Kind::Double)?.f_to_device(Device::Cpu)?;
        for (k, &row) in rows.iter().enumerate() {
            let Some(mirostat) = &mut self.mirostats[row] else { continue };
            let p = Vec::<f64>::try_from(p.f_get(k as i64)?)?;
            tokens[k] = mirostat.draw(&p, u[k]) as i64;
            log_probs[k] = own.f_double_value(&[k as i64, tokens[k]])?;
        }
        Ok(())
    }

    /// Takes a token into its text; whether the text goes on.
    fn take(
        &mut self,
        row: usize,
        token: i64,
        watch: &mut dyn FnMut(usize, i64) -> Result<bool>,
    ) -> Result<bool> {
        if self.done[row].is_some() {
            return Ok(false);
        }
        let going = &mut self.going[row];
        let finish = if self.settings.eos.contains(&token) {
            Some(Finish::Eos)
        } else {
            going.tokens.push(token);
            watch(row, token)?.then_some(Finish::Stop)
        };
        if let Some(finish) = finish {
            going.finish = finish;
            self.done[row] = Some(going.clone());
        }
        Ok(finish.is_none())
    }

    fn finish(self) -> Vec<Continuation> {
        self.done.into_iter().zip(self.going).map(|(done, going)| done.unwrap_or(going)).collect()
    }
}

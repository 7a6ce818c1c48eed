//! Beam search: the continuations of largest score, of those that a step keeps.
//!
//! The score of a text of n new tokens (its end among them) is the sum of their log-probabilities over `n^penalty`.
//! Every step looks at the `beams (1 + ends)`, at least `2 beams`, likeliest ways to go on: those that end among the
//! first `beams` are finished, the first `beams` that do not end go on. When the search stops is that of transformers.

use clap::ValueEnum;
use tch::{Device, Kind, Tensor};

use super::text::{Continuation, Finish, TextSettings, first, no_cache, no_candidate};
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::net::causal::Causal;

/// When a search stops that has as many finished texts as beams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum EarlyStopping {
    /// At once.
    True,
    /// When the best running beam, were it finished now, would not be better than the worst finished one.
    #[default]
    False,
    /// When it could not be at its best possible length either.
    Never,
}

/// How beams are searched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beams {
    /// Texts that go on at once.
    pub beams: usize,
    /// Exponent of the length: above 0 for longer texts, below for shorter ones.
    pub length_penalty: f64,
    /// When to stop.
    pub early_stopping: EarlyStopping,
}

/// A finished beam.
#[derive(Debug, Clone, PartialEq)]
pub struct Beam {
    /// The text.
    pub text: Continuation,
    /// The sum of its log-probabilities (after penalties) over the power of its length, in nats.
    pub score: f64,
}

/// A text that goes on, and the sum of its log-probabilities after penalties.
#[derive(Debug, Clone, Default)]
struct Running {
    text: Continuation,
    sum: f64,
}

/// A way to go on.
struct Candidate {
    row: usize,
    token: i64,
    sum: f64,
    log_prob: f64,
    entropy: f64,
}

/// The best texts that continue `prompt`, at most `how.beams`, the best first. Of `settings` the sampler, mirostat and
/// the generator are not used. `ends` may end a text, given its new tokens, by `true`.
///
/// # Errors
/// Where the prompt is empty, the network keeps no keys and values, it fails, or `ends` fails.
pub fn search_beams(
    net: &dyn Causal,
    prompt: &[i64],
    how: &Beams,
    settings: &TextSettings,
    device: Device,
    ends: &mut dyn FnMut(&[i64]) -> Result<bool>,
) -> Result<Vec<Beam>> {
    let _no_grad = tch::no_grad_guard();
    let prompts = [prompt.to_vec()];
    settings.check(&prompts)?;
    if how.beams < 1 {
        return Err(Error::usage("a search with no beam"));
    }
    let mut state = net.begin(1, &Cond::default())?;
    if state.cache().is_none() {
        return Err(no_cache("beam search"));
    }
    let mut logits = first(&mut *state, &prompts, settings.max_new, device)?;
    let mut running = vec![Running::default()];
    let mut finished: Vec<Beam> = Vec::new();
    let wide = how.beams * (1 + settings.eos.len()).max(2);
    for length in 1..=settings.max_new {
        let mut next = Vec::new();
        let mut rows = Vec::new();
        for (rank, way) in candidates(&logits, prompt, &running, wide, settings)?.into_iter().enumerate() {
            let mut text = running[way.row].text.clone();
            text.log_probs.push(way.log_prob);
            text.entropies.push(way.entropy);
            let end = if settings.eos.contains(&way.token) {
                Some(Finish::Eos)
            } else {
                text.tokens.push(way.token);
                let stop = ends(&text.tokens)?.then_some(Finish::Stop);
                stop.or((length == settings.max_new).then_some(Finish::Length))
            };
            match end {
                Some(finish) if rank < how.beams => {
                    text.finish = finish;
                    finished.push(Beam { text, score: way.sum / how.weight(length) });
                }
                None if next.len() < how.beams => {
                    next.push(Running { text, sum: way.sum });
                    rows.push(way.row as i64);
                }
                _ => {}
            }
        }
        // A stable order: of equal scores the earlier one stays.
        finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        finished.truncate(how.beams);
        if how.is_over(&finished, next.first(), length, settings.max_new) {
            break;
        }
        running = next;
        if let Some(cache) = state.cache() {
            cache.select(&rows)?;
        }
        let tokens: Vec<i64> = running.iter().filter_map(|r| r.text.tokens.last().copied()).collect();
        logits = state.step(&Tensor::f_from_slice(&tokens)?.f_to_device(device)?)?;
    }
    Ok(finished)
}

impl Beams {
    /// What a sum over `length` tokens is divided by.
    fn weight(&self, length: usize) -> f64 {
        (length as f64).powf(self.length_penalty)
    }

    /// Whether the search stops after `length` tokens, of which `best` has the largest sum of those that go on.
    fn is_over(&self, finished: &[Beam], best: Option<&Running>, length: usize, longest: usize) -> bool {
        let Some(best) = best else { return true };
        if finished.len() < self.beams {
            return false;
        }
        let reach = match self.early_stopping {
            EarlyStopping::True => return true,
            EarlyStopping::Never if self.length_penalty > 0.0 => longest,
            EarlyStopping::Never | EarlyStopping::False => length,
        };
        finished.last().is_some_and(|worst| best.sum / self.weight(reach) <= worst.score)
    }
}

/// The `wide` likeliest ways to go on from logits `[running, V]`, the likeliest first.
fn candidates(
    logits: &Tensor,
    prompt: &[i64],
    running: &[Running],
    wide: usize,
    settings: &TextSettings,
) -> Result<Vec<Candidate>> {
    let log_p = logits.f_log_softmax(-1, Kind::Float)?;
    let entropy = log_p.f_exp()?.f_special_entr()?.f_sum_dim_intlist(-1, false, Kind::Double)?;
    let outputs: Vec<&[i64]> = running.iter().map(|r| r.text.tokens.as_slice()).collect();
    let sums: Vec<f64> = running.iter().map(|r| r.sum).collect();
    let sums = Tensor::f_from_slice(&sums)?.f_to_device(logits.device())?.f_unsqueeze(1)?;
    // Penalties change log-probabilities here, not logits, as transformers has it.
    let total = settings.adapted(&log_p, prompt, &outputs)?.f_to_kind(Kind::Double)?.f_add(&sums)?;
    let count = (wide as i64).min(total.numel() as i64);
    let (top, places) = total.f_view([-1])?.f_topk(count, 0, true, true)?;
    let own = log_p.f_view([-1])?.f_index_select(0, &places)?;
    let host = |t: &Tensor| -> Result<Vec<f64>> {
        Ok(Vec::<f64>::try_from(t.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)?)
    };
    let (top, own, entropy) = (host(&top)?, host(&own)?, host(&entropy)?);
    let places = Vec::<i64>::try_from(places.f_to_device(Device::Cpu)?)?;
    let vocab = log_p.size()[1];
    let ways: Vec<Candidate> = places
        .iter()
        .zip(top.iter().zip(&own))
        .filter(|(_, (sum, _))| sum.is_finite())
        .map(|(place, (sum, own))| {
            let row = (place / vocab) as usize;
            Candidate { row, token: place % vocab, sum: *sum, log_prob: *own, entropy: entropy[row] }
        })
        .collect();
    if ways.is_empty() { Err(no_candidate()) } else { Ok(ways) }
}

//! Speculative decoding (Leviathan et al. 2023, Chen et al. 2023): a small model proposes, the model accepts or not,
//! and what comes out has exactly the model's own distribution.
//!
//! The draft draws x with probability q(x); it stays with probability `min(1, p(x) / q(x))`, else the token is drawn
//! from `max(p - q, 0)`, renormalised. If all stay, one more is drawn from p. Both p and q are what the whole chain of
//! stages makes of the logits.

use tch::{Device, Kind, Tensor};

use super::choose::Chooser;
use super::text::{Continuation, Finish, TextSettings, first, no_cache, no_candidate};
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::net::causal::{Causal, Steps};
use crate::noise::streams::Streams;

/// Random numbers drawn together. Texts depend on it; it must not change.
const CHUNK: i64 = 64;

/// What came of the proposals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Passes of the model.
    pub rounds: usize,
    /// Tokens proposed.
    pub drafted: usize,
    /// Proposed tokens that stayed.
    pub accepted: usize,
}

impl Tally {
    /// Both together.
    #[must_use]
    pub fn with(self, other: Tally) -> Tally {
        Tally {
            rounds: self.rounds + other.rounds,
            drafted: self.drafted + other.drafted,
            accepted: self.accepted + other.accepted,
        }
    }

    /// Share of the proposed tokens that stayed; nothing where none was proposed.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        (self.drafted > 0).then(|| self.accepted as f64 / self.drafted as f64)
    }
}

/// Continues `prompt` with proposals of `draft`, `ahead` tokens at a time, and random numbers of `seed`. `watch` sees
/// every new token and may end the text by `true`. Mirostat, whose state follows every draw, cannot be used.
///
/// # Errors
/// A model error where the vocabularies differ; where the prompt is empty, a network keeps no keys and values or fails,
/// a distribution has no candidate left, or `watch` fails.
pub fn speculate(
    (net, draft): (&dyn Causal, &dyn Causal),
    (prompt, seed): (&[i64], u64),
    ahead: usize,
    settings: &TextSettings,
    device: Device,
    watch: &mut dyn FnMut(i64) -> Result<bool>,
) -> Result<(Continuation, Tally)> {
    let _no_grad = tch::no_grad_guard();
    settings.check(&[prompt.to_vec()])?;
    if net.vocab() != draft.vocab() {
        return Err(Error::model("the draft model has another vocabulary")
            .why(format!("{} tokens, those of the model are {}", draft.vocab(), net.vocab()))
            .hint("take a smaller model of the same family"));
    }
    if settings.mirostat.is_some() {
        return Err(Error::usage("mirostat with a draft model"));
    }
    let mut target = Side::new(net, prompt, settings, device)?;
    let mut small = Side::new(draft, prompt, settings, device)?;
    let mut dice = Dice { streams: Streams::new(settings.rng, &[seed])?, left: Vec::new() };
    let chooser = Chooser::new(&settings.sampler)?;
    let chain = Chain { settings, chooser, prompt };
    let (mut text, mut tally) = (Continuation::default(), Tally::default());
    // Prompt and new tokens.
    let mut all = prompt.to_vec();
    while text.tokens.len() < settings.max_new {
        let said = text.tokens.len();
        let room = ahead.min(settings.max_new - said - 1);
        let mut q = Vec::with_capacity(room);
        while q.len() < room && all.last().is_none_or(|t| q.is_empty() || !settings.eos.contains(t)) {
            let logits = small.absorb(&all)?.f_narrow(0, -1, 1)?;
            let distribution = chain.distributions(&logits, &all, said + q.len(), &mut dice)?.swap_remove(0);
            all.push(draw(&distribution, dice.next()?)?);
            q.push(distribution);
        }
        let drafts = all[prompt.len() + said..].to_vec();
        // The last known token and the proposals: the model's distributions at and after them.
        let logits = target.absorb(&all)?;
        let p = chain.distributions(&logits, &all, said, &mut dice)?;
        let (kept, token) = verify(&p, &q, &drafts, &mut || dice.next())?;
        tally = tally.with(Tally { rounds: 1, drafted: drafts.len(), accepted: kept });
        let new: Vec<i64> = drafts[..kept].iter().copied().chain([token]).collect();
        all.truncate(prompt.len() + said);
        if take(&new, &logits, &mut text, settings, watch)? {
            break;
        }
        all.extend(&new);
        // The newest token is not taken in yet.
        target.back_to(all.len() - 1)?;
        small.back_to(all.len() - 1)?;
    }
    Ok((text, tally))
}

/// Takes new tokens into the text, with what the model's own `logits` `[new.., V]` say of them; whether it is at its
/// end.
fn take(
    new: &[i64],
    logits: &Tensor,
    text: &mut Continuation,
    settings: &TextSettings,
    watch: &mut dyn FnMut(i64) -> Result<bool>,
) -> Result<bool> {
    let log_p = logits.f_log_softmax(-1, Kind::Float)?.f_to_device(Device::Cpu)?;
    let entropy = log_p.f_exp()?.f_special_entr()?.f_sum_dim_intlist(-1, false, Kind::Double)?;
    for (i, &token) in new.iter().enumerate() {
        text.log_probs.push(log_p.f_double_value(&[i as i64, token])?);
        text.entropies.push(entropy.f_double_value(&[i as i64])?);
        if settings.eos.contains(&token) {
            text.finish = Finish::Eos;
            return Ok(true);
        }
        text.tokens.push(token);
        if watch(token)? {
            text.finish = Finish::Stop;
            return Ok(true);
        }
    }
    Ok(false)
}

/// One of the two models on its way through the text.
struct Side<'a> {
    state: Box<dyn Steps + 'a>,
    /// Tokens taken in.
    len: usize,
    device: Device,
}

impl<'a> Side<'a> {
    /// A model that has taken in all of the prompt but its last token.
    fn new(net: &'a dyn Causal, prompt: &[i64], settings: &TextSettings, device: Device) -> Result<Self> {
        let mut state = net.begin(1, &Cond::default())?;
        let len = prompt.len() - 1;
        if state.cache().is_none() {
            return Err(no_cache("speculative decoding"));
        }
        if len > 0 {
            let _ = first(&mut *state, &[prompt[..len].to_vec()], settings.max_new + 1, device)?;
        }
        Ok(Side { state, len, device })
    }

    /// Takes in what it has not of the text `all`; logits `[new tokens, V]`.
    fn absorb(&mut self, all: &[i64]) -> Result<Tensor> {
        let new = Tensor::f_from_slice(&all[self.len..])?.f_to_device(self.device)?;
        self.len = all.len();
        // One token has a faster way of its own.
        if new.size1()? == 1 {
            return self.state.step(&new);
        }
        Ok(self.state.prefill(&new.f_unsqueeze(0)?)?.f_squeeze_dim(0)?)
    }

    fn back_to(&mut self, len: usize) -> Result<()> {
        if let Some(cache) = self.state.cache().filter(|_| len < self.len) {
            cache.truncate(len as i64)?;
            self.len = len;
        }
        Ok(())
    }
}

/// The stream of one text, a number at a time.
struct Dice {
    streams: Streams,
    /// Numbers drawn, in reverse.
    left: Vec<f64>,
}

impl Dice {
    /// The next number in [0, 1).
    fn next(&mut self) -> Result<f64> {
        if self.left.is_empty() {
            let drawn = self.streams.uniform(CHUNK)?.f_view([-1])?.f_to_kind(Kind::Double)?;
            self.left = Vec::<f64>::try_from(drawn)?;
            self.left.reverse();
        }
        Ok(self.left.pop().unwrap_or(0.0))
    }
}

/// What makes probabilities of logits.
struct Chain<'a> {
    settings: &'a TextSettings,
    chooser: Chooser,
    prompt: &'a [i64],
}

impl Chain<'_> {
    /// The distributions that logits `[N, V]` become, the first of them that of the token after the prompt and `said`
    /// tokens of those that follow it in `all`.
    fn distributions(
        &self,
        logits: &Tensor,
        all: &[i64],
        said: usize,
        dice: &mut Dice,
    ) -> Result<Vec<Vec<f64>>> {
        let (n, draws) = (logits.size()[0] as usize, self.chooser.draws());
        let output = &all[self.prompt.len()..];
        let outputs: Vec<&[i64]> = (0..n).map(|i| &output[..said + i]).collect();
        let adapted = self.settings.adapted(logits, self.prompt, &outputs)?;
        // A stage that draws has a number of its own for every distribution.
        let u: Vec<f64> = (0..n as i64 * draws)
            .map(|i| if i % draws == 0 { Ok(0.0) } else { dice.next() })
            .collect::<Result<_>>()?;
        let u = Tensor::f_from_slice(&u)?.f_view([n as i64, draws])?.f_to_device(logits.device())?;
        let all = self.chooser.distribution(&adapted, &u)?.f_to_device(Device::Cpu)?;
        (0..n).map(|i| Ok(Vec::<f64>::try_from(all.f_get(i as i64)?)?)).collect()
    }
}

/// How many of the `drafts`, drawn from `q`, stay under the distributions `p` (one more), and the token after them.
fn verify(
    p: &[Vec<f64>],
    q: &[Vec<f64>],
    drafts: &[i64],
    u: &mut dyn FnMut() -> Result<f64>,
) -> Result<(usize, i64)> {
    for (i, &x) in drafts.iter().enumerate() {
        let x = usize::try_from(x).unwrap_or(usize::MAX);
        let (Some(own), Some(proposed)) = (p[i].get(x), q[i].get(x)) else { return Err(no_candidate()) };
        if u()? * proposed < *own {
            continue;
        }
        let rest: Vec<f64> = p[i].iter().zip(&q[i]).map(|(p, q)| (p - q).max(0.0)).collect();
        // Where rounding alone refused, nothing is left and p is q.
        let rest = if rest.iter().any(|w| *w > 0.0) { &rest } else { &p[i] };
        return Ok((i, draw(rest, u()?)?));
    }
    Ok((drafts.len(), draw(&p[drafts.len()], u()?)?))
}

/// The first token at which the running sum of `weights` exceeds `u` times the whole.
fn draw(weights: &[f64], u: f64) -> Result<i64> {
    let whole: f64 = weights.iter().sum();
    if !(whole > 0.0 && whole.is_finite()) {
        return Err(no_candidate());
    }
    let (mut sum, mut last) = (0.0, 0);
    for (i, w) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        sum += w;
        last = i as i64;
        if sum > u * whole {
            break;
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::rng::SplitMix64;

    const P: [f64; 6] = [0.45, 0.25, 0.15, 0.08, 0.05, 0.02];
    const Q: [f64; 6] = [0.3, 0.3, 0.2, 0.1, 0.05, 0.05];

    #[test]
    fn the_rest_is_where_the_model_gives_more_than_the_draft() {
        // Token 0 alone has p > q.
        for (x, level) in [(1i64, 0.25 / 0.3), (2, 0.75), (3, 0.8), (5, 0.4)] {
            let mut numbers = [level + 1e-9, 0.999].into_iter();
            let got =
                verify(&[P.to_vec(), P.to_vec()], &[Q.to_vec()], &[x], &mut || Ok(numbers.next().unwrap()));
            assert_eq!(got.unwrap(), (0, 0), "token {x} is refused");
            let mut numbers = [level - 1e-9, 0.0].into_iter();
            let got =
                verify(&[P.to_vec(), P.to_vec()], &[Q.to_vec()], &[x], &mut || Ok(numbers.next().unwrap()));
            assert_eq!(got.unwrap(), (1, 0), "token {x} stays");
        }
        // p = q: whatever is drawn stays.
        let got = verify(&[Q.to_vec(), P.to_vec()], &[Q.to_vec()], &[5], &mut || Ok(1.0 - 1e-7)).unwrap();
        assert_eq!(got, (1, 5));
        assert!(draw(&[0.0, 0.0], 0.5).is_err() && draw(&[f64::NAN], 0.5).is_err());
        assert_eq!(draw(&[0.5, 0.5, 0.0], 1.0 - 1e-17).unwrap(), 1);
    }

    #[test]
    fn the_distribution_is_the_models_own_and_as_many_stay_as_theory_says() {
        let (ahead, rounds) = (4, 30_000);
        let mut random = SplitMix64::new(11);
        let mut counts = [0f64; 6];
        let (mut tokens, mut squares, mut first, mut counted) = (0f64, 0f64, 0f64, 0f64);
        for _ in 0..rounds {
            let drafts: Vec<i64> = (0..ahead).map(|_| draw(&Q, random.uniform()).unwrap()).collect();
            let (p, q) = (vec![P.to_vec(); ahead + 1], vec![Q.to_vec(); ahead]);
            let (kept, next) = verify(&p, &q, &drafts, &mut || Ok(random.uniform())).unwrap();
            // As many tokens as there shall be, not as many rounds: how a round ends depends on what was drawn.
            for x in drafts[..kept].iter().chain([&next]) {
                if counted >= 1e5 {
                    break;
                }
                counts[*x as usize] += 1.0;
                counted += 1.0;
            }
            let n = (kept + 1) as f64;
            tokens += n;
            squares += n * n;
            first += f64::from(u8::from(kept > 0));
        }
        assert!((counted - 1e5).abs() < 0.5);
        let chi2: f64 = counts.iter().zip(P).map(|(c, p)| (c - counted * p).powi(2) / (counted * p)).sum();
        // 99.9 % of the chi-square distribution with 5 degrees of freedom lies below 20.515.
        assert!(chi2 < 20.515, "chi-square {chi2}");
        let n = f64::from(rounds);
        let accepted: f64 = P.iter().zip(Q).map(|(p, q)| p.min(q)).sum();
        assert!((accepted - 0.85).abs() < 1e-12);
        assert!(
            (first / n - accepted).abs() < 4.0 * (accepted * (1.0 - accepted) / n).sqrt(),
            "{}",
            first / n
        );
        let mean = tokens / n;
        let error = ((squares / n - mean * mean) / n).sqrt();
        assert!((mean - 3.708_63).abs() < 4.0 * error, "{mean} tokens a round");
    }
}

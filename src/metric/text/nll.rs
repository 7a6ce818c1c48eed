//! Exact negative log-likelihood of texts under a causal network, by a window that slides over them.
//!
//! As Hugging Face's perplexity of models of fixed length: windows of `context` tokens begin every `stride` tokens,
//! and each scores what the ones before it did not. So every token but the first is scored once, from all tokens
//! before it, or, where these are more than the context holds, from at least `context - stride` of them.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::net::causal::Causal;
use crate::net::{Cond, Mode};

/// Logits that are held at once, in numbers; windows of a batch are fewer where they would be more.
const ROOM: usize = 1 << 27;

/// How texts are cut into windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Tokens of a window.
    pub context: usize,
    /// Tokens from the beginning of a window to that of the next.
    pub stride: usize,
    /// Windows computed at once.
    pub batch: usize,
}

/// Tokens to be scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// All tokens.
    pub tokens: Vec<i64>,
    /// The first that is scored; those before it are given. The very first token cannot be scored.
    pub from: usize,
}

impl Passage {
    /// A text of which every token but the first is scored.
    #[must_use]
    pub fn whole(tokens: Vec<i64>) -> Self {
        Passage { tokens, from: 1 }
    }
}

/// What a network says of the scored tokens of a text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Score {
    /// `-ln p` of each in nats (its surprisal).
    pub nats: Vec<f64>,
    /// Entropy of the distribution that each was predicted by, in nats.
    pub entropies: Vec<f64>,
}

/// A window over text `text`: tokens `begin..end`, scored from `from` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    text: usize,
    begin: usize,
    from: usize,
    end: usize,
}

impl Plan {
    /// Checks the numbers.
    ///
    /// # Errors
    /// A usage error where a window cannot predict anything, or leaves tokens out.
    pub fn check(&self) -> Result<()> {
        if self.context < 2 {
            return Err(Error::usage(format!("a window of {} tokens", self.context))
                .at("--context")
                .why("one token is predicted from another: it takes two"));
        }
        if self.stride == 0 || self.stride >= self.context {
            return Err(Error::usage(format!("stride {}", self.stride))
                .at("--stride")
                .why(format!("it must be from 1 to {}, one less than the context", self.context - 1))
                .hint("the smaller it is, the more tokens are before each one, and the longer it takes"));
        }
        Ok(())
    }

    fn windows(&self, text: usize, passage: &Passage) -> Vec<Window> {
        let (n, first) = (passage.tokens.len(), passage.from.max(1));
        let (mut out, mut begin, mut scored) = (Vec::new(), 0, 0);
        while scored < n {
            let end = (begin + self.context).min(n);
            let from = first.max(scored);
            if from < end {
                out.push(Window { text, begin, from, end });
            }
            (scored, begin) = (end, begin + self.stride);
        }
        out
    }
}

/// Scores `passages`; `progress` sees windows done and windows in all.
///
/// # Errors
/// Where the plan makes no windows, a token is none of the network's, or the network fails.
pub fn score(
    net: &dyn Causal,
    passages: &[Passage],
    plan: Plan,
    device: Device,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Vec<Score>> {
    let _no_grad = tch::no_grad_guard();
    plan.check()?;
    let vocab = net.vocab();
    if let Some(token) = passages.iter().flat_map(|p| &p.tokens).find(|t| !(0..vocab).contains(t)) {
        return Err(Error::data(format!("token {token}"))
            .why(format!("the model has those from 0 to {}", vocab - 1))
            .hint("the text must be tokenized as the model was trained"));
    }
    let mut windows: Vec<Window> =
        passages.iter().enumerate().flat_map(|(i, p)| plan.windows(i, p)).collect();
    // Windows of one length need no padding. The order within a text stays.
    windows.sort_by_key(|w| w.end - w.begin);
    let longest = windows.last().map_or(1, |w| w.end - w.begin);
    let fits = ROOM / (longest * usize::try_from(vocab).unwrap_or(usize::MAX)).max(1);
    let batch = plan.batch.min(fits).max(1);
    let mut parts: Vec<Vec<(usize, Score)>> = vec![Vec::new(); passages.len()];
    let mut done = 0;
    for chunk in windows.chunks(batch) {
        for (window, part) in chunk.iter().zip(one_batch(net, passages, chunk, device)?) {
            parts[window.text].push((window.from, part));
        }
        done += chunk.len();
        progress(done, windows.len())?;
    }
    Ok(parts.into_iter().map(joined).collect())
}

/// The parts of a text in their order.
fn joined(mut parts: Vec<(usize, Score)>) -> Score {
    parts.sort_by_key(|(from, _)| *from);
    let mut all = Score::default();
    for (_, part) in parts {
        all.nats.extend(part.nats);
        all.entropies.extend(part.entropies);
    }
    all
}

/// Scores windows, filled up on the right to one length (which a causal network does not see).
fn one_batch(
    net: &dyn Causal,
    passages: &[Passage],
    windows: &[Window],
    device: Device,
) -> Result<Vec<Score>> {
    let longest = windows.iter().map(|w| w.end - w.begin).max().unwrap_or(2);
    let stride = usize::try_from(net.stride()).unwrap_or(1).max(1);
    // The last token predicts nothing that is asked for.
    let width = (longest - 1).div_ceil(stride) * stride;
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for w in windows {
        let text = &passages[w.text].tokens[w.begin..w.end];
        let fill = std::iter::repeat_n(0, width + 1 - text.len());
        inputs.extend(text[..text.len() - 1].iter().copied().chain(fill.clone()));
        targets.extend(text[1..].iter().copied().chain(fill));
    }
    let shape = [windows.len() as i64, width as i64];
    let tensor =
        |v: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(v)?.f_view(shape)?.f_to_device(device)?) };
    let logits = net.logits(&tensor(&inputs)?, &Cond::default(), Mode::Eval)?;
    // The output at place i is about the token at i + 1. Before the first that is scored nothing is needed.
    let first = windows.iter().map(|w| w.from - w.begin).min().unwrap_or(1) - 1;
    let count = longest - 1 - first;
    let narrow = |t: &Tensor| -> Result<Tensor> { Ok(t.f_narrow(1, first as i64, count as i64)?) };
    let kind = if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let log_p = narrow(&logits)?.f_log_softmax(-1, kind)?;
    let wanted = narrow(&tensor(&targets)?)?.f_unsqueeze(-1)?;
    let nats = log_p.f_gather(-1, &wanted, false)?.f_squeeze_dim(-1)?.f_neg()?;
    let entropy = log_p.f_exp()?.f_special_entr()?.f_sum_dim_intlist(-1, false, kind)?;
    let host = |t: &Tensor| -> Result<Vec<f64>> {
        let flat = t.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?.f_reshape([-1])?;
        Ok(Vec::<f64>::try_from(flat)?)
    };
    let (nats, entropies) = (host(&nats)?, host(&entropy)?);
    let cut = |values: &[f64], row: usize, w: &Window| -> Vec<f64> {
        let place = |token: usize| row * count + token - w.begin - 1 - first;
        values[place(w.from)..place(w.end)].to_vec()
    };
    Ok(windows
        .iter()
        .enumerate()
        .map(|(row, w)| Score { nats: cut(&nats, row, w), entropies: cut(&entropies, row, w) })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::lm::{Lm, LmConfig};
    use crate::net::store::Store;

    const CONTEXT: usize = 12;

    fn net() -> Lm {
        let config = LmConfig {
            vocab: 11,
            context: CONTEXT as i64,
            width: 16,
            depth: 2,
            heads: 2,
            dropout: 0.0,
            ..LmConfig::default()
        };
        let store = Store::new(Device::Cpu, Kind::Double, 3);
        let net = Lm::new(&store.root(), &config, CONTEXT as i64).unwrap();
        // First values say almost nothing: larger ones make every token count.
        let _no_grad = tch::no_grad_guard();
        for (_, mut value) in store.named() {
            let _ = value.g_mul_scalar_(8.0);
        }
        net
    }

    fn text(n: usize) -> Vec<i64> {
        (0..n as i64).map(|i| (i * i * 7 + 3 * i + 5) % 11).collect()
    }

    /// Surprisal and entropy of `text[at]` after exactly `text[begin..at]`, one token after another.
    fn brute(net: &Lm, text: &[i64], begin: usize, at: usize) -> (f64, f64) {
        let mut state = net.begin(1, &Cond::default()).unwrap();
        let mut logits = Tensor::new();
        for token in &text[begin..at] {
            logits = state.step(&Tensor::from_slice(&[*token])).unwrap();
        }
        let z = Vec::<f64>::try_from(logits.view(-1)).unwrap();
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        let entropy = z.iter().map(|z| -(z.exp() / sum) * (z.exp() / sum).ln()).sum();
        (sum.ln() - z[text[at] as usize], entropy)
    }

    fn run(net: &Lm, passages: &[Passage], stride: usize, batch: usize) -> Vec<Score> {
        let plan = Plan { context: CONTEXT, stride, batch };
        score(net, passages, plan, Device::Cpu, &mut |_, _| Ok(())).unwrap()
    }

    #[test]
    fn windows_give_what_steps_give() {
        let (net, text) = (net(), text(40));
        for stride in [1, 4, 5, CONTEXT - 1] {
            let got = &run(&net, &[Passage::whole(text.clone())], stride, 3)[0];
            assert_eq!(got.nats.len(), 39);
            for at in 1..40 {
                // Windows begin at multiples of the stride; the first that reaches a token scores it.
                let begin = if at < CONTEXT { 0 } else { (at - CONTEXT) / stride * stride + stride };
                assert!(at - begin >= (CONTEXT - stride).min(at));
                let (nats, entropy) = brute(&net, &text, begin, at);
                let (a, b) = (got.nats[at - 1], got.entropies[at - 1]);
                assert!((a - nats).abs() < 1e-9 && (b - entropy).abs() < 1e-9, "{stride} {at}: {a} {nats}");
            }
            // It is a test only if tokens differ.
            assert!(got.nats.iter().any(|v| (v - 11f64.ln()).abs() > 0.5));
        }
    }

    #[test]
    fn texts_of_a_batch_do_not_see_each_other_and_given_tokens_are_not_scored() {
        let net = net();
        let texts = [text(30), text(5), text(1), Vec::new(), text(13)];
        let mut passages: Vec<Passage> = texts.iter().cloned().map(Passage::whole).collect();
        passages.push(Passage { tokens: text(20), from: 15 });
        let together = run(&net, &passages, 6, 4);
        for (one, want) in passages.iter().zip(&together) {
            let alone = &run(&net, std::slice::from_ref(one), 6, 1)[0];
            assert_eq!(want.nats.len(), one.tokens.len().saturating_sub(one.from));
            for (a, b) in alone.nats.iter().zip(&want.nats) {
                assert!((a - b).abs() < 1e-9);
            }
        }
        let whole = run(&net, &[Passage::whole(text(20))], 6, 1);
        let gap = whole[0].nats[14..].iter().zip(&together[5].nats).map(|(a, b)| (a - b).abs());
        assert!(gap.fold(0.0, f64::max) < 1e-9);
    }

    #[test]
    fn wrong_numbers_are_refused() {
        let net = net();
        let refused = |plan: Plan, tokens: Vec<i64>| {
            let all = [Passage::whole(tokens)];
            score(&net, &all, plan, Device::Cpu, &mut |_, _| Ok(())).unwrap_err().kind().exit_code()
        };
        let plan = Plan { context: CONTEXT, stride: 4, batch: 1 };
        assert_eq!(refused(Plan { context: 1, ..plan }, text(4)), 2);
        assert_eq!(refused(Plan { stride: 0, ..plan }, text(4)), 2);
        assert_eq!(refused(Plan { stride: CONTEXT, ..plan }, text(4)), 2);
        assert_eq!(refused(plan, vec![1, 11]), 3);
    }
}

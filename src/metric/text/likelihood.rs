//! Figures of likelihood from the scores of texts.

use serde::Serialize;

use super::nll::Score;

/// How well a network predicts texts. All of it is exact: no bound, no sampling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Likelihood {
    /// Scored tokens.
    pub tokens: usize,
    /// Texts with at least one scored token.
    pub texts: usize,
    /// `-ln p` of a token, mean over all scored tokens: the mean surprisal.
    pub nats_per_token: f64,
    /// `exp` of it.
    pub perplexity: f64,
    /// The mean over texts of each text's own perplexity.
    pub perplexity_of_texts: f64,
    /// Entropy of the distributions that tokens were predicted by, in nats, mean over tokens.
    pub mean_entropy: f64,
    /// `|surprisal - entropy|` in nats, mean over tokens: how untypical they are (Meister et al. 2023).
    pub untypical: f64,
}

/// The figures of `scores`; nothing where no token was scored.
#[must_use]
pub fn likelihood(scores: &[Score]) -> Option<Likelihood> {
    let scored: Vec<&Score> = scores.iter().filter(|s| !s.nats.is_empty()).collect();
    let tokens: usize = scored.iter().map(|s| s.nats.len()).sum();
    if tokens == 0 {
        return None;
    }
    let per_token = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        let each = scored.iter().flat_map(|s| s.nats.iter().zip(&s.entropies));
        each.map(|(nats, entropy)| f(*nats, *entropy)).sum::<f64>() / tokens as f64
    };
    let nats = per_token(&|nats, _| nats);
    let own = |s: &Score| (s.nats.iter().sum::<f64>() / s.nats.len() as f64).exp();
    Some(Likelihood {
        tokens,
        texts: scored.len(),
        nats_per_token: nats,
        perplexity: nats.exp(),
        perplexity_of_texts: scored.iter().map(|s| own(s)).sum::<f64>() / scored.len() as f64,
        mean_entropy: per_token(&|_, entropy| entropy),
        untypical: per_token(&|nats, entropy| (nats - entropy).abs()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_tokens_and_over_texts() {
        let score =
            |nats: &[f64], entropies: &[f64]| Score { nats: nats.into(), entropies: entropies.into() };
        let scores = [score(&[1.0, 3.0], &[2.0, 2.0]), score(&[], &[]), score(&[0.5], &[1.0])];
        let got = likelihood(&scores).unwrap();
        assert_eq!((got.tokens, got.texts, got.nats_per_token), (3, 2, 1.5));
        assert!((got.perplexity - 1.5f64.exp()).abs() < 1e-12);
        assert!((got.perplexity_of_texts - (2f64.exp() + 0.5f64.exp()) / 2.0).abs() < 1e-12);
        assert!((got.mean_entropy - 5.0 / 3.0).abs() < 1e-12 && (got.untypical - 2.5 / 3.0).abs() < 1e-12);
        assert_eq!(likelihood(&scores[1..2]), None);
    }
}

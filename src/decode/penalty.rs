//! What has been said weighs against saying it again: penalties on logits by the tokens before.
//!
//! They work on one sequence on the host: `logits` `[V]` f64 and the tokens of prompt and output so far.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Penalties; neutral by default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Penalties {
    /// Positive logits of tokens that occurred are divided by it, negative ones multiplied (Keskar et al. 2019); 1 is
    /// off.
    pub repetition_penalty: f64,
    /// Taken from the logit for every occurrence.
    pub frequency_penalty: f64,
    /// Taken from the logit of whatever occurred.
    pub presence_penalty: f64,
    /// Only the last so many tokens count; nothing for all.
    pub last_n: Option<usize>,
    /// Whether the prompt counts.
    pub count_prompt: bool,
    /// No sequence of so many tokens occurs twice; 0 is off.
    pub no_repeat_ngram_size: usize,
    /// Strength of DRY; 0 is off.
    pub dry_multiplier: f64,
    /// How DRY grows with the length of the repetition.
    pub dry_base: f64,
    /// Repetitions shorter than this are free.
    pub dry_allowed_length: usize,
    /// Tokens over which DRY's repetitions do not reach.
    pub dry_breakers: Vec<i64>,
}

impl Default for Penalties {
    fn default() -> Self {
        Penalties {
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            last_n: None,
            count_prompt: true,
            no_repeat_ngram_size: 0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_breakers: Vec::new(),
        }
    }
}

impl Penalties {
    /// Whether there is anything to do.
    #[must_use]
    pub fn is_neutral(&self) -> bool {
        self.repetition_penalty == 1.0
            && self.frequency_penalty == 0.0
            && self.presence_penalty == 0.0
            && self.no_repeat_ngram_size == 0
            && self.dry_multiplier == 0.0
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// A usage error that names the flag.
    pub fn check(&self) -> Result<()> {
        let rows = [
            ("repetition-penalty", self.repetition_penalty, self.repetition_penalty > 0.0, "above 0"),
            ("frequency-penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), "a number"),
            ("presence-penalty", self.presence_penalty, self.presence_penalty.is_finite(), "a number"),
            ("dry-multiplier", self.dry_multiplier, self.dry_multiplier >= 0.0, "at least 0"),
            ("dry-base", self.dry_base, self.dry_base >= 1.0, "at least 1"),
        ];
        match rows.iter().find(|row| !row.2) {
            Some((flag, value, _, range)) => {
                Err(Error::usage(format!("{flag} must be {range}, got {value}")).at(format!("--{flag}")))
            }
            None => Ok(()),
        }
    }

    /// Changes `logits` by what `prompt` and `output` say.
    pub fn apply(&self, logits: &mut [f64], prompt: &[i64], output: &[i64]) {
        let all: Vec<i64> = prompt.iter().chain(output).copied().collect();
        let counted = if self.count_prompt { &all[..] } else { output };
        let counted = &counted[counted.len().saturating_sub(self.last_n.unwrap_or(usize::MAX))..];
        self.occurrences(logits, counted);
        for token in self.banned(&all) {
            if let Some(z) = at(logits, token) {
                *z = f64::NEG_INFINITY;
            }
        }
        for (token, n) in self.repetitions(&all) {
            if let Some(z) = at(logits, token) {
                let over = i32::try_from(n - self.dry_allowed_length).unwrap_or(i32::MAX);
                // The power must not become infinite: an infinite penalty times 0 is no number.
                *z -= self.dry_multiplier * self.dry_base.powi(over).min(1e30);
            }
        }
    }

    fn occurrences(&self, logits: &mut [f64], tokens: &[i64]) {
        let mut counts: HashMap<i64, f64> = HashMap::new();
        for token in tokens {
            *counts.entry(*token).or_default() += 1.0;
        }
        for (token, count) in counts {
            let Some(z) = at(logits, token) else { continue };
            *z = if *z > 0.0 { *z / self.repetition_penalty } else { *z * self.repetition_penalty };
            *z -= count * self.frequency_penalty + self.presence_penalty;
        }
    }

    /// Tokens that would complete a sequence of `no_repeat_ngram_size` that occurred.
    fn banned(&self, tokens: &[i64]) -> HashSet<i64> {
        let n = self.no_repeat_ngram_size;
        if n == 0 || tokens.len() + 1 < n {
            return HashSet::new();
        }
        let tail = &tokens[tokens.len() + 1 - n..];
        tokens.windows(n).filter(|w| w[..n - 1] == *tail).map(|w| w[n - 1]).collect()
    }

    /// For each token the longest suffix that it would continue as before, where that is not free.
    fn repetitions(&self, tokens: &[i64]) -> HashMap<i64, usize> {
        let mut found: HashMap<i64, usize> = HashMap::new();
        if self.dry_multiplier == 0.0 || tokens.is_empty() {
            return found;
        }
        let breaks = |token: i64| self.dry_breakers.contains(&token);
        let end = tokens.len();
        for next in 1..end {
            // How far back the tokens before `next` agree with the last ones.
            let same = (0..next)
                .take_while(|i| {
                    let (a, b) = (tokens[next - 1 - i], tokens[end - 1 - i]);
                    a == b && !breaks(a)
                })
                .count();
            if same >= self.dry_allowed_length.max(1) && !breaks(tokens[next]) {
                let longest = found.entry(tokens[next]).or_default();
                *longest = same.max(*longest);
            }
        }
        found
    }
}

fn at(logits: &mut [f64], token: i64) -> Option<&mut f64> {
    logits.get_mut(usize::try_from(token).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_counts_once_and_frequency_every_time() {
        let mut z = [2.0, -1.0, 0.5];
        let penalties = Penalties { repetition_penalty: 1.2, ..Penalties::default() };
        penalties.apply(&mut z, &[0, 1], &[0, 0]);
        assert!((z[0] - 1.666_666_67).abs() < 1e-8 && (z[1] + 1.2).abs() < 1e-12 && z[2] == 0.5);
        let mut z = [2.0, -1.0, 0.5];
        let penalties = Penalties { frequency_penalty: 0.1, presence_penalty: 1.0, ..Penalties::default() };
        penalties.apply(&mut z, &[0, 1], &[0, 0]);
        assert!((z[0] - 0.7).abs() < 1e-12 && (z[1] + 2.1).abs() < 1e-12 && z[2] == 0.5);
        let mut z = [2.0, -1.0, 0.5];
        Penalties { count_prompt: false, ..penalties.clone() }.apply(&mut z, &[0, 1], &[2]);
        assert_eq!((z[0], z[1]), (2.0, -1.0));
        let mut z = [2.0, -1.0, 0.5];
        Penalties { last_n: Some(1), ..penalties }.apply(&mut z, &[0, 1], &[2]);
        assert_eq!((z[0], z[1]), (2.0, -1.0));
    }

    #[test]
    fn ngrams_do_not_repeat() {
        let mut z = [0.0; 5];
        let penalties = Penalties { no_repeat_ngram_size: 3, ..Penalties::default() };
        penalties.apply(&mut z, &[1, 2, 3, 1], &[2]);
        assert_eq!(z, [0.0, 0.0, 0.0, f64::NEG_INFINITY, 0.0]);
        let mut z = [0.0; 5];
        Penalties { no_repeat_ngram_size: 1, ..Penalties::default() }.apply(&mut z, &[1], &[4]);
        assert_eq!(z.map(f64::is_finite), [true, false, true, true, false]);
    }

    #[test]
    fn dry_grows_with_the_repetition() {
        let penalties = Penalties { dry_multiplier: 0.8, ..Penalties::default() };
        for (n, want) in [(1, 0.0), (2, 0.8), (3, 1.4), (4, 2.45), (5, 4.2875)] {
            let run: Vec<i64> = (1..=n).collect();
            // The run, its continuation 9, something else, the run again: 9 would continue it.
            let tokens: Vec<i64> = run.iter().copied().chain([9, 0]).chain(run.iter().copied()).collect();
            let mut z = [0.0; 10];
            penalties.apply(&mut z, &tokens, &[]);
            assert!((z[9] + want).abs() < 1e-12, "{n}: {}", z[9]);
            assert!(z[..9].iter().all(|v| *v == 0.0));
        }
        let mut z = [0.0; 10];
        let broken = Penalties { dry_breakers: vec![2], ..penalties };
        broken.apply(&mut z, &[1, 2, 3, 9, 0, 1, 2, 3], &[]);
        assert_eq!(z[9], 0.0, "the match of length 1 behind the breaker is free");
    }

    #[test]
    fn ranges_are_checked() {
        let wrong = Penalties { dry_base: 0.5, ..Penalties::default() };
        assert!(wrong.check().unwrap_err().to_string().contains("dry-base must be at least 1, got 0.5"));
        assert!(Penalties::default().check().is_ok() && Penalties::default().is_neutral());
    }
}

//! Which shares of the least and the most likely samples are best put aside (Goel et al. 2022, "It's raw!").
//!
//! Samples sorted by growing likelihood are divided into two random halves that keep the order. The shares are
//! searched on one half by its Inception Score; what they are worth is the score of the other half.

use serde::Serialize;

use super::scores::{Probabilities, is_published, is_standard};
use crate::error::{Error, Result};
use crate::metric::numpy_rng::RandomState;

/// Fewest samples that are divided.
pub const FEWEST: usize = 40;

/// Shares of the least likely that are tried, in percent.
const LOW: [usize; 5] = [0, 10, 20, 30, 40];
/// Where the most likely begin, in percent: the published values, and nothing put aside.
const UPPER: [usize; 9] = [60, 65, 70, 75, 80, 85, 90, 95, 100];

/// Inception Scores of some samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// Number of samples.
    pub n: usize,
    /// Inception Score.
    #[serde(rename = "is")]
    pub inception_score: f64,
    /// Inception Score of the published script.
    pub is_ref: f64,
}

impl Scores {
    fn of(p: &Probabilities) -> Result<Self> {
        Ok(Scores { n: p.len(), inception_score: is_standard(p), is_ref: is_published(p)? })
    }
}

/// The shares that were found, and what they are worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tuned {
    /// Share of the least likely samples that is put aside.
    pub low: f64,
    /// Share of the most likely ones.
    pub high: f64,
    /// The half they were searched on, after rejection.
    pub tune: Scores,
    /// The other half, after rejection: the figure to report.
    pub test: Scores,
    /// The other half as it is.
    pub test_all: Scores,
}

/// Positions `floor(low n) .. floor(upper n)` of `n` samples, shares in percent.
fn range(n: usize, low: usize, upper: usize) -> std::ops::Range<usize> {
    n * low / 100..n * upper / 100
}

/// Searches the shares for samples sorted by growing likelihood, whose class probabilities are the rows of `p`. Among
/// equally good pairs the one that keeps the most.
///
/// # Errors
/// A usage error for fewer than [`FEWEST`] samples.
#[allow(clippy::cast_precision_loss)]
pub fn tune(p: &Probabilities, seed: u32) -> Result<Tuned> {
    let n = p.len();
    if n < FEWEST {
        return Err(Error::usage(format!("rejection is tuned on at least {FEWEST} samples"))
            .why(format!("there are {n}"))
            .hint("draw more, or give the shares, such as 0.40,0.05"));
    }
    let order = RandomState::new(seed).permutation(n);
    let half = |part: &[usize]| {
        let mut index = part.to_vec();
        index.sort_unstable();
        p.take(&index)
    };
    let (a, b) = (half(&order[..n / 2]), half(&order[n / 2..]));
    let cut = |p: &Probabilities, low, upper| {
        let index: Vec<usize> = range(p.len(), low, upper).collect();
        p.take(&index)
    };
    let mut best = (f64::NEG_INFINITY, 0, 100);
    for low in LOW {
        for upper in UPPER.into_iter().rev() {
            let score = is_standard(&cut(&a, low, upper));
            if score > best.0 {
                best = (score, low, upper);
            }
        }
    }
    let (_, low, upper) = best;
    Ok(Tuned {
        low: low as f64 / 100.0,
        high: (100 - upper) as f64 / 100.0,
        tune: Scores::of(&cut(&a, low, upper))?,
        test: Scores::of(&cut(&b, low, upper))?,
        test_all: Scores::of(&b)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Kind, Tensor};

    /// Sure samples of ten classes between shares of samples that are of any class.
    fn samples(n: usize, noise: std::ops::Range<usize>, top: usize) -> Probabilities {
        let rows = Tensor::full([n as i64, 10], 0.1, (Kind::Double, tch::Device::Cpu));
        for i in (0..n).filter(|i| !noise.contains(i) && *i < top) {
            let _ = rows.get(i as i64).fill_(0.01).get((i % 10) as i64).fill_(0.91);
        }
        Probabilities::of(&rows).unwrap()
    }

    #[test]
    fn what_is_unlike_speech_is_put_aside() {
        let tuned = tune(&samples(4000, 0..1200, 3600), 0).unwrap();
        // 30 % and 10 % are bad; where the halves end is left to chance.
        assert!(tuned.low >= 0.3 && tuned.high >= 0.1, "{tuned:?}");
        assert_eq!(tuned.test_all.n, 2000);
        assert!(tuned.test.inception_score > 5.5 && tuned.test_all.inception_score < 3.5, "{tuned:?}");
        // Where all are good, all are kept.
        let tuned = tune(&samples(4000, 0..0, 4000), 0).unwrap();
        assert!(tuned.low <= 0.4 && tuned.test.inception_score > 6.0);
    }

    #[test]
    fn a_search_is_a_search() {
        // The published script always ended at (0.4, 0.95).
        let tuned = tune(&samples(2000, 0..200, 2000), 3).unwrap();
        assert!(tuned.low >= 0.1 && tuned.low < 0.4, "{tuned:?}");
    }

    #[test]
    fn few_samples_are_refused() {
        let error = tune(&samples(39, 0..4, 39), 0).unwrap_err();
        assert!(error.to_string().contains("39"), "{error}");
        assert!(tune(&samples(40, 0..4, 40), 0).is_ok());
    }
}

//! Counts of tokens and of sequences of tokens.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

/// What tokens alone say of a set of texts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextStats {
    /// Number of texts.
    pub texts: usize,
    /// Number of tokens.
    pub tokens: usize,
    /// Mean number of tokens of a text.
    pub mean_length: f64,
    /// Share of repeated 2-grams, mean over texts: `1 - distinct/all` (Welleck et al. 2020).
    pub rep_2: f64,
    /// The same of 3-grams.
    pub rep_3: f64,
    /// The same of 4-grams.
    pub rep_4: f64,
    /// `(1 - rep_2) (1 - rep_3) (1 - rep_4)`, mean over texts (Su et al. 2022).
    pub diversity: f64,
    /// Distinct 1-grams of all texts over their number (Li et al. 2016).
    pub distinct_1: f64,
    /// The same of 2-grams.
    pub distinct_2: f64,
    /// The same of 3-grams.
    pub distinct_3: f64,
    /// The same of 4-grams.
    pub distinct_4: f64,
    /// Minus the slope of log frequency over log rank of all token types (least squares).
    pub zipf: f64,
    /// Entropy of the distribution of tokens over all texts, in bits.
    pub entropy_bits: f64,
}

/// Share of repeated n-grams; nothing where a text has none.
#[must_use]
pub fn rep(tokens: &[i64], n: usize) -> Option<f64> {
    let all = tokens.len().checked_sub(n).map(|k| k + 1).filter(|k| *k > 0 && n > 0)?;
    let distinct: HashSet<&[i64]> = tokens.windows(n).collect();
    Some(1.0 - distinct.len() as f64 / all as f64)
}

/// Distinct n-grams over n-grams, of all texts together.
#[must_use]
pub fn distinct(texts: &[Vec<i64>], n: usize) -> f64 {
    let mut seen: HashSet<&[i64]> = HashSet::new();
    let mut all = 0usize;
    for text in texts {
        for gram in text.windows(n) {
            seen.insert(gram);
            all += 1;
        }
    }
    seen.len() as f64 / all.max(1) as f64
}

/// Zipf's coefficient of frequencies: minus the least-squares slope of `ln frequency` over `ln rank`.
#[must_use]
pub fn zipf(frequencies: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = frequencies.iter().copied().filter(|f| *f > 0.0).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let points: Vec<(f64, f64)> =
        sorted.iter().enumerate().map(|(i, f)| ((i as f64 + 1.0).ln(), f.ln())).collect();
    let n = points.len() as f64;
    let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let cov: f64 = points.iter().map(|(x, y)| (x - mx) * (y - my)).sum();
    let var: f64 = points.iter().map(|(x, _)| (x - mx).powi(2)).sum();
    // One type has no slope.
    if var == 0.0 { 0.0 } else { -cov / var }
}

/// All counts of `texts`. A text too short for an n-gram counts as one without repetition.
#[must_use]
pub fn text_stats(texts: &[Vec<i64>]) -> TextStats {
    let mean =
        |f: &dyn Fn(&[i64]) -> f64| texts.iter().map(|t| f(t)).sum::<f64>() / texts.len().max(1) as f64;
    let one = |t: &[i64], n| rep(t, n).unwrap_or(0.0);
    let mut counts: HashMap<i64, f64> = HashMap::new();
    for token in texts.iter().flatten() {
        *counts.entry(*token).or_default() += 1.0;
    }
    let frequencies: Vec<f64> = counts.values().copied().collect();
    let total: f64 = frequencies.iter().sum();
    TextStats {
        texts: texts.len(),
        tokens: texts.iter().map(Vec::len).sum(),
        mean_length: mean(&|t| t.len() as f64),
        rep_2: mean(&|t| one(t, 2)),
        rep_3: mean(&|t| one(t, 3)),
        rep_4: mean(&|t| one(t, 4)),
        diversity: mean(&|t| (2..=4).map(|n| 1.0 - one(t, n)).product()),
        distinct_1: distinct(texts, 1),
        distinct_2: distinct(texts, 2),
        distinct_3: distinct(texts, 3),
        distinct_4: distinct(texts, 4),
        zipf: zipf(&frequencies),
        entropy_bits: frequencies.iter().map(|f| -(f / total) * (f / total).log2()).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_of_a_known_text() {
        let stats = text_stats(&[vec![1, 2, 3, 1, 2, 3, 1, 2, 3, 4]]);
        for (got, want) in [
            (stats.rep_2, 0.555_556),
            (stats.rep_3, 0.5),
            (stats.rep_4, 0.428_571),
            (stats.diversity, 0.126_984),
            (stats.distinct_1, 0.4),
            (stats.distinct_2, 4.0 / 9.0),
            (stats.distinct_3, 0.5),
            (stats.distinct_4, 4.0 / 7.0),
            (stats.mean_length, 10.0),
        ] {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        let p = [0.3f64, 0.3, 0.3, 0.1];
        let entropy: f64 = p.iter().map(|p| -p * p.log2()).sum();
        assert!((stats.entropy_bits - entropy).abs() < 1e-12);
        assert_eq!((rep(&[1], 2), rep(&[], 1)), (None, None));
    }

    #[test]
    fn zipf_of_a_power_law() {
        let law: Vec<f64> = (1..=1000).map(|r| 1e6 / f64::from(r)).collect();
        assert!((zipf(&law) - 1.0).abs() < 1e-12);
        assert_eq!(zipf(&[5.0]), 0.0);
    }
}

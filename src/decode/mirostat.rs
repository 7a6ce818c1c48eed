//! Mirostat: truncation that steers the surprise of the text to a target (Basu et al. 2021, "Mirostat: a neural text
//! decoding algorithm that directly controls perplexity").
//!
//! It works on one sequence on the host and keeps a state, so it stands in for all other truncation.

use crate::error::{Error, Result};

/// Sorted probabilities from which version 1 estimates Zipf's exponent.
const ESTIMATE: usize = 100;

/// Settings and state of one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirostat {
    version: u8,
    /// Target surprise in bits.
    tau: f64,
    /// Learning rate.
    eta: f64,
    /// Largest surprise of a candidate, in bits.
    mu: f64,
}

impl Mirostat {
    /// Version 1 or 2, at its start.
    ///
    /// # Errors
    /// A usage error where the version or a value is out of range.
    pub fn new(version: u8, tau: f64, eta: f64) -> Result<Self> {
        if !matches!(version, 1 | 2) {
            return Err(Error::usage(format!("mirostat must be 1 or 2, got {version}")).at("--mirostat"));
        }
        for (flag, value) in [("mirostat-tau", tau), ("mirostat-eta", eta)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(
                    Error::usage(format!("{flag} must be above 0, got {value}")).at(format!("--{flag}"))
                );
            }
        }
        Ok(Mirostat { version, tau, eta, mu: 2.0 * tau })
    }

    /// The current bound of the surprise, in bits.
    #[must_use]
    pub fn mu(&self) -> f64 {
        self.mu
    }

    /// Draws from the probabilities `p` by `u` in [0, 1), and learns from the draw.
    pub fn draw(&mut self, p: &[f64], u: f64) -> usize {
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
        let kept = if self.version == 1 { self.first(p, &order) } else { self.second(p, &order) };
        let candidates = &order[..kept.clamp(1, p.len().max(1))];
        let total: f64 = candidates.iter().map(|i| p[*i]).sum();
        let mut rest = u * total;
        let mut drawn = candidates[candidates.len() - 1];
        for &i in candidates {
            if rest < p[i] {
                drawn = i;
                break;
            }
            rest -= p[i];
        }
        self.learn(p[drawn] / total);
        drawn
    }

    /// Moves the bound by the surprise of what was drawn with (renormalised) probability `q`.
    fn learn(&mut self, q: f64) {
        self.mu -= self.eta * (-q.log2() - self.tau);
    }

    /// Candidates of at most `mu` bits.
    fn second(&self, p: &[f64], order: &[usize]) -> usize {
        order.iter().take_while(|i| -p[**i].log2() <= self.mu).count()
    }

    /// The k of top-k that has the surprise `mu` under a Zipf distribution with the exponent of the head of `p`.
    fn first(&self, p: &[f64], order: &[usize]) -> usize {
        let n = p.len() as f64;
        let (mut tb, mut tt) = (0.0, 0.0);
        for i in 0..ESTIMATE.min(order.len().saturating_sub(1)) {
            let (a, b) = (p[order[i]], p[order[i + 1]]);
            if b <= 0.0 {
                break;
            }
            let t = ((i as f64 + 2.0) / (i as f64 + 1.0)).ln();
            tb += t * (a / b).ln();
            tt += t * t;
        }
        let s = tb / tt;
        let epsilon = s - 1.0;
        let k = (epsilon * self.mu.exp2() / (1.0 - n.powf(-epsilon))).powf(1.0 / s);
        // A flat head has no exponent: all candidates stay.
        if k.is_finite() { k.round().max(1.0) as usize } else { p.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: [f64; 6] = [0.45, 0.25, 0.15, 0.08, 0.05, 0.02];

    #[test]
    fn the_second_version_keeps_and_learns_as_defined() {
        let mut mirostat = Mirostat::new(2, 3.0, 0.1).unwrap();
        assert_eq!(mirostat.mu(), 6.0);
        mirostat.mu = 2.0;
        let order: Vec<usize> = (0..6).collect();
        assert_eq!(mirostat.second(&P, &order), 2);
        // q = [0.642857, 0.357143]: u beyond the first draws the second.
        assert_eq!(mirostat.clone().draw(&P, 0.64), 0);
        assert_eq!(mirostat.draw(&P, 0.65), 1);
        assert!((mirostat.mu() - 2.151_457_32).abs() < 1e-8, "{}", mirostat.mu());
        mirostat.mu = 0.1;
        assert_eq!(mirostat.draw(&P, 0.99), 0, "one candidate stays in any case");
    }

    #[test]
    fn the_first_version_recovers_zipfs_law() {
        // p ~ 1/rank^1.5 over 1000 candidates: k = (0.5 2^mu / (1 - 1000^-0.5))^(1/1.5).
        let weights: Vec<f64> = (1..=1000).map(|r| f64::from(r).powf(-1.5)).collect();
        let total: f64 = weights.iter().sum();
        let p: Vec<f64> = weights.iter().map(|w| w / total).collect();
        let order: Vec<usize> = (0..1000).collect();
        let mut mirostat = Mirostat::new(1, 3.0, 0.1).unwrap();
        mirostat.mu = 8.0;
        let k = (0.5 * 256.0 / (1.0 - 1000f64.powf(-0.5))).powf(1.0 / 1.5);
        assert_eq!(mirostat.first(&p, &order), k.round() as usize);
        assert!((0..6).contains(&mirostat.draw(&[1.0 / 6.0; 6], 0.9)));
    }

    #[test]
    fn the_surprise_comes_to_the_target() {
        let weights: Vec<f64> = (1..=500).map(|r| 1.0 / f64::from(r)).collect();
        let total: f64 = weights.iter().sum();
        let p: Vec<f64> = weights.iter().map(|w| w / total).collect();
        let mut random = crate::math::rng::SplitMix64::new(3);
        let mut uniform = || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        for version in [1, 2] {
            let mut mirostat = Mirostat::new(version, 4.0, 0.1).unwrap();
            let mut bits = 0.0;
            for step in 0..4000 {
                let before = mirostat.mu();
                let drawn = mirostat.draw(&p, uniform());
                if step >= 1000 {
                    // The surprise under the truncated distribution, from the bound's own move.
                    bits += (before - mirostat.mu()) / 0.1 + 4.0;
                }
                assert!(drawn < 500);
            }
            assert!((bits / 3000.0 - 4.0).abs() < 0.1, "version {version}: {}", bits / 3000.0);
        }
        assert!(Mirostat::new(3, 5.0, 0.1).is_err() && Mirostat::new(2, 0.0, 0.1).is_err());
    }
}

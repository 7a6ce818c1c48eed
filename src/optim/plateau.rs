//! Lowering the learning rate when held-out losses stop falling, as `torch.optim.lr_scheduler.ReduceLROnPlateau` does
//! with its defaults: a loss is better where it is below `(1 - 1e-4)` of the best so far; after more than `patience`
//! measurements in a row that are not, the rate is multiplied by `factor`, and the count starts again.

use serde::{Deserialize, Serialize};

/// By how much a loss must be below the best one, as a share of it.
const THRESHOLD: f64 = 1e-4;

/// What was seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plateau {
    /// The best loss.
    pub best: Option<f64>,
    /// Measurements since then that were not better.
    pub bad: u64,
    /// How often the rate was lowered.
    pub lowered: u32,
}

impl Plateau {
    /// Takes a held-out loss. A loss that is no number is not better.
    pub fn take(&mut self, loss: f64, patience: u64) {
        if loss.is_finite() && self.best.is_none_or(|best| loss < best * (1.0 - THRESHOLD)) {
            (self.best, self.bad) = (Some(loss), 0);
            return;
        }
        self.bad += 1;
        if self.bad > patience {
            (self.bad, self.lowered) = (0, self.lowered + 1);
        }
    }

    /// The learning rate now, of `lr` at the beginning, and never below `least`.
    #[must_use]
    pub fn lower(&self, lr: f64, factor: f64, least: f64) -> f64 {
        (lr * factor.powi(i32::try_from(self.lowered).unwrap_or(i32::MAX))).max(least.min(lr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_falls_as_in_pytorch() {
        // Made with ReduceLROnPlateau(factor=0.2, patience=2), lr 1.
        let losses = [1.0, 0.9, 0.9, 0.91, 0.95, 0.89, 0.88995, 0.9, 0.9, 0.9, 0.9, 0.9, 0.5];
        let want = [1.0, 1.0, 1.0, 1.0, 0.2, 0.2, 0.2, 0.2, 0.04, 0.04, 0.04, 0.008, 0.008];
        let mut plateau = Plateau::default();
        for (loss, want) in losses.into_iter().zip(want) {
            plateau.take(loss, 2);
            let lr = plateau.lower(1.0, 0.2, 0.0);
            assert!((lr - want).abs() < 1e-12, "{loss}: {lr} {want}");
        }
        assert_eq!((plateau.best, plateau.bad), (Some(0.5), 0));
        assert!((plateau.lower(1.0, 0.2, 0.05) - 0.05).abs() < 1e-12);
        plateau.take(f64::NAN, 2);
        assert_eq!(plateau.bad, 1);
    }
}

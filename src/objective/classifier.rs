//! Cross-entropy of a classifier of clean data.

use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, Tensor};

use super::{Batch, Losses, Objective};
use crate::error::{Error, Result};
use crate::net::{Cond, Network};
use crate::process::Process;

/// The mean of `-ln p(class | x)`; the part `accuracy` is the share of samples classified rightly.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Classifier {
    /// Share of the target spread evenly over all classes (Szegedy et al. 2016).
    pub label_smoothing: f64,
}

impl Objective for Classifier {
    fn loss(&self, net: &dyn Network, _process: &dyn Process, batch: &Batch) -> Result<Losses> {
        let Some(class) = &batch.class else {
            return Err(Error::data("a classifier needs classes").why("the data has none"));
        };
        let size = [batch.x.size().first().copied().unwrap_or(0)];
        let t = Tensor::f_zeros(size, (Kind::Float, batch.x.device()))?;
        let logits = net.forward(&batch.x, &t, &Cond::default(), batch.mode)?.f_to_kind(Kind::Float)?;
        let weight = None::<Tensor>;
        // Index -1 (no class) is left out of the mean.
        let total = logits.f_cross_entropy_loss(class, weight, Reduction::Mean, -1, self.label_smoothing)?;
        let right = logits.f_argmax(1, false)?.f_eq_tensor(class)?;
        let accuracy = right.f_to_kind(Kind::Float)?.f_mean(Kind::Float)?;
        Ok(Losses { total, parts: vec![("accuracy", accuracy.f_detach()?)] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Mode;
    use crate::process::TrigFlow;

    /// Logits are the data itself.
    #[derive(Debug)]
    struct Identity;

    impl Network for Identity {
        fn forward(&self, x: &Tensor, _: &Tensor, _: &Cond, _: Mode) -> Result<Tensor> {
            Ok(x.shallow_clone())
        }
        fn sample_shape(&self) -> &[i64] {
            &[2]
        }
    }

    #[test]
    fn cross_entropy_and_accuracy_by_hand() {
        let x = Tensor::from_slice(&[2f32, 0.0, 0.0, 1.0]).reshape([2, 2]);
        let mut batch = Batch {
            x,
            class: Some(Tensor::from_slice(&[0i64, 0])),
            augment: None,
            mel: None,
            frames: None,
            draw_seed: 0,
            mode: Mode::Train,
        };
        let losses = Classifier::default().loss(&Identity, &TrigFlow, &batch).unwrap();
        let want = 0.5 * ((1.0 + (-2f64).exp()).ln() + (1.0 + 1f64.exp()).ln());
        assert!((losses.total.double_value(&[]) - want).abs() < 1e-6);
        assert_eq!((losses.parts[0].0, losses.parts[0].1.double_value(&[])), ("accuracy", 0.5));
        batch.class = None;
        assert_eq!(
            Classifier::default().loss(&Identity, &TrigFlow, &batch).unwrap_err().kind().exit_code(),
            3
        );
    }
}

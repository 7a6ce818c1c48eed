//! The table `[optim]` of a recipe.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::adam::Adam;
use super::count::{Count, Progress};
use super::sgd::Sgd;
use super::{Group, Optimizer};
use crate::error::{Error, Result};
use crate::torch::shim::AdamStep;

/// The sort of optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimType {
    /// Adam; weight decay is added to the gradient.
    Adam,
    /// Adam with decoupled weight decay.
    Adamw,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

/// How the learning rate goes on after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// Half a cosine down to `final_lr` (Loshchilov and Hutter 2017).
    Cosine,
    /// A line down to `final_lr`.
    Linear,
    /// `1/sqrt(max(n/decay_after, 1))` (Karras et al. 2024).
    InvSqrt,
    /// It falls by `factor` whenever the held-out loss has not become better for `patience` measurements, down to
    /// `final_lr`.
    Plateau,
}

/// Optimiser, learning rate and clipping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimSpec {
    /// The sort of optimiser.
    #[serde(rename = "type")]
    pub kind: OptimType,
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Decay rates of Adam's moments.
    pub betas: (f64, f64),
    /// Added to the root of Adam's second moment.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// The learning rate rises linearly from 0 over this duration.
    pub warmup: Count,
    /// How it goes on.
    pub schedule: Schedule,
    /// Learning rate at the end of `cosine` and `linear`, and the least of `plateau`.
    pub final_lr: f64,
    /// Where `inv-sqrt` begins to fall.
    pub decay_after: Count,
    /// Factor of `plateau`.
    pub factor: f64,
    /// Held-out losses (`train.validate_every`) without an improvement before `plateau` lowers the rate.
    pub patience: u64,
    /// Largest Euclidean norm of the gradient; absent or 0 for no clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
}

impl Default for OptimSpec {
    fn default() -> Self {
        OptimSpec {
            kind: OptimType::Adam,
            lr: 2e-4,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
            momentum: 0.9,
            warmup: Count::Steps(0),
            schedule: Schedule::Constant,
            final_lr: 0.0,
            decay_after: Count::Steps(70_000),
            factor: 0.2,
            patience: 20,
            clip: None,
        }
    }
}

impl OptimSpec {
    /// The optimiser of the named parameters.
    ///
    /// # Errors
    /// Where an option is out of its range, or libtorch fails.
    pub fn build(&self, params: Vec<(String, Tensor)>) -> Result<Box<dyn Optimizer>> {
        let groups = vec![Group::default(); params.len()];
        self.build_grouped(params, &groups)
    }

    /// The same where parameters have learning rates or weight decays of their own, in the same order.
    ///
    /// # Errors
    /// As [`OptimSpec::build`]; also where there is not one group per parameter.
    pub fn build_grouped(
        &self,
        params: Vec<(String, Tensor)>,
        groups: &[Group],
    ) -> Result<Box<dyn Optimizer>> {
        self.check()?;
        let hyper = AdamStep {
            decoupled: self.kind == OptimType::Adamw,
            lr: self.lr,
            betas: self.betas,
            weight_decay: self.weight_decay,
            eps: self.eps,
        };
        Ok(match self.kind {
            OptimType::Adam | OptimType::Adamw => Box::new(Adam::grouped(params, groups, hyper)?),
            OptimType::Sgd => {
                Box::new(Sgd::grouped(params, groups, self.momentum, self.weight_decay, self.lr)?)
            }
        })
    }

    /// Learning rate of the step that follows `at`, in a training of `total`. The first step of a warm-up has
    /// rate 0, as in score_sde and EDM.
    #[must_use]
    pub fn lr_at(&self, at: Progress, total: Count) -> f64 {
        let rise = self.warmup.fraction(at).min(1.0);
        // Warm-up and total may be counted differently; the schedule runs over the whole training and is only
        // scaled down in warm-up.
        let done = total.fraction(at).min(1.0);
        let span = self.lr - self.final_lr;
        let lr = match self.schedule {
            // A plateau is seen by the trainer, which lowers the rate.
            Schedule::Constant | Schedule::Plateau => self.lr,
            Schedule::Cosine => self.final_lr + span * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Schedule::Linear => self.final_lr + span * (1.0 - done),
            Schedule::InvSqrt => self.lr / self.decay_after.fraction(at).max(1.0).sqrt(),
        };
        rise * lr
    }

    /// The largest norm of the gradient, if there is one.
    #[must_use]
    pub fn clip_norm(&self) -> Option<f64> {
        self.clip.filter(|&max| max > 0.0)
    }

    fn check(&self) -> Result<()> {
        let positive = |v: f64| v > 0.0 && v.is_finite();
        let share = |v: f64| (0.0..1.0).contains(&v);
        let zero = |v: f64| v >= 0.0 && v.is_finite();
        let checks = [
            ("lr", self.lr, positive(self.lr), "positive"),
            ("betas", self.betas.0, share(self.betas.0), "in [0, 1)"),
            ("betas", self.betas.1, share(self.betas.1), "in [0, 1)"),
            ("eps", self.eps, zero(self.eps), "0 or more"),
            ("weight_decay", self.weight_decay, zero(self.weight_decay), "0 or more"),
            ("momentum", self.momentum, share(self.momentum), "in [0, 1)"),
            ("final_lr", self.final_lr, zero(self.final_lr), "0 or more"),
            ("factor", self.factor, positive(self.factor) && share(self.factor), "above 0 and below 1"),
            ("clip", self.clip.unwrap_or(0.0), zero(self.clip.unwrap_or(0.0)), "0 or more"),
        ];
        match checks.iter().find(|(_, _, ok, _)| !ok) {
            Some((key, value, _, range)) => {
                Err(Error::usage(format!("optim.{key} = {value}")).why(format!("it must be {range}")))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{descend, quadratic};
    use super::*;

    #[test]
    fn schedules_have_their_shapes() {
        let spec = OptimSpec { lr: 1.0, warmup: Count::Steps(10), final_lr: 0.1, ..OptimSpec::default() };
        let total = Count::Images(100_000);
        let lr = |schedule, step: u64| {
            OptimSpec { schedule, ..spec.clone() }.lr_at(Progress { step, images: step * 100 }, total)
        };
        assert_eq!((lr(Schedule::Constant, 0), lr(Schedule::Constant, 5)), (0.0, 0.5));
        assert_eq!((lr(Schedule::Constant, 10), lr(Schedule::Constant, 5000)), (1.0, 1.0));
        assert!((lr(Schedule::Cosine, 500) - 0.55).abs() < 1e-12);
        assert!((lr(Schedule::Cosine, 1000) - 0.1).abs() < 1e-12);
        assert!((lr(Schedule::Linear, 250) - 0.775).abs() < 1e-12);
        assert_eq!((lr(Schedule::InvSqrt, 70_000), lr(Schedule::InvSqrt, 280_000)), (1.0, 0.5));
    }

    #[test]
    fn every_sort_descends() {
        for kind in [OptimType::Adam, OptimType::Adamw, OptimType::Sgd] {
            let params = quadratic();
            let handles = params.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
            let mut opt = OptimSpec { kind, ..OptimSpec::default() }.build(handles).unwrap();
            let before = params[0].1.detach().copy();
            descend(opt.as_mut(), &params, 0..20);
            assert!((&params[0].1 - before).abs().max().double_value(&[]) > 1e-2, "{kind:?}");
        }
    }

    #[test]
    fn tables_are_read_with_defaults_and_checked() {
        let spec: OptimSpec = toml::from_str(
            "type = \"adamw\"\nlr = 1e-3\nwarmup = \"10Mi img\"\nschedule = \"inv-sqrt\"\nclip = 1",
        )
        .unwrap();
        assert_eq!(
            (spec.kind, spec.warmup, spec.clip_norm()),
            (OptimType::Adamw, Count::Images(10 << 20), Some(1.0))
        );
        assert_eq!(toml::from_str::<OptimSpec>(&toml::to_string(&spec).unwrap()).unwrap(), spec);
        assert!(toml::from_str::<OptimSpec>("learning_rate = 1").is_err());
        let error = OptimSpec { lr: -1.0, ..spec }.build(vec![]).unwrap_err();
        assert_eq!(error.to_string(), "optim.lr = -1: it must be positive");
    }
}

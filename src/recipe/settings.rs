//! The tables `[train]` and `[sample]`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::optim::Count;
use crate::solver::{Budget, GridSpec, SolverSpec};
use crate::torch::runtime::Dtype;

/// Lengths, sizes and intervals of a run. Plain numbers are optimiser steps, strings such as
/// `"500Ki img"` are images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSpec {
    /// Images of one optimiser step.
    pub batch: u64,
    /// Parts the batch is computed in, to save memory.
    pub accumulate: u64,
    /// Optimiser steps of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Images of the run, instead of steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Count>,
    /// Decides everything random: initial weights, order of the data, noise.
    pub seed: u64,
    /// Number format of the network's products.
    pub precision: Dtype,
    /// Keep convolution weights and images channels-last.
    pub channels_last: bool,
    /// Interval of log lines.
    pub log_every: Count,
    /// Interval of sample grids; none for no grids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_every: Option<Count>,
    /// Samples in a grid.
    pub sample_count: u64,
    /// Interval of snapshots (EMA weights); the end of the run makes one in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_every: Option<Count>,
    /// Interval of checkpoints; the end of the run makes one in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<Count>,
    /// Checkpoints to keep.
    pub keep: usize,
    /// Interval of measuring the loss on the held-out part of the data; none for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_every: Option<Count>,
    /// Examples it is measured on.
    pub validate_count: u64,
}

impl Default for TrainSpec {
    fn default() -> Self {
        TrainSpec {
            batch: 128,
            accumulate: 1,
            steps: None,
            images: None,
            seed: 0,
            precision: Dtype::F32,
            channels_last: false,
            log_every: Count::Steps(50),
            sample_every: None,
            sample_count: 64,
            snapshot_every: None,
            checkpoint_every: None,
            keep: 2,
            validate_every: None,
            validate_count: 256,
        }
    }
}

impl TrainSpec {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// A usage error that names the key.
    pub fn check(&self) -> Result<()> {
        let wrong =
            |key: &str, why: &str| Err(Error::usage(format!("wrong value of `train.{key}`")).why(why));
        let length = if self.steps.is_some() { "steps" } else { "images" };
        match (self.steps, &self.images) {
            (None, None) => {
                return Err(
                    Error::usage("missing key `train.steps`").hint("or `train.images = \"10Mi img\"`")
                );
            }
            (Some(_), Some(_)) => return wrong("images", "`train.steps` is given too"),
            _ => {}
        }
        for (key, zero) in [
            ("batch", self.batch == 0),
            ("accumulate", self.accumulate == 0),
            ("validate_count", self.validate_count == 0),
        ] {
            if zero {
                return wrong(key, "it must be at least 1");
            }
        }
        if self.total_steps() == 0 {
            return wrong(length, "the run must have at least one step");
        }
        if !self.batch.is_multiple_of(self.accumulate) {
            return wrong("accumulate", "it must divide `train.batch`");
        }
        if self.keep == 0 {
            return wrong("keep", "at least one checkpoint must stay");
        }
        Ok(())
    }

    /// Images of one forward pass.
    #[must_use]
    pub fn micro_batch(&self) -> u64 {
        self.batch / self.accumulate
    }

    /// Optimiser steps of the run.
    #[must_use]
    pub fn total_steps(&self) -> u64 {
        match (self.steps, self.images) {
            (Some(steps), _) => steps,
            (None, Some(count)) => count.steps(self.batch),
            (None, None) => 0,
        }
    }

    /// The length of the run.
    #[must_use]
    pub fn total(&self) -> Count {
        match (self.steps, self.images) {
            (Some(steps), _) => Count::Steps(steps),
            (None, Some(images)) => images,
            (None, None) => Count::Steps(0),
        }
    }
}

/// Defaults of sampling.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampleSpec {
    /// The sampler and its options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solver: Option<SolverSpec>,
    /// The grid of times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<GridSpec>,
    /// Steps, in the solver's own count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Network evaluations, instead of steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nfe: Option<usize>,
    /// Strength of classifier-free guidance; 1 is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
}

impl SampleSpec {
    /// The number of steps or evaluations, if it is given.
    #[must_use]
    pub fn budget(&self) -> Option<Budget> {
        match (self.nfe, self.steps) {
            (Some(nfe), _) => Some(Budget::Nfe(nfe)),
            (None, Some(steps)) => Some(Budget::Steps(steps)),
            (None, None) => None,
        }
    }
}

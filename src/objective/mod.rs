//! Losses: what a network is trained to do.
//!
//! Noise is drawn from libtorch's global generator on the device, times and dropped classes from a host
//! stream keyed by [`Batch::draw_seed`]: a trainer that seeds both per step resumes exactly, and nothing is
//! read back from the device.

use std::fmt::Debug;

use tch::Tensor;

use crate::error::Result;
use crate::net::{Mode, Network};
use crate::process::Process;

pub mod autoregressive;
pub mod classifier;
pub mod denoising;
pub mod schedule;
pub mod spec;

pub use spec::{ObjectiveSpec, Plain};

/// What one loss is computed on.
#[derive(Debug)]
pub struct Batch {
    /// Data `[B, ...]` f32 on the device; images and waveforms in [-1, 1].
    pub x: Tensor,
    /// Class of each sample, `[B]` i64; -1 for none.
    pub class: Option<Tensor>,
    /// Augmentation parameters of each sample, `[B, K]`.
    pub augment: Option<Tensor>,
    /// Valid frames of each clip, `[B]` i64, where clips are padded.
    pub frames: Option<Tensor>,
    /// Mel spectrogram of each sample, `[B, bands, frames]`; where there is none, vocoders are trained on that of x.
    pub mel: Option<Tensor>,
    /// Seed of this batch's host draws (times, dropped classes).
    pub draw_seed: u64,
    /// Training, or measuring on held-out data.
    pub mode: Mode,
}

/// A loss and what it is made of. Everything stays on the device.
#[derive(Debug)]
pub struct Losses {
    /// What to differentiate: f32, no dimensions.
    pub total: Tensor,
    /// Further numbers worth a log line, by name, without gradients.
    pub parts: Vec<(&'static str, Tensor)>,
}

/// A training objective.
pub trait Objective: Debug {
    /// The loss of `net` on `batch`.
    ///
    /// # Errors
    /// Whatever the network fails with, or where the process has no such times.
    fn loss(&self, net: &dyn Network, process: &dyn Process, batch: &Batch) -> Result<Losses>;
}

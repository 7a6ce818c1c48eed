//! A network seen as a model of a process: whatever it predicts, a solver may ask for any form.

use tch::Tensor;

mod algebra;
mod analytic;
mod counted;
mod guided;
pub mod network;
mod noise_end;
pub mod precond;
mod threshold;

pub use algebra::{DenoiserExt, convert};
pub use analytic::Mixture;
pub use counted::Counted;
pub use guided::Guided;
pub use noise_end::NoiseEnd;
pub use threshold::{Threshold, ThresholdSpec, threshold};

use crate::error::Result;
use crate::net::Cond;
use crate::process::{At, Process};

/// What a model predicts about `x_t = alpha x_0 + sigma eps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// The noise `eps`.
    Eps,
    /// The clean data `x_0`.
    X0,
    /// `v = alpha eps - sigma x_0` (Salimans and Ho 2022, "Progressive distillation").
    V,
    /// `u = alpha' x_0 + sigma' eps = dx/dt` (flow matching).
    Velocity,
    /// The score `-eps / sigma`.
    Score,
}

/// Everything a solver may ask of a model.
pub trait Denoiser {
    /// The form of what [`Denoiser::predict`] returns.
    fn prediction(&self) -> Prediction;
    /// The process the model was trained on.
    fn process(&self) -> &dyn Process;
    /// The model's own prediction for `x` `[B, ...]` at the points `at`, in the dtype of `x`.
    ///
    /// # Errors
    /// Whatever the network fails with.
    fn predict(&self, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor>;
}

//! SaShiMi (Goel et al. 2022, "It's raw! Audio generation with state-space models"): an autoregressive network over
//! quantised samples, a pyramid of state-space layers whose coarser levels run at lower rates.
//!
//! Parameters are named as in the published checkpoints: `encoder.0`, `model.d_layers`, `model.c_layers`,
//! `model.u_layers`, `model.norm`, `decoder.0.output_transform`.

mod backbone;
mod block;
mod config;
mod net;
mod pack;
mod step;

pub use config::{NormKind, OutputAct, SashimiConfig, Wiring};
pub use net::Sashimi;

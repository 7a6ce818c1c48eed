//! Waveform diffusion: networks and checkpoints against the projects that publish them, and samplers against
//! Gaussian data, for which everything is known.
//!
//! `fixtures/diffwave` was made by `scripts/golden/diffwave.py`.

#![allow(clippy::unwrap_used)] // unwrap: a failing test is to panic

#[path = "diffwave/checkpoints.rs"]
mod checkpoints;
#[path = "diffwave/networks.rs"]
mod networks;
#[path = "diffwave/sampling.rs"]
mod sampling;

use genlib::math::rng::{SplitMix64, fnv1a64};
use tch::Tensor;

/// Uniform numbers in [-1, 1) that follow from a name.
fn data(name: &str, shape: &[i64]) -> Tensor {
    let mut stream = SplitMix64::new(fnv1a64(name.as_bytes()));
    let n = shape.iter().product::<i64>();
    let values: Vec<f64> = (0..n).map(|_| 2.0 * stream.uniform() - 1.0).collect();
    Tensor::from_slice(&values).reshape(shape)
}

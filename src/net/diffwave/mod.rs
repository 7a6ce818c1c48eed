//! Networks that predict the noise in waveforms: DiffWave, and SaShiMi in its place.
//!
//! They see a waveform `[B, C, L]` and the (fractional) index of the step in the DDPM table they are trained on.

use tch::Tensor;

use super::layers::init::Init;
use super::layers::weight_norm::NormConv1d;
use super::store::Path;
use crate::error::{Error, Result};

mod mel;
mod sashimi;
mod step;
mod unit;
mod wavenet;

pub use mel::{MelConfig, MelFeatures};
pub use sashimi::{DiffWaveSashimi, DiffWaveSashimiConfig};
pub use step::StepTable;
pub use wavenet::{DiffWave, DiffWaveConfig};

/// The channels of waveforms of `shape` `[C, T]`.
fn channels(shape: &[i64], classes: i64) -> Result<i64> {
    let wrong = |why: String| Err(Error::model("the network is not defined").why(why));
    match shape {
        _ if classes > 0 => wrong("it takes no classes".to_owned()),
        &[channels, length] if channels >= 1 && length >= 1 => Ok(channels),
        _ => wrong(format!("it needs waveforms [channels, samples], not samples of shape {shape:?}")),
    }
}

/// Batch and length of the waveforms `x` `[B, C, L]`.
fn checked_input(x: &Tensor, channels: i64) -> Result<(i64, i64)> {
    match x.size()[..] {
        [batch, c, length] if c == channels && length >= 1 => Ok((batch, length)),
        ref size => Err(Error::run("the network's input")
            .why(format!("expected waveforms [batch, {channels}, samples], got {size:?}"))),
    }
}

/// The head: 1x1 convolution, ReLU, and one that starts at zero, so that a new network predicts no noise.
#[derive(Debug)]
struct Head {
    mix: NormConv1d,
    weight: Tensor,
    bias: Tensor,
}

impl Head {
    fn new(p: &Path, width: i64, channels: i64, normed: bool) -> Result<Self> {
        let mix = NormConv1d::new(&(p / "final_conv.0.conv"), (width, width), 1, 1, normed)?;
        let last = p / "final_conv.2.conv";
        let weight = last.param("weight", &[channels, width, 1], Init::ZEROS)?;
        Ok(Head { mix, weight, bias: last.param("bias", &[channels], Init::ZEROS)? })
    }

    /// `x` `[B, width, L]` to `[B, channels, L]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.mix.forward(x)?.f_relu()?;
        Ok(h.f_conv1d(&self.weight, Some(&self.bias), [1], [0], [1], 1)?)
    }
}

//! Networks: plain functions of tensors with named parameters. They know nothing of processes.

use std::fmt::Debug;

use tch::Tensor;

use crate::error::Result;
use crate::torch::spectrum::MelSpectrogram;

pub mod adm;
pub mod causal;
pub mod diffwave;
pub mod digit_cnn;
pub mod dit;
pub mod external;
pub mod layers;
pub mod lm;
pub mod mel_cnn;
pub mod mlp;
mod path;
pub mod resnext;
pub mod sashimi;
mod song_block;
mod song_config;
pub mod song_unet;
pub mod spec;
pub mod store;
pub mod unet2d;
pub mod unet2d_config;
mod unet2d_down;
mod unet2d_json;
mod unet2d_resnet;
mod unet2d_time;
mod unet2d_up;
pub mod vit;
pub mod vit_config;
pub mod vit_weights;
pub mod wavenet;

/// Whether dropout and the like are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Training: dropout on.
    Train,
    /// Inference: everything deterministic.
    Eval,
}

/// What a network is conditioned on, beside the time.
#[derive(Debug, Default)]
pub struct Cond {
    /// Class index of each sample, `[B]` i64; -1 stands for "no class".
    pub class: Option<Tensor>,
    /// Augmentation parameters of each sample, `[B, K]` f32 (EDM's non-leaking augmentation).
    pub augment: Option<Tensor>,
    /// Mel spectrogram of each sample, `[B, bands, frames]` (vocoders).
    pub mel: Option<Tensor>,
}

/// A network `F(x, t, cond)`.
pub trait Network: Debug {
    /// `x` `[B, ...]`, `t` `[B]` in the network's own units; the output has the shape of `x` for a
    /// denoising network and `[B, K]` for a classifier.
    ///
    /// # Errors
    /// Where shapes do not fit, or libtorch fails.
    fn forward(&self, x: &Tensor, t: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor>;
    /// Shape of one sample, without the batch.
    fn sample_shape(&self) -> &[i64];
    /// Number of classes it can be conditioned on; 0 if it cannot.
    fn classes(&self) -> i64 {
        0
    }
    /// The spectrogram of its own waveforms that it is conditioned on, if it is a vocoder.
    fn spectrogram(&self) -> Option<MelSpectrogram> {
        None
    }
    /// The network as one over sequences of tokens, where it is one.
    fn causal(&self) -> Option<&dyn causal::Causal> {
        None
    }
}

//! Options of [`SongUNet`](super::song_unet::SongUNet), as EDM names them, and its published presets.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the noise level enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Embedding {
    /// Sinusoids (DDPM++).
    Positional,
    /// Random Fourier features (NCSN++).
    Fourier,
}

/// How the image enters at lower resolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoder {
    /// Only at the top (DDPM++).
    Standard,
    /// A downsampled image is added at each level.
    Skip,
    /// A learned downsampling chain is added at each level (NCSN++).
    Residual,
}

/// How the output leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decoder {
    /// Only at the top.
    Standard,
    /// An image is summed up over the levels.
    Skip,
}

/// Options of the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SongUNetConfig {
    /// Base number of channels.
    pub model_channels: i64,
    /// Multiple of the base at each resolution, from the highest on.
    pub channel_mult: Vec<i64>,
    /// Width of the embedding as a multiple of the base.
    pub channel_mult_emb: i64,
    /// Width of the noise level's features as a multiple of the base.
    pub channel_mult_noise: i64,
    /// Residual blocks per resolution.
    pub num_blocks: i64,
    /// Resolutions with attention.
    pub attn_resolutions: Vec<i64>,
    /// Dropout probability inside blocks.
    pub dropout: f64,
    /// Probability of leaving the class out in training (classifier-free guidance).
    pub label_dropout: f64,
    /// Number of augmentation parameters; 0 for none.
    pub augment_dim: i64,
    /// How the noise level enters.
    pub embedding_type: Embedding,
    /// How the image enters.
    pub encoder_type: Encoder,
    /// How the output leaves.
    pub decoder_type: Decoder,
    /// Taps of the resampling filter.
    pub resample_filter: Vec<f64>,
    /// Factor of every residual sum.
    pub skip_scale: f64,
}

impl Default for SongUNetConfig {
    fn default() -> Self {
        SongUNetConfig {
            model_channels: 128,
            channel_mult: vec![1, 2, 2, 2],
            channel_mult_emb: 4,
            channel_mult_noise: 1,
            num_blocks: 4,
            attn_resolutions: vec![16],
            dropout: 0.1,
            label_dropout: 0.0,
            augment_dim: 0,
            embedding_type: Embedding::Positional,
            encoder_type: Encoder::Standard,
            decoder_type: Decoder::Standard,
            resample_filter: vec![1.0, 1.0],
            skip_scale: std::f64::consts::FRAC_1_SQRT_2,
        }
    }
}

impl SongUNetConfig {
    /// EDM's "ddpmpp" for CIFAR-10 (Karras et al. 2022, Table 7).
    #[must_use]
    pub fn ddpmpp() -> Self {
        SongUNetConfig { channel_mult: vec![2, 2, 2], dropout: 0.13, augment_dim: 9, ..Self::default() }
    }

    /// EDM's "ncsnpp" for CIFAR-10.
    #[must_use]
    pub fn ncsnpp() -> Self {
        SongUNetConfig {
            channel_mult_noise: 2,
            embedding_type: Embedding::Fourier,
            encoder_type: Encoder::Residual,
            resample_filter: vec![1.0, 3.0, 3.0, 1.0],
            ..Self::ddpmpp()
        }
    }

    /// Checks that the options make a network for samples of `shape`; returns its channels and side.
    pub(super) fn check(&self, shape: &[i64]) -> Result<(i64, i64)> {
        let &[channels, height, width] = shape else {
            return Err(Error::model(format!("a U-Net needs images, not samples of shape {shape:?}")));
        };
        let wrong = |why: String| Err(Error::model("the U-Net is not defined").why(why));
        let levels = self.channel_mult.len();
        if levels == 0 || levels > 16 || self.num_blocks < 1 || self.model_channels < 2 {
            return wrong("it needs at least one resolution, one block and two channels".into());
        }
        let factor = 1i64 << (levels - 1);
        if height != width || height % factor != 0 || height < factor {
            return wrong(format!("images of {height}x{width} cannot be halved {} times", levels - 1));
        }
        if self.channel_mult.iter().any(|&m| m < 1) {
            return wrong("channel_mult must be positive".into());
        }
        for (name, p) in [("dropout", self.dropout), ("label_dropout", self.label_dropout)] {
            if !(0.0..1.0).contains(&p) {
                return wrong(format!("{name} = {p} is not in [0, 1)"));
            }
        }
        Ok((channels, height))
    }
}

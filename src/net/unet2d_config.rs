//! Options of [`UNet2D`](super::unet2d::UNet2D), as diffusers' `UNet2DModel` names them.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::error::{Error, Result};

/// A block of the way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlock {
    /// Residual blocks, then a strided convolution.
    #[serde(alias = "UNetResDownBlock2D")]
    DownBlock2D,
    /// Residual blocks, each followed by attention; then as `downsample_type` says.
    #[serde(alias = "UNetResAttnDownBlock2D")]
    AttnDownBlock2D,
    /// Residual blocks, the last of which halves the image.
    #[serde(alias = "UNetResResnetDownsampleBlock2D")]
    ResnetDownsampleBlock2D,
    /// As `ResnetDownsampleBlock2D` with the FIR filter of NCSN++, and the filtered image added.
    #[serde(alias = "UNetResSkipDownBlock2D")]
    SkipDownBlock2D,
    /// The same with attention after each residual block.
    #[serde(alias = "UNetResAttnSkipDownBlock2D")]
    AttnSkipDownBlock2D,
    /// Residual blocks with adaptive norms, then a fixed filter (k-diffusion's upscaler).
    #[serde(alias = "UNetResKDownBlock2D")]
    KDownBlock2D,
}

impl DownBlock {
    /// Whether attention follows each residual block.
    pub(super) fn attends(self) -> bool {
        matches!(self, DownBlock::AttnDownBlock2D | DownBlock::AttnSkipDownBlock2D)
    }

    /// Whether it belongs to NCSN++: FIR filters, sums over sqrt 2, its own group counts.
    pub(super) fn skips(self) -> bool {
        matches!(self, DownBlock::SkipDownBlock2D | DownBlock::AttnSkipDownBlock2D)
    }
}

/// A block of the way up: the counterpart of the [`DownBlock`] of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlock {
    /// Residual blocks, then a convolution of the repeated pixels.
    #[serde(alias = "UNetResUpBlock2D")]
    UpBlock2D,
    /// Residual blocks, each followed by attention; then as `upsample_type` says.
    #[serde(alias = "UNetResAttnUpBlock2D")]
    AttnUpBlock2D,
    /// Residual blocks, the last of which doubles the image.
    #[serde(alias = "UNetResResnetUpsampleBlock2D")]
    ResnetUpsampleBlock2D,
    /// As `ResnetUpsampleBlock2D` with the FIR filter of NCSN++, and a part of the output image.
    #[serde(alias = "UNetResSkipUpBlock2D")]
    SkipUpBlock2D,
    /// The same with attention after the residual blocks.
    #[serde(alias = "UNetResAttnSkipUpBlock2D")]
    AttnSkipUpBlock2D,
    /// Residual blocks with adaptive norms, then a fixed filter (k-diffusion's upscaler).
    #[serde(alias = "UNetResKUpBlock2D")]
    KUpBlock2D,
    /// As `UpBlock2D` with attention once, after the residual blocks: score_sde's DDPM. diffusers has no such
    /// block.
    LastAttnUpBlock2D,
}

impl UpBlock {
    /// Whether it belongs to NCSN++.
    pub(super) fn skips(self) -> bool {
        matches!(self, UpBlock::SkipUpBlock2D | UpBlock::AttnSkipUpBlock2D)
    }
}

/// How the embedding of time enters a residual block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// Added before the second norm.
    Default,
    /// As scale and shift of the second norm.
    ScaleShift,
}

/// What the network makes of the time it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeEmbedding {
    /// Sines and cosines at fixed frequencies.
    Positional,
    /// Random Fourier features of `ln t`, where t is the noise level sigma; the output is divided by sigma.
    Fourier,
    /// A row of a table for each of `num_train_timesteps` whole times.
    Learned,
}

/// How a class, or another label, enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassEmbed {
    /// A row of a table for each class, if there are any.
    Table,
    /// Its number is embedded as a time is.
    Timestep,
    /// It is a vector that is added to the embedding of time.
    Identity,
}

/// What is in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MidBlock {
    /// Two residual blocks, with attention between them if `add_attention`.
    UNetMidBlock2D,
    /// Nothing.
    #[serde(rename = "none")]
    Nothing,
}

/// What changes the resolution in blocks with attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resampler {
    /// A convolution.
    Conv,
    /// A residual block.
    Resnet,
}

/// The nonlinearity of residual blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x sigmoid(x)`.
    #[serde(alias = "swish")]
    Silu,
    /// `x tanh(ln(1 + e^x))`.
    Mish,
    /// `x Phi(x)` with the normal distribution function.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// Applied to every element of `x`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn of(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::Silu => x.f_silu()?,
            Activation::Mish => x.f_mish()?,
            Activation::Gelu => x.f_gelu("none")?,
            Activation::Relu => x.f_relu()?,
        })
    }
}

/// Options of the network. Defaults are those of the diffusers class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet2DConfig {
    /// Channels at each resolution.
    pub block_out_channels: Vec<i64>,
    /// Residual blocks per resolution on the way down (one more on the way up).
    pub layers_per_block: i64,
    /// Blocks of the way down.
    pub down_block_types: Vec<DownBlock>,
    /// What is in the middle.
    pub mid_block_type: MidBlock,
    /// Blocks of the way up.
    pub up_block_types: Vec<UpBlock>,
    /// Whether the middle has attention.
    pub add_attention: bool,
    /// Channels of an attention head; none for one head over all channels (in a recipe 0, in JSON null).
    #[serde(with = "zero_is_none")]
    pub attention_head_dim: Option<i64>,
    /// Groups of every norm; none for a quarter of the channels, at most 32 (in a recipe 0, in JSON null).
    #[serde(with = "zero_is_none")]
    pub norm_num_groups: Option<i64>,
    /// Groups of the norm before the attention in the middle; none for `norm_num_groups`, or for no norm
    /// where time enters as scale and shift.
    #[serde(with = "zero_is_none", skip_serializing_if = "Option::is_none")]
    pub attn_norm_num_groups: Option<i64>,
    /// Added to variances in norms.
    pub norm_eps: f64,
    /// Padding of downsampling convolutions; 0 pads below and at the right only.
    pub downsample_padding: i64,
    /// What halves the image after blocks with attention.
    pub downsample_type: Resampler,
    /// What doubles the image after blocks with attention.
    pub upsample_type: Resampler,
    /// How time enters.
    pub time_embedding_type: TimeEmbedding,
    /// Width of the embedding; none for four times the first of `block_out_channels`.
    #[serde(with = "zero_is_none", skip_serializing_if = "Option::is_none")]
    pub time_embedding_dim: Option<i64>,
    /// Rows of the table of a learned embedding of time.
    #[serde(with = "zero_is_none", skip_serializing_if = "Option::is_none")]
    pub num_train_timesteps: Option<i64>,
    /// `[cos, sin]` instead of `[sin, cos]` in the embedding of time.
    pub flip_sin_to_cos: bool,
    /// Shift in the exponent of the frequencies.
    pub freq_shift: f64,
    /// How a class enters.
    pub class_embed_type: ClassEmbed,
    /// Divisor of residual sums in the middle.
    pub mid_block_scale_factor: f64,
    /// Maps the input from [0, 1] to [-1, 1] first.
    pub center_input_sample: bool,
    /// How the embedding of time enters.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// The nonlinearity of residual blocks.
    pub act_fn: Activation,
    /// Channels of the output, if they are not those of the input: twice as many where variances are learned,
    /// too (they are not returned).
    #[serde(with = "zero_is_none", skip_serializing_if = "Option::is_none")]
    pub out_channels: Option<i64>,
    /// Dropout probability inside residual blocks.
    pub dropout: f64,
}

impl Default for UNet2DConfig {
    fn default() -> Self {
        use {DownBlock::AttnDownBlock2D as AttnDown, UpBlock::AttnUpBlock2D as AttnUp};
        UNet2DConfig {
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            down_block_types: vec![DownBlock::DownBlock2D, AttnDown, AttnDown, AttnDown],
            mid_block_type: MidBlock::UNetMidBlock2D,
            up_block_types: vec![AttnUp, AttnUp, AttnUp, UpBlock::UpBlock2D],
            add_attention: true,
            attention_head_dim: Some(8),
            norm_num_groups: Some(32),
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            downsample_padding: 1,
            downsample_type: Resampler::Conv,
            upsample_type: Resampler::Conv,
            time_embedding_type: TimeEmbedding::Positional,
            time_embedding_dim: None,
            num_train_timesteps: None,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            class_embed_type: ClassEmbed::Table,
            mid_block_scale_factor: 1.0,
            center_input_sample: false,
            resnet_time_scale_shift: TimeScaleShift::Default,
            act_fn: Activation::Silu,
            out_channels: None,
            dropout: 0.0,
        }
    }
}

impl UNet2DConfig {
    /// The network of DDPM for CIFAR-10 (Ho et al. 2020), as in `google/ddpm-cifar10-32`.
    #[must_use]
    pub fn ddpm_cifar10() -> Self {
        use {DownBlock::DownBlock2D as Down, UpBlock::UpBlock2D as Up};
        UNet2DConfig {
            block_out_channels: vec![128, 256, 256, 256],
            down_block_types: vec![Down, DownBlock::AttnDownBlock2D, Down, Down],
            up_block_types: vec![Up, Up, UpBlock::AttnUpBlock2D, Up],
            attention_head_dim: None,
            norm_eps: 1e-6,
            downsample_padding: 0,
            flip_sin_to_cos: false,
            freq_shift: 1.0,
            ..Self::default()
        }
    }

    /// Width of the embedding of time.
    #[must_use]
    pub fn emb_dim(&self) -> i64 {
        self.time_embedding_dim.unwrap_or_else(|| 4 * self.block_out_channels.first().copied().unwrap_or(0))
    }

    /// Groups of a norm outside the blocks of NCSN++ over `channels` channels.
    pub(super) fn groups(&self, channels: i64) -> i64 {
        self.norm_num_groups.unwrap_or_else(|| (channels / 4).min(32))
    }

    /// Checks that the options make a network for samples of `shape`; returns its number of channels.
    pub(super) fn check(&self, shape: &[i64]) -> Result<i64> {
        let wrong = |why: String| Err(Error::model("the U-Net is not defined").why(why));
        let &[channels, height, width] = shape else {
            return wrong(format!("it needs images, not samples of shape {shape:?}"));
        };
        let levels = self.block_out_channels.len();
        if levels == 0
            || levels > 16
            || self.down_block_types.len() != levels
            || self.up_block_types.len() != levels
        {
            return wrong(format!(
                "{levels} block_out_channels, {} down_block_types and {} up_block_types",
                self.down_block_types.len(),
                self.up_block_types.len()
            ));
        }
        let factor = 1i64 << (levels - 1);
        if channels < 1 || height < 1 || width < 1 {
            return wrong(format!("no image has the shape {shape:?}"));
        }
        if height % factor != 0 || width % factor != 0 {
            return wrong(format!("images of {height}x{width} cannot be halved {} times", levels - 1));
        }
        if self.layers_per_block < 1 || self.block_out_channels.iter().any(|&c| c < 1) {
            return wrong("layers_per_block and block_out_channels must be positive".into());
        }
        if self.out_channels.is_some_and(|out| out != channels && out != 2 * channels) {
            return wrong(format!(
                "out_channels = {} for images of {channels}: as many are needed, or twice as many for variances",
                self.out_channels.unwrap_or(0)
            ));
        }
        if self.emb_dim() < 1 {
            return wrong("time_embedding_dim must be positive".into());
        }
        if !(0..=1).contains(&self.downsample_padding) {
            return wrong(format!(
                "downsample_padding = {} does not halve an image, only 0 and 1 do",
                self.downsample_padding
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong(format!("dropout = {} is not in [0, 1)", self.dropout));
        }
        if self.time_embedding_type == TimeEmbedding::Learned && self.num_train_timesteps.is_none() {
            return wrong("a learned time_embedding_type needs num_train_timesteps".into());
        }
        Ok(channels)
    }
}

/// TOML has no null: none is written as 0, and both are read.
mod zero_is_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, clippy::ref_option)]
    pub fn serialize<S: Serializer>(value: &Option<i64>, to: S) -> Result<S::Ok, S::Error> {
        value.unwrap_or(0).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
        Ok(Option::<i64>::deserialize(from)?.filter(|&dim| dim != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_survives_a_recipe() {
        let published = UNet2DConfig::ddpm_cifar10();
        let rare = UNet2DConfig {
            norm_num_groups: None,
            attn_norm_num_groups: Some(4),
            time_embedding_dim: Some(48),
            num_train_timesteps: Some(10),
            time_embedding_type: TimeEmbedding::Learned,
            class_embed_type: ClassEmbed::Identity,
            mid_block_type: MidBlock::Nothing,
            act_fn: Activation::Mish,
            out_channels: Some(6),
            ..UNet2DConfig::default()
        };
        for config in [published, rare] {
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<UNet2DConfig>(&text).unwrap(), config);
        }
    }

    #[test]
    fn options_that_make_no_network_are_named() {
        let two = |change: &dyn Fn(&mut UNet2DConfig)| {
            let mut config = UNet2DConfig::ddpm_cifar10();
            change(&mut config);
            config.check(&[3, 32, 32]).unwrap_err().to_string()
        };
        for (error, word) in [
            (two(&|c| c.downsample_padding = 2), "downsample_padding"),
            (two(&|c| c.time_embedding_type = TimeEmbedding::Learned), "num_train_timesteps"),
            (two(&|c| c.dropout = 1.0), "dropout"),
            (two(&|c| c.layers_per_block = 0), "layers_per_block"),
            (two(&|c| c.up_block_types.truncate(3)), "up_block_types"),
            (UNet2DConfig::ddpm_cifar10().check(&[3, 32, 20]).unwrap_err().to_string(), "32x20"),
        ] {
            assert!(error.contains(word), "{error}");
        }
    }
}

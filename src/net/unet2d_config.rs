//! Options of [`UNet2D`](super::unet2d::UNet2D), as diffusers' `UNet2DModel` names them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// A block of the way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlock {
    /// Residual blocks.
    DownBlock2D,
    /// Residual blocks, each followed by attention.
    AttnDownBlock2D,
}

/// A block of the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlock {
    /// Residual blocks.
    UpBlock2D,
    /// Residual blocks, each followed by attention.
    AttnUpBlock2D,
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
    /// Blocks of the way up.
    pub up_block_types: Vec<UpBlock>,
    /// Whether the middle has attention.
    pub add_attention: bool,
    /// Channels of an attention head; none for one head over all channels (in a recipe 0, in JSON null).
    #[serde(with = "zero_is_none")]
    pub attention_head_dim: Option<i64>,
    /// Groups of every norm.
    pub norm_num_groups: i64,
    /// Added to variances in norms.
    pub norm_eps: f64,
    /// Padding of downsampling convolutions; 0 pads below and at the right only.
    pub downsample_padding: i64,
    /// `[cos, sin]` instead of `[sin, cos]` in the embedding of time.
    pub flip_sin_to_cos: bool,
    /// Shift in the exponent of the frequencies.
    pub freq_shift: f64,
    /// Divisor of residual sums in the middle.
    pub mid_block_scale_factor: f64,
    /// Maps the input from [0, 1] to [-1, 1] first.
    pub center_input_sample: bool,
    /// How the embedding of time enters.
    pub resnet_time_scale_shift: TimeScaleShift,
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
            up_block_types: vec![AttnUp, AttnUp, AttnUp, UpBlock::UpBlock2D],
            add_attention: true,
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            downsample_padding: 1,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            mid_block_scale_factor: 1.0,
            center_input_sample: false,
            resnet_time_scale_shift: TimeScaleShift::Default,
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

    /// The options in a diffusers `config.json`, with the shape of a sample and the number of classes
    /// (`num_class_embeds`). Keys that the file lacks have the defaults of the diffusers class.
    ///
    /// # Errors
    /// Where the file describes another class, or an option this network does not have.
    pub fn from_diffusers(json: &Value) -> Result<(Self, [i64; 3], i64)> {
        /// Options that change the network and that must have (one of) these values if present.
        const FIXED: &[(&str, &[&str])] = &[
            ("_class_name", &["\"UNet2DModel\""]),
            ("act_fn", &["\"silu\"", "\"swish\""]),
            ("time_embedding_type", &["\"positional\""]),
            ("time_embedding_dim", &["null"]),
            ("downsample_type", &["\"conv\""]),
            ("upsample_type", &["\"conv\""]),
            ("attn_norm_num_groups", &["null"]),
            ("class_embed_type", &["null"]),
            ("mid_block_type", &["\"UNetMidBlock2D\""]),
        ];
        let Value::Object(all) = json else {
            return Err(Error::model("the model's config is not a JSON object"));
        };
        let mut own = serde_json::Map::new();
        let (mut channels, mut out, mut size, mut classes) = (3, None, None, 0);
        for (key, value) in all {
            let integer =
                || value.as_i64().ok_or_else(|| Error::model(format!("config key `{key}` is {value}")));
            if let Some((_, allowed)) = FIXED.iter().find(|(name, _)| name == key) {
                let text = value.to_string();
                if !allowed.contains(&text.as_str()) {
                    return Err(Error::model(format!("config key `{key}`"))
                        .why(format!("{text} is not supported, only {}", allowed.join(" or "))));
                }
                continue;
            }
            match key.as_str() {
                "in_channels" => channels = integer()?,
                "out_channels" => out = Some(integer()?),
                "sample_size" if value.is_null() => {}
                "sample_size" => size = Some(integer()?),
                "num_class_embeds" if value.is_null() => {}
                "num_class_embeds" => classes = integer()?,
                "num_train_timesteps" => {}
                name if name.starts_with('_') => {}
                _ => {
                    own.insert(key.clone(), value.clone());
                }
            }
        }
        if out.unwrap_or(3) != channels {
            return Err(Error::model("config key `out_channels`")
                .why(format!("{} output channels for {channels} input channels", out.unwrap_or(3))));
        }
        let Some(size) = size else {
            return Err(Error::model("the model's config has no sample_size")
                .hint("give the size of the images with --shape C,H,W"));
        };
        let config = serde_json::from_value(Value::Object(own))
            .map_err(|e| Error::model("the model's config").why(e.to_string()))?;
        Ok((config, [channels, size, size], classes))
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
        if height % factor != 0 || width % factor != 0 {
            return wrong(format!("images of {height}x{width} cannot be halved {} times", levels - 1));
        }
        if self.layers_per_block < 1 || self.block_out_channels.iter().any(|&c| c < 1) {
            return wrong("layers_per_block and block_out_channels must be positive".into());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong(format!("dropout = {} is not in [0, 1)", self.dropout));
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

    fn cifar() -> Value {
        serde_json::from_str(
            r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu",
            "attention_head_dim": null, "block_out_channels": [128, 256, 256, 256],
            "center_input_sample": false, "down_block_types": ["DownBlock2D", "AttnDownBlock2D",
            "DownBlock2D", "DownBlock2D"], "downsample_padding": 0, "flip_sin_to_cos": false,
            "freq_shift": 1, "in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1,
            "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3, "sample_size": 32,
            "time_embedding_type": "positional", "up_block_types": ["UpBlock2D", "UpBlock2D",
            "AttnUpBlock2D", "UpBlock2D"]}"#,
        )
        .unwrap()
    }

    #[test]
    fn the_published_config_is_the_preset() {
        let (config, shape, classes) = UNet2DConfig::from_diffusers(&cifar()).unwrap();
        assert_eq!(config, UNet2DConfig::ddpm_cifar10());
        assert_eq!((shape, classes), ([3, 32, 32], 0));
    }

    #[test]
    fn one_head_survives_a_recipe() {
        let config = UNet2DConfig::ddpm_cifar10();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<UNet2DConfig>(&text).unwrap(), config);
    }

    #[test]
    fn absent_keys_have_the_defaults_of_the_class() {
        let mut json = cifar();
        let keys = json.as_object_mut().unwrap();
        for key in ["attention_head_dim", "norm_eps", "flip_sin_to_cos", "freq_shift", "downsample_padding"] {
            keys.remove(key);
        }
        let (c, ..) = UNet2DConfig::from_diffusers(&json).unwrap();
        assert_eq!((c.attention_head_dim, c.norm_eps, c.downsample_padding), (Some(8), 1e-5, 1));
        assert!(c.flip_sin_to_cos && c.freq_shift == 0.0);
    }

    #[test]
    fn what_the_network_lacks_is_refused_by_name() {
        for (key, value) in [
            ("act_fn", Value::from("mish")),
            ("time_embedding_type", Value::from("fourier")),
            ("down_block_types", serde_json::json!(["SkipDownBlock2D"])),
            ("resnet_skip_time_act", Value::from(true)),
        ] {
            let mut json = cifar();
            json[key] = value;
            let error = UNet2DConfig::from_diffusers(&json).unwrap_err();
            assert_eq!(error.kind().exit_code(), 4);
            assert!(error.to_string().contains(key) || error.to_string().contains("SkipDown"), "{error}");
        }
    }
}

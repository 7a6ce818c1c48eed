//! The table `[model]` of a recipe: which network, with which options.

use serde::{Deserialize, Serialize};

use super::Network;
use super::adm::{Adm, AdmConfig};
use super::diffwave::{DiffWave, DiffWaveConfig, DiffWaveSashimi, DiffWaveSashimiConfig};
use super::digit_cnn::{DigitCnn, DigitCnnConfig};
use super::dit::{Dit, DitConfig};
use super::external::{External, ExternalConfig};
use super::mel_cnn::{MelCnn, MelCnnConfig};
use super::mlp::{Mlp, MlpConfig};
use super::song_unet::{Decoder, Embedding, Encoder, SongUNet, SongUNetConfig};
use super::unet2d::UNet2D;
use super::unet2d_config::UNet2DConfig;
use crate::error::Result;
use crate::net::store::Path;

/// A network by its type and options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetSpec {
    /// Fully connected.
    Mlp(MlpConfig),
    /// The DDPM++/NCSN++/EDM family; defaults of score_sde's DDPM++.
    #[serde(rename = "song-unet")]
    SongUNet(SongOptions),
    /// The same, with defaults of EDM's DDPM++ for CIFAR-10.
    Ddpmpp(SongOptions),
    /// The same, with defaults of EDM's NCSN++ for CIFAR-10.
    Ncsnpp(SongOptions),
    /// diffusers' `UNet2DModel`.
    #[serde(rename = "unet2d")]
    UNet2D(UNet2DConfig),
    /// The U-Net of ADM, as EDM has it.
    Adm(AdmConfig),
    /// The transformer of DiT and SiT.
    Dit(DitConfig),
    /// DiffWave: dilated convolutions on waveforms.
    #[serde(rename = "diffwave")]
    DiffWave(DiffWaveConfig),
    /// DiffWave with SaShiMi: a U-Net of state-space layers on waveforms.
    #[serde(rename = "diffwave-sashimi")]
    DiffWaveSashimi(DiffWaveSashimiConfig),
    /// Classifier of tiny images.
    DigitCnn(DigitCnnConfig),
    /// Classifier of short sounds.
    MelCnn(MelCnnConfig),
    /// A TorchScript module or AOTInductor package.
    External(ExternalConfig),
}

impl NetSpec {
    /// Builds the network for samples of `sample_shape` and `classes` classes (0 for none) at `path`.
    ///
    /// # Errors
    /// Where the options do not make a network for this shape, or libtorch fails.
    pub fn build(&self, path: &Path, sample_shape: &[i64], classes: i64) -> Result<Box<dyn Network>> {
        Ok(match self {
            NetSpec::Mlp(config) => Box::new(Mlp::new(path, config, sample_shape, classes)?),
            NetSpec::UNet2D(config) => Box::new(UNet2D::new(path, config, sample_shape, classes)?),
            NetSpec::Adm(config) => Box::new(Adm::new(path, config, sample_shape, classes)?),
            NetSpec::Dit(config) => Box::new(Dit::new(path, config, sample_shape, classes)?),
            NetSpec::DiffWave(config) => Box::new(DiffWave::new(path, config, sample_shape, classes)?),
            NetSpec::DiffWaveSashimi(config) => {
                Box::new(DiffWaveSashimi::new(path, config, sample_shape, classes)?)
            }
            NetSpec::DigitCnn(config) => Box::new(DigitCnn::new(path, config, sample_shape, classes)?),
            NetSpec::MelCnn(config) => Box::new(MelCnn::new(path, config, sample_shape, classes)?),
            NetSpec::External(config) => Box::new(External::new(path, config, sample_shape, classes)?),
            NetSpec::SongUNet(_) | NetSpec::Ddpmpp(_) | NetSpec::Ncsnpp(_) => {
                // unwrap: these three variants have a resolved configuration by `song`.
                let config = self.song().unwrap_or_default();
                Box::new(SongUNet::new(path, &config, sample_shape, classes)?)
            }
        })
    }

    /// The complete options of a network of the DDPM++/NCSN++/EDM family.
    #[must_use]
    pub fn song(&self) -> Option<SongUNetConfig> {
        match self {
            NetSpec::SongUNet(options) => Some(options.over(SongUNetConfig::default())),
            NetSpec::Ddpmpp(options) => Some(options.over(SongUNetConfig::ddpmpp())),
            NetSpec::Ncsnpp(options) => Some(options.over(SongUNetConfig::ncsnpp())),
            _ => None,
        }
    }

    /// Number of augmentation parameters the network takes.
    #[must_use]
    pub fn augment_dim(&self) -> i64 {
        match self {
            NetSpec::Adm(config) => config.augment_dim,
            _ => self.song().map_or(0, |config| config.augment_dim),
        }
    }
}

/// Declares [`SongOptions`]: every field of [`SongUNetConfig`], optional.
macro_rules! song_options {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// Options that differ from the defaults of the variant; see [`SongUNetConfig`].
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct SongOptions {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }

        impl SongOptions {
            /// `base` with these options.
            #[must_use]
            pub fn over(&self, mut base: SongUNetConfig) -> SongUNetConfig {
                $(if let Some(value) = &self.$field { base.$field.clone_from(value); })*
                base
            }
        }

        impl From<SongUNetConfig> for SongOptions {
            fn from(config: SongUNetConfig) -> Self {
                SongOptions { $($field: Some(config.$field),)* }
            }
        }
    };
}

song_options! {
    /// Base number of channels.
    model_channels: i64,
    /// Multiple of the base at each resolution.
    channel_mult: Vec<i64>,
    /// Width of the embedding as a multiple of the base.
    channel_mult_emb: i64,
    /// Width of the noise level's features as a multiple of the base.
    channel_mult_noise: i64,
    /// Residual blocks per resolution.
    num_blocks: i64,
    /// Resolutions with attention.
    attn_resolutions: Vec<i64>,
    /// Dropout probability inside blocks.
    dropout: f64,
    /// Probability of leaving the class out in training.
    label_dropout: f64,
    /// Number of augmentation parameters.
    augment_dim: i64,
    /// How the noise level enters.
    embedding_type: Embedding,
    /// How the image enters.
    encoder_type: Encoder,
    /// How the output leaves.
    decoder_type: Decoder,
    /// Taps of the resampling filter.
    resample_filter: Vec<f64>,
    /// Factor of every residual sum.
    skip_scale: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_override_the_preset_of_the_type() {
        let spec: NetSpec =
            toml::from_str("type = \"ncsnpp\"\nmodel_channels = 32\nencoder_type = \"skip\"").unwrap();
        let config = spec.song().unwrap();
        assert_eq!((config.model_channels, config.encoder_type), (32, Encoder::Skip));
        assert_eq!((config.channel_mult, config.embedding_type), (vec![2, 2, 2], Embedding::Fourier));
        assert_eq!(spec.augment_dim(), 9);
        let back: NetSpec = toml::from_str(&toml::to_string(&spec).unwrap()).unwrap();
        assert_eq!(back, spec);
    }

    #[test]
    fn unknown_keys_and_types_are_errors_that_name_them() {
        for (text, word) in [
            ("type = \"mlp\"\nwidth = 3", "width"),
            ("type = \"ddpmpp\"\nchannels = 3", "channels"),
            ("type = \"unet2d\"\nblocks = 3", "blocks"),
            ("type = \"resnet\"", "resnet"),
        ] {
            let error = toml::from_str::<NetSpec>(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(
            matches!(toml::from_str("type = \"unet2d\"").unwrap(), NetSpec::UNet2D(c) if c == UNet2DConfig::default())
        );
        let null_head = serde_json::json!({"type": "unet2d", "attention_head_dim": null});
        assert!(
            matches!(serde_json::from_value(null_head).unwrap(), NetSpec::UNet2D(c) if c.attention_head_dim.is_none())
        );
    }
}

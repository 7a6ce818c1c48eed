//! Flags of sound and of models that draw one value after another.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use tch::Tensor;

use crate::cli::eval_audio::SoundChoice;
use crate::cli::values::finite;
use crate::data::audio::{AudioSpec, Clips, Part};
use crate::decode::{Order, SamplerSpec};
use crate::error::{Error, Result};
use crate::io::wav::{Normalize, WavFormat};
use crate::metric::audio::reject;
use crate::model::card::ModelCard;
use crate::model::tokens::TokenSettings;
use crate::noise::streams::Rng;

/// Sound, and models that draw one value after another.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sound")]
pub struct SoundArgs {
    /// Length of a sample in seconds [default: that of training]
    #[arg(long, value_name = "S", value_parser = finite)]
    pub seconds: Option<f64>,
    /// Length of a sample in values
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(i64).range(1..), hide_short_help = true)]
    pub length: Option<i64>,
    /// Logits are divided by it; below 1 is less various (autoregressive models)
    #[arg(long, default_value_t = 1.0, value_name = "T", value_parser = finite)]
    pub temperature: f64,
    /// Draw from the most probable values that sum to this share (autoregressive models)
    #[arg(long, default_value_t = 1.0, value_name = "P", value_parser = finite)]
    pub top_p: f64,
    /// The most probable value every time (autoregressive models)
    #[arg(long, hide_short_help = true)]
    pub greedy: bool,
    /// Make the sound of these spectrograms: a sound file, a folder of them, or an array [bands, frames] in a .npy, .npz
    /// or .safetensors file (vocoders)
    #[arg(long, value_name = "PATH", alias = "mel-path", hide_short_help = true)]
    pub mel: Option<PathBuf>,
    /// Go on from this sound: a file, or a folder whose files are taken in turn (autoregressive models)
    #[arg(long, value_name = "PATH")]
    pub prefix: Option<PathBuf>,
    /// Only so many seconds of it
    #[arg(long, value_name = "S", value_parser = finite, requires = "prefix", hide_short_help = true)]
    pub prefix_seconds: Option<f64>,
    /// Put the least likely and the most likely share of the samples aside, such as 0.40,0.05; `tune` searches the
    /// shares for the best Inception Score (autoregressive models)
    #[arg(long, value_name = "LOW,HIGH|tune", hide_short_help = true)]
    pub reject: Option<Reject>,
    /// The classifier of --reject tune: spoken-digits, mel-cnn:PATH, resnext:FILE (SC09) or torchscript:FILE
    #[arg(long, value_name = "NAME", default_value = "spoken-digits", hide_short_help = true)]
    pub classifier: SoundChoice,
    /// Number format of WAV files
    #[arg(long, value_enum, default_value = "16", value_name = "FORMAT", hide_short_help = true)]
    pub bit_depth: WavFormat,
    /// Resample WAV files to this rate [default: that of training]
    #[arg(long, value_name = "HZ", value_parser = clap::value_parser!(u32).range(1..=768_000), hide_short_help = true)]
    pub rate: Option<u32>,
    /// Bring WAV files to full level: by their peak, or their mean power
    #[arg(long, value_enum, default_value = "none", value_name = "HOW", hide_short_help = true)]
    pub normalize: Normalize,
}

/// `--reject`: which samples, sorted by likelihood, are put aside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reject {
    /// Shares of them.
    Shares {
        /// Of the least likely.
        low: f64,
        /// Of the most likely.
        high: f64,
    },
    /// The shares that give the best Inception Score.
    Tune,
}

impl Reject {
    /// Fewest samples of which it means something.
    pub fn fewest(self) -> usize {
        match self {
            Reject::Shares { .. } => 20,
            Reject::Tune => reject::FEWEST,
        }
    }
}

impl FromStr for Reject {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "tune" {
            return Ok(Reject::Tune);
        }
        let (low, high) = text.split_once(',').ok_or("expected two shares, such as 0.40,0.05, or `tune`")?;
        let share = |t: &str| t.trim().parse::<f64>().map_err(|_| format!("`{t}` is no number"));
        let (low, high) = (share(low)?, share(high)?);
        if low < 0.0 || high < 0.0 || low + high >= 1.0 {
            return Err("the shares must not be negative and must leave something".to_owned());
        }
        Ok(Reject::Shares { low, high })
    }
}

impl SoundArgs {
    /// Length of a sample of the model in values.
    ///
    /// # Errors
    /// Where seconds are asked of what has no rate.
    pub fn length(&self, card: &ModelCard) -> Result<i64> {
        let own = card.shape.last().copied().unwrap_or(1);
        match (self.length, self.seconds) {
            (Some(n), _) => Ok(n),
            (None, None) => Ok(own),
            (None, Some(seconds)) => {
                let rate = card.rate.ok_or_else(|| {
                    Error::usage("the model has no sampling rate")
                        .at("--seconds")
                        .hint("say the length in values with --length")
                })?;
                let n = (seconds * f64::from(rate)).round();
                if n < 1.0 {
                    return Err(Error::usage(format!("{seconds} s is nothing")).at("--seconds"));
                }
                Ok(n as i64)
            }
        }
    }

    /// How an autoregressive model is to draw.
    ///
    /// # Errors
    /// Where the prefix cannot be read.
    pub fn tokens(&self, card: &ModelCard, rng: Rng, block: Option<i64>) -> Result<TokenSettings> {
        // The nucleus is that of the model's own distribution, so the temperature comes last.
        let sampler = SamplerSpec {
            greedy: self.greedy,
            temperature: self.temperature,
            top_p: self.top_p,
            order: Order::Llama,
            ..SamplerSpec::default()
        };
        sampler.chain()?;
        let prefixes = match &self.prefix {
            Some(path) => self.prefixes(path, card)?,
            None => Vec::new(),
        };
        Ok(TokenSettings { sampler, length: self.length(card)?, prefixes, rng, block })
    }

    fn prefixes(&self, path: &std::path::Path, card: &ModelCard) -> Result<Vec<Tensor>> {
        let spec = AudioSpec { rate: card.rate, channels: Some(1), ..AudioSpec::default() };
        let clips = Clips::open(path, Part::All, &spec)?;
        let rate = f64::from(clips.rate());
        (0..clips.len())
            .map(|i| {
                let clip = clips.get(i)?;
                let mut wave = &clip.wave[..clip.frames];
                if let Some(seconds) = self.prefix_seconds {
                    let n = (seconds * rate).round();
                    if n < 1.0 || n > wave.len() as f64 {
                        return Err(Error::usage(format!(
                            "{seconds} s of {:.2} s",
                            wave.len() as f64 / rate
                        ))
                        .at("--prefix-seconds")
                        .why(format!("{} is not that long", clips.name(i))));
                    }
                    wave = &wave[..n as usize];
                }
                Ok(Tensor::f_from_slice(wave)?.f_unsqueeze(0)?)
            })
            .collect()
    }

    /// Refuses flags of autoregressive models where the model is none.
    ///
    /// # Errors
    /// A usage error that names the flag.
    pub fn check_no_tokens(&self) -> Result<()> {
        let given = [
            ("--temperature", self.temperature != 1.0),
            ("--top-p", self.top_p != 1.0),
            ("--greedy", self.greedy),
            ("--prefix", self.prefix.is_some()),
            ("--reject", self.reject.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Error::usage("the model is not autoregressive")
                .at(*flag)
                .hint("it denoises all values at once; --solver and --steps say how")),
            None => Ok(()),
        }
    }
}

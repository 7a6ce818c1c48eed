//! Mel spectrograms as local conditions: upsampled to the rate of the waveform, then mixed by a 1x1 convolution.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::net::layers::init::Init;
use crate::net::layers::weight_norm::{NormConv1d, NormWeight};
use crate::net::store::Path;
use crate::torch::spectrum::MelSpectrogram;

/// Which spectrogram a vocoder is conditioned on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MelFeatures {
    /// That of DiffWave-Vocoder and diffwave-sashimi: Slaney's bands up to 8000 Hz, logarithms of magnitudes.
    #[default]
    Diffwave,
    /// That of lmnt-com/diffwave: HTK's bands up to 11,025 Hz, decibels scaled to [0, 1].
    Lmnt,
}

/// How a network is conditioned on a mel spectrogram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MelConfig {
    /// Bands.
    pub bands: i64,
    /// Factors of the upsampler's stages; their product is the hop.
    pub upsample: Vec<i64>,
    /// One upsampler for all blocks, instead of one for each.
    pub shared: bool,
    /// Which spectrogram.
    pub features: MelFeatures,
}

impl Default for MelConfig {
    fn default() -> Self {
        MelConfig { bands: 80, upsample: vec![16, 16], shared: false, features: MelFeatures::default() }
    }
}

impl MelConfig {
    /// Samples of a frame.
    #[must_use]
    pub fn hop(&self) -> i64 {
        self.upsample.iter().product()
    }

    /// The spectrogram, of sound at 22,050 Hz.
    #[must_use]
    pub fn spectrogram(&self) -> MelSpectrogram {
        let mut out = match self.features {
            MelFeatures::Diffwave => MelSpectrogram::diffwave(),
            MelFeatures::Lmnt => MelSpectrogram::diffwave_lmnt(),
        };
        // Checked to be positive and small.
        out.stft.hop = usize::try_from(self.hop()).unwrap_or(1);
        out.bank.bands = usize::try_from(self.bands).unwrap_or(1);
        out
    }

    pub(super) fn check(&self) -> Result<()> {
        let sound = self.bands >= 1 && self.upsample.iter().all(|s| (1..=4096).contains(s));
        if sound && (1..=4).contains(&self.upsample.len()) && self.hop() <= 1 << 20 {
            return Ok(());
        }
        Err(Error::model("the conditioner is not defined")
            .why(format!("{} bands, upsampled by {:?}", self.bands, self.upsample)))
    }
}

/// The condition of a batch `[B, bands, frames]`, checked, in the dtype `kind`.
///
/// # Errors
/// A usage error where it is missing, is given to a network without a conditioner, or does not cover `length`
/// samples.
pub(super) fn checked(
    mel: Option<&Tensor>,
    config: Option<&MelConfig>,
    (batch, length): (i64, i64),
    kind: Kind,
) -> Result<Option<Tensor>> {
    match (mel, config) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::usage("this network takes no mel spectrogram")),
        (None, Some(_)) => Err(Error::usage("this network needs a mel spectrogram")
            .why("it is a vocoder: it makes the waveform of a given spectrogram")),
        (Some(mel), Some(config)) => {
            let size = mel.size();
            if size.len() != 3 || size[0] != batch || size[1] != config.bands {
                return Err(Error::usage("the mel spectrogram does not fit")
                    .why(format!("expected [{batch}, {}, frames], got {size:?}", config.bands)));
            }
            if size[2] * config.hop() < length {
                return Err(Error::usage("the mel spectrogram is too short").why(format!(
                    "{} frames of {} samples do not cover {length}",
                    size[2],
                    config.hop()
                )));
            }
            Ok(Some(mel.f_to_kind(kind)?))
        }
    }
}

/// Stages of a transposed convolution (3 bands by two hops) and a leaky ReLU, by which frames become samples.
#[derive(Debug)]
pub(super) struct Upsampler {
    stages: Vec<(NormWeight, i64)>,
}

/// Slope of the leaky ReLU below zero.
const SLOPE: f64 = 0.4;

impl Upsampler {
    /// The stages `upsample_conv2d.{i}` below `p`.
    pub(super) fn new(p: &Path, config: &MelConfig, normed: bool) -> Result<Self> {
        let stage = |(i, &s): (usize, &i64)| {
            let place = p / format!("upsample_conv2d.{i}");
            // One output channel: the gain is a single number, and so is the bias.
            let weight = NormWeight::new(&place, &[1, 1, 3, 2 * s], 1, Init::KaimingUniform, normed)?;
            Ok((weight, s))
        };
        Ok(Upsampler { stages: config.upsample.iter().enumerate().map(stage).collect::<Result<_>>()? })
    }

    /// `mel` `[B, bands, frames]` to the first `length` samples, `[B, bands, length]`.
    pub(super) fn forward(&self, mel: &Tensor, length: i64) -> Result<Tensor> {
        // Input j of a stage reaches outputs from j s - s/2 on: the inputs that reach the first n outputs are its
        // first (n - 1 + s/2)/s + 1.
        let mut needed = vec![length];
        for (_, s) in self.stages.iter().rev() {
            let n = needed[needed.len() - 1];
            needed.push((n - 1 + s / 2) / s + 1);
        }
        let mut y = mel.f_unsqueeze(1)?;
        for ((weight, s), n) in self.stages.iter().zip(needed.iter().rev()) {
            let n = (*n).min(y.size()[3]);
            let (stride, padding) = ([1, *s], [1, s / 2]);
            let w = weight.weight()?;
            y = y.f_narrow(3, 0, n)?.f_conv_transpose2d(
                &w,
                Some(weight.bias()),
                stride,
                padding,
                [0, 0],
                1,
                [1, 1],
            )?;
            y = y.f_maximum(&y.f_mul_scalar(SLOPE)?)?;
        }
        Ok(y.f_squeeze_dim(1)?.f_narrow(2, 0, length)?)
    }
}

/// What one block makes of the spectrogram.
#[derive(Debug)]
pub(super) struct Conditioner {
    upsampler: Option<Upsampler>,
    mix: NormConv1d,
}

impl Conditioner {
    /// The parameters `upsample_conv2d` (unless shared) and `mel_conv` below `p`; `out` channels.
    pub(super) fn new(p: &Path, config: &MelConfig, out: i64, normed: bool) -> Result<Self> {
        let upsampler = (!config.shared).then(|| Upsampler::new(p, config, normed)).transpose()?;
        let mix = NormConv1d::new(&(p / "mel_conv.conv"), (config.bands, out), 1, 1, normed)?;
        Ok(Conditioner { upsampler, mix })
    }

    /// `mel` `[B, bands, frames]` (or `[B, bands, length]` from the shared upsampler) to `[B, out, length]`.
    pub(super) fn forward(&self, mel: &Tensor, length: i64) -> Result<Tensor> {
        match &self.upsampler {
            Some(upsampler) => self.mix.forward(&upsampler.forward(mel, length)?),
            None => self.mix.forward(&mel.f_narrow(2, 0, length)?),
        }
    }
}

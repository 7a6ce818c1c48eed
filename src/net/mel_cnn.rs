//! A small classifier of short sounds: a log-mel front end and a convolutional network. Its last hidden layer is the
//! feature space of the metrics of spoken digits.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::layers::conv::Conv2d;
use super::layers::linear::Linear;
use super::layers::norm::GroupNorm;
use super::layers::{dropout, silu};
use super::{Cond, Mode, Network};
use crate::error::{Error, Result};
use crate::math::mel::{MelBank, MelScale};
use crate::net::store::Path;
use crate::torch::spectrum::{Compression, Edge, MelSpectrogram, Stft};

/// Options of the classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MelCnnConfig {
    /// Samples a second.
    pub rate: u32,
    /// Size of the transform and of its Hann window.
    pub n_fft: usize,
    /// Samples from frame to frame.
    pub hop: usize,
    /// Mel bands, from 60 Hz to half the rate.
    pub bands: usize,
    /// Channels of the convolutions; time and frequency are halved after each but the last.
    pub channels: Vec<i64>,
    /// Number of features.
    pub features: i64,
    /// Dropout probability before the last two layers.
    pub dropout: f64,
}

impl Default for MelCnnConfig {
    fn default() -> Self {
        MelCnnConfig {
            rate: 8000,
            n_fft: 256,
            hop: 64,
            bands: 40,
            channels: vec![32, 64, 64, 64],
            features: 64,
            dropout: 0.3,
        }
    }
}

/// Log-mel spectrogram in decibels below the clip's loudest, scaled to [-1, 1]; then 3x3 convolution, group norm and
/// SiLU for each entry of `channels`, with mean pooling between; the mean over time; a layer of features with SiLU
/// and a layer of logits.
#[derive(Debug)]
pub struct MelCnn {
    shape: Vec<i64>,
    rate: u32,
    mel: MelSpectrogram,
    weights: Tensor,
    convs: Vec<(Conv2d, GroupNorm)>,
    features: Linear,
    logits: Linear,
    dropout: f64,
}

impl MelCnn {
    /// The classifier of sounds `shape` `[1, T]` into `classes` classes at `p`.
    ///
    /// # Errors
    /// Where the options do not make a network for this shape, or libtorch fails.
    pub fn new(p: &Path, config: &MelCnnConfig, shape: &[i64], classes: i64) -> Result<Self> {
        let wrong = |why: String| Err(Error::model("the classifier is not defined").why(why));
        let &[1, length] = shape else {
            return wrong(format!("it needs sounds of one channel, not samples of shape {shape:?}"));
        };
        let MelCnnConfig { rate, n_fft, hop, bands, ref channels, .. } = *config;
        if classes < 1 || channels.is_empty() || channels.iter().any(|&c| c < 4 || c % 4 != 0) {
            return wrong(format!("{classes} classes, channels {channels:?}"));
        }
        if rate < 1000 || !(16..=1 << 16).contains(&n_fft) || hop == 0 || bands == 0 {
            return wrong(format!("{rate} Hz, transforms of {n_fft} samples every {hop}, {bands} bands"));
        }
        let frames = usize::try_from(length).unwrap_or(0) / hop + 1;
        let halvings = channels.len() - 1;
        if halvings > 16 || bands >> halvings == 0 || frames >> halvings == 0 {
            return wrong(format!("{bands} bands and {frames} frames cannot be halved {halvings} times"));
        }
        let rate_hz = f64::from(rate);
        let bank = MelBank {
            rate: rate_hz,
            n_fft,
            bands,
            low: 60.0,
            high: rate_hz / 2.0,
            scale: MelScale::Slaney,
            area: true,
        };
        let mel = MelSpectrogram {
            stft: Stft { n_fft, hop, window: n_fft, edge: Edge::Zero },
            bank,
            power: 2,
            normalized: false,
            compression: Compression::PeakDecibels,
        };
        let size = [i64::try_from(bands).unwrap_or(0), i64::try_from(mel.stft.bins()).unwrap_or(0)];
        let weights = p.constant("mel", &size, &bank.weights())?;
        let mut convs = Vec::new();
        let mut input = 1;
        for (i, &out) in channels.iter().enumerate() {
            let conv = Conv2d::new(&(p / format!("conv{i}")), input, out, 3)?;
            convs.push((conv, GroupNorm::new(&(p / format!("norm{i}")), 4, out, 1e-5)?));
            input = out;
        }
        let flat = input * (i64::try_from(bands >> halvings).unwrap_or(1));
        Ok(MelCnn {
            shape: shape.to_vec(),
            rate,
            mel,
            weights,
            convs,
            features: Linear::new(&(p / "features"), flat, config.features)?,
            logits: Linear::new(&(p / "logits"), config.features, classes)?,
            dropout: config.dropout,
        })
    }

    /// Samples a second it was made for.
    #[must_use]
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// `x` `[B, 1, T]` to features `[B, D]` and logits `[B, K]`.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn features(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.run(x, false)
    }

    fn run(&self, x: &Tensor, train: bool) -> Result<(Tensor, Tensor)> {
        let mel = self.mel.with_weights(&x.f_squeeze_dim(1)?, &self.weights)?;
        let mut h = mel.f_div_scalar(40.0)?.f_add_scalar(1.0)?.f_unsqueeze(1)?;
        let last = self.convs.len() - 1;
        for (i, (conv, norm)) in self.convs.iter().enumerate() {
            h = silu(norm.forward(&conv.forward(&h)?)?)?;
            if i < last {
                h = h.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)?;
            }
        }
        let h = h.f_mean_dim([3i64].as_slice(), false, h.f_kind()?)?;
        let h = dropout(h.f_flatten(1, -1)?, self.dropout, train)?;
        let features = silu(self.features.forward(&h)?)?;
        let kept = dropout(features.shallow_clone(), self.dropout, train)?;
        let logits = self.logits.forward(&kept)?;
        Ok((features, logits))
    }
}

impl Network for MelCnn {
    /// Logits `[B, K]`; the time is ignored.
    fn forward(&self, x: &Tensor, _t: &Tensor, _cond: &Cond, mode: Mode) -> Result<Tensor> {
        Ok(self.run(x, mode == Mode::Train)?.1)
    }

    fn sample_shape(&self) -> &[i64] {
        &self.shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::store::Store;
    use crate::torch::shim::Generator;
    use tch::{Device, Kind};

    #[test]
    fn logits_do_not_depend_on_loudness_or_neighbours() {
        let store = Store::new(Device::Cpu, Kind::Float, 0);
        let net = MelCnn::new(&store.root(), &MelCnnConfig::default(), &[1, 4096], 10).unwrap();
        assert!((100_000..150_000).contains(&store.parameters()), "{}", store.parameters());
        let x = Generator::new(1).unwrap().normal(&[3, 1, 4096], Kind::Float).unwrap() * 0.1;
        let (features, logits) = net.features(&x).unwrap();
        assert_eq!((features.size(), logits.size()), (vec![3, 64], vec![3, 10]));
        let (_, quiet) = net.features(&(&x * 0.01)).unwrap();
        assert!((&quiet - &logits).abs().max().double_value(&[]) < 1e-3);
        let (_, one) = net.features(&x.narrow(0, 1, 1)).unwrap();
        assert!((one - logits.narrow(0, 1, 1)).abs().max().double_value(&[]) < 1e-5);
        assert!(MelCnn::new(&store.root(), &MelCnnConfig::default(), &[2, 4096], 10).is_err());
        assert!(
            MelCnn::new(&store.root(), &MelCnnConfig { bands: 4, ..Default::default() }, &[1, 4096], 10)
                .is_err()
        );
    }
}

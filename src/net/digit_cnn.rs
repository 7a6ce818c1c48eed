//! A small convolutional classifier of tiny images: the feature extractor of the digits' metrics.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::layers::conv::Conv2d;
use super::layers::linear::Linear;
use super::layers::norm::GroupNorm;
use super::layers::{dropout, silu};
use super::{Cond, Mode, Network};
use crate::error::{Error, Result};
use crate::net::store::Path;

/// Options of the classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DigitCnnConfig {
    /// Channels of the convolutions; the image is halved after each but the first.
    pub channels: Vec<i64>,
    /// Number of features.
    pub features: i64,
    /// Dropout probability before the last two layers.
    pub dropout: f64,
}

impl Default for DigitCnnConfig {
    fn default() -> Self {
        DigitCnnConfig { channels: vec![32, 64, 64], features: 64, dropout: 0.3 }
    }
}

/// 3x3 convolution, group norm, SiLU, mean pooling for each entry of `channels`; then a layer of
/// `features` features with SiLU and a layer of logits.
#[derive(Debug)]
pub struct DigitCnn {
    shape: Vec<i64>,
    convs: Vec<(Conv2d, GroupNorm)>,
    features: Linear,
    logits: Linear,
    dropout: f64,
}

impl DigitCnn {
    /// The classifier of images `shape` `[C, H, W]` into `classes` classes at `p`.
    ///
    /// # Errors
    /// Where the options do not make a network for this shape, or libtorch fails.
    pub fn new(p: &Path, config: &DigitCnnConfig, shape: &[i64], classes: i64) -> Result<Self> {
        let wrong = |why: String| Err(Error::model("the classifier is not defined").why(why));
        let &[channels, height, width] = shape else {
            return wrong(format!("it needs images, not samples of shape {shape:?}"));
        };
        if classes < 1 || config.channels.is_empty() || config.channels.iter().any(|&c| c < 4 || c % 4 != 0) {
            return wrong(format!("{classes} classes, channels {:?}", config.channels));
        }
        let halvings = config.channels.len() - 1;
        if halvings > 16 || height % (1 << halvings) != 0 || width % (1 << halvings) != 0 {
            return wrong(format!("images of {height}x{width} cannot be halved {halvings} times"));
        }
        let mut convs = Vec::new();
        let mut input = channels;
        for (i, &out) in config.channels.iter().enumerate() {
            let conv = Conv2d::new(&(p / format!("conv{i}")), input, out, 3)?;
            convs.push((conv, GroupNorm::new(&(p / format!("norm{i}")), 4, out, 1e-5)?));
            input = out;
        }
        let flat = input * (height >> halvings) * (width >> halvings);
        Ok(DigitCnn {
            shape: shape.to_vec(),
            convs,
            features: Linear::new(&(p / "features"), flat, config.features)?,
            logits: Linear::new(&(p / "logits"), config.features, classes)?,
            dropout: config.dropout,
        })
    }

    /// `x` `[B, C, H, W]` to features `[B, D]` and logits `[B, K]`.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn features(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.run(x, false)
    }

    fn run(&self, x: &Tensor, train: bool) -> Result<(Tensor, Tensor)> {
        let mut h = x.shallow_clone();
        for (i, (conv, norm)) in self.convs.iter().enumerate() {
            h = silu(norm.forward(&conv.forward(&h)?)?)?;
            if i > 0 {
                h = h.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)?;
            }
        }
        let h = dropout(h.f_flatten(1, -1)?, self.dropout, train)?;
        let features = silu(self.features.forward(&h)?)?;
        let kept = dropout(features.shallow_clone(), self.dropout, train)?;
        let logits = self.logits.forward(&kept)?;
        Ok((features, logits))
    }
}

impl Network for DigitCnn {
    /// Logits `[B, K]`; the time is ignored.
    fn forward(&self, x: &Tensor, _t: &Tensor, _cond: &Cond, mode: Mode) -> Result<Tensor> {
        Ok(self.run(x, mode == Mode::Train)?.1)
    }

    fn sample_shape(&self) -> &[i64] {
        &self.shape
    }
}

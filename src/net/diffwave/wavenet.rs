//! DiffWave (Kong et al. 2021, "DiffWave: a versatile diffusion model for audio synthesis"): a stack of gated,
//! dilated, bidirectional convolutions that predicts the noise in a waveform.
//!
//! Block k: `h = x + fc(e)`, `h = conv(h)` with dilation `2^(k mod cycle)`, plus the condition,
//! `z = tanh(h_1) sigmoid(h_2)`; then `x <- (x + W z)/sqrt 2`, and `s = sum_k V_k z_k / sqrt n` goes to the head.
//! Parameters are named as in the published files.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::mel::{Conditioner, MelConfig, Upsampler, checked};
use super::step::{StepEmbedding, StepTable, WIDTH};
use super::{Head, checked_input};
use crate::error::{Error, Result};
use crate::net::layers::linear::Linear;
use crate::net::layers::weight_norm::NormConv1d;
use crate::net::store::Path;
use crate::net::{Cond, Mode, Network};
use crate::torch::spectrum::MelSpectrogram;

/// Options of the network. Defaults are those of the large unconditional model (24.1 million parameters).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiffWaveConfig {
    /// Channels of the residual stream.
    pub res_channels: i64,
    /// Channels of the skip connections.
    pub skip_channels: i64,
    /// Blocks.
    pub layers: i64,
    /// Dilations are 1, 2, 4, ... for so many blocks, and again.
    pub dilation_cycle: i64,
    /// The mel spectrogram that it is conditioned on, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mel: Option<MelConfig>,
    /// The sinusoids of the diffusion step.
    pub steps: StepTable,
    /// Convolutions are weight-normalised.
    pub weight_norm: bool,
    /// The residual sum starts from `x + fc(e)` instead of x: the code published with the paper adds in place.
    pub residual_with_step: bool,
}

impl Default for DiffWaveConfig {
    fn default() -> Self {
        DiffWaveConfig {
            res_channels: 256,
            skip_channels: 256,
            layers: 36,
            dilation_cycle: 12,
            mel: None,
            steps: StepTable::default(),
            weight_norm: true,
            residual_with_step: false,
        }
    }
}

impl DiffWaveConfig {
    fn check(&self) -> Result<()> {
        let sizes = [self.res_channels, self.skip_channels, self.layers];
        if sizes.iter().any(|n| !(1..=65_536).contains(n)) || !(1..=30).contains(&self.dilation_cycle) {
            return Err(Error::model("the network is not defined").why(format!(
                "res_channels {}, skip_channels {}, layers {}, dilation_cycle {}",
                self.res_channels, self.skip_channels, self.layers, self.dilation_cycle
            )));
        }
        self.mel.as_ref().map_or(Ok(()), MelConfig::check)
    }

    /// Samples that one sample of the output depends on.
    #[must_use]
    pub fn receptive_field(&self) -> i64 {
        1 + 2 * (0..self.layers).map(|k| 1i64 << (k % self.dilation_cycle)).sum::<i64>()
    }
}

#[derive(Debug)]
struct Block {
    step: Linear,
    dilated: NormConv1d,
    conditioner: Option<Conditioner>,
    residual: NormConv1d,
    skip: NormConv1d,
}

impl Block {
    fn new(p: &Path, config: &DiffWaveConfig, dilation: i64) -> Result<Self> {
        let (r, s, normed) = (config.res_channels, config.skip_channels, config.weight_norm);
        let conditioner =
            config.mel.as_ref().map(|mel| Conditioner::new(p, mel, 2 * r, normed)).transpose()?;
        Ok(Block {
            step: Linear::new(&(p / "fc_t"), WIDTH, r)?,
            dilated: NormConv1d::new(&(p / "dilated_conv_layer.conv"), (r, 2 * r), 3, dilation, normed)?,
            conditioner,
            residual: NormConv1d::new(&(p / "res_conv"), (r, r), 1, 1, normed)?,
            skip: NormConv1d::new(&(p / "skip_conv"), (r, s), 1, 1, normed)?,
        })
    }

    /// The next residual stream, and what goes to the head.
    fn forward(
        &self,
        x: &Tensor,
        step: &Tensor,
        mel: Option<&Tensor>,
        with_step: bool,
    ) -> Result<(Tensor, Tensor)> {
        let shifted = x.f_add(&self.step.forward(step)?.f_unsqueeze(2)?)?;
        let mut h = self.dilated.forward(&shifted)?;
        if let (Some(conditioner), Some(mel)) = (&self.conditioner, mel) {
            h = h.f_add(&conditioner.forward(mel, x.size()[2])?)?;
        }
        let halves = h.f_chunk(2, 1)?;
        let z = halves[0].f_tanh()?.f_mul(&halves[1].f_sigmoid()?)?;
        // Both maps of z as one.
        let ((w_res, b_res), (w_skip, b_skip)) = (self.residual.parts()?, self.skip.parts()?);
        let (weight, bias) = (Tensor::f_cat(&[&w_res, &w_skip], 0)?, Tensor::f_cat(&[b_res, b_skip], 0)?);
        let both = z.f_conv1d(&weight, Some(&bias), [1], [0], [1], 1)?;
        let width = x.size()[1];
        let (residual, skip) =
            (both.f_narrow(1, 0, width)?, both.f_narrow(1, width, both.size()[1] - width)?);
        let from = if with_step { &shifted } else { x };
        Ok((from.f_add(&residual)?.f_mul_scalar(0.5f64.sqrt())?, skip))
    }
}

/// The network.
#[derive(Debug)]
pub struct DiffWave {
    shape: Vec<i64>,
    config: DiffWaveConfig,
    first: NormConv1d,
    step: StepEmbedding,
    upsampler: Option<Upsampler>,
    blocks: Vec<Block>,
    head: Head,
}

impl DiffWave {
    /// The network for waveforms of `shape` `[C, T]` at `p`; it runs on any other length, too.
    ///
    /// # Errors
    /// Where the options do not make a network, or samples are no waveforms.
    pub fn new(p: &Path, config: &DiffWaveConfig, shape: &[i64], classes: i64) -> Result<Self> {
        config.check()?;
        let channels = super::channels(shape, classes)?;
        let normed = config.weight_norm;
        let first =
            NormConv1d::new(&(p / "init_conv.0.conv"), (channels, config.res_channels), 1, 1, normed)?;
        let stack = p / "residual_layer";
        let step = StepEmbedding::new(&stack, config.steps)?;
        let shared = config.mel.as_ref().filter(|mel| mel.shared);
        let upsampler = shared.map(|mel| Upsampler::new(&stack, mel, normed)).transpose()?;
        let block = |k: i64| {
            let place = &stack / format!("residual_blocks.{k}");
            Block::new(&place, config, 1 << (k % config.dilation_cycle))
        };
        let blocks = (0..config.layers).map(block).collect::<Result<_>>()?;
        let head = Head::new(p, config.skip_channels, channels, normed)?;
        Ok(DiffWave { shape: shape.to_vec(), config: config.clone(), first, step, upsampler, blocks, head })
    }
}

impl Network for DiffWave {
    fn forward(&self, x: &Tensor, t: &Tensor, cond: &Cond, _mode: Mode) -> Result<Tensor> {
        let (batch, length) = checked_input(x, self.shape[0])?;
        let mel = checked(cond.mel.as_ref(), self.config.mel.as_ref(), (batch, length), x.kind())?;
        let mel = match (&self.upsampler, mel) {
            (Some(upsampler), Some(mel)) => Some(upsampler.forward(&mel, length)?),
            (_, mel) => mel,
        };
        let mut h = self.first.forward(x)?.f_relu()?;
        let step = self.step.forward(t, x.kind())?;
        let mut sum: Option<Tensor> = None;
        for block in &self.blocks {
            let (next, skip) = block.forward(&h, &step, mel.as_ref(), self.config.residual_with_step)?;
            h = next;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&skip)?,
                None => skip,
            });
        }
        let sum = sum.ok_or_else(|| Error::run("a network without blocks"))?;
        #[allow(clippy::cast_precision_loss)]
        let scale = (self.blocks.len() as f64).sqrt().recip();
        self.head.forward(&sum.f_mul_scalar(scale)?)
    }

    fn sample_shape(&self) -> &[i64] {
        &self.shape
    }

    fn spectrogram(&self) -> Option<MelSpectrogram> {
        self.config.mel.as_ref().map(MelConfig::spectrogram)
    }
}

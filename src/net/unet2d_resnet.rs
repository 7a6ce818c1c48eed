//! Residual blocks and attention of [`UNet2D`](super::unet2d::UNet2D).

use tch::Tensor;

use super::layers::attention::SplitAttention;
use super::layers::conv::Conv2d;
use super::layers::dropout;
use super::layers::linear::Linear;
use super::layers::norm::GroupNorm;
use super::layers::resample::Fir;
use super::store::Path;
use super::unet2d_config::{Activation, TimeScaleShift, UNet2DConfig};
use crate::error::{Error, Result};

/// What every block of one forward pass is given beside its input.
pub(super) struct Step {
    /// Embedding `[B, E]` of time and class.
    pub emb: Tensor,
    /// The same after the nonlinearity.
    pub act: Tensor,
    /// Whether dropout is on.
    pub train: bool,
}

/// A nonlinearity after a norm, in one pass over memory where there is a kernel for that.
fn activated(norm: &GroupNorm, act: Activation, x: &Tensor) -> Result<Tensor> {
    if act == Activation::Silu { norm.silu(x) } else { act.of(&norm.forward(x)?) }
}

/// `y / divisor`, in place.
#[allow(clippy::float_cmp)]
fn divided(y: &mut Tensor, divisor: f64) -> Result<Tensor> {
    if divisor == 1.0 { Ok(y.shallow_clone()) } else { Ok(y.f_div_scalar_(divisor)?) }
}

/// Twice the height and width by repeating pixels.
pub(super) fn repeat(x: &Tensor) -> Result<Tensor> {
    let size = x.size();
    Ok(x.f_upsample_nearest2d([2 * size[2], 2 * size[3]], Some(2.0), Some(2.0))?)
}

/// Change of resolution inside a residual block, on both ways through it.
#[derive(Debug)]
pub(super) enum Rescale {
    /// None.
    Keep,
    /// Mean over 2x2 pixels.
    Pool,
    /// Repeated pixels.
    Repeat,
    /// The FIR filter of NCSN++, every second pixel.
    FirDown(Fir),
    /// The same filter on twice as many pixels.
    FirUp(Fir),
}

impl Rescale {
    fn apply(&self, x: Tensor) -> Result<Tensor> {
        match self {
            Rescale::Keep => Ok(x),
            Rescale::Pool => Ok(x.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)?),
            Rescale::Repeat => repeat(&x),
            Rescale::FirDown(fir) => fir.down(&x),
            Rescale::FirUp(fir) => fir.up(&x),
        }
    }
}

/// Sizes of a residual block.
#[derive(Debug)]
pub(super) struct Form {
    /// Channels in and out.
    pub channels: (i64, i64),
    /// Groups of the first and the second norm.
    pub groups: (i64, i64),
    /// Divisor of the sum.
    pub divisor: f64,
    /// A convolution on the way around even where the channels stay.
    pub shortcut: bool,
    /// Change of resolution.
    pub rescale: Rescale,
}

impl Form {
    /// The usual block: the groups of the config, a sum that is not divided.
    pub fn plain(config: &UNet2DConfig, channels: (i64, i64)) -> Self {
        let groups = (config.groups(channels.0), config.groups(channels.1));
        Form { channels, groups, divisor: 1.0, shortcut: false, rescale: Rescale::Keep }
    }
}

/// norm1, nonlinearity, change of resolution, conv1, time, norm2, nonlinearity, dropout, conv2; the sum with
/// the shortcut over `divisor`.
#[derive(Debug)]
pub(super) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    rescale: Rescale,
    scale_shift: bool,
    act: Activation,
    dropout: f64,
    divisor: f64,
}

impl Resnet {
    pub fn new(p: &Path, config: &UNet2DConfig, form: Form) -> Result<Self> {
        let ((input, out), eps) = (form.channels, config.norm_eps);
        let scale_shift = config.resnet_time_scale_shift == TimeScaleShift::ScaleShift;
        let time = if scale_shift { 2 * out } else { out };
        Ok(Resnet {
            norm1: GroupNorm::new(&(p / "norm1"), form.groups.0, input, eps)?,
            conv1: Conv2d::new(&(p / "conv1"), input, out, 3)?,
            time: Linear::new(&(p / "time_emb_proj"), config.emb_dim(), time)?,
            norm2: GroupNorm::new(&(p / "norm2"), form.groups.1, out, eps)?,
            conv2: Conv2d::new(&(p / "conv2"), out, out, 3)?,
            shortcut: (form.shortcut || input != out)
                .then(|| Conv2d::new(&(p / "conv_shortcut"), input, out, 1))
                .transpose()?,
            rescale: form.rescale,
            scale_shift,
            act: config.act_fn,
            dropout: config.dropout,
            divisor: form.divisor,
        })
    }

    /// `x` `[B, in, H, W]` to `[B, out, H', W']`.
    pub fn forward(&self, x: &Tensor, step: &Step) -> Result<Tensor> {
        let h = self.rescale.apply(activated(&self.norm1, self.act, x)?)?;
        let x = self.rescale.apply(x.shallow_clone())?;
        let mut h = self.conv1.forward(&h)?;
        let time = self.time.forward(&step.act)?.f_unsqueeze(2)?.f_unsqueeze(3)?;
        let h = if self.scale_shift {
            let parts = time.f_chunk(2, 1)?;
            let h = self.norm2.forward(&h)?.f_mul(&parts[0].f_add_scalar(1.0)?)?.f_add(&parts[1])?;
            self.act.of(&h)?
        } else {
            activated(&self.norm2, self.act, &h.f_add_(&time)?)?
        };
        let mut h = self.conv2.forward(&dropout(h, self.dropout, step.train)?)?;
        let mut y = match &self.shortcut {
            Some(shortcut) => h.f_add_(&shortcut.forward(&x)?)?,
            None => h.f_add_(&x)?,
        };
        divided(&mut y, self.divisor)
    }
}

/// A group norm whose scale and shift follow from the embedding of time.
#[derive(Debug)]
struct AdaptiveNorm {
    linear: Linear,
    groups: i64,
    eps: f64,
}

impl AdaptiveNorm {
    fn new(p: &Path, channels: i64, groups: i64, config: &UNet2DConfig) -> Result<Self> {
        if groups < 1 || channels % groups != 0 {
            return Err(Error::model("group norm is not defined")
                .why(format!("{channels} channels of a K block do not divide into {groups} groups")));
        }
        let linear = Linear::new(&(p / "linear"), config.emb_dim(), 2 * channels)?;
        Ok(AdaptiveNorm { linear, groups, eps: config.norm_eps })
    }

    fn forward(&self, x: &Tensor, emb: &Tensor) -> Result<Tensor> {
        let parts = self.linear.forward(emb)?.f_unsqueeze(2)?.f_unsqueeze(3)?.f_chunk(2, 1)?;
        let y = x.f_group_norm(self.groups, None::<Tensor>, None::<Tensor>, self.eps, false)?;
        Ok(y.f_mul(&parts[0].f_add_scalar(1.0)?)?.f_add(&parts[1])?)
    }
}

/// The residual block of K blocks: norms of 32 channels a group, adapted by the plain embedding.
#[derive(Debug)]
pub(super) struct AdaptiveResnet {
    norm1: AdaptiveNorm,
    conv1: Conv2d,
    norm2: AdaptiveNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    act: Activation,
    dropout: f64,
}

impl AdaptiveResnet {
    pub fn new(
        p: &Path,
        config: &UNet2DConfig,
        (input, out): (i64, i64),
        groups: (i64, i64),
    ) -> Result<Self> {
        Ok(AdaptiveResnet {
            norm1: AdaptiveNorm::new(&(p / "norm1"), input, groups.0, config)?,
            conv1: Conv2d::new(&(p / "conv1"), input, out, 3)?,
            norm2: AdaptiveNorm::new(&(p / "norm2"), out, groups.1, config)?,
            conv2: Conv2d::new(&(p / "conv2"), out, out, 3)?,
            shortcut: (input != out)
                .then(|| Conv2d::without_bias(&(p / "conv_shortcut"), input, out, 1))
                .transpose()?,
            act: config.act_fn,
            dropout: config.dropout,
        })
    }

    /// `x` `[B, in, H, W]` to `[B, out, H, W]`.
    pub fn forward(&self, x: &Tensor, step: &Step) -> Result<Tensor> {
        let h = self.conv1.forward(&self.act.of(&self.norm1.forward(x, &step.emb)?)?)?;
        let h = self.act.of(&self.norm2.forward(&h, &step.emb)?)?;
        let mut h = self.conv2.forward(&dropout(h, self.dropout, step.train)?)?;
        Ok(match &self.shortcut {
            Some(shortcut) => h.f_add_(&shortcut.forward(x)?)?,
            None => h.f_add_(x)?,
        })
    }
}

/// Self-attention with the sum around it.
#[derive(Debug)]
pub(super) struct Attention {
    inner: SplitAttention,
    divisor: f64,
}

impl Attention {
    /// Attention over `channels` channels; the sum is divided by `divisor`.
    pub fn new(
        p: &Path,
        config: &UNet2DConfig,
        channels: i64,
        groups: Option<i64>,
        divisor: f64,
    ) -> Result<Self> {
        let dim = config.attention_head_dim.unwrap_or(channels).max(1);
        let inner = SplitAttention::new(p, channels, (channels / dim, dim), groups, config.norm_eps)
            .map_err(|e| e.hint("look at attention_head_dim"))?;
        Ok(Attention { inner, divisor })
    }

    /// `x` `[B, C, H, W]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.f_add(&self.inner.forward(x)?)?;
        divided(&mut y, self.divisor)
    }
}

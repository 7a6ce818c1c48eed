//! The way down of [`UNet2D`](super::unet2d::UNet2D), and its middle.

use tch::Tensor;

use super::layers::conv::Conv2d;
use super::layers::resample::Fir;
use super::store::Path;
use super::unet2d_config::{DownBlock, MidBlock, Resampler, TimeScaleShift, UNet2DConfig};
use super::unet2d_resnet::{AdaptiveResnet, Attention, Form, Rescale, Resnet, Step};
use crate::error::{Error, Result};

/// Taps of the filters of NCSN++ and of K blocks.
pub(super) const TAPS: [f64; 4] = [1.0, 3.0, 3.0, 1.0];

/// Groups of a norm in the blocks of NCSN++.
pub(super) fn skip_groups(channels: i64) -> i64 {
    (channels / 4).min(32)
}

/// Groups of the norm before attention in the blocks of NCSN++.
pub(super) const SKIP_ATTENTION_GROUPS: i64 = 32;

/// Channels of a group in K blocks.
pub(super) const K_GROUP: i64 = 32;

/// A residual block of either sort and the attention after it.
#[derive(Debug)]
pub(super) enum Layer {
    /// Time is added, or scales and shifts.
    Plain(Box<Resnet>, Option<Attention>),
    /// Time adapts the norms.
    Adaptive(AdaptiveResnet),
}

impl Layer {
    pub fn forward(&self, x: &Tensor, step: &Step) -> Result<Tensor> {
        match self {
            Layer::Plain(block, None) => block.forward(x, step),
            Layer::Plain(block, Some(attention)) => attention.forward(&block.forward(x, step)?),
            Layer::Adaptive(block) => block.forward(x, step),
        }
    }
}

/// What halves the image.
#[derive(Debug)]
enum Halve {
    /// A convolution of stride 2; `end` pads one pixel below and at the right first.
    Conv { conv: Conv2d, end: bool },
    /// A residual block.
    Resnet(Box<Resnet>),
    /// A residual block and the filtered image.
    Skip { block: Box<Resnet>, fir: Fir, conv: Conv2d },
    /// A filter.
    Filter(Fir),
}

/// The shape of a tensor on the way: channels and how often it was halved.
pub(super) type Spot = (i64, usize);

/// What is known of the tensors while blocks are built.
#[derive(Debug)]
pub(super) struct Trail {
    /// Channels of the image.
    pub image: i64,
    /// How often the image that goes along the blocks of NCSN++ was halved.
    pub image_level: usize,
    /// The same for the output image that blocks of NCSN++ write on the way up, if one has begun.
    pub picture_level: Option<usize>,
    /// The tensor that goes from block to block.
    pub at: Spot,
    /// Tensors kept for the way up.
    pub skips: Vec<Spot>,
}

/// A block of the way down.
#[derive(Debug)]
pub(super) struct Down {
    layers: Vec<Layer>,
    halve: Option<Halve>,
}

impl Down {
    /// The `index`-th block at `p`.
    pub fn new(p: &Path, config: &UNet2DConfig, index: usize, trail: &mut Trail) -> Result<Self> {
        let (kind, out) = (config.down_block_types[index], config.block_out_channels[index]);
        let last = index + 1 == config.block_out_channels.len();
        let (mut width, level) = trail.at;
        let mut layers = Vec::new();
        for j in 0..config.layers_per_block {
            let r = p / format!("resnets.{j}");
            let layer = if kind == DownBlock::KDownBlock2D {
                let groups = (width / K_GROUP, out / K_GROUP);
                Layer::Adaptive(AdaptiveResnet::new(&r, config, (width, out), groups)?)
            } else {
                let form = if kind.skips() {
                    skip_form((width, out), Rescale::Keep)
                } else {
                    Form::plain(config, (width, out))
                };
                let divisor = form.divisor;
                let block = Resnet::new(&r, config, form)?;
                let groups = if kind.skips() { SKIP_ATTENTION_GROUPS } else { config.groups(out) };
                let attention = kind
                    .attends()
                    .then(|| {
                        Attention::new(&(p / format!("attentions.{j}")), config, out, Some(groups), divisor)
                    })
                    .transpose()?;
                Layer::Plain(Box::new(block), attention)
            };
            layers.push(layer);
            width = out;
            trail.skips.push((out, level));
        }
        let halve = if last { None } else { Some(Halve::new(p, config, kind, out, trail)?) };
        trail.at = (out, if last { level } else { level + 1 });
        if halve.is_some() && kind != DownBlock::KDownBlock2D {
            trail.skips.push(trail.at);
        }
        Ok(Down { layers, halve })
    }

    /// `h` and what it leaves in `skips`; `image` is the input that goes along.
    pub fn forward(
        &self,
        mut h: Tensor,
        step: &Step,
        skips: &mut Vec<Tensor>,
        image: &mut Tensor,
    ) -> Result<Tensor> {
        for layer in &self.layers {
            h = layer.forward(&h, step)?;
            skips.push(h.shallow_clone());
        }
        h = match &self.halve {
            None => return Ok(h),
            Some(Halve::Filter(fir)) => return fir.down_mirrored(&h),
            Some(Halve::Conv { conv, end: true }) => conv.forward(&h.f_constant_pad_nd([0, 1, 0, 1])?)?,
            Some(Halve::Conv { conv, end: false }) => conv.forward(&h)?,
            Some(Halve::Resnet(block)) => block.forward(&h, step)?,
            Some(Halve::Skip { block, fir, conv }) => {
                h = block.forward(&h, step)?;
                *image = fir.down(image)?;
                conv.forward(image)?.f_add(&h)?
            }
        };
        skips.push(h.shallow_clone());
        Ok(h)
    }
}

/// A residual block of NCSN++.
pub(super) fn skip_form(channels: (i64, i64), rescale: Rescale) -> Form {
    Form {
        channels,
        groups: (skip_groups(channels.0), skip_groups(channels.1)),
        divisor: std::f64::consts::SQRT_2,
        shortcut: !matches!(rescale, Rescale::Keep),
        rescale,
    }
}

impl Halve {
    fn new(p: &Path, config: &UNet2DConfig, kind: DownBlock, width: i64, trail: &mut Trail) -> Result<Self> {
        let d = p / "downsamplers.0";
        let resnet = || {
            let form = Form { rescale: Rescale::Pool, ..Form::plain(config, (width, width)) };
            Ok(Halve::Resnet(Box::new(Resnet::new(&d, config, form)?)))
        };
        match kind {
            DownBlock::KDownBlock2D => Ok(Halve::Filter(Fir::unnamed(p.store(), &TAPS)?)),
            DownBlock::ResnetDownsampleBlock2D => resnet(),
            DownBlock::AttnDownBlock2D if config.downsample_type == Resampler::Resnet => resnet(),
            DownBlock::DownBlock2D | DownBlock::AttnDownBlock2D => {
                let conv = Conv2d::new(&(&d / "conv"), width, width, 3)?;
                let end = config.downsample_padding == 0;
                Ok(Halve::Conv { conv: conv.strided(2, config.downsample_padding), end })
            }
            DownBlock::SkipDownBlock2D | DownBlock::AttnSkipDownBlock2D => {
                if trail.image != 3 || trail.image_level != trail.at.1 {
                    return Err(Error::model("config key `down_block_types`").why(if trail.image == 3 {
                        "a SkipDownBlock2D cannot follow a block that halves the image without it".to_owned()
                    } else {
                        format!("a SkipDownBlock2D needs images of 3 channels, not of {}", trail.image)
                    }));
                }
                trail.image_level += 1;
                let fir = || Fir::unnamed(p.store(), &TAPS);
                let form = skip_form((width, width), Rescale::FirDown(fir()?));
                Ok(Halve::Skip {
                    block: Box::new(Resnet::new(&(p / "resnet_down"), config, form)?),
                    fir: fir()?,
                    conv: Conv2d::new(&(p / "skip_conv"), 3, width, 1)?,
                })
            }
        }
    }
}

/// The middle.
#[derive(Debug)]
pub(super) struct Mid {
    first: Resnet,
    attention: Option<Attention>,
    second: Resnet,
}

impl Mid {
    /// The middle at `p` over `width` channels, if there is one.
    pub fn new(p: &Path, config: &UNet2DConfig, width: i64) -> Result<Option<Self>> {
        if config.mid_block_type == MidBlock::Nothing {
            return Ok(None);
        }
        let divisor = config.mid_block_scale_factor;
        let form = || Form { divisor, ..Form::plain(config, (width, width)) };
        // diffusers leaves this norm out where time enters as scale and shift.
        let added = config.resnet_time_scale_shift == TimeScaleShift::Default;
        let groups = config.attn_norm_num_groups.or_else(|| added.then(|| config.groups(width)));
        Ok(Some(Mid {
            first: Resnet::new(&(p / "resnets.0"), config, form())?,
            attention: config
                .add_attention
                .then(|| Attention::new(&(p / "attentions.0"), config, width, groups, divisor))
                .transpose()?,
            second: Resnet::new(&(p / "resnets.1"), config, form())?,
        }))
    }

    pub fn forward(&self, h: &Tensor, step: &Step) -> Result<Tensor> {
        let mut h = self.first.forward(h, step)?;
        if let Some(attention) = &self.attention {
            h = attention.forward(&h)?;
        }
        self.second.forward(&h, step)
    }
}

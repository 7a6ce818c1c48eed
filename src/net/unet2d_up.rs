//! The way up of [`UNet2D`](super::unet2d::UNet2D).

use tch::Tensor;

use super::layers::conv::Conv2d;
use super::layers::norm::GroupNorm;
use super::layers::resample::Fir;
use super::store::Path;
use super::unet2d_config::{Resampler, UNet2DConfig, UpBlock};
use super::unet2d_down::{K_GROUP, Layer, SKIP_ATTENTION_GROUPS, Spot, TAPS, Trail, skip_form, skip_groups};
use super::unet2d_resnet::{AdaptiveResnet, Attention, Form, Rescale, Resnet, Step, repeat};
use crate::error::{Error, Result};

/// What doubles the image.
#[derive(Debug)]
enum Double {
    /// A convolution of the repeated pixels.
    Conv(Conv2d),
    /// A residual block.
    Resnet(Box<Resnet>),
    /// A filter.
    Filter(Fir),
}

/// How a block of NCSN++ writes its part of the output image.
#[derive(Debug)]
struct Picture {
    /// Brings the parts written so far to this resolution.
    fir: Fir,
    /// Writes this block's part, unless it is the last one.
    write: Option<(GroupNorm, Conv2d)>,
}

/// A block of the way up.
#[derive(Debug)]
pub(super) struct Up {
    layers: Vec<Layer>,
    /// Attention after all layers (NCSN++, score_sde's DDPM).
    attention: Option<Attention>,
    picture: Option<Picture>,
    double: Option<Double>,
}

fn wrong(why: String) -> Error {
    Error::model("config key `up_block_types`").why(why)
}

fn no_skip() -> Error {
    wrong("the blocks of the way up take more tensors than the way down gives".to_owned())
}

/// Checks that a block finds the tensors it is built for.
fn joined(trail: &Trail, hidden: i64, skip: i64, found: Spot) -> Result<i64> {
    if trail.at.0 != hidden || found != (skip, trail.at.1) {
        return Err(wrong(format!(
            "these blocks do not fit together: one expects {hidden} and {skip} channels of one size, but \
             gets {} halved {} times and {} halved {} times",
            trail.at.0, trail.at.1, found.0, found.1
        )));
    }
    Ok(hidden + skip)
}

impl Up {
    /// The `index`-th block at `p`.
    pub fn new(p: &Path, config: &UNet2DConfig, index: usize, trail: &mut Trail) -> Result<Self> {
        let kind = config.up_block_types[index];
        let widths: Vec<i64> = config.block_out_channels.iter().rev().copied().collect();
        let last = index + 1 == widths.len();
        let out = widths[index];
        let next = if last { out } else { widths[index + 1] };
        if kind == UpBlock::KUpBlock2D {
            return Self::adaptive(p, config, (out, next), last, trail);
        }
        // The convolutions of diffusers are sized by the widths of the config, whatever the blocks are.
        let mut hidden = if index == 0 { out } else { widths[index - 1] };
        let mut layers = Vec::new();
        for j in 0..=config.layers_per_block {
            let skip = if j == config.layers_per_block { next } else { out };
            let found = trail.skips.pop().ok_or_else(no_skip)?;
            let channels = (joined(trail, hidden, skip, found)?, out);
            let mut form =
                if kind.skips() { skip_form(channels, Rescale::Keep) } else { Form::plain(config, channels) };
            if kind == UpBlock::AttnSkipUpBlock2D {
                // diffusers quarters only the second of the two widths here.
                form.groups.0 = (hidden + skip / 4).min(32);
            }
            let block = Resnet::new(&(p / format!("resnets.{j}")), config, form)?;
            let attention = (kind == UpBlock::AttnUpBlock2D)
                .then(|| {
                    let groups = Some(config.groups(out));
                    Attention::new(&(p / format!("attentions.{j}")), config, out, groups, 1.0)
                })
                .transpose()?;
            layers.push(Layer::Plain(Box::new(block), attention));
            (hidden, trail.at.0) = (out, out);
        }
        let attention = match kind {
            UpBlock::AttnSkipUpBlock2D => Some((SKIP_ATTENTION_GROUPS, std::f64::consts::SQRT_2)),
            UpBlock::LastAttnUpBlock2D => Some((config.groups(out), 1.0)),
            _ => None,
        };
        let attention = attention
            .map(|(groups, divisor)| {
                Attention::new(&(p / "attentions.0"), config, out, Some(groups), divisor)
            })
            .transpose()?;
        let picture = kind.skips().then(|| Picture::new(p, config, out, last, trail)).transpose()?;
        let double = (!last).then(|| Double::new(p, config, kind, out)).transpose()?;
        trail.at.1 = trail.at.1.saturating_sub(usize::from(!last));
        Ok(Up { layers, attention, picture, double })
    }

    /// A block of adaptive norms: one tensor of the way down for all its layers, one layer less, and the
    /// last layer makes the width of the next block.
    fn adaptive(
        p: &Path,
        config: &UNet2DConfig,
        (out, next): (i64, i64),
        last: bool,
        trail: &mut Trail,
    ) -> Result<Self> {
        let n = config.layers_per_block;
        let found = trail.skips.pop().ok_or_else(no_skip)?;
        for _ in 1..n {
            let _ = trail.skips.pop().ok_or_else(no_skip)?;
        }
        let mut width = joined(trail, out, out, found)?;
        let mut layers = Vec::new();
        for j in 0..n {
            let to = if j + 1 == n { next } else { out };
            let groups = (width / K_GROUP, out / K_GROUP);
            let r = p / format!("resnets.{j}");
            layers.push(Layer::Adaptive(AdaptiveResnet::new(&r, config, (width, to), groups)?));
            width = to;
        }
        let double = if last { None } else { Some(Double::Filter(Fir::unnamed(p.store(), &TAPS)?)) };
        trail.at = (width, trail.at.1.saturating_sub(usize::from(!last)));
        Ok(Up { layers, attention: None, picture: None, double })
    }

    /// `h` with what it takes from `skips`; `image` collects the parts of the output image.
    pub fn forward(
        &self,
        mut h: Tensor,
        step: &Step,
        skips: &mut Vec<Tensor>,
        image: &mut Option<Tensor>,
    ) -> Result<Tensor> {
        let mut join = |h: Tensor| -> Result<Tensor> {
            let skip = skips.pop().ok_or_else(no_skip)?;
            Ok(Tensor::f_cat(&[h, skip], 1)?)
        };
        for (i, layer) in self.layers.iter().enumerate() {
            match layer {
                Layer::Plain(..) => h = join(h)?,
                Layer::Adaptive(_) if i == 0 => h = join(h)?,
                // The tensor is passed over.
                Layer::Adaptive(_) => {}
            }
            h = layer.forward(&h, step)?;
        }
        if matches!(self.layers.first(), Some(Layer::Adaptive(_))) {
            skips.truncate(skips.len().saturating_sub(self.layers.len() - 1));
        }
        if let Some(attention) = &self.attention {
            h = attention.forward(&h)?;
        }
        if let Some(picture) = &self.picture {
            *image = picture.forward(image.as_ref(), &h)?;
        }
        match &self.double {
            None => Ok(h),
            Some(Double::Conv(conv)) => conv.forward(&repeat(&h)?),
            Some(Double::Resnet(block)) => block.forward(&h, step),
            Some(Double::Filter(fir)) => fir.up_mirrored(&h),
        }
    }
}

impl Double {
    fn new(p: &Path, config: &UNet2DConfig, kind: UpBlock, width: i64) -> Result<Self> {
        let u = p / "upsamplers.0";
        let resnet = || {
            let form = Form { rescale: Rescale::Repeat, ..Form::plain(config, (width, width)) };
            Ok(Double::Resnet(Box::new(Resnet::new(&u, config, form)?)))
        };
        match kind {
            UpBlock::KUpBlock2D => Ok(Double::Filter(Fir::unnamed(p.store(), &TAPS)?)),
            UpBlock::ResnetUpsampleBlock2D => resnet(),
            UpBlock::AttnUpBlock2D if config.upsample_type == Resampler::Resnet => resnet(),
            UpBlock::UpBlock2D | UpBlock::AttnUpBlock2D | UpBlock::LastAttnUpBlock2D => {
                Ok(Double::Conv(Conv2d::new(&(&u / "conv"), width, width, 3)?))
            }
            UpBlock::SkipUpBlock2D | UpBlock::AttnSkipUpBlock2D => {
                let form = skip_form((width, width), Rescale::FirUp(Fir::unnamed(p.store(), &TAPS)?));
                Ok(Double::Resnet(Box::new(Resnet::new(&(p / "resnet_up"), config, form)?)))
            }
        }
    }
}

impl Picture {
    fn new(p: &Path, config: &UNet2DConfig, width: i64, last: bool, trail: &mut Trail) -> Result<Self> {
        let level = trail.at.1;
        if trail.picture_level.is_some_and(|begun| begun != level + 1) {
            return Err(wrong(
                "a SkipUpBlock2D cannot follow a block that doubles the image without it".into(),
            ));
        }
        trail.picture_level = (!last || trail.picture_level.is_some()).then_some(level);
        let write = || -> Result<(GroupNorm, Conv2d)> {
            let norm = GroupNorm::new(&(p / "skip_norm"), skip_groups(width), width, config.norm_eps)?;
            Ok((norm, Conv2d::new(&(p / "skip_conv"), width, 3, 3)?))
        };
        Ok(Picture { fir: Fir::unnamed(p.store(), &TAPS)?, write: (!last).then(write).transpose()? })
    }

    /// The parts so far at this block's resolution, with its own.
    fn forward(&self, image: Option<&Tensor>, h: &Tensor) -> Result<Option<Tensor>> {
        let image = image.map(|image| self.fir.up(image)).transpose()?;
        let Some((norm, conv)) = &self.write else { return Ok(image) };
        let part = conv.forward(&norm.silu(h)?)?;
        Ok(Some(match image {
            Some(image) => image.f_add(&part)?,
            None => part,
        }))
    }
}

//! The U-Net of DDPM (Ho et al. 2020, appendix B) with the parameter names of diffusers' `UNet2DModel`.

use tch::Tensor;

use super::layers::attention::SplitAttention;
use super::layers::conv::Conv2d;
use super::layers::embed::{Sinusoid, checked_class, one_hot};
use super::layers::init::Init;
use super::layers::linear::Linear;
use super::layers::norm::GroupNorm;
use super::layers::{dropout, silu};
use super::unet2d_config::{DownBlock, TimeScaleShift, UNet2DConfig, UpBlock};
use super::{Cond, Mode, Network};
use crate::error::{Error, Result};
use crate::net::store::Path;

/// norm1, SiLU, conv1, time, norm2, SiLU, dropout, conv2; the sum with the shortcut over `divisor`.
#[derive(Debug)]
struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    scale_shift: bool,
    dropout: f64,
    divisor: f64,
}

impl Resnet {
    fn new(
        p: &Path,
        (input, out): (i64, i64),
        emb: i64,
        divisor: f64,
        config: &UNet2DConfig,
    ) -> Result<Self> {
        let (groups, eps) = (config.norm_num_groups, config.norm_eps);
        let scale_shift = config.resnet_time_scale_shift == TimeScaleShift::ScaleShift;
        Ok(Resnet {
            norm1: GroupNorm::new(&(p / "norm1"), groups, input, eps)?,
            conv1: Conv2d::new(&(p / "conv1"), input, out, 3)?,
            time: Linear::new(&(p / "time_emb_proj"), emb, if scale_shift { 2 * out } else { out })?,
            norm2: GroupNorm::new(&(p / "norm2"), groups, out, eps)?,
            conv2: Conv2d::new(&(p / "conv2"), out, out, 3)?,
            shortcut: (input != out)
                .then(|| Conv2d::new(&(p / "conv_shortcut"), input, out, 1))
                .transpose()?,
            scale_shift,
            dropout: config.dropout,
            divisor,
        })
    }

    /// `x` `[B, in, H, W]`; `emb` `[B, E]` is the embedding of time after SiLU.
    fn forward(&self, x: &Tensor, emb: &Tensor, train: bool) -> Result<Tensor> {
        let mut h = self.conv1.forward(&self.norm1.silu(x)?)?;
        let time = self.time.forward(emb)?.f_unsqueeze(2)?.f_unsqueeze(3)?;
        let h = if self.scale_shift {
            let parts = time.f_chunk(2, 1)?;
            silu(self.norm2.forward(&h)?.f_mul(&parts[0].f_add_scalar(1.0)?)?.f_add(&parts[1])?)?
        } else {
            self.norm2.silu(&h.f_add_(&time)?)?
        };
        let h = dropout(h, self.dropout, train)?;
        let mut h = self.conv2.forward(&h)?;
        let mut y = match &self.shortcut {
            Some(shortcut) => h.f_add_(&shortcut.forward(x)?)?,
            None => h.f_add_(x)?,
        };
        divided(&mut y, self.divisor)
    }
}

#[allow(clippy::float_cmp)]
fn divided(y: &mut Tensor, divisor: f64) -> Result<Tensor> {
    if divisor == 1.0 { Ok(y.shallow_clone()) } else { Ok(y.f_div_scalar_(divisor)?) }
}

#[derive(Debug)]
struct Attention {
    inner: SplitAttention,
    divisor: f64,
}

impl Attention {
    fn new(p: &Path, channels: i64, norm: bool, divisor: f64, config: &UNet2DConfig) -> Result<Self> {
        let heads = match config.attention_head_dim {
            None => 1,
            Some(dim) if dim > 0 && channels % dim == 0 => channels / dim,
            Some(dim) => {
                return Err(Error::model("attention is not defined")
                    .why(format!("{channels} channels do not divide into heads of {dim}")));
            }
        };
        let groups = norm.then_some(config.norm_num_groups);
        let inner = SplitAttention::new(p, channels, heads, groups, config.norm_eps)?;
        Ok(Attention { inner, divisor })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.f_add(&self.inner.forward(x)?)?;
        divided(&mut y, self.divisor)
    }
}

/// A residual block and what follows it.
type Layer = (Resnet, Option<Attention>);

#[derive(Debug)]
struct Level {
    layers: Vec<Layer>,
    /// The convolution at the change of resolution, unless this is the last level.
    resample: Option<Conv2d>,
}

/// The network.
#[derive(Debug)]
pub struct UNet2D {
    shape: Vec<i64>,
    classes: i64,
    center: bool,
    /// Padding below and at the right before a downsampling convolution.
    pad_end: bool,
    time: Sinusoid,
    linear_1: Linear,
    linear_2: Linear,
    class_embedding: Option<Tensor>,
    conv_in: Conv2d,
    down: Vec<Level>,
    mid: (Resnet, Option<Attention>, Resnet),
    up: Vec<Level>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet2D {
    /// The network for samples of `shape` `[C, H, W]` and `classes` classes (0 for none) at `p`.
    ///
    /// # Errors
    /// Where the options do not make a network for this shape, or libtorch fails.
    pub fn new(p: &Path, config: &UNet2DConfig, shape: &[i64], classes: i64) -> Result<Self> {
        let channels = config.check(shape)?;
        let widths = &config.block_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let emb = 4 * first;
        let resnet = |p: &Path, io, divisor| Resnet::new(p, io, emb, divisor, config);

        let conv_in = Conv2d::new(&(p / "conv_in"), channels, first, 3)?;
        let time = Sinusoid::new(p, first, config.freq_shift, config.flip_sin_to_cos)?;
        let linear_1 = Linear::new(&(p / "time_embedding.linear_1"), first, emb)?;
        let linear_2 = Linear::new(&(p / "time_embedding.linear_2"), emb, emb)?;
        let class_embedding = (classes > 0)
            .then(|| (p / "class_embedding").param("weight", &[classes, emb], Init::Normal(1.0)))
            .transpose()?;

        let mut down = Vec::new();
        let mut skips = vec![first];
        let mut width = first;
        for (i, (&out, kind)) in widths.iter().zip(&config.down_block_types).enumerate() {
            let p = p / format!("down_blocks.{i}");
            let mut layers = Vec::new();
            for j in 0..config.layers_per_block {
                let block = resnet(&(&p / format!("resnets.{j}")), (width, out), 1.0)?;
                let attention = (*kind == DownBlock::AttnDownBlock2D)
                    .then(|| Attention::new(&(&p / format!("attentions.{j}")), out, true, 1.0, config))
                    .transpose()?;
                layers.push((block, attention));
                width = out;
                skips.push(width);
            }
            let resample = if i + 1 < widths.len() {
                skips.push(width);
                let conv = Conv2d::new(&(&p / "downsamplers.0.conv"), width, width, 3)?;
                Some(conv.strided(2, config.downsample_padding))
            } else {
                None
            };
            down.push(Level { layers, resample });
        }

        let divisor = config.mid_block_scale_factor;
        let m = p / "mid_block";
        // diffusers leaves this norm out where time enters as scale and shift.
        let norm = config.resnet_time_scale_shift == TimeScaleShift::Default;
        let mid_attention = config
            .add_attention
            .then(|| Attention::new(&(&m / "attentions.0"), last, norm, divisor, config))
            .transpose()?;
        let mid = (
            resnet(&(&m / "resnets.0"), (last, last), divisor)?,
            mid_attention,
            resnet(&(&m / "resnets.1"), (last, last), divisor)?,
        );

        let mut up = Vec::new();
        for (i, (&out, kind)) in widths.iter().rev().zip(&config.up_block_types).enumerate() {
            let p = p / format!("up_blocks.{i}");
            let mut layers = Vec::new();
            for j in 0..=config.layers_per_block {
                let skip = skips.pop().ok_or_else(|| Error::model("the U-Net has too few skips"))?;
                let block = resnet(&(&p / format!("resnets.{j}")), (width + skip, out), 1.0)?;
                let attention = (*kind == UpBlock::AttnUpBlock2D)
                    .then(|| Attention::new(&(&p / format!("attentions.{j}")), out, true, 1.0, config))
                    .transpose()?;
                layers.push((block, attention));
                width = out;
            }
            let resample = (i + 1 < widths.len())
                .then(|| Conv2d::new(&(&p / "upsamplers.0.conv"), width, width, 3))
                .transpose()?;
            up.push(Level { layers, resample });
        }

        let (groups, eps) = (config.norm_num_groups, config.norm_eps);
        Ok(UNet2D {
            shape: shape.to_vec(),
            classes,
            center: config.center_input_sample,
            pad_end: config.downsample_padding == 0,
            time,
            linear_1,
            linear_2,
            class_embedding,
            conv_in,
            down,
            mid,
            up,
            conv_norm_out: GroupNorm::new(&(p / "conv_norm_out"), groups, first, eps)?,
            conv_out: Conv2d::new(&(p / "conv_out"), first, channels, 3)?,
        })
    }

    /// SiLU of the embedding `[B, E]` of time and class: what every residual block uses.
    fn embed(&self, t: &Tensor, class: Option<&Tensor>) -> Result<Tensor> {
        let emb = silu(self.linear_1.forward(&self.time.forward(t)?)?)?;
        let mut emb = self.linear_2.forward(&emb)?;
        let class = checked_class(class, self.classes, emb.size()[0])?;
        if let (Some(class), Some(table)) = (class, &self.class_embedding) {
            emb = emb.f_add(&one_hot(&class, self.classes, table.kind())?.f_matmul(table)?)?;
        }
        silu(emb)
    }
}

impl Network for UNet2D {
    fn forward(&self, x: &Tensor, t: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        let train = mode == Mode::Train;
        let emb = self.embed(t, cond.class.as_ref())?;
        let run = |(block, attention): &Layer, h: &Tensor| -> Result<Tensor> {
            let h = block.forward(h, &emb, train)?;
            attention.as_ref().map_or_else(|| Ok(h.shallow_clone()), |a| a.forward(&h))
        };
        let mut h = if self.center {
            self.conv_in.forward(&x.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?)?
        } else {
            self.conv_in.forward(x)?
        };
        let mut skips = vec![h.shallow_clone()];
        for level in &self.down {
            for layer in &level.layers {
                h = run(layer, &h)?;
                skips.push(h.shallow_clone());
            }
            if let Some(conv) = &level.resample {
                h = if self.pad_end {
                    conv.forward(&h.f_constant_pad_nd([0, 1, 0, 1])?)?
                } else {
                    conv.forward(&h)?
                };
                skips.push(h.shallow_clone());
            }
        }
        let (first, attention, second) = &self.mid;
        h = first.forward(&h, &emb, train)?;
        if let Some(attention) = attention {
            h = attention.forward(&h)?;
        }
        h = second.forward(&h, &emb, train)?;
        for level in &self.up {
            for layer in &level.layers {
                let skip = skips.pop().ok_or_else(|| Error::model("the U-Net has too few skips"))?;
                h = run(layer, &Tensor::f_cat(&[h, skip], 1)?)?;
            }
            if let Some(conv) = &level.resample {
                let size = h.size();
                h = conv.forward(&h.f_upsample_nearest2d(
                    [2 * size[2], 2 * size[3]],
                    Some(2.0),
                    Some(2.0),
                )?)?;
            }
        }
        self.conv_out.forward(&self.conv_norm_out.silu(&h)?)
    }

    fn sample_shape(&self) -> &[i64] {
        &self.shape
    }

    fn classes(&self) -> i64 {
        self.classes
    }
}

/// Brings the names of older diffusers files (`query`, `key`, `value`, `proj_attn`) to today's.
#[must_use]
pub fn current_name(name: &str) -> String {
    const OLD: [(&str, &str); 4] =
        [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];
    let found = OLD.iter().find(|(old, _)| name.contains("attentions.") && name.contains(old));
    found.map_or_else(|| name.to_owned(), |(old, new)| name.replace(old, new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_attention_names_are_mapped() {
        assert_eq!(
            current_name("mid_block.attentions.0.proj_attn.bias"),
            "mid_block.attentions.0.to_out.0.bias"
        );
        assert_eq!(
            current_name("down_blocks.1.attentions.1.key.weight"),
            "down_blocks.1.attentions.1.to_k.weight"
        );
        assert_eq!(current_name("conv_in.weight"), "conv_in.weight");
    }
}

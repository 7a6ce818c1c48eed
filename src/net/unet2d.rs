//! The U-Net of DDPM (Ho et al. 2020, appendix B) and of NCSN++ (Song et al. 2021, appendix H) with the
//! options and parameter names of diffusers' `UNet2DModel`.

use tch::Tensor;

use super::layers::conv::Conv2d;
use super::layers::norm::GroupNorm;
use super::unet2d_config::{TimeEmbedding, UNet2DConfig};
use super::unet2d_down::{Down, Mid, Trail};
use super::unet2d_time::Embedding;
use super::unet2d_up::Up;
use super::{Cond, Mode, Network};
use crate::error::{Error, Result};
use crate::net::store::Path;

/// The network.
///
/// Its time is the index of a table of noise levels (positional and learned embeddings), or the noise level
/// sigma itself (Fourier features, whose output is divided by sigma). Class indices go into
/// [`Cond::class`]; with `class_embed_type` identity it holds vectors `[B, E]` instead.
#[derive(Debug)]
pub struct UNet2D {
    config: UNet2DConfig,
    shape: Vec<i64>,
    classes: i64,
    embedding: Embedding,
    conv_in: Conv2d,
    down: Vec<Down>,
    mid: Option<Mid>,
    up: Vec<Up>,
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
        let levels = config.block_out_channels.len();
        let first = config.block_out_channels[0];

        let conv_in = Conv2d::new(&(p / "conv_in"), channels, first, 3)?;
        let embedding = Embedding::new(p, config, classes)?;
        let mut trail = Trail {
            image: channels,
            image_level: 0,
            picture_level: None,
            at: (first, 0),
            skips: vec![(first, 0)],
        };
        let down = (0..levels)
            .map(|i| Down::new(&(p / format!("down_blocks.{i}")), config, i, &mut trail))
            .collect::<Result<Vec<_>>>()?;
        let mid = Mid::new(&(p / "mid_block"), config, trail.at.0)?;
        let up = (0..levels)
            .map(|i| Up::new(&(p / format!("up_blocks.{i}")), config, i, &mut trail))
            .collect::<Result<Vec<_>>>()?;

        let out = config.out_channels.unwrap_or(channels);
        let wrong = |why: &str| Err(Error::model("config key `up_block_types`").why(why));
        if trail.at != (first, 0) {
            return wrong("the last block does not end with the first of block_out_channels");
        }
        match trail.picture_level {
            Some(level) if level > 0 => return wrong("a SkipUpBlock2D needs others up to the last block"),
            Some(_) if out != 3 => return wrong("a SkipUpBlock2D writes images of 3 channels only"),
            _ => {}
        }
        let norm = GroupNorm::new(&(p / "conv_norm_out"), config.groups(first), first, config.norm_eps)?;
        Ok(UNet2D {
            config: config.clone(),
            shape: shape.to_vec(),
            classes,
            embedding,
            conv_in,
            down,
            mid,
            up,
            conv_norm_out: norm,
            conv_out: Conv2d::new(&(p / "conv_out"), first, out, 3)?,
        })
    }
}

impl Network for UNet2D {
    fn forward(&self, x: &Tensor, t: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        let step = self.embedding.forward(t, cond.class.as_ref(), &self.config, mode == Mode::Train)?;
        let mut image = if self.config.center_input_sample {
            x.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?
        } else {
            x.shallow_clone()
        };
        let mut h = self.conv_in.forward(&image)?;
        let mut skips = vec![h.shallow_clone()];
        for block in &self.down {
            h = block.forward(h, &step, &mut skips, &mut image)?;
        }
        if let Some(mid) = &self.mid {
            h = mid.forward(&h, &step)?;
        }
        let mut picture = None;
        for block in &self.up {
            h = block.forward(h, &step, &mut skips, &mut picture)?;
        }
        let mut y = self.conv_out.forward(&self.conv_norm_out.silu(&h)?)?;
        if let Some(picture) = picture {
            y = y.f_add(&picture)?;
        }
        if y.size()[1] != self.shape[0] {
            y = y.f_narrow(1, 0, self.shape[0])?;
        }
        if self.config.time_embedding_type == TimeEmbedding::Fourier {
            // Where y has 16 bits, t has more, and so has the quotient.
            y = y.f_div(&t.f_view([-1, 1, 1, 1])?)?;
        }
        Ok(y)
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

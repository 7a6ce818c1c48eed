//! The U-Net of ADM (Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis") in the form of
//! EDM (Karras et al. 2022, appendix F and Table 7: `DhariwalUNet`), parameters named as in EDM's state dict.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::layers::conv::{FirConv2d, Resample};
use super::layers::embed::{Sinusoid, checked_class, one_hot};
use super::layers::init::Init;
use super::layers::linear::Linear;
use super::layers::norm::GroupNorm;
use super::layers::silu;
use super::song_block::{Block, Family, Shared, groups};
use super::{Cond, Mode, Network};
use crate::error::{Error, Result};
use crate::net::store::Path;

/// Options of the network, as EDM names them. Defaults are those of EDM for ImageNet at 64 x 64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdmConfig {
    /// Base number of channels.
    pub model_channels: i64,
    /// Multiple of the base at each resolution, from the highest on.
    pub channel_mult: Vec<i64>,
    /// Width of the embedding as a multiple of the base.
    pub channel_mult_emb: i64,
    /// Residual blocks per resolution.
    pub num_blocks: i64,
    /// Resolutions with attention.
    pub attn_resolutions: Vec<i64>,
    /// Channels of an attention head.
    pub head_channels: i64,
    /// Dropout probability inside blocks.
    pub dropout: f64,
    /// Probability of leaving the class out in training.
    pub label_dropout: f64,
    /// Number of augmentation parameters; 0 for none.
    pub augment_dim: i64,
    /// Twice the channels at the output, of which the second half (a variance) is left alone.
    pub learn_sigma: bool,
}

impl Default for AdmConfig {
    fn default() -> Self {
        AdmConfig {
            model_channels: 192,
            channel_mult: vec![1, 2, 3, 4],
            channel_mult_emb: 4,
            num_blocks: 3,
            attn_resolutions: vec![32, 16, 8],
            head_channels: 64,
            dropout: 0.1,
            label_dropout: 0.0,
            augment_dim: 0,
            learn_sigma: false,
        }
    }
}

impl AdmConfig {
    /// Checks that the options make a network for samples of `shape`; returns its channels and side.
    fn check(&self, shape: &[i64]) -> Result<(i64, i64)> {
        let wrong = |why: String| Err(Error::model("the U-Net is not defined").why(why));
        let &[channels, height, width] = shape else {
            return wrong(format!("it needs images, not samples of shape {shape:?}"));
        };
        let levels = self.channel_mult.len();
        if levels == 0 || levels > 16 || self.num_blocks < 1 || self.model_channels < 4 {
            return wrong("it needs at least one resolution, one block and four channels".into());
        }
        if self.head_channels < 1 || self.channel_mult_emb < 1 || self.channel_mult.iter().any(|&m| m < 1) {
            return wrong("channel_mult, channel_mult_emb and head_channels must be positive".into());
        }
        let factor = 1i64 << (levels - 1);
        if height != width || height % factor != 0 || height < factor {
            return wrong(format!("images of {height}x{width} cannot be halved {} times", levels - 1));
        }
        for (name, p) in [("dropout", self.dropout), ("label_dropout", self.label_dropout)] {
            if !(0.0..1.0).contains(&p) {
                return wrong(format!("{name} = {p} is not in [0, 1)"));
            }
        }
        Ok((channels, height))
    }
}

/// The network.
#[derive(Debug)]
pub struct Adm {
    shape: Vec<i64>,
    classes: i64,
    augment_dim: i64,
    label_dropout: f64,
    learn_sigma: bool,
    noise: Sinusoid,
    map_augment: Option<Linear>,
    map_layer0: Linear,
    map_layer1: Linear,
    map_label: Option<Linear>,
    conv_in: FirConv2d,
    enc: Vec<Block>,
    dec: Vec<Block>,
    out_norm: GroupNorm,
    out_conv: FirConv2d,
}

impl Adm {
    /// The network for samples of `shape` `[C, H, H]` and `classes` classes (0 for none) at `p`.
    ///
    /// # Errors
    /// Where the options do not make a network for this shape, or libtorch fails.
    pub fn new(p: &Path, config: &AdmConfig, shape: &[i64], classes: i64) -> Result<Self> {
        let (channels, resolution) = config.check(shape)?;
        let base = config.model_channels;
        let emb = base * config.channel_mult_emb;
        let family = Family::Adm { head: config.head_channels };
        let shared = Shared {
            emb,
            dropout: config.dropout,
            skip_scale: 1.0,
            eps: 1e-5,
            filter: vec![1.0, 1.0],
            family,
        };
        let conv =
            |p: &Path, io: (i64, i64), init| FirConv2d::new(p, io, 3, init, Resample::Keep, &shared.filter);
        let block =
            |p: &Path, io: (i64, i64), resample, attention| Block::new(p, io, resample, attention, &shared);

        let noise = Sinusoid::new(p, base, 0.0, true)?;
        let map_augment = (config.augment_dim > 0)
            .then(|| Linear::with(&(p / "map_augment"), config.augment_dim, base, Init::ZEROS, None))
            .transpose()?;
        let map_layer0 = Linear::new(&(p / "map_layer0"), base, emb)?;
        let map_layer1 = Linear::new(&(p / "map_layer1"), emb, emb)?;
        let map_label = (classes > 0)
            .then(|| Linear::with(&(p / "map_label"), classes, emb, Init::Normal(1.0), None))
            .transpose()?;

        let last = config.channel_mult.len() - 1;
        let first = base * config.channel_mult[0];
        let name = |part: &str, level: usize, name: &str| {
            let res = resolution >> level;
            p / format!("{part}.{res}x{res}_{name}")
        };
        let attended = |level: usize| config.attn_resolutions.contains(&(resolution >> level));
        let conv_in = conv(&name("enc", 0, "conv"), (channels, first), family.init(9 * channels))?;
        let (mut enc, mut dec) = (Vec::new(), Vec::new());
        let (mut width, mut skips) = (first, vec![first]);
        for (level, &mult) in config.channel_mult.iter().enumerate() {
            if level > 0 {
                enc.push(block(&name("enc", level, "down"), (width, width), Resample::Down, false)?);
                skips.push(width);
            }
            for i in 0..config.num_blocks {
                let p = name("enc", level, &format!("block{i}"));
                enc.push(block(&p, (width, base * mult), Resample::Keep, attended(level))?);
                width = base * mult;
                skips.push(width);
            }
        }
        for (level, &mult) in config.channel_mult.iter().enumerate().rev() {
            if level == last {
                dec.push(block(&name("dec", level, "in0"), (width, width), Resample::Keep, true)?);
                dec.push(block(&name("dec", level, "in1"), (width, width), Resample::Keep, false)?);
            } else {
                dec.push(block(&name("dec", level, "up"), (width, width), Resample::Up, false)?);
            }
            for i in 0..=config.num_blocks {
                let skip = skips.pop().ok_or_else(|| Error::model("the U-Net has too few skips"))?;
                let p = name("dec", level, &format!("block{i}"));
                dec.push(block(&p, (width + skip, base * mult), Resample::Keep, attended(level))?);
                width = base * mult;
            }
        }
        let out_norm = GroupNorm::new(&(p / "out_norm"), groups(width), width, shared.eps)?;
        let out = if config.learn_sigma { 2 * channels } else { channels };
        let out_conv = conv(&(p / "out_conv"), (width, out), family.silent())?;
        Ok(Adm {
            shape: shape.to_vec(),
            classes,
            augment_dim: config.augment_dim,
            label_dropout: config.label_dropout,
            learn_sigma: config.learn_sigma,
            noise,
            map_augment,
            map_layer0,
            map_layer1,
            map_label,
            conv_in,
            enc,
            dec,
            out_norm,
            out_conv,
        })
    }

    /// The embedding `[B, E]` of noise level, class and augmentation.
    fn embed(&self, t: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        let mut emb = self.noise.forward(t)?;
        let batch = emb.size()[0];
        if let Some(augment) = &cond.augment {
            let Some(map) = &self.map_augment else {
                return Err(Error::usage("the network takes no augmentation labels")
                    .hint("set model.augment_dim = 9, or leave the augmentation out"));
            };
            if augment.size() != [batch, self.augment_dim] {
                return Err(Error::shape("augment", &[batch, self.augment_dim], &augment.size()));
            }
            emb = emb.f_add(&map.forward(&augment.f_to_kind(emb.kind())?)?)?;
        }
        let emb = silu(self.map_layer0.forward(&emb)?)?;
        let mut emb = self.map_layer1.forward(&emb)?;
        let class = checked_class(cond.class.as_ref(), self.classes, batch)?;
        if let (Some(map), Some(class)) = (&self.map_label, class) {
            let mut hot = one_hot(&class, self.classes, t.kind())?;
            if mode == Mode::Train && self.label_dropout > 0.0 {
                let keep = Tensor::f_rand([batch, 1], (Kind::Float, t.device()))?.f_ge(self.label_dropout)?;
                hot = hot.f_mul(&keep)?;
            }
            emb = emb.f_add(&map.forward(&hot)?)?;
        }
        silu(emb)
    }
}

impl Network for Adm {
    fn forward(&self, x: &Tensor, t: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        let train = mode == Mode::Train;
        let emb = self.embed(t, cond, mode)?;
        let mut h = self.conv_in.forward(x)?;
        let mut skips = vec![h.shallow_clone()];
        for block in &self.enc {
            h = block.forward(&h, &emb, train)?;
            skips.push(h.shallow_clone());
        }
        for block in &self.dec {
            if h.size()[1] != block.input
                && let Some(skip) = skips.pop()
            {
                h = Tensor::f_cat(&[h, skip], 1)?;
            }
            h = block.forward(&h, &emb, train)?;
        }
        let y = self.out_conv.forward(&self.out_norm.silu(&h)?)?;
        if self.learn_sigma { Ok(y.f_narrow(1, 0, self.shape[0])?) } else { Ok(y) }
    }

    fn sample_shape(&self) -> &[i64] {
        &self.shape
    }

    fn classes(&self) -> i64 {
        self.classes
    }
}

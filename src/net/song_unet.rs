//! The U-Net of DDPM++ and NCSN++ (Song et al. 2021, appendix H) in the form of EDM (Karras et al. 2022,
//! appendix F and Table 7): one construction with options, parameters named as in EDM's state dict.
//!
//! score_sde's own DDPM++ is `channel_mult = [1, 2, 2, 2]` without augmentation labels; its NCSN++ adds
//! `embedding_type = "fourier"`, `channel_mult_noise = 2`, `encoder_type = "residual"` and
//! `resample_filter = [1, 3, 3, 1]`; the deep ones have `num_blocks = 8`.

use tch::{Kind, Tensor};

use super::layers::conv::{FirConv2d, Resample};
use super::layers::embed::{Fourier, Sinusoid, checked_class, one_hot};
use super::layers::init::Init;
use super::layers::linear::Linear;
use super::layers::norm::GroupNorm;
use super::layers::silu;
use super::song_block::{Block, Family, NEAR_ZERO, Shared, XAVIER, groups};
pub use super::song_config::{Decoder, Embedding, Encoder, SongUNetConfig};
use super::{Cond, Mode, Network};
use crate::error::{Error, Result};
use crate::net::store::Path;

#[derive(Debug)]
enum Noise {
    Positional(Sinusoid),
    Fourier(Fourier),
}

/// One step of the way down. The `Image*` steps follow the image beside the features (`_aux_*`).
#[derive(Debug)]
enum Down {
    Conv(FirConv2d),
    Block(Box<Block>),
    ImageHalf(FirConv2d),
    ImageSkip(FirConv2d),
    ImageResidual(FirConv2d),
}

/// One step of the way up. `ImageTwice` (`_aux_up`) brings the output so far to the next resolution.
#[derive(Debug)]
enum Up {
    Block(Box<Block>),
    ImageTwice(FirConv2d),
    /// `_aux_norm` and `_aux_conv`.
    Out(GroupNorm, FirConv2d),
}

/// The network.
#[derive(Debug)]
pub struct SongUNet {
    shape: Vec<i64>,
    classes: i64,
    augment_dim: i64,
    label_dropout: f64,
    noise: Noise,
    map_label: Option<Linear>,
    map_augment: Option<Linear>,
    map_layer0: Linear,
    map_layer1: Linear,
    enc: Vec<Down>,
    dec: Vec<Up>,
}

impl SongUNet {
    /// The network for samples of `shape` `[C, H, H]` and `classes` classes (0 for none) at `p`.
    ///
    /// # Errors
    /// Where the options do not make a network for this shape, or libtorch fails.
    pub fn new(p: &Path, config: &SongUNetConfig, shape: &[i64], classes: i64) -> Result<Self> {
        let (channels, resolution) = config.check(shape)?;
        let emb = config.model_channels * config.channel_mult_emb;
        let width = config.model_channels * config.channel_mult_noise;
        let noise = match config.embedding_type {
            Embedding::Positional => Noise::Positional(Sinusoid::new(p, width, 1.0, false)?),
            Embedding::Fourier => Noise::Fourier(Fourier::new(&(p / "map_noise"), width, 16.0)?),
        };
        let linear = |name: &str, input: i64, out: i64, bias: bool| {
            Linear::with(&(p / name), input, out, XAVIER, bias.then_some(Init::ZEROS))
        };
        let map_label = (classes > 0).then(|| linear("map_label", classes, width, true)).transpose()?;
        let map_augment = (config.augment_dim > 0)
            .then(|| linear("map_augment", config.augment_dim, width, false))
            .transpose()?;
        let map_layer0 = linear("map_layer0", width, emb, true)?;
        let map_layer1 = linear("map_layer1", emb, emb, true)?;
        let shared = Shared {
            emb,
            dropout: config.dropout,
            skip_scale: config.skip_scale,
            eps: 1e-6,
            filter: config.resample_filter.clone(),
            family: Family::Song,
        };
        let mut build = Build { config, shared, channels, resolution, skips: Vec::new() };
        let (enc, out) = build.encoder(&(p / "enc"))?;
        let dec = build.decoder(&(p / "dec"), out)?;
        Ok(SongUNet {
            shape: shape.to_vec(),
            classes,
            augment_dim: config.augment_dim,
            label_dropout: config.label_dropout,
            noise,
            map_label,
            map_augment,
            map_layer0,
            map_layer1,
            enc,
            dec,
        })
    }

    /// The embedding `[B, E]` of noise level, class and augmentation.
    fn embed(&self, t: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        let mut emb = match &self.noise {
            Noise::Positional(noise) => noise.forward(t)?,
            Noise::Fourier(noise) => noise.forward(t)?,
        };
        let batch = emb.size()[0];
        let class = checked_class(cond.class.as_ref(), self.classes, batch)?;
        if let Some(map) = &self.map_label {
            let none = || Tensor::f_full([batch], -1, (Kind::Int64, t.device()));
            let class = class.map_or_else(none, Ok)?;
            let mut hot = one_hot(&class, self.classes, emb.kind())?;
            if mode == Mode::Train && self.label_dropout > 0.0 {
                let keep = Tensor::f_rand([batch, 1], (Kind::Float, t.device()))?.f_ge(self.label_dropout)?;
                hot = hot.f_mul(&keep)?;
            }
            // One-hot rows are scaled to unit mean square.
            #[allow(clippy::cast_precision_loss)]
            let hot = hot.f_mul_scalar((self.classes as f64).sqrt())?;
            emb = emb.f_add(&map.forward(&hot)?)?;
        }
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
        silu(self.map_layer1.forward(&emb)?)
    }
}

impl Network for SongUNet {
    fn forward(&self, x: &Tensor, t: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        let train = mode == Mode::Train;
        let emb = self.embed(t, cond, mode)?;
        let mut skips: Vec<Tensor> = Vec::with_capacity(self.enc.len());
        let (mut h, mut aux) = (x.shallow_clone(), x.shallow_clone());
        for step in &self.enc {
            match step {
                Down::ImageHalf(layer) => aux = layer.forward(&aux)?,
                Down::ImageSkip(layer) => {
                    h = h.f_add(&layer.forward(&aux)?)?;
                    replace_last(&mut skips, &h);
                }
                Down::ImageResidual(layer) => {
                    h = h.f_add(&layer.forward(&aux)?)?.f_mul_scalar(std::f64::consts::FRAC_1_SQRT_2)?;
                    aux = h.shallow_clone();
                    replace_last(&mut skips, &h);
                }
                Down::Conv(layer) => {
                    h = layer.forward(&h)?;
                    skips.push(h.shallow_clone());
                }
                Down::Block(block) => {
                    h = block.forward(&h, &emb, train)?;
                    skips.push(h.shallow_clone());
                }
            }
        }
        let mut out: Option<Tensor> = None;
        for step in &self.dec {
            match step {
                Up::ImageTwice(layer) => out = out.map(|o| layer.forward(&o)).transpose()?,
                Up::Out(norm, conv) => {
                    let y = conv.forward(&norm.silu(&h)?)?;
                    out = Some(out.map_or(Ok(y.shallow_clone()), |o| y.f_add(&o))?);
                }
                Up::Block(block) => {
                    if h.size()[1] != block.input
                        && let Some(skip) = skips.pop()
                    {
                        h = Tensor::f_cat(&[h, skip], 1)?;
                    }
                    h = block.forward(&h, &emb, train)?;
                }
            }
        }
        out.ok_or_else(|| Error::model("the U-Net has no output layer"))
    }

    fn sample_shape(&self) -> &[i64] {
        &self.shape
    }

    fn classes(&self) -> i64 {
        self.classes
    }
}

fn replace_last(skips: &mut [Tensor], with: &Tensor) {
    if let Some(last) = skips.last_mut() {
        *last = with.shallow_clone();
    }
}

/// The state of construction.
struct Build<'a> {
    config: &'a SongUNetConfig,
    shared: Shared,
    channels: i64,
    resolution: i64,
    /// Channels of the encoder's outputs, in order.
    skips: Vec<i64>,
}

impl Build<'_> {
    fn block(&self, p: &Path, io: (i64, i64), resample: Resample, attention: bool) -> Result<Box<Block>> {
        Ok(Box::new(Block::new(p, io, resample, attention, &self.shared)?))
    }

    fn conv(
        &self,
        p: &Path,
        io: (i64, i64),
        kernel: i64,
        init: Init,
        resample: Resample,
    ) -> Result<FirConv2d> {
        FirConv2d::new(p, io, kernel, (init, Init::ZEROS), resample, &self.shared.filter)
    }

    fn encoder(&mut self, p: &Path) -> Result<(Vec<Down>, i64)> {
        let mut steps = Vec::new();
        let (mut width, mut aux) = (self.channels, self.channels);
        for (level, &mult) in self.config.channel_mult.iter().enumerate() {
            let res = self.resolution >> level;
            let at = |name: &str| p / format!("{res}x{res}_{name}");
            if level == 0 {
                let base = self.config.model_channels;
                steps.push(Down::Conv(self.conv(&at("conv"), (width, base), 3, XAVIER, Resample::Keep)?));
                width = base;
            } else {
                steps.push(Down::Block(self.block(&at("down"), (width, width), Resample::Down, false)?));
                match self.config.encoder_type {
                    Encoder::Standard => {}
                    Encoder::Skip => {
                        let down = self.conv(&at("aux_down"), (aux, aux), 0, XAVIER, Resample::Down)?;
                        let skip = self.conv(&at("aux_skip"), (aux, width), 1, XAVIER, Resample::Keep)?;
                        steps.extend([Down::ImageHalf(down), Down::ImageSkip(skip)]);
                    }
                    Encoder::Residual => {
                        let layer =
                            self.conv(&at("aux_residual"), (aux, width), 3, XAVIER, Resample::Down)?;
                        steps.push(Down::ImageResidual(layer.conv_first()));
                        aux = width;
                    }
                }
            }
            self.skips.push(width);
            let attention = self.config.attn_resolutions.contains(&res);
            for i in 0..self.config.num_blocks {
                let out = self.config.model_channels * mult;
                let p = at(&format!("block{i}"));
                steps.push(Down::Block(self.block(&p, (width, out), Resample::Keep, attention)?));
                width = out;
                self.skips.push(width);
            }
        }
        Ok((steps, width))
    }

    fn decoder(&mut self, p: &Path, mut width: i64) -> Result<Vec<Up>> {
        let mut steps = Vec::new();
        let last = self.config.channel_mult.len() - 1;
        for (level, &mult) in self.config.channel_mult.iter().enumerate().rev() {
            let res = self.resolution >> level;
            let at = |name: &str| p / format!("{res}x{res}_{name}");
            if level == last {
                steps.push(Up::Block(self.block(&at("in0"), (width, width), Resample::Keep, true)?));
                steps.push(Up::Block(self.block(&at("in1"), (width, width), Resample::Keep, false)?));
            } else {
                steps.push(Up::Block(self.block(&at("up"), (width, width), Resample::Up, false)?));
            }
            let attended = self.config.attn_resolutions.contains(&res);
            for i in 0..=self.config.num_blocks {
                let skip = self.skips.pop().ok_or_else(|| Error::model("the U-Net has too few skips"))?;
                let out = self.config.model_channels * mult;
                let attention = attended && i == self.config.num_blocks;
                let p = at(&format!("block{i}"));
                steps.push(Up::Block(self.block(&p, (width + skip, out), Resample::Keep, attention)?));
                width = out;
            }
            if self.config.decoder_type == Decoder::Skip && level < last {
                let io = (self.channels, self.channels);
                steps.push(Up::ImageTwice(self.conv(&at("aux_up"), io, 0, XAVIER, Resample::Up)?));
            }
            if self.config.decoder_type == Decoder::Skip || level == 0 {
                let norm = GroupNorm::new(&at("aux_norm"), groups(width), width, self.shared.eps)?;
                let io = (width, self.channels);
                let conv = self.conv(&at("aux_conv"), io, 3, NEAR_ZERO, Resample::Keep)?;
                steps.push(Up::Out(norm, conv));
            }
        }
        Ok(steps)
    }
}

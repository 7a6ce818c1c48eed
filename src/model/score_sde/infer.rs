//! The options of a score_sde network, read off the names and shapes of its modules.

use std::collections::BTreeMap;

use super::super::source::Source;
use crate::error::{Error, Result};
use crate::net::song_unet::{Decoder, Embedding, Encoder, SongUNetConfig};
use crate::net::unet2d_config::{DownBlock, UNet2DConfig, UpBlock};

/// The family of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `ddpm`: plain residual blocks, resampling by single convolutions.
    Ddpm,
    /// `ncsnpp` without a path of images: DDPM++.
    Ddpmpp,
    /// `ncsnpp` with one: NCSN++ (its filter is then [1, 3, 3, 1]).
    Ncsnpp,
}

/// What a network is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Design {
    pub kind: Kind,
    /// Channels of an image.
    pub channels: i64,
    /// Base number of channels.
    pub base: i64,
    /// Multiple of the base at each resolution.
    pub mult: Vec<i64>,
    /// Residual blocks per resolution.
    pub blocks: usize,
    /// Whether each resolution has attention.
    pub attention: Vec<bool>,
    /// Time enters as Fourier features of the noise level.
    pub fourier: bool,
    pub encoder: Encoder,
    pub decoder: Decoder,
}

impl Design {
    /// The options of this project's network, for images of this side.
    pub fn song(&self, side: i64) -> SongUNetConfig {
        let filtered = self.kind == Kind::Ncsnpp;
        let attended = self.attention.iter().enumerate().filter(|(_, on)| **on);
        SongUNetConfig {
            model_channels: self.base,
            channel_mult: self.mult.clone(),
            channel_mult_noise: if self.fourier { 2 } else { 1 },
            num_blocks: i64::try_from(self.blocks).unwrap_or(i64::MAX),
            attn_resolutions: attended.map(|(level, _)| side >> level).collect(),
            embedding_type: if self.fourier { Embedding::Fourier } else { Embedding::Positional },
            encoder_type: self.encoder,
            decoder_type: self.decoder,
            resample_filter: if filtered { vec![1.0, 3.0, 3.0, 1.0] } else { vec![1.0, 1.0] },
            ..SongUNetConfig::default()
        }
    }
}

impl Design {
    /// The options of this project's network, for the family of DDPM.
    pub fn unet2d(&self) -> UNet2DConfig {
        use {DownBlock::DownBlock2D as Down, UpBlock::UpBlock2D as Up};
        let down = |&on: &bool| if on { DownBlock::AttnDownBlock2D } else { Down };
        let up = |&on: &bool| if on { UpBlock::LastAttnUpBlock2D } else { Up };
        UNet2DConfig {
            block_out_channels: self.mult.iter().map(|m| m * self.base).collect(),
            layers_per_block: i64::try_from(self.blocks).unwrap_or(i64::MAX),
            down_block_types: self.attention.iter().map(down).collect(),
            up_block_types: self.attention.iter().rev().map(up).collect(),
            dropout: 0.1,
            ..UNet2DConfig::ddpm_cifar10()
        }
    }
}

/// What a module of the flat list is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Module {
    Fourier,
    Linear,
    /// A convolution by itself, 3x3: (in, out).
    Conv(i64, i64),
    Norm,
    /// A residual block: input, output, and whether its shortcut is a convolution.
    Res {
        input: i64,
        out: i64,
        shortcut: bool,
    },
    Attention,
    /// `Downsample` or `Upsample` of DDPM: one 3x3 convolution `Conv_0`.
    Resample,
    /// `Downsample` with a filter and a convolution `Conv2d_0`.
    Residual,
    /// `Combine`: a 1x1 convolution `Conv_0`.
    Combine,
}

/// The modules of the flat list, in order.
fn modules(source: &Source, place: &str) -> Result<Vec<Module>> {
    let mut parts: BTreeMap<usize, BTreeMap<&str, &[i64]>> = BTreeMap::new();
    for name in source.names() {
        let Some((number, rest)) = name.strip_prefix(place).and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        let number: usize = number
            .parse()
            .map_err(|_| Error::model(format!("tensor `{name}`")).why("its module has no number"))?;
        parts.entry(number).or_default().insert(rest, source.shape(name).unwrap_or_default());
    }
    let mut list = Vec::new();
    for (k, (number, tensors)) in parts.iter().enumerate() {
        if *number != k {
            return Err(Error::model(format!("no tensor below `{place}{k}`"))
                .why(format!("the next module in the file is number {number}")));
        }
        list.push(module(tensors).ok_or_else(|| {
            let names: Vec<&str> = tensors.keys().copied().collect();
            Error::model(format!("module `{place}{k}` is none of score_sde's"))
                .why(format!("it holds {}", names.join(", ")))
        })?);
    }
    Ok(list)
}

fn module(tensors: &BTreeMap<&str, &[i64]>) -> Option<Module> {
    let has = |name: &str| tensors.contains_key(name);
    let get = |name: &str| tensors.get(name).copied();
    // Any of several tensors decides: one may be the fault of a damaged file, which is to be named later.
    if has("GroupNorm_1.weight") || has("Dense_0.weight") || has("Conv_1.weight") {
        let first = get("Conv_0.weight").filter(|shape| shape.len() == 4);
        let out = first.or(get("Conv_1.weight")).or(get("GroupNorm_1.weight"))?.first().copied()?;
        let norm = || get("GroupNorm_0.weight").and_then(|shape| shape.first().copied());
        let input = first.map(|shape| shape[1]).or_else(norm)?;
        return Some(Module::Res { input, out, shortcut: has("Conv_2.weight") || has("Conv_2.bias") });
    }
    if has("NIN_0.W") || has("NIN_1.W") {
        return Some(Module::Attention);
    }
    if let Some(shape) = get("Conv2d_0.weight").or_else(|| get("Conv2d_0.bias")) {
        return (!shape.is_empty()).then_some(Module::Residual);
    }
    if let Some(shape) = get("Conv_0.weight") {
        return match shape {
            [_, _, 3, 3] => Some(Module::Resample),
            [_, _, 1, 1] => Some(Module::Combine),
            _ => None,
        };
    }
    if has("W") {
        return Some(Module::Fourier);
    }
    match get("weight").or_else(|| get("bias"))? {
        [out, input, 3, 3] => Some(Module::Conv(*input, *out)),
        [_, _] => Some(Module::Linear),
        [_] => Some(Module::Norm),
        _ => None,
    }
}

/// The design of the network in `source`, whose modules' names start with `place`.
pub(super) fn design(source: &Source, place: &str) -> Result<Design> {
    let list = modules(source, place)?;
    let wrong = |k: usize, what: &str| {
        Error::model(format!("module `{place}{k}` is not {what}"))
            .why("the list of modules is that of no known score_sde network")
    };
    let mut k = 0;
    let fourier = list.first() == Some(&Module::Fourier);
    k += usize::from(fourier);
    for _ in 0..2 {
        if list.get(k) != Some(&Module::Linear) {
            return Err(wrong(k, "a linear layer").hint("networks without a time embedding are not known"));
        }
        k += 1;
    }
    let Some(&Module::Conv(channels, base)) = list.get(k) else {
        return Err(wrong(k, "the first convolution"));
    };
    k += 1;

    let plain = list.contains(&Module::Resample);
    let half = |m: &Module| match m {
        Module::Resample => true,
        Module::Res { input, out, shortcut } => !plain && *shortcut && input == out,
        _ => false,
    };
    let halvings = list.iter().filter(|m| half(m)).count();
    let levels = halvings / 2 + 1;
    let all = list.iter().filter(|m| matches!(m, Module::Res { .. }) && !half(m)).count();
    // Blocks down, two in the middle, one more per level up.
    let down = all.checked_sub(2 + levels).filter(|n| n.is_multiple_of(2 * levels) && *n > 0);
    let usable = halvings.is_multiple_of(2) && levels <= 16 && base > 0 && channels > 0;
    let (Some(down), true) = (down, usable) else {
        return Err(Error::model("the blocks of the network do not make a U-Net")
            .why(format!("it has {all} residual blocks and {halvings} changes of resolution")));
    };
    let blocks = down / (2 * levels);

    let (mut mult, mut attention, mut encoder) = (Vec::new(), Vec::new(), Encoder::Standard);
    for level in 0..levels {
        if level > 0 {
            if !list.get(k).is_some_and(half) {
                return Err(wrong(k, "a change of resolution"));
            }
            k += 1;
            match list.get(k) {
                Some(Module::Residual) => encoder = Encoder::Residual,
                Some(Module::Combine) => encoder = Encoder::Skip,
                _ => {}
            }
            k += usize::from(encoder != Encoder::Standard);
        }
        let mut width = 0;
        let attended = list.get(k + 1) == Some(&Module::Attention);
        for _ in 0..blocks {
            let Some(Module::Res { out, .. }) = list.get(k) else {
                return Err(wrong(k, "a residual block"));
            };
            width = *out;
            k += 1 + usize::from(attended);
        }
        if width % base != 0 || width == 0 {
            return Err(Error::model(format!("{width} channels at resolution {level}"))
                .why(format!("they are no multiple of {base}, the channels of the first convolution")));
        }
        mult.push(width / base);
        attention.push(attended);
    }
    // Middle, blocks of the lowest resolution, its attention; then an image leaves there or not.
    k += 3 + blocks + 1 + usize::from(attention.last() == Some(&true));
    let decoder = match list.get(k) {
        Some(Module::Norm) if levels > 1 => Decoder::Skip,
        _ => Decoder::Standard,
    };
    let kind = if plain {
        Kind::Ddpm
    } else if fourier || encoder != Encoder::Standard || decoder != Decoder::Standard {
        Kind::Ncsnpp
    } else {
        Kind::Ddpmpp
    };
    Ok(Design { kind, channels, base, mult, blocks, attention, fourier, encoder, decoder })
}

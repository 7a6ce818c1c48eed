//! Every tensor of a score_sde network in the order of construction, and its place in this project's networks.

use std::collections::BTreeMap;

use tch::Tensor;

use super::infer::{Design, Kind};
use crate::error::{Error, Result};
use crate::net::song_unet::{Decoder, Encoder};

/// How a tensor becomes one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    /// As it is.
    Same,
    /// `[in, out]` to a linear weight `[out, in]`.
    Transposed,
    /// `[in, out]` to a 1x1 convolution `[out, in, 1, 1]`.
    Pointwise,
    /// One of q, k, v: rows (or values) 3c + this number of `qkv`.
    Packed(usize),
}

/// A tensor of the file.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Its name below `all_modules.`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// It is not trained, and has no average.
    pub frozen: bool,
    /// Name of ours.
    own: String,
    how: As,
}

struct Plan<'a> {
    design: &'a Design,
    items: Vec<Item>,
    /// Number of the next module.
    k: usize,
    /// Channels of the skips, in order.
    skips: Vec<i64>,
}

/// All tensors of a network of this design but the buffer `sigmas`.
pub(super) fn plan(design: &Design) -> Vec<Item> {
    let mut plan = Plan { design, items: Vec::new(), k: 0, skips: Vec::new() };
    plan.network();
    plan.items
}

impl Plan<'_> {
    fn item(&mut self, sub: &str, shape: &[i64], own: &str, how: As) {
        let name = format!("{}.{sub}", self.k);
        let (shape, own) = (shape.to_vec(), own.to_owned());
        self.items.push(Item { name, shape, frozen: false, own, how });
    }

    /// The `weight` and `bias` of `sub` (with its dot), to those of `own`.
    fn pair(&mut self, sub: &str, weight: &[i64], own: &str) {
        self.item(&format!("{sub}weight"), weight, &format!("{own}.weight"), As::Same);
        self.item(&format!("{sub}bias"), &weight[..1], &format!("{own}.bias"), As::Same);
    }

    fn emb(&self) -> i64 {
        4 * self.design.base
    }

    fn ddpm(&self) -> bool {
        self.design.kind == Kind::Ddpm
    }

    /// A residual block; `names` are ours of its parts.
    fn res(&mut self, own: &str, (input, out): (i64, i64), resampled: bool) {
        let emb = self.emb();
        let names = if self.ddpm() {
            ["norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"]
        } else {
            ["norm0", "conv0", "affine", "norm1", "conv1", "skip"]
        };
        let [norm0, conv0, dense, norm1, conv1, skip] = names.map(|name| format!("{own}.{name}"));
        self.pair("GroupNorm_0.", &[input], &norm0);
        self.pair("Conv_0.", &[out, input, 3, 3], &conv0);
        self.pair("Dense_0.", &[out, emb], &dense);
        self.pair("GroupNorm_1.", &[out], &norm1);
        self.pair("Conv_1.", &[out, out, 3, 3], &conv1);
        if self.ddpm() && input != out {
            self.item("NIN_0.W", &[input, out], &format!("{skip}.weight"), As::Pointwise);
            self.item("NIN_0.b", &[out], &format!("{skip}.bias"), As::Same);
        } else if input != out || resampled {
            self.pair("Conv_2.", &[out, input, 1, 1], &skip);
        }
        self.k += 1;
    }

    fn attention(&mut self, own: &str, c: i64) {
        if self.ddpm() {
            self.pair("GroupNorm_0.", &[c], &format!("{own}.group_norm"));
            for (i, name) in ["to_q", "to_k", "to_v", "to_out.0"].iter().enumerate() {
                self.item(&format!("NIN_{i}.W"), &[c, c], &format!("{own}.{name}.weight"), As::Transposed);
                self.item(&format!("NIN_{i}.b"), &[c], &format!("{own}.{name}.bias"), As::Same);
            }
        } else {
            self.pair("GroupNorm_0.", &[c], &format!("{own}.norm2"));
            for i in 0..3 {
                self.item(&format!("NIN_{i}.W"), &[c, c], &format!("{own}.qkv.weight"), As::Packed(i));
                self.item(&format!("NIN_{i}.b"), &[c], &format!("{own}.qkv.bias"), As::Packed(i));
            }
            self.item("NIN_3.W", &[c, c], &format!("{own}.proj.weight"), As::Pointwise);
            self.item("NIN_3.b", &[c], &format!("{own}.proj.bias"), As::Same);
        }
        self.k += 1;
    }

    /// A module that is one layer.
    fn layer(&mut self, sub: &str, weight: &[i64], own: &str) {
        self.pair(sub, weight, own);
        self.k += 1;
    }

    fn network(&mut self) {
        let design = self.design.clone();
        let (base, emb) = (design.base, self.emb());
        let width = if design.fourier { 2 * base } else { base };
        if design.fourier {
            self.item("W", &[base], "map_noise.freqs", As::Same);
            self.items[0].frozen = true;
            self.k += 1;
        }
        let names = if self.ddpm() {
            ["time_embedding.linear_1", "time_embedding.linear_2"]
        } else {
            ["map_layer0", "map_layer1"]
        };
        self.layer("", &[emb, width], names[0]);
        self.layer("", &[emb, emb], names[1]);
        if self.ddpm() { self.ddpm_body(&design) } else { self.song_body(&design) }
    }

    /// The rest of DDPM++ and NCSN++. Blocks are named by a label per resolution in place of its side, which
    /// the file does not say: see [`to_own`].
    fn song_body(&mut self, d: &Design) {
        let last = d.mult.len() - 1;
        self.layer("", &[d.base, d.channels, 3, 3], "enc.<0>_conv");
        self.skips.push(d.base);
        let (mut width, mut image) = (d.base, d.channels);
        for (level, mult) in d.mult.iter().enumerate() {
            if level > 0 {
                self.res(&format!("enc.<{level}>_down"), (width, width), true);
                let aux = format!("enc.<{level}>_aux_");
                match d.encoder {
                    Encoder::Standard => {}
                    Encoder::Skip => self.layer("Conv_0.", &[width, image, 1, 1], &format!("{aux}skip")),
                    Encoder::Residual => {
                        self.layer("Conv2d_0.", &[width, image, 3, 3], &format!("{aux}residual"));
                        image = width;
                    }
                }
                self.skips.push(width);
            }
            for i in 0..d.blocks {
                let (own, out) = (format!("enc.<{level}>_block{i}"), d.base * mult);
                self.res(&own, (width, out), false);
                width = out;
                if d.attention[level] {
                    self.attention(&own, width);
                }
                self.skips.push(width);
            }
        }
        let own = format!("dec.<{last}>_in");
        self.res(&format!("{own}0"), (width, width), false);
        self.attention(&format!("{own}0"), width);
        self.res(&format!("{own}1"), (width, width), false);
        for (level, mult) in d.mult.iter().enumerate().rev() {
            if level < last {
                self.res(&format!("dec.<{level}>_up"), (width, width), true);
            }
            for i in 0..=d.blocks {
                let skip = self.skips.pop().unwrap_or(0);
                self.res(&format!("dec.<{level}>_block{i}"), (width + skip, d.base * mult), false);
                width = d.base * mult;
            }
            if d.attention[level] {
                self.attention(&format!("dec.<{level}>_block{}", d.blocks), width);
            }
            if d.decoder == Decoder::Skip || level == 0 {
                self.layer("", &[width], &format!("dec.<{level}>_aux_norm"));
                self.layer("", &[d.channels, width, 3, 3], &format!("dec.<{level}>_aux_conv"));
            }
        }
    }

    /// The rest of DDPM.
    fn ddpm_body(&mut self, d: &Design) {
        let last = d.mult.len() - 1;
        self.layer("", &[d.base, d.channels, 3, 3], "conv_in");
        self.skips.push(d.base);
        let mut width = d.base;
        for (level, mult) in d.mult.iter().enumerate() {
            let own = format!("down_blocks.{level}");
            for i in 0..d.blocks {
                self.res(&format!("{own}.resnets.{i}"), (width, d.base * mult), false);
                width = d.base * mult;
                if d.attention[level] {
                    self.attention(&format!("{own}.attentions.{i}"), width);
                }
                self.skips.push(width);
            }
            if level < last {
                self.layer("Conv_0.", &[width, width, 3, 3], &format!("{own}.downsamplers.0.conv"));
                self.skips.push(width);
            }
        }
        self.res("mid_block.resnets.0", (width, width), false);
        self.attention("mid_block.attentions.0", width);
        self.res("mid_block.resnets.1", (width, width), false);
        for (level, mult) in d.mult.iter().enumerate().rev() {
            let own = format!("up_blocks.{}", last - level);
            for i in 0..=d.blocks {
                let skip = self.skips.pop().unwrap_or(0);
                self.res(&format!("{own}.resnets.{i}"), (width + skip, d.base * mult), false);
                width = d.base * mult;
            }
            if d.attention[level] {
                self.attention(&format!("{own}.attentions.0"), width);
            }
            if level > 0 {
                self.layer("Conv_0.", &[width, width, 3, 3], &format!("{own}.upsamplers.0.conv"));
            }
        }
        self.layer("", &[width], "conv_norm_out");
        self.layer("", &[d.channels, width, 3, 3], "conv_out");
    }
}

/// The tensors of the file, by their names below `all_modules.`, as those of this project's network for images
/// of this side.
pub(super) fn to_own(
    design: &Design,
    side: i64,
    mut tensors: BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>> {
    let mut out = BTreeMap::new();
    let mut parts: BTreeMap<String, [Option<Tensor>; 3]> = BTreeMap::new();
    for item in plan(design) {
        let tensor = tensors
            .remove(&item.name)
            .ok_or_else(|| Error::model(format!("no tensor `all_modules.{}`", item.name)))?;
        let own = with_sides(&item.own, side);
        let tensor = match item.how {
            As::Same => tensor,
            As::Transposed => tensor.f_transpose(0, 1)?,
            As::Pointwise => tensor.f_transpose(0, 1)?.f_unsqueeze(2)?.f_unsqueeze(3)?,
            As::Packed(i) => {
                let tensor = if tensor.dim() == 2 { tensor.f_transpose(0, 1)? } else { tensor };
                parts.entry(own).or_default()[i] = Some(tensor);
                continue;
            }
        };
        out.insert(own, tensor);
    }
    for (own, parts) in parts {
        let parts: Vec<Tensor> = parts.into_iter().flatten().collect();
        // [C, 3, ...] to [3C, ...]: q, k and v of a channel next to each other.
        let packed = Tensor::f_stack(&parts, 1)?.f_flatten(0, 1)?;
        let packed = if packed.dim() == 2 { packed.f_unsqueeze(2)?.f_unsqueeze(3)? } else { packed };
        out.insert(own, packed);
    }
    Ok(out)
}

/// `enc.<1>_block0` to `enc.16x16_block0`, for images of side 32.
fn with_sides(own: &str, side: i64) -> String {
    let Some((before, (level, after))) =
        own.split_once('<').and_then(|(before, rest)| Some((before, rest.split_once('>')?)))
    else {
        return own.to_owned();
    };
    let side = side >> level.parse::<u32>().unwrap_or(0).min(62);
    format!("{before}{side}x{side}{after}")
}

//! The residual block of the DDPM++/NCSN++/EDM family (Song et al. 2021, appendix H; Brock et al. 2019) and of
//! ADM (Dhariwal and Nichol 2021) in the form of EDM (Karras et al. 2022, Table 7).

use tch::Tensor;

use super::layers::attention::PackedAttention;
use super::layers::conv::{FirConv2d, Resample};
use super::layers::init::Init;
use super::layers::linear::{Linear, bias_bound};
use super::layers::norm::GroupNorm;
use super::layers::{dropout, silu};
use crate::error::Result;
use crate::net::store::Path;

/// First values of layers that feed a sum: nearly zero, so that every block starts as its shortcut.
pub(super) const NEAR_ZERO: Init = Init::XavierUniform(1e-5);
/// First values of all other layers.
pub(super) const XAVIER: Init = Init::XavierUniform(1.0);

/// Which network the block is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// DDPM++ and NCSN++: the embedding is added before the second norm, one head, a 1x1 convolution in
    /// every shortcut that resamples.
    Song,
    /// ADM: the embedding scales and shifts after the second norm, heads of so many channels, a shortcut
    /// that only resamples where the channels stay.
    Adm { head: i64 },
}

impl Family {
    fn heads(self, channels: i64) -> i64 {
        match self {
            Family::Song => 1,
            Family::Adm { head } => channels / head,
        }
    }

    /// First values (weight, bias) of a layer with this fan-in.
    pub fn init(self, fan_in: i64) -> (Init, Init) {
        match self {
            Family::Song => (XAVIER, Init::ZEROS),
            Family::Adm { .. } => (Init::KaimingUniform, Init::Uniform(bias_bound(fan_in))),
        }
    }

    /// The same for a layer that feeds a sum.
    pub fn silent(self) -> (Init, Init) {
        match self {
            Family::Song => (NEAR_ZERO, Init::ZEROS),
            Family::Adm { .. } => (Init::ZEROS, Init::ZEROS),
        }
    }
}

/// What all blocks of a network share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    /// Width of the embedding of time.
    pub emb: i64,
    /// Dropout probability.
    pub dropout: f64,
    /// Factor of every residual sum.
    pub skip_scale: f64,
    /// Added to variances in norms.
    pub eps: f64,
    /// Taps of the resampling filter.
    pub filter: Vec<f64>,
    /// Which network they are of.
    pub family: Family,
}

/// Number of groups of a norm over `channels` channels.
pub(super) fn groups(channels: i64) -> i64 {
    (channels / 4).clamp(1, 32)
}

/// norm0, SiLU, conv0 (resampling), + affine(emb), norm1, SiLU, dropout, conv1; the sum with the shortcut
/// times `skip_scale`; then attention as a second residual step. In ADM the embedding enters after norm1.
#[derive(Debug)]
pub(super) struct Block {
    pub input: i64,
    norm0: GroupNorm,
    conv0: FirConv2d,
    affine: Linear,
    norm1: GroupNorm,
    conv1: FirConv2d,
    skip: Option<FirConv2d>,
    attention: Option<PackedAttention>,
    dropout: f64,
    skip_scale: f64,
    /// The embedding scales and shifts the second norm instead of being added before it.
    modulated: bool,
}

impl Block {
    pub fn new(
        p: &Path,
        (input, out): (i64, i64),
        resample: Resample,
        attention: bool,
        shared: &Shared,
    ) -> Result<Self> {
        let Shared { emb, dropout, skip_scale, eps, ref filter, family } = *shared;
        let conv = |name: &str, io: (i64, i64), kernel: i64, init, resample| {
            FirConv2d::new(&(p / name), io, kernel, init, resample, filter)
        };
        let modulated = family != Family::Song;
        let norm0 = GroupNorm::new(&(p / "norm0"), groups(input), input, eps)?;
        let conv0 = conv("conv0", (input, out), 3, family.init(9 * input), resample)?;
        let (weight, bias) = family.init(emb);
        let width = if modulated { 2 * out } else { out };
        let affine = Linear::with(&(p / "affine"), emb, width, weight, Some(bias))?;
        let norm1 = GroupNorm::new(&(p / "norm1"), groups(out), out, eps)?;
        let conv1 = conv("conv1", (out, out), 3, family.silent(), Resample::Keep)?;
        let kernel = i64::from(input != out || !modulated);
        let skip = (input != out || resample != Resample::Keep)
            .then(|| conv("skip", (input, out), kernel, family.init(input), resample))
            .transpose()?;
        let attend = || match family {
            Family::Song => PackedAttention::new(p, out, 1, groups(out), eps),
            Family::Adm { .. } => {
                let norm = (groups(out), eps);
                PackedAttention::with(p, out, family.heads(out), norm, family.init(out), family.silent())
            }
        };
        // As in EDM, too few channels for a head mean no attention.
        let attention = (attention && family.heads(out) > 0).then(attend).transpose()?;
        Ok(Block {
            input,
            norm0,
            conv0,
            affine,
            norm1,
            conv1,
            skip,
            attention,
            dropout,
            skip_scale,
            modulated,
        })
    }

    /// `x` `[B, in, H, W]`, `emb` `[B, E]`.
    pub fn forward(&self, x: &Tensor, emb: &Tensor, train: bool) -> Result<Tensor> {
        let h = self.conv0.forward(&self.norm0.silu(x)?)?;
        let params = self.affine.forward(emb)?.f_unsqueeze(2)?.f_unsqueeze(3)?;
        let h = if self.modulated {
            let parts = params.f_chunk(2, 1)?;
            silu(parts[1].f_addcmul(&self.norm1.forward(&h)?, &parts[0].f_add_scalar(1.0)?)?)?
        } else {
            // The convolution's own backward does not need its output.
            let mut h = h;
            self.norm1.silu(&h.f_add_(&params)?)?
        };
        let h = dropout(h, self.dropout, train)?;
        let h = self.conv1.forward(&h)?;
        let shortcut = match &self.skip {
            Some(skip) => skip.forward(x)?,
            None => x.shallow_clone(),
        };
        let y = self.sum(&shortcut, h)?;
        match &self.attention {
            // Not in place: the memory format of the image is to be kept, not that of the tokens.
            Some(attention) => {
                let mut z = y.f_add(&attention.forward(&y)?)?;
                self.scaled(&mut z)
            }
            None => Ok(y),
        }
    }

    /// `(a + b) skip_scale`, in the memory of `b`, which is a fresh result of a linear map.
    fn sum(&self, a: &Tensor, b: Tensor) -> Result<Tensor> {
        let mut b = b;
        let mut y = b.f_add_(a)?;
        self.scaled(&mut y)
    }

    #[allow(clippy::float_cmp)]
    fn scaled(&self, y: &mut Tensor) -> Result<Tensor> {
        if self.skip_scale == 1.0 { Ok(y.shallow_clone()) } else { Ok(y.f_mul_scalar_(self.skip_scale)?) }
    }
}

//! The residual block of the DDPM++/NCSN++/EDM family (Song et al. 2021, appendix H; Brock et al. 2019).

use tch::Tensor;

use super::layers::attention::PackedAttention;
use super::layers::conv::{FirConv2d, Resample};
use super::layers::dropout;
use super::layers::init::Init;
use super::layers::linear::Linear;
use super::layers::norm::GroupNorm;
use crate::error::Result;
use crate::net::store::Path;

/// First values of layers that feed a sum: nearly zero, so that every block starts as its shortcut.
pub(super) const NEAR_ZERO: Init = Init::XavierUniform(1e-5);
/// First values of all other layers.
pub(super) const XAVIER: Init = Init::XavierUniform(1.0);

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
}

/// Number of groups of a norm over `channels` channels.
pub(super) fn groups(channels: i64) -> i64 {
    (channels / 4).clamp(1, 32)
}

/// norm0, SiLU, conv0 (resampling), + affine(emb), norm1, SiLU, dropout, conv1; the sum with the shortcut
/// times `skip_scale`; then attention as a second residual step.
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
}

impl Block {
    pub fn new(
        p: &Path,
        (input, out): (i64, i64),
        resample: Resample,
        attention: bool,
        shared: &Shared,
    ) -> Result<Self> {
        let Shared { emb, dropout, skip_scale, eps, ref filter } = *shared;
        let conv = |name: &str, io, kernel, init, resample| {
            FirConv2d::new(&(p / name), io, kernel, init, resample, filter)
        };
        let norm0 = GroupNorm::new(&(p / "norm0"), groups(input), input, eps)?;
        let conv0 = conv("conv0", (input, out), 3, XAVIER, resample)?;
        let affine = Linear::with(&(p / "affine"), emb, out, XAVIER, Some(Init::ZEROS))?;
        let norm1 = GroupNorm::new(&(p / "norm1"), groups(out), out, eps)?;
        let conv1 = conv("conv1", (out, out), 3, NEAR_ZERO, Resample::Keep)?;
        let skip = (input != out || resample != Resample::Keep)
            .then(|| conv("skip", (input, out), 1, XAVIER, resample))
            .transpose()?;
        let attention = attention.then(|| PackedAttention::new(p, out, 1, groups(out), eps)).transpose()?;
        Ok(Block { input, norm0, conv0, affine, norm1, conv1, skip, attention, dropout, skip_scale })
    }

    /// `x` `[B, in, H, W]`, `emb` `[B, E]`.
    pub fn forward(&self, x: &Tensor, emb: &Tensor, train: bool) -> Result<Tensor> {
        let h = self.conv0.forward(&self.norm0.silu(x)?)?;
        let shift = self.affine.forward(emb)?.f_unsqueeze(2)?.f_unsqueeze(3)?;
        // The convolution's own backward does not need its output.
        let mut h = h;
        let h = h.f_add_(&shift)?;
        let h = dropout(self.norm1.silu(&h)?, self.dropout, train)?;
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
                Ok(z.f_mul_scalar_(self.skip_scale)?)
            }
            None => Ok(y),
        }
    }

    /// `(a + b) skip_scale`, in the memory of `b`, which is a fresh result of a linear map.
    fn sum(&self, a: &Tensor, b: Tensor) -> Result<Tensor> {
        let mut b = b;
        let mut y = b.f_add_(a)?;
        Ok(y.f_mul_scalar_(self.skip_scale)?)
    }
}

//! The pieces of the SaShiMi backbone: its norm, its unit of a state-space layer and a feed-forward block, its pools.

use tch::{Kind, Tensor};

use super::mel::{Conditioner, MelConfig};
use super::step::WIDTH;
use crate::error::Result;
use crate::net::layers::init::Init;
use crate::net::layers::linear::{Linear, bias_bound};
use crate::net::layers::ssm::{S4, S4Config};
use crate::net::layers::weight_norm::NormConv1d;
use crate::net::store::Path;

/// Least variance that is divided by.
const LEAST: f64 = 1e-16;

/// `(s/std)(x - mean + m)` with statistics over the channels and two trained numbers; no epsilon.
#[derive(Debug)]
pub(super) struct ScalarNorm {
    m: Tensor,
    s: Tensor,
}

impl ScalarNorm {
    pub(super) fn new(p: &Path) -> Result<Self> {
        Ok(ScalarNorm { m: p.param("m", &[1], Init::ZEROS)?, s: p.param("s", &[1], Init::ONES)? })
    }

    /// `x` `[B, H, L]` to the same, in f32 at least.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let kind = if x.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let x = x.f_to_kind(kind)?;
        let mean = |x: &Tensor| x.f_mean_dim([1i64].as_slice(), true, None::<Kind>);
        let centred = x.f_sub(&mean(&x)?)?;
        let std = mean(&centred.f_square()?)?.f_clamp_min(LEAST)?.f_sqrt()?;
        Ok(centred.f_add(&self.m)?.f_mul(&self.s.f_div(&std)?)?)
    }
}

/// `x + S4(norm(x) + fc(e))` with the spectrogram added to the layer's output, then `x + FF(norm(x))`.
#[derive(Debug)]
pub(super) struct Unit {
    step: Linear,
    ssm: S4,
    mix: (Tensor, Tensor),
    conditioner: Option<Conditioner>,
    ff: [NormConv1d; 2],
    norms: [ScalarNorm; 2],
}

impl Unit {
    /// The unit of `ssm.d_model` channels at `p`; `ff` is the factor of the feed-forward block.
    pub(super) fn new(p: &Path, ssm: &S4Config, ff: i64, mel: Option<&MelConfig>) -> Result<Self> {
        let h = ssm.d_model;
        let out = p / "layer.output_linear.0";
        let mix = (
            out.param("weight", &[2 * h, h, 1], Init::KaimingUniform)?,
            out.param("bias", &[2 * h], Init::Uniform(bias_bound(h)))?,
        );
        let conv = |name: &str, sizes| NormConv1d::new(&(p / name), sizes, 1, 1, true);
        Ok(Unit {
            step: Linear::new(&(p / "fc_t"), WIDTH, h)?,
            ssm: S4::new(&(p / "layer"), ssm)?,
            mix,
            conditioner: mel.map(|mel| Conditioner::new(p, mel, h, true)).transpose()?,
            ff: [conv("ff.ff.0.conv", (h, ff * h))?, conv("ff.ff.2.conv", (ff * h, h))?],
            norms: [ScalarNorm::new(&(p / "norm1"))?, ScalarNorm::new(&(p / "norm2"))?],
        })
    }

    /// `x` `[B, H, L]` to the same; `step` `[B, 512]`.
    pub(super) fn forward(&self, x: &Tensor, step: &Tensor, mel: Option<&Tensor>) -> Result<Tensor> {
        let y = self.norms[0].forward(x)?.f_add(&self.step.forward(step)?.f_unsqueeze(2)?)?;
        let y = self.ssm.convolve(&y)?.f_gelu("none")?;
        let (weight, bias) = &self.mix;
        let mut y = y.f_conv1d(weight, Some(bias), [1], [0], [1], 1)?.f_glu(1)?;
        if let (Some(conditioner), Some(mel)) = (&self.conditioner, mel) {
            // At coarse levels, too, the first samples of the full rate: so are the networks trained.
            y = y.f_add(&conditioner.forward(mel, x.size()[2])?)?;
        }
        let x = x.f_add(&y)?;
        let y = self.ff[0].forward(&self.norms[1].forward(&x)?)?.f_gelu("none")?;
        Ok(x.f_add(&self.ff[1].forward(&y)?)?)
    }
}

/// Groups of `factor` samples to one, `[B, H, L]` to `[B, H', L/factor]`: sample s of channel h of a group is input
/// `h factor + s` of a linear map.
#[derive(Debug)]
pub(super) struct DownPool {
    linear: NormConv1d,
    factor: i64,
}

impl DownPool {
    pub(super) fn new(p: &Path, (input, out): (i64, i64), factor: i64) -> Result<Self> {
        let linear = NormConv1d::new(&(p / "linear.conv"), (input * factor, out), 1, 1, true)?;
        Ok(DownPool { linear, factor })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (size, p) = (x.size(), self.factor);
        let x = x.f_reshape([size[0], size[1], size[2] / p, p])?.f_transpose(2, 3)?;
        self.linear.forward(&x.f_reshape([size[0], size[1] * p, size[2] / p])?)
    }
}

/// The way back: one sample to a group of `factor`, without a shift in time.
#[derive(Debug)]
pub(super) struct UpPool {
    linear: NormConv1d,
    factor: i64,
}

impl UpPool {
    pub(super) fn new(p: &Path, (input, out): (i64, i64), factor: i64) -> Result<Self> {
        let linear = NormConv1d::new(&(p / "linear.conv"), (input, out * factor), 1, 1, true)?;
        Ok(UpPool { linear, factor })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (y, p) = (self.linear.forward(x)?, self.factor);
        let size = y.size();
        let y = y.f_reshape([size[0], size[1] / p, p, size[2]])?.f_transpose(2, 3)?;
        Ok(y.f_reshape([size[0], size[1] / p, size[2] * p])?)
    }
}

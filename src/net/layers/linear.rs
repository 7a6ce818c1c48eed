//! `y = x W^T + b`.

use tch::Tensor;

use super::init::Init;
use crate::error::Result;
use crate::net::store::Path;

/// A linear layer with `weight` `[out, in]` and `bias` `[out]`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer with the first values of `torch.nn.Linear`.
    ///
    /// # Errors
    /// Where a name is taken, or libtorch fails.
    pub fn new(p: &Path, input: i64, out: i64) -> Result<Self> {
        let bias = Init::Uniform(bias_bound(input));
        Self::with(p, input, out, Init::KaimingUniform, Some(bias))
    }

    /// A layer with given first values; `None` for a layer without bias.
    ///
    /// # Errors
    /// Where a name is taken, or libtorch fails.
    pub fn with(p: &Path, input: i64, out: i64, weight: Init, bias: Option<Init>) -> Result<Self> {
        let weight = p.param("weight", &[out, input], weight)?;
        let bias = bias.map(|init| p.param("bias", &[out], init)).transpose()?;
        Ok(Linear { weight, bias })
    }

    /// `x` `[..., in]` to `[..., out]`.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// Bound of PyTorch's default bias, `1/sqrt(fan_in)`.
#[allow(clippy::cast_precision_loss)]
pub(in crate::net) fn bias_bound(fan_in: i64) -> f64 {
    (fan_in as f64).sqrt().recip()
}

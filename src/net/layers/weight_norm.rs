//! Weight normalisation (Salimans and Kingma 2016): `W = g v/|v|`, one gain for each output channel, the norm over
//! all other dimensions; stored as `weight_g`, `weight_v` and `bias`.

use tch::{Kind, Tensor};

use super::init::Init;
use super::linear::bias_bound;
use crate::error::Result;
use crate::net::store::Path;

/// A weight, normalised or plain, and its bias.
#[derive(Debug)]
pub struct NormWeight {
    weight: Tensor,
    gain: Option<Tensor>,
    bias: Tensor,
}

impl NormWeight {
    /// A weight of `shape` `[out, in, ...]` with `bias_len` biases below `p`; `weight` are its first values, whose
    /// norms are the first gains, so that normalisation changes nothing at first.
    ///
    /// # Errors
    /// Where a name is taken, or libtorch fails.
    pub fn new(p: &Path, shape: &[i64], bias_len: i64, weight: Init, normed: bool) -> Result<Self> {
        let fan_in = shape.iter().skip(1).product();
        let bias = p.param("bias", &[bias_len], Init::Uniform(bias_bound(fan_in)))?;
        if !normed {
            return Ok(NormWeight { weight: p.param("weight", shape, weight)?, gain: None, bias });
        }
        let mut gains = vec![1; shape.len()];
        gains[0] = shape[0];
        let gain = p.param("weight_g", &gains, Init::ONES)?;
        let weight = p.param("weight_v", shape, weight)?;
        let _guard = tch::no_grad_guard();
        gain.shallow_clone().f_copy_(&norms(&weight)?)?;
        Ok(NormWeight { weight, gain: Some(gain), bias })
    }

    /// The weight `[out, in, ...]`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn weight(&self) -> Result<Tensor> {
        let Some(gain) = &self.gain else {
            return Ok(self.weight.shallow_clone());
        };
        if matches!(self.weight.kind(), Kind::Float | Kind::Double) {
            return Ok(Tensor::f_internal_weight_norm(&self.weight, gain, 0)?);
        }
        // Weights kept in a short format: norms in f32.
        let scale = gain.f_to_kind(Kind::Float)?.f_div(&norms(&self.weight)?)?;
        Ok(self.weight.f_mul(&scale.f_to_kind(self.weight.kind())?)?)
    }

    /// The bias.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }
}

/// Norms over all dimensions but the first, in f32 at least, `[out, 1, ...]`.
fn norms(weight: &Tensor) -> Result<Tensor> {
    let kind = if weight.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let others: Vec<i64> = (1..i64::try_from(weight.dim()).unwrap_or(1)).collect();
    let squares = weight.f_to_kind(kind)?.f_square()?;
    Ok(squares.f_sum_dim_intlist(others.as_slice(), true, None::<Kind>)?.f_sqrt()?)
}

/// A one-dimensional convolution that keeps the length (odd `kernel`), normalised or plain.
#[derive(Debug)]
pub struct NormConv1d {
    weight: NormWeight,
    padding: i64,
    dilation: i64,
}

impl NormConv1d {
    /// A convolution from `input` to `out` channels. Normalised ones have the first values of `torch.nn.Conv1d`;
    /// plain ones those of He et al. 2015, normal.
    ///
    /// # Errors
    /// Where a name is taken, or libtorch fails.
    pub fn new(p: &Path, (input, out): (i64, i64), kernel: i64, dilation: i64, normed: bool) -> Result<Self> {
        #[allow(clippy::cast_precision_loss)]
        let he = Init::Normal((2.0 / (input * kernel) as f64).sqrt());
        let init = if normed { Init::KaimingUniform } else { he };
        let weight = NormWeight::new(p, &[out, input, kernel], out, init, normed)?;
        Ok(NormConv1d { weight, padding: dilation * (kernel / 2), dilation })
    }

    /// `x` `[B, in, L]` to `[B, out, L]`.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.weight()?;
        Ok(x.f_conv1d(&weight, Some(&self.weight.bias), [1], [self.padding], [self.dilation], 1)?)
    }

    /// The weight `[out, in, k]` and bias `[out]`, for layers that join several.
    pub(in crate::net) fn parts(&self) -> Result<(Tensor, &Tensor)> {
        Ok((self.weight.weight()?, &self.weight.bias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::store::Store;
    use tch::Device;

    #[test]
    fn normalisation_changes_nothing_at_first_and_undoes_scale() {
        let store = Store::new(Device::Cpu, Kind::Double, 3);
        let w = NormWeight::new(&store.root(), &[5, 4, 3], 5, Init::KaimingUniform, true).unwrap();
        let v = store.get("weight_v").unwrap();
        assert_eq!(store.get("weight_g").unwrap().size(), [5, 1, 1]);
        assert!((w.weight().unwrap() - &v).abs().max().double_value(&[]) < 1e-15);
        let _guard = tch::no_grad_guard();
        let before = w.weight().unwrap();
        let _ = v.shallow_clone().multiply_scalar_(7.0);
        assert!((w.weight().unwrap() - before).abs().max().double_value(&[]) < 1e-14);
    }

    #[test]
    fn gains_and_directions_have_gradients_in_short_formats_too() {
        let store = Store::new(Device::Cpu, Kind::Float, 3);
        let w = NormWeight::new(&store.root(), &[5, 4, 3], 5, Init::KaimingUniform, true).unwrap();
        let want = w.weight().unwrap().detach();
        (w.weight().unwrap().square().sum(Kind::Float)).backward();
        let grad = |name: &str| store.get(name).unwrap().grad();
        // d |W|^2 / dg = 2 g, and nothing along v itself.
        let g = store.get("weight_g").unwrap().detach();
        assert!((grad("weight_g") - g * 2.0).abs().max().double_value(&[]) < 1e-5);
        assert!(grad("weight_v").abs().max().double_value(&[]) < 1e-5);
        store.set_requires_grad(false).unwrap();
        store.cast_weights(Kind::BFloat16).unwrap();
        let short = w.weight().unwrap();
        assert_eq!(short.kind(), Kind::BFloat16);
        assert!((short.to_kind(Kind::Float) - want).abs().max().double_value(&[]) < 5e-3);
    }
}

//! How parameters are drawn before training.
//!
//! `fan_in` and `fan_out` are those of PyTorch: a weight `[out, in, kh, kw]` has `in kh kw` and
//! `out kh kw`. Uniform draws come from SplitMix64, normal ones from libtorch's CPU generator; both
//! are seeded by the parameter's own name, so that no parameter depends on another's existence.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::math::rng::SplitMix64;
use crate::torch::shim::Generator;

/// The distribution of a parameter's first values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All equal.
    Const(f64),
    /// Uniform in (-bound, bound).
    Uniform(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// PyTorch's default for linear and convolution weights, `kaiming_uniform_(a = sqrt 5)`:
    /// uniform with bound `1/sqrt(fan_in)` (He et al. 2015, with the gain of leaky ReLU).
    KaimingUniform,
    /// Uniform with bound `scale sqrt(6/(fan_in + fan_out))` (Glorot and Bengio 2010).
    XavierUniform(f64),
}

impl Init {
    /// All zero.
    pub const ZEROS: Init = Init::Const(0.0);
    /// All one.
    pub const ONES: Init = Init::Const(1.0);

    /// A CPU tensor of `shape` drawn with `seed`.
    ///
    /// # Errors
    /// Where `shape` has no fans but the distribution needs them, or libtorch fails.
    pub fn draw(self, shape: &[i64], kind: Kind, seed: u64) -> Result<Tensor> {
        match self {
            Init::Const(value) => Ok(Tensor::f_full(shape, value, (kind, Device::Cpu))?),
            Init::Uniform(bound) => uniform(shape, bound, kind, seed),
            Init::KaimingUniform => uniform(shape, fans(shape)?.0.recip().sqrt(), kind, seed),
            Init::XavierUniform(scale) => {
                let (fan_in, fan_out) = fans(shape)?;
                uniform(shape, scale * (6.0 / (fan_in + fan_out)).sqrt(), kind, seed)
            }
            Init::Normal(std) => {
                let drawn = Generator::new(seed)?.normal(shape, Kind::Float)?;
                Ok(drawn.f_mul_scalar(std)?.f_to_kind(kind)?)
            }
        }
    }
}

/// (fan_in, fan_out) of a weight `[out, in, ...]`.
#[allow(clippy::cast_precision_loss)]
fn fans(shape: &[i64]) -> Result<(f64, f64)> {
    let [out, input, window @ ..] = shape else {
        return Err(Error::model(format!("a parameter of shape {shape:?} has no fans to scale it by")));
    };
    let window = window.iter().product::<i64>();
    Ok(((input * window) as f64, (out * window) as f64))
}

#[allow(clippy::cast_possible_truncation)]
fn uniform(shape: &[i64], bound: f64, kind: Kind, seed: u64) -> Result<Tensor> {
    let n = usize::try_from(shape.iter().product::<i64>())
        .map_err(|_| Error::model(format!("a parameter cannot have shape {shape:?}")))?;
    let mut stream = SplitMix64::new(seed);
    let flat = if kind == Kind::Double {
        let values: Vec<f64> = (0..n).map(|_| bound * (2.0 * stream.uniform() - 1.0)).collect();
        Tensor::f_from_slice(&values)?
    } else {
        let values: Vec<f32> = (0..n).map(|_| (bound * (2.0 * stream.uniform() - 1.0)) as f32).collect();
        Tensor::f_from_slice(&values)?.f_to_kind(kind)?
    };
    Ok(flat.f_reshape(shape)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn std(t: &Tensor) -> f64 {
        t.std(false).double_value(&[])
    }

    #[test]
    fn pytorch_default_has_std_1_over_sqrt_3_fan_in() {
        for shape in [vec![800, 128], vec![128, 64, 3, 3]] {
            let fan_in: i64 = shape[1..].iter().product();
            let w = Init::KaimingUniform.draw(&shape, Kind::Float, 1).unwrap();
            let want = (3.0 * fan_in as f64).sqrt().recip();
            assert!((std(&w) / want - 1.0).abs() < 0.02, "{} {want}", std(&w));
            assert!(w.abs().max().double_value(&[]) <= (fan_in as f64).sqrt().recip());
        }
    }

    #[test]
    fn xavier_scales_with_both_fans() {
        let w = Init::XavierUniform(1e-5).draw(&[256, 128, 3, 3], Kind::Float, 2).unwrap();
        let want = 1e-5 * (2.0f64 / (9.0 * 384.0)).sqrt();
        assert!((std(&w) / want - 1.0).abs() < 0.02);
    }

    #[test]
    fn normal_and_constants() {
        let w = Init::Normal(16.0).draw(&[100_000], Kind::Float, 5).unwrap();
        assert!((std(&w) / 16.0 - 1.0).abs() < 0.02);
        assert_eq!(std(&Init::ONES.draw(&[4], Kind::Float, 0).unwrap()), 0.0);
        assert!(Init::KaimingUniform.draw(&[3], Kind::Float, 0).is_err());
    }
}

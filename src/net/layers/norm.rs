//! Group normalisation (Wu and He 2018), statistics in f32 whatever the dtype of the input.

use tch::{Device, Kind, Tensor};

use super::init::Init;
use crate::error::{Error, Result};
use crate::net::store::Path;

/// Group norm with `weight` and `bias` `[C]`. There is no default `eps`: papers differ.
#[derive(Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    channels: i64,
    eps: f64,
}

impl GroupNorm {
    /// `groups` groups over `channels` channels.
    ///
    /// # Errors
    /// Where `groups` does not divide `channels`, a name is taken, or libtorch fails.
    pub fn new(p: &Path, groups: i64, channels: i64, eps: f64) -> Result<Self> {
        if groups < 1 || channels % groups != 0 {
            return Err(Error::model("group norm is not defined")
                .why(format!("{channels} channels do not divide into {groups} groups")));
        }
        let weight = p.param("weight", &[channels], Init::ONES)?;
        let bias = p.param("bias", &[channels], Init::ZEROS)?;
        Ok(GroupNorm { weight, bias, groups, channels, eps })
    }

    /// `x` `[B, C, ...]`, normalised, in the dtype of `x` (also under autocast, which would make the
    /// composite operation return f32 on CUDA and double the memory traffic around it).
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let size = x.size();
        if size.len() < 2 || size[1] != self.channels {
            return Err(Error::model(format!("group norm of {} channels got shape {size:?}", self.channels)));
        }
        // The kernel takes dense channels-last input on the CPU and plain contiguous input on CUDA.
        let cpu = x.device() == Device::Cpu;
        let x =
            if cpu && is_channels_last(&size, &x.stride()) { x.shallow_clone() } else { x.f_contiguous()? };
        let window = size[2..].iter().product();
        let (y, _, _) = if x.kind() == self.weight.kind() || (cpu && self.weight.kind() == Kind::Float) {
            let (w, b) = (Some(&self.weight), Some(&self.bias));
            x.f_native_group_norm(w, b, size[0], size[1], window, self.groups, self.eps)?
        } else {
            let (w, b) = (self.weight.f_to_kind(x.kind())?, self.bias.f_to_kind(x.kind())?);
            x.f_native_group_norm(Some(w), Some(b), size[0], size[1], window, self.groups, self.eps)?
        };
        Ok(y)
    }
}

/// Whether these are the strides of a dense channels-last image batch.
fn is_channels_last(size: &[i64], stride: &[i64]) -> bool {
    let (&[_, c, h, w], &[sb, sc, sh, sw]) = (size, stride) else { return false };
    // With one channel or one pixel both formats coincide, and libtorch suggests the plain one.
    c > 1 && h * w > 1 && [sb, sc, sh, sw] == [h * w * c, 1, w * c, c]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::store::{Store, channels_last};
    use crate::torch::shim::{Autocast, Generator};

    fn layer(groups: i64, channels: i64) -> (Store, GroupNorm) {
        let store = Store::new(Device::Cpu, Kind::Float, 0);
        let layer = GroupNorm::new(&store.root(), groups, channels, 1e-6).unwrap();
        (store, layer)
    }

    #[test]
    fn groups_have_mean_0_and_variance_1() {
        let (_store, norm) = layer(4, 8);
        let x = Generator::new(1).unwrap().normal(&[2, 8, 5, 5], Kind::Float).unwrap() * 3.0 + 1.0;
        let y = norm.forward(&x).unwrap().reshape([8, -1]);
        let (var, mean) = y.var_mean_dim([1i64].as_slice(), false, false);
        assert!(mean.abs().max().double_value(&[]) < 1e-5);
        assert!((var - 1.0).abs().max().double_value(&[]) < 1e-4);
    }

    #[test]
    fn channels_last_and_bf16_agree_with_the_plain_form() {
        let (_store, norm) = layer(8, 32);
        let x = Generator::new(2).unwrap().normal(&[2, 32, 4, 4], Kind::Float).unwrap();
        let plain = norm.forward(&x).unwrap();
        let last = norm.forward(&channels_last(&x).unwrap()).unwrap();
        assert_eq!(last.stride(), [512, 1, 128, 32]);
        assert!((&plain - last).abs().max().double_value(&[]) < 1e-5);
        let _guard = Autocast::to(Kind::BFloat16, false).unwrap();
        let half = norm.forward(&x.to_kind(Kind::BFloat16)).unwrap();
        assert_eq!(half.kind(), Kind::BFloat16);
        assert!((plain - half.to_kind(Kind::Float)).abs().max().double_value(&[]) < 0.05);
    }

    #[test]
    fn channels_must_divide() {
        let store = Store::new(Device::Cpu, Kind::Float, 0);
        assert!(GroupNorm::new(&store.root(), 3, 8, 1e-6).is_err());
    }
}

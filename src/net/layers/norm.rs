//! Group normalisation (Wu and He 2018), statistics in f32 whatever the dtype of the input.

use tch::{Device, Kind, Tensor};

use super::init::Init;
use super::silu;
use crate::error::{Error, Result};
use crate::net::store::Path;
use crate::torch::shim::{self, module::is_tracing};

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
        self.run(x, false)
    }

    /// As [`GroupNorm::forward`], followed by SiLU.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn silu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, true)
    }

    fn run(&self, x: &Tensor, with_silu: bool) -> Result<Tensor> {
        let size = x.size();
        if size.len() < 2 || size[1] != self.channels {
            return Err(Error::model(format!("group norm of {} channels got shape {size:?}", self.channels)));
        }
        if is_tracing() {
            let y = x.f_group_norm(self.groups, Some(&self.weight), Some(&self.bias), self.eps, false)?;
            return if with_silu { silu(y) } else { Ok(y) };
        }
        let cpu = x.device() == Device::Cpu;
        if cpu && self.weight.kind() == Kind::Float && matches!(x.kind(), Kind::Float | Kind::BFloat16) {
            return shim::group_norm(x, (&self.weight, &self.bias), self.groups, self.eps, with_silu);
        }
        // libtorch's kernel takes dense channels-last input on the CPU and plain contiguous input on CUDA.
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
        if with_silu { silu(y) } else { Ok(y) }
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

    /// libtorch's own norm and SiLU in f64, differentiated by its own backward.
    fn by_libtorch(norm: &GroupNorm, x: &Tensor, silu: bool) -> Tensor {
        let (w, b) = (norm.weight.to_kind(Kind::Double), norm.bias.to_kind(Kind::Double));
        let y =
            x.to_kind(Kind::Double).contiguous().group_norm(norm.groups, Some(w), Some(b), norm.eps, false);
        if silu { y.silu() } else { y }
    }

    #[test]
    fn values_and_gradients_are_those_of_libtorch() {
        let mut random = Generator::new(5).unwrap();
        let mut noise = |shape: &[i64]| random.normal(shape, Kind::Float).unwrap();
        let gap = |a: &Tensor, b: &Tensor| {
            let scale = b.abs().max().double_value(&[]);
            (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[]) / scale
        };
        for (groups, channels, height) in [(8, 32, 5), (32, 96, 1), (3, 21, 7), (1, 1, 4)] {
            let (_store, norm) = layer(groups, channels);
            tch::no_grad(|| {
                norm.weight.shallow_clone().copy_(&(noise(&[channels]) + 1.0));
                norm.bias.shallow_clone().copy_(&noise(&[channels]));
            });
            let shape = [3, channels, height, 6];
            // A mean far from zero shows where sums cancel.
            let (plain, dy) = (noise(&shape) * 2.0 + 30.0, noise(&shape));
            for (kind, last, silu) in [
                (Kind::Float, false, true),
                (Kind::Float, true, true),
                (Kind::Float, true, false),
                (Kind::Float, false, false),
                (Kind::BFloat16, false, true),
                (Kind::BFloat16, true, true),
            ] {
                let exact = kind == Kind::Float;
                let plain = if exact { plain.shallow_clone() } else { (&plain - 30.0).to_kind(kind) };
                let x = if last { channels_last(&plain).unwrap() } else { plain };
                let x = x.detach().set_requires_grad(true);
                let y = norm.run(&x, silu).unwrap();
                assert_eq!((y.kind(), y.stride()), (kind, x.stride()));
                let want = by_libtorch(&norm, &x, silu);
                let limit = if exact { 2e-5 } else { 8e-3 };
                assert!(
                    gap(&y, &want) < limit,
                    "{groups} {channels} {kind:?} {last} {silu}: {}",
                    gap(&y, &want)
                );
                let inputs = [&x, &norm.weight, &norm.bias];
                let got = Tensor::run_backward(
                    &[(y.to_kind(Kind::Float) * &dy).sum(Kind::Float)],
                    &inputs,
                    false,
                    false,
                );
                let want = Tensor::run_backward(&[(want * &dy).sum(Kind::Double)], &inputs, false, false);
                for (got, want) in got.iter().zip(&want) {
                    let limit = if exact { 1e-4 } else { 2e-2 };
                    assert!(
                        gap(got, want) < limit,
                        "{groups} {channels} {kind:?} {last} {silu}: {}",
                        gap(got, want)
                    );
                }
            }
        }
    }

    #[test]
    fn a_sample_does_not_depend_on_its_neighbours() {
        let (_store, norm) = layer(4, 16);
        let x = Generator::new(6).unwrap().normal(&[5, 16, 6, 6], Kind::Float).unwrap();
        for x in [x.shallow_clone(), channels_last(&x).unwrap()] {
            let all = norm.silu(&x).unwrap();
            assert!(norm.silu(&x.narrow(0, 3, 1)).unwrap().equal(&all.narrow(0, 3, 1)));
        }
    }

    #[test]
    fn second_derivatives_exist() {
        let (_store, norm) = layer(2, 4);
        let x =
            Generator::new(7).unwrap().normal(&[2, 4, 3, 3], Kind::Float).unwrap().set_requires_grad(true);
        let twice = |y: Tensor| {
            let g = Tensor::run_backward(&[y.square().sum(y.kind())], &[&x], true, true);
            let h = Tensor::run_backward(&[g[0].square().sum(Kind::Float)], &[&x], false, false);
            h[0].shallow_clone()
        };
        let (got, want) = (twice(norm.silu(&x).unwrap()), twice(by_libtorch(&norm, &x, true)));
        let scale = want.abs().max().double_value(&[]);
        assert!(scale > 0.0 && (got - want).abs().max().double_value(&[]) < 1e-4 * scale);
    }

    #[test]
    fn extreme_values_stay_what_they_are() {
        let (_store, norm) = layer(1, 2);
        tch::no_grad(|| norm.bias.shallow_clone().copy_(&Tensor::from_slice(&[1e4f32, -1e4])));
        let x = Tensor::from_slice(&[1f32, -1.0, 2.0, -2.0]).reshape([1, 2, 1, 2]);
        let y = Vec::<f32>::try_from(norm.silu(&x).unwrap().flatten(0, -1)).unwrap();
        assert!(y[0] > 9e3 && y[2].abs() < 1e-30 && y.iter().all(|v| v.is_finite()), "{y:?}");
        let nan = Tensor::from_slice(&[f32::NAN, 0.0, 0.0, 0.0]).reshape([1, 2, 1, 2]);
        assert!(norm.silu(&nan).unwrap().isnan().all().int64_value(&[]) == 1);
    }

    #[test]
    fn channels_must_divide() {
        let store = Store::new(Device::Cpu, Kind::Float, 0);
        assert!(GroupNorm::new(&store.root(), 3, 8, 1e-6).is_err());
    }
}

//! Convolution, bias and ReLU in one pass on the CPU.

use std::ffi::c_int;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::check;
use crate::error::Result;

unsafe extern "C" {
    fn gen_conv_pack(
        weight: *mut C_tensor,
        padding: *const i64,
        stride: i64,
        size: *const i64,
        out: *mut *mut C_tensor,
    ) -> c_int;
    fn gen_conv_relu(
        x: *mut C_tensor,
        weight: *mut C_tensor,
        bias: *mut C_tensor,
        padding: *const i64,
        stride: i64,
        out: *mut *mut C_tensor,
    ) -> c_int;
}

/// A convolution with bias and ReLU whose weight is kept in the layout that the CPU's library likes best. For f32 on
/// the CPU and without gradients; inputs should be channels-last.
#[derive(Debug)]
pub struct ConvRelu {
    /// In a layout of its own: of use for nothing but [`ConvRelu::forward`].
    weight: Tensor,
    bias: Tensor,
    padding: [i64; 2],
    stride: i64,
}

impl ConvRelu {
    /// For `weight` `[out, in, h, w]`, `bias` `[out]` and inputs of about `size` `[N, C, H, W]` (others work, too, but
    /// the layout may not be the best for them).
    ///
    /// # Errors
    /// Where libtorch was built without oneDNN, or shapes do not fit.
    pub fn new(
        weight: &Tensor,
        bias: &Tensor,
        padding: [i64; 2],
        stride: i64,
        size: [i64; 4],
    ) -> Result<Self> {
        let mut out = std::ptr::null_mut();
        let pointer = weight.as_ptr().cast_mut();
        // SAFETY: the tensor is live, the arrays have the two and four numbers that are read, `out` is a place for the
        // result.
        check(unsafe { gen_conv_pack(pointer, padding.as_ptr(), stride, size.as_ptr(), &raw mut out) })?;
        // SAFETY: `out` is a new tensor owned by nobody else.
        let weight = unsafe { Tensor::from_ptr(out) };
        Ok(ConvRelu { weight, bias: bias.shallow_clone(), padding, stride })
    }

    /// Whether tensors like `x` can be worked on.
    #[must_use]
    pub fn suits(x: &Tensor) -> bool {
        x.device() == Device::Cpu && x.kind() == Kind::Float
    }

    /// `relu(conv(x) + bias)`, channels-last.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [x, weight, bias] = [x, &self.weight, &self.bias].map(|t| t.as_ptr().cast_mut());
        let mut out = std::ptr::null_mut();
        // SAFETY: three live tensors, two numbers of padding, and a place for the result.
        check(unsafe { gen_conv_relu(x, weight, bias, self.padding.as_ptr(), self.stride, &raw mut out) })?;
        // SAFETY: `out` is a new tensor owned by nobody else.
        Ok(unsafe { Tensor::from_ptr(out) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::shim::Generator;

    #[test]
    fn one_pass_gives_what_three_give() {
        let mut draw = Generator::new(3).unwrap();
        let mut normal = |shape: &[i64]| draw.normal(shape, Kind::Float).unwrap();
        for (c, out, kernel, padding, stride) in
            [(3, 8, [3, 3], [0, 0], 2), (16, 24, [1, 7], [0, 3], 1), (5, 7, [1, 1], [0, 0], 1)]
        {
            let (weight, bias) = (normal(&[out, c, kernel[0], kernel[1]]), normal(&[out]));
            let conv = ConvRelu::new(&weight, &bias, padding, stride, [4, c, 9, 11]).unwrap();
            // Another batch size than it was made for, both memory formats.
            for x in [normal(&[4, c, 9, 11]), normal(&[3, 9, 11, c]).permute([0, 3, 1, 2])] {
                let want = x.conv2d(&weight, Some(&bias), stride, padding, 1, 1).relu();
                let got = conv.forward(&x).unwrap();
                let gap = (got - want).abs().max().double_value(&[]);
                assert!(gap < 1e-5, "{c} {out} {kernel:?}: {gap}");
            }
            assert!(ConvRelu::suits(&weight) && !ConvRelu::suits(&weight.to_kind(Kind::Double)));
            assert!(conv.forward(&normal(&[1, c + 1, 9, 11])).is_err());
        }
    }
}

//! Convolution and ReLU in one pass of oneDNN, for inference on the CPU.

use std::ffi::c_int;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::check;
use crate::error::Result;

unsafe extern "C" {
    fn gen_conv_fused_available() -> c_int;
    fn gen_conv_pack(
        weight: *mut C_tensor,
        stride: *const i64,
        padding: *const i64,
        size: *const i64,
        out: *mut *mut C_tensor,
    ) -> c_int;
    fn gen_conv_relu(
        x: *mut C_tensor,
        weight: *mut C_tensor,
        bias: *mut C_tensor,
        stride: *const i64,
        padding: *const i64,
        out: *mut *mut C_tensor,
    ) -> c_int;
}

/// A convolution followed by a ReLU, with weights in the layout that suits one size of input.
#[derive(Debug)]
pub struct ConvRelu {
    weight: Tensor,
    bias: Tensor,
    stride: [i64; 2],
    padding: [i64; 2],
}

impl ConvRelu {
    /// `weight` `[O, I, kh, kw]` and `bias` `[O]` (f32, on the CPU) for inputs of about `size` `[B, I, H, W]`
    /// (others work, too). Nothing where libtorch has no such operation.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn new(
        weight: &Tensor,
        bias: &Tensor,
        stride: [i64; 2],
        padding: [i64; 2],
        size: [i64; 4],
    ) -> Result<Option<Self>> {
        let fits = |t: &Tensor| t.device() == Device::Cpu && t.kind() == Kind::Float;
        // SAFETY: asks libtorch's registry.
        if !fits(weight) || !fits(bias) || unsafe { gen_conv_fused_available() } == 0 {
            return Ok(None);
        }
        let mut out = std::ptr::null_mut();
        // SAFETY: a live tensor, arrays of 2, 2 and 4 values, a place for the result.
        check(unsafe {
            gen_conv_pack(
                weight.as_ptr().cast_mut(),
                stride.as_ptr(),
                padding.as_ptr(),
                size.as_ptr(),
                &raw mut out,
            )
        })?;
        // SAFETY: `out` is a new tensor owned by nobody else.
        let weight = unsafe { Tensor::from_ptr(out) };
        Ok(Some(ConvRelu { weight, bias: bias.shallow_clone(), stride, padding }))
    }

    /// `max(0, conv(x) + bias)` for `x` `[B, I, H, W]` f32, best channels-last; without gradients.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut out = std::ptr::null_mut();
        // SAFETY: live tensors, arrays of 2 values, a place for the result.
        check(unsafe {
            gen_conv_relu(
                x.as_ptr().cast_mut(),
                self.weight.as_ptr().cast_mut(),
                self.bias.as_ptr().cast_mut(),
                self.stride.as_ptr(),
                self.padding.as_ptr(),
                &raw mut out,
            )
        })?;
        // SAFETY: `out` is a new tensor owned by nobody else.
        Ok(unsafe { Tensor::from_ptr(out) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::shim::Generator;

    #[test]
    fn it_is_convolution_and_relu() {
        let mut random = Generator::new(1).unwrap();
        let mut draw = |shape: &[i64]| random.normal(shape, Kind::Float).unwrap();
        let (x, w, b) = (draw(&[2, 5, 9, 11]), draw(&[7, 5, 1, 3]), draw(&[7]));
        let _guard = tch::no_grad_guard();
        let conv = ConvRelu::new(&w, &b, [2, 1], [0, 1], [2, 5, 9, 11]).unwrap().unwrap();
        for x in
            [x.narrow(0, 0, 1), x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]), x.shallow_clone()]
        {
            let want = x.conv2d(&w, Some(&b), [2, 1], [0, 1], [1, 1], 1).relu();
            let gap = (conv.forward(&x).unwrap() - want).abs().max().double_value(&[]);
            assert!(gap < 1e-5, "{gap}");
        }
    }
}

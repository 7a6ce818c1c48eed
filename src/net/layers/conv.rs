//! Two-dimensional convolutions, with or without FIR resampling.

use tch::Tensor;

use super::init::Init;
use super::linear::bias_bound;
use super::resample::Fir;
use crate::error::{Error, Result};
use crate::net::store::Path;

/// A convolution with `weight` `[out, in, k, k]` and `bias` `[out]`.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
    padding: i64,
}

impl Conv2d {
    /// A convolution of stride 1 that keeps the image's size (odd `kernel`), with the first values of
    /// `torch.nn.Conv2d`.
    ///
    /// # Errors
    /// Where a name is taken, or libtorch fails.
    pub fn new(p: &Path, input: i64, out: i64, kernel: i64) -> Result<Self> {
        let bias = Init::Uniform(bias_bound(input * kernel * kernel));
        Self::with(p, input, out, kernel, Init::KaimingUniform, bias)
    }

    /// The same with given first values.
    ///
    /// # Errors
    /// Where a name is taken, or libtorch fails.
    pub fn with(p: &Path, input: i64, out: i64, kernel: i64, weight: Init, bias: Init) -> Result<Self> {
        let weight = p.param("weight", &[out, input, kernel, kernel], weight)?;
        let bias = Some(p.param("bias", &[out], bias)?);
        Ok(Conv2d { weight, bias, stride: 1, padding: kernel / 2 })
    }

    /// A convolution without bias, otherwise as [`Conv2d::new`].
    ///
    /// # Errors
    /// Where the name is taken, or libtorch fails.
    pub fn without_bias(p: &Path, input: i64, out: i64, kernel: i64) -> Result<Self> {
        let weight = p.param("weight", &[out, input, kernel, kernel], Init::KaimingUniform)?;
        Ok(Conv2d { weight, bias: None, stride: 1, padding: kernel / 2 })
    }

    /// The same convolution with another stride and padding.
    #[must_use]
    pub fn strided(self, stride: i64, padding: i64) -> Self {
        Conv2d { stride, padding, ..self }
    }

    /// `x` `[B, in, H, W]` to `[B, out, H', W']`.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.padded(x, self.padding)
    }

    fn padded(&self, x: &Tensor, padding: i64) -> Result<Tensor> {
        let (stride, padding) = ([self.stride; 2], [padding; 2]);
        Ok(x.f_conv2d(&self.weight, self.bias.as_ref(), stride, padding, [1, 1], 1)?)
    }

    /// The weights, for layers that use them in another form.
    pub(super) fn weights(&self) -> (&Tensor, Option<&Tensor>) {
        (&self.weight, self.bias.as_ref())
    }
}

/// Change of resolution by a factor of 2 that goes with a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resample {
    /// None.
    Keep,
    /// Twice the height and width, before the convolution.
    Up,
    /// Half the height and width.
    Down,
}

/// A convolution of the DDPM++/NCSN++/EDM family: an optional FIR resampling and an optional convolution
/// (Karras et al. 2022, appendix F; the filters are those of Karras et al. 2020, "Analyzing and improving
/// the image quality of StyleGAN"). The filter is stored as the constant `resample_filter`.
#[derive(Debug)]
pub struct FirConv2d {
    conv: Option<Conv2d>,
    kernel: i64,
    fir: Option<Fir>,
    resample: Resample,
    /// Down: convolve first, then filter, so that the result sees the full-resolution input.
    conv_first: bool,
}

impl FirConv2d {
    /// A layer with first values `(weight, bias)`. `kernel` 0 resamples only; then `input` must equal `out`.
    ///
    /// # Errors
    /// Where a name is taken, the filter cannot be used, or libtorch fails.
    pub fn new(
        p: &Path,
        (input, out): (i64, i64),
        kernel: i64,
        (weight, bias): (Init, Init),
        resample: Resample,
        taps: &[f64],
    ) -> Result<Self> {
        if kernel == 0 && input != out {
            return Err(Error::model(format!("resampling cannot turn {input} channels into {out}")));
        }
        let conv = (kernel > 0).then(|| Conv2d::with(p, input, out, kernel, weight, bias)).transpose()?;
        let fir = (resample != Resample::Keep).then(|| Fir::new(p, taps)).transpose()?;
        Ok(FirConv2d { conv, kernel, fir, resample, conv_first: false })
    }

    /// The same layer, which convolves at the higher resolution before it filters downwards.
    #[must_use]
    pub fn conv_first(self) -> Self {
        FirConv2d { conv_first: true, ..self }
    }

    /// `x` `[B, in, H, W]` to `[B, out, H', W']`.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match (&self.fir, &self.conv, self.resample) {
            (Some(fir), Some(conv), Resample::Down) if self.conv_first => {
                fir.down_padded(&conv.padded(x, self.kernel / 2 + fir.padding())?, 0)
            }
            (Some(fir), conv, resample) => {
                let y = if resample == Resample::Up { fir.up(x)? } else { fir.down(x)? };
                conv.as_ref().map_or(Ok(y.shallow_clone()), |conv| conv.forward(&y))
            }
            (None, Some(conv), _) => conv.forward(x),
            (None, None, _) => Ok(x.shallow_clone()),
        }
    }
}

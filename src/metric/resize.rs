//! The three resizing protocols of FID. They differ by far more than rounding: a FID without the name of its
//! protocol is no number.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// How images come to 299 x 299 pixels and to the network's scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TensorFlow 1 bilinear (no half-pixel centres), `(x - 128) / 128`: the original FID, guided-diffusion,
    /// StyleGAN, EDM, torch-fidelity, clean-fid's `legacy_tensorflow`.
    #[default]
    #[value(alias = "torch-fidelity", alias = "adm", alias = "edm")]
    Tf,
    /// Bilinear with half-pixel centres of `x / 255`, `2 x - 1`: pytorch-fid, clean-fid's `legacy_pytorch`.
    #[value(alias = "pytorch-fid")]
    Pytorch,
    /// PIL's antialiased bicubic (a = -0.5) per channel in f32, clipped and not rounded, `(x - 128) / 128`:
    /// clean-fid's `clean`.
    #[value(alias = "clean-fid")]
    Clean,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tf => "tf",
            Protocol::Pytorch => "pytorch",
            Protocol::Clean => "clean",
        })
    }
}

impl Protocol {
    /// The network's input `[N, 3, height, width]` f32 for images `[N, 3, H, W]` of 0 to 255.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn prepare(self, images: &Tensor, height: i64, width: i64) -> Result<Tensor> {
        Ok(match self {
            Protocol::Tf | Protocol::Clean => {
                self.resize(images, height, width)?.f_sub_scalar(128.0)?.f_div_scalar_(128.0)?
            }
            Protocol::Pytorch => {
                let scaled =
                    half_pixel_bilinear(&images.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?, height, width)?;
                scaled.f_mul_scalar(2.0)?.f_sub_scalar_(1.0)?
            }
        })
    }

    /// The resized images `[N, 3, height, width]` f32, still of 0 to 255.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn resize(self, images: &Tensor, height: i64, width: i64) -> Result<Tensor> {
        match self {
            Protocol::Tf => tf_bilinear(&images.f_to_kind(Kind::Float)?, height, width),
            Protocol::Pytorch => half_pixel_bilinear(&images.f_to_kind(Kind::Float)?, height, width),
            Protocol::Clean => bicubic(images, height, width),
        }
    }
}

/// Positions of TensorFlow 1 along one axis: lower and upper index, weight of the upper one. In f32, as there.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn tf_axis(input: i64, output: i64, device: Device) -> Result<(Tensor, Tensor, Tensor)> {
    let scale = input as f32 / output as f32;
    let source: Vec<f32> = (0..output).map(|i| i as f32 * scale).collect();
    let low: Vec<i64> = source.iter().map(|s| (s.floor() as i64).min(input - 1)).collect();
    let high: Vec<i64> = low.iter().map(|&l| (l + 1).min(input - 1)).collect();
    let weight: Vec<f32> = source.iter().map(|s| s - s.floor()).collect();
    let index = |v: &[i64]| Tensor::f_from_slice(v)?.f_to_device(device);
    Ok((index(&low)?, index(&high)?, Tensor::f_from_slice(&weight)?.f_to_device(device)?))
}

/// Bilinear resize of TensorFlow 1 without half-pixel centres; f32 in, f32 out, `[N, C, H, W]`.
///
/// # Errors
/// Where the shape is another one.
pub fn tf_bilinear(x: &Tensor, height: i64, width: i64) -> Result<Tensor> {
    let (_, _, h, w) = x.size4()?;
    if (h, w) == (height, width) {
        return Ok(x.shallow_clone());
    }
    let along = |x: &Tensor, dim: i64, from: i64, to: i64| -> Result<Tensor> {
        let (low, high, weight) = tf_axis(from, to, x.device())?;
        let weight = if dim == 2 { weight.f_unsqueeze(1)? } else { weight };
        let (a, b) = (x.f_index_select(dim, &low)?, x.f_index_select(dim, &high)?);
        // v[lo] + (v[hi] - v[lo]) t, in this order.
        Ok(b.f_sub(&a)?.f_mul_(&weight)?.f_add_(&a)?)
    };
    along(&along(x, 3, w, width)?, 2, h, height)
}

/// Bilinear resize with half-pixel centres and without antialiasing.
///
/// # Errors
/// Where libtorch fails.
pub fn half_pixel_bilinear(x: &Tensor, height: i64, width: i64) -> Result<Tensor> {
    Ok(x.f_upsample_bilinear2d([height, width], false, None, None)?)
}

/// PIL's antialiased bicubic resize (a = -0.5) of values 0 to 255, clipped to that range and not rounded.
///
/// # Errors
/// Where the shape is another one.
pub fn bicubic(x: &Tensor, height: i64, width: i64) -> Result<Tensor> {
    Ok(super::pil::bicubic_f32(x, height, width)?.f_to_device(x.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::bytes::tensor_to_f64;

    fn row(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).view([1, 1, 1, -1])
    }

    fn close(got: &Tensor, want: &[f64], tolerance: f64) {
        let got = tensor_to_f64(got).unwrap();
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() <= tolerance, "{got:?} {want:?}");
        }
    }

    #[test]
    fn rows_of_each_protocol() {
        let cases: [(&[f32], [&[f64]; 3]); 4] = [
            (
                &[0., 100.],
                [
                    &[0., 40., 80., 100., 100.],
                    &[0., 10., 50., 90., 100.],
                    &[0., 6.555024, 50., 93.44498, 109.90566],
                ],
            ),
            (
                &[0., 100., 50., 200.],
                [
                    &[0., 57.142857, 92.857143, 64.285714, 92.857143, 178.571429, 200.],
                    &[0., 35.714286, 92.857143, 75., 60.714286, 146.428571, 200.],
                    &[0., 32.114372, 97.009636, 71.875, 55.25359, 152.78296, 211.89903],
                ],
            ),
            (
                &[0., 255., 0., 255., 0., 255., 0., 255.],
                [&[0., 170., 170.], &[212.5, 127.5, 42.5], &[112.3569, 127.5, 142.6431]],
            ),
            (
                &[10., 20., 30., 40., 50., 60., 70., 80., 90.],
                [
                    &[10., 32.5, 55., 77.5],
                    &[16.25, 38.75, 61.25, 83.75],
                    &[16.788109, 38.280933, 61.719067, 83.21189],
                ],
            ),
        ];
        for (input, [tf, half, clean]) in cases {
            let x = row(input);
            let n = tf.len() as i64;
            // Positions are f32 by definition (TensorFlow, libtorch). Between 4 and 8 the rounding of the scale
            // (i 2^-23) and of the product (2^-22) move a position by up to 5.4e-7, a value by 255 times that.
            close(&tf_bilinear(&x, 1, n).unwrap(), tf, 1.4e-4);
            close(&half_pixel_bilinear(&x, 1, n).unwrap(), half, 1.4e-4);
            // Our rows are clipped to 0 and 255; the table's are not.
            close(&bicubic(&x, 1, n).unwrap(), clean, 1e-4);
        }
    }

    #[test]
    fn the_right_size_is_left_alone() {
        let x = row(&[3., 250., 7.]);
        for resized in [tf_bilinear(&x, 1, 3).unwrap(), bicubic(&x, 1, 3).unwrap()] {
            assert_eq!(resized, x);
        }
        let p = Protocol::Pytorch.prepare(&row(&[0., 127.5, 255.]), 1, 3).unwrap();
        close(&p, &[-1., 0., 1.], 1e-6);
        let p = Protocol::Tf.prepare(&row(&[0., 128., 255.]), 1, 3).unwrap();
        close(&p, &[-1., 0., 127. / 128.], 1e-6);
    }
}

//! Images looked up at affinely transformed coordinates, without aliasing.

use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// `(x, y) -> (a x + b y + c, d x + e y + f)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Affine([f64; 6]);

impl Affine {
    pub(super) fn scale(x: f64, y: f64) -> Self {
        Affine([x, 0.0, 0.0, 0.0, y, 0.0])
    }
    pub(super) fn rotate(angle: f64) -> Self {
        let (sin, cos) = angle.sin_cos();
        Affine([cos, -sin, 0.0, sin, cos, 0.0])
    }
    pub(super) fn shift(x: f64, y: f64) -> Self {
        Affine([1.0, 0.0, x, 0.0, 1.0, y])
    }
    /// First `first`, then this.
    pub(super) fn after(self, first: Affine) -> Affine {
        let ([a, b, c, d, e, f], [p, q, r, s, t, u]) = (self.0, first.0);
        Affine([
            a * p + b * s,
            a * q + b * t,
            a * r + b * u + c,
            d * p + e * s,
            d * q + e * t,
            d * r + e * u + f,
        ])
    }
    pub(super) fn at(self, x: f64, y: f64) -> (f64, f64) {
        let [a, b, c, d, e, f] = self.0;
        (a * x + b * y + c, d * x + e * y + f)
    }
}

/// Low-pass filter of the symlet with six vanishing moments (Daubechies 1992); unit norm, sum sqrt 2.
const SYM6: [f64; 12] = [
    0.015_404_109_327_027_373,
    0.003_490_712_084_217_47,
    -0.117_990_111_148_190_57,
    -0.048_311_742_585_633,
    0.491_055_941_926_746_6,
    0.787_641_141_030_194,
    0.337_929_421_727_621_8,
    -0.072_637_522_786_462_52,
    -0.021_060_292_512_300_564,
    0.044_724_901_770_665_78,
    0.001_767_711_864_242_803_6,
    -0.007_800_708_325_034_148,
];
/// The filter is not quite symmetric: its centre of mass is tap 5.098 and not 5.5, so upsampling moves the image by
/// this many pixels of the original resolution (and downsampling back).
const PHASE: f64 = (5.098_260_9 - 5.5) / 2.0;
/// Reach of the filter in pixels of the original resolution.
const REACH: i64 = 3;

/// `x` `[B, C, H, W]` with image i looked up at `inverses[i]` of each pixel's centred coordinates.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
pub(super) fn warped(x: &Tensor, inverses: &[Affine]) -> Result<Tensor> {
    let size = x.size();
    let (batch, channels, height, width) = (size[0], size[1], size[2], size[3]);
    let (there, back) = (Affine::shift(PHASE, PHASE), Affine::shift(-PHASE, -PHASE));
    let inverses: Vec<Affine> = inverses.iter().map(|inverse| there.after(*inverse).after(back)).collect();
    let [left, top, right, bottom] = margins(&inverses, height, width);
    let padded = x.f_pad([left, right, top, bottom], "reflect", None)?;
    let fine = resampled(&padded, channels, true)?;

    // Results are computed with a margin for the downsampling filter, at twice the resolution.
    let (out_h, out_w) = (2 * (height + 2 * REACH), 2 * (width + 2 * REACH));
    let (in_h, in_w) = (2 * (height + top + bottom), 2 * (width + left + right));
    let (ratio_x, ratio_y) = (out_w as f64 / in_w as f64, out_h as f64 / in_h as f64);
    let theta: Vec<f32> = inverses
        .iter()
        .flat_map(|Affine([a, b, c, d, e, f])| {
            // The centre of the image within the padded one, then from pixels to [-1, 1].
            let (c, f) = (c + (left - right) as f64 / 2.0, f + (top - bottom) as f64 / 2.0);
            let (sx, sy) = (4.0 / in_w as f64, 4.0 / in_h as f64);
            [
                a * ratio_x,
                b * out_h as f64 / in_w as f64,
                c * sx,
                d * out_w as f64 / in_h as f64,
                e * ratio_y,
                f * sy,
            ]
        })
        .map(|v| v as f32)
        .collect();
    let theta = Tensor::f_from_slice(&theta)?.f_view([batch, 2, 3])?.f_to_device(x.device())?;
    let grid =
        Tensor::f_affine_grid_generator(&theta.f_to_kind(x.kind())?, [batch, channels, out_h, out_w], false)?;
    // Interpolation 0 is bilinear, padding 0 is zeros.
    let moved = fine.f_grid_sampler_2d(&grid, 0, 0, false)?;
    let coarse = resampled(&moved, channels, false)?;
    Ok(coarse.f_narrow(2, REACH, height)?.f_narrow(3, REACH, width)?.f_contiguous()?)
}

/// Reflection padding `[left, top, right, bottom]` within which all results and both filters find their pixels,
/// as far as a reflection goes.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn margins(inverses: &[Affine], height: i64, width: i64) -> [i64; 4] {
    let reach = REACH as f64;
    let (half_w, half_h) = (width as f64 / 2.0, height as f64 / 2.0);
    let mut low = (0.0f64, 0.0f64);
    let mut high = (0.0f64, 0.0f64);
    for inverse in inverses {
        for (x, y) in [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)] {
            let (x, y) = inverse.at(x * (half_w + reach), y * (half_h + reach));
            low = (low.0.min(x), low.1.min(y));
            high = (high.0.max(x), high.1.max(y));
        }
    }
    let bound = |beyond: f64, side: i64| ((beyond + reach).ceil().max(0.0) as i64).min(side - 1);
    [
        bound(-low.0 - half_w, width),
        bound(-low.1 - half_h, height),
        bound(high.0 - half_w, width),
        bound(high.1 - half_h, height),
    ]
}

/// Twice or half the resolution along both axes, with the wavelet's filter.
fn resampled(x: &Tensor, channels: i64, up: bool) -> Result<Tensor> {
    let taps = i64::try_from(SYM6.len()).unwrap_or(12); // unwrap: a constant length of 12
    let filter = filter(x.kind(), x.device())?;
    let mut out = x.shallow_clone();
    for (shape, stride, padding) in [
        ([channels, 1, 1, taps], [1, 2], [0, taps / 2 - 1]),
        ([channels, 1, taps, 1], [2, 1], [taps / 2 - 1, 0]),
    ] {
        let (shape_one, none) = ([1, 1, shape[2], shape[3]], None::<Tensor>);
        let weight = filter.f_view(shape_one)?.f_expand(shape, false)?;
        out = if up {
            out.f_conv_transpose2d(&weight, none, stride, padding, [0, 0], channels, [1, 1])?
        } else {
            out.f_conv2d(&weight, none, stride, padding, [1, 1], channels)?
        };
    }
    Ok(out)
}

fn filter(kind: Kind, device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(&SYM6)?.f_to_kind(kind)?.f_to_device(device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_an_orthonormal_wavelet() {
        let sum: f64 = SYM6.iter().sum();
        assert!((sum - 2f64.sqrt()).abs() < 1e-9);
        for shift in 0..6 {
            let dot: f64 = (2 * shift..12).map(|i| SYM6[i] * SYM6[i - 2 * shift]).sum();
            assert!((dot - f64::from(u8::from(shift == 0))).abs() < 1e-9, "{shift} {dot}");
        }
        let centre = SYM6.iter().enumerate().map(|(n, h)| n as f64 * h).sum::<f64>() / sum;
        assert!((0.5 * (centre - 5.5) - PHASE).abs() < 1e-6);
        // Six vanishing moments of the high-pass filter (-1)^n h(n).
        for k in 0..6 {
            let moment: f64 = SYM6
                .iter()
                .enumerate()
                .map(|(n, h)| (-1f64).powi(n as i32) * h * (n as f64 - 5.0).powi(k))
                .sum();
            assert!(moment.abs() < 1e-6, "{k} {moment}");
        }
    }
}

//! Bicubic resampling exactly as the Python Imaging Library does it, of floating-point planes and of bytes.
//!
//! Along an axis output i looks at inputs around `(i + 0.5) s`, s = in / out, through the cubic kernel of Keys
//! (1981) with a = -0.5, widened by max(s, 1) so that shrinking does not alias. Weights are normalised where
//! the image ends. Rows come first, then columns, as in all versions before 13 (2026), with which published numbers
//! were made; newer ones turn this round where the height shrinks more than the width. Floating-point planes have weights and sums in f64 and an f32
//! image in between; bytes have weights of 22 bits behind the point, and are rounded and clipped after each axis.

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::io::bytes::{tensor_from_bytes, tensor_to_bytes};

/// Half width of the kernel.
const SUPPORT: f64 = 2.0;
/// Bits behind the point of the weights for bytes.
const BITS: u32 = 22;

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// For each output position the first input it looks at, and the weights from there on.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn windows(input: usize, output: usize) -> Vec<(usize, Vec<f64>)> {
    let scale = input as f64 / output as f64;
    let wide = scale.max(1.0);
    let support = SUPPORT * wide;
    (0..output)
        .map(|i| {
            let center = (i as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            let mut weights: Vec<f64> =
                (first..end).map(|j| cubic((j as f64 - center + 0.5) * (1.0 / wide))).collect();
            let sum: f64 = weights.iter().sum();
            if sum != 0.0 {
                weights.iter_mut().for_each(|w| *w /= sum);
            }
            (first, weights)
        })
        .collect()
}

#[allow(clippy::cast_possible_truncation)]
fn fixed(windows: Vec<(usize, Vec<f64>)>) -> Vec<(usize, Vec<i32>)> {
    let one = f64::from(1 << BITS);
    // Half away from zero, then truncation.
    let round = |w: f64| (w * one + if w < 0.0 { -0.5 } else { 0.5 }) as i32;
    windows.into_iter().map(|(first, w)| (first, w.into_iter().map(round).collect())).collect()
}

/// A number that can be resampled.
trait Sample: Copy + Default + Send + Sync {
    type Weight: Copy + Send + Sync;
    type Sum: Copy;
    const START: Self::Sum;
    fn add(sum: Self::Sum, weight: Self::Weight, value: Self) -> Self::Sum;
    fn finish(sum: Self::Sum) -> Self;
}

impl Sample for f32 {
    type Weight = f64;
    type Sum = f64;
    const START: f64 = 0.0;
    fn add(sum: f64, weight: f64, value: f32) -> f64 {
        sum + f64::from(value) * weight
    }
    #[allow(clippy::cast_possible_truncation)]
    fn finish(sum: f64) -> f32 {
        sum as f32
    }
}

impl Sample for u8 {
    type Weight = i32;
    type Sum = i32;
    const START: i32 = 1 << (BITS - 1);
    fn add(sum: i32, weight: i32, value: u8) -> i32 {
        sum + i32::from(value) * weight
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn finish(sum: i32) -> u8 {
        (sum >> BITS).clamp(0, 255) as u8
    }
}

/// A plane of `height` x `width` with its rows resampled by `windows`.
fn along_rows<T: Sample>(plane: &[T], width: usize, windows: &[(usize, Vec<T::Weight>)]) -> Vec<T> {
    let mut out = Vec::with_capacity(plane.len() / width.max(1) * windows.len());
    for row in plane.chunks_exact(width) {
        out.extend(windows.iter().map(|(first, weights)| {
            let values = &row[*first..*first + weights.len()];
            T::finish(values.iter().zip(weights).fold(T::START, |sum, (&v, &w)| T::add(sum, w, v)))
        }));
    }
    out
}

/// A plane of rows of `width` with its columns resampled by `windows`.
fn along_columns<T: Sample>(plane: &[T], width: usize, windows: &[(usize, Vec<T::Weight>)]) -> Vec<T> {
    let mut out = Vec::with_capacity(windows.len() * width);
    let mut sums = vec![T::START; width];
    for (first, weights) in windows {
        sums.fill(T::START);
        for (j, &weight) in weights.iter().enumerate() {
            let row = &plane[(first + j) * width..(first + j + 1) * width];
            sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum = T::add(*sum, weight, v));
        }
        out.extend(sums.iter().map(|&sum| T::finish(sum)));
    }
    out
}

/// The weights of both axes; nothing for an axis that keeps its size.
struct Axes<W> {
    rows: Option<Vec<(usize, Vec<W>)>>,
    columns: Option<Vec<(usize, Vec<W>)>>,
}

impl<W> Axes<W> {
    fn new(
        from: [usize; 2],
        to: [usize; 2],
        make: impl Fn(Vec<(usize, Vec<f64>)>) -> Vec<(usize, Vec<W>)>,
    ) -> Self {
        let axis = |k: usize| (from[k] != to[k]).then(|| make(windows(from[k], to[k])));
        Axes { rows: axis(1), columns: axis(0) }
    }

    fn apply<T: Sample<Weight = W>>(&self, plane: &[T], width: usize, to_width: usize) -> Vec<T> {
        let wide = match &self.rows {
            Some(rows) => along_rows(plane, width, rows),
            None => plane.to_vec(),
        };
        match &self.columns {
            Some(columns) => along_columns(&wide, to_width, columns),
            None => wide,
        }
    }
}

/// Height and width of images `[N, C, H, W]`, and those wanted.
fn sizes(images: &Tensor, to: [i64; 2]) -> Result<([usize; 2], [usize; 2])> {
    let (_, _, h, w) = images.size4()?;
    let size = |v: i64| usize::try_from(v).unwrap_or(0).max(1);
    Ok(([size(h), size(w)], to.map(size)))
}

/// Images `[N, C, H, W]` of values 0 to 255 resampled as planes of f32 (PIL's mode `F`), clipped to that range and
/// not rounded: `[N, C, height, width]` f32 on the CPU.
///
/// # Errors
/// Where the shape is another one.
pub fn bicubic_f32(images: &Tensor, height: i64, width: i64) -> Result<Tensor> {
    let (n, c, h, w) = images.size4()?;
    let images = images.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    if (h, w) == (height, width) {
        return Ok(images);
    }
    let (from, to) = sizes(&images, [height, width])?;
    let axes = Axes::new(from, to, |w| w);
    let mut values = vec![0f32; images.numel()];
    images.f_copy_data(&mut values, images.numel())?;
    let mut out = vec![0f32; usize::try_from(n * c).unwrap_or(0) * to[0] * to[1]];
    out.par_chunks_exact_mut(to[0] * to[1]).zip(values.par_chunks_exact(from[0] * from[1])).for_each(
        |(out, plane)| {
            let resized = axes.apply(plane, from[1], to[1]);
            out.iter_mut().zip(resized).for_each(|(o, v)| *o = v.clamp(0.0, 255.0));
        },
    );
    Ok(Tensor::f_from_slice(&out)?.f_view([n, c, height, width])?)
}

/// Images of bytes `[N, C, H, W]` resampled as pictures of 8 bits, u8 `[N, C, height, width]` on the CPU.
///
/// # Errors
/// Where the shape or the type is another one.
pub fn bicubic_u8(images: &Tensor, height: i64, width: i64) -> Result<Tensor> {
    let (n, c, h, w) = images.size4()?;
    if images.f_kind()? != Kind::Uint8 {
        return Err(Error::run("resampling of bytes got another type"));
    }
    if (h, w) == (height, width) {
        return Ok(images.f_to_device(Device::Cpu)?);
    }
    let (from, to) = sizes(images, [height, width])?;
    let axes = Axes::new(from, to, fixed);
    let bytes = tensor_to_bytes(images)?;
    let mut out = vec![0u8; usize::try_from(n * c).unwrap_or(0) * to[0] * to[1]];
    out.par_chunks_exact_mut(to[0] * to[1])
        .zip(bytes.par_chunks_exact(from[0] * from[1]))
        .for_each(|(out, plane)| out.copy_from_slice(&axes.apply(plane, from[1], to[1])));
    tensor_from_bytes(&out, &[n, c, height, width], Kind::Uint8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::bytes::tensor_to_f64;

    #[test]
    fn rows_are_those_of_the_library() {
        // Not clipped: the table's values are of the resampling alone.
        let cases: [(&[f32], &[f64]); 4] = [
            (&[0., 100.], &[-9.905661, 6.555024, 50., 93.44498, 109.90566]),
            (
                &[0., 100., 50., 200.],
                &[-7.9326925, 32.114372, 97.009636, 71.875, 55.25359, 152.78296, 211.89903],
            ),
            (&[0., 255., 0., 255., 0., 255., 0., 255.], &[112.3569, 127.5, 142.6431]),
            (&[10., 20., 30., 40., 50., 60., 70., 80., 90.], &[16.788109, 38.280933, 61.719067, 83.21189]),
        ];
        for (input, want) in cases {
            let got = along_rows(input, input.len(), &windows(input.len(), want.len()));
            for (g, w) in got.iter().zip(want) {
                assert!((f64::from(*g) - w).abs() < 2e-5, "{got:?} {want:?}");
            }
            let turned = along_columns(input, 1, &windows(input.len(), want.len()));
            assert_eq!(got, turned);
        }
    }

    #[test]
    fn constant_images_stay_constant_and_sizes_are_right() {
        let x = Tensor::full([2, 3, 7, 9], 93, (Kind::Uint8, Device::Cpu));
        for (h, w) in [(7, 9), (20, 4), (3, 9), (7, 31)] {
            let (f, b) = (bicubic_f32(&x, h, w).unwrap(), bicubic_u8(&x, h, w).unwrap());
            assert_eq!((f.size(), b.size()), (vec![2, 3, h, w], vec![2, 3, h, w]));
            assert!(tensor_to_f64(&b).unwrap().iter().all(|&v| v == 93.0));
            assert!(tensor_to_f64(&f).unwrap().iter().all(|&v| (v - 93.0).abs() < 1e-4));
        }
    }
}

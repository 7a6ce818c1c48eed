//! Frechet audio distance (Kilgour et al. 2019): the Frechet distance between frames of embeddings, those of all files
//! together.
//!
//! FAD at infinitely many frames (Gui et al. 2024, "Adapting Frechet Audio Distance for generative music evaluation"):
//! 25 sizes from 500 to all frames, each a random draw with replacement, and the value at `1/n = 0` of the
//! least-squares line through the distances over `1/n`.

use tch::Tensor;

use crate::error::{Error, Result};
use crate::math::rng::SplitMix64;
use crate::metric::distance::rows;
use crate::metric::frechet::{self, Gaussian};
use crate::metric::frechet_features::Against;

/// Refuses a covariance that cannot have full rank.
///
/// # Errors
/// Where there are fewer frames than one more than numbers in an embedding.
pub fn check_frames(frames: usize, width: usize) -> Result<()> {
    if frames > width {
        return Ok(());
    }
    Err(Error::data(format!("{frames} frames of {width} numbers"))
        .why(format!("a covariance needs at least {}", width + 1))
        .hint("give more or longer sounds; --allow-singular computes the distance all the same"))
}

/// The distance of frames `x` `[n, d]` from `y` `[m, d]`.
///
/// # Errors
/// Where widths differ, there are fewer than two frames, or values are not finite.
pub fn fad(x: &Tensor, y: &Tensor) -> Result<f64> {
    frechet::distance(&Gaussian::fit(x)?, &Gaussian::fit(y)?)
}

/// What the extrapolation gave.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct AtInfinity {
    /// The distance at infinitely many frames: the intercept.
    pub value: f64,
    /// The slope over `1/n`.
    pub slope: f64,
    /// The share of the variance that the line explains; close to 1 where the extrapolation means something.
    pub r2: f64,
}

/// The extrapolated distance of `x` from `y`.
///
/// # Errors
/// Where `x` has fewer than 500 frames, or as [`fad`].
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn fad_infinity(x: &Tensor, y: &Tensor, seed: u64) -> Result<AtInfinity> {
    const FIRST: usize = 500;
    const SIZES: usize = 25;
    let (n, _) = rows(x)?;
    if n <= FIRST {
        return Err(Error::data(format!("{n} frames"))
            .why(format!("the extrapolation needs more than {FIRST}"))
            .hint("leave fad-inf out of --metrics, or give more sounds"));
    }
    let against = Against::gaussian(&Gaussian::fit(y)?)?;
    let mut random = SplitMix64::new(seed);
    let mut points = Vec::with_capacity(SIZES);
    for i in 0..SIZES {
        let size = FIRST + ((n - FIRST) as f64 * i as f64 / (SIZES - 1) as f64) as usize;
        let index: Vec<i64> = (0..size).map(|_| random.below(n as u64) as i64).collect();
        let part = x.f_index_select(0, &Tensor::f_from_slice(&index)?.f_to_device(x.device())?)?;
        points.push((1.0 / size as f64, against.distance(&part)?));
    }
    line(&points)
}

/// The least-squares line through points `(1/n, distance)`.
#[allow(clippy::cast_precision_loss)]
fn line(points: &[(f64, f64)]) -> Result<AtInfinity> {
    let n = points.len() as f64;
    let (mx, my) = points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
    let sum = |f: &dyn Fn(f64, f64) -> f64| points.iter().map(|(x, y)| f(x - mx, y - my)).sum::<f64>();
    let (sxx, sxy, syy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
    if sxx <= 0.0 || sxx.is_nan() {
        return Err(Error::data("frames").why("they are too few for an extrapolation"));
    }
    let slope = sxy / sxx;
    let r2 = if syy > 0.0 { slope * sxy / syy } else { 1.0 };
    Ok(AtInfinity { value: my - slope * mx, slope, r2 })
}

/// The distance of each file's own frames from `y`; nothing where a file has fewer than two frames.
///
/// # Errors
/// As [`fad`].
pub fn fad_per_file(files: &[Tensor], y: &Tensor) -> Result<Vec<Option<f64>>> {
    let against = Against::gaussian(&Gaussian::fit(y)?)?;
    files.iter().map(|x| if rows(x)?.0 < 2 { Ok(None) } else { against.distance(x).map(Some) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::shim::Generator;
    use tch::{Device, Kind};

    #[test]
    fn gaussians_of_known_distance() {
        let gaussian = |mean: f64, var: f64| Gaussian {
            n: None,
            mean: Tensor::full([4], mean, (Kind::Double, Device::Cpu)),
            cov: Tensor::eye(4, (Kind::Double, Device::Cpu)) * var,
        };
        let value = frechet::distance(&gaussian(0.0, 1.0), &gaussian(1.0, 4.0)).unwrap();
        assert!((value - 8.0).abs() < 1e-12, "{value}");
    }

    #[test]
    fn the_line_is_found() {
        let points: Vec<(f64, f64)> =
            [100.0, 200.0, 400.0].iter().map(|n| (1.0 / n, 3.0 + 50.0 / n)).collect();
        let found = line(&points).unwrap();
        assert!((found.value - 3.0).abs() < 1e-12 && (found.slope - 50.0).abs() < 1e-9);
        assert!((found.r2 - 1.0).abs() < 1e-12);
        assert!(line(&[(0.1, 1.0), (0.1, 2.0)]).is_err());
    }

    #[test]
    fn extrapolation_removes_the_bias_of_few_frames() {
        let mut random = Generator::new(4).unwrap();
        let y = random.normal(&[20_000, 16], Kind::Float).unwrap();
        let x = random.normal(&[3000, 16], Kind::Float).unwrap() * 2.0 + 1.0;
        // |1|^2 16 + 16 (2 - 1)^2 = 32; few frames make the distance larger.
        let (plain, found) = (fad(&x, &y).unwrap(), fad_infinity(&x, &y, 0).unwrap());
        assert!((plain - 32.0).abs() < 1.0, "{plain}");
        assert!((found.value - plain).abs() < 1.0 && found.r2 <= 1.0, "{found:?}");
        let same = random.normal(&[3000, 16], Kind::Float).unwrap();
        let (plain, found) = (fad(&same, &y).unwrap(), fad_infinity(&same, &y, 0).unwrap());
        // Draws with replacement of 500 of equal sets are at a distance of about d (d + 3)/(4 n).
        assert!(found.slope > 0.0 && found.value.abs() < 2.0 * plain + 0.02, "{plain} {found:?}");
        assert!(fad_infinity(&same.narrow(0, 0, 500), &y, 0).is_err());
        let each = fad_per_file(&[x.narrow(0, 0, 100), x.narrow(0, 0, 1)], &y).unwrap();
        assert!(each[0].is_some_and(|v| v > 20.0) && each[1].is_none());
        assert!(check_frames(128, 128).is_err() && check_frames(129, 128).is_ok());
    }
}

//! What a metric says of images that are certainly bad, and of real ones: without these a number is hard
//! to read, and a metric that does not tell them apart is of no use.

use tch::{Device, Kind, Tensor};

use crate::data::Dataset;
use crate::data::array::{ArrayDataset, Layout};
use crate::data::loader::to_tensor;
use crate::error::{Error, Result};
use crate::io::bytes::tensor_to_bytes;
use crate::torch::shim::Generator;

/// Pixels (times channels) up to which a covariance is fitted.
const MAX_PIXELS: usize = 4096;

/// `n` images whose bytes are independent and uniform.
///
/// # Errors
/// Where libtorch fails.
pub fn noise(shape: [usize; 3], n: usize, seed: u64) -> Result<ArrayDataset> {
    let size = (n * shape.iter().product::<usize>()) as i64;
    let bytes = Generator::new(seed)?.integers(256, &[size])?.f_to_kind(Kind::Uint8)?;
    ArrayDataset::new(tensor_to_bytes(&bytes)?, Layout::Chw, shape, None)
}

/// `n` images drawn from the Gaussian with the mean and covariance of the pixels of `real`, clipped and
/// rounded to bytes.
///
/// # Errors
/// Where images are too large for a covariance, differ in size or cannot be decoded.
pub fn gaussian(real: &dyn Dataset, n: usize, seed: u64) -> Result<ArrayDataset> {
    let shape = real.shape();
    let size: usize = shape.iter().product();
    if size > MAX_PIXELS {
        return Err(Error::usage("no Gaussian is fitted to images of this size")
            .why(format!("{size} values each, {MAX_PIXELS} at most")));
    }
    let pixels = to_tensor(real, 0..real.len())?.f_to_kind(Kind::Double)?.f_flatten(1, -1)?;
    let mean = pixels.f_mean_dim(0, false, Kind::Double)?;
    let centred = pixels.f_sub(&mean)?;
    let divisor = (real.len() as f64 - 1.0).max(1.0);
    let covariance = centred.f_transpose(0, 1)?.f_matmul(&centred)?.f_div_scalar(divisor)?;
    let (values, vectors) = covariance.f_linalg_eigh("L")?;
    let root = vectors.f_mul(&values.f_clamp_min(0.0)?.f_sqrt()?)?;
    let z = Generator::new(seed)?.normal(&[n as i64, size as i64], Kind::Double)?;
    let drawn: Tensor = z.f_matmul(&root.f_transpose(0, 1)?)?.f_add(&mean)?;
    let bytes = drawn.f_round()?.f_clamp(0.0, 255.0)?.f_to_kind(Kind::Uint8)?.f_to_device(Device::Cpu)?;
    ArrayDataset::new(tensor_to_bytes(&bytes)?, Layout::Chw, shape, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::bytes::tensor_to_f64;

    #[test]
    fn the_gaussian_has_the_moments_of_the_images() {
        // Two pixels around 100 and 150 with a strong correlation.
        let z = Generator::new(1).unwrap().normal(&[4000, 2], Kind::Double).unwrap();
        let (a, b) = (z.select(1, 0), z.select(1, 1));
        let pixels = Tensor::stack(&[&a * 10.0 + 100.0, &a * 8.0 + &b * 6.0 + 150.0], 1);
        let bytes = tensor_to_bytes(&pixels.round().to_kind(Kind::Uint8)).unwrap();
        let real = ArrayDataset::new(bytes, Layout::Chw, [1, 1, 2], None).unwrap();
        let drawn = gaussian(&real, 4000, 2).unwrap();
        let x = to_tensor(&drawn, 0..4000).unwrap().to_kind(Kind::Double).flatten(1, -1);
        // Against the moments of the images themselves: the draws of 4000 are off by 2.2 % (one sigma).
        let moments = |x: &Tensor| {
            let cov = x.transpose(0, 1).cov(1, None::<&Tensor>, None::<&Tensor>);
            (tensor_to_f64(&x.mean_dim(0, false, Kind::Double)).unwrap(), tensor_to_f64(&cov).unwrap())
        };
        let ((mean, cov), (want_mean, want_cov)) = (moments(&x), moments(&pixels.round()));
        for (got, want) in mean.iter().zip(&want_mean) {
            assert!((got - want).abs() < 0.7, "{mean:?} {want_mean:?}");
        }
        for (got, want) in cov.iter().zip(&want_cov) {
            assert!((got - want).abs() < 0.09 * want, "{cov:?} {want_cov:?}");
        }
    }

    #[test]
    fn noise_is_uniform_and_seeded() {
        let a = noise([1, 8, 8], 100, 3).unwrap();
        let x = to_tensor(&a, 0..100).unwrap().to_kind(Kind::Double);
        assert!((x.mean(Kind::Double).double_value(&[]) - 127.5).abs() < 4.0);
        assert_eq!(a.get(5).unwrap(), noise([1, 8, 8], 100, 3).unwrap().get(5).unwrap());
    }
}

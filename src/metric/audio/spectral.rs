//! Distances between a sound and its target, sample for sample.

use serde::Serialize;
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::torch::spectrum::{Edge, Stft};

/// Transform, hop and window of the three resolutions (Yamamoto et al. 2020, Parallel WaveGAN).
const RESOLUTIONS: [(usize, usize, usize); 3] = [(1024, 120, 600), (2048, 240, 1200), (512, 50, 240)];
/// Floor of powers.
const FLOOR: f64 = 1e-8;

/// The parts of the multi-resolution STFT distance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MrStft {
    /// Sum of both parts.
    pub total: f64,
    /// Spectral convergence `|Y - X|_F / |Y|_F`, Y the target, norms over the whole batch.
    pub convergence: f64,
    /// Mean of `|ln X - ln Y|`.
    pub log_magnitude: f64,
}

fn pair(x: &Tensor, y: &Tensor) -> Result<(Tensor, Tensor)> {
    if x.size() != y.size() || x.size().len() != 2 || x.numel() == 0 {
        return Err(Error::data("sounds do not match")
            .why(format!("{:?} and {:?} channels and samples", x.size(), y.size()))
            .hint("both need the same rate, channels and length"));
    }
    Ok((x.f_to_kind(Kind::Double)?, y.f_to_kind(Kind::Double)?))
}

fn number(t: &Tensor) -> Result<f64> {
    Ok(t.f_double_value(&[])?)
}

/// The multi-resolution STFT distance of sounds `x` from targets `y`, both `[B, T]` (conventions of auraloss):
/// transforms 1024/2048/512, hops 120/240/50, Hann windows 600/1200/240, magnitudes `sqrt(max(power, 1e-8))`.
///
/// # Errors
/// Where shapes differ, or sounds have 1024 samples or fewer.
pub fn mr_stft(x: &Tensor, y: &Tensor) -> Result<MrStft> {
    let (x, y) = pair(x, y)?;
    let (mut convergence, mut log_magnitude) = (0.0, 0.0);
    for (n_fft, hop, window) in RESOLUTIONS {
        let stft = Stft { n_fft, hop, window, edge: Edge::Reflect };
        let magnitude = |t: &Tensor| -> Result<Tensor> { Ok(stft.power(t)?.f_clamp_min(FLOOR)?.f_sqrt()?) };
        let (a, b) = (magnitude(&x)?, magnitude(&y)?);
        let norm = |t: &Tensor| -> Result<f64> { Ok(number(&t.f_square()?.f_sum(Kind::Double)?)?.sqrt()) };
        convergence += norm(&b.f_sub(&a)?)? / norm(&b)? / 3.0;
        log_magnitude += number(&a.f_log()?.f_sub(&b.f_log()?)?.f_abs()?.f_mean(Kind::Double)?)? / 3.0;
    }
    Ok(MrStft { total: convergence + log_magnitude, convergence, log_magnitude })
}

/// Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), means removed, averaged over the batch:
/// `10 log10(|a y|^2 / |a y - x|^2)`, `a = <x, y>/|y|^2`.
///
/// # Errors
/// Where shapes differ, or a target is silent.
pub fn si_sdr(x: &Tensor, y: &Tensor) -> Result<f64> {
    let (x, y) = pair(x, y)?;
    let centred = |t: &Tensor| -> Result<Tensor> {
        Ok(t.f_sub(&t.f_mean_dim([1i64].as_slice(), true, Kind::Double)?)?)
    };
    let (x, y) = (centred(&x)?, centred(&y)?);
    let dot = |a: &Tensor, b: &Tensor| -> Result<Tensor> {
        Ok(a.f_mul(b)?.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Double)?)
    };
    let power = dot(&y, &y)?;
    if number(&power.f_min()?)? <= 0.0 {
        return Err(Error::data("the target is silent").why("a ratio to it is not defined"));
    }
    let target = y.f_mul(&dot(&x, &y)?.f_div(&power)?)?;
    let error = x.f_sub(&target)?;
    // Two equal sounds are told apart by rounding alone.
    let ratio = dot(&target, &target)?.f_div(&dot(&error, &error)?.f_clamp_min(1e-30)?)?;
    number(&ratio.f_clamp_min(1e-30)?.f_log10()?.f_mul_scalar(10.0)?.f_mean(Kind::Double)?)
}

/// Log-spectral distance in dB: the mean over frames of `sqrt(mean over frequencies of (10 log10(P/P'))^2)`, transform
/// and window 2048, hop 512, powers floored at 1e-8.
///
/// # Errors
/// Where shapes differ, or sounds have 1024 samples or fewer.
pub fn log_spectral_distance(x: &Tensor, y: &Tensor) -> Result<f64> {
    let (x, y) = pair(x, y)?;
    let stft = Stft { n_fft: 2048, hop: 512, window: 2048, edge: Edge::Reflect };
    let log = |t: &Tensor| -> Result<Tensor> {
        Ok(stft.power(t)?.f_clamp_min(FLOOR)?.f_log10()?.f_mul_scalar(10.0)?)
    };
    let frames = log(&x)?.f_sub(&log(&y)?)?.f_square()?.f_mean_dim([1i64].as_slice(), false, Kind::Double)?;
    number(&frames.f_sqrt()?.f_mean(Kind::Double)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::shim::Generator;

    fn noise(seed: u64) -> Tensor {
        Generator::new(seed).unwrap().normal(&[2, 16_000], Kind::Double).unwrap()
    }

    #[test]
    fn twice_the_target() {
        let y = noise(1) * 100.0;
        let got = mr_stft(&(&y * 2.0), &y).unwrap();
        assert!((got.total - 1.693_147).abs() < 1e-6, "{got:?}");
        assert!((got.convergence - 1.0).abs() < 1e-9);
        assert!((log_spectral_distance(&(&y * 2.0), &y).unwrap() - 20.0 * 2f64.log10()).abs() < 1e-6);
        assert!(mr_stft(&y, &y).unwrap().total == 0.0);
    }

    #[test]
    fn the_ratio_does_not_see_scale_and_offset() {
        let (y, n) = (noise(2), noise(3));
        let x = &y + &n * 0.1;
        let got = si_sdr(&x, &y).unwrap();
        assert!((got - 20.0).abs() < 0.2, "{got}");
        assert!((si_sdr(&(&x * 3.0 + 0.5), &y).unwrap() - got).abs() < 1e-9);
        assert!(si_sdr(&y, &y).unwrap() > 200.0);
        assert!(si_sdr(&y, &(&y * 0.0)).is_err());
    }

    #[test]
    fn sounds_must_match() {
        let y = noise(1);
        let error = mr_stft(&y, &y.narrow(1, 0, 9000)).unwrap_err();
        assert_eq!(error.to_string(), "sounds do not match: [2, 16000] and [2, 9000] channels and samples");
        assert!(mr_stft(&y.narrow(1, 0, 1024), &y.narrow(1, 0, 1024)).is_err());
    }
}

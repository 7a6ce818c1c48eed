//! Change of sample rate by a windowed sinc, polyphase on the reduced ratio of the rates.
//!
//! With `p/q` the reduced ratio of the old and the new rate, `f = min(p, q) rolloff` and `z` zero crossings, output
//! sample `n` is `sum_m x_m (f/p) sinc(f u) w(f u)`, `u = m/p - n/q`, over `|f u| < z`: a low-pass at `rolloff` of the
//! lower Nyquist frequency (Smith, "Digital audio resampling", 2002). The window is Hann's,
//! `w(v) = cos^2(pi v / (2 z))`, or Kaiser's, `w(v) = I0(b sqrt(1 - (v/z)^2)) / I0(b)`. Samples beyond the ends are 0;
//! `ceil(q L / p)` samples come out of `L`. These are torchaudio's conventions, with its default settings as
//! [`Quality::Fast`] and its equivalent of "kaiser best" as [`Quality::Best`].

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Which filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Quality {
    /// Hann window, 6 zero crossings, rolloff 0.99.
    #[default]
    Fast,
    /// Kaiser window (beta 14.769656459379492), 64 zero crossings, rolloff 0.9475937167399596.
    Best,
}

impl Quality {
    /// Zero crossings, rolloff, and beta of Kaiser's window (none for Hann's).
    fn filter(self) -> (f64, f64, Option<f64>) {
        match self {
            Quality::Fast => (6.0, 0.99, None),
            Quality::Best => (64.0, 0.947_593_716_739_959_6, Some(14.769_656_459_379_492)),
        }
    }
}

/// Most taps a filter may have in all: rates with a large reduced ratio need one filter for each output phase.
const MOST_TAPS: f64 = 3e7;

/// The filters from one rate to another.
#[derive(Debug, Clone)]
pub struct Resampler {
    from: usize,
    to: usize,
    /// For each output phase: first input sample relative to the block's start, and taps.
    phases: Vec<(i64, Vec<f32>)>,
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
impl Resampler {
    /// Filters from `from` to `to` samples a second.
    ///
    /// # Errors
    /// Where a rate is 0, or the reduced ratio needs more filters than is sensible.
    pub fn new(from: u32, to: u32, quality: Quality) -> Result<Self> {
        if from == 0 || to == 0 {
            return Err(Error::data("cannot resample").why("a sample rate is 0"));
        }
        let common = gcd(from, to);
        let (p, q) = (f64::from(from / common), f64::from(to / common));
        let (crossings, rolloff, beta) = quality.filter();
        let base = p.min(q) * rolloff;
        let reach = crossings / base;
        if q * (2.0 * reach * p + 2.0) > MOST_TAPS {
            return Err(Error::data(format!("cannot resample from {from} to {to} Hz"))
                .why(format!("the ratio is {p}:{q} in lowest terms, which needs too many filters"))
                .hint("resample by way of a rate that shares more factors with both"));
        }
        let norm = beta.map_or(1.0, bessel_i0);
        let window = |v: f64| match beta {
            None => (v * PI / crossings / 2.0).cos().powi(2),
            Some(b) => bessel_i0(b * (1.0 - (v / crossings).powi(2)).max(0.0).sqrt()) / norm,
        };
        let tap = |m: i64, phase: f64| {
            let v = (m as f64 / p - phase / q) * base;
            if v.abs() >= crossings {
                return 0.0;
            }
            let sinc = if v == 0.0 { 1.0 } else { (PI * v).sin() / (PI * v) };
            (sinc * window(v) * base / p) as f32
        };
        let phases = (0..to / common)
            .map(|j| {
                let j = f64::from(j);
                let first = (p * (j / q - reach)).floor() as i64;
                let last = (p * (j / q + reach)).ceil() as i64;
                (first, (first..=last).map(|m| tap(m, j)).collect())
            })
            .collect();
        Ok(Resampler { from: (from / common) as usize, to: (to / common) as usize, phases })
    }

    /// Whether both rates are equal.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.from == self.to
    }

    /// Number of samples that come out of `frames`.
    #[must_use]
    pub fn output_len(&self, frames: usize) -> usize {
        converted(frames, self.from as u128, self.to as u128)
    }

    /// The same for any two rates (of at least 1).
    #[must_use]
    pub fn length(from: u32, to: u32, frames: usize) -> usize {
        converted(frames, u128::from(from.max(1)), u128::from(to))
    }

    /// One channel at the new rate.
    #[must_use]
    pub fn run(&self, x: &[f32]) -> Vec<f32> {
        if self.is_identity() {
            return x.to_vec();
        }
        let one = |n: usize| {
            let (first, taps) = &self.phases[n % self.to];
            let start = (n / self.to * self.from) as i64 + first;
            // Taps that reach over the ends meet zeros.
            let skip = usize::try_from(-start).unwrap_or(0).min(taps.len());
            let from = usize::try_from(start.max(0)).unwrap_or(0).min(x.len());
            let sum: f64 =
                taps[skip..].iter().zip(&x[from..]).map(|(&w, &v)| f64::from(w) * f64::from(v)).sum();
            sum as f32
        };
        (0..self.output_len(x.len())).map(one).collect()
    }
}

/// `ceil(to frames / from)`, in 128 bits, as a long recording times a rate may not fit.
fn converted(frames: usize, from: u128, to: u128) -> usize {
    usize::try_from((frames as u128 * to).div_ceil(from)).unwrap_or(usize::MAX)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The modified Bessel function of order 0 by its power series.
fn bessel_i0(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let (mut term, mut sum, mut k) = (1.0, 1.0, 1.0);
    while term > 1e-17 * sum {
        term *= quarter / (k * k);
        sum += term;
        k += 1.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gain in dB of a sine of `hz` from 44.1 to 16 kHz, measured in the middle, and the largest error against the
    /// sine itself.
    fn gain(hz: f64, quality: Quality) -> (f64, f64) {
        let sine = |n: usize, rate: f64| (std::f64::consts::TAU * hz * n as f64 / rate).sin();
        let x: Vec<f32> = (0..44_100).map(|n| sine(n, 44_100.0) as f32).collect();
        let y = Resampler::new(44_100, 16_000, quality).unwrap().run(&x);
        assert_eq!(y.len(), 16_000);
        let middle = 2000..14_000;
        let power: f64 = middle.clone().map(|n| f64::from(y[n]).powi(2)).sum::<f64>() / 12_000.0;
        let error = middle.map(|n| (f64::from(y[n]) - sine(n, 16_000.0)).abs()).fold(0.0, f64::max);
        (10.0 * (2.0 * power).log10(), error)
    }

    #[test]
    fn gains_are_those_of_the_filter() {
        for (hz, want) in [
            (1000.0, 0.0),
            (5000.0, 0.04),
            (7000.0, -1.78),
            (7900.0, -5.89),
            (9000.0, -16.8),
            (10_000.0, -45.3),
            (12_000.0, -55.1),
        ] {
            let (got, _) = gain(hz, Quality::Fast);
            let digits = if want > -10.0 { 0.006 } else { 0.06 };
            assert!((got - want).abs() < digits, "{hz} Hz: {got}");
        }
        assert!(gain(1000.0, Quality::Fast).1 < 4.1e-4);
        // The long filter passes 7 kHz and stops 9 kHz.
        assert!(gain(7000.0, Quality::Best).0.abs() < 0.01 && gain(9000.0, Quality::Best).0 < -90.0);
    }

    #[test]
    fn lengths_and_ends() {
        let up = Resampler::new(8000, 16_000, Quality::Fast).unwrap();
        assert_eq!((up.output_len(5), up.output_len(0)), (10, 0));
        assert_eq!(Resampler::new(44_100, 16_000, Quality::Fast).unwrap().output_len(100), 37);
        assert_eq!(up.run(&[]), Vec::<f32>::new());
        assert_eq!(up.run(&[1.0]).len(), 2);
        let same = Resampler::new(16_000, 16_000, Quality::Best).unwrap();
        assert_eq!(same.run(&[0.25, -1.5]), [0.25, -1.5]);
        assert!(Resampler::new(0, 8000, Quality::Fast).is_err());
        assert!(Resampler::new(4_294_967_291, 4_294_967_279, Quality::Best).is_err());
    }

    #[test]
    fn bessel_of_known_arguments() {
        assert!((bessel_i0(1.0) - 1.266_065_877_752_008_4).abs() < 1e-15);
        assert!((bessel_i0(10.0) / 2_815.716_628_466_254 - 1.0).abs() < 1e-14);
    }
}

//! Rotary positions (Su et al. 2021) and the ways in which their angles are stretched for longer texts.
//!
//! Numbers j and j + d/2 of a head of d are a point that is turned by `p f_j` at position p, `f_j = theta^(-2j/d)`.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// How the frequencies are changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Scaling {
    /// Not at all.
    #[default]
    None,
    /// All are divided by a factor (Chen et al. 2023).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// The base grows with texts longer than the context ("NTK-aware", dynamic).
    Dynamic {
        /// How many times the context is reached.
        factor: f64,
    },
    /// Low frequencies are divided by a factor, high ones stay (Llama 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low: f64,
        /// Wavelengths below `original / high` stay.
        high: f64,
        /// Context before.
        original: f64,
    },
    /// The same by a ramp over the numbers of a head, with longer cosines and sines (Peng et al. 2023, YaRN).
    Yarn {
        /// The factor.
        factor: f64,
        /// Turns within the original context above which a frequency stays.
        beta_fast: f64,
        /// Turns below which it is divided.
        beta_slow: f64,
        /// Context before.
        original: f64,
        /// Factor of cosines and sines.
        attention: f64,
        /// Whether the ends of the ramp are whole numbers.
        truncate: bool,
    },
}

/// Angles of rotary positions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are changed.
    pub scaling: Scaling,
}

impl Default for Rope {
    fn default() -> Self {
        Rope { theta: 10_000.0, scaling: Scaling::None }
    }
}

impl Rope {
    /// Longest sequence for a network made for `context` positions.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    pub fn limit(&self, context: i64) -> i64 {
        match self.scaling {
            Scaling::Dynamic { factor } => (context as f64 * factor.max(1.0)) as i64,
            _ => context,
        }
    }

    /// Checks the numbers, for heads of `dim`.
    ///
    /// # Errors
    /// Where one makes no sense.
    pub fn check(&self, dim: i64) -> Result<()> {
        let positive = |values: &[f64]| values.iter().all(|v| v.is_finite() && *v > 0.0);
        let fine = match self.scaling {
            Scaling::None => true,
            Scaling::Linear { factor } => positive(&[factor]),
            Scaling::Dynamic { factor } => positive(&[factor]) && factor >= 1.0 && dim > 2,
            Scaling::Llama3 { factor, low, high, original } => {
                positive(&[factor, low, high, original]) && high > low
            }
            Scaling::Yarn { factor, beta_fast, beta_slow, original, attention, .. } => {
                positive(&[factor, beta_fast, beta_slow, original, attention])
            }
        };
        if fine && self.theta.is_finite() && self.theta > 1.0 {
            return Ok(());
        }
        Err(Error::model("language model option `rope`").why(format!("{self:?} is not defined")))
    }

    /// Frequencies of heads of `dim` for sequences of `len` tokens, in f64, and the factor of cosines and sines.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn frequencies(&self, dim: i64, context: i64, len: i64) -> (Vec<f64>, f64) {
        let d = dim as f64;
        let plain = |theta: f64| (0..dim / 2).map(|j| theta.powf(-2.0 * j as f64 / d)).collect::<Vec<f64>>();
        match self.scaling {
            Scaling::None => (plain(self.theta), 1.0),
            Scaling::Linear { factor } => (plain(self.theta).iter().map(|f| f / factor).collect(), 1.0),
            Scaling::Dynamic { factor } => {
                let ratio = len.max(context) as f64 / context as f64;
                (plain(self.theta * (factor * ratio - (factor - 1.0)).powf(d / (d - 2.0))), 1.0)
            }
            Scaling::Llama3 { factor, low, high, original } => {
                let change = |f: f64| {
                    let wave = 2.0 * PI / f;
                    if wave < original / high {
                        f
                    } else if wave > original / low {
                        f / factor
                    } else {
                        let s = (original / wave - low) / (high - low);
                        (1.0 - s) * f / factor + s * f
                    }
                };
                (plain(self.theta).into_iter().map(change).collect(), 1.0)
            }
            Scaling::Yarn { factor, beta_fast, beta_slow, original, attention, truncate } => {
                // The (fractional) index of the frequency that turns that often within the original context.
                let index = |turns: f64| d * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
                let (mut low, mut high) = (index(beta_fast), index(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(d - 1.0));
                if low == high {
                    high += 0.001;
                }
                let change = |(j, f): (usize, f64)| {
                    let ramp = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * ramp + f * (1.0 - ramp)
                };
                (plain(self.theta).into_iter().enumerate().map(change).collect(), attention)
            }
        }
    }

    /// Cosines and sines `[rows, dim / 2]` of positions 0 to `rows - 1`, for sequences of `len` tokens. Angles are
    /// products in f32, as the networks were trained with.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn table(
        &self,
        dim: i64,
        context: i64,
        (rows, len): (i64, i64),
        kind: Kind,
        device: Device,
    ) -> Result<(Tensor, Tensor)> {
        let (frequencies, factor) = self.frequencies(dim, context, len);
        let compute = if kind == Kind::Double { Kind::Double } else { Kind::Float };
        let frequencies = Tensor::f_from_slice(&frequencies)?.f_to_kind(compute)?;
        let angles = Tensor::f_arange(rows, (compute, Device::Cpu))?.f_outer(&frequencies)?;
        let ready = |t: Tensor| -> Result<Tensor> {
            let t = if factor == 1.0 { t } else { t.f_mul_scalar(factor)? };
            Ok(t.f_to_kind(kind)?.f_to_device(device)?)
        };
        Ok((ready(angles.f_cos()?)?, ready(angles.f_sin()?)?))
    }
}

/// Turns `x` `[B, heads, L, d]` by the angles whose cosines and sines are `[B or 1, 1, L, d / 2]`.
///
/// # Errors
/// Where shapes do not fit.
pub fn turn(x: &Tensor, (cos, sin): (&Tensor, &Tensor)) -> Result<Tensor> {
    let half = x.f_chunk(2, -1)?;
    let (a, b) = (&half[0], &half[1]);
    let first = a.f_mul(cos)?.f_sub(&b.f_mul(sin)?)?;
    let second = b.f_mul(cos)?.f_add(&a.f_mul(sin)?)?;
    Ok(Tensor::f_cat(&[first, second], -1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_short_waves_and_divides_long_ones() {
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let rope = Rope { theta: 500_000.0, scaling };
        let (got, factor) = rope.frequencies(128, 131_072, 1);
        let (plain, _) = Rope { theta: 500_000.0, ..Rope::default() }.frequencies(128, 131_072, 1);
        assert_eq!((factor, got[0], got[63]), (1.0, 1.0, plain[63] / 8.0));
        for (g, p) in got.iter().zip(&plain) {
            let wave = 2.0 * PI / p;
            let s = ((8192.0 / wave - 1.0) / 3.0).clamp(0.0, 1.0);
            assert!((g - ((1.0 - s) * p / 8.0 + s * p)).abs() < 1e-15);
        }
    }

    #[test]
    fn dynamic_scaling_begins_past_the_context() {
        let rope = Rope { theta: 10_000.0, scaling: Scaling::Dynamic { factor: 4.0 } };
        let plain = Rope::default().frequencies(64, 2048, 1).0;
        assert_eq!(rope.frequencies(64, 2048, 2048).0, plain);
        let longer = rope.frequencies(64, 2048, 4096).0;
        let theta: f64 = 10_000.0 * 5f64.powf(64.0 / 62.0);
        assert!((longer[31] - theta.powf(-62.0 / 64.0)).abs() < 1e-15);
        assert_eq!((rope.limit(2048), Rope::default().limit(2048)), (8192, 2048));
    }

    #[test]
    fn turning_keeps_lengths_and_sees_differences_of_positions_only() {
        let (cos, sin) = Rope::default().table(8, 64, (32, 32), Kind::Double, Device::Cpu).unwrap();
        let x = Tensor::from_slice(&[0.3, -1.2, 0.7, 0.1, 2.0, -0.4, 0.9, 1.1]).view([1, 1, 1, 8]);
        let y = Tensor::from_slice(&[1.3, 0.2, -0.7, 0.6, -2.0, 0.4, 0.5, 0.1]).view([1, 1, 1, 8]);
        let at = |x: &Tensor, p: i64| {
            turn(x, (&cos.narrow(0, p, 1).view([1, 1, 1, 4]), &sin.narrow(0, p, 1).view([1, 1, 1, 4])))
                .unwrap()
        };
        let product = |p: i64, q: i64| (at(&x, p) * at(&y, q)).sum(Kind::Double).double_value(&[]);
        assert!((product(3, 7) - product(20, 24)).abs() < 1e-12);
        assert!((product(3, 7) - product(3, 8)).abs() > 1e-3);
        assert!((product(0, 0) - (&x * &y).sum(Kind::Double).double_value(&[])).abs() < 1e-12);
        assert!(Rope { theta: 1.0, ..Rope::default() }.check(8).is_err());
    }
}

//! Quantisers of waveforms: samples in [-1, 1] to codes `0 .. 2^bits - 1` and back.
//!
//! | kind | code of `s` in [0, 1] | from x |
//! |---|---|---|
//! | `mulaw` | `floor(s (2^b - 0.01) + 0.005)` | `s = (e + 1)/2`, `e = sign(x) ln(1 + mu abs(x + 1e-8))/ln(1 + mu)`, `mu = 2^b - 1` |
//! | `linear` | the same | `s = (x + 1)/2` |
//! | `torchaudio-mulaw` | `floor(s mu + 0.5)` | as `mulaw`, without 1e-8 |
//!
//! The first two are the quantisers of the SaShiMi reference code (Goel et al. 2022), the third is that of torchaudio
//! and of re-implementations that use it. They are not compatible, and neither are likelihoods under them.
//! Published likelihoods need `scale = "minmax"`, which stretches every clip to [-1, 1] and moves the zero of
//! clips that are not symmetric. From 15 bits on, the 1e-8 of `mulaw` is as large as its intervals around zero, and some
//! codes there do not come back from their own values.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// Which curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum QuantKind {
    /// mu-law with the rounding of the SaShiMi reference code.
    #[default]
    #[value(alias = "mu-law")]
    Mulaw,
    /// Equal steps.
    Linear,
    /// mu-law with the rounding of torchaudio.
    TorchaudioMulaw,
}

/// How clips are scaled before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum QuantScale {
    /// Not at all; beyond [-1, 1] is clipped.
    #[default]
    None,
    /// Each clip by its own minimum and maximum to [-1, 1], as published likelihoods have it.
    Minmax,
    /// Each clip by its largest magnitude: zero stays zero.
    Peak,
}

/// Which value a code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum QuantDecode {
    /// The middle of its interval.
    #[default]
    Center,
    /// The lower end of its interval, as the SaShiMi reference code has it.
    Floor,
}

/// A quantiser; all of it belongs to a model trained on its codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quantizer {
    /// Which curve.
    pub kind: QuantKind,
    /// Bits of a code, 1 to 16.
    pub bits: u32,
    /// How clips are scaled before.
    pub scale: QuantScale,
    /// Which value a code stands for (`torchaudio-mulaw` has values of its own).
    pub decode: QuantDecode,
}

impl Default for Quantizer {
    fn default() -> Self {
        Quantizer { kind: QuantKind::Mulaw, bits: 8, scale: QuantScale::None, decode: QuantDecode::Center }
    }
}

impl Quantizer {
    /// Checks the options.
    ///
    /// # Errors
    /// A usage error where bits are not 1 to 16.
    pub fn check(&self) -> Result<()> {
        if (1..=16).contains(&self.bits) {
            return Ok(());
        }
        Err(Error::usage(format!("quantiser of {} bits", self.bits)).why("1 to 16 are possible"))
    }

    /// Number of codes, `2^bits`.
    #[must_use]
    pub fn levels(&self) -> i64 {
        1 << self.bits.min(62)
    }

    /// The code of silence, which sequences start from.
    #[must_use]
    pub fn zero(&self) -> i64 {
        self.levels() / 2
    }

    #[allow(clippy::cast_precision_loss)]
    fn mu(&self) -> f64 {
        (self.levels() - 1) as f64
    }

    /// Codes i64 of samples `[..., T]` f32 or f64; every row along the last dimension is a clip.
    ///
    /// # Errors
    /// Where the options are wrong, or libtorch fails.
    pub fn encode(&self, x: &Tensor) -> Result<Tensor> {
        self.encode_valid(x, None)
    }

    /// As [`Quantizer::encode`] of clips `[B, T]` of which only the first `frames` `[B]` i64 samples are sound: the
    /// rest (padding) does not count for the scale.
    ///
    /// # Errors
    /// As [`Quantizer::encode`].
    #[allow(clippy::cast_precision_loss)]
    pub fn encode_valid(&self, x: &Tensor, frames: Option<&Tensor>) -> Result<Tensor> {
        self.check()?;
        let x = self.scaled(x, frames)?.f_clamp(-1.0, 1.0)?;
        let top = self.levels() as f64;
        let mut codes = match self.kind {
            QuantKind::Linear => steps(&x.f_add_scalar(1.0)?.f_mul_scalar_(0.5)?, top)?,
            QuantKind::Mulaw => steps(&self.compressed(&x, 1e-8)?, top)?,
            QuantKind::TorchaudioMulaw => {
                self.compressed(&x, 0.0)?.f_mul_scalar_(self.mu())?.f_add_scalar_(0.5)?.f_floor_()?
            }
        };
        Ok(codes.f_clamp_(0.0, top - 1.0)?.f_to_kind(Kind::Int64)?)
    }

    /// `(sign(x) ln(1 + mu |x + offset|)/ln(1 + mu) + 1)/2`.
    fn compressed(&self, x: &Tensor, offset: f64) -> Result<Tensor> {
        let mu = self.mu();
        let mut e = x.f_add_scalar(offset)?.f_abs_()?.f_mul_scalar_(mu)?.f_log1p_()?.f_mul_(&x.f_sign()?)?;
        Ok(e.f_div_scalar_(mu.ln_1p())?.f_add_scalar_(1.0)?.f_mul_scalar_(0.5)?)
    }

    /// The samples as the quantiser scales them, before clipping; `frames` as in [`Quantizer::encode_valid`].
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn scaled(&self, x: &Tensor, frames: Option<&Tensor>) -> Result<Tensor> {
        if self.scale == QuantScale::None || x.numel() == 0 {
            return Ok(x.shallow_clone());
        }
        // Padding repeats the first sample for the purpose of finding extremes.
        let seen = match frames {
            None => x.shallow_clone(),
            Some(frames) => {
                let (_, length) = x.size2()?;
                let at = Tensor::f_arange(length, (Kind::Int64, x.device()))?.f_unsqueeze(0)?;
                let valid =
                    at.f_lt_tensor(&frames.f_to_device(x.device())?.f_clamp_min(1)?.f_unsqueeze(1)?)?;
                x.f_where_self(&valid, &x.f_narrow(1, 0, 1)?)?
            }
        };
        let extreme = |y: &Tensor, top: bool| -> Result<Tensor> {
            Ok(if top { y.f_amax([-1i64].as_slice(), true)? } else { y.f_amin([-1i64].as_slice(), true)? })
        };
        if self.scale == QuantScale::Peak {
            let peak = extreme(&seen.f_abs()?, true)?;
            // Silence stays silence.
            let one = peak.f_ones_like()?;
            return Ok(x.f_div(&peak.f_where_self(&peak.f_gt(0.0)?, &one)?)?);
        }
        let (low, high) = (extreme(&seen, false)?, extreme(&seen, true)?);
        let range = high.f_sub(&low)?.f_add_scalar_(1e-6)?;
        Ok(x.f_sub(&low)?.f_div(&range)?.f_mul_scalar_(2.0)?.f_sub_scalar_(1.0)?)
    }

    /// Samples f32 of codes of any integer type, on their device.
    ///
    /// # Errors
    /// Where the options are wrong, or libtorch fails.
    pub fn decode(&self, codes: &Tensor) -> Result<Tensor> {
        Ok(self.decode_f64(codes)?.f_to_kind(Kind::Float)?)
    }

    /// As [`Quantizer::decode`], in f64.
    ///
    /// # Errors
    /// As [`Quantizer::decode`].
    #[allow(clippy::cast_precision_loss)]
    pub fn decode_f64(&self, codes: &Tensor) -> Result<Tensor> {
        self.check()?;
        let mu = self.mu();
        let codes = codes.f_to_kind(Kind::Double)?;
        let v = if self.kind == QuantKind::TorchaudioMulaw {
            codes.f_mul_scalar(2.0 / mu)?.f_sub_scalar_(1.0)?
        } else {
            let shift = if self.decode == QuantDecode::Center { 0.5 } else { 0.0 };
            codes.f_add_scalar(shift)?.f_div_scalar_(self.zero() as f64)?.f_sub_scalar_(1.0)?
        };
        if self.kind == QuantKind::Linear { Ok(v) } else { expanded(&v, mu) }
    }

    /// The upper ends of the intervals of all codes but the last, ascending, f64: code k is given to samples between
    /// number k - 1 and number k (without scaling).
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn edges(&self) -> Vec<f64> {
        let (top, mu) = (self.levels() as f64, self.mu());
        (1..self.levels())
            .map(|k| {
                let k = k as f64;
                let s = match self.kind {
                    QuantKind::TorchaudioMulaw => (k - 0.5) / mu,
                    QuantKind::Mulaw | QuantKind::Linear => (k - 0.005) / (top - 0.01),
                };
                let e = 2.0 * s - 1.0;
                match self.kind {
                    QuantKind::Linear => e,
                    _ => e.signum() * (e.abs() * mu.ln_1p()).exp_m1() / mu,
                }
            })
            .collect()
    }
}

/// `floor(s (levels - 0.01) + 0.005)`.
fn steps(s: &Tensor, levels: f64) -> Result<Tensor> {
    Ok(s.f_mul_scalar(levels - 0.01)?.f_add_scalar_(0.005)?.f_floor_()?)
}

/// `sign(v) ((1 + mu)^|v| - 1)/mu`.
fn expanded(v: &Tensor, mu: f64) -> Result<Tensor> {
    let size = v.f_abs()?.f_mul_scalar_(mu.ln_1p())?.f_expm1_()?.f_div_scalar_(mu)?;
    Ok(size.f_mul(&v.f_sign()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::bytes::tensor_to_f64;

    const X: [f64; 13] = [-1., -0.9, -0.5, -0.1, -0.01, -0.001, 0., 0.001, 0.01, 0.1, 0.5, 0.9, 1.];
    const MU: [i64; 13] = [0, 2, 15, 52, 98, 122, 128, 133, 157, 203, 240, 253, 255];
    const LINEAR: [i64; 13] = [0, 12, 64, 115, 126, 127, 128, 128, 129, 140, 191, 243, 255];
    const TORCHAUDIO: [i64; 13] = [0, 2, 16, 52, 98, 122, 128, 133, 157, 203, 239, 253, 255];

    fn quant(kind: QuantKind) -> Quantizer {
        Quantizer { kind, ..Quantizer::default() }
    }

    fn codes(q: &Quantizer, x: &[f64], kind: Kind) -> Vec<i64> {
        Vec::try_from(q.encode(&Tensor::from_slice(x).to_kind(kind)).unwrap()).unwrap()
    }

    #[test]
    fn codes_are_those_of_the_reference() {
        for kind in [Kind::Float, Kind::Double] {
            assert_eq!(codes(&quant(QuantKind::Mulaw), &X, kind), MU);
            assert_eq!(codes(&quant(QuantKind::Linear), &X, kind), LINEAR);
            assert_eq!(codes(&quant(QuantKind::TorchaudioMulaw), &X, kind), TORCHAUDIO);
            for (base, want) in [(QuantKind::Mulaw, MU), (QuantKind::Linear, LINEAR)] {
                // The small number in the denominator moves silence by one code.
                let q = Quantizer { scale: QuantScale::Minmax, ..quant(base) };
                let mut want = want;
                want[6] = 127;
                assert_eq!(codes(&q, &X, kind), want);
            }
            let clip = [1.0, -0.5, 0.0, 0.2];
            let minmax = |base| Quantizer { scale: QuantScale::Minmax, ..quant(base) };
            assert_eq!(codes(&minmax(QuantKind::Mulaw), &clip, kind), [255, 0, 25, 61]);
            assert_eq!(codes(&minmax(QuantKind::Linear), &clip, kind), [255, 0, 85, 119]);
            let silence = [0.0; 4];
            assert_eq!(codes(&minmax(QuantKind::Mulaw), &silence, kind), [0; 4]);
            let peak = Quantizer { scale: QuantScale::Peak, ..Quantizer::default() };
            assert_eq!(codes(&peak, &silence, kind), [128; 4]);
            assert_eq!(codes(&peak, &[0.5, -0.25, 0.0, 0.05], kind), [255, 15, 128, 203]);
        }
    }

    #[test]
    fn floors_are_those_of_the_reference() {
        let want = [
            -1., -0.916679, -0.520263, -0.101603, -0.010463, -0.001164, 0., 0.000948, 0.009853, 0.097129,
            0.498039, 0.877648, 0.957437,
        ];
        let q = Quantizer { decode: QuantDecode::Floor, ..Quantizer::default() };
        let got = tensor_to_f64(&q.decode(&Tensor::from_slice(&MU)).unwrap()).unwrap();
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 6e-7, "{got} {want}");
        }
    }

    #[test]
    fn every_code_comes_back_from_its_middle() {
        for bits in 1..=16 {
            for kind in [QuantKind::Mulaw, QuantKind::Linear, QuantKind::TorchaudioMulaw] {
                let q = Quantizer { bits, ..quant(kind) };
                let all = Tensor::arange(q.levels(), (Kind::Int64, tch::Device::Cpu));
                let wave = q.decode_f64(&all).unwrap();
                // The 1e-8 of the reference is half an interval of 15 bits.
                if kind != QuantKind::Mulaw || bits <= 14 {
                    assert!(q.encode(&wave).unwrap().equal(&all), "{kind:?} {bits}");
                }
                assert_eq!(q.encode(&Tensor::from_slice(&[0f64])).unwrap().int64_value(&[0]), q.zero());
                // Values beyond the range are clipped, not wrapped.
                let far = q.encode(&Tensor::from_slice(&[-7f32, 7.0])).unwrap();
                assert_eq!(Vec::<i64>::try_from(far).unwrap(), [0, q.levels() - 1]);
                if bits <= 8 {
                    assert!(q.encode(&q.decode(&all).unwrap()).unwrap().equal(&all), "f32 {kind:?} {bits}");
                }
            }
        }
    }

    #[test]
    fn floors_do_not_come_back() {
        let all = Tensor::arange(256, (Kind::Int64, tch::Device::Cpu));
        for (kind, lost) in [(QuantKind::Mulaw, 126), (QuantKind::Linear, 127)] {
            let q = Quantizer { decode: QuantDecode::Floor, ..quant(kind) };
            let back = q.encode(&q.decode(&all).unwrap()).unwrap();
            assert_eq!(back.ne_tensor(&all).sum(Kind::Int64).int64_value(&[]), lost, "{kind:?}");
        }
    }

    #[test]
    fn signal_to_noise_of_a_sine() {
        let x: Vec<f64> = (0..16_000)
            .map(|n| 0.5 * (std::f64::consts::TAU * 440.0 * f64::from(n) / 16_000.0).sin())
            .collect();
        let x = Tensor::from_slice(&x);
        for (kind, decode, want) in [
            (QuantKind::Mulaw, QuantDecode::Floor, 31.76),
            (QuantKind::Mulaw, QuantDecode::Center, 37.26),
            (QuantKind::Linear, QuantDecode::Floor, 37.54),
            (QuantKind::Linear, QuantDecode::Center, 42.66),
            (QuantKind::TorchaudioMulaw, QuantDecode::Center, 38.37),
        ] {
            let q = Quantizer { decode, ..quant(kind) };
            let error = q.decode_f64(&q.encode(&x).unwrap()).unwrap() - &x;
            let power = |t: &Tensor| t.square().sum(Kind::Double).double_value(&[]);
            let snr = 10.0 * (power(&x) / power(&error)).log10();
            assert!((snr - want).abs() < 0.006, "{kind:?} {decode:?}: {snr}");
        }
    }

    #[test]
    fn edges_divide_the_codes() {
        for kind in [QuantKind::Mulaw, QuantKind::Linear, QuantKind::TorchaudioMulaw] {
            for bits in [4, 8] {
                let q = Quantizer { bits, ..quant(kind) };
                let edges = q.edges();
                assert_eq!(edges.len() as i64, q.levels() - 1);
                let below: Vec<f64> = edges.iter().map(|e| e - 1e-7).collect();
                let above: Vec<f64> = edges.iter().map(|e| e + 1e-7).collect();
                assert_eq!(
                    codes(&q, &below, Kind::Double),
                    (0..q.levels() - 1).collect::<Vec<_>>(),
                    "{kind:?}"
                );
                assert_eq!(codes(&q, &above, Kind::Double), (1..q.levels()).collect::<Vec<_>>(), "{kind:?}");
            }
        }
    }

    #[test]
    fn padding_does_not_count_for_the_scale() {
        let q = Quantizer { scale: QuantScale::Minmax, ..Quantizer::default() };
        let clip = Tensor::from_slice(&[0.5f32, 0.3, 0.4]);
        let padded = Tensor::from_slice(&[0.5f32, 0.3, 0.4, 0.0, 0.0]).unsqueeze(0);
        let frames = Tensor::from_slice(&[3i64]);
        let got = q.encode_valid(&padded, Some(&frames)).unwrap();
        assert!(got.narrow(1, 0, 3).squeeze_dim(0).equal(&q.encode(&clip).unwrap()));
        assert!(q.encode(&Tensor::zeros([2, 0], (Kind::Float, tch::Device::Cpu))).unwrap().size() == [2, 0]);
    }

    #[test]
    fn recipes_name_all_of_it() {
        let q: Quantizer =
            toml::from_str("kind = \"torchaudio-mulaw\"\nbits = 10\nscale = \"peak\"").unwrap();
        assert_eq!((q.kind, q.bits, q.scale), (QuantKind::TorchaudioMulaw, 10, QuantScale::Peak));
        assert_eq!((q.levels(), q.zero()), (1024, 512));
        assert!(toml::from_str::<Quantizer>("bit = 3").is_err());
        assert!(Quantizer { bits: 17, ..q }.encode(&Tensor::from_slice(&[0f32])).is_err());
    }
}

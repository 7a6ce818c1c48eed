//! Short-time spectra of waveforms as tensor operations: on any device, and differentiable.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::math::mel::{MelBank, MelScale, hann};

/// What lies beyond the ends of a signal whose frames are centred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edge {
    /// The signal, mirrored at its ends.
    #[default]
    Reflect,
    /// Silence.
    Zero,
}

/// A short-time Fourier transform with a periodic Hann window. Frames are centred: the signal is padded by half a
/// transform at both ends, and `T/hop + 1` frames come out of T samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stft {
    /// Size of the transform.
    pub n_fft: usize,
    /// Samples from frame to frame.
    pub hop: usize,
    /// Size of the window, at most that of the transform, in whose middle it lies.
    pub window: usize,
    /// What lies beyond the ends.
    pub edge: Edge,
}

#[allow(clippy::cast_possible_wrap)]
impl Stft {
    /// Number of frequencies.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.n_fft / 2 + 1
    }

    /// `re^2 + im^2` `[B, n_fft/2 + 1, frames]` of signals `[B, T]`.
    ///
    /// # Errors
    /// Where signals are too short to be mirrored (T must be above `n_fft/2`), or libtorch fails.
    pub fn power(&self, x: &Tensor) -> Result<Tensor> {
        let (_, length) = x.size2()?;
        if self.window == 0 || self.window > self.n_fft || self.hop == 0 {
            return Err(Error::usage("spectrum is not defined").why(format!(
                "a window of {} samples in a transform of {}, every {} samples",
                self.window, self.n_fft, self.hop
            )));
        }
        let half = (self.n_fft / 2) as i64;
        if self.edge == Edge::Reflect && length <= half {
            return Err(Error::data(format!("sound of {length} samples"))
                .why(format!("a transform of {} samples needs more than {half}", self.n_fft))
                .hint("use longer clips"));
        }
        let padded = match self.edge {
            Edge::Reflect => x.f_unsqueeze(1)?.f_reflection_pad1d([half, half])?.f_squeeze_dim(1)?,
            Edge::Zero => x.f_constant_pad_nd([half, half])?,
        };
        let window =
            Tensor::f_from_slice(&hann(self.window))?.f_to_kind(x.f_kind()?)?.f_to_device(x.device())?;
        let (n, hop, width) = (self.n_fft as i64, self.hop as i64, self.window as i64);
        let spectrum = padded.f_stft(n, hop, width, Some(&window), false, true, true, false)?;
        Ok(spectrum.f_view_as_real()?.f_square()?.f_sum_dim_intlist(
            [-1i64].as_slice(),
            false,
            x.f_kind()?,
        )?)
    }
}

/// How energies in mel bands become numbers of a convenient size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// `ln(max(m, 1e-5))`.
    Ln,
    /// `clamp((20 log10(max(m, 1e-5)) - 20 + 100)/100, 0, 1)`.
    UnitDecibels,
    /// Decibels of power below the largest of the clip, floored at -80: `max(10 log10(max(m, 1e-10)) - top, -80)`.
    PeakDecibels,
}

/// A mel spectrogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MelSpectrogram {
    /// The transform.
    pub stft: Stft,
    /// The filters.
    pub bank: MelBank,
    /// 1 for magnitudes, 2 for powers.
    pub power: u8,
    /// Whether the transform is divided by the root of the sum of the squared window.
    pub normalized: bool,
    /// What comes after the filters.
    pub compression: Compression,
}

impl MelSpectrogram {
    /// The conditioning of philsyn/DiffWave-Vocoder and albertfgu/diffwave-sashimi, that of Tacotron 2: 22,050 Hz,
    /// 80 Slaney bands to 8000 Hz.
    #[must_use]
    pub fn diffwave() -> Self {
        let bank =
            MelBank { scale: MelScale::Slaney, area: true, low: 0.0, high: 8000.0, ..Self::vocoder_bank() };
        MelSpectrogram {
            stft: Self::vocoder_stft(),
            bank,
            power: 1,
            normalized: false,
            compression: Compression::Ln,
        }
    }

    /// The conditioning of lmnt-com/diffwave: 22,050 Hz, 80 HTK bands from 20 Hz, scaled to [0, 1].
    #[must_use]
    pub fn diffwave_lmnt() -> Self {
        let compression = Compression::UnitDecibels;
        let stft = Self::vocoder_stft();
        MelSpectrogram { stft, bank: Self::vocoder_bank(), power: 1, normalized: true, compression }
    }

    fn vocoder_stft() -> Stft {
        Stft { n_fft: 1024, hop: 256, window: 1024, edge: Edge::Reflect }
    }

    fn vocoder_bank() -> MelBank {
        let (rate, high) = (22_050.0, 11_025.0);
        MelBank { rate, n_fft: 1024, bands: 80, low: 20.0, high, scale: MelScale::Htk, area: false }
    }

    /// The input of the SC09 classifier: 16 kHz, 32 Slaney bands to 8000 Hz; 32 frames of 16,000 samples.
    #[must_use]
    pub fn sc09() -> Self {
        let (rate, high) = (16_000.0, 8000.0);
        MelSpectrogram {
            stft: Stft { n_fft: 2048, hop: 512, window: 2048, edge: Edge::Zero },
            bank: MelBank {
                rate,
                n_fft: 2048,
                bands: 32,
                low: 0.0,
                high,
                scale: MelScale::Slaney,
                area: true,
            },
            power: 2,
            normalized: false,
            compression: Compression::PeakDecibels,
        }
    }

    /// The weights of the filters `[bands, n_fft/2 + 1]` on `device`, for [`MelSpectrogram::with_weights`].
    ///
    /// # Errors
    /// Where libtorch fails.
    #[allow(clippy::cast_possible_wrap)]
    pub fn weights(&self, kind: Kind, device: Device) -> Result<Tensor> {
        let shape = [self.bank.bands as i64, self.stft.bins() as i64];
        let weights = Tensor::f_from_slice(&self.bank.weights())?.f_reshape(shape)?;
        Ok(weights.f_to_kind(kind)?.f_to_device(device)?)
    }

    /// `[B, bands, frames]` of signals `[B, T]` in [-1, 1].
    ///
    /// # Errors
    /// As [`Stft::power`].
    pub fn run(&self, x: &Tensor) -> Result<Tensor> {
        self.with_weights(x, &self.weights(x.f_kind()?, x.device())?)
    }

    /// As [`MelSpectrogram::run`] with the weights at hand.
    ///
    /// # Errors
    /// As [`Stft::power`].
    pub fn with_weights(&self, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
        let mut spectrum = self.stft.power(x)?;
        if self.normalized {
            let energy: f64 = hann(self.stft.window).iter().map(|w| w * w).sum();
            spectrum = spectrum.f_div_scalar(energy)?;
        }
        if self.power == 1 {
            spectrum = spectrum.f_sqrt()?;
        }
        let mel = weights.f_matmul(&spectrum)?;
        Ok(match self.compression {
            Compression::Ln => mel.f_clamp_min(1e-5)?.f_log()?,
            Compression::UnitDecibels => {
                mel.f_clamp_min(1e-5)?.f_log10()?.f_mul_scalar(0.2)?.f_add_scalar(0.8)?.f_clamp(0.0, 1.0)?
            }
            Compression::PeakDecibels => {
                let db = mel.f_clamp_min(1e-10)?.f_log10()?.f_mul_scalar(10.0)?;
                let top = db.f_amax([1i64, 2].as_slice(), true)?;
                db.f_sub(&top)?.f_clamp_min(-80.0)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(hz: f64, rate: f64, n: i64) -> Tensor {
        (Tensor::arange(n, (Kind::Double, Device::Cpu)) * (std::f64::consts::TAU * hz / rate)).sin()
    }

    #[test]
    fn a_sine_has_its_energy_where_it_belongs() {
        let stft = Stft { n_fft: 512, hop: 128, window: 512, edge: Edge::Reflect };
        // Bin 32 exactly: the amplitude of a Hann window is n/4 for a sine of amplitude 1.
        let power = stft.power(&sine(1000.0, 16_000.0, 4096).unsqueeze(0)).unwrap();
        assert_eq!(power.size(), [1, 257, 33]);
        let middle = power.select(2, 16).squeeze_dim(0);
        assert_eq!(middle.argmax(0, false).int64_value(&[]), 32);
        assert!((middle.double_value(&[32]).sqrt() - 128.0).abs() < 1e-6);
        assert!(middle.double_value(&[40]) < 1e-6);
    }

    #[test]
    fn sizes_of_the_published_conventions() {
        let x = sine(440.0, 22_050.0, 22_050).unsqueeze(0);
        for mel in [MelSpectrogram::diffwave(), MelSpectrogram::diffwave_lmnt()] {
            let y = mel.run(&x).unwrap();
            assert_eq!(y.size(), [1, 80, 22_050 / 256 + 1]);
        }
        let y = MelSpectrogram::diffwave_lmnt().run(&x).unwrap();
        assert!(y.min().double_value(&[]) >= 0.0 && y.max().double_value(&[]) <= 1.0);
        let y = MelSpectrogram::sc09().run(&sine(440.0, 16_000.0, 16_000).unsqueeze(0)).unwrap();
        assert_eq!(y.size(), [1, 32, 32]);
        assert!(y.max().double_value(&[]) == 0.0 && y.min().double_value(&[]) == -80.0);
        let silent = MelSpectrogram::sc09().run(&(x.narrow(1, 0, 16_000) * 0.0)).unwrap();
        assert!(silent.abs().max().double_value(&[]) == 0.0);
    }

    #[test]
    fn short_sounds_are_refused_by_name() {
        let error = MelSpectrogram::diffwave().run(&sine(440.0, 8000.0, 512).unsqueeze(0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sound of 512 samples: a transform of 1024 samples needs more than 512"
        );
    }
}

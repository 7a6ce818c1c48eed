//! Windows and mel filter banks.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

/// Hann's window of `n` samples, periodic: `(1 - cos(2 pi k / n)) / 2`.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn hann(n: usize) -> Vec<f64> {
    (0..n).map(|k| 0.5 - 0.5 * (TAU * k as f64 / n as f64).cos()).collect()
}

/// How frequencies become mels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MelScale {
    /// Slaney's Auditory Toolbox (1998): linear below 1000 Hz (3 mels for 200 Hz), logarithmic above (27 mels for a
    /// factor of 6.4).
    #[default]
    Slaney,
    /// HTK's: `2595 log10(1 + f/700)`.
    Htk,
}

impl MelScale {
    const KNEE_HZ: f64 = 1000.0;
    const KNEE_MEL: f64 = 15.0;
    const LINEAR: f64 = 200.0 / 3.0;

    fn step() -> f64 {
        6.4f64.ln() / 27.0
    }

    /// Mels of `hz`.
    #[must_use]
    pub fn mel(self, hz: f64) -> f64 {
        match self {
            MelScale::Htk => 2595.0 * (1.0 + hz / 700.0).log10(),
            MelScale::Slaney if hz < Self::KNEE_HZ => hz / Self::LINEAR,
            MelScale::Slaney => Self::KNEE_MEL + (hz / Self::KNEE_HZ).ln() / Self::step(),
        }
    }

    /// Hertz of `mel`.
    #[must_use]
    pub fn hz(self, mel: f64) -> f64 {
        match self {
            MelScale::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
            MelScale::Slaney if mel < Self::KNEE_MEL => mel * Self::LINEAR,
            MelScale::Slaney => Self::KNEE_HZ * ((mel - Self::KNEE_MEL) * Self::step()).exp(),
        }
    }
}

/// Triangular filters with corners equally spaced in mels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MelBank {
    /// Sample rate in Hz.
    pub rate: f64,
    /// Size of the transform; there are `n_fft/2 + 1` frequencies.
    pub n_fft: usize,
    /// Number of filters.
    pub bands: usize,
    /// Lower corner of the first filter in Hz.
    pub low: f64,
    /// Upper corner of the last filter in Hz.
    pub high: f64,
    /// The scale.
    pub scale: MelScale,
    /// Whether each filter is divided by half its width in Hz (Slaney: equal areas) or has a peak of 1.
    pub area: bool,
}

impl MelBank {
    /// The weights `[bands][n_fft/2 + 1]`, row by row.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn weights(&self) -> Vec<f64> {
        let (low, high) = (self.scale.mel(self.low), self.scale.mel(self.high));
        let gap = (high - low) / (self.bands as f64 + 1.0);
        let corners: Vec<f64> = (0..self.bands + 2).map(|i| self.scale.hz(low + gap * i as f64)).collect();
        let frequencies = self.n_fft / 2 + 1;
        let mut out = Vec::with_capacity(self.bands * frequencies);
        for corner in corners.windows(3) {
            let [left, peak, right] = [corner[0], corner[1], corner[2]];
            let norm = if self.area { 2.0 / (right - left) } else { 1.0 };
            out.extend((0..frequencies).map(|k| {
                let f = k as f64 * self.rate / self.n_fft as f64;
                let ramp = ((f - left) / (peak - left)).min((right - f) / (right - peak));
                ramp.max(0.0) * norm
            }));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_inverse_and_have_their_anchors() {
        for scale in [MelScale::Slaney, MelScale::Htk] {
            for hz in [0.0, 20.0, 440.0, 1000.0, 7999.0] {
                assert!((scale.hz(scale.mel(hz)) - hz).abs() < 1e-9);
            }
        }
        assert!((MelScale::Slaney.mel(1000.0) - 15.0).abs() < 1e-12);
        assert!((MelScale::Slaney.mel(6400.0) - 42.0).abs() < 1e-9);
        assert!((MelScale::Htk.mel(1000.0) - 999.985_537_139_4).abs() < 1e-6);
    }

    #[test]
    fn filters_have_equal_areas_or_equal_peaks() {
        let bank = MelBank {
            rate: 16_000.0,
            n_fft: 65_536,
            bands: 8,
            low: 0.0,
            high: 8000.0,
            scale: MelScale::Slaney,
            area: true,
        };
        let sums = |bank: &MelBank| -> Vec<(f64, f64)> {
            let weights = bank.weights();
            weights
                .chunks(32_769)
                .map(|row| {
                    (row.iter().sum::<f64>() * 16_000.0 / 65_536.0, row.iter().copied().fold(0.0, f64::max))
                })
                .collect()
        };
        assert!(sums(&bank).iter().all(|(area, _)| (area - 1.0).abs() < 1e-3));
        let plain = MelBank { area: false, ..bank };
        assert!(sums(&plain).iter().all(|(_, peak)| (0.99..=1.0).contains(peak)));
    }

    #[test]
    fn windows_are_periodic() {
        assert_eq!(hann(4).iter().map(|w| (w * 4.0).round() as i32).collect::<Vec<_>>(), [0, 2, 4, 2]);
    }
}

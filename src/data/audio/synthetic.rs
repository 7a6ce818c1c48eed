//! Sound that is made up: signals whose best likelihood is known.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::AudioSpec;
use crate::data::feed::{Fed, Feed};
use crate::error::{Error, Result};
use crate::math::rng::SplitMix64;
use crate::torch::shim::Generator;

/// The signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// `0.4 sin(2 pi f t + p1) + 0.2 sin(4 pi f t + p2)` and noise of 1.5 steps of 6 bits; f log-uniform in
    /// [1/80, 1/20] cycles a sample. In 6 bits no causal model can be better than 2.658 bits a sample.
    Tones,
    /// The same without noise, f in [1/40, 1/10].
    CleanTones,
    /// `x_t = 0.95 x_{t-100} + s e_t` with s of 2.5 steps of 6 bits, in its stationary state: 3.387 bits a sample at
    /// best, 5.049 without looking back 100 samples.
    Comb,
}

/// One step of a 6-bit code.
const STEP: f64 = 2.0 / 64.0;

/// Endless clips of a signal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Synthetic {
    /// Which.
    pub signal: Signal,
    /// Samples of a clip.
    pub length: usize,
    /// Sampling rate in Hz that it claims to have.
    pub rate: u32,
    /// Whether these are the held-out clips, drawn from streams of their own.
    pub held_out: bool,
}

impl Synthetic {
    /// The signal of a name.
    ///
    /// # Errors
    /// Where there is none of this name.
    pub fn named(name: &str, spec: &AudioSpec, held_out: bool) -> Result<Self> {
        let signal = match name {
            "tones" => Signal::Tones,
            "clean-tones" => Signal::CleanTones,
            "comb" => Signal::Comb,
            _ => {
                return Err(Error::usage(format!("no synthetic signal `{name}`"))
                    .at("data.path")
                    .hint("there are synthetic:tones, synthetic:clean-tones and synthetic:comb"));
            }
        };
        Ok(Synthetic {
            signal,
            length: spec.length.unwrap_or(1024),
            rate: spec.rate.unwrap_or(16_000),
            held_out,
        })
    }

    /// The clips `first..first + n`, `[n, 1, T]` f32; clip i is the same whatever the batch.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn clips(&self, seed: u64, first: u64, n: usize) -> Result<Tensor> {
        let mut clips = Vec::with_capacity(n);
        for i in 0..n as u64 {
            // The held-out clips are those of a seed that no run has by chance.
            let key = if self.held_out { !seed } else { seed };
            let mut keys = SplitMix64::new(SplitMix64::new(key).next_u64() ^ (first + i));
            clips.push(self.clip(keys.next_u64() >> 1)?);
        }
        Ok(Tensor::f_stack(&clips, 0)?.f_unsqueeze(1)?)
    }

    fn clip(&self, seed: u64) -> Result<Tensor> {
        let mut random = Generator::new(seed)?;
        let len = self.length as i64;
        let f64s = (Kind::Double, Device::Cpu);
        let x = match self.signal {
            Signal::Comb => {
                // The stationary state of every residue class of 100 is an AR(1) process of its own.
                let (lag, decay, s) = (100i64, 0.95f64, 2.5 * STEP);
                let rows = (len + lag - 1) / lag;
                let noise = random.normal(&[rows, lag], Kind::Double)?;
                let mut row = noise.f_get(0)?.f_mul_scalar(s / (1.0 - decay * decay).sqrt())?;
                let mut all = vec![row.shallow_clone()];
                for i in 1..rows {
                    row = row.f_mul_scalar(decay)?.f_add(&noise.f_get(i)?.f_mul_scalar(s)?)?;
                    all.push(row.shallow_clone());
                }
                Tensor::f_cat(&all, 0)?.f_narrow(0, 0, len)?
            }
            signal => {
                let u = random
                    .integers(1 << 30, &[3])?
                    .f_to_kind(Kind::Double)?
                    .f_div_scalar(f64::from(1 << 30))?;
                let u = Vec::<f64>::try_from(u)?;
                let (low, high) = if signal == Signal::Tones { (80f64, 20f64) } else { (40.0, 10.0) };
                let f = (-(low.ln() + u[0] * (high.ln() - low.ln()))).exp();
                let phase = |k: usize| 2.0 * std::f64::consts::PI * u[k];
                let t = Tensor::f_arange(len, f64s)?.f_mul_scalar(2.0 * std::f64::consts::PI * f)?;
                let one = t.f_add_scalar(phase(1))?.f_sin()?.f_mul_scalar(0.4)?;
                let two = t.f_mul_scalar(2.0)?.f_add_scalar(phase(2))?.f_sin()?.f_mul_scalar(0.2)?;
                let clean = one.f_add(&two)?;
                if signal == Signal::Tones {
                    clean.f_add(&random.normal(&[len], Kind::Double)?.f_mul_scalar(1.5 * STEP)?)?
                } else {
                    clean
                }
            }
        };
        Ok(x.f_to_kind(Kind::Float)?)
    }

    /// The stream of batches from clip `position` on.
    #[must_use]
    pub fn feed(&self, batch: usize, seed: u64, position: u64, device: Device) -> SyntheticFeed {
        SyntheticFeed { synthetic: *self, batch, seed, position, device }
    }
}

/// Batches of fresh clips.
#[derive(Debug)]
pub struct SyntheticFeed {
    synthetic: Synthetic,
    batch: usize,
    seed: u64,
    position: u64,
    device: Device,
}

impl Feed for SyntheticFeed {
    fn next_batch(&mut self) -> Result<Fed> {
        let x = self.synthetic.clips(self.seed, self.position, self.batch)?.f_to_device(self.device)?;
        self.position += self.batch as u64;
        Ok(Fed { x, class: None, frames: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synthetic(signal: Signal, length: usize) -> Synthetic {
        Synthetic { signal, length, rate: 16_000, held_out: false }
    }

    #[test]
    fn clips_do_not_depend_on_the_batch() {
        for signal in [Signal::Tones, Signal::CleanTones, Signal::Comb] {
            let s = synthetic(signal, 300);
            let all = s.clips(1, 0, 5).unwrap();
            assert_eq!(all.size(), [5, 1, 300]);
            assert!(s.clips(1, 3, 1).unwrap().equal(&all.narrow(0, 3, 1)));
            assert!(!s.clips(2, 3, 1).unwrap().equal(&all.narrow(0, 3, 1)));
            let other = Synthetic { held_out: true, ..s };
            assert!(!other.clips(1, 3, 1).unwrap().equal(&all.narrow(0, 3, 1)));
        }
    }

    #[test]
    fn moments_are_those_of_the_definition() {
        let std = |signal| synthetic(signal, 4000).clips(0, 0, 64).unwrap().std(false).double_value(&[]);
        let tones = (0.5 * (0.16 + 0.04) + (1.5 * STEP).powi(2)).sqrt();
        assert!((std(Signal::Tones) - tones).abs() < 0.01 * tones);
        assert!((std(Signal::CleanTones) - 0.1f64.sqrt()).abs() < 0.01);
        let comb = 2.5 * STEP / (1.0 - 0.95f64.powi(2)).sqrt();
        assert!((std(Signal::Comb) - comb).abs() < 0.03 * comb);
        // The comb remembers exactly one lag.
        let x = synthetic(Signal::Comb, 4000).clips(0, 0, 64).unwrap().to_kind(Kind::Double);
        let moved = |lag: i64| {
            let (a, b) = (x.narrow(2, 0, 3800), x.narrow(2, lag, 3800));
            (a * b).mean(Kind::Double).double_value(&[]) / (comb * comb)
        };
        assert!((moved(100) - 0.95).abs() < 0.03, "{}", moved(100));
        assert!(moved(50).abs() < 0.03 && moved(99).abs() < 0.03);
    }
}

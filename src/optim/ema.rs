//! Exponential moving averages of weights: `avg = beta avg + (1 - beta) w` after every step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::count::{Count, Progress};
use super::load_named;
use crate::error::{Error, Result};
use crate::torch::shim;

/// How fast an average forgets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EmaSpec {
    /// The same in every step (Ho et al. 2020, 0.9999).
    Decay {
        /// `beta`.
        #[serde(default = "four_nines")]
        decay: f64,
        /// At most `(1 + n)/(10 + n)` in step n = 1, 2, ... (score_sde).
        #[serde(default = "yes")]
        warmup: bool,
    },
    /// By images (Karras et al. 2022): `beta = 0.5^(batch/half_life)`.
    HalfLife {
        /// After so many images (or steps) half of an old weight is forgotten.
        #[serde(default = "half_mimg")]
        half_life: Count,
        /// The half-life is at most this share of the images seen so far; 0 for no ramp-up.
        #[serde(default = "twentieth")]
        ramp_up: f64,
    },
    /// A power function of time (Karras et al. 2024, "Analyzing and improving the training dynamics of
    /// diffusion models", eqs. 126-127): `beta = (1 - batch/images)^(gamma + 1)`.
    Power {
        /// Width of the profile relative to the length of training.
        sigma_rel: f64,
    },
}

fn four_nines() -> f64 {
    0.9999
}
fn yes() -> bool {
    true
}
fn half_mimg() -> Count {
    Count::Images(500_000)
}
fn twentieth() -> f64 {
    0.05
}

impl Default for EmaSpec {
    fn default() -> Self {
        EmaSpec::HalfLife { half_life: half_mimg(), ramp_up: twentieth() }
    }
}

impl EmaSpec {
    /// `beta` of the step of `batch` images that follows `before`.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn beta(&self, before: Progress, batch: u64) -> f64 {
        match *self {
            EmaSpec::Decay { decay, warmup } => {
                let n = before.step as f64 + 1.0;
                if warmup { decay.min((1.0 + n) / (10.0 + n)) } else { decay }
            }
            EmaSpec::HalfLife { half_life, ramp_up } => {
                let mut images = half_life.images(batch) as f64;
                if ramp_up > 0.0 {
                    images = images.min(ramp_up * before.images as f64);
                }
                0.5f64.powf(batch as f64 / images.max(1e-8))
            }
            EmaSpec::Power { sigma_rel } => {
                let images = (before.images + batch).max(1) as f64;
                (1.0 - batch as f64 / images).powf(power_exponent(sigma_rel) + 1.0)
            }
        }
    }

    /// Checks the options.
    ///
    /// # Errors
    /// Where one is out of its range.
    pub fn check(&self) -> Result<()> {
        let (key, value, range, ok) = match *self {
            EmaSpec::Decay { decay, .. } => ("decay", decay, "in [0, 1)", (0.0..1.0).contains(&decay)),
            EmaSpec::HalfLife { ramp_up, .. } => ("ramp_up", ramp_up, "0 or more", ramp_up >= 0.0),
            EmaSpec::Power { sigma_rel: s } => ("sigma_rel", s, "in (0, 0.28)", s > 0.0 && s < 0.28),
        };
        if ok {
            Ok(())
        } else {
            Err(Error::usage(format!("ema.{key} = {value}")).why(format!("it must be {range}")))
        }
    }
}

/// `gamma` of the power-function average of relative width `sigma_rel`: the positive root of
/// `g^3 + 7 g^2 + (16 - sigma_rel^-2) g + (12 - sigma_rel^-2)` (Karras et al. 2024, eq. 126).
#[must_use]
pub fn power_exponent(sigma_rel: f64) -> f64 {
    let s = sigma_rel.powi(-2);
    let f = |g: f64| ((g + 7.0) * g + 16.0 - s) * g + 12.0 - s;
    // One root is positive; f is below zero left of it and sqrt(s) lies right of it.
    let (mut low, mut high) = (0.0, s.sqrt() + 1.0);
    for _ in 0..200 {
        let mid = 0.5 * (low + high);
        if f(mid) < 0.0 {
            low = mid;
        } else {
            high = mid;
        }
    }
    0.5 * (low + high)
}

/// One average of a set of tensors.
#[derive(Debug)]
pub struct Ema {
    spec: EmaSpec,
    names: Vec<String>,
    live: Vec<Tensor>,
    average: Vec<Tensor>,
}

impl Ema {
    /// An average of `live` (handles on a network's tensors, buffers included) that starts at their values.
    ///
    /// # Errors
    /// Where an option is out of its range, or libtorch fails.
    pub fn new(spec: EmaSpec, live: Vec<(String, Tensor)>) -> Result<Self> {
        spec.check()?;
        let _guard = tch::no_grad_guard();
        let (names, live): (Vec<String>, Vec<Tensor>) = live.into_iter().unzip();
        let copy = |t: &Tensor| -> Result<Tensor> {
            let mut out = t.f_detach()?.f_empty_like()?;
            out.f_copy_(t)?;
            Ok(out)
        };
        let average = live.iter().map(copy).collect::<Result<_>>()?;
        Ok(Ema { spec, names, live, average })
    }

    /// Its profile.
    #[must_use]
    pub fn spec(&self) -> &EmaSpec {
        &self.spec
    }

    /// Takes in the weights after the step of `batch` images that followed `before`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn update(&mut self, before: Progress, batch: u64) -> Result<()> {
        shim::foreach_lerp(&self.average, &self.live, 1.0 - self.spec.beta(before, batch))
    }

    /// The averages by name, as handles.
    #[must_use]
    pub fn named(&self) -> Vec<(String, Tensor)> {
        self.names.iter().cloned().zip(self.average.iter().map(Tensor::shallow_clone)).collect()
    }

    /// Replaces the averages; `source` names them in errors.
    ///
    /// # Errors
    /// Where a name is missing or left over, or a shape differs.
    pub fn load(&mut self, averages: &BTreeMap<String, Tensor>, source: &str) -> Result<()> {
        load_named(&self.named(), averages, source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    fn at(step: u64, images: u64) -> Progress {
        Progress { step, images }
    }

    #[test]
    fn half_lives_are_in_images() {
        let spec = EmaSpec::default();
        let late = at(1_000_000, 512_000_000);
        let beta = spec.beta(late, 512);
        assert!((beta - 0.999_290_469_12).abs() < 1e-11, "{beta}");
        assert!((beta.powf(500_000.0 / 512.0) - 0.5).abs() < 1e-12);
        // Early on the half-life is 5 percent of the images seen.
        assert!((spec.beta(at(1000, 512_000), 512) - 0.5f64.powf(512.0 / 25_600.0)).abs() < 1e-15);
        assert_eq!(spec.beta(at(0, 0), 512), 0.0);
        let by_steps = EmaSpec::HalfLife { half_life: Count::Steps(100), ramp_up: 0.0 };
        assert!((by_steps.beta(at(0, 0), 64).powi(100) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn after_977_steps_half_of_the_way_is_done() {
        let w = Tensor::from_slice(&[0f64]);
        let spec = EmaSpec::HalfLife { half_life: Count::Images(500_000), ramp_up: 0.0 };
        let mut ema = Ema::new(spec, vec![("w".into(), w.shallow_clone())]).unwrap();
        let _ = w.shallow_clone().fill_(1.0);
        for k in 0..977 {
            ema.update(at(k, k * 512), 512).unwrap();
        }
        let distance = 1.0 - ema.named()[0].1.double_value(&[0]);
        assert!((distance - 0.4998).abs() < 5e-5, "{distance}");
    }

    #[test]
    fn warm_up_is_that_of_score_sde() {
        let spec = EmaSpec::Decay { decay: 0.999, warmup: true };
        assert!((spec.beta(at(0, 0), 1) - 2.0 / 11.0).abs() < 1e-15);
        assert_eq!(spec.beta(at(100_000, 0), 1), 0.999);
    }

    #[test]
    fn power_exponents_are_the_published_ones() {
        assert!((power_exponent(0.05) - 16.972_199).abs() < 1e-6);
        assert!((power_exponent(0.10) - 6.937_204).abs() < 1e-6);
        let spec = EmaSpec::Power { sigma_rel: 0.10 };
        assert_eq!(spec.beta(at(0, 0), 128), 0.0);
        let want = (1.0 - 128.0 / 1280.0f64).powf(power_exponent(0.1) + 1.0);
        assert!((spec.beta(at(9, 1152), 128) - want).abs() < 1e-15);
    }

    #[test]
    fn a_power_average_has_its_relative_width() {
        // The weight of step i in the average at the end has standard deviation sigma_rel.
        let (n, spec) = (4000u64, EmaSpec::Power { sigma_rel: 0.1 });
        let mut weights = vec![0.0f64; n as usize];
        let mut keep = 1.0;
        for i in (0..n).rev() {
            let beta = spec.beta(at(i, i), 1);
            weights[i as usize] = keep * (1.0 - beta);
            keep *= beta;
        }
        let moment = |k: i32| {
            weights.iter().enumerate().map(|(i, w)| w * ((i as f64 + 0.5) / n as f64).powi(k)).sum::<f64>()
        };
        let std = (moment(2) - moment(1).powi(2)).sqrt();
        assert!((moment(0) - 1.0).abs() < 1e-12 && (std - 0.1).abs() < 1e-3, "{std}");
    }

    #[test]
    fn averages_are_apart_from_the_weights_and_can_be_restored() {
        let w = Tensor::from_slice(&[1f32, 2.0]).set_requires_grad(true);
        let named = || vec![("w".to_owned(), w.shallow_clone())];
        let mut ema = Ema::new(EmaSpec::Decay { decay: 0.9, warmup: false }, named()).unwrap();
        (&w * 1.0).sum(Kind::Float).backward();
        let _ = tch::no_grad(|| w.shallow_clone().fill_(3.0));
        ema.update(at(0, 0), 1).unwrap();
        let got = ema.named()[0].1.shallow_clone();
        assert!(!got.requires_grad() && (got.double_value(&[0]) - 1.2).abs() < 1e-6);
        let saved = ema.named().into_iter().map(|(n, t)| (n, t.copy())).collect();
        let mut other = Ema::new(*ema.spec(), named()).unwrap();
        other.load(&saved, "c").unwrap();
        assert!(other.named()[0].1.equal(&ema.named()[0].1));
    }

    #[test]
    fn specs_are_read_with_defaults() {
        let spec: EmaSpec = toml::from_str("type = \"half-life\"").unwrap();
        assert_eq!(spec, EmaSpec::default());
        let spec: EmaSpec = toml::from_str("type = \"half-life\"\nhalf_life = \"50k img\"").unwrap();
        assert_eq!(spec, EmaSpec::HalfLife { half_life: Count::Images(50_000), ramp_up: 0.05 });
        assert!(EmaSpec::Power { sigma_rel: 0.5 }.check().is_err());
        assert!(EmaSpec::Decay { decay: 1.0, warmup: true }.check().is_err());
    }
}

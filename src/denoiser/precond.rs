//! Preconditioning: the scalings around a raw network (Karras et al. 2022, "Elucidating the design space
//! of diffusion-based generative models", Table 1), and the units in which a network is told the time.
//!
//! At `y = x/alpha` and `rho = sigma/alpha` a preconditioned network is a denoiser
//! `D = c_skip y + c_out F(c_in y, c_noise)`. The formulas here are in terms of alpha and sigma, so that
//! they hold for any process and stay finite where alpha vanishes.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::Prediction;
use crate::process::Point;

/// What a network is told of the time, as a function of the point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TimeInput {
    /// `scale t + shift`: 999 t for continuous VP (Song et al. 2021), `N t - 1` for a table of N steps with
    /// knots at (i+1)/N, `-t + 1` for a flow whose own time runs from noise to data.
    Linear {
        /// Factor of t.
        #[serde(default = "TimeInput::vp_scale")]
        scale: f64,
        /// Added to it.
        #[serde(default)]
        shift: f64,
    },
    /// `ln sigma`: NCSN++ (the network of score_sde takes sigma and its logarithm inside).
    LogSigma,
    /// `sigma` itself: networks that take its logarithm inside (diffusers' NCSN++).
    Sigma,
    /// `ln(rho)/4`, the `c_noise` of EDM.
    CNoise,
    /// Half log-SNR.
    Lambda,
}

impl Default for TimeInput {
    fn default() -> Self {
        TimeInput::Linear { scale: Self::vp_scale(), shift: 0.0 }
    }
}

impl TimeInput {
    fn vp_scale() -> f64 {
        999.0
    }

    /// For a network trained on the indices 0..n of a table whose entry i is the time (i+1)/n.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn discrete(n: u32) -> Self {
        TimeInput::Linear { scale: f64::from(n), shift: -1.0 }
    }

    /// The input at `point`.
    #[must_use]
    pub fn at(self, point: &Point) -> f64 {
        match self {
            TimeInput::Linear { scale, shift } => scale * point.t + shift,
            TimeInput::LogSigma => point.sigma.ln(),
            TimeInput::Sigma => point.sigma,
            TimeInput::CNoise => -0.25 * point.lambda,
            TimeInput::Lambda => point.lambda,
        }
    }
}

/// How a raw network becomes a model of a process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Precond {
    /// The network sees `x` itself and predicts `prediction` times `factor`.
    Plain {
        /// What it predicts.
        prediction: Prediction,
        /// How it is told the time.
        #[serde(default)]
        time: TimeInput,
        /// Its output is the prediction times this: 1, or -1 for a velocity or noise of opposite sign (a
        /// flow towards data; score_sde's VE networks, whose output over sigma is the score).
        #[serde(default = "one")]
        factor: f64,
    },
    /// EDM's own.
    Edm {
        /// Standard deviation of the data.
        #[serde(default = "half")]
        sigma_data: f64,
    },
    /// Variance preserving, continuous.
    Vp {
        /// Rate at t = 0.
        #[serde(default = "tenth")]
        beta_0: f64,
        /// Rate at t = 1.
        #[serde(default = "twenty")]
        beta_1: f64,
    },
    /// Variance exploding.
    Ve,
    /// The cosine schedule of 1000 steps (Nichol and Dhariwal 2021), as tabulated by EDM.
    Iddpm,
}

fn one() -> f64 {
    1.0
}
fn half() -> f64 {
    0.5
}
fn tenth() -> f64 {
    0.1
}
fn twenty() -> f64 {
    20.0
}

/// The numbers around one network call: prediction = `skip x + out F(input x, time)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scalings {
    /// Factor of `x` added to the output.
    pub skip: f64,
    /// Factor of the output.
    pub out: f64,
    /// Factor of `x` at the network's input.
    pub input: f64,
    /// What the network is told of the time.
    pub time: f64,
}

impl Precond {
    /// The form of the scaled output.
    #[must_use]
    pub fn prediction(&self) -> Prediction {
        match self {
            Precond::Plain { prediction, .. } => *prediction,
            _ => Prediction::X0,
        }
    }

    /// The scalings at `point`.
    #[must_use]
    pub fn at(&self, point: &Point) -> Scalings {
        let Point { alpha, sigma, .. } = *point;
        let rho = point.rho();
        match *self {
            Precond::Plain { time, factor, .. } => {
                Scalings { skip: 0.0, out: factor.recip(), input: 1.0, time: time.at(point) }
            }
            Precond::Edm { sigma_data } => {
                let total = sigma_data.mul_add(sigma_data * alpha * alpha, sigma * sigma);
                Scalings {
                    skip: sigma_data * sigma_data * alpha / total,
                    out: sigma * sigma_data / total.sqrt(),
                    input: total.sqrt().recip(),
                    time: -0.25 * point.lambda,
                }
            }
            Precond::Vp { beta_0, beta_1 } => {
                let (d, log) = (beta_1 - beta_0, (rho * rho).ln_1p());
                // (sqrt(b0^2 + 2 d ln(1 + rho^2)) - b0)/d without the difference of nearly equal numbers.
                let t = 2.0 * log / ((beta_0 * beta_0 + 2.0 * d * log).sqrt() + beta_0);
                Scalings {
                    skip: alpha.recip(),
                    out: -rho,
                    input: alpha.hypot(sigma).recip(),
                    time: 999.0 * t,
                }
            }
            Precond::Ve => {
                Scalings { skip: alpha.recip(), out: rho, input: alpha.recip(), time: (0.5 * rho).ln() }
            }
            Precond::Iddpm => Scalings {
                skip: alpha.recip(),
                out: -rho,
                input: alpha.hypot(sigma).recip(),
                time: iddpm_index(rho),
            },
        }
    }
}

/// Number of levels of the cosine schedule.
const LEVELS: usize = 1000;

/// Noise levels `u_0 > ... > u_1000 = 0` of the cosine schedule (Karras et al. 2022, Table 1):
/// `u_{j-1}^2 + 1 = (u_j^2 + 1) / max(abar(j-1)/abar(j), 0.001)`, `abar(j) = sin^2(pi j / (2 1000 1.008))`.
fn iddpm_levels() -> &'static [f64] {
    static TABLE: OnceLock<Vec<f64>> = OnceLock::new();
    TABLE.get_or_init(|| {
        #[allow(clippy::cast_precision_loss)]
        let abar =
            |j: usize| (std::f64::consts::FRAC_PI_2 * j as f64 / (LEVELS as f64 * 1.008)).sin().powi(2);
        let mut u = vec![0.0f64; LEVELS + 1];
        for j in (1..=LEVELS).rev() {
            u[j - 1] = ((u[j] * u[j] + 1.0) / (abar(j - 1) / abar(j)).max(0.001) - 1.0).sqrt();
        }
        u
    })
}

/// `999 - j` for the level `u_j` nearest to `rho`.
#[allow(clippy::cast_precision_loss)]
fn iddpm_index(rho: f64) -> f64 {
    let levels = iddpm_levels();
    let after = levels.partition_point(|&u| u > rho);
    let nearest = match (after.checked_sub(1), levels.get(after)) {
        (Some(before), Some(&u)) if levels[before] - rho < rho - u => before,
        (Some(before), None) => before,
        _ => after,
    };
    (LEVELS - 1) as f64 - nearest as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(alpha: f64, sigma: f64) -> Point {
        Point { t: 0.3, alpha, sigma, dalpha: 0.0, dsigma: 1.0, lambda: (alpha / sigma).ln() }
    }

    #[test]
    fn edm_scalings_are_those_of_table_1_at_any_alpha() {
        for alpha in [1.0, 0.3] {
            for rho in [0.002, 0.5, 80.0f64] {
                let s = Precond::Edm { sigma_data: 0.5 }.at(&point(alpha, alpha * rho));
                let total = rho * rho + 0.25;
                // In units of y = x/alpha.
                assert!((s.skip * alpha - 0.25 / total).abs() < 1e-14);
                assert!((s.out - rho * 0.5 / total.sqrt()).abs() < 1e-14);
                assert!((s.input * alpha - total.sqrt().recip()).abs() < 1e-12);
                assert!((s.time - rho.ln() / 4.0).abs() < 1e-14);
            }
        }
        let end = Precond::Edm { sigma_data: 0.5 }.at(&point(0.0, 1.0));
        assert_eq!((end.skip, end.out, end.input), (0.0, 0.5, 1.0));
    }

    #[test]
    fn vp_time_inverts_rho() {
        for t in [1e-5, 0.01, 0.5, 1.0f64] {
            let rho = (0.5 * 19.9 * t * t + 0.1 * t).exp_m1().sqrt();
            let s = Precond::Vp { beta_0: 0.1, beta_1: 20.0 }.at(&point(1.0, rho));
            assert!((s.time / 999.0 / t - 1.0).abs() < 1e-9, "{t}");
            assert!((s.out + rho).abs() < 1e-15 && (s.input - 1.0 / (rho * rho + 1.0).sqrt()).abs() < 1e-14);
        }
    }

    #[test]
    fn iddpm_indices_run_from_the_noisiest_level() {
        let levels = iddpm_levels();
        assert!(levels.windows(2).all(|w| w[0] > w[1]) && levels[LEVELS] == 0.0);
        // abar(j-1)/abar(j) is capped only at the very first step: u_0 = sqrt(1000 (u_1^2 + 1) - 1).
        assert!((levels[0] - (1000.0 * (levels[1] * levels[1] + 1.0) - 1.0).sqrt()).abs() < 1e-6);
        for j in [0usize, 1, 500, 999, 1000] {
            assert_eq!(iddpm_index(levels[j]), 999.0 - j as f64);
        }
        assert_eq!(iddpm_index(1e9), 999.0);
        assert_eq!(iddpm_index(0.4 * levels[999]), -1.0);
    }

    #[test]
    fn time_inputs() {
        let p = point(0.8, 0.6);
        assert!((TimeInput::default().at(&p) - 299.7).abs() < 1e-12);
        assert!((TimeInput::discrete(1000).at(&p) - 299.0).abs() < 1e-12);
        assert_eq!(TimeInput::LogSigma.at(&p), 0.6f64.ln());
        assert_eq!(TimeInput::Sigma.at(&p), 0.6);
        assert!((TimeInput::CNoise.at(&p) - 0.75f64.ln() / 4.0).abs() < 1e-15);
        let s =
            Precond::Plain { prediction: Prediction::Velocity, time: TimeInput::Lambda, factor: -1.0 }.at(&p);
        assert_eq!((s.skip, s.out, s.input), (0.0, -1.0, 1.0));
    }

    #[test]
    fn specs_are_read_with_defaults() {
        let plain: Precond = toml::from_str("type = \"plain\"\nprediction = \"eps\"").unwrap();
        let time = TimeInput::Linear { scale: 999.0, shift: 0.0 };
        assert_eq!(plain, Precond::Plain { prediction: Prediction::Eps, time, factor: 1.0 });
        assert_eq!(toml::from_str::<Precond>("type = \"edm\"").unwrap(), Precond::Edm { sigma_data: 0.5 });
        assert!(toml::from_str::<Precond>("type = \"edm\"\nsigma = 1").is_err());
    }
}

//! The processes by name, as recipes and command lines give them.

use serde::{Deserialize, Serialize};

use super::{
    BetaSchedule, Discrete, Edm, Flow, NoNoise, Process, SubVp, TrigFlow, Ve, Vp, alpha_bar, from_betas,
    without_terminal_signal,
};
use crate::error::{Error, Result};

/// The names of the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessName {
    /// Variance preserving, continuous time.
    Vp,
    /// Sub-VP: the drift of VP with less noise.
    Subvp,
    /// Variance exploding.
    Ve,
    /// EDM: time is the noise level.
    Edm,
    /// Linear flow (rectified flow, flow matching).
    Flow,
    /// Trigonometric flow.
    TrigFlow,
    /// A DDPM table.
    Ddpm,
    /// No noise at all: autoregressive models and classifiers.
    #[value(skip)]
    None,
}

impl ProcessName {
    /// The process of this name with its usual settings.
    #[must_use]
    pub fn spec(self) -> ProcessSpec {
        match self {
            ProcessName::Vp => ProcessSpec::Vp { beta_min: beta_min(), beta_max: beta_max() },
            ProcessName::Subvp => ProcessSpec::Subvp { beta_min: beta_min(), beta_max: beta_max() },
            ProcessName::Ve => ProcessSpec::Ve { sigma_min: ve_min(), sigma_max: ve_max() },
            ProcessName::Edm => {
                ProcessSpec::Edm { sigma_min: edm_min(), sigma_max: edm_max(), sigma_data: sigma_data() }
            }
            ProcessName::Flow => ProcessSpec::Flow {},
            ProcessName::TrigFlow => ProcessSpec::TrigFlow {},
            ProcessName::Ddpm => ProcessSpec::Ddpm {
                schedule: BetaSchedule::Linear,
                steps: ddpm_steps(),
                beta_start: beta_start(),
                beta_end: beta_end(),
                betas: None,
                terminal_alpha_bar: None,
            },
            ProcessName::None => ProcessSpec::None {},
        }
    }
}

/// A process and its settings, e.g. `{ type = "vp", beta_max = 15.0 }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ProcessSpec {
    /// [`Vp`].
    Vp {
        /// `beta(0)`.
        #[serde(default = "beta_min")]
        beta_min: f64,
        /// `beta(1)`.
        #[serde(default = "beta_max")]
        beta_max: f64,
    },
    /// [`SubVp`].
    Subvp {
        /// `beta(0)`.
        #[serde(default = "beta_min")]
        beta_min: f64,
        /// `beta(1)`.
        #[serde(default = "beta_max")]
        beta_max: f64,
    },
    /// [`Ve`].
    Ve {
        /// Lowest noise level.
        #[serde(default = "ve_min")]
        sigma_min: f64,
        /// Highest noise level.
        #[serde(default = "ve_max")]
        sigma_max: f64,
    },
    /// [`Edm`].
    Edm {
        /// Lowest noise level sampled before 0.
        #[serde(default = "edm_min")]
        sigma_min: f64,
        /// Highest noise level sampled.
        #[serde(default = "edm_max")]
        sigma_max: f64,
        /// Standard deviation of the data that the preconditioning assumes.
        #[serde(default = "sigma_data")]
        sigma_data: f64,
    },
    /// [`Flow`].
    Flow {},
    /// [`TrigFlow`].
    TrigFlow {},
    /// [`Discrete`].
    Ddpm {
        /// How the betas run.
        #[serde(default)]
        schedule: BetaSchedule,
        /// Number of entries.
        #[serde(default = "ddpm_steps")]
        steps: usize,
        /// First beta.
        #[serde(default = "beta_start")]
        beta_start: f64,
        /// Last beta.
        #[serde(default = "beta_end")]
        beta_end: f64,
        /// All betas, instead of a schedule; `steps` of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        betas: Option<Vec<f64>>,
        /// Rescales the table so that its last entry has no signal (Lin et al. 2024); this is then its
        /// `alpha_bar`: 0, or a number so small that the noise level is still finite.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        terminal_alpha_bar: Option<f64>,
    },
    /// [`NoNoise`].
    None {},
}

fn beta_min() -> f64 {
    0.1
}
fn beta_max() -> f64 {
    20.0
}
fn ve_min() -> f64 {
    0.01
}
fn ve_max() -> f64 {
    50.0
}
fn edm_min() -> f64 {
    0.002
}
fn edm_max() -> f64 {
    80.0
}
fn sigma_data() -> f64 {
    0.5
}
fn ddpm_steps() -> usize {
    1000
}
fn beta_start() -> f64 {
    1e-4
}
fn beta_end() -> f64 {
    0.02
}

impl ProcessSpec {
    /// The name of the process.
    #[must_use]
    pub fn name(&self) -> ProcessName {
        match self {
            ProcessSpec::Vp { .. } => ProcessName::Vp,
            ProcessSpec::Subvp { .. } => ProcessName::Subvp,
            ProcessSpec::Ve { .. } => ProcessName::Ve,
            ProcessSpec::Edm { .. } => ProcessName::Edm,
            ProcessSpec::Flow {} => ProcessName::Flow,
            ProcessSpec::TrigFlow {} => ProcessName::TrigFlow,
            ProcessSpec::Ddpm { .. } => ProcessName::Ddpm,
            ProcessSpec::None {} => ProcessName::None,
        }
    }

    /// The process.
    ///
    /// # Errors
    /// Where a setting is out of range.
    pub fn build(&self) -> Result<Box<dyn Process>> {
        Ok(match *self {
            ProcessSpec::Vp { beta_min, beta_max } => Box::new(vp(beta_min, beta_max)?),
            ProcessSpec::Subvp { beta_min, beta_max } => Box::new(SubVp(vp(beta_min, beta_max)?)),
            ProcessSpec::Ve { sigma_min, sigma_max } => {
                ordered("sigma_min", sigma_min, "sigma_max", sigma_max)?;
                Box::new(Ve { sigma_min, sigma_max })
            }
            ProcessSpec::Edm { sigma_min, sigma_max, sigma_data } => {
                ordered("sigma_min", sigma_min, "sigma_max", sigma_max)?;
                if !(sigma_data > 0.0 && sigma_data.is_finite()) {
                    return Err(range("sigma_data", sigma_data, "a positive number"));
                }
                Box::new(Edm { sigma_min, sigma_max })
            }
            ProcessSpec::Flow {} => Box::new(Flow),
            ProcessSpec::TrigFlow {} => Box::new(TrigFlow),
            ProcessSpec::None {} => Box::new(NoNoise),
            ProcessSpec::Ddpm { schedule, steps, beta_start, beta_end, ref betas, terminal_alpha_bar } => {
                if !(2..=1_000_000).contains(&steps) {
                    return Err(range("steps", steps as f64, "a whole number from 2 to 1000000"));
                }
                let inside = |beta: f64| beta > 0.0 && beta < 1.0;
                let table = match betas {
                    Some(betas) if betas.len() != steps => {
                        let wanted = format!("the number of steps, which is {steps}");
                        return Err(range("betas", betas.len() as f64, &wanted));
                    }
                    Some(betas) => match betas.iter().find(|beta| !inside(**beta)) {
                        Some(beta) => return Err(range("betas", *beta, "between 0 and 1")),
                        None => from_betas(betas.iter().copied()),
                    },
                    None if !(inside(beta_start) && inside(beta_end)) => {
                        return Err(range("beta_start", beta_start, "between 0 and 1, as beta_end"));
                    }
                    None => alpha_bar(schedule, steps, beta_start, beta_end),
                };
                Box::new(Discrete::new(match terminal_alpha_bar {
                    Some(last) if !(0.0..1.0).contains(&last) => {
                        return Err(range("terminal_alpha_bar", last, "from 0 to below 1"));
                    }
                    Some(last) => without_terminal_signal(&table, last),
                    None => table,
                })?)
            }
        })
    }
}

fn vp(beta_min: f64, beta_max: f64) -> Result<Vp> {
    ordered("beta_min", beta_min, "beta_max", beta_max)?;
    Ok(Vp { beta_min, beta_max })
}

fn ordered(low_name: &str, low: f64, high_name: &str, high: f64) -> Result<()> {
    if low > 0.0 && high > low && high.is_finite() {
        return Ok(());
    }
    Err(Error::usage("bad process").at(format!("process.{low_name}")).why(format!(
        "{low_name} = {low} and {high_name} = {high}, but 0 < {low_name} < {high_name} is needed"
    )))
}

fn range(key: &str, got: f64, wanted: &str) -> Error {
    Error::usage("bad process").at(format!("process.{key}")).why(format!("{got} is not {wanted}"))
}

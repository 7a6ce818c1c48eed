//! The choices that solvers leave open.

use serde::{Deserialize, Serialize};

/// What a DPM-type solver works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The predicted noise.
    Noise,
    /// The predicted clean data.
    Data,
}

/// How a DPM solver reaches its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Inner nodes in every step; `steps` is the number of model calls, spent to the last one.
    Singlestep,
    /// As singlestep, all steps of the same order: `steps / order` of them.
    SinglestepFixed,
    /// One call a step, earlier predictions reused.
    Multistep,
    /// As singlestep, with the points of the grid for inner nodes and one call at each: diffusers' schedule
    /// of orders 1, 2, 3, 1, 2, 3, ...
    SinglestepNodes,
}

/// Which of a solver's second-order coefficients are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SolverType {
    /// DPM solvers: half the weight of the prediction.
    #[serde(alias = "dpmsolver")]
    #[value(alias = "dpmsolver")]
    Midpoint,
    /// DPM solvers: the exact integral of a linear prediction.
    #[serde(alias = "taylor")]
    #[value(alias = "taylor")]
    Heun,
    /// UniPC: `B(h) = h`.
    Bh1,
    /// UniPC: `B(h) = e^h - 1`.
    Bh2,
}

/// The members of the DEIS family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Adams-Bashforth, polynomial in t.
    Tab,
    /// Adams-Bashforth, polynomial in rho.
    Rhoab,
    /// Runge-Kutta in rho.
    Rhork,
    /// Adams-Bashforth, polynomial in ln rho: the noise-form multistep DPM solver.
    Logrho,
}

/// Variance of the noise in DDPM's ancestral sampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Variance {
    /// That of the posterior: right for data that is a point.
    #[default]
    Small,
    /// That of the forward step: right for data that is N(0, I).
    Large,
}

/// Whether multistep solvers lower their order in the last steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LowerOrderFinal {
    /// UniPC: always; the others: in runs of fewer than 10 steps.
    #[default]
    Auto,
    /// In runs of fewer than 15 steps.
    Few,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How a pseudo multistep solver gets its first predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Warmup {
    /// Three pseudo Runge-Kutta steps of four calls each.
    #[default]
    RungeKutta,
    /// One step of Heun's kind with two calls, then rising orders (PLMS).
    Heun,
}

/// Whether known defects of published code are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Compat {
    /// What the mathematics says.
    #[default]
    None,
    /// What the published code computes.
    Reference,
}

/// How adaptive solvers control the error of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// Every sample by itself: results do not depend on the batch.
    #[default]
    Sample,
    /// One step size for the batch, as the published code has it.
    Batch,
}

/// The noise that EDM's sampler puts back in (Karras et al. 2022, algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Churn {
    /// Amount, over the whole run.
    pub s_churn: f64,
    /// Lowest noise level with churn.
    pub s_min: f64,
    /// Highest noise level with churn.
    pub s_max: f64,
    /// Factor of the noise put in.
    pub s_noise: f64,
}

impl Default for Churn {
    fn default() -> Self {
        Churn { s_churn: 0.0, s_min: 0.0, s_max: f64::MAX, s_noise: 1.0 }
    }
}

/// The Langevin corrector (Song et al. 2021, algorithms 4 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Langevin {
    /// Corrections before each step.
    pub steps: usize,
    /// Signal-to-noise ratio r of a correction.
    pub snr: f64,
    /// Whether norms are those of the sample or means over the batch.
    pub control: Control,
}

impl Langevin {
    /// The most corrections before a step.
    pub const MOST: usize = 10_000;
}

impl Default for Langevin {
    fn default() -> Self {
        Langevin { steps: 1, snr: 0.16, control: Control::Sample }
    }
}

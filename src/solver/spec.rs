//! Solvers by name, and their settings, as recipes and command lines give them.

use serde::{Deserialize, Serialize};

use super::Tableau;
use super::options::{
    Churn, Compat, Control, Form, Langevin, LowerOrderFinal, Method, SolverType, Variance, Variant, Warmup,
};
use crate::denoiser::ThresholdSpec;
use crate::error::{Error, Result};

/// The names of the solvers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SolverName {
    /// DDIM, with `eta` of the noise of DDPM.
    Ddim,
    /// Euler on the probability-flow ODE.
    Euler,
    /// Heun on the probability-flow ODE.
    Heun,
    /// Euler-Maruyama on the reverse SDE.
    #[serde(alias = "em")]
    #[value(alias = "em")]
    EulerMaruyama,
    /// DDPM's ancestral sampling, which is Euler's with noise (euler-ancestral) in any coordinates.
    #[serde(alias = "ancestral", alias = "euler-ancestral", alias = "euler-a")]
    #[value(aliases = ["ancestral", "euler-ancestral", "euler-a"])]
    Ddpm,
    /// Reverse diffusion: the predictor of score-based sampling.
    #[serde(alias = "pc")]
    #[value(alias = "pc")]
    ReverseDiffusion,
    /// DPM-Solver: noise prediction; singlestep, order 3.
    #[serde(alias = "dpm-solver")]
    #[value(alias = "dpm-solver")]
    Dpm,
    /// DPM-Solver++: data prediction; multistep, order 2.
    #[serde(rename = "dpm++", alias = "dpmpp")]
    #[value(name = "dpm++", alias = "dpmpp")]
    DpmPp,
    /// SDE-DPM-Solver++: stochastic multistep; data form, order 2.
    #[serde(rename = "sde-dpm++", alias = "sde-dpmpp")]
    #[value(name = "sde-dpm++", alias = "sde-dpmpp")]
    SdeDpmPp,
    /// DPM-Solver++ SDE: stochastic singlestep of order 2 along a Brownian path.
    #[serde(rename = "dpm++-sde", alias = "dpmpp-sde")]
    #[value(name = "dpm++-sde", alias = "dpmpp-sde")]
    DpmPpSde,
    /// DPM-Solver-2 in the grid's own steps, two calls each; with eta 1 ancestral.
    #[serde(alias = "dpm-2")]
    #[value(alias = "dpm-2")]
    Kdpm2,
    /// DEIS: exponential Adams-Bashforth and Runge-Kutta methods.
    Deis,
    /// iPNDM: Adams-Bashforth weights of equal steps.
    Ipndm,
    /// PNDM: iPNDM after pseudo Runge-Kutta steps.
    #[serde(alias = "plms")]
    #[value(alias = "plms")]
    Pndm,
    /// Linear multistep (Adams-Bashforth) in the noise level.
    Lms,
    /// UniPC: predictor and corrector.
    Unipc,
    /// EDM's Heun sampler with churn.
    #[serde(alias = "edm-heun")]
    #[value(alias = "edm-heun")]
    Edm,
    /// Dormand-Prince 5(4) with adaptive steps.
    #[serde(alias = "dopri5")]
    #[value(alias = "dopri5")]
    Rk45,
    /// DPM-Solver-12 or -23 with adaptive steps.
    DpmAdaptive,
}

impl SolverName {
    /// The name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SolverName::Ddim => "ddim",
            SolverName::Euler => "euler",
            SolverName::Heun => "heun",
            SolverName::EulerMaruyama => "euler-maruyama",
            SolverName::Ddpm => "ddpm",
            SolverName::ReverseDiffusion => "reverse-diffusion",
            SolverName::Dpm => "dpm",
            SolverName::DpmPp => "dpm++",
            SolverName::SdeDpmPp => "sde-dpm++",
            SolverName::DpmPpSde => "dpm++-sde",
            SolverName::Kdpm2 => "kdpm2",
            SolverName::Deis => "deis",
            SolverName::Ipndm => "ipndm",
            SolverName::Pndm => "pndm",
            SolverName::Lms => "lms",
            SolverName::Unipc => "unipc",
            SolverName::Edm => "edm",
            SolverName::Rk45 => "rk45",
            SolverName::DpmAdaptive => "dpm-adaptive",
        }
    }

    /// Whether it chooses its steps itself.
    #[must_use]
    pub fn is_adaptive(self) -> bool {
        matches!(self, SolverName::Rk45 | SolverName::DpmAdaptive)
    }
}

/// A solver and its settings. What is not given has the solver's own default; what a solver does not
/// have must not be given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SolverSpec {
    /// Which solver.
    pub name: SolverName,
    /// Its order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<usize>,
    /// Singlestep or multistep (dpm, dpm++).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Second-order coefficients (dpm, dpm++, sde-dpm++, dpm-adaptive) or B(h) (unipc).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solver_type: Option<SolverType>,
    /// Noise or data form (sde-dpm++, unipc, kdpm2, dpm-adaptive).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// Member of the family (deis).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// Runge-Kutta tableau (deis, variant rhork).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tableau: Option<Tableau>,
    /// Share of the noise (ddim, kdpm2: default 0; euler-maruyama, dpm++-sde: default 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// Variance of the noise (ddpm).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variance: Option<Variance>,
    /// Noise put back in (edm).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub churn: Option<Churn>,
    /// Langevin corrector before each step (reverse-diffusion, euler-maruyama, ddpm; default none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub langevin: Option<Langevin>,
    /// Whether predicted points are corrected (unipc; default yes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrector: Option<bool>,
    /// How the first steps are made (pndm; default runge-kutta).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// Lower order in the last steps (dpm and dpm++ multistep, sde-dpm++, unipc, deis logrho).
    #[serde(default)]
    pub lower_order_final: LowerOrderFinal,
    /// Whether the very last step is of first order in any case (dpm and dpm++ multistep, sde-dpm++).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub euler_at_final: bool,
    /// Keep known defects of published code (ddim, ddpm, pndm, euler, heun, euler-maruyama,
    /// reverse-diffusion, dpm, dpm++, sde-dpm++, deis, ipndm).
    #[serde(default)]
    pub compat: Compat,
    /// Relative tolerance (rk45: 1e-5; dpm-adaptive: 0.05).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtol: Option<f64>,
    /// Absolute tolerance (rk45: 1e-5; dpm-adaptive: 0.0078).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atol: Option<f64>,
    /// Error control of the batch (rk45, dpm-adaptive).
    #[serde(default)]
    pub control: Control,
    /// Threshold of the predicted clean data (solvers that do not work with the noise).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<ThresholdSpec>,
    /// The state is clamped to [-clamp, clamp] after every step (ddpm, ddim): vocoders that are published with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp: Option<f64>,
    /// One more call at the end that returns the predicted clean data.
    #[serde(default)]
    pub denoise: bool,
}

impl SolverSpec {
    /// The solver `name` with its defaults.
    #[must_use]
    pub fn new(name: SolverName) -> Self {
        SolverSpec {
            name,
            order: None,
            method: None,
            solver_type: None,
            form: None,
            variant: None,
            tableau: None,
            eta: None,
            variance: None,
            churn: None,
            langevin: None,
            corrector: None,
            warmup: None,
            lower_order_final: LowerOrderFinal::Auto,
            euler_at_final: false,
            compat: Compat::None,
            rtol: None,
            atol: None,
            control: Control::Sample,
            threshold: None,
            clamp: None,
            denoise: false,
        }
    }

    /// Noise or data form, where the solver has one.
    pub(super) fn form(&self) -> Option<Form> {
        match self.name {
            SolverName::Dpm | SolverName::Deis | SolverName::Ipndm | SolverName::Pndm | SolverName::Lms => {
                Some(Form::Noise)
            }
            SolverName::DpmPp | SolverName::DpmPpSde => Some(Form::Data),
            SolverName::Kdpm2 => Some(self.form.unwrap_or(Form::Noise)),
            SolverName::SdeDpmPp | SolverName::Unipc => Some(self.form.unwrap_or(Form::Data)),
            SolverName::DpmAdaptive => Some(self.form.unwrap_or(Form::Noise)),
            _ => None,
        }
    }

    /// Singlestep or multistep, for the DPM solvers.
    pub(super) fn method(&self) -> Method {
        self.method.unwrap_or(if self.name == SolverName::Dpm {
            Method::Singlestep
        } else {
            Method::Multistep
        })
    }

    /// The member of the DEIS family.
    pub(super) fn variant(&self) -> Variant {
        self.variant.unwrap_or(if self.tableau.is_some() { Variant::Rhork } else { Variant::Tab })
    }

    /// The order, checked.
    pub(super) fn order(&self) -> Result<usize> {
        let (range, default) = match self.name {
            SolverName::Dpm => (1..=3, 3),
            SolverName::DpmPp => (1..=3, 2),
            SolverName::SdeDpmPp if self.form() == Some(Form::Noise) => (1..=2, 2),
            SolverName::SdeDpmPp => (1..=3, 2),
            SolverName::Unipc => (1..=3, 3),
            SolverName::Edm => (1..=2, 2),
            SolverName::DpmAdaptive => (2..=3, 3),
            SolverName::Ipndm | SolverName::Lms => (1..=4, 4),
            SolverName::Kdpm2 | SolverName::DpmPpSde => (2..=2, 2),
            SolverName::Pndm => (4..=4, 4),
            SolverName::Deis => match self.variant() {
                Variant::Tab | Variant::Rhoab => (0..=3, 3),
                Variant::Logrho => (1..=3, 3),
                Variant::Rhork => (1..=4, self.tableau.map_or(3, Tableau::order)),
            },
            SolverName::Heun => (2..=2, 2),
            SolverName::Rk45 => (5..=5, 5),
            _ => (1..=1, 1),
        };
        let order = self.order.unwrap_or(default);
        if !range.contains(&order) {
            let what = match self.name {
                SolverName::Deis => format!("deis {}", serde_name(&self.variant())),
                SolverName::SdeDpmPp => "sde-dpm++ in this form".to_owned(),
                name => name.as_str().to_owned(),
            };
            let allowed: Vec<String> = range.map(|o| o.to_string()).collect();
            return Err(Error::usage(format!("order {order} is not defined"))
                .at("--order")
                .why(format!("{what} has the orders {}", allowed.join(", "))));
        }
        if let Some(tableau) = self.tableau
            && tableau.order() != order
        {
            return Err(Error::usage("contradicting orders").at("--order").why(format!(
                "the tableau {} has order {}",
                serde_name(&tableau),
                tableau.order()
            )));
        }
        Ok(order)
    }
}

/// The name of a unit variant as it is written.
pub(super) fn serde_name(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

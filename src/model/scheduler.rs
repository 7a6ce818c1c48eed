//! `scheduler_config.json` of diffusers as a process, an objective and defaults of sampling.

use serde_json::Value;

use crate::denoiser::ThresholdSpec;
use crate::denoiser::precond::TimeInput;
use crate::error::{Error, Result};
use crate::objective::{ObjectiveSpec, Plain};
use crate::process::{BetaSchedule, ProcessSpec};
use crate::recipe::SampleSpec;
use crate::solver::{GridKind, GridSpec, SolverName, SolverSpec, Terminal, Variance};

/// What a scheduler of diffusers stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Scheduler {
    /// Its class, e.g. `DDPMScheduler`.
    pub class: String,
    /// The process that its table or its noise levels are of.
    pub process: ProcessSpec,
    /// What the network predicts and how it is told the time.
    pub objective: ObjectiveSpec,
    /// Its solver and grid.
    pub sample: SampleSpec,
}

impl Scheduler {
    /// Reads the configuration `json`, which came from `place`.
    ///
    /// # Errors
    /// A model error that names the class, or the key and its value, that has no counterpart here.
    pub fn read(json: &Value, place: &str) -> Result<Scheduler> {
        let class = json["_class_name"].as_str().unwrap_or_default().to_owned();
        let bad = |what: String| Error::model(what).at(place);
        if !matches!(class.as_str(), "DDPMScheduler" | "DDIMScheduler") {
            return Err(bad(format!("unknown scheduler `{class}`")));
        }
        let steps = json["num_train_timesteps"].as_u64().unwrap_or(1000);
        let number = |key: &str, usual: f64| json[key].as_f64().unwrap_or(usual);
        let schedule = match json["beta_schedule"].as_str().unwrap_or("linear") {
            "linear" => BetaSchedule::Linear,
            "scaled_linear" => BetaSchedule::ScaledLinear,
            "squaredcos_cap_v2" => BetaSchedule::Cosine,
            other => return Err(bad(format!("unknown beta_schedule `{other}`"))),
        };
        let process = ProcessSpec::Ddpm {
            schedule,
            steps: usize::try_from(steps).unwrap_or(0),
            beta_start: number("beta_start", 1e-4),
            beta_end: number("beta_end", 0.02),
        };
        let time = TimeInput::discrete(u32::try_from(steps).unwrap_or(0));
        let plain = Plain { time: Some(time), ..Plain::default() };
        let objective = match json["prediction_type"].as_str().unwrap_or("epsilon") {
            "epsilon" => ObjectiveSpec::Eps(plain),
            "sample" => ObjectiveSpec::X0(plain),
            "v_prediction" => ObjectiveSpec::V(plain),
            other => return Err(bad(format!("unknown prediction_type `{other}`"))),
        };
        let mut solver = SolverSpec::new(SolverName::Ddim);
        if class == "DDPMScheduler" {
            solver.name = SolverName::Ddpm;
            solver.variance = Some(match json["variance_type"].as_str().unwrap_or("fixed_small") {
                "fixed_large" => Variance::Large,
                _ => Variance::Small,
            });
        }
        if json["clip_sample"].as_bool().unwrap_or(true) {
            solver.threshold = Some(ThresholdSpec { quantile: None, max: number("clip_sample_range", 1.0) });
        }
        let kind = match json["timestep_spacing"].as_str().unwrap_or("leading") {
            "linspace" => GridKind::Linspace,
            "trailing" => GridKind::Trailing,
            _ => GridKind::Leading,
        };
        let grid = GridSpec {
            kind: Some(kind),
            offset: json["steps_offset"].as_u64().and_then(|n| usize::try_from(n).ok()),
            terminal: Some(Terminal::Zero),
            ..GridSpec::default()
        };
        let sample = SampleSpec { solver: Some(solver), grid: Some(grid), ..SampleSpec::default() };
        Ok(Scheduler { class, process, objective, sample })
    }
}

//! `scheduler_config.json` of diffusers as a process, an objective and defaults of sampling.
//!
//! Every class is one of the solvers here on one of the grids here; where the class departs from its
//! paper, `compat = "reference"` and the rules of the grid's `table` say how. Options that are absent have
//! the defaults of the class; options that change nothing (and unknown ones) are ignored; options that have
//! no counterpart are errors.

mod config;
mod table;
mod timeless;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::io::hub;
use crate::objective::ObjectiveSpec;
use crate::process::ProcessSpec;
use crate::recipe::SampleSpec;
use crate::solver::{Compat, GridSpec, SolverSpec};
use config::Config;

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

/// Process, objective, solver and grid of a class.
type Parts = (ProcessSpec, ObjectiveSpec, SolverSpec, GridSpec);

/// The classes that are known, without the ending `Scheduler`.
const CLASSES: [&str; 20] = [
    "DDPM",
    "DDIM",
    "PNDM",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "DPMSolverSDE",
    "DEISMultistep",
    "UniPCMultistep",
    "EDMEuler",
    "EDMDPMSolverMultistep",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "HeunDiscrete",
    "LMSDiscrete",
    "KDPM2Discrete",
    "KDPM2AncestralDiscrete",
    "IPNDM",
    "ScoreSdeVe",
    "FlowMatchEulerDiscrete",
    "FlowMatchHeunDiscrete",
];

impl Scheduler {
    /// Reads the configuration `json`, which came from `place`. With `compat = reference` a class stands for itself
    /// even where it has another schedule than the table in the same file (IPNDM).
    ///
    /// # Errors
    /// A model error that names the class, or the key and its value, that has no counterpart here.
    pub fn read(json: &Value, place: &str, compat: Compat) -> Result<Scheduler> {
        let config = Config::new(json, place)?;
        let class = config.word("_class_name", "")?;
        let name = class.strip_suffix("Scheduler").filter(|name| CLASSES.contains(name));
        let Some(name) = name else {
            return Err(Error::model(format!("unknown scheduler class `{class}`"))
                .at(place)
                .why("it is none of those gen knows")
                .hint(format!("known are {}, each with the ending Scheduler", CLASSES.join(", "))));
        };
        let (process, objective, solver, grid) = match name {
            "EDMEuler" | "EDMDPMSolverMultistep" => timeless::edm(&config, name)?,
            "FlowMatchEulerDiscrete" | "FlowMatchHeunDiscrete" => timeless::flow(&config, name)?,
            "ScoreSdeVe" => timeless::ve(&config)?,
            "IPNDM" => timeless::ipndm(&config, compat)?,
            name => table::read(&config, name)?,
        };
        process
            .build()
            .map_err(|e| Error::model("scheduler without a process").at(place).why(e.to_string()))?;
        let steps = match name {
            // Published samples of the others are of fewer steps than the table has.
            "ScoreSdeVe" => Some(config.times(2000)?),
            _ => None,
        };
        let sample = SampleSpec { solver: Some(solver), grid: Some(grid), steps, ..SampleSpec::default() };
        Ok(Scheduler { class: class.to_owned(), process, objective, sample })
    }

    /// Reads the text of a configuration. Python writes infinities there (`lambda_min_clipped`), which are
    /// not JSON.
    ///
    /// # Errors
    /// As [`Scheduler::read`], and where the text is not JSON.
    pub fn parse(text: &str, place: &str, compat: Compat) -> Result<Scheduler> {
        let json = hub::parse_json(text)
            .map_err(|e| Error::model("unreadable scheduler").at(place).why(e.to_string()))?;
        Self::read(&json, place, compat)
    }
}

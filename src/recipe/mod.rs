//! Recipes: a TOML file that says everything a training run needs, read into typed settings.
//!
//! A recipe has the tables `[model]`, `[process]`, `[objective]`, `[data]`, `[train]`, `[optim]`,
//! `[ema]` and `[sample]`. Each is the serde form of a type in the room it belongs to, so a new option
//! there is an option here. Unknown keys are errors.

pub mod load;
mod settings;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use toml::{Table, Value};

use crate::data::DataSpec;
use crate::error::{Error, Result};
use crate::net::spec::NetSpec;
use crate::objective::ObjectiveSpec;
use crate::optim::OptimSpec;
use crate::optim::ema::EmaSpec;
use crate::optim::spec::Schedule;
use crate::process::ProcessSpec;

pub use settings::{SampleSpec, TrainSpec};

/// A resolved recipe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    /// The network.
    pub model: NetSpec,
    /// What noise does to the data.
    pub process: ProcessSpec,
    /// The loss.
    pub objective: ObjectiveSpec,
    /// Where the data are and how they are read.
    pub data: DataSpec,
    /// Lengths, sizes and intervals of the run.
    pub train: TrainSpec,
    /// The optimiser.
    pub optim: OptimSpec,
    /// Averages of the weights, by name. A table with a `type` is one average named `main`.
    #[serde(serialize_with = "write_emas")]
    pub ema: BTreeMap<String, EmaSpec>,
    /// Defaults of sampling, used for the previews too.
    pub sample: SampleSpec,
}

const TABLES: &[&str] = &["model", "process", "objective", "data", "train", "optim", "ema", "sample"];

impl Recipe {
    /// Reads `path` (a TOML file, or a folder with a `recipe.toml`) and applies `--set` assignments.
    ///
    /// # Errors
    /// A usage error where the file is missing, or a key is unknown, missing or of a wrong value.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        Self::load_with(path, overrides, None)
    }

    /// As [`Recipe::load`], with the data of the command line instead of the recipe's.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn load_with(path: &Path, overrides: &[String], data: Option<&Path>) -> Result<Self> {
        let file = Self::file(path);
        let mut table = load::read_table(&file)?;
        let (mut given, mut tokenizer_given) = (false, false);
        for assignment in overrides {
            load::set(&mut table, assignment)?;
            let key = assignment.split('=').next().unwrap_or_default().trim();
            given |= key == "data.path";
            tokenizer_given |= key == "data.text.tokenizer";
            // A length on the command line replaces the recipe's, in whichever unit that is.
            let other = match key {
                "train.steps" => "images",
                "train.images" => "steps",
                _ => continue,
            };
            if let Some(Value::Table(train)) = table.get_mut("train") {
                train.remove(other);
            }
        }
        if !tokenizer_given {
            text::place(&mut table, file.parent());
        }
        text::vocab(&mut table, &file.display().to_string())?;
        let mut recipe = Self::from_table(table, &file.display().to_string())?;
        if let Some(data) = data {
            recipe.data.path = Some(data.to_path_buf());
        } else if let Some(path) = &mut recipe.data.path
            && path.is_relative()
            && !path.to_string_lossy().starts_with("synthetic:")
            && !given
            && let Some(folder) = file.parent()
        {
            // A path in a recipe is relative to the recipe.
            *path = tidy(&folder.join(&*path));
        }
        Ok(recipe)
    }

    /// The recipe file that `path` stands for.
    #[must_use]
    pub fn file(path: &Path) -> PathBuf {
        if path.is_dir() { path.join("recipe.toml") } else { path.to_path_buf() }
    }

    /// Reads a recipe from its tables; `place` names it in errors.
    ///
    /// # Errors
    /// A usage error where a key is unknown, missing or of a wrong value.
    pub fn from_table(mut table: Table, place: &str) -> Result<Self> {
        let missing = |name: &str| {
            Error::usage(format!("missing table `[{name}]`"))
                .at(place)
                .hint("a recipe needs [model], [process] and [objective]; see models/ for some")
        };
        for name in ["model", "objective"] {
            if !table.contains_key(name) {
                return Err(missing(name));
            }
        }
        let model = load::take(&mut table, "model", place)?;
        let process = match table.contains_key("process") {
            true => Some(load::take(&mut table, "process", place)?),
            false => None,
        };
        let objective: ObjectiveSpec = load::take(&mut table, "objective", place)?;
        // What is no model of a process (a classifier, a model of tokens) knows no noise.
        let nothing = || objective.precond().is_none().then_some(ProcessSpec::None {});
        let recipe = Recipe {
            model,
            process: process.or_else(nothing).ok_or_else(|| missing("process"))?,
            objective,
            data: load::take(&mut table, "data", place)?,
            train: load::take(&mut table, "train", place)?,
            optim: load::take(&mut table, "optim", place)?,
            ema: emas(&mut table, place)?,
            sample: load::take(&mut table, "sample", place)?,
        };
        load::finish(&table, TABLES, place)?;
        recipe.train.check().map_err(|e| e.at(place))?;
        if recipe.optim.schedule == Schedule::Plateau && recipe.train.validate_every.is_none() {
            return Err(Error::usage("optim.schedule = \"plateau\" sees no held-out losses")
                .at(place)
                .hint("set train.validate_every, such as 5000"));
        }
        Ok(recipe)
    }

    /// The recipe as TOML text with every default filled in.
    ///
    /// # Errors
    /// Where a value has no TOML form.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::run("cannot write the recipe").why(e.to_string()))
    }

    /// The recipe as JSON, for comparisons and metadata.
    ///
    /// # Errors
    /// Where a value has no JSON form.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|e| Error::run("cannot write the recipe").why(e.to_string()))
    }

    /// Number of optimiser steps of the whole run.
    #[must_use]
    pub fn total_steps(&self) -> u64 {
        self.train.total_steps()
    }
}

/// The averages: one profile (a table with a `type`, or no table at all), `type = "none"`, or one
/// table for each profile.
fn emas(recipe: &mut Table, place: &str) -> Result<BTreeMap<String, EmaSpec>> {
    let mut table = match recipe.remove("ema") {
        None => return Ok([(MAIN.to_owned(), EmaSpec::default())].into()),
        Some(Value::Table(table)) => table,
        Some(_) => return Err(Error::usage("`ema` is not a table").at(place)),
    };
    if table.get("type").and_then(Value::as_str) == Some("none") {
        return Ok(BTreeMap::new());
    }
    if table.values().all(Value::is_table) && !table.is_empty() {
        let names: Vec<String> = table.keys().cloned().collect();
        return names
            .into_iter()
            .map(|name| {
                let spec = load::take(&mut table, &name, place)?;
                Ok((name, spec))
            })
            .collect();
    }
    let mut outer = Table::from_iter([("ema".to_owned(), Value::Table(table))]);
    Ok([(MAIN.to_owned(), load::take(&mut outer, "ema", place)?)].into())
}

/// The averages as [`emas`] reads them: none at all is said in words, an empty table would be a forgotten one.
fn write_emas<S: Serializer>(
    emas: &BTreeMap<String, EmaSpec>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    if emas.is_empty() {
        BTreeMap::from([("type", "none")]).serialize(serializer)
    } else {
        emas.serialize(serializer)
    }
}

/// The name of an average that has none of its own.
const MAIN: &str = "main";

/// The path without `x/..` pairs.
fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir
                if out
                    .components()
                    .next_back()
                    .is_some_and(|c| matches!(c, std::path::Component::Normal(_))) =>
            {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

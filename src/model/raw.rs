//! Modules that do not say what they are (TorchScript, AOTInductor packages): flags or a JSON file beside
//! them say so.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::card::{ModelCard, Range, Trained};
use super::kind::FileKind;
use crate::denoiser::Prediction;
use crate::denoiser::precond::{Precond, TimeInput};
use crate::error::{Error, Result};
use crate::net::external::{Code, ExternalConfig, Input, forward};
use crate::net::spec::NetSpec;
use crate::objective::ObjectiveSpec;
use crate::process::{ProcessName, ProcessSpec};
use crate::recipe::SampleSpec;

/// What a module is told of the time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TimeUnits {
    /// The process's own t: 0 to 1, or the noise level of EDM.
    Continuous,
    /// t times a number (999 for a network of score_sde).
    Scaled(f64),
    /// The index 0..n of a table of n steps, as floats.
    Discrete(u32),
    /// The same as integers.
    Index(u32),
    /// The noise level.
    Sigma,
    /// Its logarithm.
    LogSigma,
    /// A quarter of the logarithm of the noise-to-signal ratio (EDM's inner network).
    CNoise,
}

impl std::str::FromStr for TimeUnits {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not continuous, scaled:NUMBER, discrete:STEPS, index:STEPS, sigma, log-sigma or c-noise"
            )
        };
        let steps = |n: &str| n.parse::<u32>().ok().filter(|n| *n > 0).ok_or_else(wrong);
        match text.split_once(':') {
            None => match text {
                "continuous" => Ok(TimeUnits::Continuous),
                "discrete" => Ok(TimeUnits::Discrete(1000)),
                "index" => Ok(TimeUnits::Index(1000)),
                "sigma" => Ok(TimeUnits::Sigma),
                "log-sigma" => Ok(TimeUnits::LogSigma),
                "c-noise" => Ok(TimeUnits::CNoise),
                _ => Err(wrong()),
            },
            Some(("discrete", n)) => steps(n).map(TimeUnits::Discrete),
            Some(("index", n)) => steps(n).map(TimeUnits::Index),
            Some(("scaled", x)) => x
                .parse()
                .ok()
                .filter(|x: &f64| x.is_finite() && *x != 0.0)
                .map(TimeUnits::Scaled)
                .ok_or_else(wrong),
            Some(_) => Err(wrong()),
        }
    }
}

impl std::fmt::Display for TimeUnits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TimeUnits::Continuous => f.write_str("continuous"),
            TimeUnits::Scaled(x) => write!(f, "scaled:{x}"),
            TimeUnits::Discrete(n) => write!(f, "discrete:{n}"),
            TimeUnits::Index(n) => write!(f, "index:{n}"),
            TimeUnits::Sigma => f.write_str("sigma"),
            TimeUnits::LogSigma => f.write_str("log-sigma"),
            TimeUnits::CNoise => f.write_str("c-noise"),
        }
    }
}

impl TryFrom<String> for TimeUnits {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<TimeUnits> for String {
    fn from(units: TimeUnits) -> String {
        units.to_string()
    }
}

impl TimeUnits {
    fn input(self) -> TimeInput {
        match self {
            TimeUnits::Continuous => TimeInput::Linear { scale: 1.0, shift: 0.0 },
            TimeUnits::Scaled(scale) => TimeInput::Linear { scale, shift: 0.0 },
            TimeUnits::Discrete(n) | TimeUnits::Index(n) => TimeInput::discrete(n),
            TimeUnits::Sigma => TimeInput::Sigma,
            TimeUnits::LogSigma => TimeInput::LogSigma,
            TimeUnits::CNoise => TimeInput::CNoise,
        }
    }
}

/// A process by its name, or with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ProcessEntry {
    /// With its usual settings.
    Name(ProcessName),
    /// With these settings.
    Spec(ProcessSpec),
}

impl ProcessEntry {
    fn spec(&self) -> ProcessSpec {
        match self {
            ProcessEntry::Name(name) => name.spec(),
            ProcessEntry::Spec(spec) => spec.clone(),
        }
    }
}

/// What is said of a module, by flags or by the JSON file beside it (the same keys).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSpec {
    /// The process it was trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessEntry>,
    /// What it predicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Prediction>,
    /// Shape of one sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<i64>>,
    /// What it is told of the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeUnits>,
    /// Number of classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<i64>,
    /// What it is handed, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Vec<Input>>,
    /// The method that is the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Scalings around the network, instead of a prediction (EDM's `{"type": "edm", "sigma_data": 0.5}`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precond: Option<Precond>,
    /// Interval of the data it was trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
    /// Defaults of `gen sample`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleSpec>,
}

impl RawSpec {
    /// The name of the process, if one is given.
    #[must_use]
    pub fn process_name(&self) -> Option<ProcessName> {
        self.process.as_ref().map(|entry| match entry {
            ProcessEntry::Name(name) => *name,
            ProcessEntry::Spec(spec) => spec.name(),
        })
    }

    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == RawSpec::default()
    }

    /// The process, if it is said; by its name with its usual settings.
    #[must_use]
    pub fn process_spec(&self) -> Option<ProcessSpec> {
        self.process.as_ref().map(ProcessEntry::spec)
    }

    /// Fails where something is said that a checkpoint does not take, which is all but its process and, if
    /// `shaped`, the shape of its samples.
    pub(super) fn only_process(&self, what: &str, shaped: bool) -> Result<()> {
        let mut rest = RawSpec { process: None, ..self.clone() };
        if shaped {
            rest.shape = None;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let taken = if shaped { "--process and --shape" } else { "--process" };
        Err(Error::usage(format!("the {what} says the rest itself")).hint(format!("it takes {taken} only")))
    }

    /// What is said here, and by `other` where nothing is said here.
    #[must_use]
    pub fn or(self, other: RawSpec) -> RawSpec {
        RawSpec {
            process: self.process.or(other.process),
            // A prediction given by hand goes before scalings of the file.
            precond: if self.prediction.is_some() { self.precond } else { self.precond.or(other.precond) },
            prediction: self.prediction.or(other.prediction),
            shape: self.shape.or(other.shape),
            time: self.time.or(other.time),
            classes: self.classes.or(other.classes),
            inputs: self.inputs.or(other.inputs),
            method: self.method.or(other.method),
            range: self.range.or(other.range),
            sample: self.sample.or(other.sample),
        }
    }

    /// What the JSON file beside `module` says: `NAME.json` for `NAME.pt`, or `model.json`. Nothing if there
    /// is none.
    ///
    /// # Errors
    /// A model error where it cannot be read.
    pub fn beside(module: &Path) -> Result<RawSpec> {
        let named = Self::read(&module.with_extension("json"))?;
        Ok(match named {
            Some(spec) => spec,
            None => Self::in_folder_of(module)?,
        })
    }

    /// What the file `model.json` in the folder of `module` says, if there is one.
    ///
    /// # Errors
    /// As [`RawSpec::beside`].
    pub fn in_folder_of(module: &Path) -> Result<RawSpec> {
        Ok(Self::read(&module.with_file_name("model.json"))?.unwrap_or_default())
    }

    fn read(path: &Path) -> Result<Option<RawSpec>> {
        match std::fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| {
                Error::model("unreadable description of a model").at(path.display()).why(e.to_string()).hint(
                    "its keys are process, prediction, shape, time, classes, inputs, method, precond, sample",
                )
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::read(path, &e).kinded(crate::error::Kind::Model)),
        }
    }

    /// The card of the module at `path`.
    ///
    /// # Errors
    /// A usage error that names what was not said.
    pub fn card(&self, path: &Path, kind: FileKind) -> Result<ModelCard> {
        let missing = |what: &str, flag: &str| {
            Error::usage(format!("the {} does not say {what}", kind.name())).at(path.display()).hint(format!(
                "give {flag}, or the key in `{}` beside it",
                path.with_extension("json").file_name().unwrap_or_default().to_string_lossy()
            ))
        };
        let process = self
            .process
            .as_ref()
            .ok_or_else(|| missing("which process it was trained on", "--process vp|ve|edm|flow|ddpm"))?
            .spec();
        let shape = self.shape.clone().ok_or_else(|| missing("the shape of a sample", "--shape C,H,W"))?;
        if shape.is_empty() || shape.iter().any(|n| *n < 1) {
            return Err(Error::usage(format!("{shape:?} is no shape of a sample")).at("--shape"));
        }
        let time = self.time.unwrap_or(match process {
            ProcessSpec::Ddpm { steps, .. } => TimeUnits::Discrete(u32::try_from(steps).unwrap_or(u32::MAX)),
            ProcessSpec::Ve { .. } => TimeUnits::Sigma,
            _ => TimeUnits::Continuous,
        });
        let precond = match (&self.precond, self.prediction) {
            (Some(precond), None) => *precond,
            (_, Some(prediction)) => Precond::Plain { prediction, time: time.input(), factor: 1.0 },
            (None, None) => {
                return Err(missing("what it predicts", "--prediction eps|x0|v|velocity|score"));
            }
        };
        let code = if kind == FileKind::Package { Code::Package } else { Code::TorchScript };
        Ok(ModelCard {
            format: ModelCard::FORMAT,
            tokenizer: None,
            model: NetSpec::External(ExternalConfig {
                file: PathBuf::from(path),
                code,
                method: self.method.clone().unwrap_or_else(forward),
                inputs: self.inputs.clone(),
                integer_time: matches!(time, TimeUnits::Index(_)),
            }),
            process,
            objective: ObjectiveSpec::Eps(crate::objective::spec::Plain::default()),
            precond: Some(precond),
            shape,
            classes: self.classes.unwrap_or(0),
            range: self.range.unwrap_or_default(),
            rate: None,
            sample: self.sample.clone().unwrap_or_default(),
            trained: Trained { gen_version: env!("CARGO_PKG_VERSION").to_owned(), ..Trained::default() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_before_the_file() {
        let file: RawSpec = serde_json::from_str(
            r#"{"process": {"type": "vp", "beta_max": 15.0}, "precond": {"type": "edm"}, "shape": [3, 8, 8], "time": "scaled:999"}"#,
        )
        .unwrap();
        let flags = RawSpec { prediction: Some(Prediction::V), ..RawSpec::default() };
        let spec = flags.or(file);
        let card = spec.card(Path::new("net.pt"), FileKind::TorchScript).unwrap();
        assert_eq!(card.process, ProcessSpec::Vp { beta_min: 0.1, beta_max: 15.0 });
        let time = TimeInput::Linear { scale: 999.0, shift: 0.0 };
        assert_eq!(card.precond, Some(Precond::Plain { prediction: Prediction::V, time, factor: 1.0 }));
        let back: RawSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(back, spec);
    }

    #[test]
    fn what_is_not_said_is_asked_for() {
        let mut spec = RawSpec::default();
        let text = |spec: &RawSpec| {
            let error = spec.card(Path::new("net.pt"), FileKind::TorchScript).unwrap_err();
            assert_eq!(error.kind().exit_code(), 2);
            error.to_string()
        };
        assert!(text(&spec).contains("which process"));
        spec.process = Some(ProcessEntry::Name(ProcessName::Edm));
        assert!(text(&spec).contains("shape"));
        spec.shape = Some(vec![1, 8, 8]);
        assert!(text(&spec).contains("what it predicts"));
        for wrong in ["index:0", "scaled:x", "steps", "discrete:-3"] {
            assert!(wrong.parse::<TimeUnits>().unwrap_err().contains(wrong));
        }
    }
}

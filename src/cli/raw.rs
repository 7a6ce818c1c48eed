//! Flags that say what a bare module is.

use clap::Args;

use crate::denoiser::Prediction;
use crate::model::raw::{ProcessEntry, RawSpec, TimeUnits};
use crate::process::ProcessName;

/// What a TorchScript module or AOTInductor package is, where no JSON file beside it says so; or what a
/// checkpoint does not say.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Bare modules (TorchScript, .pt2)")]
pub struct RawArgs {
    /// The process the module was trained on
    #[arg(long, value_enum, value_name = "NAME", hide_short_help = true)]
    pub process: Option<ProcessName>,
    /// What it predicts
    #[arg(long, value_enum, value_name = "NAME", hide_short_help = true)]
    pub prediction: Option<Prediction>,
    /// Shape of one sample
    #[arg(long, value_name = "C,H,W", value_delimiter = ',', hide_short_help = true, value_parser = clap::value_parser!(i64).range(1..=65536))]
    pub shape: Vec<i64>,
    /// What it is told of the time: continuous, scaled:999, discrete:1000 (index as floats), index:1000 (as integers), sigma, log-sigma, c-noise
    #[arg(long, value_name = "UNITS", hide_short_help = true)]
    pub time: Option<TimeUnits>,
    /// Number of classes it takes
    #[arg(long, value_name = "N", hide_short_help = true, value_parser = clap::value_parser!(i64).range(1..))]
    pub classes: Option<i64>,
}

impl RawArgs {
    /// The same as the keys of a JSON file.
    #[must_use]
    pub fn spec(&self) -> RawSpec {
        RawSpec {
            process: self.process.map(ProcessEntry::Name),
            prediction: self.prediction,
            shape: (!self.shape.is_empty()).then(|| self.shape.clone()),
            time: self.time,
            classes: self.classes,
            ..RawSpec::default()
        }
    }
}

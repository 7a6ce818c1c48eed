//! `gen selftest`: what can be checked exactly, measured on this machine.

mod solvers;
mod sound;

use clap::{Args, ValueEnum};

use super::Globals;
use super::ui::Ui;
use crate::process::ProcessName;
use crate::solver::SELFTEST_STEPS;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum What {
    /// The convergence order of every solver.
    #[default]
    Solvers,
    /// Recurrences of audio networks against their convolutions, quantisers, files, metrics.
    #[value(alias = "audio")]
    Sound,
}

/// Measure what is known exactly: the order of every solver, the parts of sound
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  gen selftest\n  gen selftest --process vp,edm --only dpm\n  gen selftest sound\n\n\
    Solvers: data is a mixture of Gaussians whose exact score is known, in 64 bits; the error at\n\
    n and 2n steps gives the order. Exit code 1 if one is off by more than 0.3.\n\
    Sound: each line has a deviation and what is allowed. Exit code 1 if one is above it."
)]
pub struct SelftestArgs {
    /// What to measure
    #[arg(value_enum, default_value_t, value_name = "WHAT")]
    what: What,
    /// The processes to measure on
    #[arg(long, value_enum, value_delimiter = ',', default_value = "vp", value_name = "LIST")]
    process: Vec<ProcessName>,
    /// Only solvers or checks whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Steps of the coarser run
    #[arg(long, default_value_t = SELFTEST_STEPS as u32, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=65536))]
    steps: u32,
}

impl SelftestArgs {
    fn wanted(&self, label: &str) -> bool {
        self.only.as_deref().is_none_or(|text| label.contains(text))
    }
}

/// Runs the command.
pub fn run(args: &SelftestArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    let _device = globals.start()?;
    match args.what {
        What::Solvers => solvers::run(args, ui),
        What::Sound => sound::run(args, ui),
    }
}

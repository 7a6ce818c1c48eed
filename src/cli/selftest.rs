//! `gen selftest`: the convergence order of every solver, measured on this machine.

use clap::Args;
use serde_json::json;

use super::Globals;
use super::ui::Ui;
use crate::error::Error;
use crate::process::ProcessName;
use crate::solver::{Convergence, Measured, SELFTEST_STEPS, measure, registered};

/// Measure the convergence order of every solver on this machine
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gen selftest\n  gen selftest --process vp,edm --only dpm\n\n\
    Data is a mixture of Gaussians whose exact score is known, in 64 bits; the error at n and 2n steps gives the\n\
    order. Exit code 1 if one is off by more than 0.3.")]
pub struct SelftestArgs {
    /// The processes to measure on
    #[arg(long, value_enum, value_delimiter = ',', default_value = "vp", value_name = "LIST")]
    process: Vec<ProcessName>,
    /// Only solvers whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Steps of the coarser run
    #[arg(long, default_value_t = SELFTEST_STEPS as u32, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=65536))]
    steps: u32,
}

/// Runs the command.
pub fn run(args: &SelftestArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    let _device = globals.start()?;
    let wanted = |label: &str| args.only.as_deref().is_none_or(|text| label.contains(text));
    let entries: Vec<_> = registered().into_iter().filter(|entry| wanted(entry.label)).collect();
    if entries.is_empty() {
        let text = args.only.as_deref().unwrap_or_default();
        return Err(Error::usage("no such solver").at(format!("--only {text}")).into());
    }
    ui.line(format!("{:<28}{:<10}{:>7}{:>10}{:>12}", "solver", "process", "stated", "measured", "error"))?;
    let mut bar = ui.bar("selftest", (entries.len() * args.process.len()) as u64, "run");
    let mut results: Vec<Measured> = Vec::new();
    for entry in &entries {
        for process in &args.process {
            let result = measure(entry, *process, args.steps as usize)?;
            let mark = if result.holds() { "" } else { "  OFF" };
            let weak = if result.convergence == Convergence::Weak { " weak" } else { "" };
            ui.line(format!(
                "{:<28}{:<10}{:>7}{:>10.2}{:>12.1e}{weak}{mark}",
                result.label,
                name(*process),
                result.claimed,
                result.measured,
                result.error
            ))?;
            results.push(result);
            bar.set(results.len() as u64);
        }
    }
    bar.finish();
    let off: Vec<&Measured> = results.iter().filter(|r| !r.holds()).collect();
    let rows: Vec<_> = results
        .iter()
        .map(|r| {
            json!({"solver": r.label, "process": name(r.process), "stated": r.claimed, "measured": r.measured,
                   "error": r.error, "weak": r.convergence == Convergence::Weak, "holds": r.holds()})
        })
        .collect();
    ui.result(&json!({"orders": rows, "off": off.len()}))?;
    match off.first() {
        None => {
            ui.say(format!("{} orders are as stated", results.len()));
            Ok(())
        }
        Some(first) => Err(Error::run(format!("{} of {} orders are off", off.len(), results.len()))
            .why(format!(
                "{} on {} has {:.2}, not {}",
                first.label,
                name(first.process),
                first.measured,
                first.claimed
            ))
            .into()),
    }
}

fn name(process: ProcessName) -> String {
    clap::ValueEnum::to_possible_value(&process).map_or_else(String::new, |v| v.get_name().to_owned())
}

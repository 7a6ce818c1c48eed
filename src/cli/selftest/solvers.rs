//! The convergence order of every solver.

use serde_json::json;

use super::SelftestArgs;
use crate::cli::ui::Ui;
use crate::error::Error;
use crate::process::ProcessName;
use crate::solver::{Convergence, Measured, measure, registered};

/// Measures the orders.
pub(super) fn run(args: &SelftestArgs, ui: Ui) -> anyhow::Result<()> {
    let entries: Vec<_> = registered().into_iter().filter(|entry| args.wanted(entry.label)).collect();
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

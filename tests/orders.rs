//! The measured order of every registered solver, on several processes.

#![allow(clippy::unwrap_used)]

use genlib::process::ProcessName;
use genlib::solver::{Convergence, SELFTEST_STEPS, measure, registered};

fn check(process: ProcessName) {
    let mut failures = Vec::new();
    for entry in registered() {
        let m = measure(&entry, process, SELFTEST_STEPS).unwrap();
        let line = format!(
            "{:28} {process:?} claimed {} measured {:.3} error {:.2e}",
            m.label, m.claimed, m.measured, m.error
        );
        if !m.holds() {
            failures.push(line);
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn on_vp() {
    check(ProcessName::Vp);
}

#[test]
fn on_edm() {
    check(ProcessName::Edm);
}

#[test]
fn on_the_linear_flow() {
    check(ProcessName::Flow);
}

#[test]
fn on_ve() {
    check(ProcessName::Ve);
}

#[test]
fn on_the_trigonometric_flow() {
    check(ProcessName::TrigFlow);
}

#[test]
fn stochastic_solvers_are_registered_too() {
    let weak = registered().iter().filter(|r| r.convergence == Convergence::Weak).count();
    assert!(weak >= 8);
}

//! Noise levels beside the entries of a DDPM table.
//!
//! A network that was trained on the entries of a table is told an index. Where a grid has noise levels
//! between the entries, libraries differ in the index that goes with them ([`TimeRule`]), and in the
//! entries that a spacing takes ([`Entries`]). Neither changes the coefficients of a step, which follow
//! from the noise levels alone.

use serde::{Deserialize, Serialize};

use super::GridKind;
use crate::error::Result;
use crate::process::{Point, Process};

/// The index that a network is told at a noise level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeRule {
    /// That of the process: between two entries linear in `ln alpha`.
    #[default]
    Exact,
    /// Between two entries linear in `ln rho`, and not beyond the last one.
    LogRho,
    /// As log-rho, rounded to the nearest entry.
    Nearest,
    /// As log-rho, rounded down.
    Floor,
}

/// The entries that an even spacing takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entries {
    /// As many as there are steps, over the whole table.
    Nodes,
    /// One more, of which the last is left out.
    Intervals,
    /// As nodes, but not rounded to entries: between two of them rho is linear in the index.
    Fractional,
}

/// How a grid uses a DDPM table. What is not given has the default of the solver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableRules {
    /// The entries of linspace, leading and trailing: intervals for multistep solvers, else nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<Entries>,
    /// The index at the noise levels of the other kinds of grids.
    pub time: TimeRule,
    /// The index at the inner nodes of a step.
    pub inner: TimeRule,
    /// The spacing whose first and last entry are the ends of the other kinds of grids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<GridKind>,
}

/// How near to an entry an index counts as that entry when it is rounded down.
const NEAR: f64 = 1e-6;

/// The same point with the time that the network is told by `rule`.
pub(super) fn told(process: &dyn Process, point: Point, rule: TimeRule) -> Point {
    let Some(len) = process.table_len().filter(|len| *len >= 2 && rule != TimeRule::Exact) else {
        return point;
    };
    let n = len as f64;
    let low = (point.t * n - 1.0).floor().clamp(0.0, n - 2.0);
    let (a, b) = (process.lambda((low + 1.0) / n), process.lambda((low + 2.0) / n));
    let inside = if point.is_pure_noise() { 1.0 } else { (a - point.lambda) / (a - b) };
    let index = low + inside.clamp(0.0, 1.0);
    let index = match rule {
        TimeRule::Nearest => index.round_ties_even(),
        TimeRule::Floor => (index + NEAR).floor(),
        TimeRule::Exact | TimeRule::LogRho => index,
    };
    Point { t: (index + 1.0) / n, ..point }
}

/// The point with half log-SNR `lambda`, and the time that the network is told there.
///
/// # Errors
/// Where the process has no such point.
pub(super) fn place(process: &dyn Process, lambda: f64, rule: TimeRule) -> Result<Point> {
    Ok(told(process, Point::at_lambda(process, lambda)?, rule))
}

/// The point of a (fractional) index, where rho is linear between the entries.
///
/// # Errors
/// Where the process has no such point.
pub(super) fn fractional(process: &dyn Process, index: f64) -> Result<Point> {
    let n = process.table_len().unwrap_or(1) as f64;
    let (low, t) = (index.floor(), (index + 1.0) / n);
    if low == index {
        return Ok(Point::new(process, t));
    }
    let rho = |index: f64| Point::new(process, (index + 1.0) / n).rho();
    let level = rho(low) + (index - low) * (rho(low + 1.0) - rho(low));
    Ok(Point { t, ..Point::at_lambda(process, -level.ln())? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Flow, ProcessName};

    fn table() -> Box<dyn Process> {
        ProcessName::Ddpm.spec().build().unwrap()
    }

    #[test]
    fn times_follow_their_rules() {
        let process = table();
        let rho = |i: f64| Point::new(process.as_ref(), (i + 1.0) / 1000.0).rho();
        // Three tenths of the way from entry 500 to entry 501 in ln rho.
        let lambda = -(0.7 * rho(500.0).ln() + 0.3 * rho(501.0).ln());
        let index = |rule| place(process.as_ref(), lambda, rule).unwrap().t * 1000.0 - 1.0;
        assert!((index(TimeRule::LogRho) - 500.3).abs() < 1e-9);
        assert!((index(TimeRule::Nearest) - 500.0).abs() < 1e-9);
        assert!((index(TimeRule::Floor) - 500.0).abs() < 1e-9);
        let exact = index(TimeRule::Exact);
        assert!((exact - 500.3).abs() < 1e-2 && (exact - 500.3).abs() > 1e-7);
        // The noise level is that asked for, whatever the network is told.
        for rule in [TimeRule::Exact, TimeRule::LogRho, TimeRule::Nearest, TimeRule::Floor] {
            assert!((place(process.as_ref(), lambda, rule).unwrap().lambda - lambda).abs() < 1e-12);
            for entry in [0.0, 7.0, 998.0, 999.0] {
                let point = Point::new(process.as_ref(), (entry + 1.0) / 1000.0);
                let got = told(process.as_ref(), point, rule).t * 1000.0 - 1.0;
                assert!((got - entry).abs() < 1e-9, "{rule:?} {entry}: {got}");
            }
        }
        // Less noise than the first entry has: the first entry.
        let below = place(process.as_ref(), 6.0, TimeRule::LogRho).unwrap();
        assert!((below.t - 1e-3).abs() < 1e-15 && (below.lambda - 6.0).abs() < 1e-9);
        let flow = Point::new(&Flow, 0.3);
        assert_eq!(told(&Flow, flow, TimeRule::Nearest), flow);
    }

    #[test]
    fn rho_is_linear_between_entries() {
        let process = table();
        let rho = |i: f64| fractional(process.as_ref(), i).unwrap().rho();
        assert!((rho(10.25) - (0.75 * rho(10.0) + 0.25 * rho(11.0))).abs() < 1e-12);
        assert!((fractional(process.as_ref(), 10.25).unwrap().t - 0.01125).abs() < 1e-15);
    }
}

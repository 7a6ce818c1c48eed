//! Grids on the entries of a DDPM table, as diffusers spaces them.
//!
//! Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed", Table 2. With T
//! entries and n steps the entries are, from noise to data:
//!
//! | grid | nodes (ddpm, ddim, ...) | intervals (multistep DPM, UniPC, DEIS) |
//! |---|---|---|
//! | linspace | `round(i (T-1)/(n-1))` | `round(i (T-1)/n)`, i = n ... 1 |
//! | leading | `i floor(T/n) + offset` | `i floor(T/(n+1)) + offset`, i = n ... 1 |
//! | trailing | `round(T - i T/n) - 1` | the same |
//!
//! and the run ends on clean data, or (terminal `t-min`, `sigma-min`) on entry 0.
//!
//! A step goes from one entry to the next. In diffusers' DDIM and PNDM it goes `floor(T/n)` entries down,
//! whatever the next entry is, which is the same for leading alone: `compat = "reference"`.

use super::table::fractional;
use super::{Compat, Entries, GridKind, GridSpec, Method, SolverName, SolverSpec, Terminal};
use crate::error::{Error, Result};
use crate::process::{Point, Process};

/// Whether a kind of grid is one on table entries.
pub(super) fn is_on_entries(kind: GridKind) -> bool {
    matches!(kind, GridKind::Linspace | GridKind::Leading | GridKind::Trailing)
}

/// The points of a run, and where its steps end if that is not the next point.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    /// From noise to data; the last is the end of the run.
    pub points: Vec<Point>,
    /// The ends of the steps.
    pub ends: Option<Vec<Point>>,
    /// Length in time of a step of the reference, and of half a step in whole entries.
    pub stride: Option<(f64, f64)>,
}

impl From<Vec<Point>> for Nodes {
    fn from(points: Vec<Point>) -> Self {
        Nodes { points, ends: None, stride: None }
    }
}

/// The entries of `steps` steps on a table of `len`, from noise to data.
fn entries(kind: GridKind, len: usize, steps: usize, rule: Entries, offset: usize) -> Vec<f64> {
    let (t, n) = (len as f64, steps as f64);
    let falling = (1..=steps).rev().map(|i| i as f64);
    let offset = offset as f64;
    match (kind, rule) {
        // The reference rounds halves to even.
        (GridKind::Linspace, Entries::Intervals) => {
            falling.map(|i| (i * (t - 1.0) / n).round_ties_even()).collect()
        }
        (GridKind::Linspace, rule) => {
            let last = (n - 1.0).max(1.0);
            let round = |x: f64| if rule == Entries::Fractional { x } else { x.round_ties_even() };
            falling.map(|i| round((i - 1.0) * (t - 1.0) / last)).collect()
        }
        (GridKind::Leading, Entries::Intervals) => {
            falling.map(|i| i * (len / (steps + 1)) as f64 + offset).collect()
        }
        (GridKind::Leading, _) => falling.map(|i| (i - 1.0) * (len / steps) as f64 + offset).collect(),
        _ => (0..steps).map(|i| ((t - i as f64 * t / n).round_ties_even() - 1.0).max(0.0)).collect(),
    }
}

/// The entries that the solver takes, unless the grid says otherwise.
fn usual_entries(spec: &SolverSpec) -> Entries {
    match spec.name {
        SolverName::Dpm | SolverName::DpmPp | SolverName::SdeDpmPp | SolverName::Unipc | SolverName::Deis => {
            Entries::Intervals
        }
        _ => Entries::Nodes,
    }
}

/// The entries of a grid, checked.
fn checked(
    kind: GridKind,
    spec: &SolverSpec,
    grid: &GridSpec,
    steps: usize,
    process: &dyn Process,
) -> Result<(Vec<f64>, usize)> {
    let bad = |why: &str| Error::usage("bad grid").at("--grid").why(why);
    let Some(len) = process.table_len() else {
        return Err(bad("linspace, leading and trailing are for processes with a table (ddpm)"));
    };
    let rule = grid.table.and_then(|table| table.entries).unwrap_or(usual_entries(spec));
    let list = entries(kind, len, steps, rule, grid.offset.unwrap_or(0));
    let falls = list.windows(2).all(|w| w[0] > w[1]);
    if !falls || list.first().is_none_or(|first| *first > (len - 1) as f64) {
        return Err(bad(&format!("{steps} steps do not fit a table of {len} entries")));
    }
    Ok((list, len))
}

/// First and last time of the entries of a spacing.
///
/// # Errors
/// Where the process has no table or the steps do not fit it.
pub(super) fn ends_of(
    kind: GridKind,
    spec: &SolverSpec,
    grid: &GridSpec,
    steps: usize,
    process: &dyn Process,
) -> Result<(f64, f64)> {
    let (list, len) = checked(kind, spec, grid, steps, process)?;
    let time = |entry: Option<&f64>| (entry.copied().unwrap_or(0.0) + 1.0) / len as f64;
    if kind == GridKind::Linspace {
        // The whole table, whatever the number of steps is.
        return Ok((1.0, time(None)));
    }
    Ok((time(list.first()), time(list.last())))
}

/// The points of a grid on table entries.
///
/// # Errors
/// Where the process has no table, the method needs nodes in between, or there are more steps than entries.
pub(super) fn on_entries(
    kind: GridKind,
    spec: &SolverSpec,
    grid: &GridSpec,
    steps: usize,
    process: &dyn Process,
) -> Result<Nodes> {
    let bad = |why: &str| Error::usage("bad grid").at("--grid").why(why);
    let (list, len) = checked(kind, spec, grid, steps, process)?;
    if [grid.t_min, grid.t_max, grid.sigma_min, grid.sigma_max].iter().any(Option::is_some) {
        return Err(bad("linspace, leading and trailing have ends of their own"));
    }
    let is_dpm = matches!(spec.name, SolverName::Dpm | SolverName::DpmPp);
    if is_dpm && matches!(spec.method(), Method::Singlestep | Method::SinglestepFixed) {
        return Err(bad("singlestep solvers have nodes between the entries of a table")
            .hint("use --method multistep or singlestep-nodes, or --grid logsnr"));
    }
    let time = |entry: f64| (entry + 1.0) / len as f64;
    let last = match grid.terminal.unwrap_or(Terminal::Zero) {
        Terminal::SigmaMin => Point::new(process, time(0.0)),
        Terminal::TMin if list.last() != Some(&0.0) => Point::new(process, time(0.0)),
        _ => Point::clean(),
    };
    let mut points = list.iter().map(|entry| fractional(process, *entry)).collect::<Result<Vec<_>>>()?;
    let by_stride = matches!(spec.name, SolverName::Ddim | SolverName::Pndm);
    if !by_stride || spec.compat != Compat::Reference {
        points.push(last);
        return Ok(points.into());
    }
    let stride = len / steps;
    let end = |entry: &f64| {
        let below = entry - stride as f64;
        if below >= 0.0 { Point::new(process, time(below)) } else { last }
    };
    let ends: Vec<Point> = list.iter().map(end).collect();
    points.extend(ends.last());
    let length = |entries: usize| entries as f64 / len as f64;
    Ok(Nodes { points, ends: Some(ends), stride: Some((length(stride), length(stride / 2))) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_those_of_the_reference() {
        use Entries::{Fractional, Intervals, Nodes};
        let got = |kind, steps, rule| entries(kind, 1000, steps, rule, 0);
        assert_eq!(got(GridKind::Linspace, 4, Nodes), [999.0, 666.0, 333.0, 0.0]);
        assert_eq!(got(GridKind::Linspace, 4, Intervals), [999.0, 749.0, 500.0, 250.0]);
        assert_eq!(got(GridKind::Linspace, 5, Fractional), [999.0, 749.25, 499.5, 249.75, 0.0]);
        assert_eq!(got(GridKind::Leading, 4, Nodes), [750.0, 500.0, 250.0, 0.0]);
        assert_eq!(got(GridKind::Leading, 4, Intervals), [800.0, 600.0, 400.0, 200.0]);
        assert_eq!(entries(GridKind::Leading, 1000, 4, Nodes, 1), [751.0, 501.0, 251.0, 1.0]);
        assert_eq!(got(GridKind::Trailing, 4, Intervals), [999.0, 749.0, 499.0, 249.0]);
        assert_eq!(got(GridKind::Trailing, 3, Nodes), [999.0, 666.0, 332.0]);
        assert_eq!(got(GridKind::Linspace, 1, Nodes), [0.0]);
    }
}

//! Grids on the entries of a DDPM table, as diffusers spaces them.
//!
//! Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed", Table 2. With T
//! entries and n steps the entries are, from noise to data:
//!
//! | grid | one-step solvers (ddpm, ddim, ...) | multistep DPM, UniPC, DEIS |
//! |---|---|---|
//! | linspace | `round(i (T-1)/(n-1))` | `round(i (T-1)/n)`, i = n ... 1 |
//! | leading | `i floor(T/n) + offset` | `i floor(T/(n+1)) + offset`, i = n ... 1 |
//! | trailing | `round(T - i T/n) - 1` | the same |
//!
//! and the run ends on clean data, or (terminal `t-min`) on entry 0.

use super::{GridKind, GridSpec, Method, SolverName, SolverSpec, Terminal};
use crate::error::{Error, Result};
use crate::process::{Point, Process};

/// Whether a kind of grid is one on table entries.
pub(super) fn is_on_entries(kind: GridKind) -> bool {
    matches!(kind, GridKind::Linspace | GridKind::Leading | GridKind::Trailing)
}

/// The entries of `steps` steps on a table of `len`, from noise to data.
fn entries(kind: GridKind, len: usize, steps: usize, multistep: bool, offset: usize) -> Vec<usize> {
    let (t, n) = (len as f64, steps as f64);
    // The reference rounds halves to even.
    let round = |x: f64| x.round_ties_even() as usize;
    let falling = (1..=steps).rev();
    match (kind, multistep) {
        (GridKind::Linspace, true) => falling.map(|i| round(i as f64 * (t - 1.0) / n)).collect(),
        (GridKind::Linspace, false) => {
            let last = (n - 1.0).max(1.0);
            falling.map(|i| round((i - 1) as f64 * (t - 1.0) / last)).collect()
        }
        (GridKind::Leading, true) => falling.map(|i| i * (len / (steps + 1)) + offset).collect(),
        (GridKind::Leading, false) => falling.map(|i| (i - 1) * (len / steps) + offset).collect(),
        _ => (0..steps).map(|i| round(t - i as f64 * t / n).saturating_sub(1)).collect(),
    }
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
) -> Result<Vec<Point>> {
    let bad = |why: &str| Error::usage("bad grid").at("--grid").why(why);
    let Some(len) = process.table_len() else {
        return Err(bad("linspace, leading and trailing are for processes with a table (ddpm)"));
    };
    if [grid.t_min, grid.t_max, grid.sigma_min, grid.sigma_max].iter().any(Option::is_some) {
        return Err(bad("linspace, leading and trailing have ends of their own"));
    }
    let is_dpm = matches!(spec.name, SolverName::Dpm | SolverName::DpmPp);
    if is_dpm && spec.method() != Method::Multistep {
        return Err(bad("singlestep solvers have nodes between the entries of a table")
            .hint("use --method multistep, or --grid logsnr"));
    }
    let multistep =
        is_dpm || matches!(spec.name, SolverName::SdeDpmPp | SolverName::Unipc | SolverName::Deis);
    let list = entries(kind, len, steps, multistep, grid.offset.unwrap_or(0));
    let falls = list.windows(2).all(|w| w[0] > w[1]);
    if !falls || list.first().is_none_or(|first| *first >= len) {
        return Err(bad(&format!("{steps} steps do not fit a table of {len} entries")));
    }
    let point = |entry: usize| Point::new(process, (entry + 1) as f64 / len as f64);
    let mut points: Vec<Point> = list.iter().map(|entry| point(*entry)).collect();
    match grid.terminal.unwrap_or(Terminal::Zero) {
        Terminal::TMin if list.last() != Some(&0) => points.push(point(0)),
        _ => points.push(Point::clean()),
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_those_of_the_reference() {
        let got = |kind, steps, multistep| entries(kind, 1000, steps, multistep, 0);
        assert_eq!(got(GridKind::Linspace, 4, false), [999, 666, 333, 0]);
        assert_eq!(got(GridKind::Linspace, 4, true), [999, 749, 500, 250]);
        assert_eq!(got(GridKind::Leading, 4, false), [750, 500, 250, 0]);
        assert_eq!(got(GridKind::Leading, 4, true), [800, 600, 400, 200]);
        assert_eq!(entries(GridKind::Leading, 1000, 4, false, 1), [751, 501, 251, 1]);
        assert_eq!(got(GridKind::Trailing, 4, true), [999, 749, 499, 249]);
        assert_eq!(got(GridKind::Trailing, 3, false), [999, 666, 332]);
        assert_eq!(got(GridKind::Linspace, 1, false), [0]);
    }
}

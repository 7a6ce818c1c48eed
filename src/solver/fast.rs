//! Fast schedules: a few betas of their own for a network that was trained on a longer DDPM table.
//!
//! Kong et al. 2021, "DiffWave", section 2.3 and appendix B: the noise level of entry s is
//! `alpha_bar_s = prod_{i <= s} (1 - beta_i)` of the short list. The network is told the fractional index at which
//! `sqrt(alpha_bar)` of its own table, linear between two entries, has that level.

use super::grid::bad;
use crate::error::Result;
use crate::process::{Point, Process, from_betas};

/// How far outside the table a level may lie, relative to it, and still be taken as its end.
const NEAR: f64 = 1e-9;

/// The indices that go with the betas of a fast schedule, for a table of `process`; both from data to noise.
///
/// # Errors
/// Where the process is no table, a beta is not between 0 and 1, or a noise level is outside the table.
pub fn fast_indices(process: &dyn Process, betas: &[f64]) -> Result<Vec<f64>> {
    let Some(len) = process.table_len() else {
        return Err(
            bad("a schedule of betas belongs to a DDPM table").hint("give a list of noise levels instead")
        );
    };
    if betas.is_empty() {
        return Err(bad("a schedule of betas needs one entry at least"));
    }
    if let Some(beta) = betas.iter().find(|beta| !(**beta > 0.0 && **beta < 1.0)) {
        return Err(bad(format!("beta {beta} is not between 0 and 1")));
    }
    let table: Vec<f64> = (1..=len).map(|i| process.alpha(i as f64 / len as f64)).collect();
    let (first, last) = (table[0], table[len - 1]);
    let levels = from_betas(betas.iter().copied());
    (levels.iter().enumerate())
        .map(|(s, level)| {
            let alpha = level.sqrt();
            if alpha > first * (1.0 + NEAR) || alpha < last * (1.0 - NEAR) {
                let range = format!("{:.6} to {:.6}", first * first, last * last);
                return Err(bad(format!(
                    "the first {} betas leave alpha_bar = {level:.6}, but the table has {range}",
                    s + 1
                ))
                .hint("the model was not trained at this noise level: change the betas"));
            }
            let low = table.partition_point(|a| *a >= alpha).saturating_sub(1).min(len - 2);
            let place = (table[low] - alpha) / (table[low] - table[low + 1]);
            Ok(low as f64 + place.clamp(0.0, 1.0))
        })
        .collect()
}

/// The points of a fast schedule, from noise to data: noise levels of the list, times that the network is told.
///
/// # Errors
/// As [`fast_indices`].
pub(super) fn fast_points(process: &dyn Process, betas: &[f64]) -> Result<Vec<Point>> {
    let indices = fast_indices(process, betas)?;
    let len = process.table_len().unwrap_or(1) as f64;
    let levels = from_betas(betas.iter().copied());
    let mut points = (levels.iter().zip(indices))
        .map(|(level, index)| {
            let lambda = 0.5 * (level / (1.0 - level)).ln();
            Ok(Point { t: (index + 1.0) / len, ..Point::at_lambda(process, lambda)? })
        })
        .collect::<Result<Vec<_>>>()?;
    points.reverse();
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Flow, ProcessSpec};
    use crate::solver::{Budget, GridSpec, SolverName, SolverSpec, plan};

    const SIX: [f64; 6] = [1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5];

    fn table(steps: usize, end: f64) -> Box<dyn Process> {
        let text = format!("type = \"ddpm\"\nsteps = {steps}\nbeta_end = {end}");
        toml::from_str::<ProcessSpec>(&text).unwrap().build().unwrap()
    }

    #[test]
    fn the_six_steps_have_their_known_indices() {
        for (steps, end, want) in [
            (50, 0.05, [0.0, 0.894134, 4.086654, 10.451817, 22.992493, 42.918643]),
            (200, 0.02, [0.0, 3.200680, 13.430277, 33.820288, 73.982461, 138.083865]),
        ] {
            let process = table(steps, end);
            let got = fast_indices(process.as_ref(), &SIX).unwrap();
            assert!(got.iter().zip(want).all(|(a, b): (&f64, f64)| (a - b).abs() < 1e-6), "{got:?}");
            let points = fast_points(process.as_ref(), &SIX).unwrap();
            let mut level = 1.0;
            for (beta, point) in SIX.iter().zip(points.iter().rev()) {
                level *= 1.0 - beta;
                assert!((point.alpha - f64::sqrt(level)).abs() < 1e-12);
                assert!((point.alpha.hypot(point.sigma) - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn levels_outside_the_table_are_errors() {
        let process = table(50, 0.05);
        for (betas, word) in [
            (vec![1e-4, 0.9], "0.09"),
            (vec![1e-5, 0.5], "0.99999"),
            (vec![], "one entry"),
            (vec![0.1, 1.0], "between 0 and 1"),
            (vec![f64::NAN], "between 0 and 1"),
        ] {
            let error = fast_indices(process.as_ref(), &betas).unwrap_err();
            assert_eq!(error.kind().exit_code(), 2);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(fast_indices(&Flow, &SIX).is_err());
    }

    #[test]
    fn a_schedule_is_a_grid_for_every_solver() {
        let process = table(50, 0.05);
        let grid: GridSpec = "betas:1e-4,1e-3,1e-2,0.05,0.2,0.5".parse().unwrap();
        assert_eq!(grid.betas.as_deref(), Some(&SIX[..]));
        for name in [SolverName::Ddpm, SolverName::Ddim, SolverName::DpmPp] {
            let run = plan(&SolverSpec::new(name), &grid, Budget::Auto, process.as_ref()).unwrap();
            assert_eq!((run.points().len(), run.nfe()), (7, Some(6)), "{name:?}");
            assert!(run.points()[6].is_clean());
        }
        let few = plan(&SolverSpec::new(SolverName::Ddpm), &grid, Budget::Steps(5), process.as_ref());
        assert!(few.unwrap_err().to_string().contains("6 steps"));
    }
}

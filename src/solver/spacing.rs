//! Spacings: times that are uniform in something between two ends.

use std::f64::consts::FRAC_PI_2;

use super::GridKind;
use super::grid::{bad, t_of_rho};
use crate::error::Result;
use crate::math::beta_quantile;
use crate::process::Process;

/// Both parameters of the beta spacing.
const BETA: f64 = 0.6;

/// A kind of grid with its parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spacing {
    pub kind: GridKind,
    pub root: f64,
}

impl Spacing {
    /// `n + 1` times from `high` to `low`, both exact.
    ///
    /// # Errors
    /// Where the quantity that is to be uniform is infinite at an end.
    pub(super) fn between(&self, process: &dyn Process, high: f64, low: f64, n: usize) -> Result<Vec<f64>> {
        let power = |x: f64| x.powf(1.0 / self.root);
        let finite = |value: f64, t: f64, name: &str| {
            if value.is_finite() {
                return Ok(value);
            }
            let end = if t == high { "--t-max" } else { "--t-min" };
            Err(bad(format!("{name} is infinite at t = {t}"))
                .hint(format!("move the end with {end}, or use --grid uniform")))
        };
        let coordinate = |t: f64| match self.kind {
            GridKind::Linspace | GridKind::Leading | GridKind::Trailing => {
                Err(bad("entries of a table have nothing in between"))
            }
            GridKind::Uniform => Ok(t),
            GridKind::Quadratic | GridKind::Power => Ok(power(t)),
            GridKind::Logsnr => finite(process.lambda(t), t, "the log-SNR"),
            GridKind::Beta => finite(process.sigma(t) / process.alpha(t), t, "the noise level"),
            GridKind::Crash => {
                let (alpha, sigma) = (process.alpha(t), process.sigma(t));
                Ok((sigma / alpha.hypot(sigma)).sqrt().asin() / FRAC_PI_2)
            }
            GridKind::Karras => finite(power(process.sigma(t) / process.alpha(t)), t, "the noise level"),
        };
        let time = |u: f64| match self.kind {
            GridKind::Uniform | GridKind::Linspace | GridKind::Leading | GridKind::Trailing => Ok(u),
            GridKind::Quadratic | GridKind::Power => Ok(u.powf(self.root)),
            GridKind::Logsnr => process.t_of_lambda(u),
            GridKind::Karras => t_of_rho(process, u.powf(self.root)),
            GridKind::Beta => t_of_rho(process, u),
            GridKind::Crash => {
                // With sin^2 = 1 - cos^2: 1 - sin^4 without cancellation.
                let (sin, cos) = (FRAC_PI_2 * u).sin_cos();
                t_of_rho(process, sin * sin / (cos * sin.hypot(1.0)))
            }
        };
        let ramp = |u: f64| match self.kind {
            GridKind::Beta => 1.0 - beta_quantile(1.0 - u, BETA, BETA),
            _ => u,
        };
        let (first, last) = (coordinate(high)?, coordinate(low)?);
        (0..=n)
            .map(|i| match i {
                0 => Ok(high),
                i if i == n => Ok(low),
                i => time(first + (last - first) * ramp(i as f64 / n as f64)),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Edm, Flow, Vp};
    use crate::solver::GridSpec;

    #[test]
    fn the_edm_grid_has_its_known_values() {
        let spacing = GridSpec::default().spacing(GridKind::Karras).unwrap();
        let got = spacing.between(&Edm::default(), 80.0, 0.002, 17).unwrap();
        let want = [
            80.0, 57.58598, 40.78557, 28.37458, 19.35245, 12.91008, 8.400935, 5.315195, 3.256822, 1.923340,
            1.088171, 0.5853481, 0.2964423, 0.1395165, 0.05994731, 0.02293452, 0.00752802, 0.002,
        ];
        assert_eq!(got.len(), 18);
        assert!(got.iter().zip(want).all(|(a, b): (&f64, f64)| (a / b - 1.0).abs() < 1e-6), "{got:?}");
    }

    #[test]
    fn grids_are_uniform_in_what_they_say() {
        let vp = Vp::default();
        let uniform = |f: &dyn Fn(f64) -> f64, grid: &[f64]| {
            let u: Vec<f64> = grid.iter().map(|t| f(*t)).collect();
            let step = (u[u.len() - 1] - u[0]) / (u.len() - 1) as f64;
            u.windows(2).all(|w| ((w[1] - w[0]) / step - 1.0).abs() < 1e-9)
        };
        let grid = |text: &str| {
            let spec: GridSpec = text.parse().unwrap();
            spec.spacing(GridKind::Uniform).unwrap().between(&vp, 1.0, 1e-3, 9).unwrap()
        };
        assert!(uniform(&|t| t, &grid("uniform")));
        assert!(uniform(&|t| vp.lambda(t), &grid("logsnr")));
        assert!(uniform(&|t| t.sqrt(), &grid("quadratic")));
        assert!(uniform(&|t| t.powf(1.0 / 3.0), &grid("t-power=3")));
        assert!(uniform(&|t| (-vp.lambda(t) / 5.0).exp(), &grid("karras=5")));
        assert!(uniform(&|t| vp.sigma(t).sqrt().asin(), &grid("crash")));
    }

    #[test]
    fn infinite_ends_are_refused_by_name() {
        let spacing = Spacing { kind: GridKind::Logsnr, root: 1.0 };
        let error = spacing.between(&Flow, 1.0, 1e-3, 5).unwrap_err();
        assert!(error.hint_text().is_some_and(|h| h.contains("--t-max")));
        let error = spacing.between(&Flow, 0.9, 0.0, 5).unwrap_err();
        assert!(error.hint_text().is_some_and(|h| h.contains("--t-min")));
    }

    #[test]
    fn the_beta_spacing_is_symmetric_and_dense_at_both_ends() {
        let spacing = Spacing { kind: GridKind::Beta, root: 1.0 };
        let got = spacing.between(&Edm::default(), 10.0, 1.0, 8).unwrap();
        // The median is in the middle.
        assert!((got[4] - 5.5).abs() < 1e-12);
        for i in 0..=8 {
            assert!((got[i] + got[8 - i] - 11.0).abs() < 1e-12);
        }
        let steps: Vec<f64> = got.windows(2).map(|w| w[0] - w[1]).collect();
        assert!(steps[..4].windows(2).all(|w| w[0] < w[1]) && steps.iter().all(|s| *s > 0.0), "{steps:?}");
    }
}

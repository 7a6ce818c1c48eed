//! Time grids: from the start of a run to its end.
//!
//! With n steps, i = 0 ... n, from t_max to t_min:
//!
//! | grid | uniform in |
//! |---|---|
//! | uniform | t |
//! | quadratic, power | `t^(1/p)`, p = 2 unless given (Zhang and Chen 2023, "DEIS") |
//! | logsnr | `lambda = ln(alpha/sigma)` (Lu et al. 2022, "DPM-Solver") |
//! | karras | `rho^(1/p)`, `rho = sigma/alpha`, p = 7 (Karras et al. 2022, equation 5) |
//! | beta | the Beta(0.6, 0.6) distribution of rho (Lee et al. 2024, "Beta sampling is all you need") |
//! | crash | s, where `sigma/hypot(alpha, sigma) = sin^2(pi s/2)` (Rouard and Hadjeres 2021, "CRASH") |
//!
//! or a list of times or noise levels, or entries of a DDPM table. A run ends at t_min, or goes on to clean
//! data or to the lowest noise level in its last step.

use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::TableRules;
use super::spacing::Spacing;
use crate::error::{Error, Result};
use crate::process::{Family, Point, Process};

/// The kinds of grids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum GridKind {
    /// Uniform in time.
    #[serde(alias = "time-uniform")]
    #[value(alias = "time-uniform")]
    Uniform,
    /// Uniform in half log-SNR.
    #[serde(alias = "log-snr", alias = "exponential", alias = "log", alias = "lu")]
    #[value(aliases = ["log-snr", "exponential", "log", "lu"])]
    Logsnr,
    /// Uniform in the square root of time.
    #[serde(alias = "time-quadratic")]
    #[value(alias = "time-quadratic")]
    Quadratic,
    /// Uniform in a root of time: `power`.
    #[serde(alias = "t-power")]
    #[value(alias = "t-power")]
    Power,
    /// Uniform in a root of the noise level: `rho`.
    #[serde(alias = "edm", alias = "polynomial", alias = "rho-power")]
    #[value(aliases = ["edm", "polynomial", "rho-power"])]
    Karras,
    /// Noise levels at equal steps of a Beta(0.6, 0.6) distribution: dense at both ends.
    Beta,
    /// Share of noise `sin^2(pi s/2)` at equal steps of s: dense at both ends.
    Crash,
    /// Entries of a DDPM table, equally spaced over the whole of it.
    Linspace,
    /// Entries of a DDPM table, equally spaced from entry `offset`.
    Leading,
    /// Entries of a DDPM table, equally spaced back from the last one.
    Trailing,
}

/// Where a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Terminal {
    /// At t_min.
    TMin,
    /// On clean data: one of the steps goes from t_min to no noise at all.
    Zero,
    /// At the lowest noise level of the process (the first entry of a table), to which one of the steps goes.
    SigmaMin,
}

/// What the state at the start of a run is: unit-normal noise times this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The noise of the first time alone.
    Noise,
    /// Data of unit variance with that noise.
    UnitData,
}

/// In what the entries of a list are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Times for flows, noise levels otherwise.
    #[default]
    Auto,
    /// Times of the process.
    T,
    /// Noise levels `sigma/alpha`.
    Sigma,
}

/// A grid given entry by entry, from noise to data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explicit {
    /// In what the entries are measured.
    #[serde(default)]
    pub unit: Unit,
    /// The entries, strictly decreasing.
    pub values: Vec<f64>,
}

/// A grid. What is not given has the default of the process and the solver.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GridSpec {
    /// The kind of grid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<GridKind>,
    /// Last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub t_min: Option<f64>,
    /// First time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub t_max: Option<f64>,
    /// Last noise level `sigma/alpha`, instead of `t_min`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    /// First noise level `sigma/alpha`, instead of `t_max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
    /// Root of the noise level (karras): 7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rho: Option<f64>,
    /// Root of time (power): 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// Added to the entries of a table (leading): 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<usize>,
    /// Where the run ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// What the run starts from: unit data for variance-preserving processes, else noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// Moves the times of a flow towards noise: `s t/(1 + (s - 1) t)` (Esser et al. 2024, equation 23).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
    /// How the entries of a DDPM table are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<TableRules>,
    /// All entries, instead of a kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explicit: Option<Explicit>,
    /// A fast schedule instead of a kind: betas from data to noise, whose noise levels are the grid. The network
    /// is told the index at which `sqrt(alpha_bar)` of its table, linear between entries, has that level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<Vec<f64>>,
}

impl From<GridKind> for GridSpec {
    fn from(kind: GridKind) -> Self {
        GridSpec { kind: Some(kind), ..GridSpec::default() }
    }
}

impl FromStr for GridSpec {
    type Err = Error;

    /// A kind (`logsnr`, `power=3`, `karras=5`) or a list (`14.6,7.8,0`, `t:1,0.5,0`, `sigma:80,10,0`;
    /// commas or white space between the entries), or the betas of a fast schedule (`betas:1e-4,1e-3,0.05`).
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let (name, parameter) =
            text.split_once('=').map_or((text, None), |(n, p)| (n.trim(), Some(p.trim())));
        if let Ok(kind) = GridKind::from_str(name, true) {
            let mut spec = GridSpec::from(kind);
            if let Some(parameter) = parameter {
                let value = parameter.parse().map_err(|_| bad(format!("`{parameter}` is not a number")))?;
                match kind {
                    GridKind::Power => spec.power = Some(value),
                    GridKind::Karras => spec.rho = Some(value),
                    _ => return Err(bad(format!("{name} has no parameter"))),
                }
            }
            return Ok(spec);
        }
        if let Some(list) = text.strip_prefix("betas:") {
            return Ok(GridSpec { betas: Some(numbers(list)?), ..GridSpec::default() });
        }
        let (unit, list) = match text.split_once(':') {
            Some(("t", list)) => (Unit::T, list),
            Some(("sigma", list)) => (Unit::Sigma, list),
            _ => (Unit::Auto, text),
        };
        let values = numbers(list)?;
        Ok(GridSpec { explicit: Some(Explicit { unit, values }), ..GridSpec::default() })
    }
}

/// The numbers of a list with commas or white space between.
fn numbers(list: &str) -> Result<Vec<f64>> {
    list.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            entry.parse::<f64>().map_err(|_| {
                let kinds: Vec<String> = GridKind::value_variants()
                    .iter()
                    .filter_map(|k| k.to_possible_value().map(|v| v.get_name().to_owned()))
                    .collect();
                bad(format!("`{entry}` is neither a kind of grid nor a number"))
                    .hint(format!("kinds are {}; a list is numbers with commas between", kinds.join(", ")))
            })
        })
        .collect()
}

pub(super) fn bad(why: impl Into<String>) -> Error {
    Error::usage("bad grid").at("--grid").why(why)
}

/// The time at noise level `rho`.
pub(super) fn t_of_rho(process: &dyn Process, rho: f64) -> Result<f64> {
    // Where time is the noise level, no rounding by logarithms.
    if process.family() == Family::NoiseLevel { Ok(rho) } else { process.t_of_lambda(-rho.ln()) }
}

impl GridSpec {
    /// The spacing: the kind asked for, or `default`.
    pub(super) fn spacing(&self, default: GridKind) -> Result<Spacing> {
        let kind = self.kind.unwrap_or(default);
        let root = match kind {
            GridKind::Quadratic => 2.0,
            GridKind::Power => self.power.unwrap_or(2.0),
            GridKind::Karras => self.rho.unwrap_or(7.0),
            _ => 1.0,
        };
        if !(root > 0.0 && root.is_finite()) {
            return Err(bad(format!("the root {root} is not a positive number")));
        }
        Ok(Spacing { kind, root })
    }

    /// The times moved towards noise, where that is asked for.
    ///
    /// # Errors
    /// Where the process is no flow, or the shift not positive.
    pub(super) fn shifted(&self, process: &dyn Process, times: Vec<f64>) -> Result<Vec<f64>> {
        let Some(shift) = self.shift else {
            return Ok(times);
        };
        if process.family() != Family::Flow {
            return Err(Error::usage("a shift moves the times of flows alone").at("--shift"));
        }
        if !(shift > 0.0 && shift.is_finite()) {
            return Err(Error::usage(format!("the shift {shift} is not a positive number")).at("--shift"));
        }
        // As s t/(1 - t + s t), which is exact at both ends.
        Ok(times.into_iter().map(|t| shift * t / (1.0 - t + shift * t)).collect())
    }

    /// First and last time of the run on `process`.
    pub(super) fn range(&self, process: &dyn Process) -> Result<(f64, f64)> {
        let span = process.span();
        let end = |t: Option<f64>, sigma: Option<f64>, usual: f64, name: &str| match (t, sigma) {
            (Some(_), Some(_)) => {
                Err(bad(format!("t_{name} and sigma_{name} are both given")).hint("give one of them"))
            }
            (Some(t), None) => Ok(t),
            (None, Some(sigma)) if sigma > 0.0 => t_of_rho(process, sigma),
            (None, Some(sigma)) => Err(bad(format!("sigma_{name} = {sigma} is not positive"))),
            (None, None) => Ok(usual),
        };
        let high = end(self.t_max, self.sigma_max, span.max, "max")?;
        let low = end(self.t_min, self.sigma_min, span.min, "min")?;
        if !(low >= 0.0 && high > low && high.is_finite()) {
            return Err(bad(format!("a run from t = {high} to t = {low} does not go from noise to data")));
        }
        let (first, last) = (Point::new(process, high), Point::new(process, low));
        if first.alpha < 0.0 || last.sigma < 0.0 || !first.sigma.is_finite() {
            return Err(bad(format!(
                "t = {high} is beyond the end of the process, which is at {}",
                span.max
            )));
        }
        Ok((high, low))
    }

    /// The points of a list.
    pub(super) fn listed(explicit: &Explicit, process: &dyn Process) -> Result<Vec<Point>> {
        let in_time = match explicit.unit {
            Unit::Auto => process.family() == Family::Flow,
            Unit::T => true,
            Unit::Sigma => false,
        };
        let values = &explicit.values;
        if values.len() < 2 {
            return Err(bad("a list needs two entries at least"));
        }
        if let Some(pair) = values.windows(2).find(|p| !(p[0] > p[1] && p[1] >= 0.0 && p[0].is_finite())) {
            return Err(bad(format!(
                "{} is followed by {}, but entries must fall from noise to data",
                pair[0], pair[1]
            )));
        }
        values
            .iter()
            .map(|v| match (in_time, *v) {
                (true, t) => point(process, t),
                (false, 0.0) => Ok(Point::clean()),
                (false, rho) => point(process, t_of_rho(process, rho)?),
            })
            .collect()
    }
}

/// The point at `t`; clean data where there is no noise.
pub(super) fn point(process: &dyn Process, t: f64) -> Result<Point> {
    let point = Point::new(process, t);
    if point.is_clean() {
        return Ok(Point::clean());
    }
    if point.alpha >= 0.0 && point.sigma > 0.0 && point.sigma.is_finite() {
        return Ok(point);
    }
    Err(bad(format!("t = {t} is outside the process, which ends at {}", process.span().max)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Edm, Flow, Vp};

    #[test]
    fn lists_are_read_in_their_unit() {
        let spec: GridSpec = "14.6,7.8,0".parse().unwrap();
        let points = GridSpec::listed(spec.explicit.as_ref().unwrap(), &Vp::default()).unwrap();
        assert!((points[0].rho() - 14.6).abs() < 1e-10 && points[2].is_clean());
        let points = GridSpec::listed(spec.explicit.as_ref().unwrap(), &Edm::default()).unwrap();
        assert_eq!((points[0].t, points[1].sigma), (14.6, 7.8));
        let spec: GridSpec = "t: 1 0.5\n0".parse().unwrap();
        let points = GridSpec::listed(spec.explicit.as_ref().unwrap(), &Flow).unwrap();
        assert_eq!((points[1].t, points.len()), (0.5, 3));
        for text in ["1,2", "1", "5,-1", "t:2,0.5"] {
            let spec: GridSpec = text.parse().unwrap();
            assert!(GridSpec::listed(spec.explicit.as_ref().unwrap(), &Flow).is_err(), "{text}");
        }
        let error = "logsnrr".parse::<GridSpec>().unwrap_err();
        assert!(error.hint_text().is_some_and(|h| h.contains("logsnr, quadratic")), "{error:?}");
        assert!("uniform=2".parse::<GridSpec>().is_err());
    }

    #[test]
    fn ranges_are_checked() {
        let range = |spec: GridSpec| spec.range(&Vp::default());
        let both = GridSpec { t_min: Some(1e-3), sigma_min: Some(0.1), ..GridSpec::default() };
        assert!(range(both).is_err());
        assert!(range(GridSpec { t_min: Some(2.0), ..GridSpec::default() }).is_err());
        assert!(range(GridSpec { sigma_max: Some(-1.0), ..GridSpec::default() }).is_err());
        let (high, low) = range(GridSpec { sigma_max: Some(10.0), ..GridSpec::default() }).unwrap();
        assert!((Point::new(&Vp::default(), high).rho() - 10.0).abs() < 1e-10 && low == 1e-3);
        assert!(GridSpec { t_max: Some(1.5), ..GridSpec::default() }.range(&Flow).is_err());
    }
}

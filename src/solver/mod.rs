//! Samplers: from noise to data along a grid of times.
//!
//! A [`SolverSpec`] and a [`GridSpec`] become a [`Plan`] for a process ([`plan`]), which runs any model
//! of that process, whatever it predicts. A [`Solver`] is one step of one method; the loop that drives
//! all of them is here.

use std::fmt::Debug;

use tch::Tensor;

mod adaptive;
mod ancestral;
mod build;
mod checks;
mod clamped;
mod deis;
mod dpm_adaptive;
mod dpm_multistep;
mod dpm_nodes;
mod dpm_sde;
mod dpm_singlestep;
mod edm;
mod em;
mod entries;
mod euler;
mod exponential;
mod fast;
mod grid;
mod kdpm2;
mod langevin;
mod options;
mod plan;
mod pndm;
mod registry;
mod reverse_diffusion;
mod rho_rk;
mod rk45;
mod sde_dpm;
mod spacing;
mod spec;
mod table;
mod unipc;

pub use fast::fast_indices;
pub use grid::{Explicit, GridKind, GridSpec, Start, Terminal, Unit};
pub use options::{
    Churn, Compat, Control, Form, Langevin, LowerOrderFinal, Method, SolverType, Variance, Variant, Warmup,
};
pub use plan::{Budget, Plan, Solved, plan};
pub use registry::{Convergence, Measured, Registered, SELFTEST_STEPS, exact_end, measure, registered};
pub use rho_rk::Tableau;
pub use spec::{SolverName, SolverSpec};
pub use table::{Entries, TableRules, TimeRule};

use crate::denoiser::{Counted, Denoiser, DenoiserExt, Prediction, convert};
use crate::error::Result;
use crate::net::Cond;
use crate::noise::Noise;
use crate::process::{At, Point, Process};
use entries::Nodes;
use table::place;

/// What a step may use: the model, its condition, the noise and the whole grid.
pub struct Run<'a> {
    model: &'a Counted<'a>,
    cond: &'a Cond,
    noise: &'a mut dyn Noise,
    nodes: &'a Nodes,
    inner: TimeRule,
}

impl Run<'_> {
    /// The process of the model.
    #[must_use]
    pub fn process(&self) -> &dyn Process {
        self.model.process()
    }

    /// The grid: from noise to data.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.nodes.points
    }

    /// Where step `i` ends: the next point, but for reference runs on the entries of a table.
    fn end(&self, i: usize) -> Point {
        self.nodes.ends.as_ref().map_or(self.nodes.points[i + 1], |ends| ends[i])
    }

    /// The point with half log-SNR `lambda` inside a step.
    fn at_lambda(&self, lambda: f64) -> Result<Point> {
        place(self.process(), lambda, self.inner)
    }

    /// Number of steps of the grid.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.points().len() - 1
    }

    /// What the model predicts by itself.
    fn prediction(&self) -> Prediction {
        self.model.prediction()
    }

    /// One call of the model, in the form `to`.
    ///
    /// # Errors
    /// Where the model fails or the form is not defined there.
    pub fn predict(&self, to: Prediction, x: &Tensor, at: impl Into<At>) -> Result<Tensor> {
        self.model.predict_as(to, x, &at.into(), self.cond)
    }

    /// One call of the model for some samples of the batch, whose part of the condition is `cond`.
    fn predict_for(&self, cond: &Cond, to: Prediction, x: &Tensor, at: Vec<Point>) -> Result<Tensor> {
        self.model.predict_as(to, x, &At::each(at), cond)
    }

    /// One call of the model, as clean data and as noise.
    ///
    /// # Errors
    /// As [`Run::predict`].
    pub fn both(&self, x: &Tensor, at: Point) -> Result<(Tensor, Tensor)> {
        let (at, from) = (At::all(at), self.model.prediction());
        let out = self.model.predict(x, &at, self.cond)?;
        Ok((convert(&out, x, &at, from, Prediction::X0)?, convert(&out, x, &at, from, Prediction::Eps)?))
    }

    /// The next standard normal draw of every sample.
    ///
    /// # Errors
    /// Where the noise does not fit the batch.
    pub fn normal(&mut self, like: &Tensor) -> Result<Tensor> {
        self.noise.normal(like)
    }
}

/// One method, a step at a time. The state between steps (earlier predictions, step sizes) is its own.
pub trait Solver: Debug + Send {
    /// Forgets the state: the next step is the first of a run.
    fn reset(&mut self);

    /// Model calls of step `i` on the grid `points`.
    fn calls(&self, points: &[Point], i: usize) -> u64;

    /// Step `i`: from `x` `[B, ...]` at grid point i to point i + 1 (adaptive methods: one attempt).
    ///
    /// # Errors
    /// Where the model fails or a value is not finite.
    fn step(&mut self, run: &mut Run<'_>, i: usize, x: Tensor) -> Result<Tensor>;

    /// Whether it draws noise.
    fn stochastic(&self) -> bool {
        false
    }

    /// Adaptive methods: how far the slowest sample has come, 1 at the end. Methods with fixed steps: none.
    fn fraction(&self) -> Option<f64> {
        None
    }
}

/// Where a run stands after a step.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Steps (attempts of an adaptive method) so far.
    pub step: usize,
    /// Steps in all, where that is known beforehand.
    pub steps: Option<usize>,
    /// From 0 to 1.
    pub fraction: f64,
    /// Model calls so far.
    pub nfe: u64,
    /// The state `[B, ...]` after the step.
    pub x: &'a Tensor,
}

/// Drives `solver` over the grid of `run`. `watch` sees every step and may stop the run by an error.
fn integrate(
    solver: &mut dyn Solver,
    run: &mut Run<'_>,
    mut x: Tensor,
    watch: &mut dyn FnMut(&Progress<'_>) -> Result<()>,
) -> Result<Tensor> {
    solver.reset();
    let steps = run.steps();
    for i in 0.. {
        x = solver.step(run, i, x)?;
        let adaptive = solver.fraction();
        let fraction = adaptive.unwrap_or((i + 1) as f64 / steps as f64);
        watch(&Progress {
            step: i + 1,
            steps: adaptive.is_none().then_some(steps),
            fraction,
            nfe: run.model.calls(),
            x: &x,
        })?;
        if fraction >= 1.0 {
            break;
        }
    }
    solver.reset();
    Ok(x)
}

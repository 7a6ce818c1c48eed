//! From a solver, a grid and a budget to a run that is ready to go.

use tch::Tensor;

use super::build::{build, usual_grid, usual_steps, usual_terminal};
use super::dpm_adaptive::DpmAdaptive;
use super::dpm_singlestep::orders;
use super::entries::{Nodes, ends_of, is_on_entries, on_entries};
use super::fast::fast_points;
use super::grid::point;
use super::rk45::Rk45;
use super::spacing::Spacing;
use super::table::told;
use super::{
    Compat, Form, GridKind, GridSpec, Method, Progress, Run, Solver, SolverName, SolverSpec, SolverType,
    Start, Terminal, TimeRule, integrate,
};
use crate::denoiser::{Counted, Denoiser, NoiseEnd, Prediction, Threshold, ThresholdSpec};
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::noise::Noise;
use crate::process::{Point, Process};

/// How long a run may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// The length of an explicit grid, or the solver's usual number of steps.
    Auto,
    /// Steps of the solver; for singlestep DPM solvers, model calls. A last call that only denoises
    /// (`denoise`) comes on top.
    Steps(usize),
    /// As many steps as there are with at most so many model calls.
    Nfe(usize),
}

/// A run that is ready to go.
#[derive(Debug)]
pub struct Plan {
    solver: Box<dyn Solver>,
    nodes: Nodes,
    inner: TimeRule,
    /// The process at the first time, by which a model is known to be of it.
    probe: Point,
    start_std: f64,
    nfe: Option<u64>,
    threshold: Option<ThresholdSpec>,
}

/// The result of a run.
#[derive(Debug)]
pub struct Solved {
    /// The samples `[B, ...]`, in the dtype of the start.
    pub x: Tensor,
    /// Model calls.
    pub nfe: u64,
    /// Steps, or attempts of an adaptive solver.
    pub steps: usize,
}

/// Plans the run of a solver on `process`.
///
/// # Errors
/// Where a setting is out of range, does not belong to the solver, or cannot be combined with another.
pub fn plan(spec: &SolverSpec, grid: &GridSpec, budget: Budget, process: &dyn Process) -> Result<Plan> {
    spec.validate()?;
    if spec.name.is_adaptive() {
        return adaptive(spec, grid, process);
    }
    if let Some(explicit) = &grid.explicit {
        let mut points = GridSpec::listed(explicit, process)?;
        let ends_clean = points.last().is_some_and(Point::is_clean);
        if (spec.denoise || grid.terminal == Some(Terminal::Zero)) && !ends_clean {
            points.push(Point::clean());
        }
        if let Budget::Steps(steps) = budget
            && steps != explicit.values.len() - 1
        {
            return Err(Error::usage("contradicting numbers of steps").at("--steps").why(format!(
                "the grid has {} steps, but {steps} are asked for",
                explicit.values.len() - 1
            )));
        }
        enough_steps(spec, points.len() - 1)?;
        return on_points(spec, grid, points.into(), None, process);
    }
    if let Some(betas) = &grid.betas {
        return on_schedule(spec, grid, betas, budget, process);
    }
    match budget {
        Budget::Auto => with_steps(spec, grid, usual_steps(spec, process), process),
        Budget::Steps(steps) => with_steps(spec, grid, steps, process),
        Budget::Nfe(nfe) => {
            let wanted = nfe as u64;
            let mut least = None;
            for steps in (1..=nfe).rev() {
                // Some lengths may be refused (fewer steps than the order): the error of the longest says why.
                let plan = match with_steps(spec, grid, steps, process) {
                    Ok(plan) => plan,
                    Err(error) if steps == nfe || least.is_none() => return Err(error),
                    Err(_) => break,
                };
                least = plan.nfe;
                if plan.nfe.is_some_and(|n| n <= wanted) {
                    return Ok(plan);
                }
            }
            Err(Error::usage(format!("{nfe} model calls are too few")).at("--nfe").why(format!(
                "{} needs {} at least",
                spec.name.as_str(),
                least.unwrap_or(1)
            )))
        }
    }
}

/// A run on the noise levels of a list of betas, and from the last of them onto clean data.
fn on_schedule(
    spec: &SolverSpec,
    grid: &GridSpec,
    betas: &[f64],
    budget: Budget,
    process: &dyn Process,
) -> Result<Plan> {
    let mut points = fast_points(process, betas)?;
    if grid.terminal != Some(Terminal::TMin) || spec.denoise {
        points.push(Point::clean());
    }
    let steps = points.len() - 1;
    if let Budget::Steps(wanted) = budget
        && wanted != steps
    {
        return Err(Error::usage("contradicting numbers of steps")
            .at("--steps")
            .why(format!("the schedule has {steps} steps, but {wanted} are asked for")));
    }
    if steps == 0 {
        return Err(Error::usage("a run needs one step at least").at("--grid"));
    }
    enough_steps(spec, steps)?;
    on_points(spec, grid, points.into(), None, process)
}

/// Refuses fewer steps than the order of a multistep solver.
fn enough_steps(spec: &SolverSpec, steps: usize) -> Result<()> {
    let multistep = match spec.name {
        SolverName::Dpm | SolverName::DpmPp => spec.method() == Method::Multistep,
        name => matches!(name, SolverName::Unipc | SolverName::SdeDpmPp),
    };
    let order = spec.order()?;
    if !multistep || steps >= order {
        return Ok(());
    }
    let steps = if steps == 1 { "1 step is".to_owned() } else { format!("{steps} steps are") };
    Err(Error::usage(format!("{steps} too few"))
        .at("--steps")
        .why(format!("{} of order {order} needs {order} steps at least", spec.name.as_str()))
        .hint("make more steps, or lower the order with --order"))
}

/// A run of `steps` steps on a grid of a kind.
fn with_steps(spec: &SolverSpec, grid: &GridSpec, steps: usize, process: &dyn Process) -> Result<Plan> {
    if steps == 0 {
        return Err(Error::usage("a run needs one step at least").at("--steps"));
    }
    enough_steps(spec, steps)?;
    let spacing = grid.spacing(usual_grid(spec, process))?;
    if is_on_entries(spacing.kind) {
        return on_points(spec, grid, on_entries(spacing.kind, spec, grid, steps, process)?, None, process);
    }
    let table = grid.table.unwrap_or_default();
    let (high, low) = match table.ends {
        Some(kind) => ends_of(kind, spec, grid, steps, process)?,
        None => grid.range(process)?,
    };
    let terminal = grid.terminal.unwrap_or(usual_terminal(spec, process));
    // A process that has no noise at t_min ends there by itself.
    let ends_clean = process.sigma(low) == 0.0;
    // The step onto clean data is one of the steps, unless it is a denoising call on top.
    let inside = if terminal != Terminal::TMin && !ends_clean { steps - 1 } else { steps };
    let order = spec.order()?;
    let mut chosen = None;
    let times = match spec.method() {
        _ if inside == 0 => vec![high],
        Method::Multistep | Method::SinglestepNodes => spacing.between(process, high, low, inside)?,
        Method::SinglestepFixed => {
            if inside < order {
                return Err(Error::usage(format!("{inside} model calls are too few"))
                    .at("--steps")
                    .why(format!("one step of order {order} makes {order} of them")));
            }
            let whole = inside / order;
            chosen = Some(vec![order; whole]);
            spacing.between(process, high, low, whole)?
        }
        Method::Singlestep => {
            // Steps from pure noise and onto clean data are of first order: one call each.
            let (first, last) = (process.alpha(high) == 0.0, ends_clean);
            let ends = usize::from(first) + usize::from(last);
            let mut list = vec![1; usize::from(first).min(inside)];
            if inside > ends {
                list.extend(orders(order, inside - ends));
            }
            if last && list.iter().sum::<usize>() < inside {
                list.push(1);
            }
            let times = if spacing.kind == GridKind::Logsnr {
                spacing.between(process, high, low, list.len())?
            } else {
                let fine = spacing.between(process, high, low, inside)?;
                let mut at = 0;
                std::iter::once(0)
                    .chain(list.iter().map(|k| {
                        at += k;
                        at
                    }))
                    .map(|i| fine[i])
                    .collect()
            };
            chosen = Some(list);
            times
        }
    };
    let times = grid.shifted(process, times)?;
    let mut points = times
        .into_iter()
        .map(|t| Ok(told(process, point(process, t)?, table.time)))
        .collect::<Result<Vec<_>>>()?;
    if terminal == Terminal::SigmaMin && !ends_clean {
        points.push(point(process, process.span().min)?);
    }
    if (terminal == Terminal::Zero || spec.denoise) && !ends_clean {
        points.push(Point::clean());
    }
    on_points(spec, grid, points.into(), chosen.map(|list| (list, spacing)), process)
}

/// Standard deviation of the state from which a run starts.
fn start_std(grid: &GridSpec, process: &dyn Process, first: &Point) -> f64 {
    match grid.start {
        Some(Start::Noise) => first.sigma,
        Some(Start::UnitData) => first.alpha.hypot(first.sigma),
        None => process.prior_std(first.t),
    }
}

/// A run on the points given.
fn on_points(
    spec: &SolverSpec,
    grid: &GridSpec,
    nodes: Nodes,
    list: Option<(Vec<usize>, Spacing)>,
    process: &dyn Process,
) -> Result<Plan> {
    let points = &nodes.points;
    let solver = build(spec, points, list, process)?;
    let nfe = (0..points.len() - 1).map(|i| solver.calls(points, i)).sum();
    // The reference's DDIM thresholds by itself.
    let by_itself = spec.name == SolverName::Ddim && spec.compat == Compat::Reference;
    Ok(Plan {
        start_std: start_std(grid, process, &points[0]),
        probe: Point::new(process, points[0].t),
        solver,
        inner: grid.table.unwrap_or_default().inner,
        nodes,
        nfe: Some(nfe),
        threshold: spec.threshold.filter(|_| !by_itself),
    })
}

/// A run that chooses its steps itself.
fn adaptive(spec: &SolverSpec, grid: &GridSpec, process: &dyn Process) -> Result<Plan> {
    if grid.kind.is_some() || grid.explicit.is_some() || grid.betas.is_some() {
        return Err(Error::usage(format!("{} chooses its own grid", spec.name.as_str()))
            .at("--grid")
            .hint("give only the ends, with --t-min and --t-max"));
    }
    let (high, mut low) = grid.range(process)?;
    let zero = grid.terminal == Some(Terminal::Zero) || spec.denoise;
    let mut clean = zero;
    let order = spec.order()?;
    let (control, form) = (spec.control, spec.form().unwrap_or(Form::Noise));
    let solver: Box<dyn Solver> = if spec.name == SolverName::Rk45 {
        if process.sigma(low) == 0.0 {
            // The velocity of most predictions is 0/0 without noise: stop just before, then denoise.
            low = high * 1e-5;
            clean = true;
        }
        let (rtol, atol) = (spec.rtol.unwrap_or(1e-5), spec.atol.unwrap_or(1e-5));
        Box::new(Rk45 { rtol, atol, control, state: None })
    } else {
        // Refuses ends where the half log-SNR is infinite.
        Spacing { kind: GridKind::Logsnr, root: 1.0 }.between(process, high, low, 1)?;
        let (rtol, atol) = (spec.rtol.unwrap_or(0.05), spec.atol.unwrap_or(0.0078));
        let kind = spec.solver_type.unwrap_or(SolverType::Midpoint);
        Box::new(DpmAdaptive { form, kind, order, rtol, atol, control, state: None })
    };
    let mut points = vec![point(process, high)?, point(process, low)?];
    if clean {
        points.push(Point::clean());
    }
    Ok(Plan {
        start_std: start_std(grid, process, &points[0]),
        probe: points[0],
        solver,
        inner: TimeRule::Exact,
        nodes: points.into(),
        nfe: None,
        threshold: spec.threshold,
    })
}

impl Plan {
    /// Model calls for one run; none for adaptive solvers.
    #[must_use]
    pub fn nfe(&self) -> Option<u64> {
        self.nfe
    }

    /// The grid; for adaptive solvers its ends.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.nodes.points
    }

    /// Where the run starts.
    #[must_use]
    pub fn start_point(&self) -> Point {
        self.nodes.points[0]
    }

    /// Standard deviation of the state from which the run starts: it is this times a unit normal.
    #[must_use]
    pub fn start_std(&self) -> f64 {
        self.start_std
    }

    /// Whether noise is drawn on the way.
    #[must_use]
    pub fn stochastic(&self) -> bool {
        self.solver.stochastic()
    }

    /// Runs `model` from the state `x` `[B, ...]` at [`Plan::start_point`], in the dtype of `x`, without
    /// gradients. `watch` is called after every step and stops the run by an error.
    ///
    /// # Errors
    /// Where the model fails or belongs to another process, `watch` says so, or the result is not finite.
    pub fn run(
        &mut self,
        model: &dyn Denoiser,
        cond: &Cond,
        x: Tensor,
        noise: &mut dyn Noise,
        watch: &mut dyn FnMut(&Progress<'_>) -> Result<()>,
    ) -> Result<Solved> {
        let _no_grad = tch::no_grad_guard();
        let process = model.process();
        let (start, there) = (self.nodes.points[0], Point::new(process, self.probe.t));
        let off = (there.alpha - self.probe.alpha).abs() + (there.sigma - self.probe.sigma).abs();
        if off > 1e-9 * (1.0 + there.sigma) {
            return Err(Error::usage("the run was planned for another process than the model's"));
        }
        let of_noise = matches!(model.prediction(), Prediction::Eps | Prediction::Score);
        let from_noise = (of_noise && start.is_pure_noise()).then(|| NoiseEnd::new(model));
        let seen: &dyn Denoiser = from_noise.as_ref().map_or(model, |m| m);
        let threshold = self.threshold.map(|spec| Threshold::new(seen, spec));
        let counted = Counted::new(threshold.as_ref().map_or(seen, |m| m));
        let mut run = Run { model: &counted, cond, noise, nodes: &self.nodes, inner: self.inner };
        let mut steps = 0;
        let x = integrate(self.solver.as_mut(), &mut run, x, &mut |progress| {
            steps = progress.step;
            watch(progress)
        })?;
        if !bool::try_from(&x.f_isfinite()?.f_all()?.f_to_device(tch::Device::Cpu)?)? {
            return Err(Error::non_finite("the sample", steps as u64)
                .hint("use more steps, a lower order or guidance weight, or a higher precision"));
        }
        Ok(Solved { x, nfe: counted.calls(), steps })
    }
}

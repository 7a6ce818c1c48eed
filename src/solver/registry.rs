//! All registered solvers with the orders they claim, and the measurement of those orders.
//!
//! The oracle is a one-dimensional Gaussian mixture. In one dimension the probability-flow ODE is
//! monotone, so its exact solution keeps quantiles: `F_t(x_t) = F_T(x_T)`. The order of an ODE solver is
//! the slope of its error under halving of the steps. A stochastic solver on Gaussian data is linear in
//! the start and in every draw, so the variance of its result follows exactly from its response to each
//! of them, without Monte Carlo: its weak order is the slope of the error of that variance.

use tch::{Kind, Tensor};

use super::{
    Budget, Form, GridKind, GridSpec, Method, SolverName, SolverSpec, SolverType, Tableau, Terminal, Variant,
    Warmup, plan,
};
use crate::denoiser::{Mixture, Prediction};
use crate::error::Result;
use crate::math::normal_cdf;
use crate::net::Cond;
use crate::noise::Noise;
use crate::process::{Point, ProcessName};

/// In what sense a solver converges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Convergence {
    /// To the solution of the probability-flow ODE.
    Ode,
    /// In distribution, to that of the reverse SDE.
    Weak,
}

/// A solver variant and what it claims.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Its name, with what tells it from its siblings.
    pub label: &'static str,
    /// Its settings.
    pub spec: SolverSpec,
    /// The grid on which its order is measured.
    pub grid: GridKind,
    /// The order it claims.
    pub order: f64,
    /// In what sense.
    pub convergence: Convergence,
}

/// A measured order.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Measured {
    /// The solver variant.
    pub label: &'static str,
    /// The process it ran on.
    pub process: ProcessName,
    /// In what sense the order is meant.
    pub convergence: Convergence,
    /// The order it claims.
    pub claimed: f64,
    /// The order measured.
    pub measured: f64,
    /// Root mean square error of the finer run.
    pub error: f64,
}

impl Measured {
    /// Whether the claim holds: the slope is within 0.3 of the order.
    #[must_use]
    pub fn holds(&self) -> bool {
        (self.measured - self.claimed).abs() < 0.3
    }
}

/// Steps of the coarser run of a measurement: enough to be in the asymptotic range, few enough to be above
/// rounding.
pub const SELFTEST_STEPS: usize = 256;

/// Every solver variant with fixed steps.
#[must_use]
pub fn registered() -> Vec<Registered> {
    use Convergence::{Ode, Weak};
    use GridKind::{Karras, Logsnr, Uniform};
    use SolverName::{
        Ddim, Ddpm, Deis, Dpm, DpmPp, DpmPpSde, Edm, Euler, EulerMaruyama, Heun, Ipndm, Kdpm2, Lms, Pndm,
        ReverseDiffusion, SdeDpmPp, Unipc,
    };
    let new = SolverSpec::new;
    let order = |name, order| SolverSpec { order: Some(order), ..new(name) };
    let dpm = |name, k, method, kind| SolverSpec {
        method: Some(method),
        solver_type: Some(kind),
        ..order(name, k)
    };
    let deis = |variant, k| SolverSpec { variant: Some(variant), ..order(Deis, k) };
    let rk =
        |tableau: Tableau| SolverSpec { variant: Some(Variant::Rhork), tableau: Some(tableau), ..new(Deis) };
    let unipc = |k, form, kind, corrector| SolverSpec {
        form: Some(form),
        solver_type: Some(kind),
        corrector: Some(corrector),
        lower_order_final: super::LowerOrderFinal::Off,
        ..order(Unipc, k)
    };
    let sde = |k, form, kind| SolverSpec { form: Some(form), solver_type: Some(kind), ..order(SdeDpmPp, k) };
    let (multi, single) = (Method::Multistep, Method::SinglestepFixed);
    let on_nodes = |name, k, kind| SolverSpec {
        lower_order_final: super::LowerOrderFinal::Off,
        ..dpm(name, k, Method::SinglestepNodes, kind)
    };
    let kdpm2 = |form, eta| SolverSpec { form: Some(form), eta: Some(eta), ..new(Kdpm2) };
    let (mid, heun) = (SolverType::Midpoint, SolverType::Heun);
    let list: Vec<(&'static str, SolverSpec, GridKind, f64, Convergence)> = vec![
        ("ddim", new(Ddim), Logsnr, 1.0, Ode),
        ("euler", new(Euler), Uniform, 1.0, Ode),
        ("heun", new(Heun), Uniform, 2.0, Ode),
        ("dpm 1", dpm(Dpm, 1, single, mid), Logsnr, 1.0, Ode),
        ("dpm 2 singlestep", dpm(Dpm, 2, single, mid), Logsnr, 2.0, Ode),
        ("dpm 2 singlestep taylor", dpm(Dpm, 2, single, heun), Logsnr, 2.0, Ode),
        ("dpm 3 singlestep", dpm(Dpm, 3, single, mid), Logsnr, 3.0, Ode),
        ("dpm 3 singlestep taylor", dpm(Dpm, 3, single, heun), Logsnr, 3.0, Ode),
        ("dpm 2 multistep", dpm(Dpm, 2, multi, mid), Logsnr, 2.0, Ode),
        ("dpm 2 multistep taylor", dpm(Dpm, 2, multi, heun), Logsnr, 2.0, Ode),
        ("dpm 3 multistep", dpm(Dpm, 3, multi, mid), Logsnr, 3.0, Ode),
        ("dpm++ 2 singlestep", dpm(DpmPp, 2, single, mid), Logsnr, 2.0, Ode),
        ("dpm++ 2 singlestep taylor", dpm(DpmPp, 2, single, heun), Logsnr, 2.0, Ode),
        ("dpm++ 3 singlestep", dpm(DpmPp, 3, single, mid), Logsnr, 3.0, Ode),
        ("dpm++ 3 singlestep taylor", dpm(DpmPp, 3, single, heun), Logsnr, 3.0, Ode),
        ("dpm++ 2 multistep", dpm(DpmPp, 2, multi, mid), Logsnr, 2.0, Ode),
        ("dpm++ 2 multistep heun", dpm(DpmPp, 2, multi, heun), Logsnr, 2.0, Ode),
        ("dpm++ 3 multistep", dpm(DpmPp, 3, multi, mid), Logsnr, 3.0, Ode),
        ("dpm 2 on nodes", on_nodes(Dpm, 2, heun), Logsnr, 2.0, Ode),
        ("dpm 3 on nodes", on_nodes(Dpm, 3, heun), Logsnr, 3.0, Ode),
        ("dpm++ 2 on nodes", on_nodes(DpmPp, 2, mid), Logsnr, 2.0, Ode),
        ("dpm++ 3 on nodes", on_nodes(DpmPp, 3, mid), Logsnr, 3.0, Ode),
        ("kdpm2", kdpm2(Form::Noise, 0.0), Logsnr, 2.0, Ode),
        ("kdpm2 data", kdpm2(Form::Data, 0.0), Logsnr, 2.0, Ode),
        ("deis tab 0", deis(Variant::Tab, 0), Karras, 1.0, Ode),
        ("deis tab 1", deis(Variant::Tab, 1), Karras, 2.0, Ode),
        ("deis tab 2", deis(Variant::Tab, 2), Karras, 3.0, Ode),
        ("deis tab 3", deis(Variant::Tab, 3), Karras, 4.0, Ode),
        ("deis rhoab 0", deis(Variant::Rhoab, 0), Karras, 1.0, Ode),
        ("deis rhoab 1", deis(Variant::Rhoab, 1), Karras, 2.0, Ode),
        ("deis rhoab 2", deis(Variant::Rhoab, 2), Karras, 3.0, Ode),
        ("deis rhoab 3", deis(Variant::Rhoab, 3), Karras, 4.0, Ode),
        ("deis logrho 3", deis(Variant::Logrho, 3), Logsnr, 3.0, Ode),
        ("deis rhork euler", rk(Tableau::Euler), Karras, 1.0, Ode),
        ("deis rhork heun2", rk(Tableau::Heun2), Karras, 2.0, Ode),
        ("deis rhork mid2", rk(Tableau::Mid2), Karras, 2.0, Ode),
        ("deis rhork kutta3", rk(Tableau::Kutta3), Karras, 3.0, Ode),
        ("deis rhork heun3", rk(Tableau::Heun3), Karras, 3.0, Ode),
        ("deis rhork ralston3", rk(Tableau::Ralston3), Karras, 3.0, Ode),
        ("deis rhork houwen3", rk(Tableau::Houwen3), Karras, 3.0, Ode),
        ("deis rhork ssp3", rk(Tableau::Ssp3), Karras, 3.0, Ode),
        ("deis rhork rk4", rk(Tableau::Rk4), Karras, 4.0, Ode),
        ("ipndm 1", order(Ipndm, 1), Uniform, 1.0, Ode),
        ("pndm", new(Pndm), Uniform, 2.0, Ode),
        ("plms", SolverSpec { warmup: Some(Warmup::Heun), ..new(Pndm) }, Uniform, 2.0, Ode),
        ("lms 1", order(Lms, 1), Karras, 1.0, Ode),
        ("lms 2", order(Lms, 2), Karras, 2.0, Ode),
        ("lms 3", order(Lms, 3), Karras, 3.0, Ode),
        ("lms 4", order(Lms, 4), Karras, 4.0, Ode),
        ("unip 2 bh2", unipc(2, Form::Data, SolverType::Bh2, false), Logsnr, 2.0, Ode),
        ("unip 3 bh2", unipc(3, Form::Data, SolverType::Bh2, false), Logsnr, 3.0, Ode),
        ("unipc 1 bh2", unipc(1, Form::Data, SolverType::Bh2, true), Logsnr, 2.0, Ode),
        ("unipc 2 bh1", unipc(2, Form::Data, SolverType::Bh1, true), Logsnr, 3.0, Ode),
        ("unipc 2 bh2", unipc(2, Form::Data, SolverType::Bh2, true), Logsnr, 3.0, Ode),
        ("unipc 3 bh2", unipc(3, Form::Data, SolverType::Bh2, true), Logsnr, 4.0, Ode),
        ("unipc 2 bh2 noise", unipc(2, Form::Noise, SolverType::Bh2, true), Logsnr, 3.0, Ode),
        ("edm 1", order(Edm, 1), Karras, 1.0, Ode),
        ("edm 2", order(Edm, 2), Karras, 2.0, Ode),
        ("euler-maruyama", new(EulerMaruyama), Uniform, 1.0, Weak),
        ("reverse-diffusion", new(ReverseDiffusion), Logsnr, 1.0, Weak),
        ("ddpm", new(Ddpm), Logsnr, 1.0, Weak),
        ("ddim eta 0.5", SolverSpec { eta: Some(0.5), ..new(Ddim) }, Logsnr, 1.0, Weak),
        ("kdpm2 ancestral", kdpm2(Form::Noise, 1.0), Logsnr, 2.0, Weak),
        ("kdpm2 data ancestral", kdpm2(Form::Data, 1.0), Logsnr, 2.0, Weak),
        ("dpm++-sde", new(DpmPpSde), Logsnr, 2.0, Weak),
        ("sde-dpm++ 1", sde(1, Form::Data, mid), Logsnr, 1.0, Weak),
        ("sde-dpm++ 2", sde(2, Form::Data, mid), Logsnr, 2.0, Weak),
        ("sde-dpm++ 2 heun", sde(2, Form::Data, heun), Logsnr, 2.0, Weak),
        ("sde-dpm++ 3", sde(3, Form::Data, heun), Logsnr, 2.0, Weak),
        ("sde-dpm 1", sde(1, Form::Noise, mid), Logsnr, 1.0, Weak),
        ("sde-dpm 2", sde(2, Form::Noise, mid), Logsnr, 2.0, Weak),
    ];
    list.into_iter()
        .map(|(label, spec, grid, order, convergence)| Registered { label, spec, grid, order, convergence })
        .collect()
}

/// The mixture of the measurements: weight, mean and deviation of each component.
const MIXTURE: [(f64, f64, f64); 2] = [(0.3, -1.0, 0.2), (0.7, 0.5, 0.35)];
/// Where the ODE runs start, in deviations of the state.
const STARTS: [f64; 5] = [-1.7, -0.6, 0.1, 0.7, 1.4];

/// The exact end of the probability-flow ODE of `components` (weight, mean, deviation) that stands at `x`
/// at `from`.
#[must_use]
pub fn exact_end(components: &[(f64, f64, f64)], from: &Point, to: &Point, x: f64) -> f64 {
    let cdf = |x: f64, p: &Point, upper: bool| -> f64 {
        components
            .iter()
            .map(|(w, m, s)| {
                let z = (x - p.alpha * m) / (p.alpha * s).hypot(p.sigma);
                w * normal_cdf(if upper { -z } else { z })
            })
            .sum()
    };
    // The smaller of the two tails keeps its digits.
    let upper = cdf(x, from, false) > 0.5;
    let mass = cdf(x, from, upper);
    let spread = components.iter().map(|(_, m, s)| m.abs() + 40.0 * s.hypot(to.sigma)).fold(1.0, f64::max);
    let (mut low, mut high) = (-spread, spread);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if (cdf(middle, to, upper) < mass) == upper { high = middle } else { low = middle }
    }
    0.5 * (low + high)
}

/// No noise at all.
struct Silent;

impl Noise for Silent {
    fn normal(&mut self, like: &Tensor) -> Result<Tensor> {
        Ok(like.f_zeros_like()?)
    }
}

/// Row k of the batch is 1 in draw k, else everything is 0.
struct Impulses(i64);

impl Noise for Impulses {
    fn normal(&mut self, like: &Tensor) -> Result<Tensor> {
        self.0 += 1;
        let z = like.f_zeros_like()?;
        let _ = z.f_narrow(0, self.0, 1)?.f_fill_(1.0)?;
        Ok(z)
    }
}

/// Where orders are measured on a process: inside, so that no step has an infinite half log-SNR.
fn ends(name: ProcessName, convergence: Convergence) -> GridSpec {
    let (t_max, t_min) = match name {
        ProcessName::Flow | ProcessName::TrigFlow => (Some(0.99), Some(0.02)),
        ProcessName::Edm => (Some(40.0), Some(0.02)),
        ProcessName::Ve => (None, Some(0.05)),
        _ => (None, None),
    };
    let terminal = Some(Terminal::TMin);
    match convergence {
        Convergence::Ode => GridSpec { t_max, t_min, terminal, ..GridSpec::default() },
        // Noise forgets its errors towards clean data: measure while it is as large as the data.
        Convergence::Weak => GridSpec { t_max, sigma_min: Some(0.15), terminal, ..GridSpec::default() },
    }
}

/// Where time is the noise level, equal steps in it are far from the asymptotic range.
fn grid_on(name: ProcessName, kind: GridKind) -> GridKind {
    if name == ProcessName::Edm && kind == GridKind::Uniform { GridKind::Karras } else { kind }
}

/// The error of a run of `steps` steps.
fn error_of(entry: &Registered, name: ProcessName, steps: usize) -> Result<f64> {
    let process = name.spec().build()?;
    let grid = GridSpec { kind: Some(grid_on(name, entry.grid)), ..ends(name, entry.convergence) };
    // Whole blocks only: a short one at the end is of lower order.
    let in_blocks = matches!(entry.spec.method, Some(Method::SinglestepFixed | Method::SinglestepNodes));
    let per_step = if in_blocks { entry.spec.order.unwrap_or(1) } else { 1 };
    let mut plan = plan(&entry.spec, &grid, Budget::Steps(steps * per_step), process.as_ref())?;
    let (from, to) = (plan.start_point(), *plan.points().last().unwrap_or(&plan.start_point()));
    let cond = Cond::default();
    match entry.convergence {
        Convergence::Ode => {
            let model = Mixture::one_dimensional(process, Prediction::Eps, &MIXTURE)?;
            let scale = from.alpha.hypot(from.sigma);
            let starts: Vec<f64> = STARTS.iter().map(|z| z * scale).collect();
            let x = Tensor::f_from_slice(&starts)?.f_reshape([-1, 1])?;
            let got = plan.run(&model, &cond, x, &mut Silent, &mut |_| Ok(()))?.x;
            let got = Vec::<f64>::try_from(&got.f_flatten(0, -1)?)?;
            let squares =
                got.iter().zip(&starts).map(|(x, s)| (x - exact_end(&MIXTURE, &from, &to, *s)).powi(2));
            Ok((squares.sum::<f64>() / starts.len() as f64).sqrt())
        }
        Convergence::Weak => {
            let std = 0.5;
            let variance = |p: &Point| (p.alpha * std).powi(2) + p.sigma.powi(2);
            let model = Mixture::one_dimensional(process, Prediction::Eps, &[(1.0, 0.0, std)])?;
            let draws = if entry.spec.name == SolverName::DpmPpSde { 2 } else { 1 };
            let rows = (draws * steps) as i64 + 1;
            let x = Tensor::f_zeros([rows, 1], (Kind::Double, tch::Device::Cpu))?;
            let _ = x.f_narrow(0, 0, 1)?.f_fill_(variance(&from).sqrt())?;
            let got = plan.run(&model, &cond, x, &mut Impulses(0), &mut |_| Ok(()))?.x;
            let total = got.f_square()?.f_sum(Kind::Double)?;
            Ok((f64::try_from(&total)? - variance(&to)).abs())
        }
    }
}

/// The order of `entry` on a process, from runs of `steps` and twice as many steps.
///
/// # Errors
/// Where a run fails.
pub fn measure(entry: &Registered, process: ProcessName, steps: usize) -> Result<Measured> {
    let (coarse, fine) = (error_of(entry, process, steps)?, error_of(entry, process, 2 * steps)?);
    Ok(Measured {
        label: entry.label,
        process,
        convergence: entry.convergence,
        claimed: entry.order,
        measured: (coarse / fine).log2(),
        error: fine,
    })
}

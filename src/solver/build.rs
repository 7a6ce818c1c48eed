//! The defaults of solvers, and the solvers themselves, from their settings.

use super::ancestral::Ancestral;
use super::clamped::Clamped;
use super::deis::{Deis, Extrapolation};
use super::dpm_multistep::{Lowering, Multistep};
use super::dpm_nodes::{SinglestepNodes, orders};
use super::dpm_sde::DpmSde;
use super::dpm_singlestep::{Singlestep, Stages};
use super::edm::EdmSampler;
use super::em::EulerMaruyama;
use super::euler::Euler;
use super::exponential::is_inner;
use super::kdpm2::Kdpm2;
use super::langevin::Corrected;
use super::pndm::Pndm;
use super::reverse_diffusion::ReverseDiffusion;
use super::rho_rk::RhoRk;
use super::sde_dpm::SdeDpm;
use super::spacing::Spacing;
use super::unipc::UniPc;
use super::{
    Compat, Form, GridKind, LowerOrderFinal, Method, Solver, SolverName, SolverSpec, SolverType, Tableau,
    Terminal, Variance, Variant,
};
use crate::error::{Error, Result};
use crate::process::{Family, Point, Process};

/// The number of steps a solver usually makes: for ancestral sampling of a table, one for each entry.
pub(super) fn usual_steps(spec: &SolverSpec, process: &dyn Process) -> usize {
    match spec.name {
        SolverName::Ddpm => process.table_len().unwrap_or(1000),
        SolverName::EulerMaruyama | SolverName::ReverseDiffusion => 1000,
        SolverName::Ddim | SolverName::Euler | SolverName::Heun | SolverName::Pndm => 50,
        SolverName::Edm => 18,
        SolverName::SdeDpmPp | SolverName::DpmPpSde => 25,
        _ => 20,
    }
}

/// The grid a solver is usually run on.
pub(super) fn usual_grid(spec: &SolverSpec, process: &dyn Process) -> GridKind {
    match (process.family(), spec.name) {
        (Family::Flow, _) => GridKind::Uniform,
        (_, SolverName::Dpm) => GridKind::Logsnr,
        (Family::NoiseLevel, _) | (_, SolverName::Edm) => GridKind::Karras,
        (
            _,
            SolverName::DpmPp
            | SolverName::SdeDpmPp
            | SolverName::DpmPpSde
            | SolverName::Kdpm2
            | SolverName::Unipc,
        ) => GridKind::Logsnr,
        (_, SolverName::Lms) => GridKind::Karras,
        (_, SolverName::Deis) => match spec.variant() {
            Variant::Tab => GridKind::Quadratic,
            Variant::Rhoab | Variant::Rhork => GridKind::Karras,
            Variant::Logrho => GridKind::Logsnr,
        },
        _ => GridKind::Uniform,
    }
}

/// Where a run usually ends.
pub(super) fn usual_terminal(spec: &SolverSpec, process: &dyn Process) -> Terminal {
    let reference_em = spec.name == SolverName::EulerMaruyama && spec.compat == Compat::Reference;
    match (process.family(), spec.name) {
        (Family::NoiseLevel, _) | (_, SolverName::Edm | SolverName::Ddpm | SolverName::ReverseDiffusion) => {
            Terminal::Zero
        }
        _ if reference_em => Terminal::Zero,
        _ => Terminal::TMin,
    }
}

/// Inner nodes of the steps of a singlestep run.
fn stages(
    points: &[Point],
    order: usize,
    list: Option<(Vec<usize>, Spacing)>,
    process: &dyn Process,
) -> Result<Vec<Stages>> {
    let usual = |order: usize| if order == 3 { (1.0 / 3.0, 2.0 / 3.0) } else { (0.5, 1.0) };
    (points.windows(2).enumerate())
        .map(|(i, pair)| {
            let order = match &list {
                Some((list, _)) => list.get(i).copied().unwrap_or(1),
                None => order,
            };
            let spacing = list.as_ref().map(|(_, spacing)| *spacing);
            let mut r = usual(order);
            if let Some(spacing) = spacing
                && spacing.kind != GridKind::Logsnr
                && order > 1
                && is_inner(&pair[0], &pair[1])
            {
                let h = pair[1].lambda - pair[0].lambda;
                let inner = spacing.between(process, pair[0].t, pair[1].t, order)?;
                let node = |k: usize| (process.lambda(inner[k]) - pair[0].lambda) / h;
                r = (node(1), node(2));
            }
            Ok(Stages { order, r })
        })
        .collect()
}

/// The solver of `spec` with fixed steps on `points`; `list` are the orders of a singlestep run.
pub(super) fn build(
    spec: &SolverSpec,
    points: &[Point],
    list: Option<(Vec<usize>, Spacing)>,
    process: &dyn Process,
) -> Result<Box<dyn Solver>> {
    let order = spec.order()?;
    let steps = points.len() - 1;
    let form = spec.form().unwrap_or(Form::Data);
    let kind = spec.solver_type.unwrap_or(SolverType::Midpoint);
    let all = match (spec.lower_order_final, spec.name) {
        (LowerOrderFinal::On, _) => true,
        (LowerOrderFinal::Off, _) => false,
        (LowerOrderFinal::Few, _) => steps < 15,
        (LowerOrderFinal::Auto, SolverName::Unipc) => true,
        (LowerOrderFinal::Auto, _) if spec.method == Some(Method::SinglestepNodes) => true,
        (LowerOrderFinal::Auto, SolverName::Deis) => false,
        (LowerOrderFinal::Auto, _) => steps < 10,
    };
    let lowering = Lowering { all, last: spec.euler_at_final };
    let compat = spec.compat;
    let ancestral = |eta, variance| Box::new(Ancestral { eta, variance, compat, threshold: spec.threshold });
    let multistep =
        |kind, order| Box::new(Multistep { form, kind, order, lowering, compat, past: Vec::new() });
    let solver: Box<dyn Solver> = match spec.name {
        SolverName::Ddim => ancestral(spec.eta.unwrap_or(0.0), Variance::Small),
        SolverName::Ddpm => ancestral(1.0, spec.variance.unwrap_or_default()),
        SolverName::Euler => Box::new(Euler { order: 1, compat }),
        SolverName::Heun => Box::new(Euler { order: 2, compat }),
        SolverName::EulerMaruyama => Box::new(EulerMaruyama { eta: spec.eta.unwrap_or(1.0), compat }),
        SolverName::ReverseDiffusion => Box::new(ReverseDiffusion { compat }),
        SolverName::Dpm | SolverName::DpmPp if spec.method() == Method::Multistep => multistep(kind, order),
        SolverName::Dpm | SolverName::DpmPp if spec.method() == Method::SinglestepNodes => {
            // From pure noise a step is of first order: the blocks start after it.
            let alone = usize::from(points[0].is_pure_noise());
            let mut list = vec![1; alone];
            list.extend(orders(order, steps - alone, all));
            Box::new(SinglestepNodes { form, kind, orders: list, start: None, past: Vec::new() })
        }
        SolverName::Dpm | SolverName::DpmPp => {
            Box::new(Singlestep { form, kind, stages: stages(points, order, list, process)? })
        }
        SolverName::SdeDpmPp => Box::new(SdeDpm { form, kind, order, lowering, compat, past: Vec::new() }),
        SolverName::DpmPpSde => Box::new(DpmSde { eta: spec.eta.unwrap_or(1.0) }),
        SolverName::Kdpm2 => {
            Box::new(Kdpm2 { form: spec.form().unwrap_or(Form::Noise), eta: spec.eta.unwrap_or(0.0) })
        }
        SolverName::Deis => match spec.variant() {
            Variant::Tab => Box::new(Deis::new(Extrapolation::T, order)),
            Variant::Rhoab => Box::new(Deis::new(Extrapolation::Rho, order)),
            Variant::Logrho => multistep(SolverType::Heun, order),
            Variant::Rhork => {
                let tableau = spec.tableau.or(Tableau::of_order(order)).unwrap_or(Tableau::Kutta3);
                Box::new(RhoRk(tableau))
            }
        },
        SolverName::Ipndm => Box::new(Deis::ipndm(order, compat)),
        SolverName::Pndm => {
            Box::new(Pndm { warmup: spec.warmup.unwrap_or_default(), compat, past: Vec::new() })
        }
        SolverName::Lms => Box::new(Deis::lms(order)),
        SolverName::Unipc => Box::new(UniPc {
            form,
            kind: spec.solver_type.unwrap_or(SolverType::Bh2),
            order,
            lowering,
            corrector: spec.corrector.unwrap_or(true),
            past: Vec::new(),
            last: None,
        }),
        SolverName::Edm => Box::new(EdmSampler { order, churn: spec.churn.unwrap_or_default() }),
        SolverName::Rk45 | SolverName::DpmAdaptive => {
            return Err(Error::usage(format!("{} has no grid of its own", spec.name.as_str())).at("--grid"));
        }
    };
    let solver: Box<dyn Solver> = match spec.langevin {
        Some(langevin) if langevin.steps > 0 => Box::new(Corrected { predictor: solver, langevin }),
        _ => solver,
    };
    Ok(match spec.clamp {
        Some(max) => Box::new(Clamped { inner: solver, max }),
        None => solver,
    })
}

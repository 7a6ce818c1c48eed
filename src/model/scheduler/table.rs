//! The classes on a DDPM table.
//!
//! They differ in the entries that a spacing takes, in the index that the network is told at a noise level
//! between two entries, in where a run ends and in what it starts from. DDPM, DDIM and PNDM walk on
//! entries; the DPM solvers, DEIS and UniPC on one interval more, and on rounded indices; the classes that
//! came from k-diffusion (Euler, Heun, LMS, KDPM2, DPMSolverSDE) on fractional ones.

use super::Parts;
use super::config::Config;
use super::timeless::{dpm_multistep, solver_type, terminal};
use crate::denoiser::precond::TimeInput;
use crate::denoiser::{Prediction, ThresholdSpec};
use crate::error::Result;
use crate::objective::ObjectiveSpec;
use crate::objective::schedule::TimeSampling;
use crate::objective::spec::Plain;
use crate::process::{BetaSchedule, ProcessSpec};
use crate::solver::{
    Compat, Entries, Form, GridKind, GridSpec, LowerOrderFinal, Method, SolverName, SolverSpec, SolverType,
    Start, TableRules, Terminal, TimeRule, Variance, Variant, Warmup,
};

/// The class `name` (without its ending).
pub(super) fn read(config: &Config<'_>, name: &str) -> Result<Parts> {
    config.refuse(
        &["use_flow_sigmas", "use_dynamic_shifting"],
        "noise levels of flows on a DDPM table have no counterpart here; FlowMatchEulerDiscreteScheduler has",
    )?;
    let process = process(config, name)?;
    let objective = objective(config)?;
    let (solver, grid) = match name {
        "DDPM" | "DDIM" | "PNDM" => on_entries(config, name)?,
        "DPMSolverMultistep" | "DPMSolverSinglestep" | "DEISMultistep" | "UniPCMultistep" => {
            multistep(config, name)?
        }
        name => in_sigma(config, name)?,
    };
    Ok((process, objective, solver, grid))
}

/// Small enough for no signal, large enough for a finite noise level.
const NEARLY_NO_SIGNAL: f64 = 1.0 / 16_777_216.0;

fn process(config: &Config<'_>, name: &str) -> Result<ProcessSpec> {
    let steps = config.times(1000)?;
    let latent = matches!(name, "HeunDiscrete" | "KDPM2Discrete" | "KDPM2AncestralDiscrete" | "DPMSolverSDE");
    let (first, last) = if latent { (0.00085, 0.012) } else { (1e-4, 0.02) };
    let schedules = [
        ("linear", BetaSchedule::Linear),
        ("scaled_linear", BetaSchedule::ScaledLinear),
        ("squaredcos_cap_v2", BetaSchedule::Cosine),
        ("sigmoid", BetaSchedule::Sigmoid),
        ("laplace", BetaSchedule::Laplace),
        ("exp", BetaSchedule::Exp),
    ];
    let betas = config.numbers("trained_betas")?;
    if betas.as_ref().is_some_and(|betas| betas.len() != steps) {
        return Err(config.wrong("num_train_timesteps", "it is not the number of `trained_betas`"));
    }
    let terminal_alpha_bar = match name {
        "DDPM" | "DDIM" => Some(0.0),
        "DPMSolverMultistep" | "UniPCMultistep" | "EulerDiscrete" | "EulerAncestralDiscrete" => {
            Some(NEARLY_NO_SIGNAL)
        }
        // The other classes do not know the option.
        _ => None,
    };
    let rescaled = config.flag("rescale_betas_zero_snr", false)?;
    Ok(ProcessSpec::Ddpm {
        schedule: config.choice("beta_schedule", "linear", &schedules)?,
        steps,
        beta_start: config.number("beta_start", first)?,
        beta_end: config.number("beta_end", last)?,
        betas,
        terminal_alpha_bar: terminal_alpha_bar.filter(|_| rescaled),
    })
}

fn objective(config: &Config<'_>) -> Result<ObjectiveSpec> {
    let n = u32::try_from(config.times(1000)?)
        .map_err(|_| config.wrong("num_train_timesteps", "it is too large"))?;
    let plain = Plain {
        time: Some(TimeInput::discrete(n)),
        sampling: Some(TimeSampling::Discrete { n }),
        ..Plain::default()
    };
    let types = [
        ("epsilon", Prediction::Eps),
        ("sample", Prediction::X0),
        ("original_sample", Prediction::X0),
        ("v_prediction", Prediction::V),
    ];
    Ok(match config.choice("prediction_type", "epsilon", &types)? {
        Prediction::X0 => ObjectiveSpec::X0(plain),
        Prediction::V => ObjectiveSpec::V(plain),
        _ => ObjectiveSpec::Eps(plain),
    })
}

/// The threshold of a class that has thresholding but does not clip.
pub(super) fn threshold(config: &Config<'_>) -> Result<Option<ThresholdSpec>> {
    if !config.flag("thresholding", false)? {
        return Ok(None);
    }
    let ceiling = config.number("sample_max_value", 1.0)?;
    if ceiling < 1.0 {
        return Err(config.wrong("sample_max_value", "it is below the largest magnitude of data, 1"));
    }
    let quantile = config.positive("dynamic_thresholding_ratio", 0.995)?;
    if quantile > 1.0 {
        return Err(config.wrong("dynamic_thresholding_ratio", "it must not exceed 1"));
    }
    Ok(Some(ThresholdSpec { quantile: Some(quantile), max: 1.0, ceiling: Some(ceiling) }))
}

/// Thresholding, or else clipping.
fn threshold_or_clip(config: &Config<'_>, usual: bool) -> Result<Option<ThresholdSpec>> {
    let dynamic = threshold(config)?;
    if dynamic.is_some() || !config.flag("clip_sample", usual)? {
        return Ok(dynamic);
    }
    let max = config.positive("clip_sample_range", 1.0)?;
    Ok(Some(ThresholdSpec { quantile: None, max, ceiling: None }))
}

/// `lower_order_final`: in runs of fewer than 15 steps.
pub(super) fn lower_order_final(config: &Config<'_>) -> Result<LowerOrderFinal> {
    let lower = config.flag("lower_order_final", true)?;
    Ok(if lower { LowerOrderFinal::Few } else { LowerOrderFinal::Off })
}

fn spacing(config: &Config<'_>, usual: &'static str) -> Result<GridSpec> {
    let kinds =
        [("linspace", GridKind::Linspace), ("leading", GridKind::Leading), ("trailing", GridKind::Trailing)];
    let kind = config.choice("timestep_spacing", usual, &kinds)?;
    let offset = config.whole("steps_offset", 0)?;
    Ok(GridSpec { offset: (kind == GridKind::Leading).then_some(offset), ..GridSpec::from(kind) })
}

/// DDPM, DDIM and PNDM.
fn on_entries(config: &Config<'_>, name: &str) -> Result<(SolverSpec, GridSpec)> {
    let mut grid = spacing(config, "leading")?;
    if name == "DDPM" {
        let types = [
            ("fixed_small", Variance::Small),
            ("fixed_small_log", Variance::Small),
            ("fixed_large", Variance::Large),
            ("fixed_large_log", Variance::Large),
        ];
        let variance = config.choice("variance_type", "fixed_small", &types)?;
        grid.terminal = Some(Terminal::Zero);
        let solver = SolverSpec {
            variance: Some(variance),
            compat: if variance == Variance::Large { Compat::Reference } else { Compat::None },
            threshold: threshold_or_clip(config, true)?,
            ..SolverSpec::new(SolverName::Ddpm)
        };
        return Ok((solver, grid));
    }
    let ddim = name == "DDIM";
    let to_clean = config.flag("set_alpha_to_one", ddim)?;
    grid.terminal = Some(if to_clean { Terminal::Zero } else { Terminal::SigmaMin });
    let mut solver = SolverSpec { compat: Compat::Reference, ..SolverSpec::new(SolverName::Ddim) };
    if ddim {
        solver.threshold = threshold_or_clip(config, true)?;
    } else {
        let skip = config.flag("skip_prk_steps", false)?;
        solver.name = SolverName::Pndm;
        solver.warmup = Some(if skip { Warmup::Heun } else { Warmup::RungeKutta });
    }
    Ok((solver, grid))
}

/// The kind of noise levels that is switched on, if any, and whether it came by `use_lu_lambdas`.
fn levels(config: &Config<'_>, lu: bool) -> Result<Option<(GridKind, bool)>> {
    let kinds = [
        ("use_karras_sigmas", GridKind::Karras),
        ("use_lu_lambdas", GridKind::Logsnr),
        ("use_exponential_sigmas", GridKind::Logsnr),
        ("use_beta_sigmas", GridKind::Beta),
    ];
    for (key, kind) in kinds {
        if (lu || key != "use_lu_lambdas") && config.flag(key, false)? {
            return Ok(Some((kind, key == "use_lu_lambdas")));
        }
    }
    Ok(None)
}

/// The grid `even` with the noise levels that are switched on instead, whose ends are those of `ends`.
fn with_levels(
    config: &Config<'_>,
    even: GridSpec,
    ends: GridKind,
    kind: GridKind,
    (time, inner): (TimeRule, TimeRule),
) -> Result<GridSpec> {
    // The other classes do not know these options.
    let own_ends =
        matches!(config.word("_class_name", "")?, "EulerDiscreteScheduler" | "UniPCMultistepScheduler");
    let end = |key| if own_ends { config.some_number(key) } else { Ok(None) };
    let (low, high) = (end("sigma_min")?, end("sigma_max")?);
    let given = low.is_some() || high.is_some();
    if given && (low.is_none() || high.is_none()) {
        let key = if low.is_some() { "sigma_max" } else { "sigma_min" };
        return Err(config.wrong(key, "the other end is given alone"));
    }
    if let (Some(low), Some(high)) = (low, high)
        && !(low > 0.0 && high > low)
    {
        return Err(config.wrong("sigma_min", "it must be positive and below `sigma_max`"));
    }
    let table = TableRules { entries: Some(Entries::Nodes), time, inner, ends: (!given).then_some(ends) };
    Ok(GridSpec {
        kind: Some(kind),
        offset: even.offset.filter(|_| ends == GridKind::Leading),
        sigma_min: low,
        sigma_max: high,
        table: Some(table),
        ..even
    })
}

/// The multistep DPM solvers, DPMSolverSinglestep, DEIS and UniPC.
fn multistep(config: &Config<'_>, name: &str) -> Result<(SolverSpec, GridSpec)> {
    config.refuse(
        &["lambda_min_clipped", "solver_p", "disable_corrector", "shift_terminal"],
        "it has no counterpart here",
    )?;
    if matches!(config.word("variance_type", "")?, "learned" | "learned_range") {
        return Err(config.wrong("variance_type", "networks with a learned variance are not read"));
    }
    let (single, unipc) = (name == "DPMSolverSinglestep", name == "UniPCMultistep");
    let even = if single { GridSpec::from(GridKind::Linspace) } else { spacing(config, "linspace")? };
    let terminal = if name == "DEISMultistep" { Terminal::SigmaMin } else { terminal(config)? };
    let even = GridSpec { terminal: Some(terminal), ..even };
    let grid = match levels(config, name == "DPMSolverMultistep")? {
        None => even,
        Some((kind, lu)) => {
            let rounded = kind == GridKind::Karras || lu;
            let cosine = name == "DPMSolverMultistep"
                && config.word("beta_schedule", "linear")? == "squaredcos_cap_v2";
            let time = if rounded && !cosine { TimeRule::Nearest } else { TimeRule::Floor };
            with_levels(config, even, GridKind::Linspace, kind, (time, TimeRule::Exact))?
        }
    };
    let solver = match name {
        "DEISMultistep" => deis(config)?,
        _ if unipc => unipc_solver(config)?,
        _ => dpm(config, single, terminal)?,
    };
    Ok((solver, grid))
}

fn dpm(config: &Config<'_>, single: bool, terminal: Terminal) -> Result<SolverSpec> {
    // Names of other classes stand for dpmsolver++.
    let types = [
        ("dpmsolver++", (SolverName::DpmPp, Form::Data)),
        ("deis", (SolverName::DpmPp, Form::Data)),
        ("dpmsolver", (SolverName::Dpm, Form::Noise)),
        ("sde-dpmsolver++", (SolverName::SdeDpmPp, Form::Data)),
        ("sde-dpmsolver", (SolverName::SdeDpmPp, Form::Noise)),
    ];
    let (name, form) = config.choice("algorithm_type", "dpmsolver++", &types)?;
    if form == Form::Noise && terminal == Terminal::Zero {
        return Err(config.wrong("algorithm_type", "it needs `final_sigmas_type` `sigma_min`"));
    }
    let mut solver = dpm_multistep(config, name, form == Form::Data)?;
    if name == SolverName::SdeDpmPp {
        solver.form = Some(form);
        if form == Form::Noise && (solver.order == Some(3) || solver.threshold.is_some()) {
            return Err(config.wrong("algorithm_type", "it has the orders 1 and 2, and no thresholding"));
        }
    }
    if single {
        if name == SolverName::SdeDpmPp {
            return Err(config.wrong("algorithm_type", "singlestep solvers have no noise here"));
        }
        solver.method = Some(Method::SinglestepNodes);
        solver.solver_type = Some(solver_type(config)?);
        let lower = config.flag("lower_order_final", false)? || terminal == Terminal::Zero;
        solver.lower_order_final = if lower { LowerOrderFinal::On } else { LowerOrderFinal::Off };
        solver.euler_at_final = false;
        solver.compat = if solver.threshold.is_some() { solver.compat } else { Compat::None };
    }
    Ok(solver)
}

fn deis(config: &Config<'_>) -> Result<SolverSpec> {
    let order = config.whole("solver_order", 2)?;
    if !(1..=3).contains(&order) {
        return Err(config.wrong("solver_order", "the orders are 1, 2 and 3"));
    }
    let threshold = threshold(config)?;
    if threshold.is_some() && order == 3 {
        return Err(config.wrong("thresholding", "DEIS of order 3 has none here"));
    }
    Ok(SolverSpec {
        variant: Some(Variant::Logrho),
        order: Some(order),
        lower_order_final: lower_order_final(config)?,
        compat: if threshold.is_some() { Compat::Reference } else { Compat::None },
        threshold,
        ..SolverSpec::new(SolverName::Deis)
    })
}

fn unipc_solver(config: &Config<'_>) -> Result<SolverSpec> {
    let order = config.whole("solver_order", 2)?;
    if !(1..=3).contains(&order) {
        return Err(config.wrong("solver_order", "the orders are 1, 2 and 3"));
    }
    // Names of other classes stand for bh2.
    let types = [
        ("bh1", SolverType::Bh1),
        ("bh2", SolverType::Bh2),
        ("midpoint", SolverType::Bh2),
        ("heun", SolverType::Bh2),
        ("logrho", SolverType::Bh2),
    ];
    let threshold = threshold(config)?;
    let data = config.flag("predict_x0", true)?;
    if threshold.is_some() && !data {
        return Err(config.wrong("thresholding", "UniPC has none in noise form"));
    }
    let lower = config.flag("lower_order_final", true)?;
    Ok(SolverSpec {
        order: Some(order),
        form: Some(if data { Form::Data } else { Form::Noise }),
        solver_type: Some(config.choice("solver_type", "bh2", &types)?),
        lower_order_final: if lower { LowerOrderFinal::On } else { LowerOrderFinal::Off },
        threshold,
        ..SolverSpec::new(SolverName::Unipc)
    })
}

/// The classes that came from k-diffusion: they step `y = x/alpha` in sigma.
fn in_sigma(config: &Config<'_>, name: &str) -> Result<(SolverSpec, GridSpec)> {
    let euler = name == "EulerDiscrete";
    if euler {
        config.choice("interpolation_type", "linear", &[("linear", ())])?;
        if config.word("timestep_type", "discrete")? == "continuous"
            && config.word("prediction_type", "epsilon")? == "v_prediction"
        {
            return Err(
                config.wrong("timestep_type", "times of EDM on a DDPM table have no counterpart here")
            );
        }
    }
    let even = spacing(config, "linspace")?;
    let ends = even.kind.unwrap_or(GridKind::Linspace);
    let table =
        TableRules { entries: Some(Entries::Fractional), inner: TimeRule::LogRho, ..TableRules::default() };
    let even = GridSpec {
        terminal: Some(if euler { terminal(config)? } else { Terminal::Zero }),
        // Their state starts from noise alone, but for the spacing `leading`.
        start: (ends != GridKind::Leading).then_some(Start::Noise),
        table: Some(table),
        ..even
    };
    let kdpm2 = matches!(name, "KDPM2Discrete" | "KDPM2AncestralDiscrete");
    let grid = match levels(config, false)?.filter(|_| name != "EulerAncestralDiscrete") {
        None => even,
        Some((kind, _)) => {
            let rounded = kdpm2 && kind == GridKind::Karras;
            let time = if rounded { TimeRule::Nearest } else { TimeRule::LogRho };
            with_levels(config, even, ends, kind, (time, TimeRule::LogRho))?
        }
    };
    let new = SolverSpec::new;
    let solver = match name {
        "EulerDiscrete" => SolverSpec { order: Some(1), ..new(SolverName::Edm) },
        "HeunDiscrete" => SolverSpec {
            order: Some(2),
            threshold: threshold_or_clip(config, false)?,
            ..new(SolverName::Edm)
        },
        "EulerAncestralDiscrete" => new(SolverName::Ddpm),
        "LMSDiscrete" => SolverSpec { order: Some(4), ..new(SolverName::Lms) },
        "DPMSolverSDE" => new(SolverName::DpmPpSde),
        name => {
            let eta = if name == "KDPM2AncestralDiscrete" { 1.0 } else { 0.0 };
            SolverSpec { eta: Some(eta), ..new(SolverName::Kdpm2) }
        }
    };
    Ok((solver, grid))
}

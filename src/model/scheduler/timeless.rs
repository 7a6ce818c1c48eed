//! The classes without a DDPM table: EDM, flow matching, the VE process of score_sde and iPNDM.

use super::Parts;
use super::config::Config;
use super::table::{lower_order_final, threshold};
use crate::denoiser::precond::TimeInput;
use crate::error::Result;
use crate::objective::ObjectiveSpec;
use crate::objective::spec::{Edm, Plain};
use crate::process::ProcessSpec;
use crate::solver::{
    Compat, Control, GridKind, GridSpec, Langevin, Method, SolverName, SolverSpec, SolverType, Start,
    Terminal,
};

/// EDMEuler and EDMDPMSolverMultistep: EDM's process and preconditioning.
pub(super) fn edm(config: &Config<'_>, name: &str) -> Result<Parts> {
    let (sigma_min, sigma_max) = (config.number("sigma_min", 0.002)?, config.number("sigma_max", 80.0)?);
    let sigma_data = config.positive("sigma_data", 0.5)?;
    // The opposite sign of the network's output, which EDM's own preconditioning does not have.
    config.choice("prediction_type", "epsilon", &[("epsilon", ())])?;
    let kind = config.choice(
        "sigma_schedule",
        "karras",
        &[("karras", GridKind::Karras), ("exponential", GridKind::Logsnr)],
    )?;
    let rho = config.positive("rho", 7.0)?;
    let grid = GridSpec {
        rho: (kind == GridKind::Karras).then_some(rho),
        terminal: Some(terminal(config)?),
        start: Some(Start::UnitData),
        ..GridSpec::from(kind)
    };
    let solver = if name == "EDMEuler" {
        SolverSpec { order: Some(1), ..SolverSpec::new(SolverName::Edm) }
    } else {
        let algorithm = [("dpmsolver++", SolverName::DpmPp), ("sde-dpmsolver++", SolverName::SdeDpmPp)];
        let solver = config.choice("algorithm_type", "dpmsolver++", &algorithm)?;
        dpm_multistep(config, solver, true)?
    };
    let objective = ObjectiveSpec::Edm(Edm { sigma_data, ..Edm::default() });
    Ok((ProcessSpec::Edm { sigma_min, sigma_max, sigma_data }, objective, solver, grid))
}

/// Where a run ends: `final_sigmas_type`.
pub(super) fn terminal(config: &Config<'_>) -> Result<Terminal> {
    let types = [("zero", Terminal::Zero), ("sigma_min", Terminal::SigmaMin)];
    config.choice("final_sigmas_type", "zero", &types)
}

/// The multistep DPM solver `name`. The third order has the published coefficient.
pub(super) fn dpm_multistep(config: &Config<'_>, name: SolverName, data: bool) -> Result<SolverSpec> {
    let order = config.whole("solver_order", 2)?;
    if !(1..=3).contains(&order) {
        return Err(config.wrong("solver_order", "the orders are 1, 2 and 3"));
    }
    let threshold = threshold(config)?;
    let published = order == 3 || (threshold.is_some() && !data);
    Ok(SolverSpec {
        order: Some(order),
        method: (name != SolverName::SdeDpmPp).then_some(Method::Multistep),
        solver_type: Some(solver_type(config)?),
        lower_order_final: lower_order_final(config)?,
        euler_at_final: config.flag("euler_at_final", false)?,
        compat: if published { Compat::Reference } else { Compat::None },
        threshold,
        ..SolverSpec::new(name)
    })
}

/// Midpoint or heun; names that belong to other classes stand for midpoint.
pub(super) fn solver_type(config: &Config<'_>) -> Result<SolverType> {
    let types = [
        ("midpoint", SolverType::Midpoint),
        ("heun", SolverType::Heun),
        ("logrho", SolverType::Midpoint),
        ("bh1", SolverType::Midpoint),
        ("bh2", SolverType::Midpoint),
    ];
    config.choice("solver_type", "midpoint", &types)
}

/// FlowMatchEulerDiscrete and FlowMatchHeunDiscrete: the linear flow.
pub(super) fn flow(config: &Config<'_>, name: &str) -> Result<Parts> {
    config.refuse(
        &["use_dynamic_shifting", "shift_terminal", "invert_sigmas", "stochastic_sampling"],
        "flows are sampled here by the ODE with one shift",
    )?;
    config.refuse(
        &["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"],
        "flows are sampled here on the shifted even grid",
    )?;
    let steps = config.times(1000)?;
    let shift = config.positive("shift", 1.0)?;
    let steps = steps as f64;
    // The last time of the grid before its shift is a shifted one already.
    let last = 1.0 / steps;
    let grid = GridSpec {
        t_max: Some(1.0),
        t_min: Some(shift * last / (1.0 - last + shift * last)),
        shift: Some(shift),
        terminal: Some(Terminal::Zero),
        ..GridSpec::from(GridKind::Uniform)
    };
    let solver = if name == "FlowMatchEulerDiscrete" { SolverName::Euler } else { SolverName::Heun };
    let time = TimeInput::Linear { scale: steps, shift: 0.0 };
    let objective = ObjectiveSpec::Flow(Plain { time: Some(time), ..Plain::default() });
    Ok((ProcessSpec::Flow {}, objective, SolverSpec::new(solver), grid))
}

/// Options that only a DDPM table has.
const TABLE: [&str; 6] =
    ["beta_schedule", "beta_start", "beta_end", "prediction_type", "timestep_spacing", "steps_offset"];

/// IPNDM: networks of v on the trigonometric path, told `2/pi atan2(sigma, alpha)`, at `sigma = sin^2(pi s/2)`.
///
/// A file that has kept the options of a DDPM table belongs to a network that is not told these times.
pub(super) fn ipndm(config: &Config<'_>, compat: Compat) -> Result<Parts> {
    config.refuse(&["trained_betas"], "iPNDM is run here on its own schedule")?;
    if compat != Compat::Reference
        && let Some(key) = TABLE.iter().find(|key| config.has(key))
    {
        return Err(config
            .wrong(
                key,
                "IPNDMScheduler has a schedule of its own, at whose times no network of a table is trained",
            )
            .hint(
                "name another scheduler in the file (`--solver ipndm` has the method), \
                 or run it all the same with --compat reference",
            ));
    }
    let grid = GridSpec {
        t_max: Some(1.0),
        t_min: Some(0.0),
        terminal: Some(Terminal::TMin),
        ..GridSpec::from(GridKind::Crash)
    };
    let solver = SolverSpec { compat: Compat::Reference, ..SolverSpec::new(SolverName::Ipndm) };
    let time = TimeInput::Linear { scale: 1.0, shift: 0.0 };
    let objective = ObjectiveSpec::V(Plain { time: Some(time), ..Plain::default() });
    Ok((ProcessSpec::TrigFlow {}, objective, solver, grid))
}

/// ScoreSdeVe: reverse diffusion with Langevin corrections on the geometric levels of VE.
pub(super) fn ve(config: &Config<'_>) -> Result<Parts> {
    let (sigma_min, sigma_max) = (config.number("sigma_min", 0.01)?, config.number("sigma_max", 1348.0)?);
    let steps = config.whole("correct_steps", 1)?;
    if steps > Langevin::MOST {
        return Err(config.wrong("correct_steps", "it is too many"));
    }
    let corrections = Langevin { steps, snr: config.positive("snr", 0.15)?, control: Control::Batch };
    let solver = SolverSpec {
        langevin: (corrections.steps > 0).then_some(corrections),
        ..SolverSpec::new(SolverName::ReverseDiffusion)
    };
    let grid = GridSpec {
        t_max: Some(1.0),
        t_min: Some(0.0),
        terminal: Some(Terminal::Zero),
        ..GridSpec::from(GridKind::Uniform)
    };
    // The network divides by sigma inside, and takes the logarithm of the sigma that it is told.
    let objective =
        ObjectiveSpec::Score(Plain { time: Some(TimeInput::Sigma), raw: true, ..Plain::default() });
    Ok((ProcessSpec::Ve { sigma_min, sigma_max }, objective, solver, grid))
}

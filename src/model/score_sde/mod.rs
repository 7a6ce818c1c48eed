//! Checkpoints of score_sde (Song et al. 2021, PyTorch): `{model, ema {shadow_params}, optimizer, step}`.
//!
//! `model` holds `module.all_modules.{k}.*`, k running over one flat list in the order of construction, and the
//! buffer `sigmas`. The averages are a list without names, in the order of the parameters that are trained. The
//! options of the network are not in the file: [`infer`] reads them off the names and shapes, and [`plan`] lists
//! every tensor that a network of these options has, in their order, with its place in this project's networks.
//!
//! The networks of variance-exploding models see images in [0, 1] as `2x - 1`. Here images are in [-1, 1], so
//! their noise levels are twice those of the file: `sigma' = 2 sigma`, which the network is told as `ln(sigma'/2)`.

mod infer;
mod plan;

use std::collections::{BTreeMap, BTreeSet};

use tch::Tensor;

use super::foreign::{card, no_such_weights};
use super::load::Loaded;
use super::open::OpenOptions;
use super::raw::ProcessEntry;
use super::source::Source;
use crate::denoiser::Prediction;
use crate::denoiser::precond::{Precond, TimeInput};
use crate::error::{Error, Result};
use crate::io::bytes::tensor_to_f64;
use crate::net::spec::NetSpec;
use crate::process::{ProcessName, ProcessSpec};
use infer::{Design, Kind};
use plan::{Item, plan};

/// Prefixes under which the modules may be: DataParallel adds one, and a bare state dict has no `model`.
const PLACES: [&str; 4] =
    ["model.module.all_modules.", "model.all_modules.", "module.all_modules.", "all_modules."];

/// The prefix of the modules' names.
pub(super) fn place(source: &Source) -> Option<&'static str> {
    PLACES.into_iter().find(|place| source.has(place))
}

/// Reads the model.
pub(super) fn read(source: &Source, options: &OpenOptions) -> Result<Loaded> {
    let place = place(source).ok_or_else(|| Error::model("the checkpoint holds no modules"))?;
    let design = infer::design(source, place)?;
    let mut notes = Vec::new();
    let shape = shape(&design, options, &mut notes)?;
    let items = plan(&design);
    check(source, place, &items)?;
    let averaged = source.has("ema.shadow_params.");
    let raw = match options.weights.as_deref() {
        Some("raw") => true,
        Some("ema") if averaged => false,
        None => {
            if !averaged {
                notes.push("the file holds no averaged weights: the raw ones are used".to_owned());
            }
            !averaged
        }
        Some(other) => {
            return Err(no_such_weights(other, if averaged { &["ema", "raw"] } else { &["raw"] }));
        }
    };
    let tensors = gather(source, place, &items, raw)?;
    let (process, precond) = process(source, place, &design, options, &mut notes)?;
    let net = match design.kind {
        Kind::Ddpm => NetSpec::UNet2D(design.unet2d()),
        _ => NetSpec::SongUNet(design.song(shape[1]).into()),
    };
    let side = shape[1];
    let mut card = card(net, process, precond.into(), (shape, 0), (!raw).then_some("ema"));
    card.trained.steps = source.int("step").and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    Ok(Loaded::of_file(source.path(), card, plan::to_own(&design, side, tensors)?, notes))
}

/// Shape of a sample. The file does not say it: published networks have their first attention at 16 x 16.
fn shape(design: &Design, options: &OpenOptions, notes: &mut Vec<String>) -> Result<Vec<i64>> {
    let levels = design.mult.len();
    let side = match (&options.raw.shape, design.attention.iter().position(|&on| on)) {
        (Some(shape), _) if shape.len() == 3 && shape[0] == design.channels && shape[1] == shape[2] => {
            shape[1]
        }
        (Some(shape), _) => {
            return Err(Error::usage(format!("samples of this network cannot have shape {shape:?}"))
                .at("--shape")
                .why(format!("they are square and have {} channels", design.channels)));
        }
        (None, Some(level)) => 16 << level,
        (None, None) => 32.max(1 << (levels - 1)),
    };
    if options.raw.shape.is_none() {
        notes.push(format!("images of {side}x{side} are assumed (--shape says otherwise)"));
    }
    if side % (1 << (levels - 1)) != 0 {
        return Err(Error::model("the network is not defined")
            .why(format!("images of {side}x{side} cannot be halved {} times", levels - 1)));
    }
    Ok(vec![design.channels, side, side])
}

/// Every tensor that the design has must be there, with its shape, and no other.
fn check(source: &Source, place: &str, items: &[Item]) -> Result<()> {
    let known: BTreeSet<String> = items.iter().map(|item| format!("{place}{}", item.name)).collect();
    let missing: Vec<&String> = known.iter().filter(|name| source.shape(name).is_none()).collect();
    let unused: Vec<&String> =
        source.names().iter().filter(|name| name.starts_with(place) && !known.contains(*name)).collect();
    if !missing.is_empty() || !unused.is_empty() {
        let first = |list: &[&String], what: &str| {
            list.first().map(|name| format!("{} {what}, first `{name}`", list.len()))
        };
        let why: Vec<String> =
            [first(&missing, "missing"), first(&unused, "unknown")].into_iter().flatten().collect();
        return Err(Error::model("the weights are those of no score_sde network").why(why.join("; ")));
    }
    for item in items {
        let name = format!("{place}{}", item.name);
        let found = source.shape(&name).unwrap_or_default();
        if found != item.shape {
            return Err(Error::shape(&name, &item.shape, found));
        }
    }
    Ok(())
}

/// The tensors by the names of the modules: raw, or from the list of averages.
fn gather(source: &Source, place: &str, items: &[Item], raw: bool) -> Result<BTreeMap<String, Tensor>> {
    let mut out = BTreeMap::new();
    let mut next = 0;
    for item in items {
        let name = if raw || item.frozen {
            format!("{place}{}", item.name)
        } else {
            next += 1;
            format!("ema.shadow_params.{}", next - 1)
        };
        let found = source.shape(&name).ok_or_else(|| {
            Error::model(format!("no tensor `{name}`")).why(format!("it is the average of `{}`", item.name))
        })?;
        if found != item.shape {
            return Err(Error::shape(&name, &item.shape, found)
                .hint(format!("it must be the average of `{}`", item.name)));
        }
        out.insert(item.name.clone(), source.tensor(&name)?);
    }
    let surplus = |name: &&String| {
        let number =
            name.strip_prefix("ema.shadow_params.").map(|rest| rest.parse::<usize>().unwrap_or(next));
        number.is_some_and(|number| number >= next)
    };
    if let (false, Some(name)) = (raw, source.names().iter().find(surplus)) {
        return Err(Error::model(format!("tensor `{name}` is the average of nothing"))
            .why(format!("the network has {next} trained tensors")));
    }
    Ok(out)
}

/// The process and what the output means: variance exploding for the networks that were published for it, else
/// variance preserving; the caller may say otherwise.
fn process(
    source: &Source,
    place: &str,
    design: &Design,
    options: &OpenOptions,
    notes: &mut Vec<String>,
) -> Result<(ProcessSpec, Precond)> {
    let exploding = design.fourier || design.kind == Kind::Ncsnpp;
    let name =
        options.raw.process_name().unwrap_or(if exploding { ProcessName::Ve } else { ProcessName::Vp });
    if options.raw.process.is_none() {
        let other = if exploding { "vp or subvp" } else { "subvp, ve or ddpm" };
        notes.push(format!("it is taken as a model of {} (--process {other})", label(name)));
    }
    let plain = |time, factor| Precond::Plain { prediction: Prediction::Eps, time, factor };
    let usual = TimeInput::Linear { scale: 999.0, shift: 0.0 };
    let given = options.raw.process_spec();
    Ok(match name {
        ProcessName::Vp | ProcessName::Subvp => (given.unwrap_or_else(|| name.spec()), plain(usual, 1.0)),
        ProcessName::Ddpm => {
            let process = given.unwrap_or_else(|| name.spec());
            let steps = if let ProcessSpec::Ddpm { steps, .. } = process { steps } else { 0 };
            let time = TimeInput::discrete(u32::try_from(steps).unwrap_or(u32::MAX));
            (process, plain(time, 1.0))
        }
        ProcessName::Ve => {
            let (low, high, levels) = sigmas(source, place)?;
            let own = ProcessSpec::Ve { sigma_min: 2.0 * low, sigma_max: 2.0 * high };
            // A bare name means the levels of the file; settings are those of images in [-1, 1].
            let named = matches!(options.raw.process, None | Some(ProcessEntry::Name(_)));
            let process = if named { own } else { given.unwrap_or(own) };
            if design.fourier {
                (process, Precond::Ve)
            } else {
                // Trained on the indices of its levels, which fall.
                let scale = levels - 1.0;
                (process, plain(TimeInput::Linear { scale: -scale, shift: scale }, -1.0))
            }
        }
        _ => {
            return Err(Error::usage("this network is of another process")
                .at("--process")
                .why("score_sde's networks are of vp, subvp, ve or ddpm"));
        }
    })
}

/// What people call the process.
fn label(name: ProcessName) -> &'static str {
    match name {
        ProcessName::Ve => "ve",
        _ => "vp",
    }
}

/// The lowest and highest noise level in the file, and how many there are.
fn sigmas(source: &Source, place: &str) -> Result<(f64, f64, f64)> {
    let name = format!("{}sigmas", place.trim_end_matches("all_modules."));
    if source.shape(&name).is_none() {
        // The usual levels of score_sde's configurations for CIFAR-10.
        return Ok((0.01, 50.0, 1000.0));
    }
    let levels = tensor_to_f64(&source.tensor(&name)?)?;
    let low = levels.iter().copied().fold(f64::INFINITY, f64::min);
    let high = levels.iter().copied().fold(0.0, f64::max);
    if low > 0.0 && high > low && high.is_finite() {
        #[allow(clippy::cast_precision_loss)]
        return Ok((low, high, levels.len() as f64));
    }
    Err(Error::model(format!("tensor `{name}`")).why(format!("its levels run from {low} to {high}")))
}

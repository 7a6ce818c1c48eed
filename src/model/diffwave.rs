//! Checkpoints of DiffWave: `N.pkl` of albertfgu/diffwave-sashimi and philsyn/DiffWave-Vocoder (`model_state_dict`
//! and `optimizer_state_dict`), with the convolutional network or SaShiMi.
//!
//! A file holds neither the table of betas nor the length of a clip. The table is read off the folder's name
//! (`..._T200_betaT0.02`), or is the published one of the network's size; whatever is assumed is noted. The two
//! projects differ in one residual sum and in no name: the vocoder's networks have as many skip as residual channels.

use super::foreign::{card, no_such_weights};
use super::load::Loaded;
use super::open::OpenOptions;
use super::raw::ProcessEntry;
use super::source::Source;
use crate::denoiser::Prediction;
use crate::denoiser::precond::{Precond, TimeInput};
use crate::error::{Error, Result};
use crate::net::diffwave::{DiffWaveConfig, MelConfig, StepTable};
use crate::net::spec::NetSpec;
use crate::process::{BetaSchedule, ProcessSpec};
use crate::recipe::SampleSpec;
use crate::solver::{SolverName, SolverSpec};

/// Where the weights may be.
const PLACES: [&str; 2] = ["model_state_dict.", ""];

/// The prefix of the convolutional network's names.
pub(super) fn place(source: &Source) -> Option<&'static str> {
    PLACES.into_iter().find(|place| {
        let has = |name: &str| source.shape(&format!("{place}{name}")).is_some();
        // Two of its names: one may be the fault of a damaged file.
        has("residual_layer.fc_t1.weight") && has("init_conv.0.conv.weight_v")
            || has("residual_layer.fc_t2.weight") && has("final_conv.2.conv.weight")
    })
}

/// Reads the model.
pub(super) fn read(source: &Source, options: &OpenOptions) -> Result<Loaded> {
    let place = place(source).ok_or_else(|| Error::model("the checkpoint holds no DiffWave"))?;
    only_raw(options)?;
    let mut notes = Vec::new();
    let (config, channels) = network(source, place, &mut notes)?;
    let small = config.res_channels <= 64;
    let process = table(source, options, (config.mel.is_some(), small), &mut notes)?;
    let shape = shape(options, channels, 16_000, &mut notes)?;
    let mut card = card(NetSpec::DiffWave(config), process.clone(), eps(&process).into(), (shape, 0), None);
    card.sample = ancestral(&process, None);
    card.trained.steps = steps_in_name(source);
    Ok(Loaded::of_file(source.path(), card, source.below(place)?, notes))
}

fn network(source: &Source, place: &str, notes: &mut Vec<String>) -> Result<(DiffWaveConfig, i64)> {
    let shape = |name: &str| sized(source, &format!("{place}{name}"), 3);
    let first = shape("init_conv.0.conv.weight_v")?;
    let (res_channels, channels) = (first[0], first[1]);
    let skip_channels = shape("final_conv.0.conv.weight_v")?[0];
    let layers = count(source, &format!("{place}residual_layer.residual_blocks."))?;
    let mel = mel(source, &format!("{place}residual_layer.residual_blocks.0."))?;
    let dilation_cycle = match layers {
        36 => 12,
        30 => 10,
        _ => {
            notes.push("dilations up to 2^9 are assumed: the file does not say".to_owned());
            10
        }
    };
    let residual_with_step = mel.is_some() && skip_channels == res_channels && res_channels <= 128;
    if mel.is_some() {
        let by = if residual_with_step { "DiffWave-Vocoder" } else { "diffwave-sashimi" };
        notes.push(format!("it is taken as a vocoder of {by}, by its number of channels"));
    }
    let steps = StepTable::default();
    let config = DiffWaveConfig {
        res_channels,
        skip_channels,
        layers,
        dilation_cycle,
        mel,
        steps,
        weight_norm: true,
        residual_with_step,
    };
    Ok((config, channels))
}

/// The shape of the tensor `name`, which must be there with `dims` dimensions.
pub(super) fn sized<'a>(source: &'a Source, name: &str, dims: usize) -> Result<&'a [i64]> {
    let found =
        source.shape(name).ok_or_else(|| Error::model(format!("the network has no tensor `{name}`")))?;
    if found.len() == dims && found.iter().all(|&size| size > 0) {
        return Ok(found);
    }
    Err(Error::model(format!("tensor `{name}`")).why(format!("it has shape {found:?}")))
}

/// How many modules there are in the list `start`.
pub(super) fn count(source: &Source, start: &str) -> Result<i64> {
    let numbers = source.names().iter().filter_map(|name| name.strip_prefix(start)?.split('.').next());
    let last = numbers.filter_map(|text| text.parse::<i64>().ok()).max();
    match last {
        Some(last) if usize::try_from(last).is_ok_and(|last| last < source.names().len()) => Ok(last + 1),
        _ => Err(Error::model("the network has no consecutive layers").at(start.trim_end_matches('.'))),
    }
}

/// The conditioner of the block `start`, if it has one.
pub(super) fn mel(source: &Source, start: &str) -> Result<Option<MelConfig>> {
    let mix = format!("{start}mel_conv.conv.weight_v");
    let stages = format!("{start}upsample_conv2d.");
    if !source.has(&stages) && source.shape(&mix).is_none() {
        return Ok(None);
    }
    let bands = sized(source, &mix, 3)?[1];
    let upsample = (0..count(source, &stages)?)
        .map(|i| Ok(sized(source, &format!("{stages}{i}.weight_v"), 4)?[3] / 2))
        .collect::<Result<_>>()?;
    Ok(Some(MelConfig { bands, upsample, ..MelConfig::default() }))
}

/// The file holds one set of weights.
pub(super) fn only_raw(options: &OpenOptions) -> Result<()> {
    match options.weights.as_deref() {
        None | Some("raw") => Ok(()),
        Some(other) => Err(no_such_weights(other, &["raw"])),
    }
}

/// A linear table of `steps` betas.
pub(super) fn linear(steps: usize, beta_end: f64) -> ProcessSpec {
    ProcessSpec::Ddpm {
        schedule: BetaSchedule::Linear,
        steps,
        beta_start: 1e-4,
        beta_end,
        betas: None,
        terminal_alpha_bar: None,
    }
}

/// The table that is said by hand, if it is.
pub(super) fn said(options: &OpenOptions) -> Result<Option<ProcessSpec>> {
    match &options.raw.process {
        Some(ProcessEntry::Spec(spec @ ProcessSpec::Ddpm { .. })) => Ok(Some(spec.clone())),
        // The name alone says nothing of the table.
        None | Some(ProcessEntry::Name(crate::process::ProcessName::Ddpm)) => Ok(None),
        Some(_) => Err(Error::usage("this network is of another process")
            .at("--process")
            .why("a DiffWave is trained on a DDPM table")),
    }
}

/// The table of betas: said by hand, in the name of a folder, or the published one.
pub(super) fn table(
    source: &Source,
    options: &OpenOptions,
    (vocoder, small): (bool, bool),
    notes: &mut Vec<String>,
) -> Result<ProcessSpec> {
    if let Some(spec) = said(options)? {
        return Ok(spec);
    }
    let named = source.path().iter().rev().find_map(|part| {
        let (_, rest) = part.to_str()?.split_once("_T")?;
        let (steps, rest) = rest.split_once("_betaT")?;
        let end = rest.split('_').next()?;
        Some((steps.parse::<usize>().ok()?, end.parse::<f64>().ok()?))
    });
    if let Some((steps, end)) = named {
        return Ok(linear(steps, end));
    }
    let (steps, end) = if vocoder && small { (50, 0.05) } else { (200, 0.02) };
    notes.push(format!(
        "a table of {steps} betas up to {end} is assumed (\"process\" in a model.json beside the file says otherwise)"
    ));
    Ok(linear(steps, end))
}

/// Noise prediction, told the index in the table.
pub(super) fn eps(process: &ProcessSpec) -> Precond {
    let steps = match process {
        ProcessSpec::Ddpm { steps, .. } => u32::try_from(*steps).unwrap_or(u32::MAX),
        _ => 1,
    };
    Precond::Plain { prediction: Prediction::Eps, time: TimeInput::discrete(steps), factor: 1.0 }
}

/// Sampling as it is published: ancestral, every entry of the table, clamped where that is said.
pub(super) fn ancestral(process: &ProcessSpec, clamp: Option<f64>) -> SampleSpec {
    let steps = match process {
        ProcessSpec::Ddpm { steps, .. } => Some(*steps),
        _ => None,
    };
    let solver = SolverSpec { clamp, ..SolverSpec::new(SolverName::Ddpm) };
    SampleSpec { solver: Some(solver), steps, ..SampleSpec::default() }
}

/// The shape of a waveform; the file does not hold its length.
pub(super) fn shape(
    options: &OpenOptions,
    channels: i64,
    length: i64,
    notes: &mut Vec<String>,
) -> Result<Vec<i64>> {
    match options.raw.shape.as_deref() {
        None => {
            notes.push(format!("waveforms of {length} samples are assumed (--shape says otherwise)"));
            Ok(vec![channels, length])
        }
        Some(&[c, length]) if c == channels && length >= 1 => Ok(vec![c, length]),
        Some(shape) => Err(Error::usage(format!("waveforms of this network cannot have shape {shape:?}"))
            .at("--shape")
            .why(format!("they have {channels} channels, as in {channels},{length}"))),
    }
}

/// The number in `N.pkl`.
pub(super) fn steps_in_name(source: &Source) -> u64 {
    let stem = source.path().file_stem().and_then(|stem| stem.to_str());
    stem.and_then(|stem| stem.parse().ok()).unwrap_or(0)
}

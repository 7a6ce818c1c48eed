//! Checkpoints of lmnt-com/diffwave: `weights.pt` with `step`, `model`, `optimizer`, `params` and `scaler`.
//!
//! The network is DiffWave's with other names: nothing is weight-normalised, the two 1x1 convolutions behind a gate
//! are one, the halves of a gate are swapped, and the spectrogram is upsampled once. The sinusoids of a step are the
//! paper's, in f32. Its sampler clamps the waveform after every step.

use std::collections::BTreeMap;

use tch::Tensor;

use super::diffwave::{ancestral, count, eps, linear, only_raw, said, shape, sized};
use super::foreign::card;
use super::load::Loaded;
use super::open::OpenOptions;
use super::source::Source;
use crate::error::{Error, Result};
use crate::net::diffwave::{DiffWaveConfig, MelConfig, MelFeatures, StepTable};
use crate::net::spec::NetSpec;
use crate::process::ProcessSpec;

/// Where the weights may be.
const PLACES: [&str; 2] = ["model.", ""];

/// The prefix of the names.
pub(super) fn place(source: &Source) -> Option<&'static str> {
    PLACES.into_iter().find(|place| {
        let has = |name: &str| source.shape(&format!("{place}{name}")).is_some();
        // Two of its names: one may be the fault of a damaged file.
        has("diffusion_embedding.projection1.weight") && has("input_projection.weight")
            || has("diffusion_embedding.projection2.weight") && has("skip_projection.weight")
    })
}

/// Reads the model.
pub(super) fn read(source: &Source, options: &OpenOptions) -> Result<Loaded> {
    let place = place(source).ok_or_else(|| Error::model("the checkpoint holds no DiffWave"))?;
    only_raw(options)?;
    let mut notes = Vec::new();
    let process = table(source, options, &mut notes)?;
    let ProcessSpec::Ddpm { steps, .. } = process else {
        return Err(Error::model("a DiffWave is trained on a DDPM table"));
    };
    let (config, channels) = network(source, place, steps, &mut notes)?;
    let length = match (&config.mel, source.int("params.audio_len"), source.int("params.crop_mel_frames")) {
        (None, Some(length), _) if length >= 1 => length,
        (Some(mel), _, frames) => mel.hop() * frames.filter(|n| (1..=1_000_000).contains(n)).unwrap_or(62),
        _ => 22_050 * 5,
    };
    let shape = match &options.raw.shape {
        None => vec![channels, length],
        Some(_) => shape(options, channels, length, &mut notes)?,
    };
    let tensors = renamed(source, place, config.layers)?;
    let mut card = card(NetSpec::DiffWave(config), process.clone(), eps(&process).into(), (shape, 0), None);
    card.sample = ancestral(&process, Some(1.0));
    card.trained.steps = source.int("step").and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    Ok(Loaded::of_file(source.path(), card, tensors, notes))
}

/// The table of betas: said by hand, that of the file, or the published one.
fn table(source: &Source, options: &OpenOptions, notes: &mut Vec<String>) -> Result<ProcessSpec> {
    if let Some(spec) = said(options)? {
        return Ok(spec);
    }
    let Some(betas) = source.numbers("params.noise_schedule").filter(|betas| betas.len() >= 2) else {
        notes.push("a table of 50 betas up to 0.05 is assumed: the file holds no `params`".to_owned());
        return Ok(linear(50, 0.05));
    };
    let (steps, first, last) = (betas.len(), betas[0], betas[betas.len() - 1]);
    #[allow(clippy::cast_precision_loss)]
    let even = |i: usize| first + (last - first) * i as f64 / (steps - 1) as f64;
    let is_linear = betas.iter().enumerate().all(|(i, beta)| (beta - even(i)).abs() < 1e-12);
    let mut spec = linear(steps, last);
    if let ProcessSpec::Ddpm { beta_start, betas: list, .. } = &mut spec {
        *beta_start = first;
        *list = (!is_linear).then_some(betas);
    }
    // Refuses betas that are none, before they name the file's fault.
    spec.build().map_err(|e| e.kinded(crate::error::Kind::Model).at("params.noise_schedule"))?;
    Ok(spec)
}

fn network(
    source: &Source,
    place: &str,
    steps: usize,
    notes: &mut Vec<String>,
) -> Result<(DiffWaveConfig, i64)> {
    let shape = |name: &str, dims| sized(source, &format!("{place}{name}"), dims);
    let first = shape("input_projection.weight", 3)?;
    let (width, channels) = (first[0], first[1]);
    let layers = count(source, &format!("{place}residual_layers."))?;
    let dilation_cycle =
        source.int("params.dilation_cycle_length").filter(|n| (1..=30).contains(n)).unwrap_or_else(|| {
            notes.push("dilations up to 2^9 are assumed: the file holds no `params`".to_owned());
            10
        });
    let mel = if source.has(&format!("{place}spectrogram_upsampler.")) {
        let bands = shape("residual_layers.0.conditioner_projection.weight", 3)?[1];
        let stage = |i: i64| -> Result<i64> {
            Ok(shape(&format!("spectrogram_upsampler.conv{i}.weight"), 4)?[3] / 2)
        };
        Some(MelConfig {
            bands,
            upsample: vec![stage(1)?, stage(2)?],
            shared: true,
            features: MelFeatures::Lmnt,
        })
    } else {
        None
    };
    let config = DiffWaveConfig {
        res_channels: width,
        skip_channels: width,
        layers,
        dilation_cycle,
        mel,
        steps: StepTable::Pow10 { steps: i64::try_from(steps).unwrap_or(i64::MAX) },
        weight_norm: false,
        residual_with_step: false,
    };
    Ok((config, channels))
}

/// The tensors by the names of this project's network.
fn renamed(source: &Source, place: &str, layers: i64) -> Result<BTreeMap<String, Tensor>> {
    let mut out = BTreeMap::new();
    for (name, tensor) in source.below(place)? {
        let Some((module, kind @ ("weight" | "bias"))) = name.rsplit_once('.') else {
            out.insert(name, tensor);
            continue;
        };
        let mut put = |to: &str, tensor: Tensor| drop(out.insert(format!("{to}.{kind}"), tensor));
        match module {
            "input_projection" => put("init_conv.0.conv", tensor),
            "diffusion_embedding.projection1" => put("residual_layer.fc_t1", tensor),
            "diffusion_embedding.projection2" => put("residual_layer.fc_t2", tensor),
            "spectrogram_upsampler.conv1" => put("residual_layer.upsample_conv2d.0", tensor),
            "spectrogram_upsampler.conv2" => put("residual_layer.upsample_conv2d.1", tensor),
            "skip_projection" => put("final_conv.0.conv", tensor),
            "output_projection" => put("final_conv.2.conv", tensor),
            _ => {
                let inner = module.strip_prefix("residual_layers.").and_then(|rest| rest.split_once('.'));
                let block = inner.filter(|(k, _)| k.parse::<i64>().is_ok_and(|k| (0..layers).contains(&k)));
                let Some((k, layer)) = block else {
                    put(module, tensor);
                    continue;
                };
                let to = |layer: &str| format!("residual_layer.residual_blocks.{k}.{layer}");
                match layer {
                    "dilated_conv" => put(&to("dilated_conv_layer.conv"), swapped(&tensor, &name)?),
                    "diffusion_projection" => put(&to("fc_t"), tensor),
                    "conditioner_projection" => put(&to("mel_conv.conv"), swapped(&tensor, &name)?),
                    "output_projection" => {
                        let [residual, skip] = halves(&tensor, &name)?;
                        put(&to("res_conv"), residual);
                        put(&to("skip_conv"), skip);
                    }
                    _ => put(module, tensor),
                }
            }
        }
    }
    Ok(out)
}

/// The halves of a tensor along its first dimension.
fn halves(tensor: &Tensor, name: &str) -> Result<[Tensor; 2]> {
    match tensor.size().first() {
        Some(&n) if n >= 2 && n % 2 == 0 => {
            Ok([tensor.f_narrow(0, 0, n / 2)?, tensor.f_narrow(0, n / 2, n / 2)?])
        }
        _ => Err(Error::model(format!("tensor `{name}`"))
            .why(format!("shape {:?} has no two halves", tensor.size()))),
    }
}

/// The tensor with its halves swapped: sigmoid and tanh of a gate.
fn swapped(tensor: &Tensor, name: &str) -> Result<Tensor> {
    let [gate, filter] = halves(tensor, name)?;
    Ok(Tensor::f_cat(&[filter, gate], 0)?)
}

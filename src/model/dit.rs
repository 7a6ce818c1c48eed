//! Checkpoints of DiT (facebookresearch/DiT) and SiT (willisma/SiT): a state dict by itself, or training states
//! `{model, ema, opt, args}`. Both projects use the same network and names; what they predict differs.
//!
//! DiT predicts the noise of a DDPM table of 1000 linear steps. SiT's time runs from noise (0) to data (1): its
//! velocity is the negative of this project's, at time `1 - t`.

use super::foreign::{card, no_such_weights};
use super::load::Loaded;
use super::open::OpenOptions;
use super::source::Source;
use crate::denoiser::Prediction;
use crate::denoiser::precond::{Precond, TimeInput};
use crate::error::{Error, Result};
use crate::net::dit::DitConfig;
use crate::net::spec::NetSpec;
use crate::process::{ProcessName, ProcessSpec};

/// Where the weights may be, the averaged ones first.
const PLACES: [&str; 3] = ["ema.", "model.", ""];

/// The prefix of the weights' names; `wanted` is one of the places.
pub(super) fn place(source: &Source, wanted: Option<&str>) -> Option<&'static str> {
    let wanted = wanted.map(|name| format!("{name}."));
    PLACES.into_iter().filter(|place| wanted.as_ref().is_none_or(|wanted| wanted == place)).find(|place| {
        let has = |name: &str| source.shape(&format!("{place}{name}")).is_some();
        // Two of its names: one may be the fault of a damaged file.
        has("x_embedder.proj.weight") && has("blocks.0.attn.qkv.weight")
            || has("pos_embed") && has("final_layer.linear.weight")
    })
}

/// Reads the model.
pub(super) fn read(source: &Source, options: &OpenOptions) -> Result<Loaded> {
    let wanted = match options.weights.as_deref() {
        Some("raw") => Some("model"),
        other => other,
    };
    let place = place(source, wanted)
        .ok_or_else(|| no_such_weights(wanted.unwrap_or_default(), &["ema", "raw (of a training state)"]))?;
    let mut notes = Vec::new();
    let (config, shape, classes) = network(source, place, &mut notes)?;
    let (process, precond) = kind(source, options, &mut notes)?;
    let average = (place == "ema.").then_some("ema");
    let card = card(NetSpec::Dit(config), process, precond.into(), (shape, classes), average);
    Ok(Loaded::of_file(source.path(), card, source.below(place)?, notes))
}

fn network(source: &Source, place: &str, notes: &mut Vec<String>) -> Result<(DitConfig, Vec<i64>, i64)> {
    let shape = |name: &str, dims: usize| -> Result<&[i64]> {
        let name = format!("{place}{name}");
        let found = source
            .shape(&name)
            .ok_or_else(|| Error::model(format!("the transformer has no tensor `{name}`")))?;
        if found.len() == dims && found.iter().all(|&size| size > 0) {
            return Ok(found);
        }
        Err(Error::model(format!("tensor `{name}`")).why(format!("it has shape {found:?}")))
    };
    let patches = shape("x_embedder.proj.weight", 4)?;
    let (width, channels, patch) = (patches[0], patches[1], patches[2]);
    let tokens = shape("pos_embed", 3)?[1];
    let side = tokens.isqrt();
    if side * side != tokens {
        return Err(Error::model(format!("tensor `{place}pos_embed`"))
            .why(format!("{tokens} positions are no square of patches")));
    }
    let start = format!("{place}blocks.");
    let numbers = source.names().iter().filter_map(|name| name.strip_prefix(&start)?.split('.').next());
    let depth = numbers.filter_map(|text| text.parse::<i64>().ok()).max().map_or(0, |last| last + 1);
    if depth < 1 || depth as usize > source.names().len() {
        return Err(Error::model("the transformer has no consecutive blocks")
            .why(format!("the last is {}", depth - 1)));
    }
    let rows = shape("y_embedder.embedding_table.weight", 2)?[0];
    let classes = source.int("args.num_classes").filter(|n| *n == rows || *n + 1 == rows).unwrap_or(rows - 1);
    let out = shape("final_layer.linear.weight", 2)?[0];
    let inner = shape("blocks.0.mlp.fc1.weight", 2)?[0];
    let num_heads = match width {
        384 => 6,
        768 => 12,
        1024 | 1152 => 16,
        _ if width % 64 == 0 => {
            notes.push(format!("{} attention heads of 64 values are assumed", width / 64));
            width / 64
        }
        _ => {
            return Err(Error::model(format!("a transformer of width {width} is none of DiT's sizes"))
                .why("its number of attention heads is not in the file"));
        }
    };
    #[allow(clippy::cast_precision_loss)]
    let mlp_ratio = inner as f64 / width as f64;
    let config = DitConfig {
        patch_size: patch,
        depth,
        hidden_size: width,
        num_heads,
        mlp_ratio,
        learn_sigma: out == 2 * patch * patch * channels,
        null_class: rows == classes + 1,
        ..DitConfig::default()
    };
    Ok((config, vec![channels, side * patch, side * patch], classes))
}

/// The process, and what the output means: SiT's where the file says how it was trained, or its name or the
/// caller says that it is one.
fn kind(source: &Source, options: &OpenOptions, notes: &mut Vec<String>) -> Result<(ProcessSpec, Precond)> {
    let path = source.text("args.path_type");
    let sit = match (options.raw.process_name(), path) {
        (Some(ProcessName::Ddpm), _) => None,
        (Some(process @ (ProcessName::Flow | ProcessName::TrigFlow | ProcessName::Vp)), _) => Some(process),
        (Some(_), _) => {
            return Err(Error::usage("this network is of another process")
                .at("--process")
                .why("a DiT is of `ddpm`, a SiT of `flow`, `trig-flow` or `vp`"));
        }
        (None, Some("Linear")) => Some(ProcessName::Flow),
        (None, Some("GVP")) => Some(ProcessName::TrigFlow),
        (None, Some("VP")) => Some(ProcessName::Vp),
        (None, Some(other)) => {
            return Err(Error::model(format!("the path of this SiT is `{other}`"))
                .why("known are Linear, GVP and VP"));
        }
        (None, None) => {
            let name = source.path().file_name().map(|name| name.to_string_lossy().to_lowercase());
            let sit =
                name.is_some_and(|name| name.split(|c: char| !c.is_alphanumeric()).any(|part| part == "sit"));
            let (is, other) = if sit { ("SiT", "ddpm for a DiT") } else { ("DiT", "flow for a SiT") };
            notes.push(format!("it is taken as a {is}, by the file's name (--process {other})"));
            sit.then_some(ProcessName::Flow)
        }
    };
    let Some(process) = sit else {
        let time = TimeInput::discrete(1000);
        if let Some(ProcessSpec::Ddpm { steps, .. }) = options.raw.process_spec()
            && steps != 1000
        {
            return Err(Error::usage(format!("a DDPM table of {steps} steps"))
                .at("process")
                .why("DiT is trained with 1000"));
        }
        let precond = Precond::Plain { prediction: Prediction::Eps, time, factor: 1.0 };
        return Ok((options.raw.process_spec().unwrap_or_else(|| ProcessName::Ddpm.spec()), precond));
    };
    let (prediction, factor) = match source.text("args.prediction") {
        None | Some("velocity") => (Prediction::Velocity, -1.0),
        Some("noise") => (Prediction::Eps, 1.0),
        Some("score") => (Prediction::Score, 1.0),
        Some(other) => {
            return Err(Error::model(format!("this SiT predicts `{other}`"))
                .why("known are velocity, noise and score"));
        }
    };
    let time = TimeInput::Linear { scale: -1.0, shift: 1.0 };
    let process = options.raw.process_spec().unwrap_or_else(|| process.spec());
    Ok((process, Precond::Plain { prediction, time, factor }))
}

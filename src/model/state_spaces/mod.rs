//! Autoregressive audio networks of state-spaces/s4 (SaShiMi and its WaveNet baseline): Lightning checkpoints
//! `{state_dict, ...}` or the state dict alone.
//!
//! The options are read off names and shapes. Known are the names of versions 3 and 4 of the layer, the training
//! code's and the standalone file's SaShiMi, standard and U-Net. What is not in a file is assumed and said so: how
//! step sizes are stored, and how waveforms were quantised.

mod layer;
mod names;

use std::collections::BTreeMap;

use tch::Tensor;

pub use layer::s4d_layer;

use super::foreign::card;
use super::load::Loaded;
use super::open::OpenOptions;
use super::source::Source;
use crate::error::{Error, Result};
use crate::net::layers::ssm::{DtTransform, S4Config, SsmMode};
use crate::net::sashimi::{NormKind, OutputAct, SashimiConfig, Wiring};
use crate::net::spec::NetSpec;
use crate::net::wavenet::WavenetConfig;
use crate::objective::ObjectiveSpec;
use crate::process::ProcessSpec;
use names::Names;

/// Where the weights may be.
const PLACES: [&str; 3] = ["state_dict.", "model_state_dict.", ""];
/// Sampling rate of all published models, in Hz.
const RATE: u32 = 16_000;

/// The prefix of the weights' names.
pub(super) fn place(source: &Source) -> Option<&'static str> {
    PLACES.into_iter().find(|place| {
        let has = |name: &str| source.has(&format!("{place}{name}"));
        let ssm = ["model.c_layers.0.layer.", "c_layers.0.layer."].iter().any(|name| has(name));
        ssm || has("model.filter_convs.0.weight") && has("model.end_conv_2.weight")
    })
}

/// Reads the model.
pub(super) fn read(source: &Source, options: &OpenOptions) -> Result<Loaded> {
    let place = place(source).ok_or_else(|| Error::model("the checkpoint holds no audio network"))?;
    if let Some(name) = options.weights.as_deref().filter(|name| *name != "raw") {
        return Err(super::foreign::no_such_weights(name, &["raw"]));
    }
    if source.shape(&format!("{place}encoder.0.weight")).is_none() {
        return Err(Error::model("the checkpoint holds a backbone only")
            .why("it has no embedding of samples (`encoder.0.weight`) and no output layer"));
    }
    let mut notes = Vec::new();
    let (net, tensors, length) = if source.has(&format!("{place}model.filter_convs.")) {
        (NetSpec::Wavenet(wavenet(source, place)?), source.below(place)?, None)
    } else {
        let names = Names::of(source, place)?;
        let config = sashimi(&names, &mut notes)?;
        let (tensors, length) = layer::tensors(&names, &config)?;
        (NetSpec::Sashimi(config), tensors, length)
    };
    let shape = match &options.raw.shape {
        Some(shape) if matches!(shape[..], [1, t] if t > 0) => shape.clone(),
        Some(shape) => {
            return Err(Error::usage(format!("samples of this network cannot have shape {shape:?}"))
                .at("--shape")
                .why("they are waveforms of one channel, 1,LENGTH"));
        }
        None => vec![1, length.unwrap_or(i64::from(RATE))],
    };
    notes
        .push(format!("samples at {RATE} Hz, mu-law of 8 bits with clips stretched to [-1, 1], are assumed"));
    let mut objective = crate::objective::autoregressive::Autoregressive::default();
    objective.quant.scale = crate::data::quantize::QuantScale::Minmax;
    let objective = ObjectiveSpec::Autoregressive(objective);
    let mut card = card(net, ProcessSpec::None {}, objective, (shape, 0), None);
    card.rate = Some(RATE);
    card.trained.steps = source.int("global_step").and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    Ok(Loaded::of_file(source.path(), card, tensors, notes))
}

/// The exponent of a number of tokens.
fn bits(vocab: i64) -> Result<u32> {
    if vocab > 1 && vocab <= 1 << 16 && vocab.count_ones() == 1 {
        return Ok(vocab.trailing_zeros());
    }
    Err(Error::model(format!("{vocab} tokens are no power of 2")).at("encoder.0.weight"))
}

fn wavenet(source: &Source, place: &str) -> Result<WavenetConfig> {
    let shape = |name: &str| -> Result<&[i64]> {
        let name = format!("{place}{name}");
        match source.shape(&name) {
            Some(shape) if shape.len() > 1 => Ok(shape),
            _ => Err(Error::model(format!("the WaveNet has no tensor `{name}`"))),
        }
    };
    let start = format!("{place}model.filter_convs.");
    let count = source.names().iter().filter(|name| name.starts_with(&start)).count() as i64;
    let filter = shape("model.filter_convs.0.weight")?;
    // Dilations are not in the file: published are blocks of 10 layers.
    let layers = if count % 10 == 0 { 10 } else { count };
    Ok(WavenetConfig {
        bits: bits(shape("encoder.0.weight")?[0])?,
        blocks: count / layers.max(1),
        layers,
        residual_channels: filter[1],
        dilation_channels: filter[0],
        skip_channels: shape("model.skip_convs.0.weight")?[0],
        end_channels: shape("model.end_conv_1.weight")?[0],
    })
}

fn sashimi(names: &Names<'_>, notes: &mut Vec<String>) -> Result<SashimiConfig> {
    let embedding = names.shape("encoder.0.weight", 2)?;
    let (vocab, d_model) = (embedding[0], embedding[1]);
    let mut width = d_model;
    let mut pool = Vec::new();
    let mut expand = 1;
    for i in 0..names.pools {
        let at = names.down_pool(i);
        let (out, input) = names.map(&at)?;
        if input % width != 0 || out % width != 0 {
            return Err(Error::model(format!("the pool `{at}` does not fit a width of {width}"))
                .why(format!("it maps {input} values to {out}")));
        }
        pool.push(input / width);
        expand = out / width;
        width = out;
    }
    let wide = names.shape("c_layers.1.layer.ff.0.0.weight", 0)?[0];
    let out = names.shape("c_layers.0.layer.output_linear.0.weight", 0)?[0];
    let kernel = |name: &str, level: usize| {
        names.shape(&format!("{}.layer.layer.kernel.{name}", names.ssm_at(level)), 2)
    };
    let (copies, half) = (kernel("A_real", names.pools)?[0], kernel("A_real", names.pools)?[1]);
    let every = copies == width && (names.pools == 0 || kernel("A_real", 0)?[0] == d_model);
    let rank = names.shape("c_layers.0.layer.layer.kernel.P", 0).ok().map(|p| p[0]);
    let norm = if names.scalar_norm { NormKind::Scalar } else { NormKind::Layer };
    let (dt_transform, why) = names.dt_transform();
    if let Some(why) = why {
        let name = if dt_transform == DtTransform::Exp { "exponential" } else { "softplus" };
        notes.push(format!("step sizes are taken as the {name} of what is stored, {why}"));
    }
    Ok(SashimiConfig {
        bits: bits(vocab)?,
        d_model,
        n_layers: names.layers,
        pool,
        expand,
        ff: wide / width,
        wiring: if names.unet { Wiring::Unet } else { Wiring::Standard },
        norm,
        act: if out == 2 * width { OutputAct::Glu } else { OutputAct::Id },
        pool_weight_norm: Some(names.weight_norm),
        dropout: 0.0,
        layer: S4Config {
            d_state: 2 * half,
            mode: if rank.is_some() { SsmMode::Dplr } else { SsmMode::S4d },
            init: if rank.is_some() { "legs".to_owned() } else { "lin".to_owned() },
            n_ssm: if every { 0 } else { copies },
            rank: rank.unwrap_or(1),
            dt_transform,
            ..S4Config::default()
        },
    })
}

/// Tensors by name.
type Tensors = BTreeMap<String, Tensor>;

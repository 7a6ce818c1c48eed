//! `gen eval-nll`: how well an autoregressive model predicts data, in bits.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::Globals;
use super::ui::Ui;
use super::values::positive;
use crate::data::audio::{AudioSpec, Part};
use crate::data::feed::{self, Fed, Source};
use crate::data::text::Tokens;
use crate::data::{DataSpec, Split};
use crate::error::{Error, Result};
use crate::io::atomic;
use crate::model::card::ModelCard;
use crate::model::open::{OpenOptions, open};
use crate::net::Cond;
use crate::objective::ObjectiveSpec;
use crate::objective::autoregressive::{Autoregressive, causal};
use crate::torch::interrupt;

/// Measure how many bits a sample of data costs under an autoregressive model
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen eval-nll --model runs/sc09 --data sc09 --split test\n  \
    gen eval-nll --model runs/tones --data synthetic:tones --num 64 --skip 200\n  \
    gen eval-nll --model runs/digits --data take.wav --per-file bits.csv\n\n\
    The figure is the cross entropy in nats over all samples, divided by ln 2: 8 bits are no knowledge at all of a \
    model of 256 values.")]
pub struct EvalNllArgs {
    /// A run folder, a snapshot or another model
    #[arg(short, long, value_name = "PATH")]
    pub model: PathBuf,
    /// Clips: a folder, a file, or a synthetic signal
    #[arg(short, long, value_name = "PATH")]
    pub data: PathBuf,
    /// Which of the run's averaged weights [default: the first]
    #[arg(long, value_name = "NAME")]
    pub weights: Option<String>,
    /// Part of the data
    #[arg(long, value_enum, default_value = "test", value_name = "PART")]
    pub split: Part,
    /// Samples of a clip [default: those of training]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub length: Option<usize>,
    /// Clips at most [default: all; 64 of a synthetic signal]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub num: Option<usize>,
    /// Leave the first samples of every clip out of the mean: the model knows nothing yet
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub skip: usize,
    /// Clips computed at once
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = positive)]
    pub batch: usize,
    /// Also write the bits of every clip to this CSV file
    #[arg(long, value_name = "FILE")]
    pub per_file: Option<PathBuf>,
}

/// Nats and samples of one clip.
struct Scored {
    name: String,
    nats: f64,
    samples: i64,
}

/// Runs the command.
pub fn run(args: &EvalNllArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    if let Some(path) = &args.per_file {
        atomic::check(path)?;
    }
    let device = globals.start()?;
    let options = OpenOptions {
        weights: args.weights.clone(),
        dtype: globals.dtype.unwrap_or_default(),
        ..OpenOptions::default()
    };
    let opened = open(&args.model, &options, device)?;
    let objective = objective(&opened.card, &args.model.display().to_string())?;
    let net = causal(&*opened.net).map_err(|e| e.kinded(crate::error::Kind::Model))?;
    let (source, notes) = source(args, &opened.card)?;
    for note in notes {
        ui.warn(note);
    }
    let total = match &source {
        Source::Clips(clips) => args.num.map_or(clips.len(), |n| n.min(clips.len())),
        Source::Text(text) => args.num.map_or(text.windows(), |n| n.min(text.windows())),
        _ => args.num.unwrap_or(64),
    };
    let start = std::time::Instant::now();
    let mut bar = ui.bar("scoring", total as u64, source.unit());
    let mut scored = Vec::new();
    let mut first = 0;
    while first < total {
        let n = args.batch.min(total - first);
        let (fed, names) = batch(&source, first, n, device)?;
        scored.extend(score(&objective, net, &fed, names, (args.skip as i64, opened.card.classes))?);
        first += n;
        bar.set(first as u64);
        interrupt::check("nothing is lost but the scores so far")?;
    }
    bar.finish();
    let per_byte = match &source {
        Source::Text(text) => Some(1.0 / text.bytes_per_token()),
        _ => None,
    };
    report(args, &scored, per_byte, ui, start.elapsed().as_secs_f64())
}

fn objective(card: &ModelCard, place: &str) -> Result<Autoregressive> {
    match &card.objective {
        ObjectiveSpec::Autoregressive(objective) => Ok(objective.clone()),
        _ => Err(Error::model("not an autoregressive model")
            .at(place)
            .why("bits are measured of models that predict one value after another")
            .hint("samples of other models are measured with `gen eval-fid` and `gen eval-audio`")),
    }
}

/// The data as the model was trained on such.
fn source(args: &EvalNllArgs, card: &ModelCard) -> Result<(Source, Vec<String>)> {
    let trained = usize::try_from(card.shape.last().copied().unwrap_or(1)).unwrap_or(1);
    if card.rate.is_none() {
        let length = args.length.unwrap_or(trained);
        let text = Tokens::read(&args.data, Split::of(args.split), length, card.tokenizer()?)?;
        return Ok((Source::Text(Arc::new(text)), Vec::new()));
    }
    let audio = AudioSpec {
        rate: Some(card.rate.unwrap_or(16_000)),
        length: Some(args.length.unwrap_or(trained)),
        channels: Some(1),
        ..AudioSpec::default()
    };
    let spec = DataSpec { audio: Some(audio), ..DataSpec::default() };
    let source = Source::open_part(&spec, args.split, Some(&args.data))?;
    let notes = source.notes();
    Ok((source, notes))
}

/// Clips `first..first + n` with their names.
fn batch(source: &Source, first: usize, n: usize, device: Device) -> Result<(Fed, Vec<String>)> {
    match source {
        Source::Clips(clips) => {
            let indices: Vec<usize> = (first..first + n).collect();
            let names = indices.iter().map(|&i| clips.name(i)).collect();
            Ok((feed::batch_of(clips, &indices, device)?, names))
        }
        Source::Synthetic(synthetic) => {
            let x = synthetic.clips(0, first as u64, n)?.f_to_device(device)?;
            let names = (first..first + n).map(|i| format!("clip {i}")).collect();
            Ok((Fed { x, class: None, frames: None }, names))
        }
        Source::Text(text) => {
            let starts: Vec<usize> = (first..first + n).map(|i| i * text.length()).collect();
            let names = starts.iter().map(|s| format!("token {s}")).collect();
            Ok((Fed { x: text.batch(&starts, device)?, class: None, frames: None }, names))
        }
        Source::Images(_) => Err(Error::usage("images have no bits here").at("--data")),
    }
}

fn score(
    objective: &Autoregressive,
    net: &dyn crate::net::causal::Causal,
    fed: &Fed,
    names: Vec<String>,
    (skip, classes): (i64, i64),
) -> Result<Vec<Scored>> {
    let _no_grad = tch::no_grad_guard();
    let tokens = objective.tokens(&fed.x, fed.frames.as_ref())?;
    let class = fed.class.as_ref().filter(|_| classes > 0).map(Tensor::shallow_clone);
    let nats = Autoregressive::nats(net, &tokens, &Cond { class, ..Cond::default() })?;
    let length = tokens.size2()?.1;
    let at = Tensor::f_arange(length, (Kind::Int64, tokens.device()))?.f_unsqueeze(0)?;
    let mut counted = at.f_ge(skip)?;
    if let Some(frames) = &fed.frames {
        counted = counted.f_logical_and(&at.f_lt_tensor(&frames.f_unsqueeze(1)?)?)?;
    }
    let counted = counted.f_expand([tokens.size2()?.0, length], false)?.f_to_kind(Kind::Double)?;
    let sums = nats.f_to_kind(Kind::Double)?.f_mul(&counted)?.f_sum_dim_intlist(1, false, Kind::Double)?;
    let sums = Vec::<f64>::try_from(sums.f_to_device(Device::Cpu)?)?;
    let samples = counted.f_sum_dim_intlist(1, false, Kind::Double)?;
    let samples = Vec::<f64>::try_from(samples.f_to_device(Device::Cpu)?)?;
    let all = names.into_iter().zip(sums).zip(samples);
    Ok(all.map(|((name, nats), n)| Scored { name, nats, samples: n as i64 }).collect())
}

fn bits(nats: f64, samples: i64) -> f64 {
    nats / std::f64::consts::LN_2 / samples.max(1) as f64
}

fn report(
    args: &EvalNllArgs,
    scored: &[Scored],
    per_byte: Option<f64>,
    ui: Ui,
    seconds: f64,
) -> anyhow::Result<()> {
    let nats: f64 = scored.iter().map(|s| s.nats).sum();
    let samples: i64 = scored.iter().map(|s| s.samples).sum();
    if samples == 0 {
        return Err(Error::usage("nothing is left to measure").at("--skip").into());
    }
    if let Some(path) = &args.per_file {
        atomic::write(path, |out| {
            let mut line = |text: String| out.write_all(text.as_bytes()).map_err(|e| Error::write(path, &e));
            line("file,samples,bits\n".to_owned())?;
            for s in scored {
                let name = s.name.replace('"', "\"\"");
                line(format!("\"{name}\",{},{:.6}\n", s.samples, bits(s.nats, s.samples)))?;
            }
            Ok(())
        })?;
    }
    let mean = bits(nats, samples);
    let value: Value = json!({
        "bits_per_sample": mean, "nats_per_sample": nats / samples as f64, "perplexity": (nats / samples as f64).exp(), "samples": samples, "bits_per_byte": per_byte.map(|tokens| mean * tokens),
        "clips": scored.len(), "skip": args.skip, "model": args.model.display().to_string(),
        "data": args.data.display().to_string(), "split": serde_json::to_value(args.split)?, "seconds": seconds,
    });
    ui.result(&value)?;
    ui.line(format!("{mean:.4} bits per sample  ({samples} samples of {} clips)", scored.len()))?;
    if let Some(tokens) = per_byte.filter(|n| *n != 1.0) {
        ui.line(format!("{:.4} bits per byte of text  ({tokens:.3} tokens a byte)", mean * tokens))?;
    }
    Ok(())
}

//! `gen sample`: from a model to images.

mod args;
mod output;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

pub use args::{HowArgs, SampleArgs};
use args::{Latent, format_of_name};
use output::{Output, check_shape, format_of, hex};

use super::Globals;
use super::ui::Ui;
use crate::error::{Error, Result};
use crate::io::bytes::Bytes;
use crate::io::npz::Npz;
use crate::io::safetensors;
use crate::model::card::ModelCard;
use crate::model::open::{OpenOptions, open};
use crate::model::sampler::{Classes, Job, Sampler, Settings};
use crate::noise::streams::Rng;
use crate::torch::device::device_name;
use crate::torch::interrupt;

/// Runs the command.
pub fn run(args: &SampleArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    let device = globals.start()?;
    let dtype = globals.dtype.unwrap_or_default();
    let options = OpenOptions {
        weights: args.weights.clone(),
        dtype,
        raw: args.raw.spec(),
        format: args.memory_format,
        blocks: globals.deterministic,
    };
    let opened = open(&args.model, &options, device)?;
    for note in &opened.notes {
        ui.say(format!("note: {note}"));
    }
    let (card, path, files) = (opened.card.clone(), opened.path.clone(), opened.files.clone());
    let model = opened.denoiser()?;
    check_shape(args, &card.shape)?;
    let settings = settings(&args.how, &card, args.rng)?;
    let classes = classes(args.class.as_deref(), card.classes)?;
    let init =
        args.init_noise.as_deref().map(|file| latents(file, args.seeds.0.len(), &card.shape)).transpose()?;
    let sampler = Sampler::new(&model, &card.shape, card.classes, settings.clone(), device)?;
    let mut sampler = sampler.of_range(card.range);
    let described = describe(args, &card, (&path, &files), &settings, &sampler, globals, device)?;
    let (mut output, done) = Output::open(args, &described)?;

    let jobs = jobs(args, &done);
    let evaluations = sampler.plan().nfe().map_or_else(
        || "as many evaluations as it needs".to_owned(),
        |n| count(usize::try_from(n).unwrap_or(usize::MAX), "evaluation"),
    );
    ui.say(format!(
        "{} of {}, {}, {} with {evaluations} each, on {}{}",
        count(jobs.len(), "sample"),
        card.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x"),
        dtype.name(),
        settings.solver.name.as_str(),
        device_name(device),
        if done.is_empty() { String::new() } else { format!(", {} finished already", done.len()) }
    ));
    let start = Instant::now();
    let mut bar = ui.bar("sampling", jobs.len() as u64, "img");
    let mut nfe = 0;
    let mut finished = 0;
    for batch in jobs.chunks(args.batch as usize) {
        let begun = Instant::now();
        let before = finished as f64;
        let mut watch = |progress: &crate::solver::Progress<'_>| {
            bar.set((before + progress.fraction * batch.len() as f64) as u64);
            interrupt::check(&format!("{finished} samples are written; --resume goes on"))
        };
        let drawn = sampler.draw(batch, &classes, init.as_ref(), &mut watch)?;
        nfe = nfe.max(drawn.nfe);
        output.take(batch, &drawn, begun.elapsed().as_secs_f64() * 1e3 / batch.len() as f64)?;
        finished += batch.len();
        bar.set(finished as u64);
    }
    bar.finish();
    let seconds = start.elapsed().as_secs_f64();
    if let Some(bytes) = output.finish(&described)? {
        ui.bytes(&bytes)?;
    }
    let rate = finished as f64 / seconds.max(1e-9);
    ui.say(format!(
        "{} in {}: {rate:.1} img/s, NFE {nfe}, peak memory {:.0} MiB, written to {}",
        count(finished, "sample"),
        super::ui::duration(seconds),
        super::peak_mib(),
        args.out.display()
    ));
    if args.out != Path::new("-") {
        ui.result(&json!({
            "samples": finished, "skipped": done.len(), "nfe": nfe, "steps": sampler.plan().points().len() - 1,
            "solver": settings.solver.name.as_str(), "seconds": seconds, "images_per_s": rate,
            "peak_mib": super::peak_mib(), "device": device_name(device), "dtype": dtype.name(),
            "format": format_of_name(format_of(args)), "out": args.out.display().to_string(),
        }))?;
    }
    Ok(())
}

/// `1 sample`, `2 samples`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// What the flags ask for, over the model's own settings.
pub(super) fn settings(how: &HowArgs, card: &ModelCard, rng: Rng) -> Result<Settings> {
    let solver = how.solver(&card.sample);
    if solver.name.is_adaptive() && (how.steps.is_some() || how.nfe.is_some()) {
        let flag = if how.steps.is_some() { "--steps" } else { "--nfe" };
        return Err(Error::usage(format!("{} chooses its steps itself", solver.name.as_str()))
            .at(flag)
            .hint(format!("leave {flag} out; --rtol and --atol say how exact the run is")));
    }
    Ok(Settings {
        solver,
        grid: how.grid(&card.sample)?,
        budget: how.budget(&card.sample),
        guidance: how.guidance.or(card.sample.guidance).unwrap_or(1.0),
        rng,
        latent: if how.latent_dtype == Latent::F64 { Kind::Double } else { Kind::Float },
    })
}

/// The classes that `--class` asks for.
pub(super) fn classes(text: Option<&str>, known: i64) -> Result<Classes> {
    let place = "--class";
    match text {
        None if known > 0 => Ok(Classes::Random),
        None => Ok(Classes::None),
        Some(_) if known == 0 => Err(Error::usage("the model knows no classes")
            .at(place)
            .hint("leave it out; only models trained with classes have them")),
        Some("random") => Ok(Classes::Random),
        Some("none") => Ok(Classes::List(vec![-1])),
        Some(text) => {
            let list = text.split(',').map(|part| part.trim().parse::<i64>());
            let list: Vec<i64> = list.collect::<std::result::Result<_, _>>().map_err(|_| {
                Error::usage(format!("`{text}` is no class"))
                    .at(place)
                    .hint("give a number, a list such as 0,3,7, or `random`")
            })?;
            match list.iter().find(|class| **class < 0 || **class >= known) {
                Some(class) => Err(Error::usage(format!("no class {class}"))
                    .at(place)
                    .why(format!("the model knows 0 to {}", known - 1))
                    .hint("give one of those, a list of them, or `random`")),
                None => Ok(Classes::List(list)),
            }
        }
    }
}

/// Unit-normal latents of all samples from a file.
fn latents(path: &Path, samples: usize, shape: &[i64]) -> Result<Tensor> {
    let extension = path.extension().and_then(|e| e.to_str());
    let tensor = if extension == Some("safetensors") {
        let file = safetensors::File::open(path)?;
        let name = file.entries().keys().next().cloned();
        let name = name.ok_or_else(|| Error::data("no tensor in the file").at(path.display()))?;
        file.tensor(&name)?
    } else {
        let mut file = Npz::open(path).map_err(|e| e.hint("latents are an .npz or a .safetensors file"))?;
        let name = file.names().first().cloned();
        let name = name.ok_or_else(|| Error::data("no array in the file").at(path.display()))?;
        file.array(&name)?.to_tensor()?
    };
    let want: Vec<i64> = std::iter::once(samples as i64).chain(shape.iter().copied()).collect();
    if tensor.size() != want {
        return Err(Error::data("latents of another shape")
            .at(path.display())
            .why(format!("{samples} samples of this model need {want:?}, the file has {:?}", tensor.size()))
            .hint("the file holds one latent for each of --seeds"));
    }
    Ok(tensor.f_to_kind(Kind::Float)?)
}

/// The samples still to draw, in the order of the seeds.
fn jobs(args: &SampleArgs, done: &std::collections::BTreeSet<u64>) -> Vec<Job> {
    let shard = args.shard.unwrap_or(crate::model::seeds::Shard { index: 0, count: 1 });
    args.seeds
        .0
        .iter()
        .enumerate()
        .map(|(index, &seed)| Job { index, seed })
        .skip(shard.index as usize)
        .step_by(shard.count as usize)
        .filter(|job| !done.contains(&job.seed))
        .collect()
}

/// Everything the samples depend on beside their seeds, as JSON.
fn describe(
    args: &SampleArgs,
    card: &ModelCard,
    (path, files): (&Path, &[PathBuf]),
    settings: &Settings,
    sampler: &Sampler<'_>,
    globals: &Globals,
    device: Device,
) -> Result<Value> {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(&*Bytes::map(file)?);
    }
    let to_json = |value: serde_json::Result<Value>| {
        value.map_err(|e| Error::run("cannot write the settings").why(e.to_string()))
    };
    let points = sampler.plan().points();
    Ok(json!({
        "gen": env!("CARGO_PKG_VERSION"),
        "model": path.file_name().map(|name| name.to_string_lossy()),
        "model_sha256": hex(&hash.finalize()),
        "trained": to_json(serde_json::to_value(&card.trained))?,
        "process": to_json(serde_json::to_value(&card.process))?,
        "solver": to_json(serde_json::to_value(&settings.solver))?,
        "nfe": sampler.plan().nfe(),
        "t": points.iter().map(|p| p.t).collect::<Vec<_>>(),
        "sigma": points.iter().map(|p| p.rho()).map(|rho| if rho.is_finite() { json!(rho) } else { Value::Null }).collect::<Vec<_>>(),
        "guidance": settings.guidance,
        "class": args.class,
        "init_noise": args.init_noise.as_ref().map(|p| p.display().to_string()),
        "rng": to_json(serde_json::to_value(settings.rng))?,
        "dtype": globals.dtype.unwrap_or_default().name(),
        "deterministic": globals.deterministic,
        "latent_dtype": if settings.latent == Kind::Double { "f64" } else { "f32" },
        "device": if matches!(device, Device::Cpu) { "cpu" } else { "cuda" },
    }))
}

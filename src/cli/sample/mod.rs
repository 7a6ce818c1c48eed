//! `gen sample`: from a model to images, sound or text.

mod args;
mod drawer;
mod explain;
mod mel;
mod output;
mod ranking;
mod search;
mod search_args;
mod sound;
mod text;
mod text_args;

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use tch::{Device, Kind, Tensor};

pub use args::{HowArgs, SampleArgs};
use args::{Latent, format_of_name};
use drawer::Drawer;
use output::{Output, check_shape, format_of};
pub use sound::SoundArgs;
pub use text_args::TextArgs;

use super::Globals;
use super::ui::Ui;
use crate::error::{Error, Result};
use crate::io::npz::Npz;
use crate::io::safetensors;
use crate::model::card::ModelCard;
use crate::model::language;
use crate::model::open::{BLOCK, OpenOptions, Opened, open};
use crate::model::sampler::{Classes, Job, Mel, Sampler, Settings};
use crate::model::tokens::TokenSampler;
use crate::noise::streams::Rng;
use crate::objective::ObjectiveSpec;
use crate::objective::autoregressive::causal;
use crate::torch::device::device_name;
use crate::torch::interrupt;

/// Samples drawn where no seeds are named.
const DEFAULT_SEEDS: u64 = 64;

/// Runs the command.
pub fn run(args: &SampleArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    let device = globals.start()?;
    let dtype = globals.dtype.unwrap_or_default();
    if language::is_one(&args.model) {
        return text::run_folder(args, globals, ui, device);
    }
    let options = OpenOptions {
        weights: args.weights.clone(),
        compat: args.how.compat.unwrap_or_default(),
        dtype,
        raw: args.raw.spec(),
        format: args.memory_format,
        blocks: globals.deterministic,
    };
    let opened = open(&args.model, &options, device)?;
    for note in &opened.notes {
        ui.say(format!("note: {note}"));
    }
    if matches!(opened.card.objective, ObjectiveSpec::Autoregressive(_)) && opened.card.rate.is_none() {
        return text::run_snapshot(args, globals, ui, device, &opened);
    }
    if let Some(flag) = args.text.used().or(args.search.used()) {
        return Err(Error::usage("the model writes no text").at(flag).into());
    }
    let (card, path, files) = (opened.card.clone(), opened.path.clone(), opened.files.clone());
    let classes = classes(args.class.as_deref(), card.classes)?;
    let mels = mels(args, &opened, device)?;
    // A vocoder makes one sound of each spectrogram.
    let usual = if mels.is_empty() { DEFAULT_SEEDS } else { mels.len() as u64 };
    let seeds = args.seeds.as_ref().map_or_else(|| (0..usual).collect(), |seeds| seeds.0.clone());
    let (model, net);
    let mut drawer = if let ObjectiveSpec::Autoregressive(objective) = &card.objective {
        net = opened.net;
        let block = globals.deterministic.then_some(BLOCK);
        let tokens = args.sound.tokens(&card, args.rng, block)?;
        Drawer::Tokens(TokenSampler::new(causal(&*net)?, &objective.quant, card.classes, tokens, device)?)
    } else {
        args.sound.check_no_tokens()?;
        model = opened.denoiser()?;
        let settings = settings(&args.how, &card, args.rng)?;
        let sampler = Sampler::new(&model, &shape(args, &card)?, card.classes, settings.clone(), device)?;
        Drawer::Solver(Box::new(sampler.of_range(card.range).with_mels(mels)), settings)
    };
    let shape = shape(args, &card)?;
    check_shape(args, &shape, card.rate)?;
    let init = args.init_noise.as_deref().map(|file| latents(file, seeds.len(), &shape)).transpose()?;
    let classifier = match args.sound.reject {
        Some(reject) => ranking::prepare(reject, &args.sound.classifier, seeds.len(), device)?,
        None => None,
    };
    let described = drawer.describe(args, &card, (&path, &files), (globals, device))?;
    let (mut output, done) = Output::open(args, card.rate, &described)?;

    let jobs = jobs(args, &seeds, &done);
    let evaluations = drawer.nfe().map_or_else(
        || "as many evaluations as it needs".to_owned(),
        |n| count(usize::try_from(n).unwrap_or(usize::MAX), "evaluation"),
    );
    ui.say(format!(
        "{} of {}, {}, {} with {evaluations} each, on {}{}",
        count(jobs.len(), "sample"),
        shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x"),
        dtype.name(),
        drawer.name(),
        device_name(device),
        if done.is_empty() { String::new() } else { format!(", {} finished already", done.len()) }
    ));
    let start = Instant::now();
    let unit = if card.rate.is_some() { "clips" } else { "img" };
    let mut bar = ui.bar("sampling", jobs.len() as u64, unit);
    let mut nfe = 0;
    let mut finished = 0;
    let fitting = jobs.chunk_by(|a, b| drawer.fit_together(a, b)).collect::<Vec<_>>();
    for batch in fitting.into_iter().flat_map(|jobs| jobs.chunks(args.batch as usize)) {
        let begun = Instant::now();
        let before = finished as f64;
        let mut watch = |share: f64| {
            bar.set((before + share * batch.len() as f64) as u64);
            interrupt::check(&format!("{finished} samples are written; --resume goes on"))
        };
        let drawn = drawer.draw(batch, &classes, init.as_ref(), &mut watch)?;
        nfe = nfe.max(drawn.nfe);
        output.take(batch, &drawn, begun.elapsed().as_secs_f64() * 1e3 / batch.len() as f64)?;
        finished += batch.len();
        bar.set(finished as u64);
    }
    bar.finish();
    let seconds = start.elapsed().as_secs_f64();
    if let Some(warning) = output.warning() {
        ui.warn(warning);
    }
    if let Some(bytes) = output.finish(&described)? {
        ui.bytes(&bytes)?;
    }
    let mut ranked = None;
    if matches!(drawer, Drawer::Tokens(_))
        && format_of(args, card.rate) == args::Format::Wav
        && args.out.is_dir()
    {
        ranked = Some(ranking::write(&args.out, args.sound.reject, classifier.as_ref())?);
    }
    if let Some(ranked) = &ranked
        && args.sound.reject.is_some()
    {
        ui.say(ranked.words());
    }
    let rate = finished as f64 / seconds.max(1e-9);
    ui.say(format!(
        "{} in {}: {rate:.1} {unit}/s, NFE {nfe}, peak memory {:.0} MiB, written to {}",
        count(finished, "sample"),
        super::ui::duration(seconds),
        super::peak_mib(),
        args.out.display()
    ));
    if args.out != Path::new("-") {
        ui.result(&json!({
            "samples": finished, "skipped": done.len(), "nfe": nfe, "steps": drawer.steps(),
            "solver": drawer.name(), "seconds": seconds, "images_per_s": rate,
            "peak_mib": super::peak_mib(), "device": device_name(device), "dtype": dtype.name(),
            "format": format_of_name(format_of(args, card.rate)), "out": args.out.display().to_string(),
            "reject": args.sound.reject.and(ranked),
        }))?;
    }
    Ok(())
}

/// The spectrograms that a vocoder makes sound of; none for other models.
fn mels(args: &SampleArgs, opened: &Opened, device: Device) -> Result<Vec<Mel>> {
    match (&args.sound.mel, opened.net.spectrogram()) {
        (None, None) => Ok(Vec::new()),
        (Some(path), Some(spectrum)) => {
            let asked = args.sound.length.is_some() || args.sound.seconds.is_some();
            let length = asked.then(|| args.sound.length(&opened.card)).transpose()?;
            mel::read(path, &spectrum, &opened.card, length, device)
        }
        (Some(_), None) => Err(Error::usage("the model takes no spectrogram").at("--mel")),
        (None, Some(_)) => Err(Error::usage("the model is a vocoder")
            .at(opened.path.display())
            .why("it makes the sound of a given spectrogram")
            .hint("name a sound, a folder of them or a spectrogram with --mel")),
    }
}

/// Shape of a sample: the model's, with another length where one is asked for.
fn shape(args: &SampleArgs, card: &ModelCard) -> Result<Vec<i64>> {
    let mut shape = card.shape.clone();
    if card.rate.is_some() {
        if let Some(last) = shape.last_mut() {
            *last = args.sound.length(card)?;
        }
    } else if args.sound.seconds.is_some() || args.sound.length.is_some() {
        return Err(Error::usage("the model makes no sound").at("--seconds").hint("leave the length out"));
    } else if args.sound.rate.is_some() {
        return Err(Error::usage("the model makes no sound").at("--rate"));
    }
    Ok(shape)
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
fn jobs(args: &SampleArgs, seeds: &[u64], done: &std::collections::BTreeSet<u64>) -> Vec<Job> {
    let shard = args.shard.unwrap_or(crate::model::seeds::Shard { index: 0, count: 1 });
    seeds
        .iter()
        .enumerate()
        .map(|(index, &seed)| Job { index, seed })
        .skip(shard.index as usize)
        .step_by(shard.count as usize)
        .filter(|job| !done.contains(&job.seed))
        .collect()
}

//! `gen train`: from a recipe and data to a model.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::ui::Ui;
use super::{Globals, peak_mib};
use crate::data::feed::Source;
use crate::error::Error;
use crate::recipe::Recipe;
use crate::torch::device::device_name;
use crate::train::resume::Resume;
use crate::train::trainer::{Event, Trainer};

/// Train a model from a recipe, or go on with a run
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen train models/digits-edm --out runs/digits\n  \
    gen train models/cifar10-edm --data cifar-10-batches-bin --out runs/edm --device cuda\n  \
    gen train models/cifar10-edm --data train.zip --out runs/edm --batch 256 --set optim.lr=5e-4\n  \
    gen train models/digits-edm --dry-run\n\n\
    The same command again goes on where the run was left, as if it had never stopped. Ctrl-C saves the state first.")]
pub struct TrainArgs {
    /// The recipe: a TOML file, or a folder with a recipe.toml
    recipe: PathBuf,
    /// The data: a folder or zip of images, CIFAR-10 binary batches, an .npz [default: the recipe's]
    #[arg(long, visible_alias = "train_data_dir", value_name = "PATH")]
    data: Option<PathBuf>,
    /// The run folder
    #[arg(short, long, aliases = ["outdir", "output_dir"], value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// Override a key of the recipe; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Optimiser steps of the whole run
    #[arg(long, alias = "max_train_steps", value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Images of the whole run, such as 200k or 20Mi
    #[arg(long, value_name = "IMAGES")]
    duration: Option<String>,
    /// Images of one optimiser step
    #[arg(long, alias = "train_batch_size", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    /// Seed of weights, data order and noise
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Whether to go on: auto, never, or the path of a checkpoint
    #[arg(long, alias = "resume_from_checkpoint", default_value = "auto", value_name = "HOW")]
    resume: String,
    /// Stop after so many steps of this sitting; the state is saved
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    stop_after: Option<u64>,
    /// Print the resolved recipe and stop
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl TrainArgs {
    /// `--set` assignments, with those that other flags stand for.
    fn overrides(&self, globals: &Globals) -> Vec<String> {
        let mut all = self.set.clone();
        let mut add = |key: &str, value: Option<String>| all.extend(value.map(|v| format!("{key}={v}")));
        add("train.steps", self.steps.map(|n| n.to_string()));
        add(
            "train.images",
            self.duration.as_ref().map(|d| format!("\"{} img\"", d.trim_end_matches("img").trim())),
        );
        add("train.batch", self.batch.map(|n| n.to_string()));
        add("train.seed", self.seed.map(|n| n.to_string()));
        add("train.precision", globals.dtype.map(|d| format!("\"{}\"", d.name())));
        all
    }
}

/// Runs the command.
pub fn run(args: &TrainArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    let recipe = Recipe::load_with(&args.recipe, &args.overrides(globals), args.data.as_deref())?;
    if args.dry_run {
        ui.line(recipe.to_toml()?.trim_end())?;
        ui.result(&recipe.to_json()?)?;
        return Ok(());
    }
    let out = args.out.clone().ok_or_else(|| Error::usage("no run folder").hint("name it with --out DIR"))?;
    let resume = match args.resume.as_str() {
        "auto" | "latest" => Resume::Auto,
        "never" => Resume::Never,
        path => Resume::From(PathBuf::from(path)),
    };
    let device = globals.start()?;
    let data = Source::open(&recipe.data, None)?;
    for note in data.notes() {
        ui.warn(note);
    }
    let total = recipe.total_steps();
    let batch = recipe.train.batch;
    let (examples, unit) = (data.describe(), data.unit());
    let held_out = match recipe.train.validate_every {
        Some(_) => Some(Source::held_out(&recipe.data)?),
        None => None,
    };
    let mut trainer = Trainer::new(recipe, &data, &out, device, &resume)?;
    if let Some(held_out) = held_out {
        trainer = trainer.validated_on(held_out);
    }
    let begun = trainer.progress();
    ui.say(format!(
        "{} parameters, {examples}, {total} steps of {batch}, on {}, in {}{}",
        trainer.parameters(),
        device_name(device),
        out.display(),
        if begun.step > 0 { format!(", going on from step {}", begun.step) } else { String::new() }
    ));
    if begun.step >= total {
        ui.say("the run is finished; raise train.steps to go on with it");
    }
    let mut bar = ui.bar("training", total * batch, unit);
    bar.start_at(begun.images);
    let mut last = None;
    let snapshot = trainer.run(args.stop_after, &mut |event| {
        match event {
            Event::Step(at) => bar.set(at.images),
            Event::Logged(record) => {
                bar.note(format!("loss {:.4}", record.loss));
                last = Some(**record);
            }
            Event::Validated(step, values) => {
                let text: Vec<String> =
                    values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
                bar.say(format!("step {}: {}", step, text.join(", ")));
            }
            Event::Wrote(path) => {
                if ui.verbose > 0 {
                    bar.say(format!("wrote {}", path.display()));
                }
            }
        }
        Ok(())
    })?;
    bar.finish();
    let at = trainer.progress();
    let loss = last.map(|record| record.loss);
    ui.say(format!(
        "step {} of {total}{}, {:.0} {unit}/s, peak memory {:.0} MiB{}",
        at.step,
        loss.map_or_else(String::new, |loss| format!(", loss {loss:.4}")),
        bar.rate(),
        peak_mib(),
        snapshot.as_ref().map_or_else(String::new, |path| format!(", model in {}", path.display()))
    ));
    ui.result(&json!({
        "out": out.display().to_string(), "step": at.step, "steps": total, "images": at.images, "loss": loss,
        "images_per_s": bar.rate(), "parameters": trainer.parameters(), "peak_mib": peak_mib(),
        "device": device_name(device), "snapshot": snapshot.map(|path| path.display().to_string()),
    }))?;
    Ok(())
}

//! `gen convert`: a model in one form, written in another.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Globals;
use super::raw::RawArgs;
use super::ui::Ui;
use crate::error::Result;
use crate::model::convert::{Form, Settings, convert};
use crate::model::open::OpenOptions;

/// Write a model in another form
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen convert edm-cifar10-32x32-cond-vp.pkl cifar.safetensors\n  \
    gen convert checkpoint_8.pth subvp.safetensors --process subvp\n  \
    gen convert runs/ddpm my-ddpm --to diffusers\n  \
    gen convert runs/ddpm my-ddpm.pt\n  \
    gen convert inception.pth inception.safetensors --dtype f16\n\n\
    Sources: snapshots, run folders, folders of diffusers, checkpoints of EDM, score_sde, DiT and SiT\n\
    (--process and --shape say what those do not), and for `--to safetensors` any PyTorch checkpoint.\n\
    Nothing in a checkpoint is executed.\n\
    --dtype casts the floating-point tensors; without it they stay as they are.")]
pub struct ConvertArgs {
    /// The model: a snapshot, a run folder, a folder of diffusers or a checkpoint
    source: PathBuf,
    /// Where to write: a .safetensors file, a .pt file or a folder
    destination: PathBuf,
    /// The form [default: snapshot for a .safetensors file (safetensors if the source is no known model), torchscript for a .pt file, diffusers for a folder]
    #[arg(long, value_enum, value_name = "FORM")]
    to: Option<Form>,
    /// Which weights: a run's average, or ema or raw of a checkpoint [default: the averaged ones]
    #[arg(long, value_name = "NAME")]
    weights: Option<String>,
    /// Only the tensors below this name, which is taken off (--to safetensors)
    #[arg(long, value_name = "NAME")]
    part: Option<String>,
    /// Replace what is at the destination
    #[arg(long)]
    overwrite: bool,
    /// What a checkpoint does not say
    #[command(flatten)]
    raw: RawArgs,
}

/// Runs the command.
pub fn run(args: &ConvertArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    let form = match args.to {
        Some(form) => form,
        None => Form::of(&args.source, &args.destination)?,
    };
    let written = convert(&args.source, &args.destination, &settings(args, globals, form)?)?;
    for note in &written.notes {
        ui.say(format!("note: {note}"));
    }
    let name = form_name(form);
    ui.say(format!(
        "{} tensors of {} values, written to {} as {name}",
        written.tensors,
        written.values,
        args.destination.display()
    ));
    ui.result(&json!({
        "to": name, "tensors": written.tensors, "values": written.values, "notes": written.notes,
        "files": written.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>(),
    }))?;
    Ok(())
}

fn settings(args: &ConvertArgs, globals: &Globals, form: Form) -> Result<Settings> {
    let open = OpenOptions { weights: args.weights.clone(), raw: args.raw.spec(), ..OpenOptions::default() };
    let kind = globals.dtype.map(|dtype| dtype.autocast().unwrap_or(dtype.storage()));
    Ok(Settings { form, open, kind, part: args.part.clone(), overwrite: args.overwrite })
}

fn form_name(form: Form) -> &'static str {
    match form {
        Form::Snapshot => "snapshot",
        Form::Diffusers => "diffusers",
        Form::Safetensors => "safetensors",
        Form::TorchScript => "torchscript",
    }
}

//! `gen audio stats`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::super::ui::Ui;
use super::{ClipArgs, shown};
use crate::data::audio::{Clips, Part};
use crate::error::Kind;

/// Survey a dataset of sound
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen audio stats data/spoken-digits --length 4096\n  \
    gen audio stats sc09 --layout sc09 --json\n\n\
    Deviations of 0.05 to 0.2 are what diffusion models of sound are made for; an offset and silent or clipped \
    recordings spoil training.")]
pub struct StatsArgs {
    /// A folder, a zip archive, a list of files, or a file
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// How it is read
    #[command(flatten)]
    clips: ClipArgs,
    /// Channels [default: those of the first file]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    channels: Option<u16>,
}

/// The names of the columns.
const HEAD: &str =
    "part    files    clips  seconds shortest  longest     peak      rms      std   offset  clipped";

/// Runs the command.
pub fn run(args: &StatsArgs, ui: Ui) -> anyhow::Result<()> {
    let spec = args.clips.spec(args.channels.map(usize::from));
    let mut out = Map::new();
    for part in [Part::All, Part::Train, Part::Validation, Part::Test] {
        let clips = match Clips::open(&args.path, part, &spec) {
            Ok(clips) => clips,
            // A small set may have a part without files.
            Err(error) if part != Part::All && error.kind() == Kind::Data => continue,
            Err(error) => return Err(error.into()),
        };
        let stats = clips.stats()?;
        if part == Part::All {
            ui.line(HEAD)?;
        }
        let name = format!("{part:?}").to_lowercase();
        ui.line(format!(
            "{name:<10}{:>3}{:>9}{:>9.1}{:>9.3}{:>9.3}{:>9.3}{:>9.4}{:>9.4}{:>9.5}{:>8.2}%",
            clips.files(),
            clips.len(),
            stats.seconds,
            stats.shortest,
            stats.longest,
            stats.peak,
            stats.rms,
            stats.std,
            stats.dc,
            100.0 * stats.clipped
        ))?;
        let mut value = serde_json::to_value(&stats)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("files".into(), json!(clips.files()));
            object.insert("clips".into(), json!(clips.len()));
        }
        out.insert(name, value);
        if part == Part::All {
            for note in clips.notes().iter().chain(&stats.warnings()) {
                ui.warn(note);
            }
            let [channels, length] = clips.shape();
            let classes: Value = clips.class_names().into();
            out.insert("path".into(), json!(shown(&args.path)));
            out.insert("shape".into(), json!([channels, length]));
            out.insert("classes".into(), classes);
        }
    }
    ui.result(&Value::Object(out))?;
    Ok(())
}

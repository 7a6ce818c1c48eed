//! `gen audio info`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::ui::Ui;
use super::shown;
use crate::data::audio::SoundStats;
use crate::io::sound::SoundFile;

/// What sound files hold
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gen audio info a.wav b.flac\n  gen audio info a.wav --json")]
pub struct InfoArgs {
    /// WAV or FLAC files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(args: &InfoArgs, ui: Ui) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for path in &args.files {
        let file = SoundFile::open(path)?;
        let header = file.header();
        let sound = file.read()?;
        let stats = SoundStats::of(&sound.data, &shown(path), header.rate, header.channels);
        let db = |v: f64| if v > 0.0 { format!("{:.1} dB", 20.0 * v.log10()) } else { "silent".to_owned() };
        let plural = if header.channels == 1 { "" } else { "s" };
        ui.line(format!(
            "{}  {}, {} Hz, {} channel{plural}, {:.3} s ({} samples), peak {}, rms {}, offset {:.5}, at full scale {:.2}%",
            path.display(),
            header.encoding,
            header.rate,
            header.channels,
            header.seconds(),
            header.frames,
            db(stats.peak),
            db(stats.rms),
            stats.dc,
            100.0 * stats.clipped
        ))?;
        if header.streamed {
            ui.warn(format!("{}: its header does not know its length: read to the end", path.display()));
        }
        all.push(json!({
            "file": shown(path), "encoding": header.encoding.to_string(), "rate": header.rate,
            "channels": header.channels, "frames": header.frames, "seconds": header.seconds(),
            "streamed": header.streamed, "peak": stats.peak, "rms": stats.rms, "dc": stats.dc,
            "full_scale": stats.clipped, "silent": stats.silent > 0,
        }));
    }
    ui.result(&json!({ "files": all }))?;
    Ok(())
}

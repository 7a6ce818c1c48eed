//! `gen plot`: sound files as pictures.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Globals;
use super::ui::Ui;
use super::values::finite;
use crate::error::Error;
use crate::io::plot::{self, PlotOptions};
use crate::io::sound::SoundFile;
use crate::io::{atomic, png};

/// Draw a sound file: its waveform and its spectrogram
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen plot out/000000.wav --out 000000.png\n  \
    gen plot a.flac --out a.svg --range 60 --width 1200\n\n\
    The name of the picture chooses its form, .png or .svg. Colours are decibels below the loudest point.")]
pub struct PlotArgs {
    /// A WAV or FLAC file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to write
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// Width of the panels in pixels
    #[arg(long, default_value_t = 800, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=8192))]
    width: u32,
    /// Decibels below the loudest point that are black
    #[arg(long, default_value_t = 80.0, value_name = "DB", value_parser = finite)]
    range: f64,
    /// Size of the transform, a power of two [default: 512 up to 12 kHz, 1024 above]
    #[arg(long, value_name = "N", value_parser = power_of_two)]
    n_fft: Option<usize>,
}

fn power_of_two(text: &str) -> Result<usize, String> {
    let n = text.parse().ok().filter(|n: &usize| n.is_power_of_two() && (16..=1 << 16).contains(n));
    n.ok_or_else(|| "expected a power of two from 16 to 65536".to_owned())
}

/// Runs the command.
pub fn run(args: &PlotArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    let form = args.out.extension().map(|e| e.to_ascii_lowercase()).unwrap_or_default();
    if form != "png" && form != "svg" {
        return Err(Error::usage("a picture ends in .png or .svg")
            .at("--out")
            .why(format!("`{}` does not", args.out.display()))
            .into());
    }
    if args.range <= 0.0 {
        return Err(Error::usage("it must be above 0").at("--range").into());
    }
    atomic::check(&args.out)?;
    globals.start()?;
    let sound = SoundFile::open(&args.file)?.read()?;
    let options = PlotOptions { width: args.width as usize, range: args.range, n_fft: args.n_fft };
    let name = args.file.display().to_string();
    let place = |e: Error| e.at(&name);
    if form == "png" {
        png::write(&args.out, &plot::picture(&sound, &options).map_err(place)?, &[("Title", &name)])?;
    } else {
        atomic::write_bytes(&args.out, plot::svg(&sound, &name, &options).map_err(place)?.as_bytes())?;
    }
    let seconds = sound.frames() as f64 / f64::from(sound.rate);
    ui.result(&json!({ "out": args.out.display().to_string(), "seconds": seconds, "rate": sound.rate }))?;
    Ok(ui.line(format!("{}  ({seconds:.3} s at {} Hz)", args.out.display(), sound.rate))?)
}

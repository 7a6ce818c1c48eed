//! `gen audio convert`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::super::ui::Ui;
use super::{free, shown};
use crate::data::audio::AudioSpec;
use crate::data::audio::layout;
use crate::error::{Error, Result};
use crate::io::sound::{Sound, SoundFile};
use crate::io::wav::{self, Normalize, WavFormat, Written};
use crate::math::resample::Quality;

/// Write sound files in another rate, format or number of channels
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen audio convert a.flac a.wav\n  \
    gen audio convert recordings wav16k --rate 16000 --channels 1 --resample-quality best\n  \
    gen audio convert a.wav loud.wav --normalize peak --bit-depth 24\n\n\
    Without options samples stay as they are. A folder is converted file by file, with its sub-folders.")]
pub struct ConvertArgs {
    /// A WAV or FLAC file, or a folder of them
    source: PathBuf,
    /// The WAV file, or the folder, to write
    destination: PathBuf,
    /// Samples a second [default: those of the file]
    #[arg(long, value_name = "HZ", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Channels: 1 takes the mean of all, more repeat a single one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    channels: Option<u16>,
    /// Numbers in the file: 8, 16, 24 or 32 bits, or 32f (floating point)
    #[arg(long, value_enum, default_value_t, value_name = "BITS")]
    bit_depth: WavFormat,
    /// Filter for another rate
    #[arg(long, value_enum, default_value_t, value_name = "FILTER")]
    resample_quality: Quality,
    /// Scaling: peak to -1 dB, or root mean square to -18 dB
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    normalize: Normalize,
    /// Replace files that are there
    #[arg(long, alias = "force")]
    overwrite: bool,
}

impl ConvertArgs {
    fn one(&self, file: &SoundFile, to: &Path) -> Result<(Sound, Written)> {
        free(to, self.overwrite)?;
        let mut sound = file.read()?;
        match self.channels.map(usize::from) {
            None => {}
            Some(n) if n == sound.channels => {}
            Some(1) => sound = sound.mono(),
            Some(n) if sound.channels == 1 => {
                sound = Sound { channels: n, data: sound.data.repeat(n), ..sound };
            }
            Some(n) => {
                return Err(Error::data(format!("sound has {} channels", sound.channels))
                    .at(file.place())
                    .why(format!("{n} cannot be made of them"))
                    .hint("--channels 1 takes the mean of all"));
            }
        }
        if let Some(rate) = self.rate {
            sound = sound.resampled(rate, self.resample_quality).map_err(|e| e.at(file.place()))?;
        }
        self.normalize.apply(&mut sound);
        let written = wav::write_sound(to, &sound, self.bit_depth)?;
        Ok((sound, written))
    }
}

/// Runs the command.
pub fn run(args: &ConvertArgs, ui: Ui) -> anyhow::Result<()> {
    let jobs: Vec<(SoundFile, PathBuf)> = if args.source.is_dir() {
        let files =
            layout::find(&args.source, &AudioSpec { layout: layout_folder(), ..AudioSpec::default() })?;
        let open = |name: &String| -> Result<(SoundFile, PathBuf)> {
            let to = args.destination.join(Path::new(name).with_extension("wav"));
            Ok((SoundFile::open(&args.source.join(name))?, to))
        };
        files.entries.iter().map(|entry| open(&entry.file)).collect::<Result<_>>()?
    } else {
        let inside = args.destination.is_dir();
        let name = args.source.with_extension("wav").file_name().map(PathBuf::from).unwrap_or_default();
        let to = if inside { args.destination.join(name) } else { args.destination.clone() };
        vec![(SoundFile::open(&args.source)?, to)]
    };
    let bar = ui.bar("converting", jobs.len() as u64, "file");
    let mut bar = Some(bar).filter(|_| jobs.len() > 1);
    let (mut clipped, mut seconds, mut resampled) = (0, 0.0, 0usize);
    for (i, (file, to)) in jobs.iter().enumerate() {
        if args.source.is_dir()
            && let Some(parent) = to.parent()
        {
            std::fs::create_dir_all(parent).map_err(|e| Error::write(parent, &e))?;
        }
        let (sound, written) = args.one(file, to)?;
        if let Some(warning) = written.warning() {
            ui.warn(format!("{}: {warning}", to.display()));
        }
        clipped += written.clipped;
        resampled += usize::from(sound.rate != file.header().rate);
        seconds += sound.frames() as f64 / f64::from(sound.rate);
        if let Some(bar) = &mut bar {
            bar.set(i as u64 + 1);
        }
    }
    if let Some(bar) = &bar {
        bar.finish();
    }
    if resampled > 0 {
        ui.say(format!("note: {resampled} of {} files were resampled", jobs.len()));
    }
    ui.result(&json!({
        "out": shown(&args.destination), "files": jobs.len(), "seconds": seconds, "clipped": clipped,
        "resampled": resampled,
    }))?;
    let files = if jobs.len() == 1 { "1 file".to_owned() } else { format!("{} files", jobs.len()) };
    Ok(ui.line(format!("{}  ({files}, {seconds:.1} s)", args.destination.display()))?)
}

fn layout_folder() -> crate::data::audio::Layout {
    crate::data::audio::Layout::Folder
}

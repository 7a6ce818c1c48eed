//! `gen audio`: sound files and datasets of them.

use std::path::Path;

use clap::{Args, Subcommand};

use super::Globals;
use super::ui::Ui;
use crate::data::audio::{AudioSpec, Layout, Resampling, Window};
use crate::data::quantize::{QuantDecode, QuantKind, QuantScale, Quantizer};
use crate::error::{Error, Result};

mod convert;
mod info;
mod quantize;
mod stats;

/// Look at sound files, convert, quantise and survey them
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen audio info a.wav b.flac\n  \
    gen audio convert recordings wav16k --rate 16000 --channels 1\n  \
    gen audio stats data/spoken-digits --length 4096\n  \
    gen audio quantize a.wav --bits 8 --out a8.wav\n\n\
    WAV (8 to 32 bits, floats, any header) and FLAC are read, WAV is written.")]
pub struct AudioArgs {
    /// What to do
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What sound files hold: rate, channels, length, level
    Info(info::InfoArgs),
    /// Write sound files in another rate, format or number of channels
    Convert(convert::ConvertArgs),
    /// Survey a dataset: parts, lengths, level, offset, silence
    Stats(stats::StatsArgs),
    /// What a quantiser makes of a sound file
    Quantize(quantize::QuantizeArgs),
}

/// Runs the command.
pub fn run(args: &AudioArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    match &args.action {
        Action::Info(args) => info::run(args, ui),
        Action::Convert(args) => convert::run(args, ui),
        Action::Stats(args) => stats::run(args, ui),
        Action::Quantize(args) => quantize::run(args, globals, ui),
    }
}

/// How a dataset of sound is opened; shared with `gen eval-audio`.
#[derive(Debug, Clone, Args)]
pub struct ClipArgs {
    /// How files are arranged
    #[arg(long, value_enum, default_value_t, value_name = "LAYOUT")]
    pub layout: Layout,
    /// Samples a second [default: those of the layout, the network or the first file]
    #[arg(long, value_name = "HZ", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Samples of a clip [default: those of the layout, the network or the longest file]
    #[arg(long, value_name = "N", value_parser = super::values::positive)]
    pub length: Option<usize>,
    /// How files become clips [default: that of the layout, or file]
    #[arg(long, value_enum, value_name = "WINDOW")]
    pub window: Option<Window>,
    /// Filter for files of another rate
    #[arg(long, value_enum, default_value_t, value_name = "FILTER", alias = "resample-quality")]
    pub resample: Resampling,
    /// Refuse files of another rate
    #[arg(long, conflicts_with = "resample")]
    pub no_resample: bool,
}

impl ClipArgs {
    /// The settings.
    #[must_use]
    pub fn spec(&self, channels: Option<usize>) -> AudioSpec {
        AudioSpec {
            rate: self.rate,
            length: self.length,
            channels,
            layout: self.layout,
            window: self.window,
            resample: if self.no_resample { Resampling::Never } else { self.resample },
            ..AudioSpec::default()
        }
    }
}

/// A quantiser by its options.
#[derive(Debug, Clone, Copy, Args)]
pub struct QuantArgs {
    /// Curve of the quantiser
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub quant: QuantKind,
    /// Bits of a code, 1 to 16
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub bits: u32,
    /// How each sound is scaled before
    #[arg(long, value_enum, default_value_t, value_name = "SCALE")]
    pub scale: QuantScale,
    /// Which value a code stands for
    #[arg(long, value_enum, default_value_t, value_name = "VALUE")]
    pub decode: QuantDecode,
}

impl QuantArgs {
    /// The quantiser.
    #[must_use]
    pub fn quantizer(&self) -> Quantizer {
        Quantizer { kind: self.quant, bits: self.bits, scale: self.scale, decode: self.decode }
    }
}

/// `lpc:32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lpc(pub usize);

impl std::str::FromStr for Lpc {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let order = text.strip_prefix("lpc:").unwrap_or(text).parse().ok();
        order
            .filter(|n| (1..=1024).contains(n))
            .map(Lpc)
            .ok_or_else(|| "expected lpc:N with N from 1 to 1024".to_owned())
    }
}

/// Refuses to replace a file unless that is wanted.
fn free(path: &Path, overwrite: bool) -> Result<()> {
    if !overwrite && path.exists() {
        return Err(Error::run("a file is there already")
            .at(path.display())
            .hint("--overwrite replaces it; or write elsewhere"));
    }
    Ok(())
}

/// A path as people name it.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

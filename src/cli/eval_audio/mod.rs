//! `gen eval-audio`: how far sounds are from real ones.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Globals;
use super::audio::{ClipArgs, Lpc, QuantArgs};
use super::ui::{Bar, Ui};
use super::values::{finite, positive};
use crate::data::audio::{AudioSpec, Clips, Part};
use crate::error::{Error, Result};
use crate::metric::audio::evaluate::{SoundMetric, SoundOptions, evaluate};
use crate::metric::audio::features::SoundExtractor;
use baseline::{Baseline, baseline};
pub use features::SoundChoice;

mod baseline;
mod features;
mod report;

/// Measure sounds against real ones: FID, IS, mIS, AM, Frechet audio distance, ...
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen eval-audio --audio out --ref data/spoken-digits --features spoken-digits\n  \
    gen eval-audio --audio out --ref sc09 --layout sc09 --features resnext:resnext.safetensors --metrics fid,is,mis,am,ndb\n  \
    gen eval-audio --audio out --ref real --features torchscript:vggish.pt --rate 16000 --metrics fad,fad-inf --per-file\n  \
    gen eval-audio --audio vocoded --ref recordings --metrics stft,si-sdr,lsd\n  \
    gen eval-audio --audio data/spoken-digits --split test --length 4096 --baseline lpc:32\n\n\
    Sounds: a folder or zip of WAV and FLAC files, a list of files, or a file.\n\
    `is_ref` is what the published script of SC09 computes as Inception Score, `is` the standard one.\n\
    A distance without its network, reference and number of sounds is no number: report all.")]
pub struct EvalAudioArgs {
    /// The sounds to measure
    #[arg(long, value_name = "PATH", alias = "gen", alias = "samples")]
    pub audio: PathBuf,
    /// Part of them
    #[arg(long, value_enum, default_value_t, value_name = "PART")]
    pub split: Part,
    /// Real sounds
    #[arg(long = "ref", value_name = "PATH", alias = "reference")]
    pub reference: Option<PathBuf>,
    /// Part of the real sounds [default: train where lists or folders say which files that is, otherwise all]
    #[arg(long, value_enum, value_name = "PART")]
    pub ref_split: Option<Part>,
    /// How sounds become features: spoken-digits, resnext:FILE (SC09) or torchscript:FILE
    #[arg(long, value_name = "NAME", alias = "classifier", alias = "embed")]
    pub features: Option<SoundChoice>,
    /// What to measure [default: fid,is,mis,am with a classifier, fad with a module, none with --baseline]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub metrics: Vec<SoundMetric>,
    /// Also figures of each sound
    #[arg(long, alias = "indiv")]
    pub per_file: bool,
    /// Bits per sample of a linear predictor of order N, fitted to the reference, or to the part for training of the same set
    #[arg(long, value_name = "lpc:N")]
    pub baseline: Option<Lpc>,
    /// Quantiser of the baseline
    #[command(flatten)]
    pub quant: QuantArgs,
    /// How sounds are read
    #[command(flatten)]
    pub clips: ClipArgs,
    /// Cells of NDB
    #[arg(long, default_value_t = 50, value_name = "K", value_parser = positive)]
    pub cells: usize,
    /// Compute a Frechet audio distance from fewer frames than a covariance needs
    #[arg(long)]
    pub allow_singular: bool,
    /// Seed of random pairs, draws and cells
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    pub seed: u64,
    /// Sounds in one call of the network
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = positive)]
    pub batch: usize,
    /// Exit with code 1 if FID, FAD, the STFT distance or the baseline (the first that is asked for) is above this
    #[arg(long, value_name = "VALUE", value_parser = finite)]
    pub max: Option<f64>,
}

impl EvalAudioArgs {
    /// The metrics, those of the kind of features where none are named.
    fn metrics(&self) -> Vec<SoundMetric> {
        use SoundMetric::{Am, Fad, Fid, Is, Mis};
        match &self.features {
            _ if !self.metrics.is_empty() => self.metrics.clone(),
            Some(SoundChoice::TorchScript(_)) => vec![Fad],
            // Without a reference there is still something to say.
            Some(_) if self.reference.is_none() => vec![Is, Mis],
            Some(_) => vec![Fid, Is, Mis, Am],
            None => Vec::new(),
        }
    }
}

/// Runs the command.
pub fn run(args: &EvalAudioArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    let metrics = args.metrics();
    if metrics.is_empty() && args.baseline.is_none() {
        return Err(Error::usage("nothing to measure")
            .at("--features")
            .why("neither features, metrics of pairs nor a baseline are asked for")
            .hint("give --features spoken-digits, --metrics stft or --baseline lpc:32")
            .into());
    }
    if args.features.is_none() && metrics.iter().any(|m| !m.of_pairs()) {
        return Err(Error::usage("the metrics asked for need features")
            .at("--features")
            .hint("there are spoken-digits, resnext:FILE and torchscript:FILE")
            .into());
    }
    if args.reference.is_none() && metrics.iter().any(|m| m.needs_reference()) {
        return Err(Error::usage("no reference is given").at("--ref").hint("name real sounds").into());
    }
    let limited = |m: &SoundMetric| matches!(m, SoundMetric::Fid | SoundMetric::Fad | SoundMetric::Stft);
    if args.max.is_some() && args.baseline.is_none() && !metrics.iter().any(limited) {
        return Err(Error::usage("a limit without a figure")
            .at("--max")
            .hint("it holds for fid, fad, stft or --baseline, the first of them that is asked for")
            .into());
    }
    let device = globals.start()?;
    let start = std::time::Instant::now();
    let extractor = args.features.as_ref().map(|choice| choice.open(device)).transpose()?;
    let spec = spec(args, extractor.as_ref(), &metrics)?;
    let sounds = Clips::open(&args.audio, args.split, &spec)?;
    // The reference is brought to the rate of the sounds.
    let spec = AudioSpec { rate: spec.rate.or(Some(sounds.rate())), ..spec };
    let reference = args.reference.as_ref().map(|path| real(path, args.ref_split, &spec)).transpose()?;
    let options = SoundOptions {
        metrics: metrics.clone(),
        seed: args.seed,
        batch: args.batch,
        cells: args.cells,
        allow_singular: args.allow_singular,
        per_file: args.per_file,
    };
    let mut bar: Option<Bar> = None;
    let mut progress = |done: usize, total: usize| {
        bar.get_or_insert_with(|| ui.bar("evaluating", total as u64, "sound")).set(done as u64);
    };
    let report = evaluate(&sounds, reference.as_ref(), extractor.as_ref(), &options, &mut progress)?;
    if let Some(bar) = &bar {
        bar.finish();
    }
    let found = args.baseline.map(|Lpc(order)| predictors(args, &sounds, &spec, order)).transpose()?;
    for note in &report.notes {
        ui.warn(note);
    }
    report::print(&report, found.as_ref(), args, ui, start.elapsed().as_secs_f64())?;
    let measured = report.fid.or(report.fad).or(report.mr_stft.map(|d| d.total)).or(found.map(|b| b.bits));
    match (args.max, measured) {
        (Some(max), Some(value)) if value > max => {
            let error =
                Error::run(format!("the figure is {value:.4}")).at("--max").why(format!("{max} was allowed"));
            Err(error.hint("the sounds are worse than the limit allows; the figures are those above").into())
        }
        _ => Ok(()),
    }
}

/// How sounds are opened: as the network needs them.
fn spec(
    args: &EvalAudioArgs,
    extractor: Option<&SoundExtractor>,
    metrics: &[SoundMetric],
) -> Result<AudioSpec> {
    // Pairs are compared channel by channel, everything else is of one channel.
    let pairs = extractor.is_none() && metrics.iter().any(|m| m.of_pairs());
    let mut spec = args.clips.spec(if pairs { None } else { Some(1) });
    if let Some(extractor) = extractor {
        if let (Some(wanted), Some(given)) = (extractor.rate, spec.rate)
            && wanted != given
        {
            return Err(Error::usage(format!("`{}` takes sound of {wanted} Hz", extractor.name))
                .at("--rate")
                .why(format!("{given} Hz are given"))
                .hint("leave --rate out: files are resampled"));
        }
        spec.rate = extractor.rate.or(spec.rate);
        spec.length = extractor.length.or(spec.length);
    }
    Ok(spec)
}

/// The real sounds: those for training where the set itself says which these are, as published figures take them.
fn real(path: &Path, part: Option<Part>, spec: &AudioSpec) -> Result<Clips> {
    if let Some(part) = part {
        return Clips::open(path, part, spec);
    }
    let all = Clips::open(path, Part::All, spec)?;
    if all.parts_named() { Clips::open(path, Part::Train, spec) } else { Ok(all) }
}

/// The linear predictors, fitted to the reference or to the training part of the same set.
fn predictors(args: &EvalAudioArgs, sounds: &Clips, spec: &AudioSpec, order: usize) -> Result<Baseline> {
    let train = match &args.reference {
        Some(path) => real(path, args.ref_split, spec)?,
        None => {
            let part = args.ref_split.unwrap_or(Part::Train);
            if args.split == part || args.split == Part::All || part == Part::All {
                return Err(Error::usage("the predictor would be measured on what it is fitted to")
                    .at("--baseline")
                    .hint("name another part: --split test, or real sounds with --ref"));
            }
            Clips::open(&args.audio, part, spec)?
        }
    };
    baseline(&train, sounds, args.quant.quantizer(), order, args.batch)
}

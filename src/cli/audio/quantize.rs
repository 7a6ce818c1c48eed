//! `gen audio quantize`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tch::Kind;

use super::super::Globals;
use super::super::ui::Ui;
use super::{QuantArgs, free, shown};
use crate::data::quantize::QuantScale;
use crate::error::Error;
use crate::io::wav::{self, WavFormat};

/// What a quantiser makes of a sound file
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen audio quantize a.wav\n  \
    gen audio quantize a.wav --quant linear --bits 6 --out a6.wav\n  \
    gen audio quantize a.wav --scale minmax --decode floor --json\n\n\
    The ratio of signal to noise is that of the sound as the quantiser scales it. Published likelihoods of SaShiMi have \
    --scale minmax.")]
pub struct QuantizeArgs {
    /// A WAV or FLAC file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write the sound that the codes stand for
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace that file
    #[arg(long, alias = "force")]
    overwrite: bool,
    /// The quantiser
    #[command(flatten)]
    quant: QuantArgs,
}

/// Runs the command.
pub fn run(args: &QuantizeArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    if let Some(out) = &args.out {
        free(out, args.overwrite)?;
    }
    let device = globals.start()?;
    let wave = wav::read(&args.file)?;
    let quantizer = args.quant.quantizer();
    let x = wave.data.f_to_device(device)?;
    if x.numel() == 0 {
        return Err(Error::data("sound has no samples").at(args.file.display()).into());
    }
    let range = x.f_max()?.f_double_value(&[])? - x.f_min()?.f_double_value(&[])?;
    if quantizer.scale == QuantScale::Minmax && range <= 0.0 {
        return Err(Error::data("sound is silent")
            .at(args.file.display())
            .why("its largest and smallest sample are equal, so that it cannot be scaled")
            .hint("take that file out, or use --scale none")
            .into());
    }
    let codes = quantizer.encode(&x)?;
    let decoded = quantizer.decode(&codes)?;
    // What the quantiser saw, for the noise it added.
    let scaled = quantizer.scaled(&x, None)?.f_to_kind(Kind::Double)?;
    let power = |t: &tch::Tensor| -> crate::error::Result<f64> {
        Ok(t.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?)
    };
    let noise = power(&decoded.f_to_kind(Kind::Double)?.f_sub(&scaled)?)?;
    let snr = 10.0 * (power(&scaled)? / noise.max(1e-300)).log10();
    let counts = codes.f_flatten(0, -1)?.f_bincount::<tch::Tensor>(None, quantizer.levels())?;
    let counts = crate::io::bytes::tensor_to_f64(&counts)?;
    let total: f64 = counts.iter().sum();
    let entropy: f64 = counts.iter().filter(|c| **c > 0.0).map(|c| -c / total * (c / total).log2()).sum();
    let used = counts.iter().filter(|c| **c > 0.0).count();
    if let Some(out) = &args.out {
        wav::write(out, &decoded, wave.rate, WavFormat::Pcm16)?;
    }
    ui.result(&json!({
        "file": shown(&args.file), "quantizer": quantizer, "snr_db": snr, "codes_used": used,
        "entropy_bits": entropy, "out": args.out.as_deref().map(shown),
    }))?;
    ui.line(format!(
        "{}  SNR {snr:.2} dB, {used} of {} codes used, {entropy:.3} bits a sample without regard to order",
        args.file.display(),
        quantizer.levels()
    ))?;
    if let Some(out) = &args.out {
        ui.line(format!("{}  (the sound of the codes)", out.display()))?;
    }
    Ok(())
}

//! WAV files.
//!
//! Reading: integers of b bits are `v / 2^(b-1)` (8 bits are unsigned in the file and centred here), floating-point
//! numbers are taken as they are; channels keep their order. FLAC files are read by the same call. Writing:
//! `clamp(round(x 2^(b-1)))`, ties to even, so that all codes survive reading and writing and 1.0 becomes the
//! largest code; 32-bit floating-point numbers are written as they are. Nothing is scaled silently, and what is
//! clipped is counted.

use std::io::{Cursor, Seek, Write};
use std::path::Path;

use hound::{SampleFormat, WavSpec, WavWriter};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::atomic;
use super::sound::{Sound, SoundFile};
use crate::error::{Error, Result};

/// A sound as a tensor.
#[derive(Debug)]
pub struct Wave {
    /// Samples `[C, T]`, f32 on the CPU, in [-1, 1].
    pub data: Tensor,
    /// Samples a second.
    pub rate: u32,
}

/// Numbers in a WAV file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
pub enum WavFormat {
    /// Unsigned integers of 8 bits.
    #[serde(rename = "8")]
    #[value(name = "8", alias = "pcm8", alias = "u8")]
    Pcm8,
    /// Integers of 16 bits.
    #[default]
    #[serde(rename = "16")]
    #[value(name = "16", alias = "pcm16")]
    Pcm16,
    /// Integers of 24 bits.
    #[serde(rename = "24")]
    #[value(name = "24", alias = "pcm24")]
    Pcm24,
    /// Integers of 32 bits.
    #[serde(rename = "32")]
    #[value(name = "32", alias = "pcm32")]
    Pcm32,
    /// Floating-point numbers of 32 bits.
    #[serde(rename = "32f")]
    #[value(name = "32f", alias = "f32", alias = "float")]
    F32,
}

impl WavFormat {
    /// Bits of a number.
    #[must_use]
    pub fn bits(self) -> u16 {
        match self {
            WavFormat::Pcm8 => 8,
            WavFormat::Pcm16 => 16,
            WavFormat::Pcm24 => 24,
            WavFormat::Pcm32 | WavFormat::F32 => 32,
        }
    }
}

/// How sound is scaled before it is written (the conventions of audiocraft).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// Not at all.
    #[default]
    None,
    /// The largest magnitude becomes -1 dB.
    Peak,
    /// The root mean square becomes -18 dB.
    Rms,
}

impl Normalize {
    /// Scales `sound`; silence stays silence.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    pub fn apply(self, sound: &mut Sound) {
        let data = &mut sound.data;
        let (level, decibels) = match self {
            Normalize::None => return,
            Normalize::Peak => (data.iter().fold(0.0, |m: f64, v| m.max(f64::from(v.abs()))), -1.0),
            Normalize::Rms => {
                let power: f64 = data.iter().map(|v| f64::from(*v).powi(2)).sum();
                ((power / data.len().max(1) as f64).sqrt(), -18.0)
            }
        };
        if level > 0.0 {
            let gain = 10f64.powf(decibels / 20.0) / level;
            data.iter_mut().for_each(|v| *v = (f64::from(*v) * gain) as f32);
        }
    }
}

/// What happened to the samples on their way into a file.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Written {
    /// Samples of all channels.
    pub samples: u64,
    /// Those that were beyond what the format can hold (for floating-point numbers: beyond [-1, 1], but kept).
    pub clipped: u64,
    /// Largest magnitude.
    pub peak: f32,
}

impl Written {
    /// What a person should know: `clipped 123 samples (0.04%), peak 1.27`.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn warning(&self) -> Option<String> {
        let share = 100.0 * self.clipped as f64 / self.samples.max(1) as f64;
        (self.clipped > 0)
            .then(|| format!("clipped {} samples ({share:.2}%), peak {:.2}", self.clipped, self.peak))
    }
}

/// Reads the sound file at `path`, WAV or FLAC.
///
/// # Errors
/// A data error that names the file: it is missing, of a kind or codec that is not read, damaged, or not finite.
pub fn read(path: &Path) -> Result<Wave> {
    let sound = SoundFile::open(path)?.read()?;
    Ok(Wave { data: sound.to_tensor()?, rate: sound.rate })
}

/// Writes `wave` `[C, T]` or `[T]` to `path`, atomically.
///
/// # Errors
/// Where a sample is not finite (it is named), there are too many channels or samples, or the file cannot be written.
pub fn write(path: &Path, wave: &Tensor, rate: u32, format: WavFormat) -> Result<Written> {
    write_sound(path, &Sound::from_tensor(wave, rate)?, format)
}

/// As [`write`], from samples in memory.
///
/// # Errors
/// As [`write`].
pub fn write_sound(path: &Path, sound: &Sound, format: WavFormat) -> Result<Written> {
    let mut written = Written::default();
    atomic::write(path, |out| {
        written = encode_to(out, sound, format).map_err(|e| e.at(path.display()))?;
        Ok(())
    })?;
    Ok(written)
}

/// The whole file as bytes.
///
/// # Errors
/// As [`write`].
pub fn encode(sound: &Sound, format: WavFormat) -> Result<(Vec<u8>, Written)> {
    let mut out = Cursor::new(Vec::new());
    let written = encode_to(&mut out, sound, format)?;
    Ok((out.into_inner(), written))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
fn encode_to(out: &mut (impl Write + Seek), sound: &Sound, format: WavFormat) -> Result<Written> {
    let frames = sound.frames();
    if let Some(i) = sound.data.iter().position(|v| !v.is_finite()) {
        let (c, t) = (i / frames, i % frames);
        return Err(Error::run("sound is not finite")
            .why(format!("sample {t} of channel {c} is {}", sound.data[i]))
            .hint("the model or its settings are at fault; nothing was written"));
    }
    let bytes = sound.data.len() as u64 * u64::from(format.bits() / 8);
    let channels = u16::try_from(sound.channels).ok().filter(|c| (1..=1024).contains(c));
    let (Some(channels), true) = (channels, bytes < u64::from(u32::MAX) - 100) else {
        return Err(Error::run("cannot write WAV file")
            .why(format!("{} channels with {frames} samples each do not fit the format", sound.channels))
            .hint("write shorter pieces"));
    };
    let float = format == WavFormat::F32;
    let sample_format = if float { SampleFormat::Float } else { SampleFormat::Int };
    let spec = WavSpec { channels, sample_rate: sound.rate, bits_per_sample: format.bits(), sample_format };
    let failed = |e: hound::Error| match e {
        hound::Error::IoError(e) => Error::run("cannot write").why(crate::error::io_reason(&e)),
        other => Error::run("cannot write WAV file").why(other.to_string().to_lowercase()),
    };
    let mut written = Written { samples: sound.data.len() as u64, ..Written::default() };
    let mut writer = WavWriter::new(out, spec).map_err(failed)?;
    let scale = 2f64.powi(i32::from(format.bits()) - 1);
    for t in 0..frames {
        for c in 0..sound.channels {
            let x = sound.data[c * frames + t];
            written.peak = written.peak.max(x.abs());
            if float {
                written.clipped += u64::from(x.abs() > 1.0);
                writer.write_sample(x).map_err(failed)?;
            } else {
                let v = (f64::from(x) * scale).round_ties_even();
                // Full scale itself has no code; one step less is no clipping that anybody hears.
                written.clipped += u64::from(v > scale || v < -scale);
                writer.write_sample(v.clamp(-scale, scale - 1.0) as i32).map_err(failed)?;
            }
        }
    }
    writer.finalize().map_err(failed)?;
    Ok(written)
}

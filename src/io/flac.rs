//! FLAC files, decoded by the crate `claxon`.

use std::io::Cursor;

use claxon::{FlacReader, FlacReaderOptions};

use super::sound::{Encoding, Header};
use crate::error::{Error, Result};

fn bad(error: &claxon::Error) -> Error {
    Error::data("cannot decode FLAC file")
        .why(error.to_string().to_lowercase())
        .hint("write that file again, or take it out")
}

fn open(bytes: &[u8]) -> Result<FlacReader<Cursor<&[u8]>>> {
    let options = FlacReaderOptions { read_vorbis_comment: false, ..FlacReaderOptions::default() };
    FlacReader::new_ext(Cursor::new(bytes), options).map_err(|e| bad(&e))
}

/// What the FLAC file `bytes` holds.
///
/// # Errors
/// Where it is damaged, or does not say how long it is and cannot be decoded.
pub fn header(bytes: &[u8]) -> Result<Header> {
    let info = open(bytes)?.streaminfo();
    let streamed = info.samples.is_none();
    let frames = match info.samples {
        Some(frames) => usize::try_from(frames).unwrap_or(usize::MAX),
        None => count(bytes)?,
    };
    // A sample takes at least a fraction of a bit: a header may claim anything.
    if frames / 0x1_0000 > bytes.len() {
        return Err(Error::data("damaged FLAC file")
            .why(format!("{frames} samples in {} bytes", bytes.len()))
            .hint("write that file again, or take it out"));
    }
    let bits = u16::try_from(info.bits_per_sample).unwrap_or(32);
    let channels = info.channels as usize;
    Ok(Header { channels, rate: info.sample_rate, frames, encoding: Encoding::Flac(bits), streamed })
}

fn count(bytes: &[u8]) -> Result<usize> {
    let (mut reader, mut frames, mut buffer) = (open(bytes)?, 0, Vec::new());
    let mut blocks = reader.blocks();
    while let Some(block) = blocks.read_next_or_eof(buffer).map_err(|e| bad(&e))? {
        frames += block.duration() as usize;
        buffer = block.into_buffer();
    }
    Ok(frames)
}

/// The samples `start .. end` of every channel, channel after channel: `v / 2^(b-1)` for b bits.
///
/// # Errors
/// Where the file is damaged or ends early.
#[allow(clippy::cast_possible_truncation)]
pub fn samples(bytes: &[u8], start: usize, end: usize) -> Result<Vec<f32>> {
    let mut reader = open(bytes)?;
    let info = reader.streaminfo();
    let (channels, frames) = (info.channels as usize, end - start);
    let scale = 1.0 / 2f64.powi(info.bits_per_sample as i32 - 1);
    let mut out = vec![0f32; channels * frames];
    let (mut blocks, mut at, mut buffer) = (reader.blocks(), 0, Vec::new());
    while at < end {
        let Some(block) = blocks.read_next_or_eof(buffer).map_err(|e| bad(&e))? else {
            return Err(Error::data("damaged FLAC file")
                .why(format!("it ends after {at} samples"))
                .hint("write that file again, or take it out"));
        };
        if block.channels() as usize != channels {
            return Err(Error::data("FLAC file changes its number of channels").hint("write that file again"));
        }
        let len = block.duration() as usize;
        let (from, to) = (start.max(at), end.min(at + len));
        for c in 0..channels {
            let values = block.channel(c as u32);
            for t in from..to {
                out[c * frames + t - start] = (f64::from(values[t - at]) * scale) as f32;
            }
        }
        at += len;
        buffer = block.into_buffer();
    }
    Ok(out)
}

//! The chunks of a WAV file: what it holds and where its samples are.
//!
//! Samples themselves are decoded by the crate `hound`, which is given a plain header of what was found: so files
//! are read that it refuses by their headers (lengths that were never filled in, additional bytes, RF64), 64-bit
//! floating-point numbers, and parts of long files.

use std::io::{Cursor, Read};

use super::sound::{Encoding, Header};
use crate::error::{Error, Result};

/// The layout of a WAV file.
#[derive(Debug, Clone, Copy)]
pub struct Wav {
    /// What it holds.
    pub header: Header,
    /// Where samples begin.
    start: usize,
}

/// What to do about a sound file that cannot be read.
const CONVERT: &str = "convert it: ffmpeg -i IN -c:a pcm_s16le OUT.wav";
/// The last 14 bytes of a sub-format that stands for an ordinary format tag.
const SUFFIX: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];
/// hound counts bytes in 32 bits; longer data goes to it in pieces of this many frames.
const PIECE: usize = 1 << 20;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The name of a codec that is not read.
fn codec(tag: u16) -> &'static str {
    match tag {
        0x0002 => "Microsoft ADPCM",
        0x0006 => "A-law",
        0x0007 => "mu-law",
        0x0011 => "IMA ADPCM",
        0x0031 => "GSM 6.10",
        0x0050 | 0x0055 => "MPEG audio",
        0x00ff | 0x1610 => "AAC",
        0x674f..=0x6771 => "Vorbis",
        0xf1ac => "FLAC in WAV",
        _ => "of a kind that is not known",
    }
}

/// What a file that is no WAV is, by its first bytes.
fn other_kind(bytes: &[u8]) -> Error {
    let starts = |mark: &[u8]| bytes.starts_with(mark);
    let mp3 = starts(b"ID3") || (bytes.len() > 1 && bytes[0] == 0xff && bytes[1] & 0xe0 == 0xe0);
    let kind = if bytes.is_empty() {
        return Error::data("no sound file").why("it is empty").hint("write that file again, or take it out");
    } else if starts(b"RIFX") {
        "a big-endian WAV file"
    } else if starts(b"OggS") {
        "an Ogg file"
    } else if starts(b"FORM") {
        "an AIFF file"
    } else if starts(b"caff") {
        "a CAF file"
    } else if starts(b"riff\x2e\x91\xcf\x11") {
        "a Wave64 file"
    } else if bytes.get(4..8) == Some(b"ftyp") {
        "an MPEG-4 file"
    } else if mp3 {
        "an MP3 file"
    } else {
        return Error::data("no sound file").why("it is neither WAV nor FLAC").hint(CONVERT);
    };
    Error::data("sound format is not read").why(format!("it is {kind}, WAV and FLAC are read")).hint(CONVERT)
}

/// Finds out what the WAV file `bytes` holds.
///
/// # Errors
/// Where it is another kind of file (it is named), is damaged, or has a codec that is not read.
pub fn parse(bytes: &[u8]) -> Result<Wav> {
    let riff = bytes.starts_with(b"RIFF") || bytes.starts_with(b"RF64") || bytes.starts_with(b"BW64");
    if !riff || bytes.get(8..12) != Some(b"WAVE") {
        return Err(other_kind(bytes));
    }
    let damaged =
        |why: &str| Error::data("damaged WAV file").why(why).hint("write that file again, or take it out");
    let unfinished = matches!(u32_at(bytes, 4), 0 | u32::MAX);
    let (mut format, mut long, mut at) = (None, None, 12);
    while at + 8 <= bytes.len() {
        let (id, size, body) = (&bytes[at..at + 4], u32_at(bytes, at + 4), at + 8);
        let rest = bytes.len() - body;
        match id {
            b"ds64" if rest >= 16 => long = Some(u64_at(bytes, body + 8)),
            b"fmt " => {
                let end = body.saturating_add(size as usize).min(bytes.len());
                format = Some(read_format(&bytes[body..end])?);
            }
            b"data" => {
                let Some(format) = format else { return Err(damaged("its data comes before its format")) };
                let told = match (size, long) {
                    (u32::MAX, Some(long)) => usize::try_from(long).unwrap_or(usize::MAX),
                    (0, _) if unfinished => usize::MAX,
                    _ => size as usize,
                };
                let block = format.block();
                let frames = told.min(rest) / block;
                let header = Header {
                    channels: format.channels,
                    rate: format.rate,
                    frames,
                    encoding: format.encoding,
                    streamed: told > rest,
                };
                return Ok(Wav { header, start: body });
            }
            _ => {}
        }
        // Chunks are padded to an even length.
        at = body.saturating_add(size as usize).saturating_add(size as usize & 1);
    }
    Err(damaged(if format.is_some() {
        "it has no samples (no `data` chunk)"
    } else {
        "it has no `fmt ` chunk"
    }))
}

#[derive(Debug, Clone, Copy)]
struct Format {
    channels: usize,
    rate: u32,
    encoding: Encoding,
}

impl Format {
    fn block(&self) -> usize {
        self.channels * sample_bytes(self.encoding)
    }
}

fn sample_bytes(encoding: Encoding) -> usize {
    match encoding {
        Encoding::Pcm(bits) | Encoding::Float(bits) | Encoding::Flac(bits) => usize::from(bits) / 8,
    }
}

fn read_format(chunk: &[u8]) -> Result<Format> {
    let bad =
        |why: String| Error::data("damaged WAV file").why(why).hint("write that file again, or take it out");
    if chunk.len() < 16 {
        return Err(bad(format!("its `fmt ` chunk has {} bytes", chunk.len())));
    }
    let (mut tag, channels, rate) = (u16_at(chunk, 0), u16_at(chunk, 2), u32_at(chunk, 4));
    let (block, bits) = (u16_at(chunk, 12), u16_at(chunk, 14));
    if tag == 0xfffe {
        if chunk.len() < 40 || chunk[26..40] != SUFFIX {
            return Err(Error::data("unsupported sub-format")
                .why("its extended header names no ordinary format")
                .hint(CONVERT));
        }
        tag = u16_at(chunk, 24);
    }
    if !matches!(tag, 1 | 3) {
        return Err(Error::data(format!("unsupported codec 0x{tag:04x}"))
            .why(format!("its samples are {}", codec(tag)))
            .hint(CONVERT));
    }
    if channels == 0 || rate == 0 || bits == 0 || block % channels != 0 {
        return Err(bad(format!("{channels} channels, {rate} Hz, {bits} bits, blocks of {block} bytes")));
    }
    // What does not fill its container lies at the upper end of it, so that the container is what counts.
    let container = (block / channels).saturating_mul(8);
    let encoding = match (tag, container) {
        (1, 8 | 16 | 24 | 32) if bits <= container => Encoding::Pcm(container),
        (3, 32 | 64) if bits == container => Encoding::Float(container),
        _ => {
            let kind = if tag == 1 { "integers" } else { "floating-point numbers" };
            return Err(Error::data(format!("unsupported WAV file with {kind} of {bits} bits"))
                .why(format!(
                    "in {container} bits; integers of 8, 16, 24 or 32 bits and 32- or 64-bit floats are read"
                ))
                .hint(CONVERT));
        }
    };
    Ok(Format { channels: usize::from(channels), rate, encoding })
}

impl Wav {
    /// The samples `start .. end` of every channel, channel after channel. An integer of b bits is `v / 2^(b-1)`.
    ///
    /// # Errors
    /// Where the data cannot be decoded.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    pub fn samples(&self, bytes: &[u8], start: usize, end: usize) -> Result<Vec<f32>> {
        let (channels, frames) = (self.header.channels, end - start);
        let block = channels * sample_bytes(self.header.encoding);
        let data = &bytes[self.start + start * block..self.start + end * block];
        let mut out = vec![0f32; channels * frames];
        let mut put = |i: usize, v: f32| out[i % channels * frames + i / channels] = v;
        if self.header.encoding == Encoding::Float(64) {
            for (i, b) in data.chunks_exact(8).enumerate() {
                put(i, f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32);
            }
            return Ok(out);
        }
        let mut i = 0;
        for piece in data.chunks(PIECE * block) {
            let head = plain_header(&self.header, piece.len());
            let reader = hound::WavReader::new(Cursor::new(head).chain(piece));
            let mut reader = reader.map_err(|e| decode_error(&e))?;
            if let Encoding::Pcm(bits) = self.header.encoding {
                let scale = 1.0 / 2f64.powi(i32::from(bits) - 1);
                for v in reader.samples::<i32>() {
                    put(i, (f64::from(v.map_err(|e| decode_error(&e))?) * scale) as f32);
                    i += 1;
                }
            } else {
                for v in reader.samples::<f32>() {
                    put(i, v.map_err(|e| decode_error(&e))?);
                    i += 1;
                }
            }
        }
        Ok(out)
    }
}

fn decode_error(error: &hound::Error) -> Error {
    Error::data("cannot decode WAV file").why(error.to_string().to_lowercase()).hint(CONVERT)
}

/// The 44 bytes before `size` bytes of samples.
#[allow(clippy::cast_possible_truncation)]
fn plain_header(header: &Header, size: usize) -> Vec<u8> {
    let (tag, bits) = match header.encoding {
        Encoding::Float(bits) => (3u16, bits),
        Encoding::Pcm(bits) | Encoding::Flac(bits) => (1, bits),
    };
    let block = header.channels as u16 * (bits / 8);
    let mut out = Vec::with_capacity(44);
    out.extend(b"RIFF");
    out.extend((size as u32 + 36).to_le_bytes());
    out.extend(b"WAVEfmt \x10\0\0\0");
    out.extend(tag.to_le_bytes());
    out.extend((header.channels as u16).to_le_bytes());
    out.extend(header.rate.to_le_bytes());
    out.extend(header.rate.wrapping_mul(u32::from(block)).to_le_bytes());
    out.extend(block.to_le_bytes());
    out.extend(bits.to_le_bytes());
    out.extend(b"data");
    out.extend((size as u32).to_le_bytes());
    out
}

//! Sound in memory, and sound files of any kind that is read, told apart by their content.

use std::path::Path;

use tch::{Kind, Tensor};

use super::bytes::{Bytes, tensor_from_bytes};
use super::{flac, wav_header};
use crate::error::{Error, Result};

/// How samples lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// WAV with integers in containers of this many bits.
    Pcm(u16),
    /// WAV with floating-point numbers of this many bits.
    Float(u16),
    /// FLAC with integers of this many bits.
    Flac(u16),
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Encoding::Pcm(bits) => write!(f, "{bits}-bit PCM"),
            Encoding::Float(bits) => write!(f, "{bits}-bit float"),
            Encoding::Flac(bits) => write!(f, "{bits}-bit FLAC"),
        }
    }
}

/// What the header of a sound file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of channels.
    pub channels: usize,
    /// Samples a second and channel.
    pub rate: u32,
    /// Samples per channel.
    pub frames: usize,
    /// How they are stored.
    pub encoding: Encoding,
    /// Whether the header does not know the length (a recording that was streamed or cut off).
    pub streamed: bool,
}

impl Header {
    /// Length in seconds.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn seconds(&self) -> f64 {
        self.frames as f64 / f64::from(self.rate)
    }
}

/// Samples in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Sound {
    /// Number of channels.
    pub channels: usize,
    /// Samples a second and channel.
    pub rate: u32,
    /// Samples in [-1, 1], channel after channel.
    pub data: Vec<f32>,
}

impl Sound {
    /// Samples per channel.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.data.len() / self.channels.max(1)
    }

    /// Channel `c`.
    #[must_use]
    pub fn channel(&self, c: usize) -> &[f32] {
        let frames = self.frames();
        &self.data[c * frames..(c + 1) * frames]
    }

    /// The samples of a tensor `[C, T]` or `[T]` of any float type and device.
    ///
    /// # Errors
    /// Where it has another number of dimensions, or libtorch fails.
    pub fn from_tensor(wave: &Tensor, rate: u32) -> Result<Self> {
        let channels = match wave.size()[..] {
            [_] => 1,
            [channels, _] if channels > 0 => usize::try_from(channels).unwrap_or(0),
            ref size => {
                return Err(Error::run(format!("sound of shape {size:?}, channels x samples is needed")));
            }
        };
        let host = wave.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let mut data = vec![0f32; host.numel()];
        if !data.is_empty() {
            let n = data.len();
            host.f_copy_data(&mut data, n)?;
        }
        Ok(Sound { channels, rate, data })
    }

    /// A tensor `[C, T]` f32 on the CPU.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let bytes: Vec<u8> = self.data.iter().flat_map(|v| v.to_ne_bytes()).collect();
        let shape = [self.channels, self.frames()].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        tensor_from_bytes(&bytes, &shape, Kind::Float)
    }

    /// One channel: the mean of all.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn mono(&self) -> Sound {
        if self.channels == 1 {
            return self.clone();
        }
        let (frames, scale) = (self.frames(), 1.0 / self.channels as f32);
        let data =
            (0..frames).map(|t| (0..self.channels).map(|c| self.data[c * frames + t]).sum::<f32>() * scale);
        Sound { channels: 1, rate: self.rate, data: data.collect() }
    }

    /// At another rate.
    ///
    /// # Errors
    /// Where there is no filter from one rate to the other.
    pub fn resampled(&self, rate: u32, quality: crate::math::resample::Quality) -> Result<Sound> {
        if rate == self.rate {
            return Ok(self.clone());
        }
        let filter = crate::math::resample::Resampler::new(self.rate, rate, quality)?;
        let data = (0..self.channels).flat_map(|c| filter.run(self.channel(c))).collect();
        Ok(Sound { channels: self.channels, rate, data })
    }
}

#[derive(Debug, Clone)]
enum Format {
    Wav(wav_header::Wav),
    Flac,
}

/// A sound file whose header was read and whose samples can be.
#[derive(Debug, Clone)]
pub struct SoundFile {
    header: Header,
    format: Format,
    bytes: Bytes,
    place: String,
}

impl SoundFile {
    /// Opens the file `path`.
    ///
    /// # Errors
    /// A data error that names the file where it is no sound file of a kind that is read.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(Bytes::map(path)?, path.display().to_string())
    }

    /// Opens the content of a file that errors call `place`.
    ///
    /// # Errors
    /// As [`SoundFile::open`].
    pub fn of(bytes: Bytes, place: String) -> Result<Self> {
        let opened = if bytes.starts_with(b"fLaC") {
            flac::header(&bytes).map(|header| (header, Format::Flac))
        } else {
            wav_header::parse(&bytes).map(|wav| (wav.header, Format::Wav(wav)))
        };
        let (header, format) = opened.map_err(|e| e.at(&place))?;
        Ok(SoundFile { header, format, bytes, place })
    }

    /// What the header says.
    #[must_use]
    pub fn header(&self) -> Header {
        self.header
    }

    /// What errors call the file.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// All samples.
    ///
    /// # Errors
    /// Where the data is damaged, or a sample is not finite (it is named).
    pub fn read(&self) -> Result<Sound> {
        self.part(0, self.header.frames)
    }

    /// The samples `start .. start + frames` of every channel, cut at the end of the file.
    ///
    /// # Errors
    /// As [`SoundFile::read`].
    pub fn part(&self, start: usize, frames: usize) -> Result<Sound> {
        let start = start.min(self.header.frames);
        let end = start.saturating_add(frames).min(self.header.frames);
        let read = match &self.format {
            Format::Wav(wav) => wav.samples(&self.bytes, start, end),
            Format::Flac => flac::samples(&self.bytes, start, end),
        };
        let data = read.map_err(|e| e.at(&self.place))?;
        let sound = Sound { channels: self.header.channels, rate: self.header.rate, data };
        if let Some(i) = sound.data.iter().position(|v| !v.is_finite()) {
            let n = sound.frames().max(1);
            return Err(Error::data("sound is not finite")
                .at(&self.place)
                .why(format!("sample {} of channel {} is {}", start + i % n, i / n, sound.data[i]))
                .hint("write the file again, or take it out"));
        }
        Ok(sound)
    }
}

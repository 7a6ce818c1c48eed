//! Clips of one rate and length, with random access from any thread.

use std::path::Path;

use rayon::prelude::*;
use tch::{Kind, Tensor};

use super::layout::{self, Files};
use super::spec::{AudioSpec, Part, Window};
use super::stats::SoundStats;
use crate::error::{Error, Result};
use crate::io::bytes::{Bytes, tensor_from_bytes};
use crate::io::sound::{Header, Sound, SoundFile};
use crate::math::resample::{Quality, Resampler};
use crate::math::rng::SplitMix64;

/// One clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// Samples in [-1, 1], `C x T`, channel after channel; padded with zeros.
    pub wave: Vec<f32>,
    /// Samples of each channel that are sound; the rest is padding.
    pub frames: usize,
    /// Class.
    pub label: Option<i64>,
}

/// Where a clip is.
#[derive(Debug, Clone, Copy)]
struct Place {
    entry: usize,
    /// First sample and number of samples, at the rate of the clips.
    start: usize,
    frames: usize,
}

/// A dataset of clips.
#[derive(Debug)]
pub struct Clips {
    files: Files,
    headers: Vec<Header>,
    places: Vec<Place>,
    rate: u32,
    channels: usize,
    length: usize,
    window: Window,
    quality: Quality,
    notes: Vec<String>,
}

impl Clips {
    /// Opens `part` of the dataset at `path`: a folder, a zip archive, a list of files, or one file.
    ///
    /// # Errors
    /// Where there are no files, one cannot be read (it is named), or files do not fit `spec`.
    pub fn open(path: &Path, part: Part, spec: &AudioSpec) -> Result<Clips> {
        spec.check()?;
        let spec = spec.resolved();
        let mut files = layout::find(path, &spec)?;
        if part != Part::All {
            files.entries.retain(|entry| entry.part == part);
        }
        let part_name = format!("{part:?}").to_lowercase();
        if files.entries.is_empty() {
            return Err(Error::data(format!("no files in the part `{part_name}`"))
                .at(path.display())
                .hint("look at the lists of held-out files, or at data.audio.ends"));
        }
        let headers = files
            .entries
            .par_iter()
            .map(|entry| Ok(open_file(&files, &entry.file)?.header()))
            .collect::<Result<Vec<Header>>>()?;
        let rate = spec.rate.unwrap_or(headers[0].rate);
        let channels = spec.channels.unwrap_or(headers[0].channels);
        let mut notes = Vec::new();
        check_headers(&files, &headers, &spec, rate, channels, &mut notes)?;

        let lengths: Vec<usize> = headers.iter().map(|h| Resampler::length(h.rate, rate, h.frames)).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let length = spec.length.unwrap_or(longest);
        let window = spec.window.unwrap_or_default();
        let mut places = Vec::new();
        for (entry, &frames) in lengths.iter().enumerate() {
            match window {
                Window::Split => {
                    places.extend((0..frames / length).map(|k| Place {
                        entry,
                        start: k * length,
                        frames: length,
                    }));
                }
                Window::File => places.push(Place { entry, start: 0, frames: frames.min(length) }),
                Window::Crop => places.push(Place { entry, start: 0, frames }),
            }
        }
        if places.is_empty() || longest == 0 {
            return Err(Error::data("no clips")
                .at(path.display())
                .why(format!("the longest file has {longest} samples at {rate} Hz, {length} are wanted"))
                .hint("choose a smaller length: data.audio.length in a recipe, or --length"));
        }
        let empty = headers.iter().filter(|h| h.frames == 0).count();
        if empty > 0 {
            notes.push(format!("{empty} files hold no samples: they are silence"));
        }
        let quality = spec.resample.quality().unwrap_or_default();
        Ok(Clips { files, headers, places, rate, channels, length, window, quality, notes })
    }

    /// Whether lists or folders say which file is in which part; otherwise their order does.
    #[must_use]
    pub fn parts_named(&self) -> bool {
        self.files.parts_named
    }

    /// Number of clips.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none (a dataset that was opened has at least one).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Channels and samples of a clip.
    #[must_use]
    pub fn shape(&self) -> [i64; 2] {
        [self.channels, self.length].map(|n| i64::try_from(n).unwrap_or(i64::MAX))
    }

    /// Samples a second.
    #[must_use]
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Number of classes; 0 where there are none.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.files.classes.len()
    }

    /// Names of the classes.
    #[must_use]
    pub fn class_names(&self) -> &[String] {
        &self.files.classes
    }

    /// Number of files.
    #[must_use]
    pub fn files(&self) -> usize {
        self.headers.len()
    }

    /// Class of clip `i`.
    #[must_use]
    pub fn label(&self, i: usize) -> Option<i64> {
        self.files.entries[self.places.get(i)?.entry].label
    }

    /// Name of the file that clip `i` is of; with its first sample where files have several clips.
    #[must_use]
    pub fn name(&self, i: usize) -> String {
        let Some(place) = self.places.get(i) else { return String::new() };
        let file = &self.files.entries[place.entry].file;
        if self.window == Window::Split { format!("{file}@{}", place.start) } else { file.clone() }
    }

    /// What a user should know: files that were resampled or mixed, lengths that a header did not know.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Clip `i`; where clips may start anywhere, from the start of the file.
    ///
    /// # Errors
    /// Where the file cannot be read or decoded; the error names it.
    pub fn get(&self, i: usize) -> Result<Clip> {
        self.at(i, 0)
    }

    /// Clip `i`; where clips may start anywhere, at the place that `key` (of the use of the clip) stands for.
    ///
    /// # Errors
    /// As [`Clips::get`].
    pub fn get_keyed(&self, i: usize, key: u64) -> Result<Clip> {
        let spare = self.places.get(i).map_or(0, |place| place.frames.saturating_sub(self.length));
        let start = if self.window == Window::Crop && spare > 0 {
            usize::try_from(SplitMix64::new(key).below(spare as u64 + 1)).unwrap_or(0)
        } else {
            0
        };
        self.at(i, start)
    }

    fn at(&self, i: usize, offset: usize) -> Result<Clip> {
        let place =
            self.places.get(i).ok_or_else(|| Error::run(format!("clip {i} of {}", self.places.len())))?;
        let entry = &self.files.entries[place.entry];
        let file = open_file(&self.files, &entry.file)?;
        let (start, frames) = (place.start + offset, place.frames.min(self.length));
        let sound = if file.header().rate == self.rate {
            self.mixed(file.part(start, frames)?)
        } else {
            let whole = self
                .mixed(file.read()?)
                .resampled(self.rate, self.quality)
                .map_err(|e| e.at(file.place()))?;
            let end = (start + frames).min(whole.frames());
            let start = start.min(end);
            let data = (0..whole.channels).flat_map(|c| whole.channel(c)[start..end].to_vec()).collect();
            Sound { data, ..whole }
        };
        let frames = sound.frames().min(self.length);
        let mut wave = vec![0f32; self.channels * self.length];
        for (c, row) in wave.chunks_mut(self.length).enumerate() {
            row[..frames].copy_from_slice(&sound.channel(c)[..frames]);
        }
        Ok(Clip { wave, frames, label: entry.label })
    }

    /// With the channels wanted (that they can be had was checked).
    fn mixed(&self, sound: Sound) -> Sound {
        match (sound.channels, self.channels) {
            (have, want) if have == want => sound,
            (_, 1) => sound.mono(),
            (_, want) => Sound { channels: want, data: sound.data.repeat(want), ..sound },
        }
    }

    /// Figures of all clips: level, peak, offset, silence.
    ///
    /// # Errors
    /// Where a clip cannot be read.
    pub fn stats(&self) -> Result<SoundStats> {
        let each = (0..self.len())
            .into_par_iter()
            .map(|i| {
                let clip = self.get(i)?;
                let valid = |row: &[f32]| row[..clip.frames].to_vec();
                let samples: Vec<f32> = clip.wave.chunks(self.length).flat_map(valid).collect();
                Ok(SoundStats::of(&samples, &self.name(i), self.rate, self.channels))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(SoundStats::merge(each))
    }
}

fn open_file(files: &Files, name: &str) -> Result<SoundFile> {
    match &files.store {
        crate::data::files::Store::Folder(root) => SoundFile::open(&root.join(name)),
        zip @ crate::data::files::Store::Zip { .. } => {
            SoundFile::of(Bytes::from(zip.read(name)?), zip.place(name))
        }
    }
}

/// Refuses files that do not fit, and notes what will be done to those that do.
fn check_headers(
    files: &Files,
    headers: &[Header],
    spec: &AudioSpec,
    rate: u32,
    channels: usize,
    notes: &mut Vec<String>,
) -> Result<()> {
    let place = |i: usize| files.store.place(&files.entries[i].file);
    let other = |wrong: &dyn Fn(&Header) -> bool| headers.iter().position(wrong);
    if let Some(i) = other(&|h| h.rate != rate) {
        let Some(quality) = spec.resample.quality() else {
            return Err(Error::data(format!("sample rate is {} Hz", headers[i].rate))
                .at(place(i))
                .why(format!("{rate} Hz are wanted, and resampling is off"))
                .hint(format!(
                    "allow it (data.audio.resample = \"fast\"), or `gen audio convert --rate {rate}`"
                )));
        };
        Resampler::new(headers[i].rate, rate, quality).map_err(|e| e.at(place(i)))?;
        let n = headers.iter().filter(|h| h.rate != rate).count();
        notes.push(format!(
            "{n} of {} files are resampled to {rate} Hz (the first, {}, has {} Hz)",
            headers.len(),
            place(i),
            headers[i].rate
        ));
    }
    let fits = |h: &Header| h.channels == channels || channels == 1 || (h.channels == 1 && spec.duplicate);
    if let Some(i) = other(&|h| !fits(h)) {
        let error = Error::data(format!("sound has {} channels", headers[i].channels))
            .at(place(i))
            .why(format!("{channels} are wanted"));
        return Err(error.hint(if headers[i].channels == 1 {
            "data.audio.duplicate = true makes equal channels of one"
        } else {
            "data.audio.channels = 1 takes the mean of all"
        }));
    }
    let mixed = headers.iter().filter(|h| h.channels != channels).count();
    if mixed > 0 {
        let how = if channels == 1 { "mixed to one channel" } else { "made to have equal channels" };
        notes.push(format!("{mixed} of {} files are {how}", headers.len()));
    }
    let streamed = headers.iter().filter(|h| h.streamed).count();
    if streamed > 0 {
        notes.push(format!("the headers of {streamed} files do not know their length: read to the end"));
    }
    Ok(())
}

/// Clips as one batch: waveforms `[B, C, T]` f32, valid samples `[B]` i64, and classes `[B]` i64 where all have one.
///
/// # Errors
/// Where there are none, or they differ in length.
pub fn stack(clips: &[Clip], channels: usize) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    let length = clips.first().map_or(0, |clip| clip.wave.len());
    if length == 0 || channels == 0 || clips.iter().any(|clip| clip.wave.len() != length) {
        return Err(Error::run("clips of different lengths do not make a batch"));
    }
    let mut bytes = Vec::with_capacity(clips.len() * length * 4);
    for clip in clips {
        bytes.extend(clip.wave.iter().flat_map(|v| v.to_ne_bytes()));
    }
    let shape = [clips.len(), channels, length / channels].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let wave = tensor_from_bytes(&bytes, &shape, Kind::Float)?;
    let frames: Vec<i64> = clips.iter().map(|clip| i64::try_from(clip.frames).unwrap_or(i64::MAX)).collect();
    let labels: Option<Vec<i64>> = clips.iter().map(|clip| clip.label).collect();
    let labels = labels.map(|labels| Tensor::f_from_slice(&labels)).transpose()?;
    Ok((wave, Tensor::f_from_slice(&frames)?, labels))
}

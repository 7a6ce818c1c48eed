//! What training is fed with, whatever the modality: images, clips of sound, or text.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::audio::synthetic::Synthetic;
use super::audio::{Clips, Part, stack};
use super::loader::{Loader, LoaderOptions};
use super::order::Order;
use super::text::{TextFeed, Tokens};
use super::{DataSpec, Dataset, Split};
use crate::error::{Error, Result};
use crate::math::rng::SplitMix64;

/// One batch on the device.
#[derive(Debug)]
pub struct Fed {
    /// Images `[B, C, H, W]` or waveforms `[B, C, T]`, f32 in [-1, 1]; or tokens `[B, L]` i64.
    pub x: Tensor,
    /// Class of each, `[B]` i64, where there are any.
    pub class: Option<Tensor>,
    /// Valid frames of each clip, `[B]` i64, where clips are padded.
    pub frames: Option<Tensor>,
}

/// An endless stream of batches, in an order that (seed, position) fixes.
pub trait Feed: Debug {
    /// The next batch.
    ///
    /// # Errors
    /// Where an example cannot be read (the error names it), or libtorch fails.
    fn next_batch(&mut self) -> Result<Fed>;
}

impl Feed for Loader {
    fn next_batch(&mut self) -> Result<Fed> {
        let batch = Loader::next_batch(self)?;
        Ok(Fed { x: batch.images, class: batch.labels, frames: None })
    }
}

/// An opened source of training data.
#[derive(Debug, Clone)]
pub enum Source {
    /// Images.
    Images(Arc<dyn Dataset>),
    /// Clips of sound.
    Clips(Arc<Clips>),
    /// Clips that are made up afresh for every step.
    Synthetic(Synthetic),
    /// Windows of text.
    Text(Arc<Tokens>),
}

impl Source {
    /// Opens what `spec` says, at `path` (of the command line) if given.
    ///
    /// # Errors
    /// Where there is no such data.
    pub fn open(spec: &DataSpec, path: Option<&Path>) -> Result<Self> {
        Self::open_part(spec, spec.split.into(), path)
    }

    /// Opens what is held out of `spec` to watch a training by: the part for validation where there is one.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn held_out(spec: &DataSpec) -> Result<Self> {
        let part = if spec.audio.is_some() { Part::Validation } else { Part::Test };
        Self::open_part(spec, part, None)
    }

    /// Opens the part `part` of what `spec` says. Images and text have no part for validation: theirs is the test's.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open_part(spec: &DataSpec, part: Part, path: Option<&Path>) -> Result<Self> {
        let split = Split::of(part);
        if let Some(text) = &spec.text {
            return Ok(Source::Text(Arc::new(Tokens::open(spec.place(path)?, split, text)?)));
        }
        let Some(audio) = &spec.audio else {
            return Ok(Source::Images(DataSpec { split, ..spec.clone() }.open(path)?));
        };
        let path = spec.place(path)?;
        if let Some(name) = path.to_str().and_then(|p| p.strip_prefix("synthetic:")) {
            return Ok(Source::Synthetic(Synthetic::named(name, audio, split == Split::Test)?));
        }
        Ok(Source::Clips(Arc::new(Clips::open(path, part, audio)?)))
    }

    /// Shape of one example.
    #[must_use]
    pub fn shape(&self) -> Vec<i64> {
        match self {
            Source::Images(images) => images.shape().iter().map(|n| *n as i64).collect(),
            Source::Clips(clips) => clips.shape().to_vec(),
            Source::Synthetic(synthetic) => vec![1, synthetic.length as i64],
            Source::Text(text) => vec![text.length() as i64],
        }
    }

    /// Number of classes; 0 where there are none, or `data.classes = false`.
    #[must_use]
    pub fn classes(&self) -> i64 {
        match self {
            Source::Images(images) => images.classes() as i64,
            Source::Clips(clips) => clips.classes() as i64,
            Source::Synthetic(_) | Source::Text(_) => 0,
        }
    }

    /// Sampling rate in Hz, of sound.
    #[must_use]
    pub fn rate(&self) -> Option<u32> {
        match self {
            Source::Images(_) | Source::Text(_) => None,
            Source::Clips(clips) => Some(clips.rate()),
            Source::Synthetic(synthetic) => Some(synthetic.rate),
        }
    }

    /// How many examples there are, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Source::Images(images) => format!("{} images", images.len()),
            Source::Clips(clips) => format!("{} clips", clips.len()),
            Source::Synthetic(_) => "synthetic clips".to_owned(),
            Source::Text(text) => format!("{} tokens of text", text.len()),
        }
    }

    /// What a count of examples is called.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        match self {
            Source::Images(_) => "img",
            Source::Clips(_) | Source::Synthetic(_) => "clips",
            Source::Text(_) => "windows",
        }
    }

    /// What a user should know about the source.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        match self {
            Source::Images(images) => images.notes(),
            Source::Clips(clips) => clips.notes().to_vec(),
            Source::Synthetic(_) | Source::Text(_) => Vec::new(),
        }
    }

    /// The stream of batches from `options.position` on.
    ///
    /// # Errors
    /// Where the batch is empty, or a thread or tensor cannot be made.
    pub fn feed(&self, options: LoaderOptions) -> Result<Box<dyn Feed>> {
        if options.batch == 0 {
            return Err(Error::usage("batch of 0").at("train.batch"));
        }
        Ok(match self {
            Source::Images(images) => Box::new(Loader::new(Arc::clone(images), options)?),
            Source::Clips(clips) => Box::new(ClipFeed {
                order: Order::new(clips.len(), options.seed, options.shuffle),
                clips: Arc::clone(clips),
                position: options.position,
                options,
            }),
            Source::Text(text) => {
                let LoaderOptions { batch, seed, position, device, .. } = options;
                Box::new(TextFeed::new(Arc::clone(text), batch, seed, position, device))
            }
            Source::Synthetic(synthetic) => {
                Box::new(synthetic.feed(options.batch, options.seed, options.position, options.device))
            }
        })
    }
}

/// Clips in the order of training. A clip is small beside a step on it, so they are read as they come.
#[derive(Debug)]
struct ClipFeed {
    clips: Arc<Clips>,
    order: Order,
    position: u64,
    options: LoaderOptions,
}

impl Feed for ClipFeed {
    fn next_batch(&mut self) -> Result<Fed> {
        let indices = self.order.indices(self.position, self.options.batch);
        let key = SplitMix64::new(self.options.seed).next_u64();
        let keyed = indices.iter().zip(self.position..).map(|(&i, use_of)| (i, Some(key ^ use_of)));
        let fed = batch(&self.clips, keyed, self.options.device)?;
        self.position += self.options.batch as u64;
        Ok(fed)
    }
}

/// The clips `indices` as one batch, each from its start.
///
/// # Errors
/// Where one cannot be read.
pub fn batch_of(clips: &Clips, indices: &[usize], device: Device) -> Result<Fed> {
    batch(clips, indices.iter().map(|&i| (i, None)), device)
}

/// Clips with the keys of their uses, as one batch.
fn batch(clips: &Clips, which: impl Iterator<Item = (usize, Option<u64>)>, device: Device) -> Result<Fed> {
    let read = |(i, key): (usize, Option<u64>)| match key {
        Some(key) => clips.get_keyed(i, key),
        None => clips.get(i),
    };
    let items = which.map(read).collect::<Result<Vec<_>>>()?;
    let [channels, length] = clips.shape();
    let padded = items.iter().any(|item| (item.frames as i64) < length);
    let (x, frames, class) = stack(&items, channels as usize)?;
    let frames = padded.then(|| frames.f_to_device(device)).transpose()?;
    let class = class.filter(|_| clips.classes() > 0).map(|c| c.f_to_device(device)).transpose()?;
    Ok(Fed { x: x.f_to_device(device)?, class, frames })
}

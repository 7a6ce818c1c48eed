//! What training is fed with, whatever the modality: images, clips of sound, or text.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::audio::Clips;
use super::audio::synthetic::Synthetic;
use super::loader::{Loader, LoaderOptions};
use super::order::Order;
use super::text::{TextFeed, Tokens};
use super::{DataSpec, Dataset, Split};
use crate::error::{Error, Result};

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
        if let Some(text) = &spec.text {
            return Ok(Source::Text(Arc::new(Tokens::open(spec.place(path)?, spec.split, text)?)));
        }
        let Some(audio) = &spec.audio else {
            return Ok(Source::Images(spec.open(path)?));
        };
        let path = spec.place(path)?;
        if let Some(name) = path.to_str().and_then(|p| p.strip_prefix("synthetic:")) {
            return Ok(Source::Synthetic(Synthetic::named(name, audio, spec.split == Split::Test)?));
        }
        Ok(Source::Clips(Arc::new(Clips::open(path, spec.split, audio)?)))
    }

    /// Shape of one example.
    #[must_use]
    pub fn shape(&self) -> Vec<i64> {
        match self {
            Source::Images(images) => images.shape().iter().map(|n| *n as i64).collect(),
            Source::Clips(clips) => clips.shape().iter().map(|n| *n as i64).collect(),
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
            Source::Clips(clips) => clips.notes(),
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
        self.position += self.options.batch as u64;
        batch_of(&self.clips, &indices, self.options.device)
    }
}

/// The clips `indices` as one batch.
///
/// # Errors
/// Where one cannot be read.
pub fn batch_of(clips: &Clips, indices: &[usize], device: Device) -> Result<Fed> {
    let items = indices.iter().map(|&i| clips.get(i)).collect::<Result<Vec<_>>>()?;
    let [c, t] = clips.shape().map(|n| n as i64);
    let mut wave = Vec::with_capacity(items.len() * (c * t) as usize);
    for item in &items {
        wave.extend_from_slice(&item.wave);
    }
    let x = Tensor::f_from_slice(&wave)?.f_view([items.len() as i64, c, t])?.f_to_device(device)?;
    let frames: Vec<i64> = items.iter().map(|item| item.frames as i64).collect();
    let padded = frames.iter().any(|n| *n < t);
    let to = |list: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(list)?.f_to_device(device)?) };
    let labels: Option<Vec<i64>> = items.iter().map(|item| item.label).collect();
    let class = labels.filter(|_| clips.classes() > 0).map(|l| to(&l[..])).transpose()?;
    let frames = padded.then(|| to(&frames)).transpose()?;
    debug_assert_eq!(x.kind(), Kind::Float);
    Ok(Fed { x, class, frames })
}

//! Datasets of images and the loader that feeds them to training.
//!
//! [`open`] looks at what is there and not at its name: the shipped digits, a folder or zip of image files, the
//! binary batches of CIFAR-10, IDX files of MNIST, `.npz` and `.npy` arrays. Every source gives 8-bit images in
//! CHW order; [`loader::Loader`] makes batches `[B, C, H, W]` f32 in [-1, 1] of them.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub mod array;
pub mod audio;
pub mod augment;
pub mod cifar;
pub mod digits;
pub mod feed;
pub mod files;
pub mod idx;
pub mod loader;
pub mod order;
pub mod prefetch;
pub mod quantize;
mod source;
pub mod subset;
pub mod text;

pub use audio::AudioSpec;
pub use source::open;
pub use text::TextSpec;

use crate::error::Result;

/// One image with its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// 8-bit values in CHW order.
    pub image: Vec<u8>,
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Class index.
    pub label: Option<i64>,
}

/// A finite set of images with random access from any thread.
pub trait Dataset: Debug + Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;
    /// Whether there are none (a dataset that was opened has at least one).
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Channels, height and width of the images (of the first one where sizes may differ).
    fn shape(&self) -> [usize; 3];
    /// Number of classes; 0 where there are no labels.
    fn classes(&self) -> usize {
        0
    }
    /// Image `i`, decoded.
    ///
    /// # Errors
    /// Where it cannot be read or decoded; the error names it.
    fn get(&self, i: usize) -> Result<Item>;
    /// Class of image `i`, without decoding it.
    fn label(&self, i: usize) -> Option<i64>;
    /// What image `i` is called (a relative path where it is a file).
    fn name(&self, i: usize) -> String {
        format!("image {i}")
    }
    /// All images one after another in CHW order, where they lie in memory so.
    fn dense(&self) -> Option<&[u8]> {
        None
    }
    /// A text that changes where the images may have changed: a hash of sizes and times of files, or of the content.
    /// Nothing where that cannot be told.
    fn stamp(&self) -> Option<String> {
        None
    }
    /// What a user should know about the source (JPEG artefacts, dropped alpha channels).
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Which part of a source is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Everything.
    #[default]
    All,
    /// The part for training.
    Train,
    /// The held-out part.
    Test,
}

impl Split {
    /// The half that stands for `part`: what is held out is not divided any further.
    #[must_use]
    pub fn of(part: audio::Part) -> Self {
        match part {
            audio::Part::All => Split::All,
            audio::Part::Train => Split::Train,
            audio::Part::Validation | audio::Part::Test => Split::Test,
        }
    }
}

/// How a source without a split of its own is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SplitOrder {
    /// By a fixed permutation (seed 0).
    #[default]
    Shuffled,
    /// The last images are held out.
    File,
}

/// What to do with images that do not have the size wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// The largest centred square, scaled to the resolution.
    CenterCrop,
}

/// How a source is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataOptions {
    /// Which part.
    pub split: Split,
    /// How a source without its own split is divided.
    pub split_order: SplitOrder,
    /// Size of the held-out part; default 397 for the digits and a tenth otherwise.
    pub held_out: Option<usize>,
    /// Resizing of image files.
    pub resize: Option<Resize>,
    /// Side of the images after resizing; default: the smaller side of the first image.
    pub resolution: Option<usize>,
    /// Channels wanted; default: those of the first image.
    pub channels: Option<usize>,
    /// Whether labels are used; default: where there are any.
    pub classes: Option<bool>,
    /// Accept images of any and of different sizes (evaluation resizes each for itself).
    pub any_size: bool,
}

/// The table `[data]` of a recipe.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct DataSpec {
    /// Where the data is, unless `--data` says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Which part: `all`, `train` or `test`.
    pub split: Split,
    /// How a source without its own split is divided: `shuffled` or `file`.
    pub split_order: SplitOrder,
    /// Size of the held-out part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<usize>,
    /// `center-crop`, or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// Side of the images after resizing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution: Option<usize>,
    /// Channels: 1 or 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// Whether labels are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<bool>,
    /// Mirror images left to right at random (done on the device, by the training loop).
    pub flip: bool,
    /// EDM's augmentation pipe with this base probability; it mirrors, too. The network must take its
    /// parameters (`augment_dim = 9`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augment: Option<f64>,
    /// Clips of sound instead of images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioSpec>,
    /// Text instead of images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextSpec>,
}

impl DataSpec {
    /// The options the table stands for.
    #[must_use]
    pub fn options(&self) -> DataOptions {
        DataOptions {
            split: self.split,
            split_order: self.split_order,
            held_out: self.held_out,
            resize: self.resize,
            resolution: self.resolution,
            channels: self.channels,
            classes: self.classes,
            any_size: false,
        }
    }

    /// Opens the data at `path` (of the command line), or where the table says.
    ///
    /// # Errors
    /// Where neither names a place, or as [`open`].
    pub fn open(&self, path: Option<&Path>) -> Result<Arc<dyn Dataset>> {
        Ok(Arc::from(open(self.place(path)?, &self.options())?))
    }

    /// Where the data is: `path` (of the command line), or what the table says.
    ///
    /// # Errors
    /// Where neither names a place.
    pub fn place<'a>(&'a self, path: Option<&'a Path>) -> Result<&'a Path> {
        path.or(self.path.as_deref()).ok_or_else(|| {
            crate::error::Error::usage("no data given").at("data.path").hint("name it with --data PATH")
        })
    }
}

//! The table `[data.audio]` of a recipe.

use serde::{Deserialize, Serialize};

use crate::data::Split;
use crate::error::{Error, Result};
use crate::math::resample::Quality;

/// Which part of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Everything.
    #[default]
    All,
    /// The part for training.
    Train,
    /// The part for choosing among models.
    #[value(alias = "val", alias = "valid")]
    Validation,
    /// The part for figures.
    Test,
}

impl From<Split> for Part {
    fn from(split: Split) -> Self {
        match split {
            Split::All => Part::All,
            Split::Train => Part::Train,
            Split::Test => Part::Test,
        }
    }
}

/// How files are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// By what is there: lists of held-out files, folders of parts, folders of classes, or a list of files.
    #[default]
    Auto,
    /// The ten digits of Speech Commands, with `validation_list.txt` and `testing_list.txt`; 16 kHz, 16,000 samples.
    Sc09,
    /// Pieces of 8 seconds in natural order; 16 kHz, 128,000 samples.
    Beethoven,
    /// Minutes of piano music in natural order; 16 kHz, windows of 131,072 samples.
    #[serde(rename = "youtubemix")]
    #[value(name = "youtubemix", alias = "youtube-mix")]
    YouTubeMix,
    /// Files below a folder; the folders right below it are classes, where all files lie in one.
    Folder,
    /// A text file that names a file a line, and a class after a tab if there are classes.
    List,
}

/// How files become clips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Window {
    /// Each file is a clip: cut at `length`, or padded with silence.
    #[default]
    File,
    /// Files are cut into windows of `length` side by side; what is left at the end is dropped.
    Split,
    /// Each file is a clip that starts anywhere in it, anew whenever it is used; shorter files are padded.
    Crop,
}

/// What to do about files of another rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Resampling {
    /// Resample with a short filter, and say so.
    #[default]
    Fast,
    /// Resample with a long filter, and say so.
    Best,
    /// An error.
    Never,
}

impl Resampling {
    /// The filter; none where resampling is not allowed.
    #[must_use]
    pub fn quality(self) -> Option<Quality> {
        match self {
            Resampling::Fast => Some(Quality::Fast),
            Resampling::Best => Some(Quality::Best),
            Resampling::Never => None,
        }
    }
}

/// How a dataset of sound is opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AudioSpec {
    /// Samples a second; default: those of the layout, or of the first file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Samples of a clip at that rate; default: those of the layout, or of the longest file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// Channels; default: those of the first file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// How files are arranged.
    pub layout: Layout,
    /// How files become clips; default: that of the layout, or `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// What to do about files of another rate.
    pub resample: Resampling,
    /// Whether a file of one channel may become two equal ones.
    pub duplicate: bool,
    /// Where the parts for training and for validation end, as shares of the files in natural order (of each class,
    /// where there are classes); only where nothing else says which file is in which part.
    pub ends: [f64; 2],
    /// Whether classes are used; default: where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<bool>,
}

impl Default for AudioSpec {
    fn default() -> Self {
        AudioSpec {
            rate: None,
            length: None,
            channels: None,
            layout: Layout::Auto,
            window: None,
            resample: Resampling::Fast,
            duplicate: false,
            ends: [0.88, 0.94],
            classes: None,
        }
    }
}

impl AudioSpec {
    /// With the published settings of a named layout where nothing else is said.
    #[must_use]
    pub fn resolved(&self) -> AudioSpec {
        let (rate, length, window) = match self.layout {
            Layout::Sc09 => (Some(16_000), Some(16_000), Window::File),
            Layout::Beethoven => (Some(16_000), Some(128_000), Window::File),
            Layout::YouTubeMix => (Some(16_000), Some(131_072), Window::Split),
            Layout::Auto | Layout::Folder | Layout::List => (None, None, Window::File),
        };
        AudioSpec {
            rate: self.rate.or(rate),
            length: self.length.or(length),
            window: self.window.or(Some(window)),
            ..self.clone()
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// A usage error that names the key.
    pub fn check(&self) -> Result<()> {
        let zero = |key: &str| Err(Error::usage("it must be at least 1").at(format!("data.audio.{key}")));
        if self.rate == Some(0) {
            return zero("rate");
        }
        if self.length == Some(0) {
            return zero("length");
        }
        if self.channels == Some(0) {
            return zero("channels");
        }
        let [train, validation] = self.ends;
        if !(train > 0.0 && train <= validation && validation <= 1.0) {
            return Err(Error::usage(format!("parts cannot end at {train} and {validation}"))
                .at("data.audio.ends")
                .why("0 < first <= second <= 1 is needed"));
        }
        if self.length.is_none() && matches!(self.resolved().window, Some(Window::Split | Window::Crop)) {
            let named = self.resolved().length.is_some();
            if !named {
                return Err(Error::usage("windows need a length").at("data.audio.length").hint(
                    "give the number of samples of a clip: data.audio.length in a recipe, or --length",
                ));
            }
        }
        Ok(())
    }
}

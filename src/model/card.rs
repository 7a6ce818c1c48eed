//! The model card: everything that is needed to use a file of weights, kept in the file itself.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::denoiser::precond::Precond;
use crate::error::{Error, Result};
use crate::io::safetensors;
use crate::io::tokenizer::Tokenizer;
use crate::net::spec::NetSpec;
use crate::objective::ObjectiveSpec;
use crate::process::ProcessSpec;
use crate::recipe::SampleSpec;

/// The key of the card in a safetensors file's metadata.
pub const KEY: &str = "gen";

/// The key of a tokenizer there: the content of a `tokenizer.json`.
pub const TOKENIZER: &str = "tokenizer";

/// What a file of weights is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Version of this form.
    pub format: u32,
    /// The network.
    pub model: NetSpec,
    /// What it was trained on.
    pub process: ProcessSpec,
    /// What it was trained for; says what its output means.
    pub objective: ObjectiveSpec,
    /// Scalings around the network, where they are not those of the objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precond: Option<Precond>,
    /// Shape of one sample.
    pub shape: Vec<i64>,
    /// Number of classes, 0 for none.
    pub classes: i64,
    /// Interval of the data that the network was trained on.
    #[serde(default, skip_serializing_if = "Range::is_centred")]
    pub range: Range,
    /// Sampling rate in Hz, of sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Defaults of `gen sample`.
    #[serde(default)]
    pub sample: SampleSpec,
    /// How it came about.
    pub trained: Trained,
    /// The `tokenizer.json` of a model of text; none where tokens are bytes. It has a key of its own in the metadata.
    #[serde(skip)]
    pub tokenizer: Option<String>,
}

/// Interval of the values of data. Samples are given in [-1, 1] whatever the network was trained on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Range {
    /// [-1, 1].
    #[default]
    Centred,
    /// [0, 1]: the variance-exploding networks of Song et al. 2021.
    Unit,
}

impl Range {
    /// Whether it is [-1, 1].
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref)] // what serde hands over
    pub fn is_centred(&self) -> bool {
        *self == Range::Centred
    }
}

/// How weights came about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Optimiser steps.
    pub steps: u64,
    /// Images seen.
    pub images: u64,
    /// Which average of the weights this is; none for the raw ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<String>,
    /// Version of gen.
    pub gen_version: String,
}

impl ModelCard {
    /// The current version of this form.
    pub const FORMAT: u32 = 1;

    /// Scalings and time units around the network; none for a classifier.
    #[must_use]
    pub fn scalings(&self) -> Option<Precond> {
        self.precond.or_else(|| self.objective.precond())
    }

    /// The metadata of a safetensors file with this card.
    ///
    /// # Errors
    /// Where a value is not JSON (a non-finite number).
    pub fn metadata(&self) -> Result<BTreeMap<String, String>> {
        let text = serde_json::to_string(self)
            .map_err(|e| Error::run("cannot write the model card").why(e.to_string()))?;
        let mut all: BTreeMap<_, _> = [(KEY.to_owned(), text), ("format".to_owned(), "pt".to_owned())].into();
        all.extend(self.tokenizer.clone().map(|json| (TOKENIZER.to_owned(), json)));
        Ok(all)
    }

    /// The card of an open file.
    ///
    /// # Errors
    /// A model error where the file has none, or one of another version.
    pub fn of(file: &safetensors::File) -> Result<Self> {
        let place = file.path().display();
        let text = file.metadata().get(KEY).ok_or_else(|| {
            Error::model("no model card").at(place.to_string()).why("the metadata has no key `gen`").hint(
                "only the tensors are here; a snapshot of `gen train` also says which network they belong to",
            )
        })?;
        let card = Self::parse(text, file.path())?;
        Ok(ModelCard { tokenizer: file.metadata().get(TOKENIZER).cloned(), ..card })
    }

    /// How text becomes tokens: by the model's tokenizer, or as bytes where it has none.
    ///
    /// # Errors
    /// A model error where the tokenizer cannot be read.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        self.tokenizer.as_deref().map_or_else(|| Ok(Tokenizer::bytes()), Tokenizer::from_json)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let bad = |why: String| Error::model("unreadable model card").at(path.display()).why(why);
        let value: serde_json::Value = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        match value["format"].as_u64() {
            Some(format) if format == u64::from(Self::FORMAT) => {}
            Some(format) => {
                return Err(bad(format!("it has format {format}, this gen reads {}", Self::FORMAT))
                    .hint("use the release of gen that wrote the file, or a newer one"));
            }
            None => return Err(bad("it names no format".to_owned())),
        }
        serde_json::from_value(value).map_err(|e| {
            bad(e.to_string()).hint("use the release of gen that wrote the file, or a newer one")
        })
    }
}

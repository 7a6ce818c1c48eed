//! What reads texts: a causal network with the tokenizer it was trained with, wherever both come from.

use std::path::Path;

use tch::Device;

use super::{Language, LanguageOptions, Precision, is_one, open as open_folder};
use crate::error::{Error, Kind, Result};
use crate::io::safetensors;
use crate::io::tokenizer::Tokenizer;
use crate::model::card::ModelCard;
use crate::model::open::{OpenOptions, Opened, open, weights_of};
use crate::net::causal::Causal;
use crate::net::spec::NetSpec;
use crate::objective::ObjectiveSpec;
use crate::objective::autoregressive::causal;
use crate::torch::runtime::Dtype;

/// A network that knows how likely texts are.
#[derive(Debug)]
pub struct Reader {
    /// From text to tokens.
    pub tokenizer: Tokenizer,
    /// Tokens that the network sees at once.
    pub context: usize,
    /// What a person should know about how the model was understood.
    pub notes: Vec<String>,
    net: Net,
}

#[derive(Debug)]
enum Net {
    Folder(Box<Language>),
    Own(Box<Opened>),
}

impl Reader {
    /// Opens `path`: a folder of Hugging Face, or a run or snapshot of this project, on `device`.
    ///
    /// # Errors
    /// A model error where it is none, or no model of text.
    pub fn open(path: &Path, dtype: Option<Dtype>, device: Device) -> Result<Self> {
        if is_one(path) {
            let options = LanguageOptions { precision: Precision::of(dtype), weights: None };
            let mut language = open_folder(path, &options, device)?;
            return Ok(Reader {
                tokenizer: language.tokenizer.clone().unwrap_or_else(Tokenizer::bytes),
                context: usize::try_from(language.net.config().limit()).unwrap_or(usize::MAX),
                notes: std::mem::take(&mut language.notes),
                net: Net::Folder(Box::new(language)),
            });
        }
        let options = OpenOptions { dtype: dtype.unwrap_or_default(), ..OpenOptions::default() };
        let mut opened = open(path, &options, device)?;
        let card = &opened.card;
        if !matches!(card.objective, ObjectiveSpec::Autoregressive(_)) || card.rate.is_some() {
            return Err(Error::model("not a language model")
                .at(path.display())
                .why("it was not trained to predict the next token of a text")
                .hint("give a folder of Hugging Face, or a run of `gen train models/shakespeare`"));
        }
        let limit = match &card.model {
            NetSpec::Lm(config) => config.limit(),
            _ => card.shape.last().copied().unwrap_or(1),
        };
        Ok(Reader {
            tokenizer: card.tokenizer()?,
            context: usize::try_from(limit).unwrap_or(usize::MAX),
            notes: std::mem::take(&mut opened.notes),
            net: Net::Own(Box::new(opened)),
        })
    }

    /// The network.
    ///
    /// # Errors
    /// A usage error where it is not autoregressive.
    pub fn net(&self) -> Result<&dyn Causal> {
        match &self.net {
            Net::Folder(language) => Ok(&language.net),
            Net::Own(opened) => causal(&*opened.net),
        }
    }
}

/// The tokenizer of `path`: a `tokenizer.json`, a folder with one, or a run or snapshot of this project.
///
/// # Errors
/// A model error where it has none.
pub fn tokenizer_of(path: &Path) -> Result<Tokenizer> {
    let json = path.extension().is_some_and(|e| e == "json");
    if json || (path.is_dir() && Tokenizer::of_folder(path)?.is_some()) {
        return Tokenizer::at(path);
    }
    let file = if path.is_dir() { weights_of(path, None)? } else { path.to_owned() };
    ModelCard::of(&safetensors::File::open(&file).map_err(|e| e.kinded(Kind::Model))?)?.tokenizer()
}

//! Language models in the layout of Hugging Face: `config.json`, weights (safetensors or pickles, in one file or in
//! shards), and, where they are there, `generation_config.json`, a tokenizer and a chat template.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::{Device, Kind};

pub use self::chat::{ChatTemplate, Message};
pub use self::generation::Generation;
use crate::error::{Error, Result};
use crate::io::hub::{Weights, read_json};
pub use crate::io::tokenizer::{TextStream, Tokenizer};
use crate::net::lm::{Lm, json, weights};
use crate::torch::runtime::Dtype;

mod chat;
mod generation;
pub mod reader;

/// What the weights of linear layers, output and embedding are kept in. What goes through the network is f32 on the
/// CPU, whatever this is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// As the file has them (on the CPU, f64 files become f32).
    #[default]
    File,
    /// 64 bits, everything.
    F64,
    /// 32 bits.
    F32,
    /// 16 bits with the range of f32.
    Bf16,
    /// 16 bits of IEEE.
    F16,
    /// 8-bit integers with a scale for each output.
    Int8,
}

impl Precision {
    /// That of the command line's `--dtype`, or the file's.
    #[must_use]
    pub fn of(dtype: Option<Dtype>) -> Self {
        match dtype {
            None => Precision::File,
            Some(Dtype::F32) => Precision::F32,
            Some(Dtype::Bf16) => Precision::Bf16,
            Some(Dtype::F16) => Precision::F16,
            Some(Dtype::F64) => Precision::F64,
        }
    }
}

/// How a folder is opened.
#[derive(Debug, Clone, Default)]
pub struct LanguageOptions {
    /// What the weights are kept in.
    pub precision: Precision,
    /// Variant of the weights, such as `fp16`.
    pub weights: Option<String>,
}

/// A language model, ready to be run.
#[derive(Debug)]
pub struct Language {
    /// The network.
    pub net: Lm,
    /// Its `model_type`.
    pub kind: String,
    /// The folder.
    pub path: PathBuf,
    /// All files it depends on.
    pub files: Vec<PathBuf>,
    /// The tokenizer, where the folder has one.
    pub tokenizer: Option<Tokenizer>,
    /// Defaults of decoding.
    pub generation: Generation,
    /// The chat template, where the folder has one.
    pub chat: Option<ChatTemplate>,
    /// What a person should know about how the model was understood.
    pub notes: Vec<String>,
}

/// Whether `path` is a folder with a language model of a known type.
#[must_use]
pub fn is_one(path: &Path) -> bool {
    let config = path.join("config.json");
    config.exists()
        && read_json(&config)
            .is_ok_and(|c| c["model_type"].as_str().is_some_and(|t| json::TYPES.contains(&t)))
}

/// A JSON file of the folder; null where it is not there.
fn optional(folder: &Path, name: &str, files: &mut Vec<PathBuf>) -> Result<Value> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(Value::Null);
    }
    let json = read_json(&path)?;
    files.push(path);
    Ok(json)
}

/// Opens the folder `path` on `device`.
///
/// # Errors
/// A model error that names the file, key, tensor or shard that is missing or does not fit.
pub fn open(path: &Path, options: &LanguageOptions, device: Device) -> Result<Language> {
    let place = path.join("config.json");
    let config = read_json(&place)?;
    let mut files = vec![place.clone()];
    let network = json::read(&config).map_err(|e| {
        e.at(place.display()).hint("config.json must be that of the model, as it was published")
    })?;
    let found = find(path, options.weights.as_deref())?;
    files.extend(found.files());
    let mut notes = Vec::new();
    if let Some(variant) = found.variant().filter(|_| options.weights.is_none()) {
        notes.push(format!("there are no weights in full precision: those of {variant} are used"));
    }
    let generation = optional(path, "generation_config.json", &mut files)?;
    let generation = Generation::read(&generation, &config)
        .map_err(|e| e.at(path.join("generation_config.json").display()))?;
    let tokenizer = Tokenizer::of_folder(path)?;
    if let Some(tokenizer) = &tokenizer {
        files.extend(tokenizer.files().iter().cloned());
        fits(tokenizer, network.vocab, path)?;
    } else {
        notes.push("there is no tokenizer.json: token b is taken for byte b".to_owned());
    }
    let about = optional(path, "tokenizer_config.json", &mut files)?;
    let chat = ChatTemplate::of_folder(path, &about)?;
    let matrices = match options.precision {
        Precision::File => stored(&found)?,
        Precision::F64 => Kind::Double,
        Precision::F32 => Kind::Float,
        Precision::Bf16 | Precision::Int8 => Kind::BFloat16,
        Precision::F16 => Kind::Half,
    };
    // Integers are made of what the file has: rounding twice is worse than once.
    let matrices = if options.precision == Precision::Int8 { stored(&found)? } else { matrices };
    let mut net = weights::load(&network, &found, matrices, device)?;
    if network.tied && !net.config().tied {
        notes.push(
            "the file holds an output layer of its own, which is used instead of the embedding".to_owned(),
        );
    }
    if options.precision == Precision::Int8 {
        net.quantise().map_err(|e| e.at(path.display()))?;
    }
    let kind = config["model_type"].as_str().unwrap_or_default().to_owned();
    Ok(Language { net, kind, path: path.to_owned(), files, tokenizer, generation, chat, notes })
}

/// The weights: transformers writes `model.safetensors` and wrote `pytorch_model.bin`.
fn find(path: &Path, variant: Option<&str>) -> Result<Weights> {
    if let Some(found) = Weights::look(path, "model", variant)? {
        return Ok(found);
    }
    if let Some(found) = Weights::look(path, "pytorch_model", variant)? {
        return Ok(found);
    }
    Weights::find(path, "model", variant)
}

/// The dtype of most of the file's numbers.
fn stored(weights: &Weights) -> Result<Kind> {
    let mut counts = [(Kind::Float, 0i64), (Kind::BFloat16, 0), (Kind::Half, 0)];
    for entry in weights.entries()? {
        let kind = match entry.dtype.as_str() {
            "bf16" | "bfloat16" => Kind::BFloat16,
            "f16" | "half" => Kind::Half,
            _ => Kind::Float,
        };
        let size = entry.shape.iter().fold(1i64, |n, d| n.saturating_mul(*d));
        if let Some((_, count)) = counts.iter_mut().find(|(k, _)| *k == kind) {
            *count = count.saturating_add(size);
        }
    }
    Ok(counts.iter().max_by_key(|(_, n)| *n).map_or(Kind::Float, |(kind, _)| *kind))
}

/// Whether every token of the tokenizer is one of the model's.
fn fits(tokenizer: &Tokenizer, vocab: i64, path: &Path) -> Result<()> {
    if tokenizer.size() <= vocab {
        return Ok(());
    }
    Err(Error::model("the tokenizer is not that of the model")
        .at(tokenizer.files().first().map_or(path, PathBuf::as_path).display())
        .why(format!("its tokens go up to {}, those of the model to {}", tokenizer.size() - 1, vocab - 1))
        .hint("copy tokenizer.json and config.json from the same model"))
}

impl Language {
    /// The tokenizer.
    ///
    /// # Errors
    /// A model error where the folder has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Error::model("no tokenizer")
                .at(self.path.display())
                .why("it has neither tokenizer.json nor vocab.json and merges.txt")
                .hint("copy tokenizer.json of the model into the folder, or give token ids")
        })
    }

    /// The text of a conversation, ready to be continued by the assistant.
    ///
    /// # Errors
    /// A model error where the folder has no chat template, or as [`ChatTemplate::render`].
    pub fn conversation(&self, messages: &[Message]) -> Result<String> {
        let chat = self.chat.as_ref().ok_or_else(|| {
            Error::model("no chat template")
                .at(self.path.display())
                .why("it has neither chat_template.jinja nor the key in tokenizer_config.json")
                .hint("give the text as a plain prompt")
        })?;
        chat.render(messages, true)
    }

    /// Checks that a prompt of `prompt` tokens and `new` more fit into the context.
    ///
    /// # Errors
    /// A usage error with both lengths where they do not, or where the prompt is empty.
    pub fn check_length(&self, prompt: usize, new: usize) -> Result<()> {
        let limit = usize::try_from(self.net.config().limit()).unwrap_or(usize::MAX);
        if prompt == 0 {
            return Err(Error::usage("the prompt is empty").hint("give at least one token"));
        }
        if prompt.saturating_add(new) <= limit {
            return Ok(());
        }
        let why = format!("{prompt} tokens and {new} new ones, the context is {limit}");
        Err(Error::usage("the prompt is too long").why(why))
    }

    /// Cuts tokens at the beginning of a prompt so that `new` ones still fit; gives how many. A prompt that cannot be
    /// made to fit stays as it is.
    pub fn truncate_left(&self, prompt: &mut Vec<i64>, new: usize) -> usize {
        let limit = usize::try_from(self.net.config().limit()).unwrap_or(usize::MAX);
        let room = limit.saturating_sub(new);
        let cut = if room == 0 { 0 } else { prompt.len().saturating_sub(room) };
        prompt.drain(..cut);
        cut
    }

    /// Checks tokens given by hand.
    ///
    /// # Errors
    /// A usage error for one that the model does not have.
    pub fn check_tokens(&self, tokens: &[i64]) -> Result<()> {
        let vocab = self.net.config().vocab;
        match tokens.iter().find(|t| !(0..vocab).contains(t)) {
            Some(token) => Err(Error::usage(format!("token {token}"))
                .why(format!("the model has those from 0 to {}", vocab - 1))),
            None => Ok(()),
        }
    }
}

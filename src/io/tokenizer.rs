//! Tokenizers: `tokenizer.json` of Hugging Face, the older `vocab.json` with `merges.txt` of GPT-2, or plain bytes.

use std::path::{Path, PathBuf};

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::BPE;

use crate::error::{Error, Kind, Result};

/// Text to tokens and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Inner,
    files: Vec<PathBuf>,
}

#[derive(Debug, Clone)]
enum Inner {
    Trained(Box<tokenizers::Tokenizer>),
    Bytes,
}

fn unreadable(place: &Path, why: impl std::fmt::Display) -> Error {
    Error::model("unreadable tokenizer")
        .at(place.display())
        .why(why.to_string())
        .hint("the file is damaged or of a newer form; download it again")
}

impl Tokenizer {
    /// The tokenizer in a model folder; nothing where there is none.
    ///
    /// # Errors
    /// A model error where a file cannot be read.
    pub fn of_folder(folder: &Path) -> Result<Option<Self>> {
        let whole = folder.join("tokenizer.json");
        if whole.exists() {
            return Self::open(&whole).map(Some);
        }
        let [vocab, merges] = ["vocab.json", "merges.txt"].map(|name| folder.join(name));
        if vocab.exists() && merges.exists() {
            return Self::byte_level(vocab, merges).map(Some);
        }
        Ok(None)
    }

    /// The tokenizer at `path`: a folder that has one, or a `tokenizer.json`.
    ///
    /// # Errors
    /// A model error where there is none, or it cannot be read.
    pub fn at(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Self::open(path);
        }
        Self::of_folder(path)?.ok_or_else(|| {
            Error::model("no tokenizer")
                .at(path.display())
                .why("it has neither tokenizer.json nor vocab.json and merges.txt")
                .hint("name the folder of a language model, or a tokenizer.json")
        })
    }

    /// The tokenizer with the content `json` of a `tokenizer.json`.
    ///
    /// # Errors
    /// A model error where that makes none.
    pub fn from_json(json: &str) -> Result<Self> {
        let made = tokenizers::Tokenizer::from_bytes(json.as_bytes())
            .map_err(|e| unreadable(Path::new("the model's metadata"), e))?;
        Ok(Tokenizer { inner: Inner::Trained(Box::new(made)), files: Vec::new() })
    }

    /// The content of a `tokenizer.json` that makes this tokenizer; nothing for bytes.
    ///
    /// # Errors
    /// Where it has no such form.
    pub fn to_json(&self) -> Result<Option<String>> {
        match &self.inner {
            Inner::Trained(t) => t
                .to_string(false)
                .map(Some)
                .map_err(|e| Error::run("cannot write the tokenizer").why(e.to_string())),
            Inner::Bytes => Ok(None),
        }
    }

    /// The `tokenizer.json` at `path`.
    ///
    /// # Errors
    /// A model error where it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::read(path, &e).kinded(Kind::Model))?;
        let made = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| unreadable(path, e))?;
        Ok(Tokenizer { inner: Inner::Trained(Box::new(made)), files: vec![path.to_owned()] })
    }

    /// GPT-2's byte-level pairs.
    fn byte_level(vocab: PathBuf, merges: PathBuf) -> Result<Self> {
        let pairs = BPE::from_file(&vocab.to_string_lossy(), &merges.to_string_lossy())
            .build()
            .map_err(|e| unreadable(&vocab, e))?;
        let mut made = tokenizers::Tokenizer::new(pairs);
        let level = ByteLevel::default().add_prefix_space(false);
        made.with_pre_tokenizer(Some(level)).with_decoder(Some(level));
        let end = tokenizers::AddedToken::from("<|endoftext|>", true);
        if made.token_to_id(&end.content).is_some() {
            made.add_special_tokens([end]).map_err(|e| unreadable(&vocab, e))?;
        }
        Ok(Tokenizer { inner: Inner::Trained(Box::new(made)), files: vec![vocab, merges] })
    }

    /// The 256 bytes: token b is byte b.
    #[must_use]
    pub fn bytes() -> Self {
        Tokenizer { inner: Inner::Bytes, files: Vec::new() }
    }

    /// Whether tokens are bytes.
    #[must_use]
    pub fn is_bytes(&self) -> bool {
        matches!(self.inner, Inner::Bytes)
    }

    /// The files it came from.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The largest token, plus one: a model needs so many at least.
    #[must_use]
    pub fn size(&self) -> i64 {
        match &self.inner {
            Inner::Trained(t) => t.get_vocab(true).values().max().map_or(0, |top| i64::from(*top) + 1),
            Inner::Bytes => 256,
        }
    }

    /// The tokens of `text`, with those that the tokenizer puts around a text where `special` says so.
    ///
    /// # Errors
    /// A data error where the text cannot be tokenized.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<i64>> {
        match &self.inner {
            Inner::Trained(t) => {
                let made = t.encode_fast(text, special);
                let made = made.map_err(|e| Error::data("text cannot be tokenized").why(e.to_string()))?;
                Ok(made.get_ids().iter().map(|id| i64::from(*id)).collect())
            }
            Inner::Bytes => Ok(text.bytes().map(i64::from).collect()),
        }
    }

    /// The tokens of `text`, which need not be UTF-8 where tokens are bytes; without special ones.
    ///
    /// # Errors
    /// A data error where the text cannot be tokenized.
    pub fn encode_bytes(&self, text: &[u8]) -> Result<Vec<i64>> {
        if self.is_bytes() {
            return Ok(text.iter().map(|b| i64::from(*b)).collect());
        }
        let text = std::str::from_utf8(text).map_err(|e| {
            Error::data("text is not UTF-8")
                .why(format!("byte {} is wrong", e.valid_up_to()))
                .hint("only a model of bytes reads any bytes; convert the text to UTF-8")
        })?;
        self.encode(text, false)
    }

    /// The special tokens that come before a text, such as that of its beginning.
    ///
    /// # Errors
    /// A data error where text cannot be tokenized.
    pub fn lead(&self) -> Result<Vec<i64>> {
        let (with, without) = (self.encode("a", true)?, self.encode("a", false)?);
        let at = with.windows(without.len().max(1)).position(|part| part == without.as_slice());
        Ok(with[..at.unwrap_or(0)].to_vec())
    }

    /// The text of `tokens`; bytes that are no UTF-8 become U+FFFD. Special tokens are left out where `skip_special`
    /// says so.
    ///
    /// # Errors
    /// A data error where a token does not exist.
    pub fn decode(&self, tokens: &[i64], skip_special: bool) -> Result<String> {
        let unknown = |id: i64| Error::data(format!("token {id}")).why("the tokenizer does not have it");
        match &self.inner {
            Inner::Trained(t) => {
                let ids: Vec<u32> = tokens
                    .iter()
                    .map(|id| u32::try_from(*id).map_err(|_| unknown(*id)))
                    .collect::<Result<_>>()?;
                t.decode(&ids, skip_special)
                    .map_err(|e| Error::data("tokens cannot be made text").why(e.to_string()))
            }
            Inner::Bytes => {
                let bytes: Vec<u8> = tokens
                    .iter()
                    .map(|id| u8::try_from(*id).map_err(|_| unknown(*id)))
                    .collect::<Result<_>>()?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }

    /// The token written `text`, such as `<|endoftext|>`.
    #[must_use]
    pub fn id(&self, text: &str) -> Option<i64> {
        match &self.inner {
            Inner::Trained(t) => t.token_to_id(text).map(i64::from),
            Inner::Bytes => text.as_bytes().first().filter(|_| text.len() == 1).map(|b| i64::from(*b)),
        }
    }

    /// How the vocabulary writes a token.
    #[must_use]
    pub fn token(&self, id: i64) -> Option<String> {
        match &self.inner {
            Inner::Trained(t) => t.id_to_token(u32::try_from(id).ok()?),
            Inner::Bytes => Some(format!("<0x{:02X}>", u8::try_from(id).ok()?)),
        }
    }

    /// A text that is given piece by piece as its tokens come.
    #[must_use]
    pub fn stream(&self, skip_special: bool) -> TextStream<'_> {
        TextStream { tokenizer: self, skip_special, tokens: Vec::new(), from: 0, shown: 0 }
    }
}

/// Text from a stream of tokens. Bytes that may still become a character are held back.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    tokens: Vec<i64>,
    /// Where decoding starts: what a token looks like may depend on the one before.
    from: usize,
    /// Tokens whose text was given.
    shown: usize,
}

impl TextStream<'_> {
    /// The text that `token` completes; empty where it completes none.
    ///
    /// # Errors
    /// A data error where there is no such token.
    pub fn push(&mut self, token: i64) -> Result<String> {
        self.tokens.push(token);
        self.give(false)
    }

    /// What was held back, with U+FFFD for what is no text.
    ///
    /// # Errors
    /// As [`TextStream::push`].
    pub fn finish(&mut self) -> Result<String> {
        self.give(true)
    }

    fn give(&mut self, all: bool) -> Result<String> {
        let text = |part: &[i64]| self.tokenizer.decode(part, self.skip_special);
        let (old, new) = (text(&self.tokens[self.from..self.shown])?, text(&self.tokens[self.from..])?);
        if new.len() <= old.len() || (new.ends_with('\u{FFFD}') && !all) {
            return Ok(String::new());
        }
        (self.from, self.shown) = (self.shown, self.tokens.len());
        // What was shown stays the beginning; were it not so, nothing is said twice.
        Ok(new.get(old.len()..).unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_there_and_back_and_hold_back_halves_of_characters() {
        let t = Tokenizer::bytes();
        let text = "a \u{1F600}e\u{301}\u{20AC}";
        let tokens = t.encode(text, true).unwrap();
        assert_eq!((t.size(), t.decode(&tokens, true).unwrap().as_str()), (256, text));
        let mut stream = t.stream(true);
        let pieces: Vec<String> = tokens.iter().map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(pieces.concat(), text);
        assert!(pieces[2].is_empty() && pieces[5] == "\u{1F600}");
        let mut stream = t.stream(true);
        assert_eq!(stream.push(0xE2).unwrap() + &stream.finish().unwrap(), "\u{FFFD}");
        assert!(t.decode(&[256], true).is_err() && t.decode(&[-1], true).is_err());
    }

    #[test]
    fn the_older_files_make_gpt2s_tokenizer() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Tokenizer::of_folder(dir.path()).unwrap().is_none());
        let vocab = r#"{"a": 0, "b": 1, "\u0120": 2, "ab": 3, "\u0120ab": 4, "<|endoftext|>": 5}"#;
        std::fs::write(dir.path().join("vocab.json"), vocab).unwrap();
        std::fs::write(dir.path().join("merges.txt"), "#version: 0.2\na b\n\u{120} ab\n").unwrap();
        let t = Tokenizer::of_folder(dir.path()).unwrap().unwrap();
        assert_eq!(t.encode("ab ab b<|endoftext|>", false).unwrap(), [3, 4, 2, 1, 5]);
        assert_eq!(t.decode(&[3, 4, 2, 1, 5], true).unwrap(), "ab ab b");
        assert_eq!((t.size(), t.id("<|endoftext|>"), t.token(4)), (6, Some(5), Some("\u{120}ab".to_owned())));
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        assert_eq!(Tokenizer::of_folder(dir.path()).unwrap_err().kind().exit_code(), 4);
    }
}

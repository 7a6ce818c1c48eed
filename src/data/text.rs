//! Text as tokens: windows of one long sequence.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::Split;
use super::feed::{Fed, Feed};
use crate::error::{Error, Result};
use crate::io::tokenizer::Tokenizer;
use crate::math::rng::SplitMix64;

/// The table `[data.text]` of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextSpec {
    /// Tokens of a window.
    pub length: usize,
    /// A `tokenizer.json`, or a folder with one; tokens are bytes if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
}

impl Default for TextSpec {
    fn default() -> Self {
        TextSpec { length: 256, tokenizer: None }
    }
}

/// Share of a text that is for training; the rest is held out.
const TRAIN: f64 = 0.9;

/// One long sequence of tokens.
#[derive(Debug)]
pub struct Tokens {
    tokens: Vec<u32>,
    length: usize,
    bytes: usize,
    tokenizer: Tokenizer,
}

impl Tokens {
    /// Reads the part `split` of the text at `path` (see [`bytes_of`]) as the tokens that `spec` says.
    ///
    /// # Errors
    /// Where there is no text, too little for one window, or it cannot be tokenized.
    pub fn open(path: &Path, split: Split, spec: &TextSpec) -> Result<Self> {
        let tokenizer = spec.tokenizer.as_deref().map_or_else(|| Ok(Tokenizer::bytes()), Tokenizer::at)?;
        Self::read(path, split, spec.length, tokenizer)
    }

    /// The same with a tokenizer that is there already.
    ///
    /// # Errors
    /// As [`Tokens::open`].
    pub fn read(path: &Path, split: Split, length: usize, tokenizer: Tokenizer) -> Result<Self> {
        let part = bytes_of(path, split)?;
        let tokens = tokenizer.encode_bytes(&part).map_err(|e| e.at(path.display()))?;
        if length == 0 || tokens.len() <= length {
            return Err(Error::data(format!("{} tokens of text", tokens.len()))
                .at(path.display())
                .why(format!("a window has {length}"))
                .hint("use more text, or set data.text.length"));
        }
        let tokens = tokens.into_iter().map(|t| u32::try_from(t).unwrap_or(u32::MAX)).collect();
        Ok(Tokens { tokens, length, bytes: part.len(), tokenizer })
    }

    /// How the text became tokens.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Bytes of text for each token.
    #[must_use]
    pub fn bytes_per_token(&self) -> f64 {
        self.bytes as f64 / self.tokens.len() as f64
    }

    /// The smallest number of tokens that a network of this text may have: that of the tokenizer, or what the bytes
    /// of the text need.
    #[must_use]
    pub fn vocab(&self) -> i64 {
        let seen = self.tokens.iter().max().map_or(0, |top| i64::from(*top) + 1);
        if self.tokenizer.is_bytes() { seen } else { self.tokenizer.size().max(seen) }
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none (an opened text has some).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Tokens of a window.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Number of windows that do not overlap.
    #[must_use]
    pub fn windows(&self) -> usize {
        self.tokens.len() / self.length
    }

    /// The windows that start at `starts`, `[B, L]` i64.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn batch(&self, starts: &[usize], device: Device) -> Result<Tensor> {
        let all: Vec<i64> = starts
            .iter()
            .flat_map(|&start| self.tokens[start..start + self.length].iter().map(|t| i64::from(*t)))
            .collect();
        let shape = [starts.len() as i64, self.length as i64];
        Ok(Tensor::f_from_slice(&all)?.f_view(shape)?.f_to_device(device)?)
    }
}

/// Windows at random places, which (seed, position) decide.
#[derive(Debug)]
pub struct TextFeed {
    tokens: Arc<Tokens>,
    batch: usize,
    seed: u64,
    position: u64,
    device: Device,
}

impl TextFeed {
    /// Starts at window `position`.
    #[must_use]
    pub fn new(tokens: Arc<Tokens>, batch: usize, seed: u64, position: u64, device: Device) -> Self {
        TextFeed { tokens, batch, seed, position, device }
    }
}

impl Feed for TextFeed {
    fn next_batch(&mut self) -> Result<Fed> {
        let key = SplitMix64::new(self.seed).next_u64();
        let room = (self.tokens.len() - self.tokens.length + 1) as u64;
        let starts: Vec<usize> = (0..self.batch as u64)
            .map(|i| SplitMix64::new(key ^ (self.position + i)).below(room) as usize)
            .collect();
        self.position += self.batch as u64;
        Ok(Fed { x: self.tokens.batch(&starts, self.device)?, class: None, frames: None })
    }
}

/// The part `split` of the text file at `path` (`.gz` too), or of all `.txt` files of a folder by their names, one after
/// another. A part begins with a whole character of UTF-8.
///
/// # Errors
/// Where there is no text.
pub fn bytes_of(path: &Path, split: Split) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for file in files(path)? {
        bytes.extend(read(&file)?);
    }
    let mut cut = (bytes.len() as f64 * TRAIN) as usize;
    // Bytes 10xxxxxx go on with a character. No character has more than three of them; other data is cut anywhere.
    let whole = (cut.saturating_sub(3)..=cut).rev().find(|&i| bytes.get(i).is_none_or(|b| b & 0xC0 != 0x80));
    if std::str::from_utf8(&bytes).is_ok() {
        cut = whole.unwrap_or(cut);
    }
    match split {
        Split::All => {}
        Split::Train => bytes.truncate(cut),
        Split::Test => drop(bytes.drain(..cut)),
    }
    Ok(bytes)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::read(path, &e))?;
    let is_text = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        name.ends_with(".txt") || name.ends_with(".txt.gz")
    };
    let mut found: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(is_text).collect();
    found.sort();
    if found.is_empty() {
        return Err(Error::data("no text").at(path.display()).hint("give a .txt file, or a folder of such"));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path).map_err(|e| Error::read(path, &e))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| Error::read(path, &e))?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        let mut gz = flate2::read::MultiGzDecoder::new(&bytes[..]);
        gz.read_to_end(&mut plain).map_err(|e| Error::read(path, &e))?;
        return Ok(plain);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_fixed_by_seed_and_position() {
        let dir = tempfile::tempdir().unwrap();
        let text: Vec<u8> = (0..=255).cycle().take(1000).collect();
        std::fs::write(dir.path().join("a.txt"), &text[..400]).unwrap();
        std::fs::write(dir.path().join("b.txt"), &text[400..]).unwrap();
        let spec = TextSpec { length: 20, tokenizer: None };
        let all = Arc::new(Tokens::open(dir.path(), Split::All, &spec).unwrap());
        assert_eq!((all.len(), all.windows()), (1000, 50));
        let feed = |batch, position| {
            let mut feed = TextFeed::new(Arc::clone(&all), batch, 1, position, Device::Cpu);
            feed.next_batch().unwrap().x
        };
        let x = feed(6, 0);
        assert_eq!(x.size(), [6, 20]);
        assert!(feed(2, 4).equal(&x.narrow(0, 4, 2)));
        // Every window is a piece of the text.
        let steps = (x.narrow(1, 1, 19) - x.narrow(1, 0, 19)).remainder(256);
        assert!(bool::try_from(steps.eq(1).all()).unwrap());
        let train = Tokens::open(dir.path(), Split::Train, &spec).unwrap();
        let test = Tokens::open(dir.path(), Split::Test, &spec).unwrap();
        assert_eq!((train.len(), test.len()), (900, 100));
        assert_eq!(test.batch(&[0], Device::Cpu).unwrap().int64_value(&[0, 0]), 900 % 256);
    }

    #[test]
    fn too_little_text_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Tokens::open(dir.path(), Split::All, &TextSpec::default()).is_err());
        std::fs::write(dir.path().join("a.txt"), "short").unwrap();
        let error = Tokens::open(dir.path(), Split::All, &TextSpec::default()).unwrap_err();
        assert!(error.to_string().contains("5 tokens of text"), "{error}");
    }
}

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
use crate::math::rng::SplitMix64;

/// The table `[data.text]` of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextSpec {
    /// Tokens of a window.
    pub length: usize,
}

impl Default for TextSpec {
    fn default() -> Self {
        TextSpec { length: 256 }
    }
}

/// Share of a text that is for training; the rest is held out.
const TRAIN: f64 = 0.9;

/// One long sequence of tokens.
#[derive(Debug)]
pub struct Tokens {
    tokens: Vec<u16>,
    length: usize,
}

impl Tokens {
    /// Reads the bytes of the text file at `path` (`.gz` too), or of all `.txt` files of a folder by their names.
    ///
    /// # Errors
    /// Where there is no text, or too little for one window.
    pub fn open(path: &Path, split: Split, spec: &TextSpec) -> Result<Self> {
        let mut bytes = Vec::new();
        for file in files(path)? {
            bytes.extend(read(&file)?);
        }
        let cut = (bytes.len() as f64 * TRAIN) as usize;
        let part = match split {
            Split::All => &bytes[..],
            Split::Train => &bytes[..cut],
            Split::Test => &bytes[cut..],
        };
        if spec.length == 0 || part.len() <= spec.length {
            return Err(Error::data(format!("{} bytes of text", part.len()))
                .at(path.display())
                .why(format!("a window has {}", spec.length))
                .hint("use more text, or set data.text.length"));
        }
        Ok(Tokens { tokens: part.iter().map(|b| u16::from(*b)).collect(), length: spec.length })
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
        let spec = TextSpec { length: 20 };
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
        assert!(error.to_string().contains("5 bytes of text"), "{error}");
    }
}

//! Texts to be measured: what `gen sample` wrote, lines, or files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::io::tokenizer::Tokenizer;
use crate::model::language::reader::tokenizer_of;

/// A text with what is known of how it came about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// What it continues.
    pub prompt: Option<String>,
    /// The text itself.
    pub text: String,
    /// Number of its tokens, mean surprisal and mean entropy where they were drawn, in nats.
    pub drawn: Option<(usize, f64, f64)>,
}

/// The texts at `path`: a `.jsonl` file with the key `text`, a folder of `.txt` files, or a file with one text a line.
pub fn read(path: &Path) -> Result<Vec<Sample>> {
    let text_of = |path: &Path| std::fs::read_to_string(path).map_err(|e| Error::read(path, &e));
    let plain = |text: String| Sample { text, ..Sample::default() };
    let found: Vec<Sample> = if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|e| Error::read(path, &e))?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt")))
            .collect();
        files.sort();
        files.iter().map(|file| Ok(plain(text_of(file)?))).collect::<Result<_>>()?
    } else {
        let content = text_of(path)?;
        let jsonl = path.extension().is_some_and(|e| e == "jsonl" || e == "json");
        let lines = content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        match jsonl {
            true => lines.map(|(i, line)| object(line, path, i + 1)).collect::<Result<_>>()?,
            false => lines.map(|(_, line)| plain(line.to_owned())).collect(),
        }
    };
    if found.is_empty() {
        return Err(Error::data("no texts").at(path.display()).hint(
            "give the .jsonl of `gen sample --out`, a file with a text on each line, or a folder of .txt",
        ));
    }
    Ok(found)
}

fn object(line: &str, path: &Path, number: usize) -> Result<Sample> {
    let value: Value = serde_json::from_str(line).unwrap_or_default();
    let text = value["text"].as_str().ok_or_else(|| {
        Error::data("a line without a text")
            .at(format!("{}:{number}", path.display()))
            .hint("each line is an object with the key \"text\", as `gen sample --out FILE.jsonl` writes it")
    })?;
    let drawn = || {
        let tokens = value["ids"].as_array()?.len();
        Some((tokens, value["mean_surprisal"].as_f64()?, value["mean_entropy"].as_f64()?))
    };
    Ok(Sample { prompt: value["prompt"].as_str().map(str::to_owned), text: text.to_owned(), drawn: drawn() })
}

/// What counts as a token of repetition, variety and Zipf's law.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unit {
    /// What white space divides.
    Words,
    /// Bytes.
    Bytes,
    /// The tokens of a model.
    Model(PathBuf),
}

impl FromStr for Unit {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Ok(match text {
            "words" => Unit::Words,
            "bytes" => Unit::Bytes,
            path => Unit::Model(path.into()),
        })
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unit::Words => f.write_str("words"),
            Unit::Bytes => f.write_str("bytes"),
            Unit::Model(path) => write!(f, "tokens of {}", path.display()),
        }
    }
}

/// From texts to such tokens. Equal words have equal numbers in all texts.
pub struct Counter {
    tokenizer: Option<Tokenizer>,
    words: HashMap<String, i64>,
}

impl Counter {
    /// Counts `unit`.
    pub fn new(unit: &Unit) -> Result<Self> {
        let tokenizer = match unit {
            Unit::Words => None,
            Unit::Bytes => Some(Tokenizer::bytes()),
            Unit::Model(path) => Some(tokenizer_of(path)?),
        };
        Ok(Counter { tokenizer, words: HashMap::new() })
    }

    /// The tokens of `text`.
    pub fn tokens(&mut self, text: &str) -> Result<Vec<i64>> {
        if let Some(tokenizer) = &self.tokenizer {
            return tokenizer.encode(text, false);
        }
        Ok(text
            .split_whitespace()
            .map(|word| {
                let next = self.words.len() as i64;
                *self.words.entry(word.to_owned()).or_insert(next)
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_from_objects_lines_and_folders() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let jsonl = place(
            "a.jsonl",
            "{\"prompt\": \"x\", \"text\": \"one\\ntwo\", \"ids\": [1, 2], \"mean_surprisal\": 1.5, \"mean_entropy\": 2.5}\n\
             {\"text\": \"\"}\n",
        );
        let got = read(&jsonl).unwrap();
        assert_eq!(got[0].drawn, Some((2, 1.5, 2.5)));
        assert_eq!((got[0].text.as_str(), got[0].prompt.as_deref()), ("one\ntwo", Some("x")));
        assert_eq!(got[1], Sample::default());
        let texts =
            |path: &Path| -> Vec<String> { read(path).unwrap().into_iter().map(|s| s.text).collect() };
        assert_eq!(texts(&place("b.txt", "one two\n\nthree\n")), ["one two", "three"]);
        place("a.txt", "first\nof all");
        assert_eq!(texts(dir.path()), ["first\nof all", "one two\n\nthree\n"]);
        let error = read(&place("c.jsonl", "{\"text\": \"a\"}\n{\"txt\": 1}\n")).unwrap_err();
        assert!(error.to_string().contains("c.jsonl:2"), "{error}");
        assert_eq!(read(&place("d.txt", "\n")).unwrap_err().kind().exit_code(), 3);
    }

    #[test]
    fn words_have_one_number_in_all_texts() {
        let mut words = Counter::new(&Unit::Words).unwrap();
        assert_eq!(words.tokens("to be  or not\nto be").unwrap(), [0, 1, 2, 3, 0, 1]);
        assert_eq!(words.tokens("not that").unwrap(), [3, 4]);
        assert_eq!(Counter::new(&Unit::Bytes).unwrap().tokens("ab").unwrap(), [97, 98]);
    }
}

//! Checkpoints: a folder that holds the whole state of a run, or nothing.
//!
//! `model.safetensors`, one `ema-<name>.safetensors` for every average, `optimizer.safetensors` and
//! `state.json`. The folder is written under a temporary name, synced and renamed, so a folder with its
//! final name is whole whenever the program is killed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::error::{Error, Result};
use crate::io::{atomic, safetensors};
use crate::optim::plateau::Plateau;

/// Named tensors.
pub type Tensors = Vec<(String, Tensor)>;

/// The numbers of a run's state. Everything random is keyed by the step, so there is no generator's
/// state to keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Version of this form.
    pub format: u32,
    /// Optimiser steps done.
    pub step: u64,
    /// Images seen; also the position in the data.
    pub images: u64,
    /// Sums since the last log line: the loss, the gradient norm, the parts of the loss.
    pub sums: BTreeMap<String, f64>,
    /// Number of terms of each sum.
    pub terms: u64,
    /// Seconds spent training, over all sittings.
    pub seconds: f64,
    /// What the learning rate has seen of held-out losses.
    #[serde(default)]
    pub plateau: Plateau,
}

impl State {
    /// The current version of this form.
    pub const FORMAT: u32 = 1;

    /// The state of a run that has not begun.
    #[must_use]
    pub fn fresh() -> Self {
        State {
            format: Self::FORMAT,
            step: 0,
            images: 0,
            sums: BTreeMap::new(),
            terms: 0,
            seconds: 0.0,
            plateau: Plateau::default(),
        }
    }
}

/// A whole checkpoint in memory (handles on tensors, not copies).
#[derive(Debug)]
pub struct Checkpoint {
    /// Raw weights.
    pub model: Tensors,
    /// Averages of the weights, by name.
    pub emas: Vec<(String, Tensors)>,
    /// State of the optimiser.
    pub optimizer: Tensors,
    /// Counters.
    pub state: State,
}

impl Checkpoint {
    /// Writes the checkpoint as the folder `path`, all or nothing.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let none = BTreeMap::new();
        atomic::write_folder(path, |folder| {
            let put = |name: &str, tensors: &Tensors| {
                safetensors::write(&folder.join(name), tensors.iter().map(|(n, t)| (n, t)), &none)
            };
            put("model.safetensors", &self.model)?;
            for (name, tensors) in &self.emas {
                put(&format!("ema-{name}.safetensors"), tensors)?;
            }
            put("optimizer.safetensors", &self.optimizer)?;
            let text = serde_json::to_string_pretty(&self.state)
                .map_err(|e| Error::run("cannot write the state").why(e.to_string()))?;
            atomic::write_bytes(&folder.join("state.json"), text.as_bytes())
        })
    }
}

/// A checkpoint on disk.
#[derive(Debug)]
pub struct Saved<'a> {
    folder: &'a Path,
    /// Its counters.
    pub state: State,
}

impl<'a> Saved<'a> {
    /// Opens the checkpoint folder.
    ///
    /// # Errors
    /// Where it is not one, or of another version.
    pub fn open(folder: &'a Path) -> Result<Self> {
        let path = folder.join("state.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Error::read(&path, &e).kinded(crate::error::Kind::Model))?;
        let state: State = serde_json::from_str(&text).map_err(|e| {
            Error::model("damaged checkpoint")
                .at(path.display())
                .why(e.to_string())
                .hint("remove the folder of that checkpoint, and the run goes on from the one before")
        })?;
        if state.format != State::FORMAT {
            return Err(Error::model("checkpoint of another version")
                .at(path.display())
                .why(format!("it has format {}, this gen reads {}", state.format, State::FORMAT))
                .hint("use the release of gen that wrote it"));
        }
        Ok(Saved { folder, state })
    }

    fn tensors(&self, name: &str) -> Result<BTreeMap<String, Tensor>> {
        let path = self.folder.join(name);
        safetensors::File::open(&path)
            .and_then(|f| f.tensors())
            .map_err(|e| e.kinded(crate::error::Kind::Model))
    }

    /// Raw weights.
    ///
    /// # Errors
    /// Where the file is missing or damaged.
    pub fn model(&self) -> Result<BTreeMap<String, Tensor>> {
        self.tensors("model.safetensors")
    }

    /// The average `name`.
    ///
    /// # Errors
    /// Where the file is missing or damaged.
    pub fn ema(&self, name: &str) -> Result<BTreeMap<String, Tensor>> {
        self.tensors(&format!("ema-{name}.safetensors"))
    }

    /// State of the optimiser.
    ///
    /// # Errors
    /// Where the file is missing or damaged.
    pub fn optimizer(&self) -> Result<BTreeMap<String, Tensor>> {
        self.tensors("optimizer.safetensors")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("00000007");
        let tensor = |x: f32| vec![("w".to_owned(), Tensor::from_slice(&[x]))];
        let sums = BTreeMap::from([("loss".to_owned(), 0.1 + 0.2)]);
        let state = State { step: 7, sums, terms: 3, ..State::fresh() };
        let checkpoint = Checkpoint {
            model: tensor(1.0),
            emas: vec![("a".to_owned(), tensor(2.0))],
            optimizer: tensor(3.0),
            state: state.clone(),
        };
        checkpoint.save(&path).unwrap();
        let saved = Saved::open(&path).unwrap();
        assert_eq!(saved.state, state);
        assert_eq!(saved.model().unwrap()["w"].double_value(&[0]), 1.0);
        assert_eq!(saved.ema("a").unwrap()["w"].double_value(&[0]), 2.0);
        assert_eq!(saved.optimizer().unwrap()["w"].double_value(&[0]), 3.0);
        assert!(saved.ema("b").is_err());
        std::fs::write(path.join("state.json"), "{").unwrap();
        assert!(Saved::open(&path).unwrap_err().to_string().starts_with("damaged checkpoint"));
    }
}

//! A file of named tensors and named values, whatever its format: what readers of foreign layouts look at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::Tensor;

use super::kind::FileKind;
use crate::error::{Error, Kind, Result};
use crate::io::pth::{Checkpoint, Scalar};
use crate::io::safetensors;

/// The file.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    names: Vec<String>,
    shapes: BTreeMap<String, Vec<i64>>,
    scalars: BTreeMap<String, Scalar>,
    file: File,
}

#[derive(Debug)]
enum File {
    Checkpoint(Checkpoint),
    Safetensors(safetensors::File),
}

impl Source {
    /// Opens the file of weights `path`; no tensor is read.
    ///
    /// # Errors
    /// A model error where it is damaged, or neither a checkpoint nor a safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        match FileKind::of(path)? {
            FileKind::Checkpoint => {
                let file = Checkpoint::open(path)?;
                let shapes = file.entries().iter().map(|(n, e)| (n.clone(), e.shape.clone())).collect();
                let (names, scalars) = (file.names().to_vec(), file.scalars().clone());
                Ok(Source { path: path.to_owned(), names, shapes, scalars, file: File::Checkpoint(file) })
            }
            FileKind::Safetensors => {
                let file = safetensors::File::open(path).map_err(|e| e.kinded(Kind::Model))?;
                let shapes: BTreeMap<String, Vec<i64>> =
                    file.entries().iter().map(|(n, e)| (n.clone(), e.shape.clone())).collect();
                let names = shapes.keys().cloned().collect();
                let text = |(key, value): (&String, &String)| (key.clone(), Scalar::Str(value.clone()));
                let scalars = file.metadata().iter().map(text).collect();
                Ok(Source { path: path.to_owned(), names, shapes, scalars, file: File::Safetensors(file) })
            }
            other => {
                Err(Error::model(format!("a {} is no file of weights", other.name())).at(path.display()))
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors, in the order of the file where it has one.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether a tensor or value has a name that starts with `prefix`.
    #[must_use]
    pub fn has(&self, prefix: &str) -> bool {
        self.shapes.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
            || self
                .scalars
                .range(prefix.to_owned()..)
                .next()
                .is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// Shape of the tensor `name`, if it is there.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[i64]> {
        self.shapes.get(name).map(Vec::as_slice)
    }

    /// A copy of the tensor `name` on the CPU, in the file's own type.
    ///
    /// # Errors
    /// A model error where it is missing or damaged.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        match &self.file {
            File::Checkpoint(file) => file.tensor(name),
            File::Safetensors(file) => file.tensor(name).map_err(|e| e.kinded(Kind::Model)),
        }
    }

    /// Copies of all tensors whose names start with `prefix`, which is taken off.
    ///
    /// # Errors
    /// As [`Source::tensor`].
    pub fn below(&self, prefix: &str) -> Result<BTreeMap<String, Tensor>> {
        let names = self.names.iter().filter_map(|name| Some((name, name.strip_prefix(prefix)?)));
        names.map(|(name, rest)| Ok((rest.to_owned(), self.tensor(name)?))).collect()
    }

    /// The value `name`, if it is there.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Scalar> {
        self.scalars.get(name)
    }

    /// Names of the values directly below `prefix` (elements of a list count as one).
    #[must_use]
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let start = format!("{prefix}.");
        let below = self.scalars.range(start.clone()..).map_while(|(name, _)| name.strip_prefix(&start));
        let mut keys: Vec<String> =
            below.map(|rest| rest.split('.').next().unwrap_or(rest).to_owned()).collect();
        keys.dedup();
        keys
    }

    /// The string `name`.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Some(Scalar::Str(text)) => Some(text),
            _ => None,
        }
    }

    /// The integer `name`.
    #[must_use]
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.value(name) {
            Some(Scalar::Int(value)) => Some(*value),
            _ => None,
        }
    }

    /// The number `name`.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn number(&self, name: &str) -> Option<f64> {
        match self.value(name) {
            Some(Scalar::Int(value)) => Some(*value as f64),
            Some(Scalar::Float(value)) => Some(*value),
            _ => None,
        }
    }

    /// The numbers of the list `name`.
    #[must_use]
    pub fn numbers(&self, name: &str) -> Option<Vec<f64>> {
        if self.value(name) == Some(&Scalar::Empty) {
            return Some(Vec::new());
        }
        let list: Vec<f64> = (0..).map_while(|i| self.number(&format!("{name}.{i}"))).collect();
        let more = self.value(&format!("{name}.{}", list.len())).is_some();
        (!list.is_empty() && !more).then_some(list)
    }

    /// The integers of the list `name`.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        let list = self.numbers(name)?;
        list.iter()
            .all(|v| v.fract() == 0.0 && v.abs() < 1e9)
            .then(|| list.iter().map(|v| *v as i64).collect())
    }
}

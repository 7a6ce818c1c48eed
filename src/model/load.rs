//! From a path to a card and the tensors it speaks of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::Tensor;

use super::card::{KEY, ModelCard};
use super::foreign::{self, Layout};
use super::kind::FileKind;
use super::open::{OpenOptions, weights_of};
use super::source::Source;
use super::{diffusers, dit_folder};
use crate::error::{Error, Kind, Result};
use crate::io::safetensors;

/// A model that is read but not built.
#[derive(Debug)]
pub struct Loaded {
    /// What it is.
    pub card: ModelCard,
    /// Its weights on the CPU, by the names of this project's network.
    pub tensors: BTreeMap<String, Tensor>,
    /// The file or folder they came from.
    pub path: PathBuf,
    /// The same, as exactly as errors about tensors are to say it.
    pub place: String,
    /// All files the model depends on.
    pub files: Vec<PathBuf>,
    /// What had to be assumed, for people to read.
    pub notes: Vec<String>,
}

/// Reads the model at `path`.
///
/// # Errors
/// A model error where it is missing, damaged, or of a kind that has no card and tensors.
pub fn load(path: &Path, options: &OpenOptions) -> Result<Loaded> {
    let kind = FileKind::of(path)?;
    if matches!(kind, FileKind::Run | FileKind::HuggingFace) {
        says_itself(path, kind.name(), options)?;
    }
    let file = match kind {
        FileKind::Safetensors => path.to_path_buf(),
        FileKind::Run => weights_of(path, options.weights.as_deref())?,
        FileKind::Checkpoint => return foreign::read(path, options),
        FileKind::HuggingFace if dit_folder::is_one(path) => return dit_folder::read(path, options),
        FileKind::HuggingFace => return folder(path, options),
        other => {
            return Err(Error::model(format!("cannot run a {}", other.name())).at(path.display()).hint(
                "gen runs snapshots and run folders of `gen train`, folders of diffusers, checkpoints of EDM, \
                 score_sde, DiT, SiT, DiffWave and state-spaces, TorchScript modules and AOTInductor packages",
            ));
        }
    };
    snapshot(&file, options).map_err(|e| e.at(file.display()))
}

fn snapshot(path: &Path, options: &OpenOptions) -> Result<Loaded> {
    let file = safetensors::File::open(path).map_err(|e| e.kinded(Kind::Model))?;
    if !file.metadata().contains_key(KEY) {
        // Perhaps the tensors of another project's checkpoint.
        let source = Source::open(path)?;
        if let Some(layout) = Layout::of(&source) {
            return foreign::read_as(layout, &source, options);
        }
    }
    let card = ModelCard::of(&file)?;
    says_itself(path, "snapshot", options)?;
    let tensors = file.tensors().map_err(|e| e.kinded(Kind::Model))?;
    Ok(Loaded::of_file(path, card, tensors, Vec::new()))
}

/// A folder of diffusers.
fn folder(path: &Path, options: &OpenOptions) -> Result<Loaded> {
    let folder = diffusers::Folder::read(path, options.weights.as_deref(), options.compat)
        .map_err(|e| e.at(path.display()).kinded(Kind::Model))?;
    let (tensors, place) = (folder.tensors()?, folder.weights.place());
    let diffusers::Folder { card, files, notes, .. } = folder;
    Ok(Loaded { card, tensors, path: path.to_owned(), place, files, notes })
}

impl Loaded {
    /// A model that is one file.
    pub(super) fn of_file(
        path: &Path,
        card: ModelCard,
        tensors: BTreeMap<String, Tensor>,
        notes: Vec<String>,
    ) -> Self {
        let (place, path) = (path.display().to_string(), path.to_owned());
        Loaded { card, tensors, files: vec![path.clone()], path, place, notes }
    }
}

/// Refuses what is said by hand of a model that says it itself.
pub(super) fn says_itself(path: &Path, what: &str, options: &OpenOptions) -> Result<()> {
    if options.raw.is_empty() {
        return Ok(());
    }
    Err(Error::usage(format!("the {what} says itself what it is")).at(path.display()).hint(
        "leave --process, --prediction, --shape, --time and --classes out; they are for bare modules and checkpoints",
    ))
}

//! Pickled checkpoints (`.pth`, `.pt`, `.bin`, `.ckpt`, `.pkl`): the zip container of torch >= 1.6, the legacy
//! one, and plain pickles whose tensors lie inside.
//!
//! Zip: `ROOT/data.pkl` (the object), `ROOT/data/KEY` (raw storages), `ROOT/byteorder`. Legacy: pickles of a
//! magic number, a protocol number, facts about the system, the object, the list of storage keys; then for each
//! key a u64 count and the raw elements. Tensors are `torch._utils._rebuild_tensor_v2(storage, offset, size,
//! stride, ...)`, storages are persistent ids `("storage", class, key, location, count, view)`, or in a plain
//! pickle `torch.storage._load_from_bytes(b"...")` around a legacy container.
//!
//! Any nesting of dicts, `OrderedDict`s, lists and objects is flattened to dotted names. Nothing is executed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use tch::Tensor;

use super::bytes::Bytes;
use super::pth_container::Container;
pub use super::pth_tensor::Entry;
pub use super::pth_walk::CLASS;
use super::pth_walk::Walk;
use crate::error::{Error, Kind, Result};

/// The first bytes of the legacy container: the pickle of `0x1950a86a20f9469cfc6c`.
pub const LEGACY_MAGIC: [u8; 14] = *b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// Whether `head` starts as a pickle of protocol 2 to 5 does.
#[must_use]
pub fn is_pickle(head: &[u8]) -> bool {
    matches!(head, [0x80, 2..=5, ..])
}

/// A value of a checkpoint that is no tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// A string.
    Str(String),
    /// A list without elements (the elements of others are values of their own, named by their index).
    Empty,
}

/// A checkpoint, opened.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    names: Vec<String>,
    entries: BTreeMap<String, Entry>,
    scalars: BTreeMap<String, Scalar>,
    unknown: Vec<String>,
    storages: HashMap<String, Bytes>,
}

pub(super) fn bad(why: impl Into<String>) -> Error {
    Error::model("not a readable PyTorch checkpoint").why(why)
}

impl Checkpoint {
    /// Opens `path`, any container, by content; no tensor is read.
    ///
    /// # Errors
    /// A model error where it is damaged, a TorchScript module, or big-endian.
    pub fn open(path: &Path) -> Result<Self> {
        let data = Bytes::map(path)?;
        Self::read(path, &data, false).map_err(|e| e.at(path.display()).kinded(Kind::Model))
    }

    /// Opens the TorchScript module at `path` as data: its parameters, buffers and other attributes. Its code is
    /// not looked at.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_script(path: &Path) -> Result<Self> {
        let data = Bytes::map(path)?;
        Self::read(path, &data, true).map_err(|e| e.at(path.display()).kinded(Kind::Model))
    }

    fn read(path: &Path, data: &Bytes, script: bool) -> Result<Self> {
        let Container { pickle, storages, embedded } = Container::read(data, script)?;
        let mut walk = Walk::new(&pickle, &embedded);
        walk.visit(pickle.root, String::new(), false, 0)?;
        let (mut names, mut entries) = (Vec::new(), BTreeMap::new());
        for (name, entry) in walk.out {
            if entries.insert(name.clone(), entry).is_none() {
                names.push(name);
            }
        }
        let (scalars, unknown) = (walk.scalars, walk.unknown);
        Ok(Checkpoint { path: path.to_owned(), names, entries, scalars, unknown, storages })
    }

    /// The tensors' names, in the order of the file.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The tensors by name.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Numbers and strings that stand beside the tensors, by name.
    #[must_use]
    pub fn scalars(&self) -> &BTreeMap<String, Scalar> {
        &self.scalars
    }

    /// Functions and classes the file would have called and this reader does not know.
    #[must_use]
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// A copy of tensor `name` on the CPU, in the file's own type.
    ///
    /// # Errors
    /// A model error where there is none, or its storage is missing or too short.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let place = || format!("{}: {name}", self.path.display());
        let entry = self.entries.get(name).ok_or_else(|| {
            let error = Error::model(format!("no tensor `{name}`")).at(self.path.display());
            error.hint(format!("the file holds {} tensors", self.entries.len()))
        })?;
        let storage = self
            .storages
            .get(&entry.storage)
            .ok_or_else(|| bad(format!("storage `{}` is missing", entry.storage)).at(place()))?;
        entry.build(storage).map_err(|e| e.at(place()).kinded(Kind::Model))
    }

    /// Copies of all tensors on the CPU, by name.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.entries.keys().map(|name| Ok((name.clone(), self.tensor(name)?))).collect()
    }
}

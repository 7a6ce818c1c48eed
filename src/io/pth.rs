//! PyTorch checkpoints (`.pth`, `.pt`, `.bin`, `.ckpt`): the zip container of torch >= 1.6 and the legacy one.
//!
//! Zip: `ROOT/data.pkl` (the object), `ROOT/data/KEY` (raw storages), `ROOT/byteorder`. Legacy: pickles of a
//! magic number, a protocol number, facts about the system, the object, the list of storage keys; then for each
//! key a u64 count and the raw elements. Tensors are `torch._utils._rebuild_tensor_v2(storage, offset, size,
//! stride, ...)`, storages are persistent ids `("storage", class, key, location, count, view)`.
//!
//! Any nesting of dicts, `OrderedDict`s, lists and objects is flattened to dotted names. Nothing is executed.

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};
use zip::{CompressionMethod, ZipArchive};

use super::bytes::{Bytes, numel, tensor_from_bytes};
use super::pickle::{Id, Node, Pickle};
use crate::error::{Error, Result};

/// The first bytes of the legacy container: the pickle of `0x1950a86a20f9469cfc6c`.
pub const LEGACY_MAGIC: [u8; 14] = *b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// A tensor of a checkpoint, not yet read.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Element type.
    pub kind: Kind,
    /// Shape.
    pub shape: Vec<i64>,
    stride: Vec<i64>,
    offset: usize,
    storage: String,
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

fn bad(why: impl Into<String>) -> Error {
    Error::model("not a readable PyTorch checkpoint").why(why)
}

impl Checkpoint {
    /// Opens `path`, either container, by content; no tensor is read.
    ///
    /// # Errors
    /// A model error where it is damaged, a TorchScript module, or big-endian.
    pub fn open(path: &Path) -> Result<Self> {
        let data = Bytes::map(path)?;
        let opened = if data.starts_with(b"PK\x03\x04") {
            Self::zip(path, data)
        } else if data.starts_with(&LEGACY_MAGIC) {
            Self::legacy(path, &data)
        } else {
            Err(bad("it is neither a zip archive nor a legacy container"))
        };
        opened.map_err(|e| e.at(path.display()).kinded(crate::error::Kind::Model))
    }

    fn zip(path: &Path, data: Bytes) -> Result<Self> {
        let zip_error = |e: zip::result::ZipError| bad(e.to_string().to_lowercase());
        let mut archive = ZipArchive::new(Cursor::new(data.clone())).map_err(zip_error)?;
        let names: Vec<String> = archive.file_names().filter_map(|n| Some(n.ok()?.into_owned())).collect();
        if names.iter().any(|n| n.ends_with("/constants.pkl")) {
            return Err(bad("it is a TorchScript module, not a checkpoint of tensors"));
        }
        let pickle = names.iter().find(|n| n.ends_with("/data.pkl") || *n == "data.pkl");
        let root = pickle.ok_or_else(|| bad("it holds no data.pkl"))?.trim_end_matches("data.pkl").to_owned();
        let mut member = |name: &str| -> Result<Bytes> {
            let mut file = archive.by_name(name).map_err(zip_error)?;
            if let (CompressionMethod::Stored, Some(start)) = (file.compression(), file.data_start()) {
                let size = usize::try_from(file.compressed_size()).unwrap_or(usize::MAX);
                return data.slice(usize::try_from(start).unwrap_or(usize::MAX), size);
            }
            let mut out = Vec::new();
            file.read_to_end(&mut out).map_err(|e| bad(e.to_string()))?;
            Ok(Bytes::from(out))
        };
        if names.contains(&format!("{root}byteorder")) && &*member(&format!("{root}byteorder"))? == b"big" {
            return Err(bad("it is big-endian"));
        }
        let pickle = Pickle::read(&member(&format!("{root}data.pkl"))?)?;
        let mut storages = HashMap::new();
        for name in &names {
            if let Some(key) = name.strip_prefix(&format!("{root}data/")) {
                storages.insert(key.to_owned(), member(name)?);
            }
        }
        Ok(Self::walk(path, &pickle, storages)?.0)
    }

    fn legacy(path: &Path, data: &Bytes) -> Result<Self> {
        let mut at = 0;
        let mut next = || -> Result<Pickle> {
            let pickle = Pickle::read(&data[at..])?;
            at += pickle.len;
            Ok(pickle)
        };
        let (_magic, protocol, system) = (next()?, next()?, next()?);
        if protocol.int(protocol.root) != Some(1001) {
            return Err(bad("its protocol is not 1001"));
        }
        if let Node::Dict(facts) = system.get(system.root) {
            let little = facts.iter().find(|(k, _)| system.str(*k) == Some("little_endian"));
            if little.is_some_and(|(_, v)| system.get(*v) == &Node::Bool(false)) {
                return Err(bad("it is big-endian"));
            }
        }
        let (object, keys) = (next()?, next()?);
        let (mut checkpoint, widths) = Self::walk(path, &object, HashMap::new())?;
        let keys: Option<Vec<&str>> =
            keys.seq(keys.root).and_then(|list| list.iter().map(|&id| keys.str(id)).collect());
        for key in keys.ok_or_else(|| bad("it has no list of storages"))? {
            let count = u64::from_le_bytes(
                data.get(at..at + 8)
                    .and_then(|b| b.try_into().ok())
                    .ok_or_else(|| bad("it ends before its storages do"))?,
            );
            at += 8;
            let Some(width) = widths.get(key) else {
                return Err(bad(format!("storage `{key}` belongs to no tensor")));
            };
            let size = usize::try_from(count).ok().and_then(|n| n.checked_mul(*width));
            let size = size.ok_or_else(|| bad(format!("storage `{key}` claims {count} elements")))?;
            let bytes = data.slice(at, size).map_err(|_| {
                bad(format!("storage `{key}` has {size} bytes, file has {}", data.len() - at))
            })?;
            at += size;
            checkpoint.storages.insert(key.to_owned(), bytes);
        }
        Ok(checkpoint)
    }

    /// Collects the tensors; the widths of the elements of each storage come beside them.
    fn walk(
        path: &Path,
        pickle: &Pickle,
        storages: HashMap<String, Bytes>,
    ) -> Result<(Self, HashMap<String, usize>)> {
        let mut walk =
            Walk { pickle, steps: 0, out: Vec::new(), scalars: BTreeMap::new(), unknown: Vec::new() };
        walk.visit(pickle.root, String::new(), 0)?;
        let mut widths = HashMap::new();
        let (mut names, mut entries) = (Vec::new(), BTreeMap::new());
        for (name, entry) in walk.out {
            widths.insert(entry.storage.clone(), entry.kind.elt_size_in_bytes());
            if entries.insert(name.clone(), entry).is_none() {
                names.push(name);
            }
        }
        // Storages that no tensor of the walk uses still have to be skipped in a legacy file.
        for node in &pickle.nodes {
            if let Node::Persistent(id) = node
                && let Some((kind, key)) = storage(pickle, *id)
            {
                widths.entry(key.to_owned()).or_insert_with(|| kind.map_or(1, Kind::elt_size_in_bytes));
            }
        }
        let unknown = walk.unknown;
        let scalars = walk.scalars;
        Ok((Checkpoint { path: path.to_owned(), names, entries, scalars, unknown, storages }, widths))
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
        entry.build(storage).map_err(|e| e.at(place()).kinded(crate::error::Kind::Model))
    }

    /// Copies of all tensors on the CPU, by name.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.entries.keys().map(|name| Ok((name.clone(), self.tensor(name)?))).collect()
    }
}

impl Entry {
    fn build(&self, storage: &[u8]) -> Result<Tensor> {
        let width = self.kind.elt_size_in_bytes();
        let wrong = || bad(format!("a tensor of shape {:?} does not fit its storage", self.shape));
        let n = numel(&self.shape).ok_or_else(wrong)?;
        if n == 0 {
            return tensor_from_bytes(&[], &self.shape, self.kind);
        }
        // Elements from the first to the last that the strides reach.
        let reach = self.shape.iter().zip(&self.stride).try_fold(0usize, |reach, (&size, &stride)| {
            let step = usize::try_from(stride).ok()?;
            let steps = usize::try_from(size - 1).ok()?;
            steps.checked_mul(step).and_then(|d| d.checked_add(reach))
        });
        let count = reach.and_then(|r| r.checked_add(1)).ok_or_else(wrong)?;
        let start = self.offset.checked_mul(width).ok_or_else(wrong)?;
        let end = count.checked_mul(width).and_then(|n| n.checked_add(start)).ok_or_else(wrong)?;
        let bytes = storage.get(start..end).ok_or_else(wrong)?;
        if count == n && is_contiguous(&self.shape, &self.stride) {
            if self.kind == Kind::Bool {
                let clean: Vec<u8> = bytes.iter().map(|&b| u8::from(b != 0)).collect();
                return tensor_from_bytes(&clean, &self.shape, self.kind);
            }
            return tensor_from_bytes(bytes, &self.shape, self.kind);
        }
        // An expanded tensor repeats its elements: do not let a few bytes claim all memory.
        if n > count && n > 1 << 24 {
            return Err(wrong());
        }
        let flat = tensor_from_bytes(bytes, &[i64::try_from(count).map_err(|_| wrong())?], self.kind)?;
        Ok(flat.f_as_strided(&self.shape, &self.stride, 0)?.f_contiguous()?)
    }
}

fn is_contiguous(shape: &[i64], stride: &[i64]) -> bool {
    let mut want = 1;
    shape.iter().zip(stride).rev().all(|(&size, &step)| {
        let fits = size == 1 || step == want;
        want *= size;
        fits
    })
}

struct Walk<'a> {
    pickle: &'a Pickle,
    steps: usize,
    out: Vec<(String, Entry)>,
    scalars: BTreeMap<String, Scalar>,
    unknown: Vec<String>,
}

/// Bounds of the walk: shared and cyclic values could otherwise be visited without end.
const MAX_STEPS: usize = 1 << 22;
const MAX_DEPTH: usize = 64;

impl Walk<'_> {
    fn visit(&mut self, id: Id, name: String, depth: usize) -> Result<()> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(bad("it is nested without end"));
        }
        if depth > MAX_DEPTH {
            return Ok(());
        }
        let join = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
        match self.pickle.get(id) {
            Node::Dict(items) => self.items(items, &join, depth)?,
            Node::List(list) | Node::Tuple(list) => {
                for (i, &item) in list.iter().enumerate() {
                    self.visit(item, join(&i.to_string()), depth + 1)?;
                }
            }
            Node::Call(call) => {
                let global = self.pickle.global(call.func).unwrap_or(("", ""));
                match global {
                    ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor" | "_rebuild_tensor_v3") => {
                        let entry = tensor(self.pickle, call.args).map_err(|e| e.at(&name))?;
                        self.out.push((name, entry));
                        return Ok(());
                    }
                    ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                        if let Some(&data) = self.pickle.seq(call.args).and_then(<[Id]>::first) {
                            self.visit(data, name, depth + 1)?;
                        }
                        return Ok(());
                    }
                    ("collections", "OrderedDict" | "defaultdict") => {}
                    (module, class) => {
                        let full = format!("{module}.{class}");
                        if !self.unknown.contains(&full) && self.unknown.len() < 100 {
                            self.unknown.push(full);
                        }
                    }
                }
                self.items(&call.items, &join, depth)?;
                // The state of an OrderedDict is bookkeeping (`_metadata`), that of an object its attributes.
                if let (Some(state), false) = (call.state, global.0 == "collections") {
                    self.visit(state, name, depth + 1)?;
                }
            }
            Node::Bool(v) => drop(self.scalars.insert(name, Scalar::Bool(*v))),
            Node::Int(v) => drop(self.scalars.insert(name, Scalar::Int(*v))),
            Node::Float(v) => drop(self.scalars.insert(name, Scalar::Float(*v))),
            Node::Str(v) => drop(self.scalars.insert(name, Scalar::Str(v.clone()))),
            Node::None | Node::BigInt(_) | Node::Bytes(_) | Node::Global(..) | Node::Persistent(_) => {}
        }
        Ok(())
    }

    fn items(&mut self, items: &[(Id, Id)], join: &dyn Fn(&str) -> String, depth: usize) -> Result<()> {
        for &(key, value) in items {
            let key = match self.pickle.get(key) {
                Node::Str(text) => text.clone(),
                Node::Int(value) => value.to_string(),
                _ => continue,
            };
            self.visit(value, join(&key), depth + 1)?;
        }
        Ok(())
    }
}

/// Element type and key of the storage with persistent id `id`.
fn storage(pickle: &Pickle, id: Id) -> Option<(Option<Kind>, &str)> {
    let parts = pickle.seq(id)?;
    if pickle.str(*parts.first()?)? != "storage" {
        return None;
    }
    let (_, class) = pickle.global(*parts.get(1)?)?;
    Some((storage_kind(class), pickle.str(*parts.get(2)?)?))
}

fn storage_kind(class: &str) -> Option<Kind> {
    Some(match class {
        "FloatStorage" | "float32" => Kind::Float,
        "DoubleStorage" | "float64" => Kind::Double,
        "HalfStorage" | "float16" => Kind::Half,
        "BFloat16Storage" | "bfloat16" => Kind::BFloat16,
        "LongStorage" | "int64" => Kind::Int64,
        "IntStorage" | "int32" => Kind::Int,
        "ShortStorage" | "int16" => Kind::Int16,
        "CharStorage" | "int8" => Kind::Int8,
        "ByteStorage" | "uint8" => Kind::Uint8,
        "BoolStorage" | "bool" => Kind::Bool,
        "ComplexFloatStorage" | "complex64" => Kind::ComplexFloat,
        "float8_e4m3fn" => Kind::Float8e4m3fn,
        "float8_e5m2" => Kind::Float8e5m2,
        _ => return None,
    })
}

/// The arguments of a rebuilt tensor: storage, offset, size, stride, requires_grad, hooks[, dtype].
fn tensor(pickle: &Pickle, args: Id) -> Result<Entry> {
    let wrong = || bad("a tensor in it is not described as PyTorch does");
    let args = pickle.seq(args).ok_or_else(wrong)?;
    let arg = |i: usize| args.get(i).copied().ok_or_else(wrong);
    let Node::Persistent(id) = pickle.get(arg(0)?) else { return Err(wrong()) };
    let (kind, key) = storage(pickle, *id).ok_or_else(wrong)?;
    let given = args.get(6).and_then(|&id| pickle.global(id)).and_then(|(_, name)| storage_kind(name));
    let kind =
        given.or(kind).ok_or_else(|| bad("a tensor in it has an element type that is not supported"))?;
    let ints = |id: Id| -> Result<Vec<i64>> {
        let list = pickle.seq(id).ok_or_else(wrong)?;
        list.iter().map(|&i| pickle.int(i).filter(|&v| v >= 0).ok_or_else(wrong)).collect()
    };
    let offset = pickle.int(arg(1)?).and_then(|v| usize::try_from(v).ok()).ok_or_else(wrong)?;
    let (shape, stride) = (ints(arg(2)?)?, ints(arg(3)?)?);
    if shape.len() != stride.len() {
        return Err(wrong());
    }
    Ok(Entry { kind, shape, stride, offset, storage: key.to_owned() })
}

//! Safetensors: named tensors in one file with a JSON header, mapped instead of read.
//!
//! Layout: u64 length of the header, JSON `{name: {dtype, shape, data_offsets}}` with an optional string map
//! `__metadata__`, then the data without holes. The `safetensors` crate checks the header.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use ::safetensors::SafeTensors;
use ::safetensors::tensor::{Dtype, Metadata, SafeTensorError};
use tch::{Kind, Tensor};

use super::atomic;
use super::bytes::{Bytes, tensor_from_bytes, tensor_to_bytes, view_of};
use crate::error::{Error, Result};

/// What the header says about one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name of the type in the file, such as `F32`.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<i64>,
    start: usize,
    len: usize,
}

/// A safetensors file, opened.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    data: Bytes,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl File {
    /// Opens `path` and checks its header; no tensor data is read.
    ///
    /// # Errors
    /// Where the file is missing, truncated or not of this format.
    pub fn open(path: &Path) -> Result<Self> {
        let data = Bytes::map(path)?;
        Self::parse(path, data).map_err(|e| e.at(path.display()))
    }

    fn parse(path: &Path, data: Bytes) -> Result<Self> {
        let bad = |why: String| Error::data("not a safetensors file").why(why);
        let (header, meta) = match SafeTensors::read_metadata(&data) {
            Ok(found) => found,
            Err(SafeTensorError::MetadataIncompleteBuffer) => return Err(wrong_length(&data)),
            Err(SafeTensorError::InvalidHeaderLength) if data.len() > 8 => {
                let says = u64::from_le_bytes(first_eight(&data));
                return Err(bad(format!("header says it has {says} bytes, file has {}", data.len() - 8))
                    .hint("the file was cut off, or is of another kind"));
            }
            Err(other) => return Err(bad(other.to_string().to_lowercase())),
        };
        let mut entries = BTreeMap::new();
        for (name, info) in meta.tensors() {
            let shape = info.shape.iter().map(|&d| i64::try_from(d)).collect::<std::result::Result<_, _>>();
            let shape = shape.map_err(|_| bad(format!("shape of `{name}` is too large")))?;
            let (start, end) = info.data_offsets;
            let entry = Entry { dtype: info.dtype, shape, start: header + 8 + start, len: end - start };
            entries.insert(name, entry);
        }
        let metadata = meta.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(File { path: path.to_owned(), data, entries, metadata })
    }

    /// The path it was opened from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors of the header, by name.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// The string metadata.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// What the header says about `name`.
    ///
    /// # Errors
    /// A model error where there is no such tensor; the hint names one that is there.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let error = Error::model(format!("no tensor `{name}`")).at(self.path.display());
            match self.entries.keys().next() {
                Some(first) => error
                    .hint(format!("the file holds {} tensors, the first is `{first}`", self.entries.len())),
                None => error.hint("the file holds no tensors"),
            }
        })
    }

    /// The raw bytes of `name` (little-endian, C order).
    ///
    /// # Errors
    /// As [`File::entry`].
    pub fn raw(&self, name: &str) -> Result<Bytes> {
        let entry = self.entry(name)?;
        self.data.slice(entry.start, entry.len)
    }

    /// A copy of tensor `name` on the CPU, in the file's own type (u16 and u32 widened, as libtorch has no
    /// arithmetic for them).
    ///
    /// # Errors
    /// Where there is no such tensor, or its type has no counterpart in libtorch.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self.entry(name)?;
        let bytes = self.raw(name)?;
        let shape = &entry.shape;
        let made = match entry.dtype {
            Dtype::U16 => {
                let wide: Vec<u8> = bytes
                    .chunks_exact(2)
                    .flat_map(|b| i32::from(u16::from_le_bytes([b[0], b[1]])).to_le_bytes())
                    .collect();
                tensor_from_bytes(&wide, shape, Kind::Int)
            }
            Dtype::U32 => {
                let wide: Vec<u8> = bytes
                    .chunks_exact(4)
                    .flat_map(|b| i64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])).to_le_bytes())
                    .collect();
                tensor_from_bytes(&wide, shape, Kind::Int64)
            }
            other => tensor_from_bytes(&bytes, shape, kind_of(other, name)?),
        };
        made.map_err(|e| e.at(format!("{}: {name}", self.path.display())))
    }

    /// Writes tensor `name`, or its transpose, to `dest`, converted to the dtype of `dest`, straight from the mapped
    /// file.
    ///
    /// # Errors
    /// As [`File::tensor`], or where the shapes differ.
    pub fn copy_to(&self, name: &str, dest: &Tensor, transposed: bool) -> Result<()> {
        let entry = self.entry(name)?;
        let mut want = dest.size();
        if transposed {
            want.reverse();
        }
        if entry.shape != want {
            return Err(Error::shape(name, &want, &entry.shape).at(self.path.display()));
        }
        let bytes = self.raw(name)?;
        let kind = kind_of(entry.dtype, name)?;
        let _guard = tch::no_grad_guard();
        let source = view_of(&bytes, &entry.shape, kind)
            .map_err(|e| e.at(format!("{}: {name}", self.path.display())))?;
        let source = if transposed && source.dim() == 2 { source.f_transpose(0, 1)? } else { source };
        // The view does not outlive `bytes`: the copy is complete when this returns.
        dest.shallow_clone().f_copy_(&source)?;
        Ok(())
    }

    /// A copy of tensor `name` that must have `shape`.
    ///
    /// # Errors
    /// As [`File::tensor`], or a shape error that names both shapes.
    pub fn tensor_shaped(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let entry = self.entry(name)?;
        if entry.shape != shape {
            return Err(Error::shape(name, shape, &entry.shape).at(self.path.display()));
        }
        self.tensor(name)
    }

    /// Copies of all tensors on the CPU, by name.
    ///
    /// # Errors
    /// As [`File::tensor`].
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.entries.keys().map(|name| Ok((name.clone(), self.tensor(name)?))).collect()
    }
}

fn first_eight(data: &[u8]) -> [u8; 8] {
    let mut out = [0; 8];
    for (to, from) in out.iter_mut().zip(data) {
        *to = *from;
    }
    out
}

/// The header is fine by itself, but its data does not have the length of the file's rest.
fn wrong_length(data: &[u8]) -> Error {
    let header = usize::try_from(u64::from_le_bytes(first_eight(data))).unwrap_or(usize::MAX);
    let rest = data.len().saturating_sub(header.saturating_add(8));
    let json = data.get(8..header.saturating_add(8)).unwrap_or_default();
    let says = serde_json::from_slice::<Metadata>(json).map_or(0, |m| m.data_len());
    Error::data("damaged safetensors file")
        .why(format!("header says {says} bytes of data, file has {rest}"))
        .hint("the file was cut off or is still being written; copy it again")
}

fn kind_of(dtype: Dtype, name: &str) -> Result<Kind> {
    Ok(match dtype {
        Dtype::BOOL => Kind::Bool,
        Dtype::U8 => Kind::Uint8,
        Dtype::I8 => Kind::Int8,
        Dtype::I16 => Kind::Int16,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::F8_E4M3 => Kind::Float8e4m3fn,
        Dtype::F8_E5M2 => Kind::Float8e5m2,
        Dtype::C64 => Kind::ComplexFloat,
        other => {
            return Err(Error::model(format!("tensor `{name}` has type {other}, which is not supported")));
        }
    })
}

fn dtype_of(kind: Kind, name: &str) -> Result<&'static str> {
    Ok(match kind {
        Kind::Bool => "BOOL",
        Kind::Uint8 => "U8",
        Kind::Int8 => "I8",
        Kind::Int16 => "I16",
        Kind::Int => "I32",
        Kind::Int64 => "I64",
        Kind::Half => "F16",
        Kind::BFloat16 => "BF16",
        Kind::Float => "F32",
        Kind::Double => "F64",
        Kind::Float8e4m3fn => "F8_E4M3",
        Kind::Float8e5m2 => "F8_E5M2",
        other => {
            return Err(Error::run(format!("tensor `{name}` has type {other:?}, which safetensors lacks")));
        }
    })
}

/// Writes named tensors with string metadata to `path`, atomically.
///
/// Tensors may live on any device and have any strides (channels-last ones come out in C order); they are
/// brought to the host one at a time. The bytes of the file depend on names, values and metadata alone:
/// tensors are ordered by element size (largest first, for alignment) and name, metadata by key.
///
/// # Errors
/// Where a name occurs twice, a type has no counterpart, or writing fails.
pub fn write<N: AsRef<str>, T: std::borrow::Borrow<Tensor>>(
    path: &Path,
    tensors: impl IntoIterator<Item = (N, T)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut list = Vec::new();
    for (name, tensor) in tensors {
        let kind = tensor.borrow().f_kind()?;
        list.push((kind.elt_size_in_bytes(), name.as_ref().to_owned(), kind, tensor));
    }
    list.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));

    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut offset = 0usize;
    for (width, name, kind, tensor) in &list {
        let end = offset + width * tensor.borrow().numel();
        let entry = serde_json::json!({
            "dtype": dtype_of(*kind, name)?, "shape": tensor.borrow().size(), "data_offsets": [offset, end],
        });
        if header.insert(name.clone(), entry).is_some() {
            return Err(Error::run(format!("two tensors are named `{name}`")).at(path.display()));
        }
        offset = end;
    }
    let mut text = serde_json::Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');

    let failed = |e: std::io::Error| Error::write(path, &e);
    atomic::write(path, |out| {
        out.write_all(&(text.len() as u64).to_le_bytes()).map_err(failed)?;
        out.write_all(&text).map_err(failed)?;
        for (_, name, _, tensor) in &list {
            let bytes = tensor_to_bytes(tensor.borrow()).map_err(|e| e.at(format!("tensor `{name}`")))?;
            out.write_all(&bytes).map_err(failed)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::bytes::tensor_to_f64;

    fn sample() -> (Vec<(&'static str, Tensor)>, BTreeMap<String, String>) {
        let t = |n: i64, kind| Tensor::arange(n, (Kind::Float, tch::Device::Cpu)).to_kind(kind);
        let channels_last = t(24, Kind::Float).view([1, 2, 3, 4]).permute([0, 3, 1, 2]);
        let list = vec![
            ("z.half", t(5, Kind::Half)),
            ("a.last", channels_last),
            ("bytes", t(3, Kind::Uint8)),
            ("scalar", Tensor::from(2.5f64)),
            ("empty", Tensor::empty([0, 4], (Kind::Float, tch::Device::Cpu))),
        ];
        let meta = [("gen", "{\"a\": 1}"), ("format", "pt"), ("zz", "last")];
        (list, meta.map(|(k, v)| (k.to_owned(), v.to_owned())).into())
    }

    #[test]
    fn what_is_written_is_read_in_order_and_with_metadata() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let (list, meta) = sample();
        write(&path, list.iter().map(|(n, t)| (*n, t)), &meta).unwrap();
        let first = std::fs::read(&path).unwrap();
        write(&path, list.iter().rev().map(|(n, t)| (*n, t)), &meta).unwrap();
        assert_eq!(first, std::fs::read(&path).unwrap());
        let file = File::open(&path).unwrap();
        assert_eq!(file.metadata(), &meta);
        for (name, tensor) in &list {
            let back = file.tensor_shaped(name, &tensor.size()).unwrap();
            assert_eq!(back.kind(), tensor.kind());
            assert_eq!(tensor_to_f64(&back).unwrap(), tensor_to_f64(tensor).unwrap(), "{name}");
        }
        assert!(SafeTensors::deserialize(&first).is_ok());
    }

    #[test]
    fn errors_name_the_tensor_and_both_shapes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let (list, meta) = sample();
        write(&path, list, &meta).unwrap();
        let file = File::open(&path).unwrap();
        let error = file.tensor_shaped("bytes", &[4]).unwrap_err().to_string();
        assert!(error.contains("tensor `bytes`") && error.contains("expected shape [4], got [3]"), "{error}");
        assert!(file.tensor("missing").unwrap_err().to_string().starts_with("no tensor `missing`"));
    }

    #[test]
    fn a_cut_file_says_how_much_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let t = Tensor::zeros([1024], (Kind::Float, tch::Device::Cpu));
        write(&path, [("w", &t)], &BTreeMap::new()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1000]).unwrap();
        let error = File::open(&path).unwrap_err().to_string();
        assert!(error.ends_with("header says 4096 bytes of data, file has 3096"), "{error}");
        std::fs::write(&path, &bytes[..20]).unwrap();
        assert!(File::open(&path).unwrap_err().to_string().contains("file has 12"));
        std::fs::write(&path, &bytes[..4]).unwrap();
        assert!(File::open(&path).unwrap_err().to_string().contains("header too small"));
    }
}

//! How a checkpoint describes tensors: storages by key, and views of them by offset and strides.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use super::bytes::{numel, tensor_from_bytes};
use super::pickle::{Id, Node, Pickle};
use super::pth::bad;
use crate::error::Result;

/// A tensor of a checkpoint, not yet read.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Element type.
    pub kind: Kind,
    /// Shape.
    pub shape: Vec<i64>,
    stride: Vec<i64>,
    offset: usize,
    pub(super) storage: String,
}

impl Entry {
    /// The tensor, out of its storage's bytes.
    pub(super) fn build(&self, storage: &[u8]) -> Result<Tensor> {
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

/// Element type (where it is a known one) and key of the storage with persistent id `id`.
pub(super) fn storage(pickle: &Pickle, id: Id) -> Option<(Option<Kind>, &str)> {
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

/// Storages that lie in the pickle itself, by the node that stands for them: element type and key.
pub(super) type Embedded = HashMap<Id, (Option<Kind>, String)>;

/// The arguments of a rebuilt tensor: storage, offset, size, stride, requires_grad, hooks[, dtype].
pub(super) fn tensor(pickle: &Pickle, embedded: &Embedded, args: Id) -> Result<Entry> {
    let wrong = || bad("a tensor in it is not described as PyTorch does");
    let args = pickle.seq(args).ok_or_else(wrong)?;
    let arg = |i: usize| args.get(i).copied().ok_or_else(wrong);
    let place = arg(0)?;
    let (kind, key) = match pickle.get(place) {
        Node::Persistent(id) => storage(pickle, *id).ok_or_else(wrong)?,
        _ => embedded.get(&place).map(|(kind, key)| (*kind, key.as_str())).ok_or_else(wrong)?,
    };
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

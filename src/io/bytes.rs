//! Raw bytes: read-only memory maps, and the way from bytes to tensors and back.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// Bytes shared between threads: in memory, or a range of a mapped file.
#[derive(Debug, Clone)]
pub struct Bytes {
    source: Source,
    start: usize,
    len: usize,
}

#[derive(Debug, Clone)]
enum Source {
    Memory(Arc<Vec<u8>>),
    Map(Arc<Mmap>),
}

impl Bytes {
    /// The whole file `path`, mapped read-only.
    ///
    /// The file must not shrink while it is in use (the usual rule of memory maps).
    ///
    /// # Errors
    /// Where the file cannot be opened or mapped.
    pub fn map(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::read(path, &e))?;
        Self::map_file(&file).map_err(|e| Error::read(path, &e))
    }

    /// An open file, mapped read-only.
    ///
    /// # Errors
    /// Where it is not a regular file, or cannot be mapped.
    pub fn map_file(file: &File) -> std::io::Result<Self> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(std::io::Error::other("not a regular file"));
        }
        if meta.len() == 0 {
            return Ok(Self::from(Vec::new()));
        }
        // SAFETY: the map is read-only; that nobody truncates the file meanwhile is documented above.
        let map = unsafe { Mmap::map(file)? };
        let len = map.len();
        Ok(Bytes { source: Source::Map(Arc::new(map)), start: 0, len })
    }

    /// The part `[start, start + len)`, sharing the storage.
    ///
    /// # Errors
    /// Where the part reaches past the end.
    pub fn slice(&self, start: usize, len: usize) -> Result<Self> {
        if start.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::data(format!("{len} bytes from {start} asked of {} bytes", self.len)));
        }
        Ok(Bytes { source: self.source.clone(), start: self.start + start, len })
    }

    /// Whether the bytes are in memory rather than in a mapped file.
    #[must_use]
    pub fn in_memory(&self) -> bool {
        matches!(self.source, Source::Memory(_))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Bytes { source: Source::Memory(Arc::new(bytes)), start: 0, len }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        let all: &[u8] = match &self.source {
            Source::Memory(bytes) => bytes,
            Source::Map(map) => map,
        };
        &all[self.start..self.start + self.len]
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

/// The number of elements of `shape`; nothing where a size is negative or the product overflows.
#[must_use]
pub fn numel(shape: &[i64]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))
}

/// A CPU tensor of `shape` and `kind` with a copy of `bytes` (native byte order, C order).
///
/// # Errors
/// Where the number of bytes is not that of the shape and kind.
pub fn tensor_from_bytes(bytes: &[u8], shape: &[i64], kind: Kind) -> Result<Tensor> {
    let want = numel(shape).and_then(|n| n.checked_mul(kind.elt_size_in_bytes()));
    if want != Some(bytes.len()) {
        return Err(Error::data(format!("tensor of shape {shape:?} and type {kind:?}"))
            .why(format!("does not fit {} bytes of data", bytes.len())));
    }
    if bytes.is_empty() {
        return Ok(Tensor::f_empty(shape, (kind, Device::Cpu))?);
    }
    // The length was checked above: libtorch copies exactly that many bytes.
    Ok(Tensor::f_from_data_size(bytes, shape, kind)?)
}

/// A CPU tensor of `shape` and `kind` on `bytes` themselves where they are aligned for it, else on a copy. It must
/// neither be written nor outlive `bytes`.
pub(super) fn view_of(bytes: &[u8], shape: &[i64], kind: Kind) -> Result<Tensor> {
    let width = kind.elt_size_in_bytes();
    let want = numel(shape).and_then(|n| n.checked_mul(width));
    if want != Some(bytes.len()) || bytes.is_empty() || bytes.as_ptr().align_offset(width) != 0 {
        return tensor_from_bytes(bytes, shape, kind);
    }
    let mut strides = vec![1i64; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    // SAFETY: `bytes` has exactly the elements of the shape, aligned; the caller keeps it and does not write.
    Ok(unsafe { Tensor::f_from_blob(bytes.as_ptr(), shape, &strides, kind, Device::Cpu)? })
}

/// The elements of `tensor` in C order and native byte order, whatever its strides and device.
///
/// # Errors
/// Where libtorch fails.
pub fn tensor_to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let host = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let n = host.numel();
    let mut out = vec![0u8; n * host.f_kind()?.elt_size_in_bytes()];
    if n > 0 {
        host.f_copy_data_u8(&mut out, n)?;
    }
    Ok(out)
}

/// The elements of `tensor` as f64, in C order.
///
/// # Errors
/// Where libtorch fails.
pub fn tensor_to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    let host = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_contiguous()?;
    let n = host.numel();
    let mut out = vec![0f64; n];
    if n > 0 {
        host.f_copy_data(&mut out, n)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_before_libtorch_sees_them() {
        let bytes = [1u8, 0, 2, 0, 3, 0];
        let t = tensor_from_bytes(&bytes, &[3], Kind::Int16).unwrap();
        assert_eq!(tensor_to_f64(&t).unwrap(), [1.0, 2.0, 3.0]);
        for shape in [vec![4], vec![2], vec![-1], vec![i64::MAX, i64::MAX], vec![3, 0]] {
            assert!(tensor_from_bytes(&bytes, &shape, Kind::Int16).is_err(), "{shape:?}");
        }
        assert_eq!(tensor_from_bytes(&[], &[0, 5], Kind::Float).unwrap().size(), [0, 5]);
    }

    #[test]
    fn strided_tensors_come_out_in_c_order() {
        let t = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3]).transpose(0, 1);
        assert!(!t.is_contiguous());
        assert_eq!(tensor_to_f64(&t).unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let back = tensor_from_bytes(&tensor_to_bytes(&t).unwrap(), &[3, 2], Kind::Float).unwrap();
        assert_eq!(back, t);
    }

    #[test]
    fn slices_share_and_refuse_to_leave_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"0123456789").unwrap();
        let all = Bytes::map(&path).unwrap();
        assert_eq!(&*all.slice(2, 3).unwrap().slice(1, 2).unwrap(), b"34");
        assert!(all.slice(8, 3).is_err() && all.slice(usize::MAX, 2).is_err());
        assert!(Bytes::map(dir.path()).is_err());
    }
}

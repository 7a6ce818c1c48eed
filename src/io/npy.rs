//! Numpy's array format (versions 1.0, 2.0 and 3.0 of the header).
//!
//! Layout: `\x93NUMPY`, two version bytes, the length of the header (u16, or u32 from version 2.0), a Python
//! dict literal `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }` padded with spaces and a line
//! feed so that the data starts at a multiple of 64, then the data.

use std::io::Read;

pub use super::npy_array::Array;
use crate::error::{Error, Result};

/// Element types that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dtype {
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    F32,
    F64,
}

impl Dtype {
    /// Bytes of one element.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::U16 | Dtype::I16 | Dtype::F16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
            Dtype::U64 | Dtype::I64 | Dtype::F64 => 8,
        }
    }

    /// Numpy's name of it in this format, little-endian.
    #[must_use]
    pub fn descr(self) -> &'static str {
        match self {
            Dtype::Bool => "|b1",
            Dtype::U8 => "|u1",
            Dtype::I8 => "|i1",
            Dtype::U16 => "<u2",
            Dtype::U32 => "<u4",
            Dtype::U64 => "<u8",
            Dtype::I16 => "<i2",
            Dtype::I32 => "<i4",
            Dtype::I64 => "<i8",
            Dtype::F16 => "<f2",
            Dtype::F32 => "<f4",
            Dtype::F64 => "<f8",
        }
    }

    fn from_descr(descr: &str) -> Option<(Self, bool)> {
        let (order, code) = descr.split_at_checked(1)?;
        let dtype = match code {
            "b1" => Dtype::Bool,
            "u1" => Dtype::U8,
            "u2" => Dtype::U16,
            "u4" => Dtype::U32,
            "u8" => Dtype::U64,
            "i1" => Dtype::I8,
            "i2" => Dtype::I16,
            "i4" => Dtype::I32,
            "i8" => Dtype::I64,
            "f2" => Dtype::F16,
            "f4" => Dtype::F32,
            "f8" => Dtype::F64,
            _ => return None,
        };
        match order {
            ">" => Some((dtype, dtype.width() > 1)),
            "<" | "|" | "=" => Some((dtype, false)),
            _ => None,
        }
    }
}

/// What the header of an array says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Element type.
    pub dtype: Dtype,
    /// Whether elements are big-endian.
    pub big_endian: bool,
    /// Whether the first index runs fastest.
    pub fortran: bool,
    /// Shape.
    pub shape: Vec<usize>,
    /// Bytes before the data.
    pub data_start: usize,
}

fn bad(why: impl Into<String>) -> Error {
    Error::data("not a numpy array").why(why)
}

/// Longest header that is read; numpy itself refuses more than 10 000 characters by default.
const MAX_HEADER: usize = 1 << 16;

impl Header {
    /// Reads the header and leaves `input` at the data.
    ///
    /// # Errors
    /// Where it is not one, or the element type is not supported.
    pub fn read(input: &mut impl Read) -> Result<Self> {
        let mut lead = [0u8; 8];
        read_exact(input, &mut lead)?;
        if &lead[..6] != b"\x93NUMPY" {
            return Err(bad("it does not start with the bytes \\x93NUMPY"));
        }
        let (len, start) = if lead[6] == 1 {
            let mut b = [0u8; 2];
            read_exact(input, &mut b)?;
            (usize::from(u16::from_le_bytes(b)), 10)
        } else if lead[6] == 2 || lead[6] == 3 {
            let mut b = [0u8; 4];
            read_exact(input, &mut b)?;
            (u32::from_le_bytes(b) as usize, 12)
        } else {
            return Err(bad(format!("version {}.{} of the format is unknown", lead[6], lead[7])));
        };
        if len > MAX_HEADER {
            return Err(bad(format!("its header claims {len} bytes")));
        }
        let mut text = vec![0u8; len];
        read_exact(input, &mut text)?;
        let text = String::from_utf8_lossy(&text);
        Self::parse(text.trim(), start + len)
    }

    fn parse(text: &str, data_start: usize) -> Result<Self> {
        let value = |key: &str| -> Result<&str> {
            let at = [format!("'{key}'"), format!("\"{key}\"")]
                .iter()
                .find_map(|k| text.find(k.as_str()).map(|i| i + k.len()))
                .ok_or_else(|| bad(format!("its header lacks `{key}`")))?;
            let rest = text[at..].trim_start().strip_prefix(':');
            Ok(rest.ok_or_else(|| bad(format!("`{key}` in its header has no value")))?.trim_start())
        };
        let descr = value("descr")?;
        let quote = descr.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let descr = match quote {
            Some(q) => descr[1..].split(q).next().unwrap_or_default(),
            None => return Err(bad("structured element types are not supported")),
        };
        let (dtype, big_endian) = Dtype::from_descr(descr)
            .ok_or_else(|| bad(format!("element type `{descr}` is not supported")))?;
        let fortran = value("fortran_order")?.starts_with("True");
        let tuple = value("shape")?.strip_prefix('(').and_then(|s| s.split(')').next());
        let tuple = tuple.ok_or_else(|| bad("its shape is not a tuple"))?;
        let shape = tuple
            .split(',')
            .map(str::trim)
            .filter(|s| !s.is_empty())
            .map(|s| s.trim_end_matches('L').parse::<usize>())
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|_| bad(format!("its shape is `({tuple})`")))?;
        let header = Header { dtype, big_endian, fortran, shape, data_start };
        header.bytes()?;
        Ok(header)
    }

    /// Number of elements.
    ///
    /// # Errors
    /// Where it overflows.
    pub fn numel(&self) -> Result<usize> {
        let n = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        n.ok_or_else(|| bad(format!("shape {:?} overflows", self.shape)))
    }

    /// Number of bytes of the data.
    ///
    /// # Errors
    /// Where it overflows.
    pub fn bytes(&self) -> Result<usize> {
        let n = self.numel()?.checked_mul(self.dtype.width());
        n.filter(|&n| i64::try_from(n).is_ok())
            .ok_or_else(|| bad(format!("shape {:?} overflows", self.shape)))
    }

    /// The header as it stands in a file (version 1.0, or 2.0 where it is long), padded to 64 bytes.
    #[must_use]
    pub fn encode(dtype: Dtype, shape: &[usize]) -> Vec<u8> {
        let dims: Vec<String> = shape.iter().map(ToString::to_string).collect();
        let tuple =
            if dims.len() == 1 { format!("({},)", dims[0]) } else { format!("({})", dims.join(", ")) };
        let dict = format!("{{'descr': '{}', 'fortran_order': False, 'shape': {tuple}, }}", dtype.descr());
        let long = dict.len() + 65 > usize::from(u16::MAX);
        let lead = if long { 12 } else { 10 };
        let total = (lead + dict.len() + 1).next_multiple_of(64);
        let len = total - lead;
        let mut out = b"\x93NUMPY".to_vec();
        if long {
            out.extend([2, 0]);
            out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        } else {
            out.extend([1, 0]);
            out.extend(u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes());
        }
        out.extend(dict.bytes());
        out.resize(total - 1, b' ');
        out.push(b'\n');
        out
    }
}

fn read_exact(input: &mut impl Read, out: &mut [u8]) -> Result<()> {
    input.read_exact(out).map_err(|e| bad(crate::error::io_reason(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Kind, Tensor};

    fn file(version: u8, dict: &str, data: &[u8]) -> Vec<u8> {
        let mut out = b"\x93NUMPY".to_vec();
        out.extend([version, 0]);
        if version == 1 {
            out.extend(u16::try_from(dict.len()).unwrap().to_le_bytes());
        } else {
            out.extend(u32::try_from(dict.len()).unwrap().to_le_bytes());
        }
        out.extend(dict.bytes());
        out.extend(data);
        out
    }

    #[test]
    fn orders_and_versions() {
        // numpy: np.array([[1, 2, 3], [4, 5, 6]], dtype=..., order=...)
        let c: Vec<u8> = (1u16..=6).flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = (1u16..=6).flat_map(u16::to_be_bytes).collect();
        let f: Vec<u8> = [1u16, 4, 2, 5, 3, 6].into_iter().flat_map(u16::to_le_bytes).collect();
        let cases = [(1, "<u2", "False", c), (2, ">u2", "False", big), (3, "<u2", "True", f)];
        for (version, descr, fortran, data) in cases {
            let dict = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': (2, 3), }}\n");
            let array = Array::read(&mut file(version, &dict, &data).as_slice()).unwrap();
            assert_eq!(array.shape, [2, 3]);
            assert_eq!(array.to_i64().unwrap(), [1, 2, 3, 4, 5, 6], "{descr} {fortran}");
            assert_eq!(array.to_tensor().unwrap().kind(), Kind::Int64);
        }
    }

    #[test]
    fn written_headers_are_aligned_and_read_back() {
        for shape in [vec![], vec![7], vec![50_000, 32, 32, 3]] {
            let bytes = Header::encode(Dtype::U8, &shape);
            assert_eq!(bytes.len() % 64, 0);
            let header = Header::read(&mut bytes.as_slice()).unwrap();
            assert_eq!((header.shape, header.data_start), (shape, bytes.len()));
        }
    }

    #[test]
    fn claims_beyond_the_data_are_errors_not_allocations() {
        let dict = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }";
        let error = Array::read(&mut file(1, dict, &[0; 16]).as_slice()).unwrap_err().to_string();
        assert!(error.contains("header says 8000000000000 bytes of data, 16 are there"), "{error}");
        for dict in [
            "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999999999), }",
            "{'descr': '<U5', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }",
            "{'shape': (1,)}",
            "{'descr':",
            "",
        ] {
            assert!(Array::read(&mut file(1, dict, &[0; 16]).as_slice()).is_err(), "{dict}");
        }
    }

    #[test]
    fn tensors_and_arrays_are_the_same() {
        let t = Tensor::from_slice(&[1f32, -2.5, 3.0, 4.0]).view([2, 2]);
        let array = Array::from_tensor(&t).unwrap();
        assert_eq!(array.to_tensor().unwrap(), t);
        assert_eq!(array.to_f64(), [1.0, -2.5, 3.0, 4.0]);
        assert!(array.to_i64().is_err());
    }
}

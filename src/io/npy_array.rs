//! Numpy arrays in memory.

use std::io::Read;

use half::f16;
use tch::{Kind, Tensor};

use super::bytes::tensor_from_bytes;
use super::npy::{Dtype, Header};
use crate::error::{Error, Result};

/// An array in memory: C order, native byte order.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Vec<u8>,
}

impl Array {
    /// Reads a whole array. Memory grows with what is really there, not with what the header claims.
    ///
    /// # Errors
    /// Where it is not one, or is cut off.
    pub fn read(input: &mut impl Read) -> Result<Self> {
        let header = Header::read(input)?;
        let want = header.bytes()?;
        let mut data = Vec::with_capacity(want.min(1 << 24));
        let got = input.take(want as u64).read_to_end(&mut data);
        got.map_err(|e| Error::data("damaged numpy array").why(crate::error::io_reason(&e)))?;
        if data.len() != want {
            return Err(Error::data("damaged numpy array")
                .why(format!("header says {want} bytes of data, {} are there", data.len())));
        }
        if header.big_endian {
            to_native(&mut data, header.dtype.width());
        }
        if header.fortran && header.shape.len() > 1 {
            data = fortran_to_c(&data, &header.shape, header.dtype.width());
        }
        Ok(Array { dtype: header.dtype, shape: header.shape, data })
    }

    /// The shape as libtorch has it.
    #[must_use]
    pub fn size(&self) -> Vec<i64> {
        // The header's bytes fit an i64, so each dimension does, unless another one is 0.
        self.shape.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect()
    }

    /// All elements as f64 (64-bit integers beyond 2^53 are rounded).
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn to_f64(&self) -> Vec<f64> {
        let d = &self.data;
        match self.dtype {
            Dtype::Bool | Dtype::U8 => d.iter().map(|&v| f64::from(v)).collect(),
            Dtype::I8 => d.iter().map(|&v| f64::from(i8::from_ne_bytes([v]))).collect(),
            Dtype::U16 => words(d).map(|b| f64::from(u16::from_ne_bytes(b))).collect(),
            Dtype::I16 => words(d).map(|b| f64::from(i16::from_ne_bytes(b))).collect(),
            Dtype::F16 => words(d).map(|b| f16::from_ne_bytes(b).to_f64()).collect(),
            Dtype::U32 => words(d).map(|b| f64::from(u32::from_ne_bytes(b))).collect(),
            Dtype::I32 => words(d).map(|b| f64::from(i32::from_ne_bytes(b))).collect(),
            Dtype::F32 => words(d).map(|b| f64::from(f32::from_ne_bytes(b))).collect(),
            Dtype::U64 => words(d).map(|b| u64::from_ne_bytes(b) as f64).collect(),
            Dtype::I64 => words(d).map(|b| i64::from_ne_bytes(b) as f64).collect(),
            Dtype::F64 => words(d).map(f64::from_ne_bytes).collect(),
        }
    }

    /// All elements of an integer array as i64.
    ///
    /// # Errors
    /// Where elements are not integers, or one is beyond i64.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        let d = &self.data;
        Ok(match self.dtype {
            Dtype::Bool | Dtype::U8 => d.iter().map(|&v| i64::from(v)).collect(),
            Dtype::I8 => d.iter().map(|&v| i64::from(i8::from_ne_bytes([v]))).collect(),
            Dtype::U16 => words(d).map(|b| i64::from(u16::from_ne_bytes(b))).collect(),
            Dtype::I16 => words(d).map(|b| i64::from(i16::from_ne_bytes(b))).collect(),
            Dtype::U32 => words(d).map(|b| i64::from(u32::from_ne_bytes(b))).collect(),
            Dtype::I32 => words(d).map(|b| i64::from(i32::from_ne_bytes(b))).collect(),
            Dtype::I64 => words(d).map(i64::from_ne_bytes).collect(),
            Dtype::U64 => words(d)
                .map(|b| i64::try_from(u64::from_ne_bytes(b)))
                .collect::<std::result::Result<_, _>>()
                .map_err(|_| Error::data("an integer of the array is too large"))?,
            Dtype::F16 | Dtype::F32 | Dtype::F64 => {
                return Err(Error::data("array").why("its elements are not integers"));
            }
        })
    }

    /// The array as a CPU tensor: of its own type, unsigned types beyond u8 as i64.
    ///
    /// # Errors
    /// Where a u64 is beyond i64.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let kind = match self.dtype {
            Dtype::Bool => {
                // Any other byte than 0 and 1 is undefined behaviour for a bool.
                let data: Vec<u8> = self.data.iter().map(|&b| u8::from(b != 0)).collect();
                return tensor_from_bytes(&data, &self.size(), Kind::Bool);
            }
            Dtype::U16 | Dtype::U32 | Dtype::U64 => {
                let wide: Vec<u8> = self.to_i64()?.iter().flat_map(|v| v.to_ne_bytes()).collect();
                return tensor_from_bytes(&wide, &self.size(), Kind::Int64);
            }
            Dtype::U8 => Kind::Uint8,
            Dtype::I8 => Kind::Int8,
            Dtype::I16 => Kind::Int16,
            Dtype::I32 => Kind::Int,
            Dtype::I64 => Kind::Int64,
            Dtype::F16 => Kind::Half,
            Dtype::F32 => Kind::Float,
            Dtype::F64 => Kind::Double,
        };
        tensor_from_bytes(&self.data, &self.size(), kind)
    }

    /// The array of a tensor's values.
    ///
    /// # Errors
    /// Where numpy has no such type.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let dtype = match tensor.f_kind()? {
            Kind::Bool => Dtype::Bool,
            Kind::Uint8 => Dtype::U8,
            Kind::Int8 => Dtype::I8,
            Kind::Int16 => Dtype::I16,
            Kind::Int => Dtype::I32,
            Kind::Int64 => Dtype::I64,
            Kind::Half => Dtype::F16,
            Kind::Float => Dtype::F32,
            Kind::Double => Dtype::F64,
            other => return Err(Error::run(format!("numpy has no type {other:?}"))),
        };
        let shape = tensor.size().iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
        Ok(Array { dtype, shape, data: super::bytes::tensor_to_bytes(tensor)? })
    }

    /// An f64 array.
    #[must_use]
    pub fn from_f64(values: &[f64], shape: &[usize]) -> Self {
        let data = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
        Array { dtype: Dtype::F64, shape: shape.to_vec(), data }
    }
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.chunks_exact(N).map(|chunk| {
        let mut word = [0; N];
        word.copy_from_slice(chunk);
        word
    })
}

/// Turns big-endian elements around, in place.
pub(super) fn to_native(data: &mut [u8], width: usize) {
    if width > 1 {
        data.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
}

fn fortran_to_c(data: &[u8], shape: &[usize], width: usize) -> Vec<u8> {
    // Strides of the source in elements, first index fastest.
    let mut strides = Vec::with_capacity(shape.len());
    let mut step = 1;
    for &d in shape {
        strides.push(step);
        step *= d;
    }
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0usize; shape.len()];
    for _ in 0..data.len() / width.max(1) {
        let from: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>() * width;
        out.extend_from_slice(&data[from..from + width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

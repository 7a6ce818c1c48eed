//! The keys and values of one block for the tokens so far, in memory that is written in place and grown in blocks.

use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// Tokens by which the memory grows.
pub(super) const BLOCK: i64 = 256;

/// Keys and values `[B, groups, capacity, dim]` of a block.
#[derive(Debug)]
pub(super) struct Layer {
    pub keys: Tensor,
    pub values: Tensor,
}

impl Layer {
    pub fn new(
        batch: i64,
        (groups, dim): (i64, i64),
        capacity: i64,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let room = || Tensor::f_empty([batch, groups, capacity, dim], (kind, device));
        Ok(Layer { keys: room()?, values: room()? })
    }

    /// Writes keys and values `[B, groups, L, dim]` at place `at`; gives those of all places up to the last of them.
    pub fn write(&mut self, at: i64, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let put = |room: &Tensor, t: &Tensor| -> Result<Tensor> {
            let l = t.size()[2];
            room.f_narrow(2, at, l)?.f_copy_(t)?;
            Ok(room.f_narrow(2, 0, at + l)?)
        };
        Ok((put(&self.keys, keys)?, put(&self.values, values)?))
    }

    /// The same contents of the first `len` places in memory for `capacity` of them.
    pub fn grown(&self, len: i64, capacity: i64) -> Result<Self> {
        let grow = |old: &Tensor| -> Result<Tensor> {
            let (b, g, _, d) = old.size4()?;
            let room = Tensor::f_empty([b, g, capacity, d], (old.kind(), old.device()))?;
            if len > 0 {
                room.f_narrow(2, 0, len)?.f_copy_(&old.f_narrow(2, 0, len)?)?;
            }
            Ok(room)
        };
        Ok(Layer { keys: grow(&self.keys)?, values: grow(&self.values)? })
    }

    /// The sequences `rows` (i64) of the first `len` places, in memory of the same capacity.
    pub fn selected(&self, rows: &Tensor, len: i64) -> Result<Self> {
        let pick = |old: &Tensor| -> Result<Tensor> {
            let (_, g, capacity, d) = old.size4()?;
            let room = Tensor::f_empty([rows.size1()?, g, capacity, d], (old.kind(), old.device()))?;
            if len > 0 {
                room.f_narrow(2, 0, len)?.f_copy_(&old.f_narrow(2, 0, len)?.f_index_select(0, rows)?)?;
            }
            Ok(room)
        };
        Ok(Layer { keys: pick(&self.keys)?, values: pick(&self.values)? })
    }
}

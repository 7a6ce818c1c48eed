//! The recurrence on the CPU in one native call per step, with weights packed once.
//!
//! Features are cut into tiles of L lanes, all widths padded to multiples of L by zeros that stay zeros.

use tch::{Device, Kind, Tensor};

use super::backbone::Carry;
use super::block::{Core, Layer, Norm, Pool};
use super::config::Wiring;
use super::net::Sashimi;
use super::step::prefill_by;
use crate::error::{Error, Result};
use crate::net::Mode;
use crate::net::causal::Steps;
use crate::net::layers::tokens::check_steps;
use crate::torch::shim::step::{Stepper, lanes};

/// Whether the network can be stepped this way.
pub(super) fn fits(net: &Sashimi) -> bool {
    let dense = |layer: &Layer| match &layer.core {
        Core::Ssm { ssm, .. } => {
            let (mode, rule) = (ssm.config().mode, ssm.config().discretisation());
            use crate::net::layers::ssm::{Discretisation, SsmMode};
            mode == SsmMode::Dplr && rule == Discretisation::Zoh
        }
        Core::FeedForward { .. } => false,
    };
    net.embedding.weight().device() == Device::Cpu
        && matches!(net.embedding.weight().kind(), Kind::Float | Kind::Double)
        && net.head.weight.kind() == net.embedding.weight().kind()
        && !net.backbone.layers().any(dense)
}

/// Where in a sequence's state a piece is.
#[derive(Debug, Clone, Copy)]
enum Piece {
    /// State of a layer: index in the order of the walk, features, N/2.
    Layer { index: usize, width: i64, half: i64 },
    /// The members of a group so far and what is pending: level, features, factor.
    Pool { level: usize, width: i64, factor: i64 },
}

#[derive(Debug)]
struct Packer {
    kind: Kind,
    numbers: Vec<i64>,
    tensors: Vec<Tensor>,
    pieces: Vec<(Piece, i64)>,
    size: i64,
}

/// `x` with zeros behind dimension `dim` up to `size`.
fn pad(x: &Tensor, dim: i64, size: i64) -> Result<Tensor> {
    let from_end = x.dim() as i64 - 1 - dim;
    let mut pads = vec![0; usize::try_from(2 * from_end).unwrap_or(0)];
    pads.extend([0, size - x.size()[usize::try_from(dim).unwrap_or(0)]]);
    Ok(x.f_constant_pad_nd(pads)?)
}

impl Packer {
    fn lanes(&self) -> i64 {
        lanes(self.kind)
    }

    fn padded(&self, width: i64) -> i64 {
        (width + self.lanes() - 1) / self.lanes() * self.lanes()
    }

    fn push(&mut self, t: &Tensor) -> Result<()> {
        self.tensors.push(t.f_detach()?.f_to_kind(self.kind)?.f_contiguous()?);
        Ok(())
    }

    /// Weight `[out, in]` and bias `[out]` as `[out/L, in, L]` and `[out]`, padded.
    fn map(&mut self, weight: &Tensor, bias: &Tensor) -> Result<()> {
        let (size, lanes) = (weight.size(), self.lanes());
        let out = self.padded(size[0]);
        let tiles = pad(weight, 0, out)?.f_reshape([out / lanes, lanes, size[1]])?.f_transpose(1, 2)?;
        self.push(&tiles)?;
        let bias = pad(bias, 0, out)?;
        self.push(&bias)
    }

    fn norm(&mut self, norm: &Norm) -> Result<()> {
        match norm {
            Norm::Scalar { m, s } => self.push(&Tensor::f_cat(&[m, s], 0)?),
            Norm::Layer { weight, bias } => {
                self.push(weight)?;
                self.push(bias)
            }
        }
    }

    fn layer(&mut self, layer: &Layer, index: usize) -> Result<()> {
        match &layer.core {
            Core::FeedForward { first, second } => {
                self.numbers.extend([1, first.weight.size()[0]]);
                self.norm(&layer.norm)?;
                self.map(&first.weight, &first.bias)?;
                self.map(&second.weight, &second.bias)
            }
            Core::Ssm { ssm, out, glu } => {
                let system = ssm.discrete(1.0)?;
                let (half, width) = (ssm.config().half(), ssm.config().d_model);
                let rank = system.low_rank.as_ref().map_or(0, |(p, _)| p.size()[0]);
                self.numbers.extend([0, half, rank, i64::from(*glu)]);
                self.norm(&layer.norm)?;
                let (lanes, wide) = (self.lanes(), self.padded(width));
                // Fields `[fields, H, N/2]` to `[tile, N/2, fields, L]`.
                let tiled = |fields: &[Tensor]| -> Result<Tensor> {
                    let list = pad(&Tensor::f_stack(fields, 0)?, 1, wide)?;
                    let tiles = list.f_reshape([fields.len() as i64, wide / lanes, lanes, half])?;
                    Ok(tiles.f_permute([1, 3, 0, 2])?)
                };
                let parts = |z: &Tensor| -> Result<[Tensor; 2]> { Ok([z.f_real()?, z.f_imag()?]) };
                let row = |z: &Tensor| -> Result<[Tensor; 2]> {
                    Ok([z.f_real()?.f_mul_scalar(2.0)?, z.f_imag()?.f_mul_scalar(-2.0)?])
                };
                let mut fields = Vec::new();
                fields.extend(parts(&system.d)?);
                fields.extend(parts(&system.b)?);
                fields.extend(row(&system.c.f_select(0, 0)?)?);
                let mut rows = Vec::new();
                if let Some((p, w)) = &system.low_rank {
                    for j in 0..rank {
                        fields.extend(parts(&p.f_select(0, j)?)?);
                        rows.push(tiled(&row(&w.f_select(0, j)?)?)?);
                    }
                }
                if rows.is_empty() {
                    let none = Tensor::f_empty([0], (self.kind, Device::Cpu))?;
                    self.push(&none)?;
                } else {
                    self.push(&Tensor::f_stack(&rows, 1)?)?;
                }
                self.push(&tiled(&fields)?)?;
                let skip = pad(&ssm.skip()?, 0, wide)?;
                self.push(&skip)?;
                self.pieces.push((Piece::Layer { index, width, half }, self.size));
                self.size += wide * half * 2;
                if *glu {
                    let (weight, bias) = (out.weight.f_chunk(2, 0)?, out.bias.f_chunk(2, 0)?);
                    self.map(&weight[0], &bias[0])?;
                    self.map(&weight[1], &bias[1])
                } else {
                    self.map(&out.weight, &out.bias)
                }
            }
        }
    }

    /// Groups are kept as `[p, H]` with H padded, so columns and rows `h p + s` go to `s H + h`.
    fn pool(&mut self, pool: &Pool, level: usize, width: i64) -> Result<()> {
        let wide = self.padded(width);
        let factor = pool.factor;
        let (weight, bias) = pool.down.weights()?;
        let out = weight.size()[0];
        let split = weight.f_reshape([out, width, factor])?.f_transpose(1, 2)?;
        self.map(&pad(&split, 2, wide)?.f_reshape([out, factor * wide])?, &bias)?;
        let (weight, bias) = pool.up.weights()?;
        let input = weight.size()[1];
        let split = pad(&weight.f_reshape([width, factor, input])?.f_transpose(0, 1)?, 1, wide)?;
        let bias = pad(&bias.f_reshape([width, factor])?.f_transpose(0, 1)?, 1, wide)?;
        self.map(&split.f_reshape([factor * wide, input])?, &bias.f_reshape([factor * wide])?)?;
        self.pieces.push((Piece::Pool { level, width, factor }, self.size));
        self.size += 2 * factor * wide;
        Ok(())
    }
}

/// The recurrence.
#[derive(Debug)]
pub(super) struct Packed<'a> {
    net: &'a Sashimi,
    batch: i64,
    class: Option<Tensor>,
    class_rows: Option<Tensor>,
    stepper: Stepper,
    pieces: Vec<(Piece, i64)>,
    lanes: i64,
    state: Tensor,
    done: i64,
}

impl<'a> Packed<'a> {
    pub(super) fn new(net: &'a Sashimi, batch: i64, class: Option<Tensor>) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let kind = net.embedding.weight().kind();
        let mut packer =
            Packer { kind, numbers: Vec::new(), tensors: Vec::new(), pieces: Vec::new(), size: 0 };
        let config = &net.config;
        let levels = &net.backbone.levels;
        packer.numbers.extend([
            config.vocab(),
            i64::from(config.norm == super::NormKind::Layer),
            i64::from(config.wiring == Wiring::Unet),
            levels.len() as i64,
        ]);
        for (i, level) in levels.iter().enumerate() {
            let factor = level.pool.as_ref().map_or(0, |pool| pool.factor);
            packer.numbers.extend([config.width(i), factor, level.down.len() as i64, level.up.len() as i64]);
        }
        let wide = packer.padded(config.d_model);
        let table = pad(net.embedding.weight(), 1, wide)?;
        packer.push(&table)?;
        // The walk counts the layers on the way up from behind.
        let (mut down_at, mut up_end) = (0, net.backbone.layers().count());
        for (i, level) in levels.iter().enumerate() {
            for (k, layer) in level.down.iter().enumerate() {
                packer.layer(layer, down_at + k)?;
            }
            down_at += level.down.len();
            if let Some(pool) = &level.pool {
                packer.pool(pool, i, config.width(i))?;
            }
            up_end -= level.up.len();
            for (k, layer) in level.up.iter().enumerate() {
                packer.layer(layer, up_end + k)?;
            }
        }
        packer.norm(&net.backbone.norm)?;
        packer.map(&net.head.weight, &net.head.bias)?;
        let stepper = Stepper::new(&packer.numbers, &packer.tensors, kind)?;
        if stepper.state_size() != packer.size {
            return Err(Error::run("the packed network has another state than it must have"));
        }
        let state = Tensor::f_zeros([batch, packer.size], (kind, Device::Cpu))?;
        let class_rows = match &class {
            Some(rows) => Some(pad(&rows.f_detach()?, 1, wide)?.f_contiguous()?),
            None => None,
        };
        let (pieces, lanes) = (packer.pieces, lanes(kind));
        Ok(Packed { net, batch, class, class_rows, stepper, pieces, lanes, state, done: 0 })
    }

    fn wide(&self, width: i64) -> i64 {
        (width + self.lanes - 1) / self.lanes * self.lanes
    }

    /// The state as what the convolution carries; no group may be half full.
    fn carry(&self) -> Result<Carry> {
        let mut carry = Carry::default();
        carry.states.resize_with(self.net.backbone.layers().count(), || None);
        carry.pending.resize_with(self.net.backbone.levels.len(), || None);
        for &(piece, at) in &self.pieces {
            match piece {
                Piece::Layer { index, width, half } => {
                    let wide = self.wide(width);
                    let part = self.state.f_narrow(1, at, wide * half * 2)?;
                    let part = part.f_reshape([self.batch, wide / self.lanes, half, 2, self.lanes])?;
                    let part = part.f_permute([0, 1, 4, 3, 2])?.f_reshape([self.batch, wide, 2 * half])?;
                    carry.states[index] = Some(part.f_narrow(1, 0, width)?);
                }
                Piece::Pool { level, width, factor } => {
                    let wide = self.wide(width);
                    let part = self.state.f_narrow(1, at + factor * wide, factor * wide)?;
                    let part = part.f_reshape([self.batch, factor, wide])?.f_narrow(2, 0, width)?;
                    carry.pending[level] =
                        Some(part.f_transpose(1, 2)?.f_reshape([self.batch, width * factor])?);
                }
            }
        }
        Ok(carry)
    }

    fn take(&mut self, carry: &Carry) -> Result<()> {
        for &(piece, at) in &self.pieces {
            let (value, from) = match piece {
                Piece::Layer { index, width, half } => {
                    let Some(x) = &carry.states[index] else { continue };
                    let wide = self.wide(width);
                    let x = pad(x, 1, wide)?;
                    let x = x.f_reshape([self.batch, wide / self.lanes, self.lanes, 2, half])?;
                    (x.f_permute([0, 1, 4, 3, 2])?.f_flatten(1, -1)?, at)
                }
                Piece::Pool { level, width, factor } => {
                    let Some(pending) = &carry.pending[level] else { continue };
                    let wide = self.wide(width);
                    let split = pending.f_reshape([self.batch, width, factor])?.f_transpose(1, 2)?;
                    (pad(&split, 2, wide)?.f_flatten(1, -1)?, at + factor * wide)
                }
            };
            self.state.f_narrow(1, from, value.size()[1])?.f_copy_(&value)?;
        }
        Ok(())
    }
}

impl Steps for Packed<'_> {
    fn step(&mut self, tokens: &Tensor) -> Result<Tensor> {
        check_steps(tokens, self.batch, 1)?;
        let tokens = tokens.f_to_device(Device::Cpu)?.f_contiguous()?;
        let logits = self.stepper.step(&tokens, self.class_rows.as_ref(), &self.state, self.done)?;
        self.done += 1;
        Ok(logits)
    }

    fn prefill(&mut self, tokens: &Tensor) -> Result<Tensor> {
        check_steps(tokens, self.batch, 2)?;
        let _guard = tch::no_grad_guard();
        let at = (self.net.config.stride(), self.done);
        prefill_by(self, tokens, at, |me, tokens| {
            let mut carry = me.carry()?;
            let logits = me.net.run(tokens, me.class.as_ref(), Mode::Eval, Some(&mut carry))?;
            me.take(&carry)?;
            me.done += tokens.size()[1];
            Ok(logits)
        })
    }
}

//! Decoding with the keys and values of all tokens kept.

use tch::{Kind, Tensor};

use super::Lm;
use super::cache::{BLOCK, Layer};
use crate::error::{Error, Result};
use crate::net::Mode;
use crate::net::causal::{Cache, Steps};

/// The state of sequences that are being decoded. Memory is written in place; it grows by [`BLOCK`] tokens, or at once
/// by [`Cache::reserve`].
#[derive(Debug)]
pub struct LmSteps<'a> {
    net: &'a Lm,
    layers: Vec<Layer>,
    len: i64,
    capacity: i64,
    pads: Vec<i64>,
    pad_tensor: Tensor,
    hidden: Option<Tensor>,
    kernels: bool,
}

impl<'a> LmSteps<'a> {
    pub(super) fn new(net: &'a Lm, batch: i64) -> Result<Self> {
        let size = usize::try_from(batch).ok().filter(|b| *b > 0);
        let size = size.ok_or_else(|| Error::usage(format!("a batch of {batch} sequences")))?;
        let (c, pads) = (&net.config, vec![0i64; size]);
        let layer = |_| Layer::new(batch, (c.groups(), c.head()), BLOCK, net.stream, net.device);
        Ok(LmSteps {
            net,
            layers: (0..c.depth).map(layer).collect::<Result<_>>()?,
            len: 0,
            capacity: BLOCK,
            pad_tensor: Tensor::f_from_slice(&pads)?.f_to_device(net.device)?,
            pads,
            hidden: None,
            kernels: net.has_kernels(),
        })
    }

    fn batch(&self) -> i64 {
        i64::try_from(self.pads.len()).unwrap_or(i64::MAX)
    }

    fn room_for(&mut self, tokens: i64) -> Result<()> {
        if tokens <= self.capacity {
            return Ok(());
        }
        let capacity = (tokens + BLOCK - 1) / BLOCK * BLOCK;
        for layer in &mut self.layers {
            *layer = layer.grown(self.len, capacity)?;
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Absorbs `tokens` `[B, L]`; gives their features `[B, L, D]`.
    fn absorb(&mut self, tokens: &Tensor) -> Result<Tensor> {
        let size = tokens.size();
        if size.len() != 2 || size[0] != self.batch() || size[1] < 1 {
            return Err(Error::run(format!("tokens of shape {size:?} for {} sequences", self.batch())));
        }
        let _guard = tch::no_grad_guard();
        let after = self.len + size[1];
        let real = after - self.pads.iter().min().copied().unwrap_or(0);
        self.net.check_length(real)?;
        self.room_for(after)?;
        let hidden = if size[1] == 1 && self.kernels {
            let (tokens, place) = (tokens.f_squeeze_dim(1)?, (self.len, real));
            self.net.one(&tokens, &self.pad_tensor, place, &self.layers)?.f_unsqueeze(1)?
        } else {
            self.net.pass(tokens, &self.pads, Some((&mut self.layers, self.len)), Mode::Eval)?
        };
        self.len = after;
        self.hidden = Some(hidden.shallow_clone());
        Ok(hidden)
    }

    fn set_pads(&mut self, pads: Vec<i64>) -> Result<()> {
        self.pad_tensor = Tensor::f_from_slice(&pads)?.f_to_device(self.net.device)?;
        self.pads = pads;
        Ok(())
    }
}

impl Steps for LmSteps<'_> {
    fn step(&mut self, tokens: &Tensor) -> Result<Tensor> {
        let hidden = self.absorb(&tokens.f_unsqueeze(1)?)?;
        let _guard = tch::no_grad_guard();
        self.net.logits_of(&hidden.f_squeeze_dim(1)?)
    }

    fn prefill(&mut self, tokens: &Tensor) -> Result<Tensor> {
        let hidden = self.absorb(tokens)?;
        let _guard = tch::no_grad_guard();
        self.net.logits_of(&hidden)
    }

    fn cache(&mut self) -> Option<&mut dyn Cache> {
        Some(self)
    }
}

impl Cache for LmSteps<'_> {
    fn prefill_padded(&mut self, tokens: &Tensor, pads: &[i64]) -> Result<Tensor> {
        let (b, l) = tokens.size2()?;
        if self.len > 0 {
            return Err(Error::run("padding is for the first tokens of a sequence"));
        }
        let fits = i64::try_from(pads.len()).is_ok_and(|n| n == b) && b == self.batch();
        if !fits || pads.iter().any(|p| !(0..l).contains(p)) {
            return Err(Error::run(format!("padding by {pads:?} of {b} sequences of {l} tokens")));
        }
        self.set_pads(pads.to_vec())?;
        let hidden = self.absorb(tokens)?;
        let _guard = tch::no_grad_guard();
        self.net.logits_of(&hidden.f_select(1, l - 1)?.f_contiguous()?)
    }

    fn len(&self) -> i64 {
        self.len
    }

    fn reserve(&mut self, tokens: i64) -> Result<()> {
        let most = self.net.config.limit() + self.pads.iter().max().copied().unwrap_or(0);
        self.room_for(tokens.min(most))
    }

    fn truncate(&mut self, len: i64) -> Result<()> {
        if !(0..=self.len).contains(&len) {
            return Err(Error::run(format!("cannot go back to {len} of {} tokens", self.len)));
        }
        self.len = len;
        self.hidden = None;
        Ok(())
    }

    fn select(&mut self, rows: &[i64]) -> Result<()> {
        let batch = self.batch();
        if rows.is_empty() || rows.iter().any(|r| !(0..batch).contains(r)) {
            return Err(Error::run(format!("rows {rows:?} of {batch} sequences")));
        }
        let _guard = tch::no_grad_guard();
        let index = Tensor::f_from_slice(rows)?.f_to_kind(Kind::Int64)?.f_to_device(self.net.device)?;
        for layer in &mut self.layers {
            *layer = layer.selected(&index, self.len)?;
        }
        if let Some(hidden) = &self.hidden {
            self.hidden = Some(hidden.f_index_select(0, &index)?);
        }
        // Checked above: every row is an index.
        let pads = rows.iter().filter_map(|r| self.pads.get(usize::try_from(*r).ok()?).copied()).collect();
        self.set_pads(pads)
    }

    fn hidden(&self) -> Option<Tensor> {
        self.hidden.as_ref().map(Tensor::shallow_clone)
    }
}

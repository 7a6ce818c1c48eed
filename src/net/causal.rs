//! Networks over sequences of tokens that look back only: all positions at once, or one after the other.

use std::fmt::Debug;

use tch::Tensor;

use super::{Cond, Mode};
use crate::error::Result;

/// A network over sequences of tokens whose output at a position depends on the tokens before and at it.
pub trait Causal: Debug {
    /// Number of tokens.
    fn vocab(&self) -> i64;
    /// Inputs `tokens` `[B, L]` i64 (already shifted by the caller: the input at t is the token t-1, the first the
    /// start token); logits `[B, L, V]`.
    ///
    /// # Errors
    /// Where shapes or tokens do not fit, or libtorch fails.
    fn logits(&self, tokens: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor>;
    /// Token the first input holds (`2^(bits-1)` for audio).
    fn start_token(&self) -> i64;
    /// L must be a multiple of it in `logits`.
    fn stride(&self) -> i64 {
        1
    }
    /// A fresh recurrent state for `batch` sequences (weights may not change while it lives).
    ///
    /// # Errors
    /// Where the condition does not fit, or libtorch fails.
    fn begin(&self, batch: i64, cond: &Cond) -> Result<Box<dyn Steps + '_>>;
}

/// A recurrent state.
pub trait Steps {
    /// One step: `tokens` `[B]` i64 in, logits `[B, V]` out.
    ///
    /// # Errors
    /// Where shapes or tokens do not fit, or libtorch fails.
    fn step(&mut self, tokens: &Tensor) -> Result<Tensor>;
    /// Absorbs `tokens` `[B, L]` at once; logits `[B, L, V]` as if stepped.
    ///
    /// # Errors
    /// As [`Steps::step`].
    fn prefill(&mut self, tokens: &Tensor) -> Result<Tensor>;
    /// What a state that keeps every token (a transformer's) can do beside; nothing for others.
    fn cache(&mut self) -> Option<&mut dyn Cache> {
        None
    }
}

/// A state that keeps keys and values of every token.
pub trait Cache {
    /// Absorbs the first tokens of sequences of unequal length at once, `[B, L]`, each filled up on the left by
    /// `pads[b]` tokens of any value; gives the logits `[B, V]` after the last token only. The state must be fresh.
    ///
    /// # Errors
    /// Where the state is not fresh, a sequence is all padding, or as [`Steps::step`].
    fn prefill_padded(&mut self, tokens: &Tensor, pads: &[i64]) -> Result<Tensor>;
    /// Number of tokens kept for each sequence, padding included.
    fn len(&self) -> i64;
    /// Whether nothing is kept yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Makes room for `tokens` tokens in all, so that no step allocates.
    ///
    /// # Errors
    /// Where libtorch fails.
    fn reserve(&mut self, tokens: i64) -> Result<()>;
    /// Forgets all but the first `len` tokens (rejected drafts).
    ///
    /// # Errors
    /// Where fewer are kept.
    fn truncate(&mut self, len: i64) -> Result<()>;
    /// Makes the sequences those of the given rows, in this order (beams, several continuations of one prompt).
    ///
    /// # Errors
    /// Where a row does not exist, or libtorch fails.
    fn select(&mut self, rows: &[i64]) -> Result<()>;
    /// The last layer's output for the tokens absorbed by the last call, after the final norm: `[B, L, D]`, or
    /// `[B, 1, D]` after a step.
    fn hidden(&self) -> Option<Tensor>;
}

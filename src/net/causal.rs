//! Networks over sequences of tokens that know the past only.

use std::fmt::Debug;

use tch::Tensor;

use super::{Cond, Mode};
use crate::error::Result;

/// A network over sequences of tokens whose output at a position depends on the tokens before and at it.
pub trait Causal: Debug {
    /// Number of tokens V.
    fn vocab(&self) -> i64;

    /// Logits `[B, L, V]` of the token at each position.
    ///
    /// `tokens` `[B, L]` i64 are already shifted by the caller: the input at t is the token t-1, the first the start
    /// token. L is a multiple of [`Causal::stride`].
    ///
    /// # Errors
    /// Where shapes do not fit, or libtorch fails.
    fn logits(&self, tokens: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor>;

    /// The token that the first input holds (`2^(bits-1)`, silence, for audio).
    fn start_token(&self) -> i64;

    /// What the length of [`Causal::logits`]' input must be a multiple of.
    fn stride(&self) -> i64 {
        1
    }

    /// A fresh recurrent state for `batch` sequences. The weights may not change while it lives; they are read once,
    /// here.
    ///
    /// # Errors
    /// Where the condition does not fit, or libtorch fails.
    fn begin(&self, batch: i64, cond: &Cond) -> Result<Box<dyn Steps + '_>>;
}

/// A causal network as a recurrence, with constant cost and memory per token. No gradients flow through it.
pub trait Steps {
    /// One step: `tokens` `[B]` i64 in, logits `[B, V]` of the next token out.
    ///
    /// # Errors
    /// Where shapes do not fit, or libtorch fails.
    fn step(&mut self, tokens: &Tensor) -> Result<Tensor>;

    /// Absorbs `tokens` `[B, L]` at once; logits `[B, L, V]` as if stepped.
    ///
    /// # Errors
    /// Where shapes do not fit, or libtorch fails.
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

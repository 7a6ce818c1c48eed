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
}

//! Networks over sequences of tokens, run all positions at once or one after another.

use std::fmt::Debug;

use tch::Tensor;

use super::{Cond, Mode};
use crate::error::Result;

/// A network over sequences of tokens whose output at a position depends on the tokens before and at it.
pub trait Causal: Debug {
    /// Number of different tokens.
    fn vocab(&self) -> i64;
    /// Inputs `tokens` `[B, L]` i64, already shifted by the caller: the input at t is token t - 1, the first the start
    /// token. Logits `[B, L, V]`.
    ///
    /// # Errors
    /// Where L is no multiple of [`Causal::stride`], or libtorch fails.
    fn logits(&self, tokens: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor>;
    /// The token that the first input holds.
    fn start_token(&self) -> i64;
    /// L must be a multiple of it in [`Causal::logits`].
    fn stride(&self) -> i64 {
        1
    }
    /// A fresh recurrent state for `batch` sequences. The weights may not change while it lives.
    ///
    /// # Errors
    /// Where libtorch fails.
    fn begin(&self, batch: i64, cond: &Cond) -> Result<Box<dyn Steps + '_>>;
}

/// The state of sequences that grow.
pub trait Steps {
    /// One step: `tokens` `[B]` i64 in, logits `[B, V]` out.
    ///
    /// # Errors
    /// Where libtorch fails.
    fn step(&mut self, tokens: &Tensor) -> Result<Tensor>;
    /// Takes in `tokens` `[B, L]` at once; logits `[B, L, V]`, as if stepped.
    ///
    /// # Errors
    /// Where libtorch fails.
    fn prefill(&mut self, tokens: &Tensor) -> Result<Tensor>;
}

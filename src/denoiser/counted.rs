//! A model that counts its calls (NFE).

use std::cell::Cell;

use tch::Tensor;

use super::{Denoiser, Prediction};
use crate::error::Result;
use crate::net::Cond;
use crate::process::{At, Process};

/// A model and the number of its calls so far. A guided model counts one call, as its halves run at once.
pub struct Counted<'a> {
    inner: &'a dyn Denoiser,
    calls: Cell<u64>,
}

impl<'a> Counted<'a> {
    /// Counts the calls of `inner` from 0.
    pub fn new(inner: &'a dyn Denoiser) -> Self {
        Counted { inner, calls: Cell::new(0) }
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.get()
    }
}

impl std::fmt::Debug for Counted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counted").field("calls", &self.calls.get()).finish_non_exhaustive()
    }
}

impl Denoiser for Counted<'_> {
    fn prediction(&self) -> Prediction {
        self.inner.prediction()
    }

    fn process(&self) -> &dyn Process {
        self.inner.process()
    }

    fn predict(&self, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor> {
        self.calls.set(self.calls.get() + 1);
        self.inner.predict(x, at, cond)
    }
}

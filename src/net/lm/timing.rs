//! How fast a language model takes in a prompt and decodes, and what the memory would allow.

use std::time::Instant;

use tch::{Cuda, Device, Kind, Tensor};

use super::Lm;
use crate::error::{Error, Result};
use crate::net::causal::{Cache, Steps};

/// Times of one measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Sequences.
    pub batch: i64,
    /// Tokens of the prompt of each.
    pub prompt: i64,
    /// Tokens decoded for each.
    pub new: i64,
    /// Seconds for all prompts.
    pub prefill: f64,
    /// Seconds for all decoding.
    pub decode: f64,
    /// Bytes of weights read by one step.
    pub bytes: usize,
}

#[allow(clippy::cast_precision_loss)]
impl Timing {
    /// Tokens of prompts taken in per second, over the batch.
    #[must_use]
    pub fn prefill_rate(&self) -> f64 {
        (self.batch * self.prompt) as f64 / self.prefill
    }

    /// Tokens decoded per second, over the batch.
    #[must_use]
    pub fn decode_rate(&self) -> f64 {
        (self.batch * self.new) as f64 / self.decode
    }

    /// Bytes of weights read per second in decoding.
    #[must_use]
    pub fn bandwidth(&self) -> f64 {
        self.bytes as f64 * self.new as f64 / self.decode
    }
}

/// Times the prompt of `prompt` tokens and `new` greedy steps for `batch` sequences, after a short run that is not
/// counted: the best of `repeats`.
///
/// # Errors
/// Where the context is too short, or libtorch fails.
#[allow(clippy::cast_possible_wrap)]
pub fn measure(net: &Lm, batch: i64, prompt: i64, new: i64, repeats: usize) -> Result<Timing> {
    if batch < 1 || prompt < 1 || new < 1 {
        return Err(Error::usage(format!("timing of {batch} sequences of {prompt} + {new} tokens")));
    }
    let _guard = tch::no_grad_guard();
    let vocab = net.config().vocab;
    let tokens: Vec<i64> = (0..batch * prompt).map(|i| i * 7919 % vocab).collect();
    let tokens = Tensor::f_from_slice(&tokens)?.f_view([batch, prompt])?.f_to_device(net.device())?;
    let wait = || {
        if let Device::Cuda(i) = net.device() {
            Cuda::synchronize(i as i64);
        }
    };
    let run = |new: i64| -> Result<(f64, f64)> {
        let mut state = net.start(batch)?;
        state.reserve(prompt + new)?;
        wait();
        let start = Instant::now();
        let mut logits = state.prefill_padded(&tokens, &vec![0; usize::try_from(batch).unwrap_or(1)])?;
        wait();
        let prefill = start.elapsed().as_secs_f64();
        let start = Instant::now();
        for _ in 0..new {
            logits = state.step(&logits.f_argmax(-1, false)?)?;
        }
        wait();
        Ok((prefill, start.elapsed().as_secs_f64()))
    };
    run(new.min(2))?;
    let (mut prefill, mut decode) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..repeats.max(1) {
        let (p, d) = run(new)?;
        (prefill, decode) = (prefill.min(p), decode.min(d));
    }
    Ok(Timing { batch, prompt, new, prefill, decode, bytes: net.bytes_per_step() })
}

/// Bytes read and written per second by a copy of 256 MB on the CPU: the best of five.
///
/// # Errors
/// Where libtorch fails.
#[allow(clippy::cast_precision_loss)]
pub fn copy_bandwidth() -> Result<f64> {
    let n = 1i64 << 26;
    let from = Tensor::f_ones([n], (Kind::Float, Device::Cpu))?;
    let mut to = Tensor::f_empty_like(&from)?;
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let start = Instant::now();
        to.f_copy_(&from)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(8.0 * n as f64 / best)
}

//! Random streams: sample i draws everything from its own, whatever batch it is computed in.

pub mod philox;
pub mod streams;

use tch::Tensor;

use crate::error::Result;

/// Standard normal noise for a batch of samples, each with a stream of its own.
pub trait Noise {
    /// The next standard normal draw of every sample: shape, dtype and device of `like` `[B, ...]`.
    ///
    /// # Errors
    /// Where `like` has another batch size than there are streams, or libtorch fails.
    fn normal(&mut self, like: &Tensor) -> Result<Tensor>;
}

//! One random stream per sample.
//!
//! Sample i draws its latent and all of its step noise from a stream that its seed alone decides, so a
//! sample is the same alone or in any batch, in any order, on any device. Noise is drawn in f32
//! whatever the dtype of the state is, so that the dtype does not change the sample either.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::Noise;
use super::philox::Philox;
use crate::error::{Error, Result};
use crate::torch::shim::Generator;

/// Which generator the streams are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rng {
    /// PyTorch's CPU generator: the latent of seed s is `torch.randn(shape, generator=torch.Generator().manual_seed(s))`.
    #[default]
    Torch,
    /// CUDA's generator (Philox), computed on any device: the latent of `torch.Generator("cuda")`.
    Philox,
}

#[derive(Debug)]
enum Stream {
    Torch(Generator),
    Philox(Philox),
}

impl Stream {
    fn below(&mut self, high: i64) -> Result<i64> {
        match self {
            Stream::Torch(generator) => Ok(generator.integers(high, &[1])?.f_int64_value(&[0])?),
            Stream::Philox(philox) => Ok(philox.below(high.unsigned_abs()) as i64),
        }
    }

    fn uniform(&mut self, n: i64) -> Result<Tensor> {
        let bits = match self {
            Stream::Torch(generator) => generator.integers(1 << 24, &[n])?,
            Stream::Philox(philox) => {
                let bits: Vec<i64> = (0..n).map(|_| philox.below(1 << 24) as i64).collect();
                Tensor::f_from_slice(&bits)?
            }
        };
        Ok(bits.f_to_kind(Kind::Float)?.f_mul_scalar_(1.0 / f64::from(1 << 24))?)
    }

    fn normal(&mut self, shape: &[i64]) -> Result<Tensor> {
        match self {
            Stream::Torch(generator) => generator.normal(shape, Kind::Float),
            Stream::Philox(philox) => {
                let n = usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
                Ok(Tensor::f_from_slice(&philox.normal(n))?.f_reshape(shape)?)
            }
        }
    }
}

/// The streams of the samples of one batch.
#[derive(Debug)]
pub struct Streams(Vec<Stream>);

impl Streams {
    /// One stream for each seed.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn new(rng: Rng, seeds: &[u64]) -> Result<Self> {
        let stream = |&seed: &u64| match rng {
            Rng::Torch => Generator::new(seed).map(Stream::Torch),
            Rng::Philox => Ok(Stream::Philox(Philox::new(seed))),
        };
        Ok(Streams(seeds.iter().map(stream).collect::<Result<_>>()?))
    }

    /// A whole number in `[0, high)` for every sample: `torch.randint(high, (1,), generator=g)`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn below(&mut self, high: i64) -> Result<Vec<i64>> {
        self.0.iter_mut().map(|s| s.below(high)).collect()
    }

    /// The next `n` numbers uniform in [0, 1) of every sample, `[B, n]` f32 on the CPU: `torch.rand(n, generator=g)`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn uniform(&mut self, n: i64) -> Result<Tensor> {
        let draws = self.0.iter_mut().map(|s| s.uniform(n)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_stack(&draws, 0)?)
    }

    /// The next draw of every sample, `[B, shape...]` f32 on the CPU.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn draw(&mut self, shape: &[i64]) -> Result<Tensor> {
        let draws = self.0.iter_mut().map(|s| s.normal(shape)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_stack(&draws, 0)?)
    }
}

impl Noise for Streams {
    fn normal(&mut self, like: &Tensor) -> Result<Tensor> {
        let shape = like.size();
        if shape.first().copied() != i64::try_from(self.0.len()).ok() {
            return Err(Error::run(format!(
                "noise for a batch of {} asked of {} streams",
                shape[0],
                self.0.len()
            )));
        }
        Ok(self.draw(&shape[1..])?.f_to_device(like.device())?.f_to_kind(like.kind())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn a_sample_does_not_depend_on_its_batch() {
        for rng in [Rng::Torch, Rng::Philox] {
            let draws = |seeds: &[u64]| {
                let mut streams = Streams::new(rng, seeds).unwrap();
                let like = Tensor::zeros([seeds.len() as i64, 3, 5, 5], (Kind::Double, Device::Cpu));
                let first = streams.normal(&like).unwrap();
                Tensor::stack(&[first, streams.normal(&like).unwrap()], 1)
            };
            let together = draws(&[3, 1, 4, 1, 5]);
            for (i, seed) in [3, 1, 4, 1, 5].into_iter().enumerate() {
                assert!(draws(&[seed]).get(0).equal(&together.get(i as i64)), "{rng:?} seed {seed}");
            }
        }
    }

    #[test]
    fn uniform_numbers_are_those_of_torch() {
        // torch.rand(4, generator=torch.Generator().manual_seed(0))
        let u = Streams::new(Rng::Torch, &[0]).unwrap().uniform(4).unwrap();
        let want = [0.496_256_6f32, 0.768_221_8, 0.088_477_43, 0.132_030_5];
        for (got, want) in Vec::<f32>::try_from(u.view(-1)).unwrap().iter().zip(want) {
            assert!((got - want).abs() < 1e-7, "{got} {want}");
        }
        let u = Streams::new(Rng::Philox, &[5, 6]).unwrap().uniform(1000).unwrap();
        assert_eq!(u.size(), [2, 1000]);
        assert!((u.mean(Kind::Double).double_value(&[]) - 0.5).abs() < 0.03);
        assert!(u.min().double_value(&[]) >= 0.0 && u.max().double_value(&[]) < 1.0);
    }

    #[test]
    fn the_batch_size_must_fit() {
        let mut streams = Streams::new(Rng::Torch, &[1, 2]).unwrap();
        assert!(streams.normal(&Tensor::zeros([3, 2], (Kind::Float, Device::Cpu))).is_err());
    }
}

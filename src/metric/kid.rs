//! Kernel Inception distance (Binkowski et al. 2018, "Demystifying MMD GANs"): squared MMD of features under
//! the kernel `(x.y/d + 1)^3`, exact over all pairs, or as mean and deviation over random subsets.

use tch::Tensor;

use super::distance::rows;
use super::mmd::unbiased_mmd2;
use super::numpy_rng::RandomState;
use crate::error::{Error, Result};

/// Mean and population standard deviation of a metric over subsets or splits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanStd {
    /// Mean.
    pub mean: f64,
    /// Standard deviation with divisor K.
    pub std: f64,
}

impl MeanStd {
    /// Of some values (NaN of none).
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        MeanStd { mean, std: variance.sqrt() }
    }
}

/// How subsets are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KidOptions {
    /// Number of subsets.
    pub subsets: usize,
    /// Images per subset, of each set.
    pub size: usize,
    /// Seed of the draws.
    pub seed: u32,
}

impl Default for KidOptions {
    /// The settings of torch-fidelity.
    fn default() -> Self {
        KidOptions { subsets: 100, size: 1000, seed: 2020 }
    }
}

/// KID over random subsets: in each round rows of `generated` are drawn first, then rows of `reference`,
/// without replacement, with numpy's legacy generator.
///
/// # Errors
/// Where a set is smaller than a subset, or widths differ.
pub fn kid_subsets(generated: &Tensor, reference: &Tensor, options: &KidOptions) -> Result<MeanStd> {
    let (n, m) = (rows(generated)?.0, rows(reference)?.0);
    if options.size > n.min(m) || options.size < 2 || options.subsets == 0 {
        return Err(Error::usage(format!("KID subsets of {} images", options.size))
            .why(format!("there are {n} generated and {m} reference images"))
            .hint("choose a smaller --kid-subset-size"));
    }
    let mut rng = RandomState::new(options.seed);
    let mut draw = |x: &Tensor, n: usize| -> Result<Tensor> {
        let index: Vec<i64> = rng.choice(n, options.size).into_iter().map(|i| i as i64).collect();
        Ok(x.f_index_select(0, &Tensor::f_from_slice(&index)?.f_to_device(x.device())?)?)
    };
    let mut values = Vec::with_capacity(options.subsets);
    for _ in 0..options.subsets {
        let (x, y) = (draw(generated, n)?, draw(reference, m)?);
        values.push(unbiased_mmd2(&x, &y, options.size)?);
    }
    Ok(MeanStd::of(&values))
}

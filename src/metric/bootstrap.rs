//! Intervals by resampling (Efron and Tibshirani 1993, "An introduction to the bootstrap").
//!
//! Features are drawn again with replacement, and figures computed again. Figures that fall with the number of
//! images (FID, Inception Score) are off in a resampled set by about as much as in the set itself, as fewer
//! different images are in it; the question here is how far the figure would move with other images of the same
//! number. So the spread of the resampled values about their mean is laid around the figure itself:
//! `[value - (q97.5 - mean), value - (q2.5 - mean)]`.

use tch::{Kind, Tensor};

use super::distance::{BLOCK, block, blocks, rows, same_width};
use super::frechet_features::Against;
use super::numpy_rng::RandomState;
use crate::error::Result;
use crate::io::bytes::tensor_to_f64;

/// Draws of rows, with replacement.
#[derive(Debug, Clone, Copy)]
pub struct Resampling {
    /// Number of resampled sets.
    pub times: usize,
    /// Seed; set b is drawn with seed + b.
    pub seed: u32,
}

impl Resampling {
    /// The rows of set `b` of `n`.
    #[must_use]
    pub fn rows(&self, b: usize, n: usize) -> Vec<usize> {
        let mut random = RandomState::new(self.seed.wrapping_add(u32::try_from(b).unwrap_or(u32::MAX)));
        let top = u32::try_from(n.saturating_sub(1)).unwrap_or(u32::MAX);
        (0..n).map(|_| random.interval(top) as usize).collect()
    }

    fn index(&self, b: usize, x: &Tensor) -> Result<Tensor> {
        let index: Vec<i64> = self.rows(b, rows(x)?.0).into_iter().map(|i| i as i64).collect();
        Ok(Tensor::f_from_slice(&index)?.f_to_device(x.device())?)
    }

    /// The interval of a mean of one number per image.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn of_mean(&self, values: &[f64]) -> [f64; 2] {
        let n = values.len();
        let mean = |rows: &[usize]| rows.iter().map(|&i| values[i]).sum::<f64>() / n as f64;
        let all: Vec<f64> = (0..self.times).map(|b| mean(&self.rows(b, n))).collect();
        interval(values.iter().sum::<f64>() / n as f64, &all)
    }

    /// The interval of a figure of rows `x`, whose value is `value`.
    ///
    /// # Errors
    /// As `figure`.
    pub fn of_rows(
        &self,
        value: f64,
        x: &Tensor,
        figure: impl Fn(&Tensor) -> Result<f64>,
    ) -> Result<[f64; 2]> {
        let one = |b: usize| figure(&x.f_index_select(0, &self.index(b, x)?)?);
        Ok(interval(value, &(0..self.times).map(one).collect::<Result<Vec<f64>>>()?))
    }

    /// The interval of the Frechet distance `value` of features `x` to a reference.
    ///
    /// # Errors
    /// As [`Against::distance`].
    pub fn of_frechet(&self, value: f64, x: &Tensor, reference: &Against) -> Result<[f64; 2]> {
        self.of_rows(value, x, |x| reference.distance(x))
    }

    /// The interval of the unbiased squared MMD under the cubic kernel, `value`, of features `x` `[n, d]` to `y`.
    ///
    /// Row i is in set b `w_ib` times. All sets are computed at once: with the kernel matrix K they are the
    /// diagonals of `W^T K W`, less pairs of a row with itself, so that a row drawn twice does not look close.
    ///
    /// # Errors
    /// Where widths differ.
    #[allow(clippy::cast_precision_loss)]
    pub fn of_mmd2(&self, value: f64, x: &Tensor, y: &Tensor) -> Result<[f64; 2]> {
        let d = same_width(x, y)? as f64;
        let (n, m) = (rows(x)?.0, rows(y)?.0);
        let options = (Kind::Double, x.device());
        let mut counts = vec![0f64; n * self.times];
        for b in 0..self.times {
            self.rows(b, n).into_iter().for_each(|i| counts[i * self.times + b] += 1.0);
        }
        let weights =
            Tensor::f_from_slice(&counts)?.f_view([n as i64, self.times as i64])?.f_to_device(x.device())?;
        let kernel = |u: &Tensor, v: &Tensor| -> Result<Tensor> {
            let mut product = u.f_matmul(&v.f_transpose(0, 1)?)?;
            Ok(product.f_div_scalar_(d)?.f_add_scalar_(1.0)?.f_pow_tensor_scalar(3)?)
        };
        let mut within = Tensor::f_zeros([self.times as i64], options)?;
        let mut across = Tensor::f_zeros([self.times as i64], options)?;
        let sum = |t: Tensor| t.f_sum_dim_intlist(0i64, false, Kind::Double);
        for (i, height) in blocks(n, BLOCK) {
            let u = block(x, i, height)?;
            let own = weights.f_narrow(0, i as i64, height as i64)?;
            for (j, width) in blocks(n, BLOCK) {
                let k = kernel(&u, &block(x, j, width)?)?;
                let other = weights.f_narrow(0, j as i64, width as i64)?;
                within = within.f_add(&sum(own.f_mul(&k.f_matmul(&other)?)?)?)?;
                if i == j {
                    let diagonal = k.f_diagonal(0, 0, 1)?.f_unsqueeze(1)?;
                    within = within.f_sub(&sum(own.f_square()?.f_mul(&diagonal)?)?)?;
                }
            }
            for (j, width) in blocks(m, BLOCK) {
                let k = kernel(&u, &block(y, j, width)?)?;
                let row = k.f_sum_dim_intlist(1i64, true, Kind::Double)?;
                across = across.f_add(&sum(own.f_mul(&row)?)?)?;
            }
        }
        let pairs = sum(weights.f_square()?)?;
        let (within, across, pairs) =
            (tensor_to_f64(&within)?, tensor_to_f64(&across)?, tensor_to_f64(&pairs)?);
        let (nf, mf) = (n as f64, m as f64);
        // The part of the reference alone is the same in all sets and cancels.
        let all: Vec<f64> =
            (0..self.times).map(|b| within[b] / (nf * nf - pairs[b]) - 2.0 * across[b] / (nf * mf)).collect();
        Ok(interval(value, &all))
    }
}

/// The interval of 95 per cent around `value` from resampled values.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
#[must_use]
pub fn interval(value: f64, resampled: &[f64]) -> [f64; 2] {
    let mut sorted = resampled.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let top = sorted.len().saturating_sub(1) as f64;
    let quantile = |q: f64| {
        let at = q * top;
        let low = at.floor() as usize;
        let high = (low + 1).min(sorted.len() - 1);
        sorted[low] + (sorted[high] - sorted[low]) * (at - at.floor())
    };
    if sorted.is_empty() {
        return [value, value];
    }
    let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
    [value - (quantile(0.975) - mean), value - (quantile(0.025) - mean)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::mmd::unbiased_mmd2;
    use crate::torch::shim::Generator;

    #[test]
    fn intervals_lie_around_the_value() {
        let all: Vec<f64> = (0..=100).map(|i| 7.0 + f64::from(i)).collect();
        let [low, high] = interval(3.0, &all);
        assert!((low - (3.0 - 47.5)).abs() < 1e-12 && (high - (3.0 + 47.5)).abs() < 1e-12);
        assert_eq!(interval(3.0, &[]), [3.0, 3.0]);
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_theory() {
        let x = Generator::new(1).unwrap().normal(&[400], Kind::Double).unwrap();
        let values = tensor_to_f64(&x).unwrap();
        let mean = values.iter().sum::<f64>() / 400.0;
        let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 400.0).sqrt();
        let [low, high] = Resampling { times: 2000, seed: 3 }.of_mean(&values);
        let want = 1.96 * std / 20.0;
        assert!(((high - mean) / want - 1.0).abs() < 0.06, "{low} {mean} {high} {want}");
        assert!(((mean - low) / want - 1.0).abs() < 0.06, "{low} {mean} {high} {want}");
    }

    #[test]
    fn the_interval_of_mmd_covers_what_other_sets_give() {
        let mut draw = Generator::new(9).unwrap();
        let y = draw.normal(&[120, 4], Kind::Double).unwrap();
        let mut sets = || draw.normal(&[80, 4], Kind::Double).unwrap() * 1.3 + 0.5;
        let x = sets();
        let value = unbiased_mmd2(&x, &y, 50).unwrap();
        let [low, high] = Resampling { times: 400, seed: 0 }.of_mmd2(value, &x, &y).unwrap();
        assert!(low < value && value < high);
        // Half its width against the spread of the figure over fresh sets.
        let fresh: Vec<f64> = (0..200).map(|_| unbiased_mmd2(&sets(), &y, 50).unwrap()).collect();
        let mean = fresh.iter().sum::<f64>() / 200.0;
        let std = (fresh.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 199.0).sqrt();
        let ratio = (high - low) / (2.0 * 1.96 * std);
        assert!((0.6..1.6).contains(&ratio), "{low} {value} {high}, {std}");
    }

    #[test]
    fn draws_depend_on_the_seed_alone() {
        let r = Resampling { times: 3, seed: 5 };
        assert_eq!(r.rows(1, 50), Resampling { times: 9, seed: 6 }.rows(0, 50));
        assert_ne!(r.rows(0, 50), r.rows(1, 50));
        assert!(r.rows(2, 50).iter().all(|&i| i < 50));
    }
}

//! k-means: Lloyd's algorithm from centres spread by k-means++ (Arthur and Vassilvitskii 2007).

use tch::{Device, Kind, Tensor};

use super::distance::squared;
use crate::error::{Error, Result};
use crate::io::bytes::tensor_to_f64;
use crate::math::rng::SplitMix64;

/// What was found.
#[derive(Debug)]
pub struct Clusters {
    /// `[K, d]` f64.
    pub centres: Tensor,
    /// The nearest centre of each row, `[N]` i64.
    pub labels: Tensor,
    /// Sum of the squared distances to them.
    pub cost: f64,
}

/// The best of `runs` runs of at most `rounds` rounds over the rows of `x` `[N, d]`, f64 on the CPU.
///
/// # Errors
/// Where there are fewer rows than clusters, or libtorch fails.
pub fn kmeans(x: &Tensor, k: usize, (runs, rounds): (u64, usize), seed: u64) -> Result<Clusters> {
    if k == 0 || x.size2()?.0 < k as i64 {
        return Err(Error::run(format!("{k} clusters of {} rows", x.size()[0])));
    }
    let mut best: Option<Clusters> = None;
    for run in 0..runs.max(1) {
        let found = one_run(x, k, rounds, &mut SplitMix64::new(seed ^ (run << 32)))?;
        if best.as_ref().is_none_or(|best| found.cost < best.cost) {
            best = Some(found);
        }
    }
    best.ok_or_else(|| Error::run("no clusters"))
}

/// The nearest of `centres` `[K, d]` of each row of `x` `[N, d]`: squared distances and indices, `[N]`.
///
/// # Errors
/// Where libtorch fails.
pub fn nearest(x: &Tensor, centres: &Tensor) -> Result<(Tensor, Tensor)> {
    Ok(squared(x, centres)?.f_min_dim(1, false)?)
}

fn one_run(x: &Tensor, k: usize, rounds: usize, random: &mut SplitMix64) -> Result<Clusters> {
    let mut centres = starts(x, k, random)?;
    let (mut near, mut labels) = nearest(x, &centres)?;
    for _ in 0..rounds {
        let sums = centres.f_zeros_like()?.f_index_add(0, &labels, x)?;
        let counts = labels.f_bincount(None::<Tensor>, k as i64)?.f_to_kind(Kind::Double)?.f_unsqueeze(1)?;
        // A cluster that lost all its members keeps its centre.
        centres = sums.f_div(&counts.f_clamp_min(1.0)?)?.f_where_self(&counts.f_gt(0.0)?, &centres)?;
        let before = labels;
        (near, labels) = nearest(x, &centres)?;
        if before.equal(&labels) {
            break;
        }
    }
    Ok(Clusters { centres, labels, cost: near.f_sum(Kind::Double)?.f_double_value(&[])? })
}

/// Each start is drawn by its squared distance to those before.
fn starts(x: &Tensor, k: usize, random: &mut SplitMix64) -> Result<Tensor> {
    let n = x.size()[0];
    let mut chosen = vec![random.below(n.unsigned_abs()) as i64];
    let mut distances = vec![f64::INFINITY; n.unsigned_abs() as usize];
    while chosen.len() < k {
        let last = x.f_narrow(0, chosen[chosen.len() - 1], 1)?;
        let from_last = tensor_to_f64(&squared(x, &last)?.f_squeeze_dim(1)?)?;
        distances.iter_mut().zip(from_last).for_each(|(a, b)| *a = a.min(b));
        let mut left = random.uniform() * distances.iter().sum::<f64>();
        let next = distances.iter().position(|d| {
            left -= d;
            left < 0.0
        });
        chosen.push(next.map_or(n - 1, |i| i as i64));
    }
    Ok(x.f_index_select(0, &Tensor::f_from_slice(&chosen)?.f_to_device(Device::Cpu)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::shim::Generator;

    #[test]
    fn separate_clusters_are_found() {
        let mut random = Generator::new(6).unwrap();
        let noise = random.normal(&[90, 2], Kind::Double).unwrap() * 0.05;
        let group = Tensor::arange(90, (Kind::Int64, Device::Cpu)).remainder(3);
        let centres = Tensor::from_slice(&[0.0, 0.0, 5.0, 0.0, 0.0, 5.0]).reshape([3, 2]);
        let found = kmeans(&(noise + centres.index_select(0, &group)), 3, (5, 500), 1).unwrap();
        let labels = &found.labels;
        for i in 3..90 {
            assert_eq!(labels.int64_value(&[i]), labels.int64_value(&[i % 3]));
        }
        assert_ne!(labels.int64_value(&[0]), labels.int64_value(&[1]));
        // 180 squared normal numbers of variance 0.0025, less the six that the means take.
        assert!((0.3..0.6).contains(&found.cost), "{}", found.cost);
        assert!(kmeans(&Tensor::zeros([2, 2], (Kind::Double, Device::Cpu)), 3, (1, 1), 0).is_err());
    }

    #[test]
    fn equal_rows_make_clusters_without_members() {
        let x = Tensor::ones([5, 2], (Kind::Double, Device::Cpu));
        let found = kmeans(&x, 3, (2, 10), 0).unwrap();
        assert_eq!((found.cost, found.centres.size()), (0.0, vec![3, 2]));
    }
}

//! MAUVE: the gap between two sets of texts by the divergences of their quantised features (Pillutla et al. 2021).
//!
//! Features (one vector a text, such as the last hidden state of a language model) are brought to unit length,
//! reduced by principal components to 90 % of the variance, and clustered together; the two histograms over the
//! clusters are compared along the mixtures of both.

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::metric::kmeans::kmeans;

/// Scale of the divergences.
const SCALE: f64 = 5.0;
/// Points of the curve.
const POINTS: usize = 25;
/// Share of the variance that the components keep.
const VARIANCE: f64 = 0.9;
/// Runs of k-means, and rounds of one.
const RUNS: u64 = 5;
const ROUNDS: usize = 500;

/// The figure and what it was made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mauve {
    /// Area under the divergence curve, from 0 to 1 (equal).
    pub mauve: f64,
    /// Number of clusters.
    pub clusters: usize,
    /// Number of principal components.
    pub components: i64,
}

/// The area under the divergence curve of two histograms.
///
/// # Errors
/// Where they have different lengths or no mass.
pub fn area(p: &[f64], q: &[f64]) -> Result<f64> {
    let (sp, sq) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
    if p.len() != q.len() || sp.is_nan() || sp <= 0.0 || sq.is_nan() || sq <= 0.0 {
        return Err(Error::run("two histograms over the same clusters are needed"));
    }
    let p: Vec<f64> = p.iter().map(|v| v / sp).collect();
    let q: Vec<f64> = q.iter().map(|v| v / sq).collect();
    let kl = |a: &[f64], b: &[f64]| -> f64 {
        a.iter().zip(b).filter(|(a, _)| **a > 0.0).map(|(a, b)| a * (a / b).ln()).sum()
    };
    let mut curve = vec![(1.0, 0.0)];
    for i in 0..POINTS {
        let w = 1e-6 + (1.0 - 2e-6) * i as f64 / (POINTS - 1) as f64;
        let r: Vec<f64> = p.iter().zip(&q).map(|(p, q)| w * p + (1.0 - w) * q).collect();
        curve.push(((-SCALE * kl(&q, &r)).exp(), (-SCALE * kl(&p, &r)).exp()));
    }
    curve.push((0.0, 1.0));
    let steps = curve.windows(2).map(|w| (w[0].0 - w[1].0) * (w[0].1 + w[1].1) / 2.0);
    Ok(steps.sum::<f64>().abs())
}

/// MAUVE of features `p` `[N, d]` and `q` `[M, d]`, with `clusters` (a tenth of the smaller set if nothing is said).
///
/// # Errors
/// Where widths differ or sets are too small.
pub fn mauve(p: &Tensor, q: &Tensor, clusters: Option<usize>, seed: u64) -> Result<Mauve> {
    let _no_grad = tch::no_grad_guard();
    let ((n, d), (m, e)) = (p.size2()?, q.size2()?);
    if d != e || n < 2 || m < 2 {
        return Err(Error::data("two sets of features of one width are needed")
            .why(format!("they are {n} x {d} and {m} x {e}")));
    }
    let k = clusters.unwrap_or_else(|| ((n.min(m) as f64 / 10.0).round() as usize).max(2));
    let all = Tensor::f_cat(&[p, q], 0)?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
    let norm = all.f_norm_scalaropt_dim(2.0, -1i64, true)?.f_clamp_min(1e-12)?;
    let (reduced, components) = principal(&all.f_div(&norm)?)?;
    let labels = kmeans(&reduced, k, (RUNS, ROUNDS), seed)?.labels;
    let histogram = |from: i64, count: i64| -> Result<Vec<f64>> {
        let counts = labels.f_narrow(0, from, count)?.f_bincount(None::<Tensor>, k as i64)?;
        Ok(Vec::<f64>::try_from(counts.f_to_kind(Kind::Double)?)?)
    };
    Ok(Mauve { mauve: area(&histogram(0, n)?, &histogram(n, m)?)?, clusters: k, components })
}

/// The leading principal components of `x` `[N, d]` that hold [`VARIANCE`], and their number.
fn principal(x: &Tensor) -> Result<(Tensor, i64)> {
    let centred = x.f_sub(&x.f_mean_dim(0i64, true, Kind::Double)?)?;
    let cov = centred.f_tr()?.f_matmul(&centred)?;
    let (values, vectors) = cov.f_linalg_eigh("L")?;
    let values = values.f_flip([0])?.f_clamp_min(0.0)?;
    let total = values.f_sum(Kind::Double)?.f_double_value(&[])?;
    let sums = Vec::<f64>::try_from(values.f_cumsum(0, Kind::Double)?)?;
    let keep = sums.iter().take_while(|s| **s < VARIANCE * total).count() as i64 + 1;
    let keep = keep.min(sums.len() as i64);
    Ok((centred.f_matmul(&vectors.f_flip([1])?.f_narrow(1, 0, keep)?)?, keep))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::shim::Generator;

    #[test]
    fn areas_of_known_histograms() {
        for (p, q, want) in [
            ([0.7, 0.3], [0.5, 0.5], 0.974_927),
            ([0.9, 0.1], [0.1, 0.9], 0.082_602),
            ([0.5, 0.5], [0.5, 0.5], 1.0),
            ([1.0, 0.0], [0.0, 1.0], 0.004_072),
        ] {
            let got = area(&p, &q).unwrap();
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        assert!(area(&[1.0], &[0.5, 0.5]).is_err() && area(&[0.0], &[1.0]).is_err());
    }

    #[test]
    fn equal_sets_are_near_and_others_far() {
        let mut random = Generator::new(5).unwrap();
        let mut set = |shift: f64| {
            let x = random.normal(&[300, 8], Kind::Double).unwrap();
            let corner = Tensor::from_slice(&[shift, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
            x + corner
        };
        let (a, b, c) = (set(0.0), set(0.0), set(3.0));
        let near = mauve(&a, &b, None, 0).unwrap();
        let far = mauve(&a, &c, None, 0).unwrap();
        assert_eq!(near.clusters, 30);
        assert!(near.mauve > 0.9 && far.mauve < 0.3, "{near:?} {far:?}");
        assert_eq!(mauve(&a, &a, None, 0).unwrap().mauve, 1.0);
    }
}

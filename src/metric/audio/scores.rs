//! Scores of class probabilities `[N, K]`, in f64 and natural logarithms. Probabilities are clipped at 1e-12 before
//! logarithms: one-hot outputs would make divergences infinite.
//!
//! | name | formula | source |
//! |---|---|---|
//! | IS | `exp(mean_i KL(p_i, mean p))` | Salimans et al. 2016 |
//! | IS, reference | see [`is_reference`] | state-spaces/s4, `metrics.py`: all published figures of SC09 |
//! | mIS | `exp(mean KL(p_i, p_j))` over pairs | Gurumurthy et al. 2017 |
//! | AM | `KL(mean p_data, mean p) + mean_i H(p_i)` | Zhou et al. 2018 |

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::io::bytes::tensor_to_f64;
use crate::math::rng::SplitMix64;
use crate::metric::numpy_rng::RandomState;

const FLOOR: f64 = 1e-12;

/// Rows of probabilities on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Probabilities {
    rows: Vec<f64>,
    classes: usize,
}

#[allow(clippy::cast_precision_loss)]
impl Probabilities {
    /// Of class logits `[N, K]`.
    ///
    /// # Errors
    /// Where there are no rows, or a value is not finite.
    pub fn of_logits(logits: &Tensor) -> Result<Self> {
        Self::of(&logits.f_to_device(Device::Cpu)?.f_softmax(1, Kind::Double)?)
    }

    /// Of probabilities `[N, K]`.
    ///
    /// # Errors
    /// As [`Probabilities::of_logits`].
    pub fn of(p: &Tensor) -> Result<Self> {
        let (n, k) = p.size2()?;
        if n < 1 || k < 2 {
            return Err(Error::data(format!("class probabilities of shape {:?}", p.size()))
                .why("at least one row and two classes are needed"));
        }
        let rows = tensor_to_f64(p)?;
        if !rows.iter().all(|v| v.is_finite()) {
            return Err(Error::run("class probabilities are not finite")
                .hint("the sounds or the classifier's weights are damaged"));
        }
        Ok(Probabilities { rows, classes: usize::try_from(k).unwrap_or(2) })
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len() / self.classes
    }

    /// Whether there are none (never, once made).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.rows[i * self.classes..(i + 1) * self.classes]
    }

    fn mean(&self) -> Vec<f64> {
        let n = self.len() as f64;
        (0..self.classes).map(|y| (0..self.len()).map(|i| self.row(i)[y]).sum::<f64>() / n).collect()
    }

    /// The rows `index`, in that order.
    #[must_use]
    pub fn take(&self, index: &[usize]) -> Self {
        let rows = index.iter().flat_map(|&i| self.row(i).iter().copied()).collect();
        Probabilities { rows, classes: self.classes }
    }
}

/// `sum_y p_y ln(p_y / q_y)`.
fn kl(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p.max(FLOOR) * (p.max(FLOOR).ln() - q.max(FLOOR).ln())).sum()
}

/// The Inception Score of all rows, in one split.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn is_standard(p: &Probabilities) -> f64 {
    let mean = p.mean();
    ((0..p.len()).map(|i| kl(p.row(i), &mean)).sum::<f64>() / p.len() as f64).exp()
}

/// What the published script computes as Inception Score from the rows it uses: its entropy is taken over samples and
/// not over classes. With `c_iy = p_iy / sum_j p_jy` over n rows, `exp(mean_y sum_i c_iy ln(n c_iy))`, each class
/// weighted alike. For balanced classes it is close to the standard score; skewed classes are rewarded.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn is_reference(p: &Probabilities) -> f64 {
    let n = p.len();
    let class = |y: usize| -> f64 {
        let mass: f64 = (0..n).map(|i| p.row(i)[y]).sum();
        (0..n)
            .map(|i| p.row(i)[y] / mass.max(FLOOR))
            .filter(|c| *c > 0.0)
            .map(|c| c * (n as f64 * c).ln())
            .sum()
    };
    ((0..p.classes).map(class).sum::<f64>() / p.classes as f64).exp()
}

/// [`is_reference`] of the rows that the published script uses: the first half of `RandomState(0).permutation(n)`.
///
/// # Errors
/// Where there are fewer than two rows.
pub fn is_published(p: &Probabilities) -> Result<f64> {
    let half = p.len() / 2;
    if half == 0 {
        return Err(Error::data("1 sound").why("the score of a half needs at least 2"));
    }
    let order = RandomState::new(0).permutation(p.len());
    Ok(is_reference(&p.take(&order[..half])))
}

/// The modified Inception Score over all ordered pairs, each row with itself among them.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn mis_all_pairs(p: &Probabilities) -> f64 {
    // The mean over j needs only the mean of the logarithms.
    let n = p.len() as f64;
    let logs: Vec<f64> =
        (0..p.classes).map(|y| (0..p.len()).map(|i| p.row(i)[y].max(FLOOR).ln()).sum::<f64>() / n).collect();
    let one = |row: &[f64]| -> f64 {
        row.iter().zip(&logs).map(|(p, log)| p.max(FLOOR) * (p.max(FLOOR).ln() - log)).sum()
    };
    ((0..p.len()).map(|i| one(p.row(i))).sum::<f64>() / n).exp()
}

/// The modified Inception Score over `pairs` random pairs, with replacement; the reference takes 10,000.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn mis(p: &Probabilities, pairs: usize, seed: u64) -> f64 {
    let mut random = SplitMix64::new(seed);
    let mut draw = || usize::try_from(random.below(p.len() as u64)).unwrap_or(0);
    let total: f64 = (0..pairs)
        .map(|_| {
            let (i, j) = (draw(), draw());
            kl(p.row(i), p.row(j))
        })
        .sum();
    (total / pairs.max(1) as f64).exp()
}

/// The AM score of `p` against the classes of the data (lower is better).
///
/// # Errors
/// Where the numbers of classes differ.
pub fn am(p: &Probabilities, data: &Probabilities) -> Result<f64> {
    if p.classes != data.classes {
        return Err(Error::data(format!("{} and {} classes", p.classes, data.classes))
            .why("the score compares them class by class"));
    }
    Ok(am_against(p, &data.mean()))
}

#[allow(clippy::cast_precision_loss)]
fn am_against(p: &Probabilities, data: &[f64]) -> f64 {
    let entropy = |row: &[f64]| -> f64 { row.iter().map(|v| -v.max(FLOOR) * v.max(FLOOR).ln()).sum() };
    let mean_entropy = (0..p.len()).map(|i| entropy(p.row(i))).sum::<f64>() / p.len() as f64;
    kl(data, &p.mean()) + mean_entropy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[f64], classes: i64) -> Probabilities {
        Probabilities::of(&Tensor::from_slice(values).reshape([-1, classes])).unwrap()
    }

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() < 6e-7, "{got} {want}");
    }

    #[test]
    fn the_published_vector() {
        let p = rows(&[0.7, 0.2, 0.1, 0.6, 0.3, 0.1, 0.1, 0.8, 0.1, 0.2, 0.2, 0.6], 3);
        near(is_standard(&p), 1.281_054);
        near(is_reference(&p), 1.305_175);
        near(mis_all_pairs(&p), 1.662_866);
        near(am(&p, &p).unwrap(), 0.822_267);
        near(am_against(&p, &[1.0 / 3.0; 3]), 0.853_246);
        // Random pairs approach all pairs.
        assert!((mis(&p, 200_000, 3) / mis_all_pairs(&p) - 1.0).abs() < 0.01);
        assert_eq!(mis(&p, 100, 3), mis(&p, 100, 3));
    }

    /// Each row has 0.91 on its class and 0.01 elsewhere; `counts` rows of each class.
    fn peaked(counts: &[usize]) -> Probabilities {
        let values: Vec<f64> = counts
            .iter()
            .enumerate()
            .flat_map(|(y, &n)| {
                (0..n).flat_map(move |_| (0..10).map(move |k| if k == y { 0.91 } else { 0.01 }))
            })
            .collect();
        rows(&values, 10)
    }

    #[test]
    fn closed_forms() {
        let p = peaked(&[2; 10]);
        near(is_standard(&p), 6.063_560);
        near(am(&p, &p).unwrap(), 0.500_288);
        assert!((mis_all_pairs(&p) - 38.6210).abs() < 6e-5, "{}", mis_all_pairs(&p));
        // The two scores of balanced classes, and of shares .3, .2, .1, .1 and six times .05.
        assert!((is_reference(&peaked(&[20; 10])) - 6.0636).abs() < 1e-3);
        let skewed = peaked(&[60, 40, 20, 20, 10, 10, 10, 10, 10, 10]);
        assert!((is_standard(&skewed) - 4.900_502).abs() < 1e-6, "{}", is_standard(&skewed));
        assert!((is_reference(&skewed) - 6.177_258).abs() < 1e-6, "{}", is_reference(&skewed));
        let uniform = rows(&[0.1; 40], 10);
        near(is_standard(&uniform), 1.0);
        near(mis_all_pairs(&uniform), 1.0);
        near(am(&uniform, &uniform).unwrap(), 10f64.ln());
    }

    #[test]
    fn certain_answers_stay_finite() {
        let p = rows(&[1.0, 0.0, 0.0, 1.0], 2);
        assert!(mis_all_pairs(&p).is_finite() && is_reference(&p).is_finite());
        near(is_standard(&p), 2.0);
        near(is_reference(&p), 2.0);
        assert!(Probabilities::of(&Tensor::from_slice(&[f64::NAN, 1.0]).reshape([1, 2])).is_err());
        assert!(am(&p, &rows(&[0.5, 0.25, 0.25], 3)).is_err());
        let logits = Tensor::from_slice(&[0f32, 1.0]).reshape([1, 2]);
        near(Probabilities::of_logits(&logits).unwrap().row(0)[1], 1.0 / (1.0 + (-1f64).exp()));
    }

    #[test]
    fn the_published_half_is_numpys() {
        let values: Vec<f64> =
            (0..10).flat_map(|i| [0.05 + 0.09 * f64::from(i), 0.95 - 0.09 * f64::from(i)]).collect();
        let p = rows(&values, 2);
        let half = p.take(&[2, 8, 4, 9, 1]);
        assert_eq!(is_published(&p).unwrap(), is_reference(&half));
    }
}

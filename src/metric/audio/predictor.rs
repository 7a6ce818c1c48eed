//! Linear predictors in bits per sample: what any model of a waveform must beat.
//!
//! A predictor of order N says that the value of sample t is normal with mean `b + sum_k a_k v_(t-k)`, k = 1..N, and one
//! variance for all clips and times; the values before a clip are 0. The weights are those of least squares over all
//! samples of the clips for training, the variance is that of what is left. The code of a sample has the probability
//! of its interval of the quantiser, the first and last interval reaching to infinity, so that the probabilities of all
//! codes sum to 1 exactly; bits are `-log2` of it, averaged over the samples of held-out clips (padding left out).
//!
//! Values may be taken in two domains: as amplitudes with the quantiser's own intervals, or as codes, equally spaced
//! in [-1, 1]. For linear quantisers both are the same but for the middle of the intervals; for mu-law codes the second fits
//! quiet passages better. A fair comparison takes the lower figure of the two.

use serde::Serialize;
use tch::{Kind, Tensor};

use crate::data::quantize::Quantizer;
use crate::error::{Error, Result};
use crate::io::bytes::tensor_to_f64;
use crate::math::solve;

/// What the predictor's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Domain {
    /// Codes as they are, in [-1, 1].
    Codes,
    /// Amplitudes.
    Amplitude,
}

/// Sums from which the weights are found.
#[derive(Debug)]
pub struct Fit {
    quantizer: Quantizer,
    domain: Domain,
    order: usize,
    gram: Option<Tensor>,
}

/// A fitted predictor.
#[derive(Debug)]
pub struct Predictor {
    quantizer: Quantizer,
    domain: Domain,
    order: usize,
    /// Weights of the values 1, 2, ... before, then the constant.
    weights: Vec<f64>,
    sigma: f64,
}

/// Bits of some clips.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bits {
    /// Sum over samples.
    pub total: f64,
    /// Number of samples.
    pub samples: f64,
}

impl Bits {
    /// Bits per sample.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.total / self.samples.max(1.0)
    }
}

/// Values of codes i64 `[B, T]` in the domain, f64.
#[allow(clippy::cast_precision_loss)]
fn values(codes: &Tensor, quantizer: &Quantizer, domain: Domain) -> Result<Tensor> {
    match domain {
        Domain::Amplitude => quantizer.decode_f64(codes),
        Domain::Codes => {
            let half = quantizer.zero() as f64;
            Ok(codes.f_to_kind(Kind::Double)?.f_add_scalar(0.5)?.f_div_scalar_(half)?.f_sub_scalar_(1.0)?)
        }
    }
}

/// The ends of the intervals of codes in the domain, with infinities at both ends: `[levels + 1]`.
#[allow(clippy::cast_precision_loss)]
fn edges(quantizer: &Quantizer, domain: Domain) -> Vec<f64> {
    let inner = match domain {
        Domain::Amplitude => quantizer.edges(),
        Domain::Codes => {
            let half = quantizer.zero() as f64;
            (1..quantizer.levels()).map(|k| k as f64 / half - 1.0).collect()
        }
    };
    [vec![f64::NEG_INFINITY], inner, vec![f64::INFINITY]].concat()
}

/// The `order` values before each valid sample, the last first, a one, and the value: `[n, order + 2]`; and the codes
/// `[n]`. Samples before `skip` are left out.
#[allow(clippy::cast_possible_wrap)]
fn design(
    codes: &Tensor,
    frames: Option<&Tensor>,
    quantizer: &Quantizer,
    domain: Domain,
    order: usize,
    skip: usize,
) -> Result<(Tensor, Tensor)> {
    let (_, length) = codes.size2()?;
    let v = values(codes, quantizer, domain)?;
    let n = order as i64;
    // Windows of order + 1 values end at each sample.
    let windows = v.f_constant_pad_nd([n, 0])?.f_unfold(1, n + 1, 1)?.f_flip([2])?;
    let at = Tensor::f_arange(length, (Kind::Int64, codes.device()))?.f_unsqueeze(0)?;
    let mut valid = at.f_ge(skip as i64)?.f_expand_as(codes)?;
    if let Some(frames) = frames {
        valid =
            valid.f_logical_and(&at.f_lt_tensor(&frames.f_to_device(codes.device())?.f_unsqueeze(1)?)?)?;
    }
    let rows = windows.f_index(&[Some(&valid)])?;
    let (value, before) = (rows.f_narrow(1, 0, 1)?, rows.f_narrow(1, 1, n)?);
    let ones = value.f_ones_like()?;
    Ok((Tensor::f_cat(&[before, ones, value], 1)?, codes.f_index(&[Some(&valid)])?))
}

impl Fit {
    /// A predictor of `order` for the codes of `quantizer`.
    ///
    /// # Errors
    /// Where the order is 0 or above 1024, or the quantiser is not defined.
    pub fn new(quantizer: Quantizer, domain: Domain, order: usize) -> Result<Self> {
        quantizer.check()?;
        if !(1..=1024).contains(&order) {
            return Err(
                Error::usage(format!("linear predictor of order {order}")).why("1 to 1024 are possible")
            );
        }
        Ok(Fit { quantizer, domain, order, gram: None })
    }

    /// Adds clips: codes i64 `[B, T]`, of which the first `frames` `[B]` count.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn add(&mut self, codes: &Tensor, frames: Option<&Tensor>) -> Result<()> {
        let (rows, _) = design(codes, frames, &self.quantizer, self.domain, self.order, 0)?;
        let gram = rows.f_transpose(0, 1)?.f_matmul(&rows)?;
        self.gram = Some(match self.gram.take() {
            Some(sum) => sum.f_add(&gram)?,
            None => gram,
        });
        Ok(())
    }

    /// The predictor.
    ///
    /// # Errors
    /// Where there were no samples.
    pub fn finish(self) -> Result<Predictor> {
        let side = self.order + 2;
        let gram = match &self.gram {
            Some(gram) => tensor_to_f64(gram)?,
            None => Vec::new(),
        };
        let at = |i: usize, j: usize| gram.get(i * side + j).copied().unwrap_or(0.0);
        let (count, last) = (at(self.order, self.order), side - 1);
        if count < 1.0 {
            return Err(Error::data("no samples").why("a predictor is fitted to sound"));
        }
        // Silence leaves the system singular; a millionth of a millionth of the power changes nothing else.
        let ridge = 1e-12 * (0..self.order).map(|i| at(i, i)).sum::<f64>().max(1e-12 * count);
        let a: Vec<Vec<f64>> = (0..last)
            .map(|i| {
                (0..last).map(|j| at(i, j) + if i == j && i < self.order { ridge } else { 0.0 }).collect()
            })
            .collect();
        let b: Vec<f64> = (0..last).map(|i| at(i, last)).collect();
        let weights =
            solve(&a, &b).ok_or_else(|| Error::run("linear predictor").why("its system is singular"))?;
        // |v - X w|^2 = v'v - 2 w'X'v + w'X'X w.
        let quadratic: f64 =
            (0..last).map(|i| weights[i] * (0..last).map(|j| at(i, j) * weights[j]).sum::<f64>()).sum();
        let cross: f64 = weights.iter().zip(&b).map(|(w, b)| w * b).sum();
        let variance = (at(last, last) - 2.0 * cross + quadratic).max(0.0) / count;
        // Not below a hundredth of the smallest interval, so that what is never met in training stays possible.
        let ends = edges(&self.quantizer, self.domain);
        let finest = ends.windows(2).map(|w| w[1] - w[0]).fold(f64::INFINITY, f64::min);
        let finest = if finest.is_finite() { finest } else { 1.0 };
        Ok(Predictor {
            quantizer: self.quantizer,
            domain: self.domain,
            order: self.order,
            weights,
            sigma: variance.sqrt().max(0.01 * finest),
        })
    }
}

impl Predictor {
    /// Standard deviation of what is not predicted, in the units of the domain.
    #[must_use]
    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    /// Bits of the codes i64 `[B, T]`, of which the first `frames` `[B]` count and the first `skip` do not.
    ///
    /// # Errors
    /// Where a code is not one of the quantiser's, or libtorch fails.
    pub fn bits(&self, codes: &Tensor, frames: Option<&Tensor>, skip: usize) -> Result<Bits> {
        let (rows, codes) = design(codes, frames, &self.quantizer, self.domain, self.order, skip)?;
        let n = codes.numel();
        if n == 0 {
            return Ok(Bits::default());
        }
        let device = codes.device();
        let weights = Tensor::f_from_slice(&self.weights)?.f_to_device(device)?;
        let mean = rows.f_narrow(1, 0, self.weights.len() as i64)?.f_mv(&weights)?;
        let ends = Tensor::f_from_slice(&edges(&self.quantizer, self.domain))?.f_to_device(device)?;
        let z = |codes: &Tensor| -> Result<Tensor> {
            Ok(ends.f_index_select(0, codes)?.f_sub(&mean)?.f_div_scalar(self.sigma)?)
        };
        let (low, high) = (z(&codes)?, z(&codes.f_add_scalar(1)?)?);
        // In the upper tail the mirrored interval keeps its digits.
        let flip = low.f_add(&high)?.f_gt(0.0)?;
        let (a, b) = (high.f_neg()?.f_where_self(&flip, &low)?, low.f_neg()?.f_where_self(&flip, &high)?);
        let (a, b) = (a.f_special_log_ndtr()?, b.f_special_log_ndtr()?);
        let log_p = a.f_sub(&b)?.f_clamp_max(-1e-300)?.f_expm1()?.f_neg()?.f_log()?.f_add(&b)?;
        let total = -log_p.f_sum(Kind::Double)?.f_double_value(&[])? / std::f64::consts::LN_2;
        if !total.is_finite() {
            return Err(Error::run("linear predictor").why("a sample has no finite number of bits"));
        }
        #[allow(clippy::cast_precision_loss)]
        Ok(Bits { total, samples: n as f64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::quantize::{QuantKind, QuantScale};
    use crate::math::rng::SplitMix64;

    fn linear(bits: u32) -> Quantizer {
        Quantizer { kind: QuantKind::Linear, bits, scale: QuantScale::None, ..Quantizer::default() }
    }

    /// Two harmonics in noise, 6 bits: the tone task.
    fn tones(clips: i64, seed: u64) -> Tensor {
        let mut random = SplitMix64::new(seed);
        let step = 2.0 / 64.0;
        let mut x = Vec::new();
        for _ in 0..clips {
            let f = (1.0 / 80.0) * 4f64.powf(random.uniform());
            let (p, q) = (random.uniform(), random.uniform());
            x.extend((0..1024).map(|t| {
                let wave = |k: f64, p: f64| (std::f64::consts::TAU * (k * f * f64::from(t) + p)).sin();
                0.4 * wave(1.0, p) + 0.2 * wave(2.0, q) + 1.5 * step * random.normal()
            }));
        }
        linear(6).encode(&Tensor::from_slice(&x).reshape([clips, 1024])).unwrap()
    }

    fn bits(
        train: &[Tensor],
        test: &[Tensor],
        q: Quantizer,
        domain: Domain,
        order: usize,
        skip: usize,
    ) -> f64 {
        let mut fit = Fit::new(q, domain, order).unwrap();
        train.iter().for_each(|clips| fit.add(clips, None).unwrap());
        let fitted = fit.finish().unwrap();
        let all = test.iter().map(|clips| fitted.bits(clips, None, skip).unwrap());
        let all = all
            .fold(Bits::default(), |a, b| Bits { total: a.total + b.total, samples: a.samples + b.samples });
        all.mean()
    }

    #[test]
    fn predictors_of_the_tone_task() {
        // Clips differ in how predictable they are: many are needed for the third digit.
        let set = |seed: u64| -> Vec<Tensor> { (0..24).map(|i| tones(50, seed + i)).collect() };
        let (train, test) = (set(100), set(200));
        // Means of an independent computation on 2000 clips; one of 96 clips has errors of 0.03, 0.02 and 0.01.
        for (order, want, error) in [(1, 3.694, 0.04), (8, 3.426, 0.025), (32, 3.353, 0.015)] {
            for domain in [Domain::Codes, Domain::Amplitude] {
                let got = bits(&train, &test, linear(6), domain, order, 200);
                assert!((got - want).abs() < error, "order {order} {domain:?}: {got}");
            }
        }
    }

    #[test]
    fn white_noise_costs_its_entropy() {
        let mut random = SplitMix64::new(5);
        let mut noise = |n: i64| {
            let x: Vec<f64> = (0..n * 1000).map(|_| 0.2 * random.normal()).collect();
            Tensor::from_slice(&x).reshape([n, 1000])
        };
        let (train, test) = (noise(100), noise(50));
        let q = linear(8);
        let got = bits(&[q.encode(&train).unwrap()], &[q.encode(&test).unwrap()], q, Domain::Amplitude, 4, 0);
        // ln(sigma sqrt(2 pi e)) less the width of an interval.
        let want = (0.2 * (2.0 * std::f64::consts::PI * std::f64::consts::E).sqrt() / (2.0 / 255.99)).log2();
        assert!((got - want).abs() < 0.01, "{got} {want}");
    }

    #[test]
    fn probabilities_sum_to_one_and_padding_does_not_count() {
        for (q, domain) in [
            (linear(4), Domain::Codes),
            (Quantizer { bits: 4, ..Quantizer::default() }, Domain::Amplitude),
            (Quantizer { bits: 4, ..Quantizer::default() }, Domain::Codes),
        ] {
            let train = Tensor::from_slice(&[3i64, 9, 4, 8, 5, 12, 7, 8]).unsqueeze(0);
            let mut fit = Fit::new(q, domain, 2).unwrap();
            fit.add(&train, None).unwrap();
            let p = fit.finish().unwrap();
            let sum: f64 = (0..16)
                .map(|code| {
                    let clip = Tensor::from_slice(&[3i64, 11, code]).unsqueeze(0);
                    (-p.bits(&clip, None, 2).unwrap().total).exp2()
                })
                .sum();
            assert!((sum - 1.0).abs() < 1e-9, "{domain:?}: {sum}");
            let padded = Tensor::from_slice(&[3i64, 11, 15, 0, 0]).unsqueeze(0);
            let frames = Tensor::from_slice(&[3i64]);
            let got = p.bits(&padded, Some(&frames), 0).unwrap();
            assert_eq!((got, got.samples), (p.bits(&padded.narrow(1, 0, 3), None, 0).unwrap(), 3.0));
            // A sample far from the prediction costs many bits, not infinitely many.
            assert!(
                p.bits(&Tensor::from_slice(&[0i64; 40]).unsqueeze(0), None, 0).unwrap().total.is_finite()
            );
        }
    }

    #[test]
    fn silence_and_wrong_orders() {
        let q = Quantizer::default();
        let silence = [Tensor::full([2, 100], 128i64, (Kind::Int64, tch::Device::Cpu))];
        let got = bits(&silence, &silence, q, Domain::Codes, 8, 0);
        assert!(got < 0.01, "{got}");
        assert!(Fit::new(q, Domain::Codes, 0).is_err() && Fit::new(q, Domain::Codes, 2000).is_err());
        assert!(Fit::new(q, Domain::Codes, 8).unwrap().finish().is_err());
    }
}

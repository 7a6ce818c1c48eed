//! Thresholding of the predicted clean data.
//!
//! Static: clamped to `[-max, max]`. Dynamic (Saharia et al. 2022, "Imagen", section 2.3): per sample,
//! s is the given quantile of `|x_0|`, at least `max`; then `x_0` is clamped to `[-s, s]` and divided
//! by `s/max`, so that it lies in `[-max, max]`.

use tch::{Kind, Tensor};

use super::{Denoiser, DenoiserExt, Prediction};
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::process::{At, Process};

/// How predicted clean data is thresholded.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdSpec {
    /// Quantile of the dynamic rule; none for a plain clamp.
    #[serde(default)]
    pub quantile: Option<f64>,
    /// Largest magnitude of clean data.
    #[serde(default = "one")]
    pub max: f64,
    /// Largest s of the dynamic rule: what exceeds it is cut off. None for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl Default for ThresholdSpec {
    /// The dynamic rule with the 0.995 quantile and data in [-1, 1].
    fn default() -> Self {
        ThresholdSpec { quantile: Some(0.995), max: 1.0, ceiling: None }
    }
}

impl ThresholdSpec {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Where the quantile is outside (0, 1] or the maximum is not positive.
    pub fn validate(&self) -> Result<()> {
        if let Some(q) = self.quantile
            && !(q > 0.0 && q <= 1.0)
        {
            return Err(Error::usage("bad threshold")
                .at("threshold.quantile")
                .why(format!("{q} is not in (0, 1]")));
        }
        if let Some(ceiling) = self.ceiling
            && !(ceiling >= self.max && ceiling.is_finite())
        {
            return Err(Error::usage("bad threshold")
                .at("threshold.ceiling")
                .why(format!("{ceiling} is below the largest magnitude of clean data, {}", self.max)));
        }
        if self.max > 0.0 && self.max.is_finite() {
            return Ok(());
        }
        Err(Error::usage("bad threshold").at("threshold.max").why(format!("{} is not positive", self.max)))
    }
}

/// `x0` `[B, ...]` thresholded, each sample by itself.
///
/// # Errors
/// Where libtorch fails.
pub fn threshold(x0: &Tensor, spec: ThresholdSpec) -> Result<Tensor> {
    let Some(q) = spec.quantile else {
        return Ok(x0.f_clamp(-spec.max, spec.max)?);
    };
    let batch = x0.size().first().copied().unwrap_or(0);
    let flat = x0.f_reshape([batch, -1])?;
    let kind = if flat.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let rank = flat.f_abs()?.f_to_kind(kind)?.f_sort(1, false)?.0;
    // The quantile by linear interpolation between the two nearest ranks. `quantile` of libtorch
    // refuses more than 16 million values.
    let n = rank.size()[1];
    let place = q * (n - 1) as f64;
    let below = place.floor();
    let (low, high) = (below as i64, (below as i64 + 1).min(n - 1));
    let low = rank.f_narrow(1, low, 1)?;
    let mut s = low.f_lerp(&rank.f_narrow(1, high, 1)?, place - below)?.f_clamp_min(spec.max)?;
    if let Some(ceiling) = spec.ceiling {
        s = s.f_clamp_max(ceiling)?;
    }
    let clamped = flat.f_to_kind(kind)?.f_clamp_tensor(Some(&s.f_neg()?), Some(&s))?;
    let out = clamped.f_div(&s)?.f_multiply_scalar(spec.max)?;
    Ok(out.f_reshape(x0.size())?.f_to_kind(x0.kind())?)
}

/// A model whose predicted clean data is thresholded; it predicts x_0.
pub struct Threshold<'a> {
    inner: &'a dyn Denoiser,
    spec: ThresholdSpec,
}

impl<'a> Threshold<'a> {
    /// Thresholds the predictions of `inner`.
    pub fn new(inner: &'a dyn Denoiser, spec: ThresholdSpec) -> Self {
        Threshold { inner, spec }
    }
}

impl std::fmt::Debug for Threshold<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threshold").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Denoiser for Threshold<'_> {
    fn prediction(&self) -> Prediction {
        Prediction::X0
    }

    fn process(&self) -> &dyn Process {
        self.inner.process()
    }

    fn predict(&self, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor> {
        threshold(&self.inner.x0(x, at, cond)?, self.spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dynamic_threshold_is_per_sample() {
        // 201 values 0 ... 4 in steps of 0.02: the 0.995 quantile is 3.98.
        let rising: Vec<f64> = (0..=200).map(|i| f64::from(i) * 0.02).collect();
        let small: Vec<f64> = rising.iter().map(|v| v / 8.0).collect();
        let x = Tensor::from_slice(&[rising, small].concat()).reshape([2, 201]);
        let out = threshold(&x, ThresholdSpec::default()).unwrap();
        assert!((out.double_value(&[0, 100]) - 2.0 / 3.98).abs() < 1e-12);
        assert_eq!(out.double_value(&[0, 200]), 1.0);
        // A sample within the range stays as it is.
        assert!(out.narrow(0, 1, 1).equal(&x.narrow(0, 1, 1)));
        let two = threshold(&x, ThresholdSpec { max: 2.0, ..ThresholdSpec::default() }).unwrap();
        assert!((two.double_value(&[0, 100]) - 4.0 / 3.98).abs() < 1e-12);
        let capped = threshold(&x, ThresholdSpec { ceiling: Some(3.2), ..ThresholdSpec::default() }).unwrap();
        assert!((capped.double_value(&[0, 100]) - 2.0 / 3.2).abs() < 1e-12);
        assert!(ThresholdSpec { ceiling: Some(0.5), ..ThresholdSpec::default() }.validate().is_err());
    }

    #[test]
    fn the_quantile_is_that_of_libtorch() {
        let mut stream = crate::torch::shim::Generator::new(3).unwrap();
        let x = stream.normal(&[3, 5, 7], Kind::Double).unwrap() * 3.0;
        let s = x
            .reshape([3, -1])
            .abs()
            .quantile(&Tensor::from_slice(&[0.9]), 1, true, "linear")
            .reshape([3, 1, 1])
            .clamp_min(1.0);
        let want = x.clamp_tensor(Some(&-&s), Some(&s)) / s;
        let got = threshold(&x, ThresholdSpec { quantile: Some(0.9), ..ThresholdSpec::default() }).unwrap();
        assert!((got - want).abs().max().double_value(&[]) < 1e-14);
    }

    #[test]
    fn the_static_threshold_clamps() {
        let x = Tensor::from_slice(&[-3.0, 0.5, 2.0]).reshape([1, 3]);
        let out = threshold(&x, ThresholdSpec { quantile: None, ..ThresholdSpec::default() }).unwrap();
        assert_eq!(Vec::<f64>::try_from(&out.flatten(0, -1)).unwrap(), [-1.0, 0.5, 1.0]);
        assert!(ThresholdSpec { quantile: Some(1.5), ..ThresholdSpec::default() }.validate().is_err());
        assert!(ThresholdSpec { quantile: None, max: 0.0, ceiling: None }.validate().is_err());
    }
}

//! Embeddings of time and of classes.

use std::f64::consts::TAU;

use tch::{Kind, Tensor};

use super::init::Init;
use crate::error::{Error, Result};
use crate::net::store::Path;

/// Sines and cosines of `t` at geometrically spaced frequencies (Vaswani et al. 2017; Ho et al. 2020):
/// frequency `k` of `n = dim/2` is `10000^(-k/(n - shift))`.
#[derive(Debug)]
pub struct Sinusoid {
    freqs: Tensor,
    cos_first: bool,
}

impl Sinusoid {
    /// `dim` values per time: `[sin, cos]`, or `[cos, sin]` with `cos_first`. `shift` is 1 where the last
    /// frequency is to be exactly 1/10000 (DDPM, score_sde, EDM).
    ///
    /// # Errors
    /// Where `dim` is odd or too small, or libtorch fails.
    #[allow(clippy::cast_precision_loss)]
    pub fn new(p: &Path, dim: i64, shift: f64, cos_first: bool) -> Result<Self> {
        let half = dim / 2;
        if dim % 2 == 1 || half as f64 - shift <= 0.0 {
            return Err(Error::model(format!("an embedding of time cannot have {dim} values")));
        }
        let ln = 10_000f64.ln();
        let freqs: Vec<f64> = (0..half).map(|k| (-ln * k as f64 / (half as f64 - shift)).exp()).collect();
        let store = p.store();
        let freqs = Tensor::f_from_slice(&freqs)?.f_to_kind(store.kind())?.f_to_device(store.device())?;
        Ok(Sinusoid { freqs, cos_first })
    }

    /// `t` `[B]` to `[B, dim]`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn forward(&self, t: &Tensor) -> Result<Tensor> {
        let phase = outer(t, &self.freqs)?;
        let (sin, cos) = (phase.f_sin()?, phase.f_cos()?);
        let order = if self.cos_first { [cos, sin] } else { [sin, cos] };
        Ok(Tensor::f_cat(&order, 1)?)
    }
}

/// Random Fourier features `[sin, cos](2 pi W t)` with fixed `W` drawn once from `N(0, scale^2)`
/// (Tancik et al. 2020; Song et al. 2021 with scale 16), stored as the buffer `freqs`.
#[derive(Debug)]
pub struct Fourier {
    freqs: Tensor,
}

impl Fourier {
    /// `dim` values per time.
    ///
    /// # Errors
    /// Where `dim` is odd, the name is taken, or libtorch fails.
    pub fn new(p: &Path, dim: i64, scale: f64) -> Result<Self> {
        if dim < 2 || dim % 2 == 1 {
            return Err(Error::model(format!("an embedding of time cannot have {dim} values")));
        }
        Ok(Fourier { freqs: p.buffer("freqs", &[dim / 2], Init::Normal(scale))? })
    }

    /// `t` `[B]` to `[B, dim]`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn forward(&self, t: &Tensor) -> Result<Tensor> {
        let phase = outer(t, &self.freqs.f_mul_scalar(TAU)?)?;
        Ok(Tensor::f_cat(&[phase.f_sin()?, phase.f_cos()?], 1)?)
    }
}

fn outer(t: &Tensor, freqs: &Tensor) -> Result<Tensor> {
    Ok(t.f_to_kind(freqs.kind())?.f_unsqueeze(1)?.f_mul(freqs)?)
}

/// One-hot rows `[B, classes]` of class indices `[B]`; a row of zeros for -1 ("no class").
///
/// # Errors
/// Where libtorch fails.
pub fn one_hot(class: &Tensor, classes: i64, kind: Kind) -> Result<Tensor> {
    let all = Tensor::f_arange(classes, (Kind::Int64, class.device()))?;
    Ok(class.f_unsqueeze(1)?.f_eq_tensor(&all)?.f_to_kind(kind)?)
}

/// The class indices a network with `classes` classes is to use, or an error a person can act on.
///
/// # Errors
/// Where classes are given to a network without, or do not have one index per sample.
pub fn checked_class(class: Option<&Tensor>, classes: i64, batch: i64) -> Result<Option<Tensor>> {
    let Some(class) = class else { return Ok(None) };
    if classes == 0 {
        return Err(Error::usage("the model is unconditional, but a class was given")
            .hint("leave the class out, or use a class-conditional model"));
    }
    if class.kind() != Kind::Int64 || class.size() != [batch] {
        return Err(Error::run("class indices").why(format!(
            "expected [{batch}] of Int64, got {:?} of {:?}",
            class.size(),
            class.kind()
        )));
    }
    Ok(Some(class.shallow_clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::store::Store;
    use tch::Device;

    fn store() -> Store {
        Store::new(Device::Cpu, Kind::Double, 0)
    }

    #[test]
    fn sinusoids_follow_the_formula() {
        let t = Tensor::from_slice(&[0.0, 37.5, 999.0]);
        for (shift, cos_first) in [(0.0, true), (1.0, false)] {
            let e = Sinusoid::new(&store().root(), 8, shift, cos_first).unwrap().forward(&t).unwrap();
            assert_eq!(e.size(), [3, 8]);
            for (i, t) in [0.0, 37.5, 999.0f64].into_iter().enumerate() {
                for k in 0..4 {
                    let phase = t * 10_000f64.powf(-(k as f64) / (4.0 - shift));
                    let (sin, cos) = if cos_first { (k + 4, k) } else { (k, k + 4) };
                    assert!((e.double_value(&[i as i64, sin]) - phase.sin()).abs() < 1e-12);
                    assert!((e.double_value(&[i as i64, cos]) - phase.cos()).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn fourier_features_use_2_pi_w() {
        let store = store();
        let f = Fourier::new(&store.root(), 6, 16.0).unwrap();
        let w = store.get("freqs").unwrap();
        let e = f.forward(&Tensor::from_slice(&[0.25])).unwrap();
        let phase = TAU * 0.25 * w.double_value(&[1]);
        assert!((e.double_value(&[0, 1]) - phase.sin()).abs() < 1e-12);
        assert!((e.double_value(&[0, 4]) - phase.cos()).abs() < 1e-12);
        assert_eq!((store.trainable().len(), store.named().len()), (0, 1));
    }

    #[test]
    fn no_class_is_a_row_of_zeros() {
        let e = one_hot(&Tensor::from_slice(&[2i64, -1]), 3, Kind::Float).unwrap();
        assert!(e.equal(&Tensor::from_slice(&[0f32, 0.0, 1.0, 0.0, 0.0, 0.0]).reshape([2, 3])));
        assert!(checked_class(Some(&Tensor::from_slice(&[1i64])), 0, 1).is_err());
        assert!(checked_class(Some(&Tensor::from_slice(&[1i64])), 3, 2).is_err());
    }
}

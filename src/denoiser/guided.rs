//! Classifier-free guidance (Ho and Salimans 2022): `out = uncond + w (cond - uncond)`.

use tch::Tensor;

use super::{Denoiser, Prediction};
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::process::{At, Coef, Process, combine};

/// The class index that stands for "no class".
const NO_CLASS: i64 = -1;

/// A conditional model guided with weight `w`: 1 is the plain conditional model, 0 the unconditional one.
pub struct Guided<'a> {
    inner: &'a dyn Denoiser,
    weight: f64,
}

impl<'a> Guided<'a> {
    /// Guides `inner` with `weight`.
    pub fn new(inner: &'a dyn Denoiser, weight: f64) -> Self {
        Guided { inner, weight }
    }
}

impl std::fmt::Debug for Guided<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guided").field("weight", &self.weight).finish_non_exhaustive()
    }
}

impl Denoiser for Guided<'_> {
    fn prediction(&self) -> Prediction {
        self.inner.prediction()
    }

    fn process(&self) -> &dyn Process {
        self.inner.process()
    }

    /// One call of 2B samples, the unconditional half first; with `w = 1` one call of B.
    fn predict(&self, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor> {
        if self.weight == 1.0 {
            return self.inner.predict(x, at, cond);
        }
        let Some(class) = &cond.class else {
            return Err(Error::usage("guidance needs a class").at("--guidance").hint("give --class"));
        };
        let none = class.f_full_like(NO_CLASS)?;
        let twice = |a: &Option<Tensor>| a.as_ref().map(|a| Tensor::f_cat(&[a, a], 0)).transpose();
        let both = Cond {
            class: Some(Tensor::f_cat(&[&none, class], 0)?),
            augment: twice(&cond.augment)?,
            mel: twice(&cond.mel)?,
        };
        let at = match at.points() {
            [one] => At::all(*one),
            each => At::each(each.iter().chain(each).copied().collect()),
        };
        let out = self.inner.predict(&Tensor::f_cat(&[x, x], 0)?, &at, &both)?;
        let half = x.size().first().copied().unwrap_or(0);
        let (without, with) = (out.f_narrow(0, 0, half)?, out.f_narrow(0, half, half)?);
        combine(&[(Coef(vec![1.0 - self.weight]), &without), (self.weight.into(), &with)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoiser::Counted;
    use crate::process::{Edm, Point};
    use tch::Kind;

    /// Predicts the class itself.
    struct Classy(Edm);

    impl Denoiser for Classy {
        fn prediction(&self) -> Prediction {
            Prediction::X0
        }
        fn process(&self) -> &dyn Process {
            &self.0
        }
        fn predict(&self, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor> {
            let class = cond.class.as_ref().unwrap().to_kind(Kind::Double).reshape([-1, 1]);
            assert_eq!(class.size()[0], x.size()[0]);
            Ok(class + x * 0.0 + &at.coef(|p| p.sigma).tensor(x)?)
        }
    }

    #[test]
    fn the_two_halves_are_blended_in_one_call() {
        let model = Classy(Edm::default());
        let counted = Counted::new(&model);
        let x = Tensor::zeros([2, 1], (Kind::Double, tch::Device::Cpu));
        let cond = Cond { class: Some(Tensor::from_slice(&[3i64, 5])), ..Cond::default() };
        let at = At::each(vec![Point::new(&Edm::default(), 0.5), Point::new(&Edm::default(), 2.0)]);
        let out = Guided::new(&counted, 2.0).predict(&x, &at, &cond).unwrap();
        // -1 + 2 (class + 1), plus the level of the sample.
        assert_eq!(out.double_value(&[0, 0]), 7.5);
        assert_eq!(out.double_value(&[1, 0]), 13.0);
        assert_eq!(counted.calls(), 1);
        let plain = Guided::new(&counted, 1.0).predict(&x, &at, &cond).unwrap();
        assert_eq!(plain.double_value(&[0, 0]), 3.5);
        assert!(Guided::new(&counted, 2.0).predict(&x, &at, &Cond::default()).is_err());
    }
}

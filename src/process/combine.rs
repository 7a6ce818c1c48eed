//! Linear combinations of tensors with f64 factors, the arithmetic of every solver.

use tch::{Kind, Tensor};

use super::Coef;
use crate::error::{Error, Result};

impl Coef {
    /// The factor itself, where all samples share one.
    fn shared(&self) -> Option<f64> {
        match self.0.as_slice() {
            [one] => Some(*one),
            _ => None,
        }
    }

    /// The factors as a tensor `[B, 1, ...]` that broadcasts over `like`, in its dtype and on its device.
    ///
    /// # Errors
    /// Where there are neither one nor B factors, or libtorch fails.
    pub fn tensor(&self, like: &Tensor) -> Result<Tensor> {
        let mut shape = vec![1; like.dim()];
        if self.0.len() != 1 {
            match (shape.first_mut(), like.size().first()) {
                (Some(first), Some(&batch)) if self.0.len() as i64 == batch => *first = batch,
                _ => {
                    return Err(Error::run(format!(
                        "{} factors for a batch {:?}",
                        self.0.len(),
                        like.size()
                    )));
                }
            }
        }
        let host = Tensor::f_from_slice(&self.0)?.f_reshape(&shape)?;
        // bf16 and f16 states get f32 factors.
        let kind = if like.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        Ok(host.f_to_device(like.device())?.f_to_kind(kind)?)
    }
}

/// `factor x`, in the dtype of `x`.
///
/// # Errors
/// Where the number of factors does not fit the batch, or libtorch fails.
pub fn scale(factor: &Coef, x: &Tensor) -> Result<Tensor> {
    match factor.shared() {
        Some(c) => Ok(x.f_multiply_scalar(c)?),
        None => Ok(x.f_mul(&factor.tensor(x)?)?.f_to_kind(x.kind())?),
    }
}

/// `sum_i c_i x_i` in the dtype of `x_0`. Terms whose factor is zero for the whole batch are left out,
/// so a tensor that must not count may hold anything.
///
/// # Errors
/// Where there is no term, the number of factors does not fit the batch, or libtorch fails.
pub fn combine(terms: &[(Coef, &Tensor)]) -> Result<Tensor> {
    let Some((_, like)) = terms.first() else {
        return Err(Error::run("a sum without terms"));
    };
    let mut sum: Option<Tensor> = None;
    for (factor, x) in terms {
        if factor.0.iter().all(|c| *c == 0.0) {
            continue;
        }
        sum = Some(match (sum, factor.shared()) {
            (None, _) => scale(factor, x)?,
            (Some(mut sum), Some(1.0)) => {
                let _ = sum.f_add_(x)?;
                sum
            }
            (Some(mut sum), Some(c)) => {
                let _ = sum.f_add_(&x.f_multiply_scalar(c)?)?;
                sum
            }
            (Some(mut sum), None) => {
                let _ = sum.f_addcmul_(x, &factor.tensor(x)?.f_to_kind(sum.kind())?)?;
                sum
            }
        });
    }
    match sum {
        Some(sum) => Ok(sum.f_to_kind(like.kind())?),
        None => Ok(like.f_zeros_like()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(t: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(&t.to_kind(Kind::Double).flatten(0, -1)).unwrap()
    }

    #[test]
    fn shared_and_per_sample_factors_agree() {
        let a = Tensor::from_slice(&[1.0, 2.0, 3.0, 4.0]).reshape([2, 2]);
        let b = Tensor::from_slice(&[5.0, 6.0, 7.0, 8.0]).reshape([2, 2]);
        let shared = combine(&[(2.0.into(), &a), ((-1.0).into(), &b)]).unwrap();
        let each = combine(&[(Coef(vec![2.0, 2.0]), &a), (Coef(vec![-1.0, -1.0]), &b)]).unwrap();
        assert_eq!(values(&shared), [-3.0, -2.0, -1.0, 0.0]);
        assert_eq!(values(&shared), values(&each));
        let mixed = combine(&[(Coef(vec![1.0, 0.0]), &a), (Coef(vec![0.0, 1.0]), &b)]).unwrap();
        assert_eq!(values(&mixed), [1.0, 2.0, 7.0, 8.0]);
    }

    #[test]
    fn the_dtype_of_the_state_stays() {
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
            let x = Tensor::from_slice(&[1.0, 2.0]).to_kind(kind);
            assert_eq!(combine(&[(0.5.into(), &x), (0.5.into(), &x)]).unwrap().kind(), kind);
            assert_eq!(scale(&Coef(vec![1.0, 3.0]), &x).unwrap().kind(), kind);
        }
    }

    #[test]
    fn a_zero_factor_silences_even_nan() {
        let (x, bad) = (Tensor::from_slice(&[1.0]), Tensor::from_slice(&[f64::NAN]));
        assert_eq!(values(&combine(&[(0.0.into(), &bad), (2.0.into(), &x)]).unwrap()), [2.0]);
        assert_eq!(values(&combine(&[(0.0.into(), &bad)]).unwrap()), [0.0]);
    }

    #[test]
    fn a_wrong_number_of_factors_is_an_error() {
        assert!(scale(&Coef(vec![1.0, 2.0, 3.0]), &Tensor::from_slice(&[1.0, 2.0])).is_err());
    }
}

//! Stochastic gradient descent with momentum (Sutskever et al. 2013, in PyTorch's form):
//! `b = mu b + g + weight_decay p`, `p -= lr b`.

use std::collections::BTreeMap;

use tch::Tensor;

use super::{Group, Optimizer, load_named};
use crate::error::{Error, Result};

/// The optimiser with its momentum buffers.
#[derive(Debug)]
pub struct Sgd {
    names: Vec<String>,
    params: Vec<Tensor>,
    buffers: Vec<Tensor>,
    momentum: f64,
    weight_decay: f64,
    /// Learning rate before the schedule.
    base: f64,
    /// The group of each parameter.
    groups: Vec<Group>,
}

impl Sgd {
    /// An optimiser of the named parameters.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn new(params: Vec<(String, Tensor)>, momentum: f64, weight_decay: f64) -> Result<Self> {
        let groups = vec![Group::default(); params.len()];
        Self::grouped(params, &groups, momentum, weight_decay, 0.0)
    }

    /// The same where parameters have groups, in the same order; `base` is the learning rate before the schedule.
    ///
    /// # Errors
    /// Where there is not one group per parameter, or libtorch fails.
    pub fn grouped(
        params: Vec<(String, Tensor)>,
        groups: &[Group],
        momentum: f64,
        weight_decay: f64,
        base: f64,
    ) -> Result<Self> {
        if params.len() != groups.len() {
            return Err(Error::run(format!("{} groups for {} parameters", groups.len(), params.len())));
        }
        let groups = groups.to_vec();
        let (names, params): (Vec<String>, Vec<Tensor>) = params.into_iter().unzip();
        let zeros = |p: &Tensor| -> Result<Tensor> { Ok(p.f_detach()?.f_zeros_like()?) };
        let buffers = params.iter().map(zeros).collect::<Result<_>>()?;
        Ok(Sgd { names, params, buffers, momentum, weight_decay, base, groups })
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, lr: f64, found_inf: Option<&Tensor>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let skip = match found_inf {
            Some(found) => Some(found.f_reshape([])?.f_to_kind(tch::Kind::Bool)?),
            None => None,
        };
        for ((p, b), group) in self.params.iter().zip(&mut self.buffers).zip(&self.groups) {
            let (lr, weight_decay) = group.rates(lr, self.base, self.weight_decay);
            let grad = p.grad();
            if !grad.defined() {
                continue;
            }
            let p = p.f_detach()?;
            let mut next = b.f_mul_scalar(self.momentum)?.f_add(&grad)?;
            if weight_decay > 0.0 {
                next = next.f_add(&p.f_mul_scalar(weight_decay)?)?;
            }
            let mut p = p;
            let mut moved = p.f_sub(&next.f_mul_scalar(lr)?)?;
            if let Some(skip) = &skip {
                moved = p.f_where_self(skip, &moved)?;
                next = b.f_where_self(skip, &next)?;
            }
            b.f_copy_(&next)?;
            p.f_copy_(&moved)?;
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let pairs = self.names.iter().zip(&self.buffers);
        pairs.map(|(name, b)| (format!("{name}.momentum"), b.shallow_clone())).collect()
    }

    fn load_state(&mut self, state: &BTreeMap<String, Tensor>, source: &str) -> Result<()> {
        load_named(&self.state(), state, source)
    }

    fn params(&self) -> &[Tensor] {
        &self.params
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn steps_are_the_formula_and_infinities_are_skipped() {
        let p = Tensor::from_slice(&[1f64]).set_requires_grad(true);
        let mut sgd = Sgd::new(vec![("p".into(), p.shallow_clone())], 0.9, 0.1).unwrap();
        let (mut x, mut b) = (1f64, 0f64);
        for g in [0.5, -0.25f64] {
            sgd.zero_grad().unwrap();
            (&p * g).sum(Kind::Double).backward();
            sgd.step(0.1, Some(&Tensor::from(0f32))).unwrap();
            b = 0.9 * b + g + 0.1 * x;
            x -= 0.1 * b;
            assert!((p.double_value(&[0]) - x).abs() < 1e-14);
        }
        sgd.zero_grad().unwrap();
        (&p * f64::NAN).sum(Kind::Double).backward();
        sgd.step(0.1, Some(&Tensor::from(1f32))).unwrap();
        assert!((p.double_value(&[0]) - x).abs() < 1e-14);
    }
}

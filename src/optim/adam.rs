//! Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019) on libtorch's fused kernels.
//!
//! Adam adds `weight_decay p` to the gradient, AdamW multiplies `p` by `1 - lr weight_decay` first; then
//! `m = b1 m + (1-b1) g`, `v = b2 v + (1-b2) g^2`,
//! `p -= lr/(1-b1^k) m / (sqrt(v)/sqrt(1-b2^k) + eps)` in step k.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::group::members;
use super::{Group, Optimizer, load_named};
use crate::error::{Error, Result};
use crate::torch::shim::{self, AdamStep, AdamTensors};

/// Adam or AdamW with its state: moments in the layout of the parameters, and the number of steps done.
#[derive(Debug)]
pub struct Adam {
    names: Vec<String>,
    params: Vec<Tensor>,
    m: Vec<Tensor>,
    v: Vec<Tensor>,
    /// Steps done: one element, f32, on the parameters' device.
    steps: Tensor,
    /// The options; the learning rate is the one before the schedule.
    hyper: AdamStep,
    /// Groups with the indices of their members.
    groups: Vec<(Group, Vec<usize>)>,
}

impl Adam {
    /// An optimiser of the named parameters; the learning rate of [`Optimizer::step`] counts.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn new(params: Vec<(String, Tensor)>, hyper: AdamStep) -> Result<Self> {
        let groups = vec![Group::default(); params.len()];
        Self::grouped(params, &groups, hyper)
    }

    /// The same where parameters have groups, in the same order; their learning rates stand to that of `hyper` as
    /// theirs of a step to that of [`Optimizer::step`].
    ///
    /// # Errors
    /// Where there is not one group per parameter, or libtorch fails.
    pub fn grouped(params: Vec<(String, Tensor)>, groups: &[Group], hyper: AdamStep) -> Result<Self> {
        if params.len() != groups.len() {
            return Err(Error::run(format!("{} groups for {} parameters", groups.len(), params.len())));
        }
        let (names, params): (Vec<String>, Vec<Tensor>) = params.into_iter().unzip();
        let zeros =
            || -> Result<Vec<Tensor>> { params.iter().map(|p| Ok(p.f_detach()?.f_zeros_like()?)).collect() };
        let device = params.first().map_or(tch::Device::Cpu, Tensor::device);
        let (m, v, steps) = (zeros()?, zeros()?, Tensor::f_zeros([], (Kind::Float, device))?);
        Ok(Adam { names, params, m, v, steps, hyper, groups: members(groups) })
    }
}

impl Adam {
    /// One step of the parameters in `list`.
    fn step_of(&self, list: &[usize], hyper: &AdamStep, found_inf: Option<&Tensor>) -> Result<()> {
        let (mut params, mut grads, mut m, mut v) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for &i in list {
            let p = &self.params[i];
            let grad = p.grad();
            if !grad.defined() {
                continue;
            }
            // The kernels walk all tensors in memory order.
            let grad = if grad.stride() == p.stride() { grad } else { in_layout_of(p, &grad)? };
            params.push(p.shallow_clone());
            grads.push(grad);
            m.push(self.m[i].shallow_clone());
            v.push(self.v[i].shallow_clone());
        }
        if params.is_empty() && self.groups.len() > 1 {
            return Ok(());
        }
        let steps: Vec<Tensor> = params.iter().map(|_| self.steps.shallow_clone()).collect();
        let lists = AdamTensors { params: &params, grads: &grads, m: &m, v: &v, steps: &steps };
        shim::fused_adam(hyper, &lists, None, found_inf)
    }
}

impl Optimizer for Adam {
    fn step(&mut self, lr: f64, found_inf: Option<&Tensor>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        // A step that is left out does not count.
        let _ = match found_inf {
            Some(found) => self.steps.f_add_(&found.f_reshape([])?.f_mul_scalar(-1.0)?.f_add_scalar(1.0)?)?,
            None => self.steps.f_add_scalar_(1.0)?,
        };
        for (group, list) in &self.groups {
            let (lr, weight_decay) = group.rates(lr, self.hyper.lr, self.hyper.weight_decay);
            let hyper = AdamStep { lr, weight_decay, ..self.hyper };
            self.step_of(list, &hyper, found_inf)?;
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let mut out = vec![("steps".to_owned(), self.steps.shallow_clone())];
        for (i, name) in self.names.iter().enumerate() {
            out.push((format!("{name}.m"), self.m[i].shallow_clone()));
            out.push((format!("{name}.v"), self.v[i].shallow_clone()));
        }
        out
    }

    fn load_state(&mut self, state: &BTreeMap<String, Tensor>, source: &str) -> Result<()> {
        load_named(&self.state(), state, source)
    }

    fn params(&self) -> &[Tensor] {
        &self.params
    }
}

fn in_layout_of(p: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let mut out = p.f_detach()?.f_empty_like()?;
    out.f_copy_(grad)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{descend, quadratic};
    use super::*;
    use tch::Device;

    fn hyper(decoupled: bool) -> AdamStep {
        AdamStep { decoupled, lr: 0.0, betas: (0.9, 0.999), weight_decay: 0.01, eps: 1e-8 }
    }

    fn value(t: &Tensor) -> f64 {
        t.double_value(&[0])
    }

    #[test]
    fn steps_are_the_formulas() {
        for decoupled in [true, false] {
            let p = Tensor::from_slice(&[1f64]).set_requires_grad(true);
            let mut adam = Adam::new(vec![("p".into(), p.shallow_clone())], hyper(decoupled)).unwrap();
            let (mut x, mut m, mut v) = (1f64, 0f64, 0f64);
            for (k, g) in [0.5, -0.25, 2.0f64].into_iter().enumerate() {
                adam.zero_grad().unwrap();
                (&p * g).sum(Kind::Double).backward();
                adam.step(1e-3, None).unwrap();
                let g = if decoupled { g } else { g + 0.01 * x };
                if decoupled {
                    x *= 1.0 - 1e-3 * 0.01;
                }
                m = 0.9 * m + 0.1 * g;
                v = 0.999 * v + 0.001 * g * g;
                let k = k as i32 + 1;
                x -= 1e-3 / (1.0 - 0.9f64.powi(k)) * m / (v.sqrt() / (1.0 - 0.999f64.powi(k)).sqrt() + 1e-8);
                assert!((value(&p) - x).abs() < 1e-12, "{k} {} {x}", value(&p));
            }
        }
    }

    #[test]
    fn a_step_with_infinities_changes_nothing() {
        let p = Tensor::from_slice(&[1f32]).set_requires_grad(true);
        let mut adam = Adam::new(vec![("p".into(), p.shallow_clone())], hyper(true)).unwrap();
        (&p * f64::NAN).sum(Kind::Float).backward();
        adam.step(0.1, Some(&Tensor::from(1f32))).unwrap();
        assert_eq!((value(&p), adam.steps.double_value(&[])), (1.0, 0.0));
        adam.zero_grad().unwrap();
        (&p * 0.5).sum(Kind::Float).backward();
        adam.step(0.1, Some(&Tensor::from(0f32))).unwrap();
        assert!((value(&p) - 0.899).abs() < 1e-6);
        assert_eq!(adam.steps.double_value(&[]), 1.0);
    }

    #[test]
    fn resuming_is_bitwise() {
        let make = |p: &[(String, Tensor)]| {
            let p = p.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
            Adam::new(p, hyper(true)).unwrap()
        };
        let whole = quadratic();
        let mut adam = make(&whole);
        descend(&mut adam, &whole, 0..10);

        let first = quadratic();
        let mut adam_1 = make(&first);
        descend(&mut adam_1, &first, 0..4);
        let saved: BTreeMap<String, Tensor> =
            adam_1.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
        let mut adam_2 = make(&first);
        adam_2.load_state(&saved, "checkpoint").unwrap();
        descend(&mut adam_2, &first, 4..10);
        for (a, b) in whole.iter().zip(&first) {
            assert!(a.1.equal(&b.1), "{}", a.0);
        }
        for (a, b) in adam.state().iter().zip(adam_2.state()) {
            assert!(a.1.equal(&b.1) && a.0 == b.0);
        }
    }

    #[test]
    fn state_that_does_not_fit_is_refused() {
        let p = quadratic();
        let mut adam = Adam::new(p, hyper(true)).unwrap();
        let mut state: BTreeMap<String, Tensor> =
            adam.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
        state.insert("other.m".into(), Tensor::from(0f32));
        let error = adam.load_state(&state, "c").unwrap_err().to_string();
        assert_eq!(error, "the optimiser's state does not fit the network (c): `other.m` is unknown");
        state.remove("other.m");
        state.remove("w.v");
        assert!(adam.load_state(&state, "c").unwrap_err().to_string().contains("`w.v` is missing"));
    }

    #[test]
    fn layouts_may_differ_between_parameter_and_gradient() {
        let run = |channels_last: bool| {
            let w = Tensor::arange(48, (Kind::Float, Device::Cpu)).reshape([4, 3, 2, 2]) * 0.01;
            let last = w.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            let w = if channels_last { last } else { w }.detach().set_requires_grad(true);
            let mut adam = Adam::new(vec![("w".into(), w.shallow_clone())], hyper(true)).unwrap();
            for _ in 0..3 {
                adam.zero_grad().unwrap();
                let scale = Tensor::arange(48, (Kind::Float, Device::Cpu)).reshape([4, 3, 2, 2]);
                (&w * &w * scale).sum(Kind::Float).backward();
                adam.step(1e-2, None).unwrap();
            }
            w.detach().contiguous()
        };
        assert!((run(true) - run(false)).abs().max().double_value(&[]) < 1e-7);
    }
}

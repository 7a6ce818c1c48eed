//! Optimisers, learning-rate schedules, clipping, averages of weights. State is data: named tensors that
//! can be saved and loaded.

use std::collections::BTreeMap;
use std::fmt::Debug;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::torch::shim;

pub mod adam;
pub mod count;
pub mod ema;
mod group;
pub mod plateau;
pub mod scaler;
pub mod sgd;
pub mod spec;

pub use count::{Count, Progress};
pub use group::Group;
pub use spec::OptimSpec;

/// An optimiser of named parameters.
pub trait Optimizer: Debug {
    /// One step with the gradients now on the parameters (parameters without a gradient stay as they are).
    /// Nothing changes where `found_inf`, a one-element f32 tensor on their device, is 1.
    ///
    /// # Errors
    /// Where libtorch fails.
    fn step(&mut self, lr: f64, found_inf: Option<&Tensor>) -> Result<()>;
    /// The state by name, as handles, not copies.
    fn state(&self) -> Vec<(String, Tensor)>;
    /// Replaces the state; `source` names it in errors.
    ///
    /// # Errors
    /// Where a name is missing or left over, or a shape differs; nothing is changed then.
    fn load_state(&mut self, state: &BTreeMap<String, Tensor>, source: &str) -> Result<()>;
    /// The parameters, as handles.
    fn params(&self) -> &[Tensor];

    /// The gradients that exist, as handles.
    fn grads(&self) -> Vec<Tensor> {
        self.params().iter().map(Tensor::grad).filter(Tensor::defined).collect()
    }

    /// Forgets all gradients.
    ///
    /// # Errors
    /// Where libtorch fails.
    fn zero_grad(&self) -> Result<()> {
        shim::drop_grads(self.params())
    }
}

/// Scales `grads` in place so that their Euclidean norm is at most `max` (if given); returns the norm before,
/// as an f32 tensor on their device. No host sync.
///
/// # Errors
/// Where there are no gradients, or libtorch fails.
pub fn clip_grad_norm(grads: &[Tensor], max: Option<f64>) -> Result<Tensor> {
    if grads.is_empty() {
        return Err(Error::run("no parameter has a gradient"));
    }
    let norm = shim::foreach_norm(grads)?;
    if let Some(max) = max {
        let factor = norm.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(max)?.f_clamp_max(1.0)?;
        shim::foreach_mul(grads, &factor)?;
    }
    Ok(norm)
}

/// 1 where `norm` is not finite, else 0: an f32 tensor on its device, for [`Optimizer::step`].
///
/// # Errors
/// Where libtorch fails.
pub fn found_inf(norm: &Tensor) -> Result<Tensor> {
    Ok(norm.f_isfinite()?.f_logical_not()?.f_to_kind(Kind::Float)?)
}

/// Copies `state` into the tensors of `mine`, strictly.
fn load_named(mine: &[(String, Tensor)], state: &BTreeMap<String, Tensor>, source: &str) -> Result<()> {
    let misfit =
        |why: String| Err(Error::data("the optimiser's state does not fit the network").at(source).why(why));
    for (name, tensor) in mine {
        match state.get(name) {
            None => return misfit(format!("`{name}` is missing")),
            Some(found) if found.size() != tensor.size() => {
                return misfit(format!("`{name}` has shape {:?}, not {:?}", found.size(), tensor.size()));
            }
            Some(_) => {}
        }
    }
    if state.len() != mine.len() {
        let known: Vec<&String> = mine.iter().map(|(name, _)| name).collect();
        let extra = state.keys().find(|name| !known.contains(name));
        return misfit(format!("`{}` is unknown", extra.map_or("?", String::as_str)));
    }
    let _guard = tch::no_grad_guard();
    for (name, tensor) in mine {
        if let Some(found) = state.get(name) {
            tensor.shallow_clone().f_copy_(found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two parameters away from the minimum of a quadratic.
    pub fn quadratic() -> Vec<(String, Tensor)> {
        let make = |name: &str, values: &[f32]| {
            (name.to_owned(), Tensor::from_slice(values).set_requires_grad(true))
        };
        vec![make("w", &[1.0, -2.0, 0.3]), make("b", &[0.7])]
    }

    /// Steps `range` of a descent whose gradients depend on the step.
    pub fn descend(opt: &mut dyn Optimizer, params: &[(String, Tensor)], range: std::ops::Range<u32>) {
        for k in range {
            opt.zero_grad().unwrap();
            let shift = f64::from(k).sin();
            let loss: Tensor = params.iter().map(|(_, p)| (p + shift).square().sum(Kind::Float)).sum();
            loss.backward();
            opt.step(0.01, None).unwrap();
        }
    }

    #[test]
    fn clipping_brings_large_norms_down_and_leaves_small_ones() {
        let make = || [Tensor::from_slice(&[3f32]), Tensor::from_slice(&[0f32, 4.0])];
        let norm = |g: &[Tensor]| shim::foreach_norm(g).unwrap().double_value(&[]);
        let grads = make();
        assert_eq!(clip_grad_norm(&grads, Some(1.0)).unwrap().double_value(&[]), 5.0);
        assert!((norm(&grads) - 1.0).abs() < 1e-6);
        let grads = make();
        let _ = clip_grad_norm(&grads, Some(10.0)).unwrap();
        assert_eq!(norm(&grads), 5.0);
        let _ = clip_grad_norm(&grads, None).unwrap();
        assert_eq!(norm(&grads), 5.0);
        assert!(clip_grad_norm(&[], Some(1.0)).is_err());
    }

    #[test]
    fn non_finite_norms_are_found() {
        for (value, want) in [(1.0, 0.0), (f32::NAN, 1.0), (f32::INFINITY, 1.0)] {
            assert_eq!(found_inf(&Tensor::from(value)).unwrap().double_value(&[]), want);
        }
    }
}

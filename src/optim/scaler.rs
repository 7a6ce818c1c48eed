//! Loss scaling for f16 (Micikevicius et al. 2018, "Mixed precision training"), without host syncs.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::load_named;
use crate::error::Result;
use crate::torch::shim;

/// The scale grows by 2 after 2000 good steps and halves at an infinity, as PyTorch's `GradScaler`.
#[derive(Debug)]
pub struct Scaler {
    scale: Tensor,
    growth_tracker: Tensor,
}

impl Scaler {
    /// A scaler that starts at 65536.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn new(device: Device) -> Result<Self> {
        Ok(Scaler {
            scale: Tensor::f_full([1], 65_536.0, (Kind::Float, device))?,
            growth_tracker: Tensor::f_zeros([1], (Kind::Int, device))?,
        })
    }

    /// The loss to differentiate.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn scaled(&self, loss: &Tensor) -> Result<Tensor> {
        Ok(loss.f_mul(&self.scale.f_reshape([])?)?)
    }

    /// Divides `grads` by the scale, in place.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn unscale(&self, grads: &[Tensor]) -> Result<()> {
        shim::foreach_mul(grads, &self.scale.f_reciprocal()?.f_reshape([])?)
    }

    /// Adjusts the scale after a step, where `found_inf` says whether it was left out.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn update(&mut self, found_inf: &Tensor) -> Result<()> {
        let found = found_inf.f_reshape([1])?;
        let _ = self.scale.f_internal_amp_update_scale_(&self.growth_tracker, &found, 2.0, 0.5, 2000)?;
        Ok(())
    }

    /// The state by name, as handles.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        vec![
            ("scale".to_owned(), self.scale.shallow_clone()),
            ("growth_tracker".to_owned(), self.growth_tracker.shallow_clone()),
        ]
    }

    /// Replaces the state; `source` names it in errors.
    ///
    /// # Errors
    /// Where a name is missing or left over, or a shape differs.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>, source: &str) -> Result<()> {
        load_named(&self.state(), state, source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_backs_off_and_grows() {
        let mut scaler = Scaler::new(Device::Cpu).unwrap();
        let scale = |s: &Scaler| s.scale.double_value(&[0]);
        scaler.update(&Tensor::from(1f32)).unwrap();
        assert_eq!(scale(&scaler), 32_768.0);
        for _ in 0..2000 {
            scaler.update(&Tensor::from(0f32)).unwrap();
        }
        assert_eq!(scale(&scaler), 65_536.0);
        let grads = [Tensor::from(65_536f32)];
        scaler.unscale(&grads).unwrap();
        assert_eq!(grads[0].double_value(&[]), 1.0);
        assert_eq!(scaler.scaled(&Tensor::from(2f32)).unwrap().double_value(&[]), 131_072.0);
    }
}

//! One native call for a step of a whole SaShiMi network on the CPU.

use std::ffi::c_int;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::{check, pointers};
use crate::error::Result;

#[repr(C)]
struct CStepper {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn gen_stepper_new(
        ints: *const i64,
        n_ints: usize,
        tensors: *const *mut C_tensor,
        n_tensors: usize,
        wide: c_int,
        out: *mut *mut CStepper,
        state_size: *mut i64,
    ) -> c_int;
    fn gen_stepper_free(stepper: *mut CStepper);
    fn gen_stepper_step(
        stepper: *const CStepper,
        tokens: *const C_tensor,
        class_rows: *const C_tensor,
        state: *const C_tensor,
        done: i64,
        logits: *const C_tensor,
    ) -> c_int;
}

/// A network packed for stepping; see `step_kernel.h` for the layout of its tensors.
#[derive(Debug)]
pub struct Stepper {
    raw: *mut CStepper,
    state_size: i64,
    vocab: i64,
    kind: Kind,
}

/// Features that are computed at once: what widths are padded to.
#[must_use]
pub fn lanes(kind: Kind) -> i64 {
    if kind == Kind::Double { 8 } else { 16 }
}

impl Stepper {
    /// The network described by `numbers` (the first is the number of tokens) and `tensors`, all contiguous, on the
    /// CPU, of `kind` (f32 or f64), in the order in which `step.cpp` reads them.
    ///
    /// # Errors
    /// Where numbers or tensors do not fit each other.
    pub fn new(numbers: &[i64], tensors: &[Tensor], kind: Kind) -> Result<Self> {
        let list = pointers(tensors);
        let (mut raw, mut state_size) = (std::ptr::null_mut(), 0);
        // SAFETY: two lists with their lengths and two places for results; the tensors are held by the stepper.
        check(unsafe {
            gen_stepper_new(
                numbers.as_ptr(),
                numbers.len(),
                list.as_ptr(),
                list.len(),
                c_int::from(kind == Kind::Double),
                &raw mut raw,
                &raw mut state_size,
            )
        })?;
        Ok(Stepper { raw, state_size, vocab: numbers.first().copied().unwrap_or(0), kind })
    }

    /// Number of values of the state of one sequence; a fresh state is zero.
    #[must_use]
    pub fn state_size(&self) -> i64 {
        self.state_size
    }

    /// One step after `done` others: `tokens` `[B]` i64 and `state` `[B, state_size]`, changed in place, to logits
    /// `[B, V]`. `class_rows` `[B, padded width]` are added to the embedding.
    ///
    /// # Errors
    /// Where a token is unknown, or shapes, dtypes or devices do not fit.
    pub fn step(
        &self,
        tokens: &Tensor,
        class_rows: Option<&Tensor>,
        state: &Tensor,
        done: i64,
    ) -> Result<Tensor> {
        let logits = Tensor::f_empty([tokens.size()[0], self.vocab], (self.kind, Device::Cpu))?;
        let class_rows = class_rows.map_or(std::ptr::null(), Tensor::as_ptr);
        // SAFETY: live tensors; the shim checks their sizes and the tokens.
        check(unsafe {
            gen_stepper_step(self.raw, tokens.as_ptr(), class_rows, state.as_ptr(), done, logits.as_ptr())
        })?;
        Ok(logits)
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `gen_stepper_new` and is freed once.
        unsafe { gen_stepper_free(self.raw) }
    }
}

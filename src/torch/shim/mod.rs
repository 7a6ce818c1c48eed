//! Safe wrappers over the C++ shim.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};

use tch::{Kind, Tensor};
use torch_sys::C_tensor;

use crate::error::{Error, Result};

pub mod conv;
pub mod module;
pub mod rows;
pub mod step;

#[repr(C)]
struct CGenerator {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn gen_last_error() -> *const c_char;
    fn gen_generator_new(seed: u64, out: *mut *mut CGenerator) -> c_int;
    fn gen_generator_free(generator: *mut CGenerator);
    fn gen_generator_normal(generator: *mut CGenerator, dest: *mut C_tensor) -> c_int;
    fn gen_generator_randint(generator: *mut CGenerator, dest: *mut C_tensor, high: i64) -> c_int;
    fn gen_autocast_set(
        cuda: c_int,
        on: c_int,
        dtype: c_int,
        was_on: *mut c_int,
        was_dtype: *mut c_int,
    ) -> c_int;
    fn gen_autocast_restore(cuda: c_int, on: c_int, dtype: c_int) -> c_int;
    fn gen_set_deterministic(on: c_int) -> c_int;
    fn gen_set_tf32(on: c_int) -> c_int;
    fn gen_set_flush_denormal(on: c_int) -> c_int;
    fn gen_fused_adam(
        decoupled: c_int,
        n: usize,
        params: *const *mut C_tensor,
        grads: *const *mut C_tensor,
        m: *const *mut C_tensor,
        v: *const *mut C_tensor,
        steps: *const *mut C_tensor,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        grad_scale: *mut C_tensor,
        found_inf: *mut C_tensor,
    ) -> c_int;
    fn gen_foreach_lerp(
        n: usize,
        dest: *const *mut C_tensor,
        source: *const *mut C_tensor,
        weight: f64,
    ) -> c_int;
    fn gen_foreach_copy(n: usize, dest: *const *mut C_tensor, source: *const *mut C_tensor) -> c_int;
    fn gen_drop_grads(n: usize, tensors: *const *mut C_tensor) -> c_int;
    fn gen_foreach_mul(n: usize, tensors: *const *mut C_tensor, factor: *mut C_tensor) -> c_int;
    fn gen_foreach_norm(n: usize, tensors: *const *mut C_tensor, out: *mut *mut C_tensor) -> c_int;
    fn gen_group_norm(
        x: *mut C_tensor,
        weight: *mut C_tensor,
        bias: *mut C_tensor,
        groups: i64,
        eps: f64,
        silu: c_int,
        out: *mut *mut C_tensor,
    ) -> c_int;
}

fn check(status: c_int) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the shim returns a pointer to a thread-local string that lives until its next call.
    let text = unsafe { CStr::from_ptr(gen_last_error()) };
    Err(Error::torch(&text.to_string_lossy()))
}

fn pointers(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(|t| t.as_ptr().cast_mut()).collect()
}

fn same_len(a: &[Tensor], b: &[Tensor]) -> Result<()> {
    if a.len() == b.len() {
        return Ok(());
    }
    Err(Error::run(format!("lists of {} and {} tensors where equal ones are needed", a.len(), b.len())))
}

/// A CPU generator of libtorch with a stream of its own (MT19937, as `torch.Generator`).
#[derive(Debug)]
pub struct Generator(*mut CGenerator);

// SAFETY: the generator is owned by one value and its methods take it exclusively.
unsafe impl Send for Generator {}

impl Generator {
    /// The generator whose stream is that of `torch.Generator().manual_seed(seed)`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn new(seed: u64) -> Result<Self> {
        let mut out = std::ptr::null_mut();
        // SAFETY: `out` is a valid place for the pointer.
        check(unsafe { gen_generator_new(seed, &raw mut out) })?;
        Ok(Generator(out))
    }

    /// The next standard normal values, on the CPU: equal to `torch.randn(shape, generator=g, dtype=kind)`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn normal(&mut self, shape: &[i64], kind: Kind) -> Result<Tensor> {
        let dest = Tensor::f_empty(shape, (kind, tch::Device::Cpu))?;
        // SAFETY: both pointers are live for the call.
        check(unsafe { gen_generator_normal(self.0, dest.as_ptr().cast_mut()) })?;
        Ok(dest)
    }

    /// The next integers uniform in `[0, high)`, on the CPU: equal to `torch.randint(high, shape, generator=g)`.
    ///
    /// # Errors
    /// Where `high` is not positive, or libtorch fails.
    pub fn integers(&mut self, high: i64, shape: &[i64]) -> Result<Tensor> {
        let dest = Tensor::f_empty(shape, (Kind::Int64, tch::Device::Cpu))?;
        // SAFETY: both pointers are live for the call.
        check(unsafe { gen_generator_randint(self.0, dest.as_ptr().cast_mut(), high) })?;
        Ok(dest)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `gen_generator_new` and is freed once.
        unsafe { gen_generator_free(self.0) }
    }
}

/// Autocast of this thread to a dtype until dropped.
#[derive(Debug)]
pub struct Autocast {
    cuda: c_int,
    was_on: c_int,
    was_dtype: c_int,
}

impl Autocast {
    /// Turns autocast to `kind` on, on CUDA or on the CPU.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn to(kind: Kind, cuda: bool) -> Result<Self> {
        let mut guard = Autocast { cuda: c_int::from(cuda), was_on: 0, was_dtype: 0 };
        // ScalarType of c10.
        let dtype = match kind {
            Kind::Half => 5,
            Kind::BFloat16 => 15,
            other => return Err(Error::usage(format!("autocast to {other:?} is not defined"))),
        };
        // SAFETY: the out parameters are valid places.
        check(unsafe {
            gen_autocast_set(guard.cuda, 1, dtype, &raw mut guard.was_on, &raw mut guard.was_dtype)
        })?;
        Ok(guard)
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: plain values. A failure here leaves autocast on, and there is nobody to tell.
        let _ = unsafe { gen_autocast_restore(self.cuda, self.was_on, self.was_dtype) };
    }
}

/// Deterministic algorithms everywhere (and cuDNN benchmarking off).
///
/// # Errors
/// Where libtorch fails.
pub fn set_deterministic(on: bool) -> Result<()> {
    // SAFETY: a plain value.
    check(unsafe { gen_set_deterministic(c_int::from(on)) })
}

/// TensorFloat-32 in matrix products and convolutions on CUDA.
///
/// # Errors
/// Where libtorch fails.
pub fn set_tf32(on: bool) -> Result<()> {
    // SAFETY: a plain value.
    check(unsafe { gen_set_tf32(c_int::from(on)) })
}

/// Treats denormal numbers as zero on the CPU.
///
/// # Errors
/// Where libtorch fails.
pub fn set_flush_denormal(on: bool) -> Result<()> {
    // SAFETY: a plain value.
    check(unsafe { gen_set_flush_denormal(c_int::from(on)) })
}

/// The hyper-parameters of one Adam step.
#[derive(Debug, Clone, Copy)]
pub struct AdamStep {
    /// Weight decay is decoupled from the gradient (AdamW), or added to it (Adam).
    pub decoupled: bool,
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// Weight decay.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// The tensors of an Adam step, all lists in the same order.
#[derive(Debug)]
pub struct AdamTensors<'a> {
    /// Parameters, changed in place.
    pub params: &'a [Tensor],
    /// Their gradients.
    pub grads: &'a [Tensor],
    /// First moments.
    pub m: &'a [Tensor],
    /// Second moments.
    pub v: &'a [Tensor],
    /// The number of this step (from 1) as f32 tensors without dimensions.
    pub steps: &'a [Tensor],
}

/// One fused step of Adam or AdamW. With `found_inf` non-zero (a one-element f32 tensor) nothing changes;
/// `grad_scale` divides the gradients first.
///
/// # Errors
/// Where lists differ in length, or libtorch fails.
pub fn fused_adam(
    step: &AdamStep,
    tensors: &AdamTensors<'_>,
    grad_scale: Option<&Tensor>,
    found_inf: Option<&Tensor>,
) -> Result<()> {
    for other in [tensors.grads, tensors.m, tensors.v, tensors.steps] {
        same_len(tensors.params, other)?;
    }
    let optional = |t: Option<&Tensor>| t.map_or(std::ptr::null_mut(), |t| t.as_ptr().cast_mut());
    let [p, g, m, v, s] = [tensors.params, tensors.grads, tensors.m, tensors.v, tensors.steps].map(pointers);
    // SAFETY: five lists of `n` live tensors, checked above.
    check(unsafe {
        gen_fused_adam(
            c_int::from(step.decoupled),
            p.len(),
            p.as_ptr(),
            g.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            s.as_ptr(),
            step.lr,
            step.betas.0,
            step.betas.1,
            step.weight_decay,
            step.eps,
            optional(grad_scale),
            optional(found_inf),
        )
    })
}

/// `dest += weight (source - dest)` for every pair, in place and without gradients.
///
/// # Errors
/// Where lists differ in length, or libtorch fails.
pub fn foreach_lerp(dest: &[Tensor], source: &[Tensor], weight: f64) -> Result<()> {
    same_len(dest, source)?;
    let (d, s) = (pointers(dest), pointers(source));
    // SAFETY: two lists of `n` live tensors.
    check(unsafe { gen_foreach_lerp(d.len(), d.as_ptr(), s.as_ptr(), weight) })
}

/// `dest = source` for every pair, in place and without gradients.
///
/// # Errors
/// Where lists differ in length, or libtorch fails.
pub fn foreach_copy(dest: &[Tensor], source: &[Tensor]) -> Result<()> {
    same_len(dest, source)?;
    let (d, s) = (pointers(dest), pointers(source));
    // SAFETY: two lists of `n` live tensors.
    check(unsafe { gen_foreach_copy(d.len(), d.as_ptr(), s.as_ptr()) })
}

/// Makes the gradients of all tensors undefined (PyTorch's `zero_grad(set_to_none=True)`): the next
/// backward pass hands its tensors over instead of adding to zeros.
///
/// # Errors
/// Where libtorch fails.
pub fn drop_grads(tensors: &[Tensor]) -> Result<()> {
    let t = pointers(tensors);
    // SAFETY: a list of `n` live tensors.
    check(unsafe { gen_drop_grads(t.len(), t.as_ptr()) })
}

/// Multiplies all tensors in place by `factor`, a one-element tensor on their device.
///
/// # Errors
/// Where libtorch fails.
pub fn foreach_mul(tensors: &[Tensor], factor: &Tensor) -> Result<()> {
    let t = pointers(tensors);
    // SAFETY: a list of `n` live tensors and one more.
    check(unsafe { gen_foreach_mul(t.len(), t.as_ptr(), factor.as_ptr().cast_mut()) })
}

/// The Euclidean norm of all tensors taken as one vector, as a tensor (no host sync).
///
/// # Errors
/// Where the list is empty, or libtorch fails.
pub fn foreach_norm(tensors: &[Tensor]) -> Result<Tensor> {
    let t = pointers(tensors);
    let mut out = std::ptr::null_mut();
    // SAFETY: a list of `n` live tensors and a place for the result, which is a new tensor that we own.
    check(unsafe { gen_foreach_norm(t.len(), t.as_ptr(), &raw mut out) })?;
    // SAFETY: `out` is a new tensor owned by nobody else.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Group normalisation of `x` `[B, C, ...]` (f32 or bf16, on the CPU) with f32 `weight` and `bias` `[C]`,
/// followed by SiLU if `silu`: one pass over memory in the layout of `x`, in its dtype, differentiable.
///
/// # Errors
/// Where dtypes, shapes or the device do not fit, or libtorch fails.
pub fn group_norm(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    groups: i64,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    let [x, weight, bias] = [x, weight, bias].map(|t| t.as_ptr().cast_mut());
    let mut out = std::ptr::null_mut();
    // SAFETY: three live tensors and a place for the result, which is a new tensor that we own.
    check(unsafe { gen_group_norm(x, weight, bias, groups, eps, c_int::from(silu), &raw mut out) })?;
    // SAFETY: `out` is a new tensor owned by nobody else.
    Ok(unsafe { Tensor::from_ptr(out) })
}

#[cfg(test)]
mod tests;

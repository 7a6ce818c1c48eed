//! What decoding on the CPU is made of: products of a few rows with a large matrix, RMS norm, and attention of one new
//! token. Activations are f32; nothing here keeps a graph.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

use super::check;
use crate::error::Result;

unsafe extern "C" {
    fn gen_linear_rows(
        x: *mut C_tensor,
        w: *mut C_tensor,
        scale: *mut C_tensor,
        bias: *mut C_tensor,
        add: *mut C_tensor,
        out: *mut *mut C_tensor,
    ) -> c_int;
    fn gen_rms_norm(
        x: *mut C_tensor,
        w: *mut C_tensor,
        eps: f64,
        offset: f64,
        out: *mut *mut C_tensor,
    ) -> c_int;
    fn gen_attend_step(
        qkv: *mut C_tensor,
        cos: *mut C_tensor,
        sin: *mut C_tensor,
        q_norm: *mut C_tensor,
        k_norm: *mut C_tensor,
        eps: f64,
        k: *mut C_tensor,
        v: *mut C_tensor,
        pads: *mut C_tensor,
        at: i64,
        window: i64,
        scale: f64,
        cap: f64,
        out: *mut *mut C_tensor,
    ) -> c_int;
}

fn pointer(t: &Tensor) -> *mut C_tensor {
    t.as_ptr().cast_mut()
}

fn optional(t: Option<&Tensor>) -> *mut C_tensor {
    t.map_or(std::ptr::null_mut(), pointer)
}

/// `x w^T scale + bias + add` for `x` `[..., K]` f32 and `weight` `[N, K]` of f32, bf16, f16 or int8: at the speed of
/// reading `weight` while `x` has few rows. `scale` and `bias` are `[N]`, `add` is `[..., N]`, all f32.
///
/// # Errors
/// Where shapes, types or devices do not fit, or something is not contiguous.
pub fn linear_rows(
    x: &Tensor,
    weight: &Tensor,
    scale: Option<&Tensor>,
    bias: Option<&Tensor>,
    add: Option<&Tensor>,
) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors or null, and a place for the result, which is a new tensor that we own.
    check(unsafe {
        gen_linear_rows(
            pointer(x),
            pointer(weight),
            optional(scale),
            optional(bias),
            optional(add),
            &raw mut out,
        )
    })?;
    // SAFETY: `out` is a new tensor owned by nobody else.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// `x / sqrt(mean(x^2) + eps) (weight + offset)` over the last axis of `x` `[..., D]` f32 (Zhang and Sennrich 2019).
///
/// # Errors
/// Where shapes, types or devices do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, offset: f64) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors, and a place for the result, which is a new tensor that we own.
    check(unsafe { gen_rms_norm(pointer(x), pointer(weight), eps, offset, &raw mut out) })?;
    // SAFETY: `out` is a new tensor owned by nobody else.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// How one new token attends to those before it.
#[derive(Debug)]
pub struct AttendStep<'a> {
    /// Cosines and sines of positions, `[n, dim / 2]` each; none without rotary positions.
    pub rotary: Option<(&'a Tensor, &'a Tensor)>,
    /// Weights `[dim]` of the RMS norms of queries and keys.
    pub norms: Option<(&'a Tensor, &'a Tensor)>,
    /// Added to the mean square in those norms.
    pub eps: f64,
    /// Factor of the products of queries and keys.
    pub scale: f64,
    /// `c` of `c tanh(s / c)`.
    pub cap: Option<f64>,
    /// How many tokens it looks back at, itself included.
    pub window: Option<i64>,
}

impl AttendStep<'_> {
    /// `qkv` `[B, (heads + 2 groups) dim]` holds the token's queries, keys and values. Key and value go to place `at`
    /// of `keys` and `values` `[B, groups, capacity, dim]`, whose places before `pads` `[B]` i64 are not looked at.
    /// Gives `[B, heads dim]`.
    ///
    /// # Errors
    /// Where shapes, types or devices do not fit.
    pub fn apply(
        &self,
        qkv: &Tensor,
        (keys, values): (&Tensor, &Tensor),
        pads: &Tensor,
        at: i64,
    ) -> Result<Tensor> {
        let mut out = std::ptr::null_mut();
        // SAFETY: live tensors or null, and a place for the result, which is a new tensor that we own.
        check(unsafe {
            gen_attend_step(
                pointer(qkv),
                optional(self.rotary.map(|r| r.0)),
                optional(self.rotary.map(|r| r.1)),
                optional(self.norms.map(|n| n.0)),
                optional(self.norms.map(|n| n.1)),
                self.eps,
                pointer(keys),
                pointer(values),
                pointer(pads),
                at,
                self.window.unwrap_or(0),
                self.scale,
                self.cap.unwrap_or(0.0),
                &raw mut out,
            )
        })?;
        // SAFETY: `out` is a new tensor owned by nobody else.
        Ok(unsafe { Tensor::from_ptr(out) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::shim::Generator;
    use tch::Kind;

    fn gap(a: &Tensor, b: &Tensor) -> f64 {
        assert_eq!(a.size(), b.size());
        (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
    }

    fn noise(shape: &[i64], seed: u64) -> Tensor {
        Generator::new(seed).unwrap().normal(shape, Kind::Float).unwrap()
    }

    #[test]
    fn products_are_those_of_libtorch_for_every_type_and_number_of_rows() {
        // Neither size is a multiple of a block.
        let (n, k) = (37, 83);
        let (bias, w) = (noise(&[n], 1), noise(&[n, k], 2));
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            let w = w.to_kind(kind);
            for m in [1, 2, 3, 4, 7, 16] {
                let (x, add) = (noise(&[m, k], 3), noise(&[m, n], 4));
                let got = linear_rows(&x, &w, None, Some(&bias), Some(&add)).unwrap();
                let want = x.linear(&w.to_kind(Kind::Float), Some(&bias)) + &add;
                assert!(gap(&got, &want) < 2e-5, "{kind:?} {m}");
                let alone = linear_rows(&x.narrow(0, m - 1, 1), &w, None, Some(&bias), None).unwrap();
                let got = linear_rows(&x, &w, None, Some(&bias), None).unwrap();
                assert!(alone.equal(&got.narrow(0, m - 1, 1)), "a row depends on the others");
            }
        }
        let (w, scale) = ((w * 50).round().clamp(-127, 127).to_kind(Kind::Int8), noise(&[n], 5));
        let x = noise(&[2, 3, k], 6);
        let got = linear_rows(&x, &w, Some(&scale), None, None).unwrap();
        let want = x.matmul(&w.to_kind(Kind::Float).transpose(0, 1)) * &scale;
        assert!(gap(&got, &want) < 2e-3 && got.size() == [2, 3, n]);
        assert!(linear_rows(&x, &w.to_kind(Kind::Int), None, None, None).is_err());
        assert!(linear_rows(&x, &w.transpose(0, 1), None, None, None).is_err());
        assert!(linear_rows(&x, &w, Some(&noise(&[n + 1], 5)), None, None).is_err());
    }

    #[test]
    fn rms_norm_is_its_formula() {
        let (x, w) = (noise(&[2, 3, 19], 1), noise(&[19], 2));
        let y = x.to_kind(Kind::Double);
        let mean = (&y * &y).mean_dim([-1i64].as_slice(), true, Kind::Double);
        let want = y * (mean + 1e-3).rsqrt() * (w.to_kind(Kind::Double) + 1.0);
        assert!(gap(&rms_norm(&x, &w, 1e-3, 1.0).unwrap(), &want) < 1e-6);
    }

    #[test]
    fn a_step_of_attention_is_its_formula() {
        let (heads, groups, d, n, b) = (6, 2, 20, 9, 2);
        let (q, k, v) =
            (noise(&[b, heads, 1, d], 1), noise(&[b, groups, n, d], 2), noise(&[b, groups, n, d], 3));
        let last = |t: &Tensor| t.narrow(2, n - 1, 1).reshape([b, groups * d]);
        let qkv = Tensor::cat(&[q.reshape([b, heads * d]), last(&k), last(&v)], 1);
        let room = |t: &Tensor| Tensor::cat(&[t.narrow(2, 0, n - 1), t.narrow(2, 0, 4) * f64::NAN], 2);
        let spread = |t: &Tensor| t.repeat_interleave_self_int(heads / groups, 1, None);
        let (full_k, full_v) = (spread(&k), spread(&v));
        for (pads, window, cap) in [
            ([0i64, 0], None, None),
            ([3, 0], None, Some(1.5)),
            ([0, 6], Some(4), None),
            ([8, 0], None, None),
        ] {
            let step = AttendStep { rotary: None, norms: None, eps: 1e-6, scale: 0.3, cap, window };
            let (keys, values) = (room(&k), room(&v));
            let got = step.apply(&qkv, (&keys, &values), &Tensor::from_slice(&pads), n - 1).unwrap();
            let mut s = q.matmul(&full_k.transpose(2, 3)) * 0.3;
            if let Some(c) = cap {
                s = (s / c).tanh() * c;
            }
            for (i, pad) in pads.into_iter().enumerate() {
                let hidden = pad.max(window.map_or(0, |w| n - w));
                let _ = s.get(i as i64).narrow(2, 0, hidden).fill_(f64::NEG_INFINITY);
            }
            let want = s.softmax(-1, Kind::Float).matmul(&full_v).reshape([b, heads * d]);
            assert!(gap(&got, &want) < 1e-5, "{pads:?} {window:?} {cap:?}");
            assert!(keys.narrow(2, 0, n).equal(&k) && values.narrow(2, 0, n).equal(&v));
        }
        let step = AttendStep { rotary: None, norms: None, eps: 1e-6, scale: 0.3, cap: None, window: None };
        let pads = Tensor::from_slice(&[0i64, 0]);
        assert!(step.apply(&qkv, (&room(&k), &room(&v)), &pads, n + 3).is_err());
    }
}

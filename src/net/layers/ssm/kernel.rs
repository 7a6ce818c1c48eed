//! Convolution kernels `K_l = 2 Re(C Ab^l Bb)`, without a tensor of size N times length.
//!
//! With `l = l1 L2 + l2` a kernel is the product of the rows `C Ab^(l1 L2)` and the columns `Ab^l2 Bb`: two lists of
//! about `sqrt(L)` vectors instead of L. For a diagonal Ab they are powers of numbers; for DPLR the lists double
//! with `Ab^(2^j)`, which any correction for a finite length needs as well. Powers are taken in double: phases of
//! thousands of radians do not survive in single precision, and a DPLR Ab is a contraction.

use std::f64::consts::PI;

use tch::{Device, Kind, Tensor};

use super::discrete::{Continuous, Discrete, complex_row, real_row, real_vector};
use crate::error::Result;

/// The second factor of the two-level split of `len`: a power of 2 near its root.
pub(super) fn columns_of(len: i64) -> i64 {
    let mut columns = 1;
    while columns * columns < len {
        columns *= 2;
    }
    columns
}

/// `Ab^l Bb` for `l < count` on `(Re, Im)`, `[H, N, count]` (`count` a power of 2), and `Ab^(2^j)` up to
/// `Ab^count`, each `[H, N, N]`.
pub(super) fn columns(system: &Discrete, count: i64) -> Result<(Tensor, Vec<Tensor>)> {
    let mut list = real_vector(&system.b)?.f_unsqueeze(-1)?;
    let mut squares = vec![system.matrix()?];
    while list.size()[2] < count {
        let last = &squares[squares.len() - 1];
        list = Tensor::f_cat(&[&list, &last.f_matmul(&list)?], -1)?;
        squares.push(last.f_matmul(last)?);
    }
    Ok((list, squares))
}

/// `C M^l` for at least `count` powers of M on `(Re, Im)`, `[H, rows channels, N]`, the channel fastest.
pub(super) fn rows(system: &Discrete, m: &Tensor, count: i64) -> Result<Tensor> {
    let channels = system.c.size()[0];
    let mut list = real_row(&system.c)?.f_permute([1, 0, 2])?;
    let mut m = m.shallow_clone();
    while list.size()[1] < count * channels {
        list = Tensor::f_cat(&[&list, &list.f_matmul(&m)?], 1)?;
        if list.size()[1] < count * channels {
            m = m.f_matmul(&m)?;
        }
    }
    list.f_narrow(1, 0, count * channels).map_err(Into::into)
}

/// The kernels of all features, double, `[channels, H, len]`.
pub(super) fn kernel(system: &Discrete, len: i64) -> Result<Tensor> {
    let count = columns_of(len);
    let levels = (len + count - 1) / count;
    let (columns, rows) = match &system.log_d {
        Some(log_d) => powers(system, log_d, count, levels)?,
        None => {
            let (columns, squares) = columns(system, count)?;
            let rows = rows(system, &squares[squares.len() - 1], levels)?;
            (columns, rows)
        }
    };
    let (features, channels) = (columns.size()[0], system.c.size()[0]);
    let product = rows.f_matmul(&columns)?.f_reshape([features, levels, channels, count])?;
    let whole = product.f_permute([2, 0, 1, 3])?.f_reshape([channels, features, levels * count])?;
    Ok(whole.f_narrow(2, 0, len)?)
}

/// Columns `[H, N, count]` and rows `[H, levels channels, N]` of a diagonal system.
fn powers(system: &Discrete, log_d: &Tensor, count: i64, levels: i64) -> Result<(Tensor, Tensor)> {
    let steps = |n: i64, step: i64| -> Result<Tensor> {
        Ok(Tensor::f_arange(n, (Kind::Double, log_d.device()))?.f_mul_scalar(step as f64)?)
    };
    let log = log_d.f_unsqueeze(-1)?;
    let list = log.f_mul(&steps(count, 1)?)?.f_exp()?.f_mul(&system.b.f_unsqueeze(-1)?)?;
    let columns = Tensor::f_cat(&[list.f_real()?, list.f_imag()?], 1)?;
    // [H, levels, 1, N/2] times [H, 1, channels, N/2].
    let list = log.f_mul(&steps(levels, count)?)?.f_exp()?.f_transpose(1, 2)?.f_unsqueeze(2)?;
    let list = list.f_mul(&system.c.f_permute([1, 0, 2])?.f_unsqueeze(1)?)?;
    Ok((columns, real_row(&list.f_flatten(1, 2)?)?))
}

/// `exp(-2 pi i k/len)` for `k = 0 ..= len/2` as real and imaginary parts: computed in double, rounded once.
#[allow(clippy::cast_precision_loss)]
fn nodes(len: i64, device: Device) -> Result<(Tensor, Tensor)> {
    let k = Tensor::f_arange(len / 2 + 1, (Kind::Double, device))?.f_mul_scalar(-2.0 * PI / len as f64)?;
    Ok((k.f_cos()?, k.f_sin()?))
}

/// The DPLR kernels from their generating function at the roots of unity (Gu et al. 2022, algorithm 1), in the form
/// without a pole at -1, in `kind` (f32 or f64): `[channels, H, len]`. It holds `N len` complex values per feature;
/// kept for checks.
pub(super) fn by_cauchy(
    continuous: &Continuous,
    system: &Discrete,
    len: i64,
    kind: Kind,
) -> Result<Option<Tensor>> {
    let Some(p) = &continuous.p else { return Ok(None) };
    // The correction for a kernel that ends: Ct = C (I - Ab^len).
    let row = real_row(&system.c)?.f_permute([1, 0, 2])?;
    let ended = row.f_sub(&row.f_matmul(&system.matrix()?.f_linalg_matrix_power(len)?)?)?;
    let ct = complex_row(&ended.f_permute([1, 0, 2])?)?;
    let parts = [&continuous.a, &continuous.b, &ct, p].map(|t| (t.f_real(), t.f_imag()));
    let mut cast = Vec::new();
    for (re, im) in parts {
        cast.push(Tensor::f_complex(&re?.f_to_kind(kind)?, &im?.f_to_kind(kind)?)?);
    }
    let dt = continuous.dt.f_to_kind(kind)?;
    cauchy(&cast[0], &cast[1], &cast[2], &cast[3], &dt, len).map(Some)
}

/// The kernel of the DPLR system with diagonal `a`, `b` `[H, N/2]`, row `ct` `[channels, H, N/2]` already corrected
/// for the length, `p` `[rank, H, N/2]` (complex) and `dt` `[H, 1]`: with
/// `r(v)_k = sum over both halves of v/(2(1 - om_k) - (1 + om_k) dt a)`,
/// `K^_k = 2 [r00 - (1 + om) r01 (1 + (1 + om) r11)^-1 r10]`.
///
/// # Errors
/// Where shapes do not fit, or libtorch fails.
pub fn cauchy(a: &Tensor, b: &Tensor, ct: &Tensor, p: &Tensor, dt: &Tensor, len: i64) -> Result<Tensor> {
    let kind = dt.kind();
    let (cos, sin) = nodes(len, a.device())?;
    let minus = |t: &Tensor| t.f_neg()?.f_add_scalar(1.0);
    let two = Tensor::f_complex(
        &minus(&cos)?.f_mul_scalar(2.0)?.f_to_kind(kind)?,
        &sin.f_mul_scalar(-2.0)?.f_to_kind(kind)?,
    )?;
    let plus = Tensor::f_complex(&cos.f_add_scalar(1.0)?.f_to_kind(kind)?, &sin.f_to_kind(kind)?)?;
    let conj = |t: &Tensor| t.f_conj()?.f_resolve_conj();
    let both = |t: &Tensor| -> Result<Tensor> { Ok(Tensor::f_cat(&[t, &conj(t)?], -1)?) };
    // [H, N, K].
    let x = both(&a.f_mul(dt)?)?.f_unsqueeze(-1)?;
    let weights = two.f_sub(&plus.f_mul(&x)?)?.f_reciprocal()?;
    // Rows (C channels, then P^*) times columns (B, then P): [H, rows, columns, N].
    let rows = Tensor::f_cat(&[ct, &conj(p)?], 0)?.f_permute([1, 0, 2])?.f_unsqueeze(2)?;
    let columns = Tensor::f_cat(&[&b.f_unsqueeze(0)?, p], 0)?.f_permute([1, 0, 2])?.f_unsqueeze(1)?;
    let products = both(&rows.f_mul(&columns)?.f_mul(&dt.f_unsqueeze(-1)?.f_unsqueeze(-1)?)?)?;
    let sizes = products.size();
    let r = products.f_flatten(1, 2)?.f_matmul(&weights)?.f_reshape([sizes[0], sizes[1], sizes[2], -1])?;
    // [H, K, rows, columns].
    let r = r.f_permute([0, 3, 1, 2])?;
    let (channels, rank) = (ct.size()[0], p.size()[0]);
    let block = |i: i64, n: i64, j: i64, m: i64| r.f_narrow(2, i, n)?.f_narrow(3, j, m);
    let plus = plus.f_unsqueeze(-1)?.f_unsqueeze(-1)?;
    let inner = block(channels, rank, 1, rank)?.f_mul(&plus)?;
    let solved = if rank == 1 {
        block(channels, rank, 0, 1)?.f_divide(&inner.f_add_scalar(1.0)?)?
    } else {
        let eye = Tensor::f_eye(rank, (inner.kind(), inner.device()))?;
        Tensor::f_linalg_inv(&inner.f_add(&eye)?)?.f_matmul(&block(channels, rank, 0, 1)?)?
    };
    let pulled = block(0, channels, 1, rank)?.f_mul(&plus)?.f_matmul(&solved)?;
    let hat = block(0, channels, 0, 1)?.f_sub(&pulled)?.f_mul_scalar(2.0)?;
    // [channels, H, K].
    Ok(hat.f_squeeze_dim(-1)?.f_permute([2, 0, 1])?.f_fft_irfft(len, -1, "backward")?)
}

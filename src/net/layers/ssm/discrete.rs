//! The recurrence of a continuous system: `x_k = Ab x_{k-1} + Bb u_k`, `y_k = 2 Re(C x_k)`.

use tch::{Kind, Tensor};

use super::config::Discretisation;
use crate::error::Result;

/// A continuous system of every feature, its stored half: complex double tensors.
#[derive(Debug)]
pub(super) struct Continuous {
    /// Diagonal of A, `[H, N/2]`.
    pub a: Tensor,
    /// B, `[H, N/2]`.
    pub b: Tensor,
    /// C of each channel, `[channels, H, N/2]`.
    pub c: Tensor,
    /// P of `A = diag(a) - P P^*`, `[rank, H, N/2]`.
    pub p: Option<Tensor>,
    /// Step sizes, real, `[H, 1]`.
    pub dt: Tensor,
}

/// A recurrence of every feature, its stored half, as complex double tensors. The matrix is
/// `Ab x = d x - sum_j p_j 2 Re(w_j . x)`: diagonal minus low rank again, O(N) per step.
#[derive(Debug)]
pub struct Discrete {
    /// Diagonal, `[H, N/2]`.
    pub d: Tensor,
    /// The logarithm of the diagonal where there is nothing else.
    pub(super) log_d: Option<Tensor>,
    /// Columns p and rows w, each `[rank, H, N/2]`.
    pub low_rank: Option<(Tensor, Tensor)>,
    /// Ab in full, real, `[H, N, N]`, where it has no such form (zero-order hold of a DPLR system); acts on
    /// `(Re x, Im x)`.
    pub dense: Option<Tensor>,
    /// Bb, `[H, N/2]`.
    pub b: Tensor,
    /// C of each channel, `[channels, H, N/2]`.
    pub c: Tensor,
}

/// `(Re z, Im z)` along the last dimension.
pub(super) fn real_vector(z: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_cat(&[z.f_real()?, z.f_imag()?], -1)?)
}

/// The row r with `r . (Re x, Im x) = 2 Re(z . x)`.
pub(super) fn real_row(z: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_cat(&[z.f_real()?.f_mul_scalar(2.0)?, z.f_imag()?.f_mul_scalar(-2.0)?], -1)?)
}

/// The complex row of a real one: the inverse of [`real_row`].
pub(super) fn complex_row(row: &Tensor) -> Result<Tensor> {
    let parts = row.f_chunk(2, -1)?;
    Ok(Tensor::f_complex(&parts[0].f_mul_scalar(0.5)?, &parts[1].f_mul_scalar(-0.5)?)?)
}

/// `diag(d) - sum_j p_j 2 Re(w_j .)` on `(Re x, Im x)`: `[H, N, N]`.
pub(super) fn real_matrix(d: &Tensor, low_rank: Option<&(Tensor, Tensor)>) -> Result<Tensor> {
    let (re, im) = (d.f_real()?.f_diag_embed(0, -2, -1)?, d.f_imag()?.f_diag_embed(0, -2, -1)?);
    let top = Tensor::f_cat(&[&re, &im.f_neg()?], -1)?;
    let diagonal = Tensor::f_cat(&[&top, &Tensor::f_cat(&[&im, &re], -1)?], -2)?;
    let Some((p, w)) = low_rank else { return Ok(diagonal) };
    let columns = real_vector(p)?.f_permute([1, 2, 0])?;
    let rows = real_row(w)?.f_permute([1, 0, 2])?;
    Ok(diagonal.f_sub(&columns.f_matmul(&rows)?)?)
}

/// `(exp(x) - 1)/x` of complex x, 1 at 0.
fn phi(x: &Tensor) -> Result<Tensor> {
    let (re, im) = (x.f_real()?, x.f_imag()?);
    // exp(re) cos(im) - 1 without cancellation.
    let half = im.f_mul_scalar(0.5)?.f_sin()?.f_square()?.f_mul_scalar(2.0)?;
    let real = re.f_expm1()?.f_mul(&im.f_cos()?)?.f_sub(&half)?;
    let imag = re.f_exp()?.f_mul(&im.f_sin()?)?;
    let numerator = Tensor::f_complex(&real, &imag)?;
    let zero = x.f_abs()?.f_eq(0.0)?;
    let one = x.f_ones_like()?;
    let quotient = numerator.f_divide(&one.f_where_self(&zero, x)?)?;
    Ok(one.f_where_self(&zero, &quotient)?)
}

impl Continuous {
    /// The recurrence.
    pub(super) fn discretise(&self, rule: Discretisation) -> Result<Discrete> {
        let x = self.a.f_mul(&self.dt)?;
        let c = self.c.shallow_clone();
        if rule == Discretisation::Zoh {
            return match &self.p {
                None => {
                    let b = self.b.f_mul(&self.dt)?.f_mul(&phi(&x)?)?;
                    Ok(Discrete { d: x.f_exp()?, log_d: Some(x), low_rank: None, dense: None, b, c })
                }
                Some(p) => self.dense_zoh(p, c),
            };
        }
        let half = x.f_mul_scalar(0.5)?;
        let e = half.f_neg()?.f_add_scalar(1.0)?.f_reciprocal()?;
        let d = half.f_add_scalar(1.0)?.f_mul(&e)?;
        let eb = self.b.f_mul(&e)?.f_mul(&self.dt)?;
        let Some(p) = &self.p else {
            let log_d = d.f_log()?;
            return Ok(Discrete { d, log_d: Some(log_d), low_rank: None, dense: None, b: eb, c });
        };
        // (2/dt - A) x' = (2/dt + A) x + 2 B u with A = diag(a) - P P^*; the r real numbers tau = P^* x' follow
        // from (I + G) tau = ..., G = P^* (2/dt - diag(a))^-1 P (Woodbury), and everything collects into one row
        // of x and one multiple of u.
        let conj = p.f_conj()?.f_resolve_conj()?;
        let ep = p.f_mul(&e)?;
        let rows = |z: &Tensor| -> Result<Tensor> { Ok(real_row(z)?.f_permute([1, 0, 2])?) };
        let columns = |z: &Tensor| -> Result<Tensor> { Ok(real_vector(z)?.f_permute([1, 2, 0])?) };
        let dt = self.dt.f_unsqueeze(-1)?;
        let g = rows(&conj)?.f_matmul(&columns(&ep)?)?.f_mul(&dt)?.f_mul_scalar(0.5)?;
        let rank = p.size()[0];
        let eye = Tensor::f_eye(rank, (Kind::Double, p.device()))?;
        let inverse = g.f_add(&eye)?;
        let inverse = if rank == 1 { inverse.f_reciprocal()? } else { Tensor::f_linalg_inv(&inverse)? };
        // [H, r]: 2 Re(P^* e B) dt.
        let beta = rows(&conj)?.f_matmul(&real_vector(&eb)?.f_unsqueeze(-1)?)?;
        let pulled = inverse.f_matmul(&beta)?.f_permute([1, 0, 2])?;
        let w = conj.f_mul(&e)?.f_mul_scalar(2.0)?.f_permute([1, 0, 2])?;
        let w = inverse.f_to_kind(Kind::ComplexDouble)?.f_matmul(&w)?.f_permute([1, 0, 2])?;
        let p = ep.f_mul(&self.dt)?.f_mul_scalar(0.5)?;
        let b =
            eb.f_sub(&p.f_mul(&pulled)?.f_sum_dim_intlist([0i64].as_slice(), false, Kind::ComplexDouble)?)?;
        Ok(Discrete { d, log_d: None, low_rank: Some((p, w)), dense: None, b, c })
    }

    /// Zero-order hold of a DPLR system: the exponential of `[[A, B], [0, 0]] dt` holds Ab and Bb.
    fn dense_zoh(&self, p: &Tensor, c: Tensor) -> Result<Discrete> {
        let conj = p.f_conj()?.f_resolve_conj()?;
        let a = real_matrix(&self.a, Some(&(p.shallow_clone(), conj)))?;
        let n = a.size()[1];
        let top = Tensor::f_cat(&[a, real_vector(&self.b)?.f_unsqueeze(-1)?], -1)?;
        let augmented = top.f_constant_pad_nd([0, 0, 0, 1])?.f_mul(&self.dt.f_unsqueeze(-1)?)?;
        let whole = augmented.f_matrix_exp()?.f_narrow(1, 0, n)?;
        let b = whole.f_select(2, n)?.f_chunk(2, -1)?;
        let b = Tensor::f_complex(&b[0].f_contiguous()?, &b[1].f_contiguous()?)?;
        let dense = whole.f_narrow(2, 0, n)?.f_contiguous()?;
        Ok(Discrete { d: self.a.f_zeros_like()?, log_d: None, low_rank: None, dense: Some(dense), b, c })
    }
}

impl Discrete {
    /// Ab in full on `(Re x, Im x)`, `[H, N, N]`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn matrix(&self) -> Result<Tensor> {
        match &self.dense {
            Some(dense) => Ok(dense.shallow_clone()),
            None => real_matrix(&self.d, self.low_rank.as_ref()),
        }
    }
}

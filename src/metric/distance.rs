//! Squared Euclidean distances in blocks, in f64: memory never grows with n x m.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// Rows in one block.
pub const BLOCK: usize = 2048;

/// Rows of a feature matrix `[n, d]`.
///
/// # Errors
/// Where it is not a matrix.
pub fn rows(x: &Tensor) -> Result<(usize, usize)> {
    match x.size().as_slice() {
        &[n, d] => Ok((usize::try_from(n).unwrap_or(0), usize::try_from(d).unwrap_or(0))),
        other => Err(Error::run(format!("features of shape {other:?}, a matrix is needed"))),
    }
}

/// Checks that two feature matrices have the same width.
///
/// # Errors
/// Where they have not; both widths are named.
pub fn same_width(x: &Tensor, y: &Tensor) -> Result<usize> {
    let (dx, dy) = (rows(x)?.1, rows(y)?.1);
    if dx == dy {
        return Ok(dx);
    }
    Err(Error::data("features of different extractors").why(format!("{dx} and {dy} numbers per image")))
}

/// Rows `start .. start + len` of `x` as f64.
///
/// # Errors
/// Where libtorch fails.
pub fn block(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    Ok(x.f_narrow(0, start as i64, len as i64)?.f_to_kind(Kind::Double)?)
}

/// The blocks of `n` rows: start and length of each.
pub fn blocks(n: usize, size: usize) -> impl Iterator<Item = (usize, usize)> {
    let size = size.max(1);
    (0..n.div_ceil(size)).map(move |i| (i * size, size.min(n - i * size)))
}

/// `|u|^2 - 2 u.v + |v|^2`, not below 0, `[a, b]` f64.
///
/// # Errors
/// Where libtorch fails.
pub fn squared(u: &Tensor, v: &Tensor) -> Result<Tensor> {
    let norm = |x: &Tensor| x.f_square()?.f_sum_dim_intlist(1i64, false, Kind::Double);
    let mut product = u.f_matmul(&v.f_transpose(0, 1)?)?;
    let mut sum =
        product.f_mul_scalar_(-2.0)?.f_add_(&norm(u)?.f_unsqueeze(1)?)?.f_add_(&norm(v)?.f_unsqueeze(0)?)?;
    Ok(sum.f_clamp_min_(0.0)?)
}

/// Puts `value` on the diagonal of the whole matrix that lies in the block at (`row`, `column`).
///
/// # Errors
/// Where libtorch fails.
pub fn set_diagonal(block: &Tensor, row: usize, column: usize, value: f64) -> Result<()> {
    let (h, w) = rows(block)?;
    if row + h <= column || column + w <= row {
        return Ok(());
    }
    // Entry (i, j) is on the diagonal where row + i = column + j.
    let offset = row as i64 - column as i64;
    let _ = block.f_diagonal(offset, 0, 1)?.f_fill_(value)?;
    Ok(())
}

/// Squared distances from every row of `x` to its k nearest other rows, ascending, `[n, k]` f64 on the CPU.
///
/// # Errors
/// Where there are not more than k rows.
pub fn nearest_others(x: &Tensor, k: usize, block_size: usize) -> Result<Tensor> {
    let (n, _) = rows(x)?;
    if k == 0 || k >= n {
        return Err(Error::data("too few images")
            .why(format!("{k} nearest neighbours asked of {n} images"))
            .hint("give more images, or a smaller --pr-k or --prdc-k"));
    }
    let mut out = Vec::new();
    for (i, height) in blocks(n, block_size) {
        let u = block(x, i, height)?;
        let mut best: Option<Tensor> = None;
        for (j, width) in blocks(n, block_size) {
            let d = squared(&u, &block(x, j, width)?)?;
            set_diagonal(&d, i, j, f64::INFINITY)?;
            let all = match best {
                Some(best) => Tensor::f_cat(&[best, d], 1)?,
                None => d,
            };
            let keep = (k as i64).min(all.size2()?.1);
            best = Some(all.f_topk(keep, 1, false, true)?.0);
        }
        out.extend(best);
    }
    Ok(Tensor::f_cat(&out, 0)?.f_to_device(Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::bytes::tensor_to_f64;

    #[test]
    fn neighbours_do_not_count_the_point_itself() {
        let x = Tensor::from_slice(&[0f64, 1.0, 2.0, 3.0, 10.0]).view([5, 1]);
        for size in [1, 2, 3, 100] {
            let near = tensor_to_f64(&nearest_others(&x, 2, size).unwrap()).unwrap();
            assert_eq!(near, [1.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 49.0, 64.0]);
        }
        assert!(nearest_others(&x, 5, 10).is_err());
        assert!(same_width(&x, &Tensor::zeros([2, 3], (Kind::Float, Device::Cpu))).is_err());
    }
}

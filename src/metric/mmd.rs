//! Maximum mean discrepancy with the cubic polynomial kernel `k(x, y) = (x.y/d + 1)^3` (Gretton et al. 2012, "A
//! kernel two-sample test", equation 3: the unbiased estimator; kernel of Binkowski et al. 2018).

use tch::{Kind, Tensor};

use super::distance::{block, blocks, rows, same_width, set_diagonal};
use crate::error::{Error, Result};

/// Sum of the kernel over all pairs of rows of `x` and `y`; without the pairs (i, i) if `skip_diagonal`.
fn kernel_sum(x: &Tensor, y: &Tensor, d: usize, skip_diagonal: bool, block_size: usize) -> Result<f64> {
    let (n, m) = (rows(x)?.0, rows(y)?.0);
    let mut total: Option<Tensor> = None;
    for (i, height) in blocks(n, block_size) {
        let u = block(x, i, height)?;
        for (j, width) in blocks(m, block_size) {
            let mut product = u.f_matmul(&block(y, j, width)?.f_transpose(0, 1)?)?;
            #[allow(clippy::cast_precision_loss)]
            let kernel = product.f_div_scalar_(d as f64)?.f_add_scalar_(1.0)?.f_pow_tensor_scalar(3)?;
            if skip_diagonal {
                set_diagonal(&kernel, i, j, 0.0)?;
            }
            let sum = kernel.f_sum(Kind::Double)?;
            total = Some(match total {
                Some(total) => total.f_add(&sum)?,
                None => sum,
            });
        }
    }
    // One read of the device after all blocks.
    Ok(total.map_or(Ok(0.0), |t| t.f_double_value(&[]))?)
}

/// Unbiased squared MMD between features `[n, d]` and `[m, d]`; it may be negative.
///
/// `block_size` bounds memory and does not change the value beyond rounding.
///
/// # Errors
/// Where widths differ, or a set has fewer than two rows.
#[allow(clippy::cast_precision_loss)]
pub fn unbiased_mmd2(x: &Tensor, y: &Tensor, block_size: usize) -> Result<f64> {
    let d = same_width(x, y)?;
    let (n, m) = (rows(x)?.0, rows(y)?.0);
    if n < 2 || m < 2 {
        return Err(Error::data("too few images").why(format!("{n} and {m}, at least 2 are needed")));
    }
    let (nf, mf) = (n as f64, m as f64);
    let xx = kernel_sum(x, x, d, true, block_size)? / (nf * (nf - 1.0));
    let yy = kernel_sum(y, y, d, true, block_size)? / (mf * (mf - 1.0));
    let xy = kernel_sum(x, y, d, false, block_size)? / (nf * mf);
    Ok(xx + yy - 2.0 * xy)
}

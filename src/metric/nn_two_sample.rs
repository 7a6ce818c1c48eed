//! Leave-one-out 1-nearest-neighbour two-sample accuracy (Lopez-Paz and Oquab 2017, "Revisiting classifier
//! two-sample tests"): the share of points whose nearest other point is of their own set. 0.5 means that the
//! sets cannot be told apart, 1 that they are separate, below 0.5 that one copies the other.

use tch::{Kind, Tensor};

use super::distance::{BLOCK, block, blocks, rows, same_width, set_diagonal, squared};
use crate::error::{Error, Result};

/// Accuracy over the union of `x` `[n, d]` and `y` `[m, d]`; the sets should be equally large, as otherwise
/// 0.5 is not the value of equal distributions.
///
/// # Errors
/// Where widths differ, or there are fewer than two points.
#[allow(clippy::cast_precision_loss)]
pub fn nn_two_sample(x: &Tensor, y: &Tensor) -> Result<f64> {
    same_width(x, y)?;
    let (n, m) = (rows(x)?.0, rows(y)?.0);
    if n == 0 || m == 0 {
        return Err(Error::data("too few images").why(format!("{n} and {m}, at least 1 of each is needed")));
    }
    let all = Tensor::f_cat(&[x.f_to_kind(Kind::Double)?, y.f_to_kind(Kind::Double)?], 0)?;
    let total = n + m;
    let mut own = Vec::new();
    for (i, height) in blocks(total, BLOCK) {
        let u = block(&all, i, height)?;
        let mut best: Option<(Tensor, Tensor)> = None;
        for (j, width) in blocks(total, BLOCK) {
            let d = squared(&u, &block(&all, j, width)?)?;
            set_diagonal(&d, i, j, f64::INFINITY)?;
            let (near, at) = d.f_min_dim(1, false)?;
            let at = at.f_add_scalar(j as i64)?;
            best = Some(match best {
                Some((distance, index)) => {
                    let closer = near.f_lt_tensor(&distance)?;
                    (near.f_minimum(&distance)?, at.f_where_self(&closer, &index)?)
                }
                None => (near, at),
            });
        }
        let Some((_, index)) = best else { continue };
        let options = (Kind::Int64, index.device());
        let row = Tensor::f_arange_start(i as i64, (i + height) as i64, options)?;
        own.push(index.f_lt(n as i64)?.f_eq_tensor(&row.f_lt(n as i64)?)?);
    }
    let hits = Tensor::f_cat(&own, 0)?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
    Ok(hits as f64 / total as f64)
}

//! Layers: the pieces networks are made of. Each is a struct of handles on stored parameters.

use tch::Tensor;

use crate::error::Result;

pub mod attention;
pub mod conv;
pub mod embed;
pub mod init;
pub mod linear;
pub mod norm;
pub mod resample;
pub mod ssm;
pub mod tokens;
pub mod weight_norm;

/// SiLU of a value that nothing else needs: without gradients it overwrites its input.
///
/// # Errors
/// Where libtorch fails.
pub fn silu(x: Tensor) -> Result<Tensor> {
    if x.requires_grad() {
        return Ok(x.f_silu()?);
    }
    let mut x = x;
    Ok(x.f_silu_()?)
}

/// Dropout with probability `p`, if `on`.
///
/// # Errors
/// Where libtorch fails.
pub fn dropout(x: Tensor, p: f64, on: bool) -> Result<Tensor> {
    if on && p > 0.0 { Ok(x.f_dropout(p, true)?) } else { Ok(x) }
}

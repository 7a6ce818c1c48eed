//! The tensors of a SaShiMi checkpoint as this project has them.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::Tensors;
use super::names::Names;
use crate::error::{Error, Result};
use crate::io::bytes::tensor_to_f64;
use crate::net::layers::ssm::{S4, S4Config};
use crate::net::sashimi::SashimiConfig;
use crate::net::store::Store;

/// End of the names that say for which length a layer's C was corrected.
const LENGTH: &str = ".kernel.l_kernel";

/// The tensors, with plain C in every layer; also the length of the training clips, if a layer says it.
pub(super) fn tensors(names: &Names<'_>, config: &SashimiConfig) -> Result<(Tensors, Option<i64>)> {
    let mut out = BTreeMap::new();
    let mut lengths = BTreeMap::new();
    for (name, file) in &names.list {
        let tensor = names.source.tensor(file)?;
        if let Some(layer) = name.strip_suffix(LENGTH) {
            lengths.insert(layer.to_owned(), length(&tensor, file)?);
            continue;
        }
        out.insert(name.clone(), shaped(&tensor, name, names.old)?);
    }
    for (layer, &length) in lengths.iter().filter(|(_, length)| **length > 0) {
        plain_c(&mut out, layer, length, &config.layer)?;
    }
    Ok((out, lengths.values().copied().max().filter(|&length| length > 0)))
}

#[allow(clippy::cast_possible_truncation)]
fn length(tensor: &Tensor, name: &str) -> Result<i64> {
    match tensor_to_f64(tensor)?[..] {
        [value] if (0.0..1e9).contains(&value) && value.fract() == 0.0 => Ok(value as i64),
        _ => Err(Error::model(format!("tensor `{name}`")).why("it is no length")),
    }
}

/// Convolutions of one tap as linear maps, and what older versions stored otherwise.
fn shaped(tensor: &Tensor, name: &str, old: bool) -> Result<Tensor> {
    let size = tensor.size();
    let one_tap = size.len() == 3 && size[2] == 1 && name.ends_with("weight");
    if one_tap {
        return Ok(tensor.f_squeeze_dim(2)?);
    }
    if name.ends_with(".kernel.inv_dt") && size.len() == 1 {
        return Ok(tensor.f_unsqueeze(1)?);
    }
    if old && name.ends_with(".kernel.A_imag") {
        return Ok(tensor.f_neg()?);
    }
    Ok(tensor.f_to_kind(tensor.kind())?)
}

/// Undoes the correction of the C of the layer at `at`, `C (I - Ab^length)`.
fn plain_c(tensors: &mut Tensors, at: &str, length: i64, config: &S4Config) -> Result<()> {
    let start = format!("{at}.");
    let own: Tensors = tensors
        .range(start.clone()..)
        .map_while(|(name, t)| Some((name.strip_prefix(&start)?.to_owned(), t.shallow_clone())))
        .collect();
    let width = own.get("D").map(Tensor::size).and_then(|size| size.last().copied()).unwrap_or(0);
    let copies = own.get("kernel.A_real").map_or(0, |a| a.size()[0]);
    let config = S4Config { n_ssm: copies, d_model: width, ..config.clone() };
    let store = Store::empty(Device::Cpu, Kind::Double);
    let layer = S4::new(&store.root(), &config).map_err(|e| e.at(at))?;
    store.load(&own, at)?;
    let name = format!("{at}.kernel.C");
    if let Some(c) = tensors.get_mut(&name) {
        *c = tch::no_grad(|| layer.uncorrected(length))?.f_to_kind(c.kind())?;
    }
    Ok(())
}

/// A layer of the standalone S4D file (`D` `[H]`, `kernel.{C, log_dt, log_A_real, A_imag}`,
/// `output_linear.0.{weight, bias}`), whose names in `tensors` start with `prefix`, by the names of this project's
/// block: `layer.D`, `layer.kernel.*`, `output_linear.0.*`. Its options are `mode = s4d`, zero-order hold,
/// `dt_transform = exp` and `n_ssm = 0`.
///
/// # Errors
/// A model error where a tensor is missing or has another shape.
pub fn s4d_layer(tensors: &Tensors, prefix: &str) -> Result<Tensors> {
    let get = |name: &str, dims: usize| -> Result<&Tensor> {
        let full = format!("{prefix}{name}");
        let tensor = tensors
            .get(&full)
            .ok_or_else(|| Error::model(format!("the S4D layer has no tensor `{full}`")))?;
        if tensor.dim() == dims {
            return Ok(tensor);
        }
        Err(Error::model(format!("tensor `{full}`")).why(format!("it has shape {:?}", tensor.size())))
    };
    let c = get("kernel.C", 3)?;
    // The file keeps the half with positive imaginary parts, this project the other: C is conjugated, B is 1.
    let signs = Tensor::f_from_slice(&[1f32, -1.0])?.f_to_kind(c.kind())?;
    let b = Tensor::f_from_slice(&[1f32, 0.0])?.f_to_kind(c.kind())?;
    let size = c.size();
    Ok([
        ("layer.D", get("D", 1)?.f_unsqueeze(0)?),
        ("layer.kernel.inv_dt", get("kernel.log_dt", 1)?.f_unsqueeze(1)?),
        ("layer.kernel.A_real", get("kernel.log_A_real", 2)?.shallow_clone()),
        ("layer.kernel.A_imag", get("kernel.A_imag", 2)?.shallow_clone()),
        ("layer.kernel.B", b.f_expand([1, size[0], size[1], 2], false)?.f_contiguous()?),
        ("layer.kernel.C", c.f_mul(&signs)?.f_unsqueeze(0)?),
        ("output_linear.0.weight", get("output_linear.0.weight", 3)?.f_squeeze_dim(2)?),
        ("output_linear.0.bias", get("output_linear.0.bias", 1)?.shallow_clone()),
    ]
    .into_iter()
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .collect())
}

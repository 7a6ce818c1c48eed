//! Checkpoints of albertfgu/diffwave-sashimi with the SaShiMi network.
//!
//! Their state-space layers are of an older form than this project's: other names, the imaginary part of A with the
//! opposite sign, and `C` already multiplied by `I - Ab^L` for the length `L` in the file, which is undone here.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::diffwave::{ancestral, count, eps, mel, only_raw, shape, sized, steps_in_name, table};
use super::foreign::card;
use super::load::Loaded;
use super::open::OpenOptions;
use super::source::Source;
use crate::error::{Error, Result};
use crate::net::diffwave::DiffWaveSashimiConfig;
use crate::net::spec::NetSpec;

/// Where the weights may be.
const PLACES: [&str; 2] = ["model_state_dict.", ""];
/// Where the parameters of a unit's system are.
const SYSTEM: &str = "layer.kernel.kernel.";

/// The prefix of the names.
pub(super) fn place(source: &Source) -> Option<&'static str> {
    PLACES.into_iter().find(|place| {
        let has = |name: &str| source.shape(&format!("{place}{name}")).is_some();
        // Two of its names: one may be the fault of a damaged file.
        has("c_layers.0.layer.kernel.kernel.C") && has("fc_t1.weight")
            || has("c_layers.0.layer.kernel.kernel.inv_w_real") && has("init_conv.0.conv.weight_v")
    })
}

/// Reads the model.
pub(super) fn read(source: &Source, options: &OpenOptions) -> Result<Loaded> {
    let place = place(source).ok_or_else(|| Error::model("the checkpoint holds no SaShiMi"))?;
    only_raw(options)?;
    let mut notes = Vec::new();
    let (config, channels) = network(source, place)?;
    let process = table(source, options, (config.mel.is_some(), true), &mut notes)?;
    // The length that the kernels at the full rate were made for is that of the clips in training.
    let finest = format!("{place}{}", finest(&config));
    let length = kernel_length(source, &finest)?.filter(|length| length % config.stride() == 0);
    let shape = match (length, &options.raw.shape) {
        (Some(length), None) => vec![channels, length],
        _ => shape(options, channels, 16_000, &mut notes)?,
    };
    let tensors = renamed(source, place)?;
    let mut card =
        card(NetSpec::DiffWaveSashimi(config), process.clone(), eps(&process).into(), (shape, 0), None);
    card.sample = ancestral(&process, None);
    card.trained.steps = steps_in_name(source);
    Ok(Loaded::of_file(source.path(), card, tensors, notes))
}

/// The unit at the full rate that comes last, which every wiring has.
fn finest(config: &DiffWaveSashimiConfig) -> String {
    let units = i64::try_from(config.pool.len()).unwrap_or(0) * (config.n_layers + 1);
    if config.pool.is_empty() { "c_layers.0".to_owned() } else { format!("u_layers.{}", units - 1) }
}

fn network(source: &Source, place: &str) -> Result<(DiffWaveSashimiConfig, i64)> {
    let sized = |name: &str, dims| sized(source, &format!("{place}{name}"), dims);
    let wrong =
        |what: &str, why: String| Error::model(format!("{what} is that of no SaShiMi")).at(place).why(why);
    let first = sized("init_conv.0.conv.weight_v", 3)?;
    let (d_model, channels) = (first[0], first[1]);
    let n_layers = count(source, &format!("{place}c_layers."))?;
    // Pools are the layers with a linear map of their own.
    let layers = count(source, &format!("{place}d_layers.")).unwrap_or(0);
    let (mut pool, mut width, mut expand, mut unet) = (Vec::new(), d_model, 2, false);
    for i in 0..layers {
        let Some(linear) = source.shape(&format!("{place}d_layers.{i}.linear.conv.weight_v")) else {
            unet = true;
            continue;
        };
        if linear.len() != 3 || width < 1 || linear[1] % width != 0 || linear[0] % width != 0 {
            return Err(wrong("the pooling", format!("layer {i} maps {linear:?} at width {width}")));
        }
        pool.push(linear[1] / width);
        expand = linear[0] / width;
        width = linear[0];
    }
    let levels = i64::try_from(pool.len()).unwrap_or(0);
    if layers != levels * if unet { n_layers + 1 } else { 1 } {
        return Err(wrong(
            "the way down",
            format!("{layers} layers, {levels} of them pools, {n_layers} units"),
        ));
    }
    let inner = sized("c_layers.0.ff.ff.0.conv.weight_v", 3)?[0];
    if width < 1 || inner % width != 0 {
        return Err(wrong("the feed-forward block", format!("{inner} channels at width {width}")));
    }
    let c = sized(&format!("c_layers.0.{SYSTEM}C"), 4)?;
    let copies = sized(&format!("c_layers.0.{SYSTEM}inv_w_real"), 2)?[0];
    let config = DiffWaveSashimiConfig {
        d_model,
        n_layers,
        pool,
        expand,
        ff: inner / width,
        unet,
        mel: mel(source, &format!("{place}c_layers.0."))?,
        d_state: 2 * c[2],
        n_ssm: if copies == width { 0 } else { copies },
        bidirectional: c[0] == 2,
        ..DiffWaveSashimiConfig::default()
    };
    Ok((config, channels))
}

/// The length in a unit's system; none where it was never run.
fn kernel_length(source: &Source, unit: &str) -> Result<Option<i64>> {
    let name = format!("{unit}.{SYSTEM}L");
    let tensor = source.tensor(&name)?;
    if tensor.numel() != 1 || tensor.kind() != Kind::Int64 {
        return Err(Error::model(format!("tensor `{name}`")).why("it is no whole number"));
    }
    let length = tensor.f_int64_value(&[])?;
    if !(0..=1 << 30).contains(&length) {
        return Err(Error::model(format!("tensor `{name}`")).why(format!("{length} is no length")));
    }
    Ok((length > 0).then_some(length))
}

/// The tensors by the names of this project's network.
fn renamed(source: &Source, place: &str) -> Result<BTreeMap<String, Tensor>> {
    let mut out = BTreeMap::new();
    for name in source.names() {
        let Some(rest) = name.strip_prefix(place) else { continue };
        let Some((unit, parameter)) = rest.split_once(&format!(".{SYSTEM}")) else {
            out.insert(rest.to_owned(), source.tensor(name)?);
            continue;
        };
        let mut put =
            |to: &str, tensor: Tensor| drop(out.insert(format!("{unit}.layer.kernel.{to}"), tensor));
        match parameter {
            "L" => {}
            "C" => put("C", plain_c(source, &format!("{place}{unit}"))?),
            "log_dt" => put("inv_dt", source.tensor(name)?.f_unsqueeze(-1)?),
            "inv_w_real" => put("A_real", source.tensor(name)?),
            "w_imag" => put("A_imag", source.tensor(name)?.f_neg()?),
            other => put(other, source.tensor(name)?),
        }
    }
    Ok(out)
}

/// `C = Ct (I - Ab^L)^-1` of a unit, `[channels, H, N/2, 2]` in f64, over both halves of the conjugate pairs; what
/// is in the file where `L` is 0.
fn plain_c(source: &Source, unit: &str) -> Result<Tensor> {
    let name = |parameter: &str| format!("{unit}.{SYSTEM}{parameter}");
    let c = source.tensor(&name("C"))?;
    let Some(length) = kernel_length(source, unit)? else {
        return Ok(c);
    };
    let &[_, features, half, 2] = &c.size()[..] else {
        return Err(
            Error::model(format!("tensor `{}`", name("C"))).why(format!("it has shape {:?}", c.size()))
        );
    };
    let read = |parameter: &str, expected: &[i64]| -> Result<Tensor> {
        let tensor = source.tensor(&name(parameter))?;
        if tensor.size() != expected {
            return Err(Error::shape(&name(parameter), expected, &tensor.size()));
        }
        Ok(tensor.f_to_kind(Kind::Double)?)
    };
    let copies = sized(source, &name("inv_w_real"), 2)?[0];
    if features % copies != 0 {
        return Err(Error::model(format!("tensor `{}`", name("inv_w_real")))
            .why(format!("{copies} copies for {features} features")));
    }
    let real = read("inv_w_real", &[copies, half])?.f_exp()?.f_neg()?;
    let a = Tensor::f_complex(&real, &read("w_imag", &[copies, half])?)?;
    let p = read("P", &[1, copies, half, 2])?.f_view_as_complex()?.f_select(0, 0)?;
    let dt = read("log_dt", &[features])?.f_exp()?.f_view([features, 1, 1])?;
    let both = |x: &Tensor| -> Result<Tensor> {
        let times = features / copies;
        Ok(Tensor::f_cat(&[x, &x.f_conj_physical()?], -1)?.f_repeat([times, 1])?)
    };
    // A = Lambda - P P^*, and the bilinear rule.
    let (a, p) = (both(&a)?, both(&p)?);
    let low_rank = p.f_unsqueeze(-1)?.f_matmul(&p.f_conj_physical()?.f_unsqueeze(-2)?)?;
    let a = a.f_diag_embed(0, -2, -1)?.f_sub(&low_rank)?.f_mul(&dt.f_mul_scalar(0.5)?)?;
    let unit_matrix = Tensor::f_eye(2 * half, (Kind::ComplexDouble, tch::Device::Cpu))?;
    let step = Tensor::f_linalg_solve(&unit_matrix.f_sub(&a)?, &unit_matrix.f_add(&a)?, true)?;
    let rest = unit_matrix.f_sub(&step.f_linalg_matrix_power(length)?)?;
    // Rows: C (I - Ab^L) = Ct.
    let ct = c.f_to_kind(Kind::Double)?.f_contiguous()?.f_view_as_complex()?;
    let ct = Tensor::f_cat(&[&ct, &ct.f_conj_physical()?], -1)?.f_transpose(0, 1)?;
    let c = Tensor::f_linalg_solve(&rest, &ct, false)?.f_transpose(0, 1)?.f_narrow(2, 0, half)?;
    Ok(c.f_contiguous()?.f_view_as_real()?.f_contiguous()?)
}

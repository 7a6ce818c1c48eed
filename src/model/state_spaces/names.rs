//! The names of a SaShiMi checkpoint, brought to those of this project (the training code's of version 4).

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::model::source::Source;
use crate::net::layers::ssm::DtTransform;

/// The checkpoint's tensors by this project's names, and what the names say of the network.
#[derive(Debug)]
pub(super) struct Names<'a> {
    pub source: &'a Source,
    /// Name here, name in the file.
    pub list: BTreeMap<String, String>,
    pub unet: bool,
    pub pools: usize,
    /// Pairs of layers in a run.
    pub layers: i64,
    pub scalar_norm: bool,
    pub weight_norm: bool,
    /// Names of version 3 of the layer.
    pub old: bool,
    dt: Option<String>,
}

/// Prefix of the backbone here.
const MODEL: &str = "model.";

impl<'a> Names<'a> {
    pub(super) fn of(source: &'a Source, place: &str) -> Result<Self> {
        let rest: Vec<(&String, &str)> =
            source.names().iter().filter_map(|name| Some((name, name.strip_prefix(place)?))).collect();
        let inner = if rest.iter().any(|(_, name)| name.starts_with("model.c_layers.")) { MODEL } else { "" };
        let backbone = |name: &str| {
            name.strip_prefix(inner).is_some_and(|name| {
                ["d_layers.", "c_layers.", "u_layers.", "norm."].iter().any(|part| name.starts_with(part))
            })
        };
        let plain: Vec<(&String, String)> = rest
            .iter()
            .map(|(file, name)| {
                (
                    *file,
                    if backbone(name) {
                        format!("{MODEL}{}", &name[inner.len()..])
                    } else {
                        (*name).to_owned()
                    },
                )
            })
            .collect();
        let any = |test: &dyn Fn(&str) -> bool| plain.iter().any(|(_, name)| test(name));
        let old = any(&|name| name.contains(".layer.kernel.kernel."));
        let unet = any(&|name| name.starts_with("model.d_layers.0.layer."));
        let nested = any(&|name| name.starts_with("model.u_layers.0.0.linear."));
        let scalar_norm = any(&|name| name == "model.c_layers.0.norm.norm.m");
        let weight_norm = any(&|name| {
            name.ends_with(".linear.weight_g") || name.ends_with(".linear.parametrizations.weight.original0")
        });
        let last = |prefix: &str| {
            let numbers = plain.iter().filter_map(|(_, name)| name.strip_prefix(prefix)?.split('.').next());
            numbers.filter_map(|text| text.parse::<i64>().ok()).max().map_or(0, |last| last + 1)
        };
        let count = last("model.c_layers.");
        let pools = plain
            .iter()
            .filter(|(_, name)| name.starts_with("model.d_layers.") && name.ends_with(".linear.bias"))
            .count();
        if count < 2 || count % 2 == 1 || count as usize > plain.len() || pools > 8 {
            return Err(Error::model("the layers are not those of a SaShiMi")
                .why(format!("{count} layers at the lowest rate, {pools} pools")));
        }
        let mut list = BTreeMap::new();
        for (file, name) in &plain {
            let Some(name) = renamed(name, unet && nested, count, old) else { continue };
            if list.insert(name.clone(), (*file).clone()).is_some() {
                return Err(Error::model(format!("two tensors are `{name}`")));
            }
        }
        let dt = ["hyper_parameters.model.layer.dt_transform", "hyper_parameters.model.layer.0.dt_transform"]
            .iter()
            .find_map(|name| source.text(name))
            .map(str::to_owned);
        let layers = count / 2;
        Ok(Names { source, list, unet, pools, layers, scalar_norm, weight_norm, old, dt })
    }

    /// Shape of the tensor `name` of the backbone or of the embedding; `dims` of 0 for any number from 1 on.
    pub(super) fn shape(&self, name: &str, dims: usize) -> Result<&[i64]> {
        let full = if name.starts_with("encoder.") { name.to_owned() } else { format!("{MODEL}{name}") };
        let file = self
            .list
            .get(&full)
            .ok_or_else(|| Error::model(format!("the network has no tensor `{full}`")))?;
        match self.source.shape(file) {
            Some(shape) if !shape.is_empty() && (dims == 0 || dims == shape.len()) && !shape.contains(&0) => {
                Ok(shape)
            }
            other => Err(Error::model(format!("tensor `{file}`")).why(format!("it has shape {other:?}"))),
        }
    }

    /// Place of the way down from level `i`.
    pub(super) fn down_pool(&self, i: usize) -> String {
        let each = 2 * self.layers as usize;
        let at = if self.unet { i * (each + 1) + each } else { i };
        format!("d_layers.{at}")
    }

    /// Place of a state-space layer of level `i`.
    pub(super) fn ssm_at(&self, i: usize) -> String {
        let j = self.pools.saturating_sub(1 + i);
        match (i == self.pools, self.unet) {
            (true, _) => "c_layers.0".to_owned(),
            (false, true) => format!("u_layers.{}", j * (2 * self.layers as usize + 1) + 1),
            (false, false) => format!("u_layers.{j}.1"),
        }
    }

    /// (out, in) of the linear map at `at`.
    pub(super) fn map(&self, at: &str) -> Result<(i64, i64)> {
        let name = if self.weight_norm { "weight_v" } else { "weight" };
        let shape = self.shape(&format!("{at}.linear.{name}"), 0)?;
        match *shape {
            [out, input, ..] => Ok((out, input)),
            _ => {
                Err(Error::model(format!("tensor `{at}.linear.{name}`"))
                    .why(format!("it has shape {shape:?}")))
            }
        }
    }

    /// How step sizes are stored, and why that is assumed where the file does not say it.
    pub(super) fn dt_transform(&self) -> (DtTransform, Option<&'static str>) {
        match self.dt.as_deref() {
            Some("exp") => (DtTransform::Exp, None),
            Some("softplus") => (DtTransform::Softplus, None),
            _ if self.old => (DtTransform::Exp, None),
            _ if self.scalar_norm => (DtTransform::Softplus, Some("as the published training code has it")),
            _ => (DtTransform::Exp, Some("as the standalone file has it")),
        }
    }
}

/// The name here of what is `name` in the file; none for what follows from the rest.
fn renamed(name: &str, nested: bool, count: i64, old: bool) -> Option<String> {
    let mut name = name.to_owned();
    if let (true, Some(rest)) = (nested, name.strip_prefix("model.u_layers.")) {
        let mut parts = rest.splitn(3, '.');
        if let (Some(Ok(j)), Some(Ok(k)), Some(tail)) =
            (parts.next().map(str::parse::<i64>), parts.next().map(str::parse::<i64>), parts.next())
        {
            name = format!("model.u_layers.{}.{tail}", j.checked_mul(count + 1)?.checked_add(k)?);
        }
    }
    if old {
        name = name.replace(".layer.kernel.kernel.", ".layer.layer.kernel.");
        for end in [".layer.D", ".layer.kernel.L"] {
            if let Some(start) = name.strip_suffix(end).filter(|start| !start.ends_with(".layer")) {
                name = format!("{start}.layer{end}");
            }
        }
    }
    for (from, to) in [
        (".linear.parametrizations.weight.original0", ".linear.weight_g"),
        (".linear.parametrizations.weight.original1", ".linear.weight_v"),
        (".norm.norm.ln.weight", ".norm.weight"),
        (".norm.norm.ln.bias", ".norm.bias"),
        (".kernel.log_dt", ".kernel.inv_dt"),
        (".kernel.inv_w_real", ".kernel.A_real"),
        (".kernel.log_w_real", ".kernel.A_real"),
        (".kernel.w_imag", ".kernel.A_imag"),
        (".kernel.L", ".kernel.l_kernel"),
    ] {
        if let Some(start) = name.strip_suffix(from) {
            name = format!("{start}{to}");
        }
    }
    let derived = [".kernel.omega", ".kernel.z"].iter().any(|end| name.ends_with(end));
    (!derived).then_some(name)
}

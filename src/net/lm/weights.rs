//! Weights of Hugging Face files under the names of this house, copied from the mapped files into place: q, k and v of
//! the Llama family next to each other, GPT-2's `Conv1D` (stored `[in, out]`) transposed.

use std::collections::{BTreeMap, BTreeSet};

use tch::{Device, Kind, Tensor};

use super::{Lm, LmConfig};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::io::hub::{Entry, Weights};
use crate::net::store::Store;

/// Where a tensor of a file goes.
#[derive(Debug)]
struct Slot {
    dest: Tensor,
    transposed: bool,
}

/// The network of `config` on `device` with `weights`; parameters of two or more dimensions in `matrices`. Tied
/// embeddings that the file holds twice with different values are used as two, as transformers does.
///
/// # Errors
/// A model error where a name is missing or unknown, a shape differs, or a file is damaged.
pub fn load(config: &LmConfig, weights: &Weights, matrices: Kind, device: Device) -> Result<Lm> {
    let entries = weights.entries()?;
    let place = weights.place();
    let mut config = config.clone();
    if config.tied && tied_twice(&entries, weights)? {
        config.tied = false;
    }
    // On the CPU what goes through the network is f32.
    let vectors = if device == Device::Cpu && matrices != Kind::Double { Kind::Float } else { matrices };
    let store = Store::empty(device, vectors).with_matrices(matrices);
    let net =
        Lm::new(&store.root(), &config, config.context).map_err(|e| e.at(&place).kinded(ErrorKind::Model))?;
    let slots = slots(&config, &store)?;
    check(&slots, &entries, config.tied).map_err(|e| e.at(&place))?;
    let written = weights.copy_to(|name| {
        let slot = slots.get(canonical(name))?;
        Some((slot.dest.shallow_clone(), slot.transposed))
    })?;
    // Two names of one tensor ("transformer.h.0" and "h.0") cannot both be right.
    if written != slots.len() {
        return Err(Error::model("the weights name a tensor twice").at(&place));
    }
    store.set_requires_grad(false)?;
    Ok(net)
}

/// The name without the prefix that depends on the class that wrote the file.
fn canonical(name: &str) -> &str {
    let name = name.strip_prefix("transformer.").unwrap_or(name);
    name.strip_prefix("model.").unwrap_or(name)
}

/// Buffers that follow from the options.
fn ignored(name: &str) -> bool {
    name.ends_with(".attn.bias")
        || name.ends_with(".attn.masked_bias")
        || name.ends_with("rotary_emb.inv_freq")
}

/// Whether the output layer of tied embeddings is in the files, and not the same as the embedding.
fn tied_twice(entries: &[Entry], weights: &Weights) -> Result<bool> {
    let find = |wanted: &[&str]| {
        entries.iter().find(|e| wanted.contains(&canonical(&e.name))).map(|e| e.name.as_str())
    };
    let (Some(head), Some(embed)) = (find(&["lm_head.weight"]), find(&["wte.weight", "embed_tokens.weight"]))
    else {
        return Ok(false);
    };
    match (weights.tensor(head)?, weights.tensor(embed)?) {
        (Some(head), Some(embed)) if head.size() == embed.size() && head.kind() == embed.kind() => {
            Ok(!head.f_equal(&embed)?)
        }
        _ => Ok(true),
    }
}

/// Where each tensor of the files goes, by its name without prefix.
fn slots(config: &LmConfig, store: &Store) -> Result<BTreeMap<String, Slot>> {
    let mut out = BTreeMap::new();
    let gpt2 = config.positions == super::config::Positions::Learned;
    let blocks = if gpt2 { "h" } else { "layers" };
    let (heads, groups, d) = (config.heads * config.head(), config.groups() * config.head(), config.inner());
    for (name, tensor) in store.named() {
        let mut whole = |to: String, transposed: bool| {
            out.insert(to, Slot { dest: tensor.shallow_clone(), transposed });
        };
        let Some((i, part)) = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) else {
            let to = match (name.as_str(), gpt2) {
                ("embed.weight", true) => "wte.weight".to_owned(),
                ("embed.weight", false) => "embed_tokens.weight".to_owned(),
                ("positions.weight", _) => "wpe.weight".to_owned(),
                ("head.weight", _) => "lm_head.weight".to_owned(),
                (norm, true) => norm.replace("norm.", "ln_f."),
                (norm, false) => norm.to_owned(),
            };
            whole(to, false);
            continue;
        };
        let (layer, end) = part.rsplit_once('.').unwrap_or((part, ""));
        let prefix = format!("{blocks}.{i}");
        if gpt2 {
            let to = match layer {
                "norm1" => "ln_1",
                "norm2" => "ln_2",
                "attn.qkv" => "attn.c_attn",
                "attn.out" => "attn.c_proj",
                "feed.in" => "mlp.c_fc",
                _ => "mlp.c_proj",
            };
            whole(format!("{prefix}.{to}.{end}"), tensor.dim() == 2);
            continue;
        }
        let rows: Vec<(&str, i64)> = match layer {
            "attn.qkv" => {
                vec![("self_attn.q_proj", heads), ("self_attn.k_proj", groups), ("self_attn.v_proj", groups)]
            }
            "feed.in" => vec![("mlp.gate_proj", d), ("mlp.up_proj", d)],
            other => {
                let to = match (other, config.post_norms) {
                    ("norm1", _) => "input_layernorm",
                    ("norm2", false) | ("post1", _) => "post_attention_layernorm",
                    ("norm2", true) => "pre_feedforward_layernorm",
                    ("post2", _) => "post_feedforward_layernorm",
                    ("attn.q_norm", _) => "self_attn.q_norm",
                    ("attn.k_norm", _) => "self_attn.k_norm",
                    ("attn.out", _) => "self_attn.o_proj",
                    _ => "mlp.down_proj",
                };
                whole(format!("{prefix}.{to}.{end}"), false);
                continue;
            }
        };
        let mut from = 0;
        for (to, n) in rows {
            let dest = tensor.f_detach()?.f_narrow(0, from, n)?;
            out.insert(format!("{prefix}.{to}.{end}"), Slot { dest, transposed: false });
            from += n;
        }
    }
    Ok(out)
}

/// Checks names, shapes and types of all tensors before any is read.
fn check(slots: &BTreeMap<String, Slot>, entries: &[Entry], tied: bool) -> Result<()> {
    let names: BTreeSet<&str> = entries.iter().map(|e| canonical(&e.name)).collect();
    let missing: Vec<&str> = slots.keys().map(String::as_str).filter(|n| !names.contains(n)).collect();
    let known = |name: &str| slots.contains_key(name) || ignored(name) || (tied && name == "lm_head.weight");
    let unknown: Vec<&str> =
        entries.iter().map(|e| e.name.as_str()).filter(|n| !known(canonical(n))).collect();
    if !missing.is_empty() || !unknown.is_empty() {
        return Err(crate::net::store::misfit(&missing, &unknown)
            .hint("config.json and the weights must be of one model; download all of them again"));
    }
    for entry in entries {
        let Some(slot) = slots.get(canonical(&entry.name)) else { continue };
        let mut want = slot.dest.size();
        if slot.transposed {
            want.reverse();
        }
        if entry.shape != want {
            return Err(Error::shape(&entry.name, &want, &entry.shape));
        }
        if !["f16", "bf16", "f32", "f64", "half", "bfloat16", "float", "double"]
            .contains(&entry.dtype.as_str())
        {
            return Err(Error::model(format!("tensor `{}`", entry.name))
                .why(format!(
                    "it has type {}, a floating-point one of 16 bits or more is needed",
                    entry.dtype
                ))
                .hint("weights in integers (quantised) or 8-bit floats are not read"));
        }
    }
    Ok(())
}

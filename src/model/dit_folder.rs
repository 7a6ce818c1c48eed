//! Folders of diffusers whose network is a `DiTTransformer2DModel` (older name: `Transformer2DModel` with
//! `norm_type` `ada_norm_zero`): a DiTPipeline, or the network's own folder.
//!
//! diffusers splits q, k and v, gives every block its own copy of the embeddings of time and class (which are
//! equal in converted models, and must be here), and does not store the table of positions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::Tensor;

use super::foreign::card;
use super::load::Loaded;
use super::open::OpenOptions;
use super::scheduler::Scheduler;
use crate::error::{Error, Result};
use crate::io::hub::{STEMS, Weights, read_json};
use crate::net::dit::DitConfig;
use crate::net::spec::NetSpec;

/// The names of the class.
const CLASSES: [&str; 2] = ["DiTTransformer2DModel", "Transformer2DModel"];

/// The folder of the network itself: `path`, or its `transformer`.
fn network(path: &Path) -> Option<PathBuf> {
    let of_class = |folder: &Path| {
        let json = read_json(&folder.join("config.json")).ok()?;
        CLASSES.contains(&json["_class_name"].as_str()?).then(|| folder.to_owned())
    };
    of_class(&path.join("transformer")).or_else(|| of_class(path))
}

/// Whether `path` is such a folder.
pub(super) fn is_one(path: &Path) -> bool {
    network(path).is_some()
}

/// Reads the folder.
pub(super) fn read(path: &Path, options: &OpenOptions) -> Result<Loaded> {
    let folder = network(path).ok_or_else(|| Error::model("no transformer of DiT").at(path.display()))?;
    let place = folder.join("config.json");
    let (config, shape, classes) = config(&read_json(&place)?).map_err(|e| e.at(place.display()))?;
    let weights = Weights::find(&folder, STEMS[0], options.weights.as_deref())?;
    let from = weights.place();
    let tensors = own(weights.tensors()?, config.depth).map_err(|e| e.at(&from))?;
    let mut notes = Vec::new();
    let mut files = weights.files();
    files.push(place);
    let scheduler = path.join("scheduler/scheduler_config.json");
    let scheduler = if scheduler.exists() {
        let read =
            Scheduler::read(&read_json(&scheduler)?, &scheduler.display().to_string(), options.compat)?;
        files.push(scheduler);
        read
    } else {
        notes.push(
            "there is no scheduler/scheduler_config.json: DDIM with 1000 linear steps is assumed".to_owned(),
        );
        let json = json!({"_class_name": "DDIMScheduler", "clip_sample": false});
        Scheduler::read(&json, "the usual scheduler", options.compat)?
    };
    if path.join("vae").exists() {
        notes.push("samples are latents: they are not decoded by the pipeline's `vae`".to_owned());
    }
    let mut card = card(NetSpec::Dit(config), scheduler.process, scheduler.objective, (shape, classes), None);
    card.sample = scheduler.sample;
    Ok(Loaded { card, tensors, path: path.to_owned(), place: from, files, notes })
}

/// The options, the shape of a sample and the number of classes.
fn config(json: &Value) -> Result<(DitConfig, Vec<i64>, i64)> {
    let fixed = [
        ("norm_type", json!("ada_norm_zero")),
        ("activation_fn", json!("gelu-approximate")),
        ("attention_bias", json!(true)),
        ("norm_elementwise_affine", json!(false)),
    ];
    let old = json["_class_name"] == "Transformer2DModel";
    for (key, value) in fixed {
        let absent = json.get(key).is_none() && !old;
        if !absent && json[key] != value {
            return Err(Error::model(format!("config key `{key}`"))
                .why(format!("{} is not supported, only {value}", json[key])));
        }
    }
    let integer = |key: &str, usual: Option<i64>| -> Result<i64> {
        match (json.get(key).filter(|value| !value.is_null()), usual) {
            (None, Some(usual)) => Ok(usual),
            (None, None) => Err(Error::model(format!("config key `{key}` is missing"))),
            (Some(value), _) => value
                .as_i64()
                .filter(|n| (1..=1 << 20).contains(n))
                .ok_or_else(|| Error::model(format!("config key `{key}` is {value}"))),
        }
    };
    let heads = integer("num_attention_heads", Some(16))?;
    let channels = integer("in_channels", Some(4))?;
    let out = integer("out_channels", Some(channels))?;
    if out != channels && out != 2 * channels {
        return Err(
            Error::model("config key `out_channels`").why(format!("{out} for {channels} input channels"))
        );
    }
    let side = integer("sample_size", Some(32))?;
    let eps = json.get("norm_eps").map_or(Some(1e-5), Value::as_f64);
    let config = DitConfig {
        patch_size: integer("patch_size", Some(2))?,
        depth: integer("num_layers", Some(28))?,
        hidden_size: heads * integer("attention_head_dim", Some(72))?,
        num_heads: heads,
        learn_sigma: out == 2 * channels,
        freq_shift: 1.0,
        mlp_norm_eps: eps.ok_or_else(|| Error::model("config key `norm_eps` is no number"))?,
        ..DitConfig::default()
    };
    Ok((config, vec![channels, side, side], integer("num_embeds_ada_norm", Some(1000))?))
}

/// The tensors under this project's names.
fn own(tensors: BTreeMap<String, Tensor>, depth: i64) -> Result<BTreeMap<String, Tensor>> {
    const LAST: [(&str, &str); 5] = [
        ("pos_embed.proj.", "x_embedder.proj."),
        ("proj_out_1.", "final_layer.adaLN_modulation.1."),
        ("proj_out_2.", "final_layer.linear."),
        ("transformer_blocks.", "blocks."),
        ("pos_embed.pos_embed", "pos_embed"),
    ];
    const BLOCK: [(&str, &str); 4] = [
        ("norm1.linear.", "adaLN_modulation.1."),
        ("attn1.to_out.0.", "attn.proj."),
        ("ff.net.0.proj.", "mlp.fc1."),
        ("ff.net.2.", "mlp.fc2."),
    ];
    const EMBED: [(&str, &str); 3] = [
        ("timestep_embedder.linear_1.", "t_embedder.mlp.0."),
        ("timestep_embedder.linear_2.", "t_embedder.mlp.2."),
        ("class_embedder.embedding_table.", "y_embedder.embedding_table."),
    ];
    let first = |prefix: &str| format!("transformer_blocks.0.norm1.emb.{prefix}");
    let mut out = BTreeMap::new();
    for (name, tensor) in &tensors {
        let Some((from, to)) = LAST.iter().find(|(from, _)| name.starts_with(from)) else {
            // Named as it is: the network will not know it.
            out.insert(name.clone(), tensor.shallow_clone());
            continue;
        };
        let rest = &name[from.len()..];
        let Some((number, part)) = rest.split_once('.').filter(|_| *to == "blocks.") else {
            out.insert(format!("{to}{rest}"), tensor.shallow_clone());
            continue;
        };
        if let Some(part) = part.strip_prefix("norm1.emb.") {
            let own = EMBED.iter().find_map(|(from, to)| Some(format!("{to}{}", part.strip_prefix(from)?)));
            let same = match tensors.get(&first(part)) {
                Some(one) => one.size() == tensor.size() && one.f_equal(tensor)?,
                None => false,
            };
            if !same {
                return Err(Error::model(format!("tensor `{name}`")).why(format!(
                    "it is not the same as `{}`, but all blocks share one embedding",
                    first(part)
                )));
            }
            out.insert(own.unwrap_or_else(|| name.clone()), tensor.shallow_clone());
            continue;
        }
        if part.starts_with("attn1.to_") && !part.starts_with("attn1.to_out") {
            continue;
        }
        let own = BLOCK.iter().find_map(|(from, to)| Some(format!("{to}{}", part.strip_prefix(from)?)));
        out.insert(
            own.map_or_else(|| name.clone(), |own| format!("blocks.{number}.{own}")),
            tensor.shallow_clone(),
        );
    }
    for i in 0..depth {
        for kind in ["weight", "bias"] {
            let parts =
                ["to_q", "to_k", "to_v"].map(|part| format!("transformer_blocks.{i}.attn1.{part}.{kind}"));
            let found: Vec<&Tensor> = parts
                .iter()
                .map(|name| tensors.get(name).ok_or_else(|| Error::model(format!("no tensor `{name}`"))))
                .collect::<Result<_>>()?;
            for (name, tensor) in parts.iter().zip(&found) {
                if tensor.size() != found[0].size() {
                    return Err(Error::shape(name, &found[0].size(), &tensor.size()));
                }
            }
            out.insert(format!("blocks.{i}.attn.qkv.{kind}"), Tensor::f_cat(&found, 0)?);
        }
    }
    Ok(out)
}

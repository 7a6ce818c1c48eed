//! Weights of vision transformers under the names that this house uses, those of facebookresearch/dinov2.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::store::Store;
use super::vit::Vit;
use super::vit_config::VitConfig;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::io::{pth, safetensors};

/// A network with its weights.
#[derive(Debug)]
pub struct OpenVit {
    /// The network.
    pub net: Vit,
    /// Its parameters.
    pub store: Store,
    /// The file they came from.
    pub file: PathBuf,
    /// The model type that `config.json` names, `dinov2` for a file of facebookresearch.
    pub kind: String,
}

/// Opens a Hugging Face folder (`config.json` and `model.safetensors` or `pytorch_model.bin`), or a file in the layout
/// of facebookresearch/dinov2 (`.pth` or `.safetensors`), onto `device` in f32. `change` may change the options.
///
/// # Errors
/// A model error that names the file, option or tensor that is missing or does not fit.
pub fn open(path: &Path, device: Device, change: impl FnOnce(&mut VitConfig)) -> Result<OpenVit> {
    let model = |e: Error| e.kinded(ErrorKind::Model);
    std::fs::metadata(path).map_err(|e| model(Error::read(path, &e)))?;
    let (config, kind, file) = if path.is_dir() {
        let place = path.join("config.json");
        let text = std::fs::read_to_string(&place).map_err(|e| model(Error::read(&place, &e)))?;
        let json: Value = serde_json::from_str(&text)
            .map_err(|e| Error::model("not JSON").at(place.display()).why(e.to_string()))?;
        let config = VitConfig::of_json(&json).map_err(|e| e.at(place.display()))?;
        (Some(config), json["model_type"].as_str().unwrap_or_default().to_owned(), weight_file(path)?)
    } else {
        (None, "dinov2".to_owned(), path.to_owned())
    };
    let tensors = read(&file).map_err(model)?;
    let place = file.display().to_string();
    let tensors = match kind.as_str() {
        "clip" | "clip_vision_model" => of_clip(tensors),
        _ => of_dinov2(tensors),
    };
    let tensors = tensors.map_err(|e| e.at(&place))?;
    let mut config = match config {
        Some(config) => config,
        None => VitConfig::of_tensors(&tensors).map_err(|e| e.at(&place))?,
    };
    change(&mut config);
    let store = Store::empty(device, Kind::Float);
    let net = Vit::new(&store.root(), &config)?;
    store.load(&tensors, &place)?;
    store.set_requires_grad(false)?;
    Ok(OpenVit { net, store, file, kind })
}

fn weight_file(folder: &Path) -> Result<PathBuf> {
    let names = ["model.safetensors", "pytorch_model.bin"];
    let found = names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        Error::model("no weights").at(folder.display()).why(format!("it holds none of {}", names.join(", ")))
    })
}

fn read(file: &Path) -> Result<BTreeMap<String, Tensor>> {
    let data = crate::io::bytes::Bytes::map(file)?;
    if data.starts_with(b"PK\x03\x04") || data.starts_with(&pth::LEGACY_MAGIC) {
        return pth::Checkpoint::open(file)?.tensors();
    }
    safetensors::File::open(file)?.tensors()
}

/// Renames by rules `from` -> `to` inside a name: the first that fits.
fn renamed(name: &str, rules: &[(&str, &str)]) -> String {
    rules
        .iter()
        .find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
        .unwrap_or_else(|| name.to_owned())
}

/// Puts the three parts of queries, keys and values of every block into one, `attn.qkv`.
fn join(tensors: &mut BTreeMap<String, Tensor>, parts: [&str; 3]) -> Result<()> {
    let mut places: Vec<(String, String)> = Vec::new();
    for name in tensors.keys() {
        if let [start @ .., part, end] = name.split('.').collect::<Vec<_>>().as_slice()
            && parts.contains(part)
        {
            places.push((start.join("."), (*end).to_owned()));
        }
    }
    places.sort();
    places.dedup();
    for (block, end) in places {
        let mut three = Vec::new();
        for part in parts {
            let name = format!("{block}.{part}.{end}");
            let found = tensors.remove(&name).ok_or_else(|| {
                let what = ["query", "key", "value"][three.len().min(2)];
                Error::model(format!("no {what} {end} of `{block}`"))
                    .why("queries, keys and values belong together")
            })?;
            three.push(found);
        }
        if three.iter().any(|t| t.size() != three[0].size()) {
            return Err(Error::model(format!("attention of `{block}`"))
                .why("queries, keys and values have different shapes"));
        }
        tensors.insert(format!("{block}.attn.qkv.{end}"), Tensor::f_cat(&three, 0)?);
    }
    Ok(())
}

/// Names of transformers' DINOv2 (those of its files, and those of its newer modules) to the names of the house;
/// names that are these already stay.
fn of_dinov2(tensors: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    const TOP: [(&str, &str); 6] = [
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.mask_token", "mask_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.register_tokens", "register_tokens"),
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("layernorm.", "norm."),
    ];
    const INNER: [(&str, &str); 12] = [
        ("attention.attention.query", "q"),
        ("attention.attention.key", "k"),
        ("attention.attention.value", "v"),
        ("attention.output.dense", "attn.proj"),
        ("attention.q_proj", "q"),
        ("attention.k_proj", "k"),
        ("attention.v_proj", "v"),
        ("attention.o_proj", "attn.proj"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        ("mlp.weights_in", "mlp.w12"),
        ("mlp.weights_out", "mlp.w3"),
    ];
    let mut out = BTreeMap::new();
    for (name, tensor) in tensors {
        let bare = name.strip_prefix("dinov2.").unwrap_or(&name);
        if bare.starts_with("classifier.") {
            continue;
        }
        let new = match bare.strip_prefix("encoder.layer.").and_then(|rest| rest.split_once('.')) {
            Some((i, inner)) => format!("blocks.{i}.{}", renamed(inner, &INNER)),
            None => renamed(bare, &TOP),
        };
        if new != "mask_token" {
            out.insert(new, tensor);
        }
    }
    join(&mut out, ["q", "k", "v"]).map(|()| out)
}

/// Names of transformers' CLIP to the names of the house; the text tower is left out.
fn of_clip(tensors: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    const TOP: [(&str, &str); 6] = [
        ("embeddings.class_embedding", "cls_token"),
        ("embeddings.position_embedding.weight", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"),
        ("pre_layrnorm.", "norm_pre."),
        ("post_layernorm.", "norm."),
        ("visual_projection.", "head."),
    ];
    const INNER: [(&str, &str); 6] = [
        ("self_attn.q_proj", "q"),
        ("self_attn.k_proj", "k"),
        ("self_attn.v_proj", "v"),
        ("self_attn.out_proj", "attn.proj"),
        ("layer_norm1", "norm1"),
        ("layer_norm2", "norm2"),
    ];
    let mut out = BTreeMap::new();
    for (name, tensor) in tensors {
        let text = ["text_model.", "text_projection.", "logit_scale"].iter().any(|t| name.starts_with(t));
        if text || name.ends_with("position_ids") {
            continue;
        }
        let bare = name.strip_prefix("vision_model.").unwrap_or(&name);
        let new = match bare.strip_prefix("encoder.layers.").and_then(|rest| rest.split_once('.')) {
            Some((i, inner)) => format!("blocks.{i}.{}", renamed(inner, &INNER)),
            None => renamed(bare, &TOP),
        };
        let tensor = match new.as_str() {
            "cls_token" => tensor.f_view([1, 1, -1])?,
            "pos_embed" => tensor.f_unsqueeze(0)?,
            _ => tensor,
        };
        out.insert(new, tensor);
    }
    join(&mut out, ["q", "k", "v"]).map(|()| out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_block_are_joined_in_order() {
        let one = |v: f32| Tensor::from_slice(&[v, v]);
        let mut map: BTreeMap<String, Tensor> = BTreeMap::new();
        for (part, v) in [("q", 1.0), ("k", 2.0), ("v", 3.0)] {
            map.insert(format!("blocks.10.{part}.bias"), one(v));
        }
        join(&mut map, ["q", "k", "v"]).unwrap();
        assert_eq!(map.keys().collect::<Vec<_>>(), ["blocks.10.attn.qkv.bias"]);
        let all = Vec::<f32>::try_from(&map["blocks.10.attn.qkv.bias"]).unwrap();
        assert_eq!(all, [1., 1., 2., 2., 3., 3.]);
        map.insert("blocks.0.q.bias".into(), one(1.0));
        let error = join(&mut map, ["q", "k", "v"]).unwrap_err().to_string();
        assert!(error.contains("no key bias of `blocks.0`"), "{error}");
    }
}

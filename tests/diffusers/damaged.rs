//! Folders that cannot be opened: exit code 4, and the culprit by its name.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tch::Kind;

use super::common::*;

#[test]
fn damaged_weights_are_refused_by_name() {
    let (_temp, folder) = copied("ddim");
    let (path, all) = (weights(&folder), tensors(&folder));
    let clone = || all.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect::<BTreeMap<_, _>>();
    let name = "mid_block.resnets.1.conv2.weight";

    let mut dropped = clone();
    dropped.remove(name);
    write(&path, &dropped);
    refused(&folder, &["missing", name, "diffusion_pytorch_model.safetensors"]);

    let mut renamed = clone();
    let tensor = renamed.remove(name).unwrap();
    renamed.insert("mid_block.other.weight".into(), tensor);
    write(&path, &renamed);
    refused(&folder, &["missing", name, "mid_block.other.weight"]);

    let mut transposed = clone();
    let wide = "time_embedding.linear_1.weight";
    transposed.insert(wide.into(), transposed[wide].transpose(0, 1));
    write(&path, &transposed);
    refused(&folder, &[wide, "[8, 4]", "[4, 8]"]);

    // Projections may be squeezed, other tensors may not.
    let mut wrong = clone();
    let linear = "time_embedding.linear_2.weight";
    wrong.insert(linear.into(), wrong[linear].unsqueeze(2).unsqueeze(3));
    write(&path, &wrong);
    refused(&folder, &[linear, "[8, 8, 1, 1]"]);

    let mut integers = clone();
    integers.insert(linear.into(), integers[linear].to_kind(Kind::Int64));
    write(&path, &integers);
    refused(&folder, &[linear]);

    write(&path, &clone());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    refused(&folder, &["diffusion_pytorch_model.safetensors", "file has"]);
    fs::write(&path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n").unwrap();
    refused(&folder, &["diffusion_pytorch_model.safetensors", "Git LFS"]);
    fs::remove_file(&path).unwrap();
    refused(&folder, &["no weights", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"]);

    let index = folder.join("unet/diffusion_pytorch_model.safetensors.index.json");
    fs::write(&index, json!({"weight_map": {name: "part-2.safetensors"}}).to_string()).unwrap();
    refused(&folder, &["missing part", "part-2.safetensors"]);

    let (_temp, folder) = copied("ddim-bin");
    let path = folder.join("unet/diffusion_pytorch_model.bin");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    refused(&folder, &["diffusion_pytorch_model.bin"]);
}

#[test]
fn folders_of_other_classes_are_refused_by_name() {
    let (_temp, folder) = copied("ddim");
    let edit = |file: &str, change: &dyn Fn(&mut Value)| {
        let path = folder.join(file);
        let before = fs::read(&path).unwrap();
        let mut json = read(&path);
        change(&mut json);
        fs::write(&path, json.to_string()).unwrap();
        (path, before)
    };
    let restore = |(path, before): (PathBuf, Vec<u8>)| fs::write(path, before).unwrap();

    let was = edit("model_index.json", &|j| {
        j["_class_name"] = json!("StableDiffusionPipeline");
        j["unet"][1] = json!("UNet2DConditionModel");
    });
    refused(&folder, &["StableDiffusionPipeline", "UNet2DConditionModel", "model_index.json"]);
    restore(was);
    let was = edit("model_index.json", &|j| drop(j.as_object_mut().unwrap().remove("unet")));
    refused(&folder, &["DDIMPipeline", "`unet`"]);
    restore(was);
    let was = edit("unet/config.json", &|j| j["_class_name"] = json!("UNet1DModel"));
    refused(&folder, &["UNet1DModel", "config.json"]);
    restore(was);
    let was = edit("unet/config.json", &|j| j["act_fn"] = json!("tanh"));
    refused(&folder, &["act_fn", "tanh", "config.json"]);
    restore(was);
    let was = edit("unet/config.json", &|j| j["time_embedding_dim"] = json!(16));
    refused(&folder, &["time_emb", "expected shape", "got"]);
    restore(was);
    let was = edit("scheduler/scheduler_config.json", &|j| j["_class_name"] = json!("OtherScheduler"));
    refused(&folder, &["OtherScheduler", "scheduler_config.json"]);
    restore(was);
    opened(&folder).unwrap();

    fs::write(folder.join("unet/config.json"), "{").unwrap();
    refused(&folder, &["config.json", "JSON"]);
    fs::write(folder.join("unet/config.json"), r#"{"architectures": ["BertModel"]}"#).unwrap();
    refused(&folder, &["BertModel"]);
    fs::remove_file(folder.join("unet/config.json")).unwrap();
    refused(&folder, &["config.json"]);
    fs::remove_file(folder.join("scheduler/scheduler_config.json")).unwrap();
    fs::remove_dir(folder.join("scheduler")).unwrap();
    copy(&fixtures().join("ddim/unet"), &folder.join("unet"));
    refused(&folder, &["scheduler_config.json"]);
}

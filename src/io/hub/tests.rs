//! Folders of weights, whole and damaged.

use super::*;

fn write(path: &Path, names: &[&str]) {
    let list = names.iter().map(|n| (*n, Tensor::from_slice(&[n.len() as f32])));
    safetensors::write(path, list, &BTreeMap::new()).unwrap();
}

#[test]
fn numbers_that_are_not_json_are_read_as_python_writes_them() {
    let json = parse_json(r#"{"a": -Infinity, "b": "NaN \" Infinity", "c": [1.5, NaN]}"#).unwrap();
    assert_eq!(json["a"], Value::Null);
    assert_eq!(json["b"], "NaN \" Infinity");
    assert_eq!(json["c"][1], Value::Null);
    assert!(parse_json("{\"a\": ").is_err());
}

#[test]
fn full_weights_come_before_variants_and_safetensors_before_pickles() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let find = |variant| Weights::find(dir.path(), "m", variant);
    let error = find(None).unwrap_err();
    assert_eq!(error.kind().exit_code(), 4);
    for name in ["m.safetensors", "m.safetensors.index.json", "m.bin", "m.bin.index.json"] {
        assert!(error.to_string().contains(name), "{error}");
    }
    write(&at("m.fp16.safetensors"), &["a"]);
    assert_eq!(find(None).unwrap().variant(), Some("fp16"));
    std::fs::write(at("m.bin"), "").unwrap();
    assert_eq!(find(None).unwrap().files(), [at("m.bin")]);
    write(&at("m.safetensors"), &["a"]);
    assert_eq!(find(None).unwrap().files(), [at("m.safetensors")]);
    assert_eq!(find(Some("fp16")).unwrap().files(), [at("m.fp16.safetensors")]);
    assert!(find(Some("ema")).unwrap_err().to_string().contains("m.ema.safetensors"));
}

#[test]
fn shards_are_read_by_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let index = |text: &str| std::fs::write(at("m.safetensors.index.json"), text).unwrap();
    write(&at("m-1.safetensors"), &["a", "bb"]);
    write(&at("m-2.safetensors"), &["bb", "ccc"]);
    let find = || Weights::find(dir.path(), "m", None);
    index(r#"{"weight_map": {"a": "m-1.safetensors", "bb": "m-2.safetensors", "ccc": "m-2.safetensors"}}"#);
    let weights = find().unwrap();
    assert_eq!(weights.tensors().unwrap().len(), 3);
    let names: Vec<String> = weights.entries().unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!((names, weights.files().len()), (vec!["a".into(), "bb".into(), "ccc".into()], 3));

    index(r#"{"weight_map": {"a": "m-1.safetensors", "dddd": "m-2.safetensors"}}"#);
    let error = find().unwrap().tensors().unwrap_err().to_string();
    assert!(error.starts_with("no tensor `dddd`") && error.contains("m-2.safetensors"), "{error}");
    index(r#"{"weight_map": {"a": "m-3.safetensors"}}"#);
    let error = find().unwrap_err().to_string();
    assert!(error.starts_with("missing part") && error.contains("m-3.safetensors"), "{error}");
    for text in [r#"{"weight_map": {"a": "../m-1.safetensors"}}"#, r#"{"weight_map": {}}"#, "{}", "{"] {
        index(text);
        assert_eq!(find().unwrap_err().kind().exit_code(), 4, "{text}");
    }
}

#[test]
fn pointers_of_git_lfs_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n").unwrap();
    let error = Weights::find(dir.path(), "m", None).unwrap_err();
    assert!(error.to_string().contains("Git LFS") && error.hint_text().is_some());
    assert!(read_json(&path).unwrap_err().to_string().contains("Git LFS"));
}

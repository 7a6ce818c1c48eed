//! Readers against files of PyTorch and numpy (`scripts/golden/readers.py`), and against damaged ones: no input
//! makes them panic or read past its end.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use genlib::data::{DataOptions, DataSpec, Resize, Split};
use genlib::io::bytes::tensor_to_f64;
use genlib::io::npz::{self, Npz};
use genlib::io::picture::Picture;
use genlib::io::pth::{Checkpoint, Scalar};
use genlib::io::{npy, png, safetensors};
use genlib::metric::stats_file::Stats;
use proptest::prelude::*;
use tch::{Kind, Tensor};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metric").join(name)
}

fn check_state(file: &Checkpoint, prefix: &str) {
    let get = |name: &str| file.tensor(&format!("{prefix}{name}")).unwrap();
    let values = |name: &str| tensor_to_f64(&get(name)).unwrap();
    let counting: Vec<f64> = (0..24).map(f64::from).collect();
    assert_eq!((values("conv.weight"), get("conv.weight").size()), (counting.clone(), vec![4, 6]));
    assert_eq!(values("tied"), counting);
    let transposed: Vec<f64> = (0..6).flat_map(|j| (0..4).map(move |i| f64::from(i * 6 + j))).collect();
    assert_eq!((values("transposed"), get("transposed").size()), (transposed, vec![6, 4]));
    assert_eq!(values("slice"), [8., 9., 10., 14., 15., 16.]);
    for (name, kind) in [("half", Kind::Half), ("bfloat16", Kind::BFloat16)] {
        assert_eq!((values(name), get(name).kind()), (vec![1.5, -2.0], kind));
    }
    assert_eq!(get("long").int64_value(&[1]), -(1 << 40));
    assert_eq!(get("bool").kind(), Kind::Bool);
    assert_eq!(values("bool"), [1., 0., 1.]);
    assert_eq!((values("bn.num_batches_tracked"), get("bn.num_batches_tracked").dim()), (vec![7.], 0));
    assert_eq!(get("empty").size(), [0, 3]);
    assert_eq!(values("parameter"), [0.25]);
}

#[test]
fn checkpoints_of_both_containers() {
    for container in ["zip", "legacy"] {
        let state = Checkpoint::open(&fixture(&format!("state-{container}.pth"))).unwrap();
        assert_eq!(state.names()[..3], ["conv.weight", "tied", "transposed"]);
        check_state(&state, "");
        assert_eq!(state.tensors().unwrap().len(), 11);

        let nested = Checkpoint::open(&fixture(&format!("nested-{container}.pth"))).unwrap();
        check_state(&nested, "model.");
        assert_eq!(nested.scalars()["step"], Scalar::Int(12));
        assert_eq!(nested.scalars()["betas.1"], Scalar::Float(0.99));
        assert_eq!(nested.scalars()["name"], Scalar::Str("run".into()));
        assert!(nested.tensor("conv.weight").unwrap_err().to_string().contains("no tensor `conv.weight`"));

        // An unknown class is a record: its tensors are there, nothing of it ran.
        let object = Checkpoint::open(&fixture(&format!("object-{container}.pth"))).unwrap();
        assert_eq!(tensor_to_f64(&object.tensor("object.weights.w").unwrap()).unwrap(), [3., 4.]);
        assert!(object.unknown().iter().any(|name| name.ends_with(".Custom")), "{:?}", object.unknown());
    }
}

#[test]
fn arrays_of_numpy() {
    let mut npz = Npz::open(&fixture("arrays.npz")).unwrap();
    let f = npz.array("f").unwrap();
    assert_eq!((f.to_i64().unwrap(), f.shape), ((0..6).collect(), vec![2, 3]));
    assert_eq!(npz.array("b").unwrap().to_tensor().unwrap().kind(), Kind::Bool);
    assert_eq!(npz.array("h").unwrap().to_f64(), [0.5, -1.0]);
    assert_eq!((npz.array("s").unwrap().to_f64(), npz.array("s").unwrap().shape), (vec![3.0], vec![]));
    assert!(npz.rows("f", 1, |_, _| Ok(())).unwrap_err().to_string().contains("Fortran"));
}

/// Everything a user may point at a file.
fn try_everything(path: &Path) {
    if let Ok(file) = Checkpoint::open(path) {
        file.names().iter().for_each(|n| drop(file.tensor(n)));
    }
    if let Ok(file) = safetensors::File::open(path) {
        file.entries().keys().for_each(|n| drop(file.tensor(n)));
    }
    if let Ok(mut npz) = Npz::open(path) {
        for name in npz.names().to_vec() {
            drop(npz.array(&name));
            drop(npz.bytes(&name));
            drop(npz.rows(&name, 2, |_, _| Ok(())));
        }
    }
    drop(Stats::read(path));
    if let Ok(set) = genlib::data::open(path, &DataOptions { any_size: true, ..DataOptions::default() }) {
        (0..set.len().min(4)).for_each(|i| drop(set.get(i)));
    }
}

fn samples() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let mut all: Vec<Vec<u8>> = ["state-zip.pth", "state-legacy.pth", "object-legacy.pth", "arrays.npz"]
        .iter()
        .map(|name| std::fs::read(fixture(name)).unwrap())
        .collect();
    let path = dir.path().join("x");
    let t = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2]);
    safetensors::write(
        &path,
        [("mu", &t.get(0)), ("sigma", &t)],
        &BTreeMap::from([("gen_stats".into(), "{}".into())]),
    )
    .unwrap();
    all.push(std::fs::read(&path).unwrap());
    npz::write(&path, |w| {
        w.start("arr_0", npy::Dtype::U8, &[3, 4, 4, 3])?;
        w.data(&[9; 144])?;
        w.array("mu", &npy::Array::from_f64(&[1.0, 2.0], &[2]))?;
        w.array("sigma", &npy::Array::from_f64(&[1.0, 0.0, 0.0, 1.0], &[2, 2]))
    })
    .unwrap();
    all.push(std::fs::read(&path).unwrap());
    zip_of(
        &path,
        &[
            ("a/1.png", &picture(4, 4)),
            ("b/2.png", &picture(4, 4)),
            ("dataset.json", b"{\"labels\": [[\"a/1.png\", 0], [\"b/2.png\", 1]]}"),
        ],
    );
    all.push(std::fs::read(&path).unwrap());
    all
}

fn picture(width: usize, height: usize) -> Vec<u8> {
    let data = (0..width * height * 3).map(|i| (i * 7 % 256) as u8).collect();
    png::encode(&Picture::new(width, height, 3, data).unwrap(), &[]).unwrap()
}

fn zip_of(path: &Path, members: &[(&str, &[u8])]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in members {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_are_errors_and_never_panics(
        which in 0usize..7,
        cut in proptest::option::of(0.0f64..1.0),
        flips in proptest::collection::vec((0.0f64..1.0, any::<u8>()), 0..6),
    ) {
        let mut bytes = samples().swap_remove(which);
        for (at, value) in flips {
            let i = (at * bytes.len() as f64) as usize;
            bytes[i] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, &bytes).unwrap();
        try_everything(&path);
    }
}

#[test]
fn truncated_checkpoints_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    let legacy = std::fs::read(fixture("state-legacy.pth")).unwrap();
    let mut seen = [false; 2];
    for cut in 1..200 {
        std::fs::write(&path, &legacy[..legacy.len() - cut]).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        assert_eq!(error.kind().exit_code(), 4);
        seen[0] |= error.to_string().contains("bytes, file has");
        seen[1] |= error.to_string().contains("ends before its storages do");
    }
    assert_eq!(seen, [true, true]);
    std::fs::write(&path, b"hello").unwrap();
    assert!(Checkpoint::open(&path).unwrap_err().to_string().contains("neither a zip archive nor"));
}

#[test]
fn folders_of_images_name_the_first_offender() {
    let dir = tempfile::tempdir().unwrap();
    let open = |options: &DataOptions| genlib::data::open(dir.path(), options);
    let plain = DataOptions::default();
    let says = |options: &DataOptions, part: &str| {
        let error = open(options).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(error.kind().exit_code(), 3);
    };
    says(&plain, "no images");
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    put("b/1.png", &picture(8, 8));
    put("a/2.png", &picture(8, 8));
    put("b/0.png", &picture(6, 6));
    let error = open(&plain).unwrap_err().to_string();
    assert!(error.contains("b/0.png") && error.contains("6 x 6 pixels, the first has 8 x 8"), "{error}");
    let crop = DataOptions { resize: Some(Resize::CenterCrop), resolution: Some(4), ..plain.clone() };
    let set = open(&crop).unwrap();
    assert_eq!((set.len(), set.shape(), set.classes()), (3, [3, 4, 4], 2));
    assert_eq!(
        (0..3).map(|i| (set.name(i), set.label(i).unwrap())).collect::<Vec<_>>(),
        [("a/2.png".to_owned(), 0), ("b/0.png".to_owned(), 1), ("b/1.png".to_owned(), 1)]
    );
    assert_eq!(set.get(1).unwrap().shape, [3, 4, 4]);
    let any = open(&DataOptions { any_size: true, ..plain.clone() }).unwrap();
    assert_eq!((any.get(1).unwrap().shape, any.get(2).unwrap().shape), ([3, 6, 6], [3, 8, 8]));
    put("b/0.png", b"broken");
    says(&plain, "b/0.png");
    put("b/0.png", &picture(8, 4));
    says(&plain, "b/0.png");
    put("b/0.png", &picture(8, 8));
    assert_eq!(open(&plain).unwrap().shape(), [3, 8, 8]);
    says(&DataOptions { channels: Some(1), ..plain.clone() }, "1 are wanted");
    put("dataset.json", br#"{"labels": [["a/2.png", 5], ["b/0.png", 3], ["b/1.png", 3]]}"#);
    let set = open(&plain).unwrap();
    assert_eq!((set.label(0), set.classes()), (Some(5), 6));
    put("dataset.json", br#"{"labels": [["a/2.png", 5]]}"#);
    says(&plain, "`b/0.png` has no label");
    assert_eq!(open(&DataOptions { classes: Some(false), ..plain.clone() }).unwrap().classes(), 0);
    put("dataset.json", br#"{"labels": null}"#);
    says(&DataOptions { classes: Some(true), ..plain }, "no labels");
}

#[test]
fn the_digits_split_as_documented() {
    let spec = |split| DataSpec { split, ..DataSpec::default() };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/digits");
    let sizes = [Split::All, Split::Train, Split::Test].map(|s| spec(s).open(Some(&path)).unwrap().len());
    assert_eq!(sizes, [1797, 1400, 397]);
    let toml: DataSpec =
        toml::from_str("path = 'x'\nsplit = 'test'\nresize = 'center-crop'\nflip = true").unwrap();
    assert_eq!((toml.split, toml.resize, toml.flip), (Split::Test, Some(Resize::CenterCrop), true));
    assert!(toml::from_str::<DataSpec>("crop = 3").is_err());
    assert!(spec(Split::All).open(None).unwrap_err().hint_text().unwrap().contains("--data"));
}

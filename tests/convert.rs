//! `gen convert`: what is written is what was read.

#![allow(clippy::unwrap_used)] // unwrap: a failing test is to panic

mod common;

use std::path::{Path, PathBuf};

use common::{json, outcome, root, run, text};
use genlib::io::safetensors;
use genlib::model::card::{ModelCard, Range, Trained};
use genlib::model::convert::{Form, Settings, convert};
use genlib::model::open::{OpenOptions, Opened, open};
use genlib::model::raw::RawSpec;
use genlib::net::spec::NetSpec;
use genlib::net::store::Store;
use genlib::net::{Cond, Mode};
use genlib::process::ProcessName;
use genlib::recipe::SampleSpec;
use tch::{Device, Kind, Tensor};

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/checkpoints").join(name)
}

fn opened(path: &Path, options: &OpenOptions) -> Opened {
    open(path, options, Device::Cpu).unwrap()
}

fn small(channels: i64) -> OpenOptions {
    let raw = RawSpec { shape: Some(vec![channels, 8, 8]), ..RawSpec::default() };
    OpenOptions { raw, ..OpenOptions::default() }
}

fn settings(form: Form, open: OpenOptions) -> Settings {
    Settings { form, open, kind: None, part: None, overwrite: false }
}

/// The raw outputs of a model for one input.
fn output(model: &Opened) -> Tensor {
    let _guard = tch::no_grad_guard();
    let shape: Vec<i64> = [2].into_iter().chain(model.card.shape.iter().copied()).collect();
    let n = shape.iter().product::<i64>();
    let x = (Tensor::arange(n, (Kind::Float, Device::Cpu)) * 0.7).sin().reshape(shape);
    let class = (model.card.classes > 0).then(|| Tensor::from_slice(&[0i64, -1]));
    let cond = Cond { class, ..Cond::default() };
    model.net.forward(&x, &Tensor::from_slice(&[0.3f32, 0.9]), &cond, Mode::Eval).unwrap()
}

#[test]
fn every_checkpoint_becomes_a_snapshot_that_gives_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for (file, options) in [
        ("edm-ncsnpp.pkl", OpenOptions::default()),
        ("edm-adm.pkl", OpenOptions::default()),
        ("ncsnpp.pth", small(3)),
        ("ddpm.pth", small(1)),
        ("training.pt", OpenOptions::default()),
    ] {
        let to = dir.path().join(file).with_extension("safetensors");
        assert_eq!(Form::of(&fixture(file), &to).unwrap(), Form::Snapshot);
        let written = convert(&fixture(file), &to, &settings(Form::Snapshot, options.clone())).unwrap();
        let (before, after) = (opened(&fixture(file), &options), opened(&to, &OpenOptions::default()));
        assert_eq!(before.card, after.card);
        assert_eq!(written.tensors, safetensors::File::open(&to).unwrap().entries().len());
        assert!(output(&before).equal(&output(&after)), "{file}");
    }
}

#[test]
fn tensors_keep_their_names_and_their_type_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("plain.safetensors");
    let source = root().join("tests/fixtures/metric/nested-zip.pth");
    assert_eq!(Form::of(&source, &to).unwrap(), Form::Safetensors);
    convert(&source, &to, &settings(Form::Safetensors, OpenOptions::default())).unwrap();
    let file = safetensors::File::open(&to).unwrap();
    assert_eq!(file.tensor("model.half").unwrap().kind(), Kind::Half);
    assert_eq!(file.tensor("model.conv.weight").unwrap().size(), [4, 6]);
    assert_eq!(file.metadata().len(), 1);

    let part = Settings {
        kind: Some(Kind::BFloat16),
        part: Some("model".into()),
        overwrite: true,
        ..settings(Form::Safetensors, OpenOptions::default())
    };
    convert(&source, &to, &part).unwrap();
    let file = safetensors::File::open(&to).unwrap();
    assert_eq!(file.tensor("conv.weight").unwrap().kind(), Kind::BFloat16);
    assert_eq!(file.tensor("long").unwrap().kind(), Kind::Int64);
    let absent = Settings { part: Some("ema".into()), ..part };
    let error = convert(&source, &to, &absent).err().unwrap();
    assert!(
        error.to_string().contains("`ema.`") && error.hint_text().unwrap().contains("`model`"),
        "{error}"
    );

    // The tensors of a checkpoint are still a model where their names say which.
    let to = dir.path().join("ncsnpp.safetensors");
    convert(&fixture("ncsnpp.pth"), &to, &settings(Form::Safetensors, OpenOptions::default())).unwrap();
    let (before, after) = (opened(&fixture("ncsnpp.pth"), &small(3)), opened(&to, &small(3)));
    assert!(output(&before).equal(&output(&after)));
}

#[test]
fn half_precision_halves_the_file_and_stays_close() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.safetensors");
    unet(&model, ProcessName::Ddpm, &table("eps"));
    let full = opened(&model, &OpenOptions::default());
    for (kind, limit) in [(Kind::Half, 2e-3), (Kind::BFloat16, 2e-2)] {
        let to = dir.path().join(format!("{kind:?}.safetensors"));
        let half = Settings { kind: Some(kind), ..settings(Form::Snapshot, OpenOptions::default()) };
        convert(&model, &to, &half).unwrap();
        let size = |path: &Path| std::fs::metadata(path).unwrap().len() as f64;
        assert!(size(&to) < 0.55 * size(&model));
        let (want, got) = (output(&full), output(&opened(&to, &OpenOptions::default())));
        let gap = ((got - &want).norm() / want.norm()).double_value(&[]);
        assert!(gap > 0.0 && gap < limit, "{gap}");
    }
    let large = dir.path().join("large.safetensors");
    safetensors::write(&large, [("w", Tensor::from(1e6f32))], &std::collections::BTreeMap::new()).unwrap();
    let half = Settings { kind: Some(Kind::Half), ..settings(Form::Safetensors, OpenOptions::default()) };
    let error = convert(&large, &dir.path().join("x.safetensors"), &half).err().unwrap();
    assert!(error.to_string().contains("`w` does not fit f16"), "{error}");
}

/// The objective of noise (or v) prediction at the indices of a table.
fn table(kind: &str) -> String {
    format!("type = \"{kind}\"\ntime = {{ type = \"linear\", scale = 1000.0, shift = -1.0 }}")
}

/// A fresh UNet2D as a snapshot of this process and objective.
fn unet(path: &Path, process: ProcessName, objective: &str) {
    let model: NetSpec = toml::from_str(
        r#"
        type = "unet2d"
        block_out_channels = [16, 32]
        down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
        up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
        layers_per_block = 1
        norm_num_groups = 8
        attention_head_dim = 8
        "#,
    )
    .unwrap();
    let shape = vec![1, 8, 8];
    let store = Store::new(Device::Cpu, Kind::Float, 5);
    let _net = model.build(&store.root(), &shape, 0).unwrap();
    let card = ModelCard {
        format: ModelCard::FORMAT,
        tokenizer: None,
        model,
        process: process.spec(),
        objective: toml::from_str(objective).unwrap(),
        precond: None,
        shape,
        classes: 0,
        range: Range::default(),
        rate: None,
        sample: SampleSpec::default(),
        trained: Trained::default(),
    };
    safetensors::write(path, store.named(), &card.metadata().unwrap()).unwrap();
}

#[test]
fn a_unet_becomes_a_folder_of_diffusers_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.safetensors");
    for (process, objective) in [(ProcessName::Ddpm, table("v")), (ProcessName::Vp, "type = \"eps\"".into())]
    {
        unet(&model, process, &objective);
        let continuous = process == ProcessName::Vp;
        let folder = dir.path().join(if continuous { "vp" } else { "ddpm" });
        assert_eq!(Form::of(&model, &folder).unwrap(), Form::Diffusers);
        convert(&model, &folder, &settings(Form::Diffusers, OpenOptions::default())).unwrap();
        let json = |file: &str| -> serde_json::Value {
            serde_json::from_str(&std::fs::read_to_string(folder.join(file)).unwrap()).unwrap()
        };
        assert_eq!(json("model_index.json")["unet"][1], "UNet2DModel");
        assert_eq!(json("unet/config.json")["block_out_channels"], serde_json::json!([16, 32]));
        let scheduler = json("scheduler/scheduler_config.json");
        assert_eq!(scheduler["prediction_type"], if continuous { "epsilon" } else { "v_prediction" });
        assert!((scheduler["beta_end"].as_f64().unwrap() - 0.02).abs() < 1e-12);
        let (before, after) =
            (opened(&model, &OpenOptions::default()), opened(&folder, &OpenOptions::default()));
        assert!(output(&before).equal(&output(&after)));
        if !continuous {
            assert_eq!(
                (&before.card.process, before.card.objective.precond()),
                (&after.card.process, after.card.objective.precond())
            );
        }
    }
}

#[test]
fn what_diffusers_cannot_hold_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    let refused = |source: &Path, options: OpenOptions, word: &str| {
        let error = convert(source, &folder, &settings(Form::Diffusers, options)).err().unwrap();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.kind().exit_code(), 4);
        assert!(!folder.exists());
    };
    refused(&fixture("ncsnpp.pth"), small(3), "diffusers has no such network");
    let model = dir.path().join("model.safetensors");
    for (process, objective, word) in [
        (ProcessName::Flow, "flow", "neither a DDPM table nor vp"),
        (ProcessName::Vp, "edm", "preconditioned"),
        (ProcessName::Ddpm, "eps", "index of a table"),
        (ProcessName::Vp, "flow", "neither noise, data nor v"),
    ] {
        unet(&model, process, &format!("type = \"{objective}\""));
        refused(&model, OpenOptions::default(), word);
    }
}

#[test]
fn the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let (edm, to) = (fixture("edm-vp.pkl"), dir.path().join("new/model.safetensors"));
    let said = json(&["convert", text(&edm), text(&to)]);
    assert_eq!((said["to"].as_str(), said["files"].as_array().unwrap().len()), (Some("snapshot"), 1));
    let fails = |code: i32, args: &[&str], word: &str| {
        let output = outcome(&[&["convert"], args].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(word) && error.lines().count() <= 2, "{error}");
    };
    fails(2, &[text(&edm), text(&to)], "--overwrite");
    run(&["convert", text(&edm), text(&to), "--overwrite", "--dtype", "f16"]);
    fails(2, &[text(&to), text(&to), "--overwrite"], "into itself");
    fails(2, &[text(&edm), "x.bin"], "--to");
    fails(2, &[text(&edm), text(dir.path()), "--to", "diffusers"], "other things");
    fails(2, &[text(&edm), text(&to), "--part", "ema", "--overwrite"], "--part");
    fails(4, &["absent.pth", "x.safetensors"], "absent.pth");
    fails(4, &[text(&edm), text(&dir.path().join("folder"))], "no such network");
    let out = dir.path().join("out");
    let common = ["--seeds", "0-1", "--steps", "3", "-q", "--out"];
    run(&[&["sample", "--model", text(&edm)], &common[..], &[text(&out)]].concat());
    run(&[
        &["sample", "--model", text(&fixture("ddpmpp.pth"))],
        &common[..],
        &[text(&dir.path().join("vp"))],
    ]
    .concat());
}

#[test]
fn latents_are_written_as_they_are_and_not_as_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("training.pt");
    let common =
        ["sample", "--seeds", "0-1", "--steps", "3", "-q", "--guidance", "1.5", "--class", "2", "--model"];
    let (npz, st) = (dir.path().join("x.npz"), dir.path().join("x.safetensors"));
    run(&[&common[..], &[text(&model), "--out", text(&npz)]].concat());
    run(&[&common[..], &[text(&model), "--out", text(&st)]].concat());
    let exact = safetensors::File::open(&st).unwrap().tensor("samples").unwrap();
    assert_eq!(exact.size(), [2, 4, 8, 8]);
    let array = genlib::io::npz::Npz::open(&npz).unwrap().array("arr_0").unwrap().to_tensor().unwrap();
    assert!(array.equal(&exact));
    let output = outcome(&[&common[..], &[text(&model), "--out", text(&dir.path().join("png"))]].concat());
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("4 channels") && error.contains("--format npz"), "{error}");
}

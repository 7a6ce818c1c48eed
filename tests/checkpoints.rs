//! Checkpoints of EDM, score_sde, DiT and SiT against the networks that made them, and damaged ones.
//!
//! `fixtures/checkpoints` was made by `scripts/golden/checkpoints.py`.

#![allow(clippy::unwrap_used)] // unwrap: a failing test is to panic

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use genlib::denoiser::{Denoiser, DenoiserExt, Prediction};
use genlib::error::Error;
use genlib::io::safetensors;
use genlib::math::rng::{SplitMix64, fnv1a64};
use genlib::model::load::load;
use genlib::model::open::{OpenOptions, Opened, open};
use genlib::model::raw::{ProcessEntry, RawSpec};
use genlib::model::source::Source;
use genlib::net::adm::{Adm, AdmConfig};
use genlib::net::dit::{Dit, DitConfig};
use genlib::net::spec::NetSpec;
use genlib::net::store::Store;
use genlib::net::unet2d::UNet2D;
use genlib::net::unet2d_config::{UNet2DConfig, UpBlock};
use genlib::net::{Cond, Mode};
use genlib::process::{At, Point, ProcessName, ProcessSpec};
use proptest::prelude::*;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn stream(name: &str, shape: &[i64], value: impl Fn(f64) -> f64) -> Tensor {
    let mut stream = SplitMix64::new(fnv1a64(name.as_bytes()));
    let n = shape.iter().product::<i64>();
    let values: Vec<f64> = (0..n).map(|_| value(stream.uniform())).collect();
    Tensor::from_slice(&values).reshape(shape)
}

/// The weights that `checkpoints.py` gives a name, in f16.
fn fill(name: &str, shape: &[i64]) -> Tensor {
    let gain = (3.0 / shape.iter().skip(1).product::<i64>() as f64).sqrt();
    let values = stream(name, shape, |u| match shape.len() {
        2.. => (2.0 * u - 1.0) * gain,
        _ if name.ends_with("freqs") => 4.0 * (2.0 * u - 1.0),
        _ if name.ends_with("weight") => 0.75 + 0.5 * u,
        _ => 0.2 * (2.0 * u - 1.0),
    });
    values.to_kind(Kind::Half)
}

/// What the model makes of the fixture's noisy images, against what the original makes of them.
fn agrees(opened: Opened, facts: &Value) {
    let _guard = tch::no_grad_guard();
    let times = floats(&facts["t"]);
    let mut shape: Vec<i64> = serde_json::from_value(facts["shape"].clone()).unwrap();
    assert_eq!(opened.card.shape, shape);
    shape.insert(0, 1);
    let all: Vec<i64> = [times.len() as i64].into_iter().chain(shape[1..].iter().copied()).collect();
    let scale = match &facts["scale"] {
        Value::Array(each) => each.iter().map(|v| v.as_f64().unwrap()).collect(),
        one => vec![one.as_f64().unwrap_or(1.0); times.len()],
    };
    let x = stream("x", &all, |u| 2.0 * u - 1.0);
    let scale = Tensor::from_slice(&scale).reshape([-1, 1, 1, 1]);
    let x = (x * scale).to_kind(Kind::Float);
    let class: Option<Vec<i64>> = serde_json::from_value(facts["classes"].clone()).unwrap();
    let cond = Cond { class: class.map(|c| Tensor::from_slice(&c)), ..Cond::default() };
    let model = opened.denoiser().unwrap();
    let points: Vec<Point> = times.iter().map(|&t| Point::new(model.process(), t)).collect();
    // An error of the network's output is one of the clean image times sigma/alpha.
    let rho = points.iter().map(Point::rho).fold(1.0, f64::max);
    let x0 = model.predict_as(Prediction::X0, &x, &At::each(points), &cond).unwrap();
    let flat = x0.contiguous().flatten(0, -1).to_kind(Kind::Double);
    let norm = facts["norm"].as_f64().unwrap();
    assert!((flat.norm().double_value(&[]) / norm - 1.0).abs() < 1e-4);
    let size = norm / (flat.numel() as f64).sqrt();
    let got = Vec::<f64>::try_from(flat.slice(0, None, None, facts["every"].as_i64().unwrap())).unwrap();
    let want = floats(&facts["values"]);
    assert_eq!(got.len(), want.len());
    let gap = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(gap < 5e-5 * rho, "{gap} of {size}, at noise levels up to {rho}");
}

fn opens(file: &str, facts: &str, options: &OpenOptions) -> Opened {
    let opened = open(&fixture(file), options, Device::Cpu).unwrap();
    agrees(open(&fixture(file), options, Device::Cpu).unwrap(), &json(&fixture(facts)));
    opened
}

/// The same of a model of this process.
fn of(process: ProcessName, mut options: OpenOptions) -> OpenOptions {
    options.raw.process = Some(ProcessEntry::Name(process));
    options
}

fn sided(side: i64, channels: i64) -> OpenOptions {
    let raw = RawSpec { shape: Some(vec![channels, side, side]), ..RawSpec::default() };
    OpenOptions { raw, ..OpenOptions::default() }
}

#[test]
fn pickles_of_edm_give_what_edm_gives() {
    let opened = opens("edm-ncsnpp.pkl", "edm-ncsnpp.json", &OpenOptions::default());
    assert_eq!((opened.card.classes, opened.card.trained.ema.as_deref()), (3, Some("ema")));
    assert_eq!(opened.card.process, ProcessSpec::Edm { sigma_min: 0.002, sigma_max: 80.0, sigma_data: 0.6 });
    let song = opened.card.model.song().unwrap();
    assert_eq!((song.dropout, song.attn_resolutions.len(), song.skip_scale), (0.05, 0, 0.5f64.sqrt()));
    opens("edm-vp.pkl", "edm-vp.json", &OpenOptions::default());
    let opened = opens("edm-adm.pkl", "edm-adm.json", &OpenOptions::default());
    assert!(matches!(&opened.card.model, NetSpec::Adm(config) if config.learn_sigma));
}

#[test]
fn checkpoints_of_score_sde_give_what_score_sde_gives() {
    let subvp = of(ProcessName::Subvp, sided(8, 1));
    let opened = opens("ddpmpp.pth", "ddpmpp.json", &subvp);
    assert_eq!((opened.card.trained.steps, opened.card.trained.ema.as_deref()), (1234, Some("ema")));
    let opened = opens("ncsnpp.pth", "ncsnpp.json", &sided(8, 3));
    assert!(matches!(opened.card.process, ProcessSpec::Ve { sigma_min, sigma_max }
        if (sigma_min - 0.02).abs() < 1e-7 && (sigma_max - 100.0).abs() < 1e-4));
    opens("ncsnpp-skip.pth", "ncsnpp-skip.json", &sided(8, 3));
    opens("ncsnpp-discrete.pth", "ncsnpp-discrete.json", &sided(8, 1));
    opens("ddpm.pth", "ddpm.json", &sided(8, 1));
}

#[test]
fn what_score_sde_does_not_say_is_assumed_and_noted() {
    let opened = open(&fixture("ncsnpp.pth"), &OpenOptions::default(), Device::Cpu).unwrap();
    assert_eq!(opened.card.shape, [3, 32, 32]);
    assert!(
        opened.notes[0].contains("32x32") && opened.notes[1].contains("model of ve"),
        "{:?}",
        opened.notes
    );
    let raw = OpenOptions { weights: Some("raw".into()), ..sided(8, 3) };
    let raw = open(&fixture("ncsnpp.pth"), &raw, Device::Cpu).unwrap();
    let averaged = open(&fixture("ncsnpp.pth"), &sided(8, 3), Device::Cpu).unwrap();
    let get = |opened: &Opened, name: &str| opened.store.get(name).unwrap();
    assert!(get(&raw, "map_noise.freqs").equal(&get(&averaged, "map_noise.freqs")));
    assert!(!get(&raw, "map_layer0.weight").equal(&get(&averaged, "map_layer0.weight")));
    for (options, word) in [
        (OpenOptions { weights: Some("best".into()), ..sided(8, 3) }, "ema or raw"),
        (sided(8, 1), "3 channels"),
        (of(ProcessName::Flow, sided(8, 3)), "vp, subvp, ve or ddpm"),
    ] {
        says(&load(&fixture("ncsnpp.pth"), &options).err().unwrap(), word);
    }
}

#[test]
fn checkpoints_of_dit_and_sit_give_what_they_give() {
    let opened = opens("dit.pt", "dit.json", &OpenOptions::default());
    assert_eq!((opened.card.process.name(), opened.card.classes), (ProcessName::Ddpm, 5));
    assert!(opened.notes.iter().any(|note| note.contains("DiT")), "{:?}", opened.notes);
    let opened = opens("training.pt", "training.json", &OpenOptions::default());
    assert_eq!(opened.card.process, ProcessSpec::Flow {});
    assert!(opened.notes.is_empty() || opened.notes.iter().all(|note| note.contains("heads")));
    let flow = of(ProcessName::Flow, OpenOptions::default());
    assert_eq!(load(&fixture("dit.pt"), &flow).unwrap().card.process, ProcessSpec::Flow {});
    let edm = of(ProcessName::Edm, OpenOptions::default());
    assert_eq!(load(&fixture("dit.pt"), &edm).err().unwrap().kind().exit_code(), 2);
}

#[test]
fn a_description_beside_a_checkpoint_says_what_it_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint_8.pth");
    std::fs::copy(fixture("ddpmpp.pth"), &path).unwrap();
    let describe = |text: &str| std::fs::write(dir.path().join("model.json"), text).unwrap();
    describe(r#"{"process": {"type": "subvp", "beta_max": 15.0}, "shape": [1, 8, 8]}"#);
    let card = load(&path, &OpenOptions::default()).unwrap().card;
    assert_eq!(card.process, ProcessSpec::Subvp { beta_min: 0.1, beta_max: 15.0 });
    assert_eq!(card.shape, [1, 8, 8]);
    // Flags go before it.
    assert_eq!(load(&path, &of(ProcessName::Ddpm, sided(16, 1))).unwrap().card.shape, [1, 16, 16]);
    describe(r#"{"process": "vp", "prediction": "v"}"#);
    says(&load(&path, &OpenOptions::default()).err().unwrap(), "--process and --shape only");
    describe("{");
    says(&load(&path, &OpenOptions::default()).err().unwrap(), "model.json");
    std::fs::copy(fixture("edm-vp.pkl"), &path).unwrap();
    says(&load(&path, &of(ProcessName::Vp, OpenOptions::default())).err().unwrap(), "says itself");
}

/// A folder as diffusers writes it, with the fixture's weights after `change`.
fn dit_folder(place: &Path, change: impl Fn(&mut BTreeMap<String, Tensor>, &mut Value)) {
    let facts = json(&fixture("diffusers-dit.json"));
    let shapes: BTreeMap<String, Vec<i64>> = serde_json::from_value(facts["tensors"].clone()).unwrap();
    let shared =
        |name: &str| name.replace("transformer_blocks.1.norm1.emb", "transformer_blocks.0.norm1.emb");
    let mut tensors: BTreeMap<String, Tensor> =
        shapes.iter().map(|(name, shape)| (name.clone(), fill(&shared(name), shape))).collect();
    let mut config = facts["config"].clone();
    change(&mut tensors, &mut config);
    let folder = place.join("transformer");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(place.join("model_index.json"), r#"{"_class_name": "DiTPipeline"}"#).unwrap();
    let file = folder.join("diffusion_pytorch_model.safetensors");
    safetensors::write(&file, &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn a_dit_folder_of_diffusers_gives_what_diffusers_gives() {
    let dir = tempfile::tempdir().unwrap();
    dit_folder(dir.path(), |_, _| ());
    for path in [dir.path().to_path_buf(), dir.path().join("transformer")] {
        let opened = open(&path, &OpenOptions::default(), Device::Cpu).unwrap();
        assert!(opened.notes[0].contains("scheduler"), "{:?}", opened.notes);
        agrees(opened, &json(&fixture("diffusers-dit.json")));
    }
    let fails =
        |word: &str| says(&open(dir.path(), &OpenOptions::default(), Device::Cpu).err().unwrap(), word);
    let block = |name: &str| format!("transformer_blocks.1.{name}");
    dit_folder(dir.path(), |t, _| drop(t.remove(&block("attn1.to_k.weight"))));
    fails("no tensor `transformer_blocks.1.attn1.to_k.weight`");
    dit_folder(dir.path(), |t, _| {
        let _ = t.get_mut(&block("norm1.emb.timestep_embedder.linear_2.bias")).unwrap().fill_(0.5);
    });
    fails("`transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias`");
    dit_folder(dir.path(), |t, _| {
        let turned = t[&block("ff.net.2.weight")].transpose(0, 1).contiguous();
        t.insert(block("ff.net.2.weight"), turned);
    });
    fails("`blocks.1.mlp.fc2.weight`");
    dit_folder(dir.path(), |t, _| drop(t.insert("extra".into(), Tensor::from(1.0f32))));
    fails("`extra`");
    dit_folder(dir.path(), |_, c| c["activation_fn"] = "gelu".into());
    fails("`activation_fn`");
    dit_folder(dir.path(), |_, c| c["sample_size"] = (-3).into());
    fails("`sample_size`");
}

#[track_caller]
fn says(error: &Error, word: &str) {
    let text = format!("{error} {}", error.hint_text().unwrap_or_default());
    assert!(text.contains(word), "{text}");
    assert!(matches!(error.kind().exit_code(), 2 | 4), "{error}");
}

/// Opens a copy of the fixture with the bytes `from` replaced by `to` of the same length, which must fail.
#[track_caller]
fn replaced(file: &str, from: &str, to: &str, word: &str) {
    let mut bytes = std::fs::read(fixture(file)).unwrap();
    assert_eq!(from.len(), to.len());
    let mut found = 0;
    while let Some(at) = bytes.windows(from.len()).position(|part| part == from.as_bytes()) {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        found += 1;
    }
    assert!(found > 0, "{from}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(file);
    std::fs::write(&path, bytes).unwrap();
    let Err(error) = open(&path, &OpenOptions::default(), Device::Cpu) else {
        panic!("it opens, without {word}")
    };
    says(&error, word);
    assert_eq!(error.kind().exit_code(), 4);
}

#[test]
fn damaged_pickles_name_the_culprit() {
    replaced("edm-vp.pkl", "map_layer1", "map_layer9", "map_layer1.weight");
    replaced("edm-vp.pkl", "model_channels", "model_channelz", "model_channelz");
    replaced("edm-vp.pkl", "VPPrecond", "XPPrecond", "no known network");
    replaced("edm-vp.pkl", "SongUNet", "SungUNet", "SungUNet");
    replaced("edm-vp.pkl", "beta_d", "beta_q", "beta_d");
    replaced("edm-ncsnpp.pkl", "residual", "residuel", "residuel");
    replaced(
        "ncsnpp.pth",
        "all_modules.4.Conv_1.bias",
        "all_modules.4.Conv_7.bias",
        "all_modules.4.Conv_1.bias",
    );
    replaced(
        "ncsnpp.pth",
        "all_modules.4.GroupNorm_0.weight",
        "all_modules.4.GroupNorm_7.weight",
        "GroupNorm_0.weight",
    );
    replaced("dit.pt", "blocks.1.mlp.fc1.bias", "blocks.1.mlp.fc7.bias", "blocks.1.mlp.fc1.bias");
    let whole = std::fs::read(fixture("edm-vp.pkl")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pkl");
    for cut in [1, 100, whole.len() / 2, whole.len() - 3] {
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        says(&open(&path, &OpenOptions::default(), Device::Cpu).err().unwrap(), "x.pkl");
    }
}

/// Opens the tensors of a checkpoint after `change`, which must fail.
#[track_caller]
fn changed(file: &str, change: impl Fn(&mut BTreeMap<String, Tensor>), word: &str) {
    let mut tensors = Source::open(&fixture(file)).unwrap().below("").unwrap();
    change(&mut tensors);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("changed.safetensors");
    safetensors::write(&path, &tensors, &BTreeMap::new()).unwrap();
    let Err(error) = open(&path, &OpenOptions::default(), Device::Cpu) else {
        panic!("it opens, without {word}")
    };
    says(&error, word);
    assert_eq!(error.kind().exit_code(), 4);
}

#[test]
fn dropped_transposed_and_surplus_tensors_are_named() {
    let module = |rest: &str| format!("model.module.all_modules.{rest}");
    changed("ncsnpp.pth", |t| drop(t.remove(&module("8.NIN_1.W")).unwrap()), &module("8.NIN_1.W"));
    changed("ncsnpp.pth", |t| drop(t.remove("ema.shadow_params.9")), "ema.shadow_params.9");
    changed(
        "ncsnpp.pth",
        |t| drop(t.insert("ema.shadow_params.500".into(), Tensor::from(1f32))),
        "shadow_params.500",
    );
    changed(
        "ncsnpp.pth",
        |t| {
            let (a, b) = (t.remove("ema.shadow_params.4").unwrap(), t.remove("ema.shadow_params.6").unwrap());
            t.insert("ema.shadow_params.4".into(), b);
            t.insert("ema.shadow_params.6".into(), a);
        },
        "ema.shadow_params.4",
    );
    changed(
        "ddpm.pth",
        |t| {
            let turned = t[&module("3.Dense_0.weight")].transpose(0, 1).contiguous();
            t.insert(module("3.Dense_0.weight"), turned);
        },
        &module("3.Dense_0.weight"),
    );
    changed("ddpm.pth", |t| drop(t.insert(module("3.extra"), Tensor::from(1f32))), &module("3.extra"));
    for name in ["pos_embed", "blocks.0.adaLN_modulation.1.bias", "y_embedder.embedding_table.weight"] {
        changed("dit.pt", |t| drop(t.remove(name)), name);
    }
    changed(
        "dit.pt",
        |t| {
            let turned = t["blocks.1.attn.qkv.weight"].transpose(0, 1).contiguous();
            t.insert("blocks.1.attn.qkv.weight".into(), turned);
        },
        "blocks.1.attn.qkv.weight",
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn files_damaged_at_random_open_or_are_errors(
        which in 0usize..4,
        cut in proptest::option::of(0.0f64..1.0),
        flips in proptest::collection::vec((0.0f64..1.0, any::<u8>()), 0..5),
    ) {
        let name = ["edm-vp.pkl", "edm-adm.pkl", "ncsnpp.pth", "training.pt"][which];
        let mut bytes = std::fs::read(fixture(name)).unwrap();
        for (at, value) in flips {
            let at = (at * bytes.len() as f64) as usize;
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        if let Err(error) = open(&path, &OpenOptions::default(), Device::Cpu) {
            prop_assert_eq!(error.kind().exit_code(), 4, "{}", error);
        }
    }
}

#[test]
fn the_source_text_of_a_pickle_is_left_alone() {
    let source = Source::open(&fixture("edm-vp.pkl")).unwrap();
    assert_eq!(source.text("ema.__class__"), Some("VPPrecond"));
    assert_eq!(source.text("ema.model.__class__"), Some("SongUNet"));
    assert_eq!(source.ints("ema.model._init_kwargs.channel_mult"), Some(vec![1, 1]));
    assert_eq!(source.shape("ema.model.map_layer0.weight"), Some(&[32, 8][..]));
    assert!(!source.has("ema.module_src"));
}

/// Trained scalars, trained tensors, all tensors; and those of all tensors.
fn size(build: impl Fn(&Store)) -> (usize, usize, usize, usize) {
    let store = Store::empty(Device::Cpu, Kind::Float);
    build(&store);
    let all = store.named();
    (store.parameters(), store.trainable().len(), all.len(), all.iter().map(|(_, t)| t.numel()).sum())
}

#[test]
fn transformers_have_their_published_sizes() {
    for (config, scalars, tensors) in [
        (DitConfig::small(2), 32_963_360, 131),
        (DitConfig::base(2), 130_512_416, 131),
        (DitConfig::large(2), 458_102_816, 251),
        (DitConfig::xlarge(2), 675_129_632, 291),
    ] {
        let got = size(|store| drop(Dit::new(&store.root(), &config, &[4, 32, 32], 1000).unwrap()));
        assert_eq!((got.1, got.2, got.3), (tensors, tensors + 1, scalars));
        assert_eq!(got.0 + usize::try_from(256 * config.hidden_size).unwrap(), scalars);
    }
}

#[test]
fn the_adm_network_has_its_published_size() {
    let config = AdmConfig { augment_dim: 9, ..AdmConfig::default() };
    let got = size(|store| drop(Adm::new(&store.root(), &config, &[3, 32, 32], 0).unwrap()));
    assert_eq!((got.0, got.1, got.2), (279_625_923, 541, 553));
}

#[test]
fn the_ddpm_network_of_score_sde_has_its_published_size() {
    use UpBlock::{LastAttnUpBlock2D as Attended, UpBlock2D as Up};
    let config = UNet2DConfig { up_block_types: vec![Up, Up, Attended, Up], ..UNet2DConfig::ddpm_cifar10() };
    let got = size(|store| drop(UNet2D::new(&store.root(), &config, &[3, 32, 32], 0).unwrap()));
    assert_eq!((got.0, got.1), (35_218_947, 308));
}

#[test]
fn the_adm_network_agrees_with_pytorch() {
    let _guard = tch::no_grad_guard();
    let file = json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/networks/adm.json"));
    let spec: NetSpec = serde_json::from_value(file["config"].clone()).unwrap();
    let store = Store::empty(Device::Cpu, Kind::Double);
    let net = spec.build(&store.root(), &[3, 8, 8], 3).unwrap();
    let shapes: BTreeMap<String, Vec<i64>> = serde_json::from_value(file["tensors"].clone()).unwrap();
    let ours: BTreeMap<String, Vec<i64>> = store.named().into_iter().map(|(n, t)| (n, t.size())).collect();
    assert_eq!(ours, shapes);
    let weights = shapes.iter().filter(|(name, _)| !name.ends_with("resample_filter"));
    store.load(&weights.map(|(n, s)| (n.clone(), fill(n, s))).collect(), "fixture").unwrap();
    let cond = Cond { class: Some(Tensor::from_slice(&[1i64, -1])), ..Cond::default() };
    let x = stream("x", &[2, 3, 8, 8], |u| 2.0 * u - 1.0);
    let t = Tensor::from_slice(&floats(&file["t"]));
    let y = net.forward(&x, &t, &cond, Mode::Eval).unwrap().contiguous().flatten(0, -1);
    let got = Vec::<f64>::try_from(y.slice(0, None, None, file["every"].as_i64().unwrap())).unwrap();
    for (got, want) in got.iter().zip(floats(&file["values"])) {
        assert!((got - want).abs() < 1e-9, "{got} {want}");
    }
}

#[test]
fn every_parameter_of_the_new_networks_has_a_gradient() {
    for text in [
        "type = \"adm\"\nmodel_channels = 64\nchannel_mult = [1, 2]\nnum_blocks = 1\nattn_resolutions = [4]\naugment_dim = 9",
        "type = \"dit\"\ndepth = 2\nhidden_size = 32\nnum_heads = 4",
    ] {
        let spec: NetSpec = toml::from_str(text).unwrap();
        let store = Store::empty(Device::Cpu, Kind::Float);
        let net = spec.build(&store.root(), &[4, 8, 8], 3).unwrap();
        let fixed = |name: &str| name.ends_with("resample_filter") || name == "pos_embed";
        let named = store.named().into_iter().filter(|(name, _)| !fixed(name));
        store.load(&named.map(|(n, t)| (n.clone(), fill(&n, &t.size()))).collect(), "x").unwrap();
        let augment = (spec.augment_dim() > 0).then(|| stream("a", &[2, 9], |u| u).to_kind(Kind::Float));
        let cond = Cond { class: Some(Tensor::from_slice(&[2i64, -1])), augment, ..Cond::default() };
        let x = stream("x", &[2, 4, 8, 8], |u| 2.0 * u - 1.0).to_kind(Kind::Float);
        let y = net.forward(&x, &Tensor::from_slice(&[0.1f32, 0.7]), &cond, Mode::Train).unwrap();
        assert_eq!(y.size(), x.size());
        y.square().mean(Kind::Float).backward();
        for (name, p) in store.trainable() {
            let grad = p.grad();
            assert!(grad.defined() && bool::try_from(grad.isfinite().all()).unwrap(), "{name}");
            assert!(grad.abs().max().double_value(&[]) > 0.0, "{name}");
        }
    }
}

//! Networks and folders of diffusers against diffusers itself.
//!
//! `fixtures/diffusers/` was made by `scripts/golden/diffusers_unet.py`; the weights of its networks follow
//! from their names.

#![allow(clippy::unwrap_used)] // unwrap: a failing test is to panic

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use genlib::denoiser::Denoiser;
use genlib::error::Error;
use genlib::io::safetensors;
use genlib::math::rng::{SplitMix64, fnv1a64};
use genlib::model::open::{OpenOptions, Opened, open};
use genlib::model::sampler::{Classes, Job, Sampler, Settings};
use genlib::net::store::{Store, channels_last};
use genlib::net::unet2d::UNet2D;
use genlib::net::unet2d_config::UNet2DConfig;
use genlib::net::{Cond, Mode, Network};
use genlib::noise::streams::Rng;
use genlib::process::{At, Point};
use genlib::solver::Budget;
use genlib::torch::runtime::{Dtype, MemoryFormat};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/diffusers")
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn stream(name: &str, shape: &[i64], value: impl Fn(f64) -> f64) -> Tensor {
    let mut stream = SplitMix64::new(fnv1a64(name.as_bytes()));
    let n = shape.iter().product::<i64>();
    let values: Vec<f64> = (0..n).map(|_| value(stream.uniform())).collect();
    Tensor::from_slice(&values).reshape(shape).to_kind(Kind::Float)
}

/// The parameters of the fixtures: values follow from the name.
fn fill(name: &str, shape: &[i64]) -> Tensor {
    let gain = (3.0 / shape.iter().skip(1).product::<i64>() as f64).sqrt();
    stream(name, shape, |u| match shape.len() {
        2.. => (2.0 * u - 1.0) * gain,
        _ if name == "time_proj.weight" => 16.0 * (2.0 * u - 1.0),
        _ if name.ends_with("weight") => 0.75 + 0.5 * u,
        _ => 0.2 * (2.0 * u - 1.0),
    })
}

fn data(name: &str, shape: &[i64]) -> Tensor {
    stream(name, shape, |u| 2.0 * u - 1.0)
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The largest absolute difference to the fixture's values, in f32.
fn gap(got: &Tensor, want: &Value) -> f64 {
    let want = Tensor::from_slice(&floats(want));
    assert_eq!(got.kind(), Kind::Float);
    assert_eq!(got.numel(), want.numel());
    assert!(want.abs().max().double_value(&[]) > 0.1);
    (got.contiguous().view([-1]) - want).abs().max().double_value(&[])
}

/// A network as the fixture's config describes it, filled by the formula.
fn network(file: &Value) -> (UNet2D, Store) {
    let (config, shape, classes) = UNet2DConfig::from_diffusers(&file["config"]).unwrap();
    let store = Store::empty(Device::Cpu, Kind::Float);
    let net = UNet2D::new(&store.root(), &config, &shape, classes).unwrap();
    let want: BTreeMap<String, Vec<i64>> = serde_json::from_value(file["tensors"].clone()).unwrap();
    let ours: BTreeMap<String, Vec<i64>> = store.named().into_iter().map(|(n, t)| (n, t.size())).collect();
    assert_eq!(ours, want);
    assert_eq!(store.parameters() as u64, file["parameters"].as_u64().unwrap());
    let values = want.iter().map(|(n, s)| (n.clone(), fill(n, s))).collect();
    store.load(&values, "fixture").unwrap();
    (net, store)
}

/// One call in f32, in both memory formats.
fn agrees(name: &str) {
    let _guard = tch::no_grad_guard();
    let file = read(&fixtures().join(format!("networks/{name}.json")));
    let (net, store) = network(&file);
    let t = Tensor::from_slice(&floats(&file["t"]));
    let shape: Vec<i64> = t.size().into_iter().chain(net.sample_shape().iter().copied()).collect();
    let x = data("x", &shape);
    let class = match &file["labels"] {
        Value::Null => None,
        Value::String(name) => {
            let width = store.get("time_embedding.linear_2.bias").unwrap().size()[0];
            Some(data(name, &[shape[0], width]))
        }
        list => Some(Tensor::from_slice(&serde_json::from_value::<Vec<i64>>(list.clone()).unwrap())),
    };
    let cond = Cond { class, augment: None };
    // Learned variances follow the mean and are not returned.
    let size: Vec<i64> = serde_json::from_value(file["size"].clone()).unwrap();
    let all = Tensor::from_slice(&floats(&file["values"])).view(size.as_slice());
    let mean = all.narrow(1, 0, shape[1]).contiguous();
    let want = json!(Vec::<f32>::try_from(mean.view([-1])).unwrap());
    for x in [x.shallow_clone(), channels_last(&x).unwrap()] {
        let y = net.forward(&x, &t, &cond, Mode::Eval).unwrap();
        assert_eq!(y.size(), shape);
        let gap = gap(&y, &want);
        assert!(gap < 2e-5, "{name}: {gap:e}");
    }
}

macro_rules! networks_agree {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            agrees($name);
        })*
    };
}

networks_agree! {
    residual_resampling_agrees_with_diffusers: "resnet-blocks",
    convolutional_resampling_agrees_with_diffusers: "conv-blocks",
    blocks_of_ncsnpp_agree_with_diffusers: "skip-blocks",
    blocks_of_ncsnpp_among_others_agree_with_diffusers: "skip-mixed",
    blocks_of_the_k_upscaler_agree_with_diffusers: "k-blocks",
    a_k_block_among_others_agrees_with_diffusers: "k-mixed",
    learned_times_and_variances_agree_with_diffusers: "learned-time",
    label_vectors_agree_with_diffusers: "label-vectors",
    label_numbers_agree_with_diffusers: "label-numbers",
}

#[test]
fn large_networks_have_the_tensors_that_diffusers_gives_them() {
    let file = read(&fixtures().join("sizes.json"));
    for (name, want) in file.as_object().unwrap() {
        let (config, shape, classes) = UNet2DConfig::from_diffusers(&want["config"]).unwrap();
        let store = Store::empty(Device::Cpu, Kind::Float);
        UNet2D::new(&store.root(), &config, &shape, classes).unwrap();
        let mut lines: Vec<String> =
            store.named().into_iter().map(|(name, tensor)| format!("{name} {:?}\n", tensor.size())).collect();
        lines.sort();
        assert_eq!(lines.len() as u64, want["tensors"].as_u64().unwrap(), "{name}");
        assert_eq!(store.parameters() as u64, want["parameters"].as_u64().unwrap(), "{name}");
        let hash = format!("{:016x}", fnv1a64(lines.concat().as_bytes()));
        assert_eq!(hash, want["hash"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn configs_are_written_as_diffusers_writes_them() {
    for entry in fs::read_dir(fixtures().join("networks")).unwrap() {
        let file = read(&entry.unwrap().path());
        let (config, shape, classes) = UNet2DConfig::from_diffusers(&file["config"]).unwrap();
        let written = config.to_diffusers(&shape, classes).unwrap();
        for (key, want) in file["config"].as_object().unwrap() {
            let got = &written[key];
            let same = match (want.as_f64(), got.as_f64()) {
                (Some(a), Some(b)) => a.to_bits() == b.to_bits(),
                // Other spellings of the same.
                _ if key == "act_fn" => true,
                _ if key.ends_with("block_types") => {
                    want.to_string().replace("UNetRes", "") == *got.to_string()
                }
                // How many labels there are is not in the file where they are embedded as numbers.
                _ if key == "num_class_embeds" && want.is_null() => {
                    got.is_null() || file["config"]["class_embed_type"] == "timestep"
                }
                _ => want == got,
            };
            assert!(same || key == "_diffusers_version", "{key}: {want} {got}");
        }
    }
}

#[test]
fn blocks_that_do_not_fit_together_are_refused() {
    let base = json!({"_class_name": "UNet2DModel", "sample_size": 8, "block_out_channels": [32, 32],
        "layers_per_block": 1, "norm_num_groups": 8, "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"]});
    let build = |changes: &Value| {
        let mut json = base.clone();
        for (key, value) in changes.as_object().unwrap() {
            json[key] = value.clone();
        }
        let (config, shape, classes) = UNet2DConfig::from_diffusers(&json)?;
        let store = Store::empty(Device::Cpu, Kind::Float);
        UNet2D::new(&store.root(), &config, &shape, classes)
    };
    build(&json!({})).unwrap();
    for (key, changes) in [
        ("up_block_types", json!({"up_block_types": ["KUpBlock2D", "KUpBlock2D"]})),
        ("up_block_types", json!({"up_block_types": ["SkipUpBlock2D", "UpBlock2D"]})),
        ("up_block_types", json!({"down_block_types": ["KDownBlock2D", "KDownBlock2D"]})),
        (
            "up_block_types",
            json!({"up_block_types": ["SkipUpBlock2D", "SkipUpBlock2D"], "in_channels": 1, "out_channels": 1}),
        ),
        (
            "down_block_types",
            json!({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"],
            "in_channels": 1, "out_channels": 1}),
        ),
        (
            "down_block_types",
            json!({"down_block_types": ["DownBlock2D", "SkipDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "UpBlock2D", "UpBlock2D"], "block_out_channels": [32, 32, 32]}),
        ),
        ("class_embed_type", json!({"class_embed_type": "projection"})),
        ("out_channels", json!({"out_channels": 5})),
        ("norm", json!({"norm_num_groups": 5})),
        (
            "attention_head_dim",
            json!({"down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "attention_head_dim": 64, "add_attention": false}),
        ),
    ] {
        let error = build(&changes).unwrap_err();
        assert_eq!(error.kind().exit_code(), 4, "{error}");
        let said = format!("{error} {}", error.hint_text().unwrap_or_default());
        assert!(said.contains(key), "{said}");
    }
}

/// A folder of its own with a copy of a fixture.
fn copied(name: &str) -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join(name);
    copy(&fixtures().join(name), &to);
    (temp, to)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() { copy(&from, &to) } else { assert!(fs::copy(from, to).is_ok()) }
    }
}

fn opened(path: &Path) -> Result<Opened, Error> {
    open(path, &OpenOptions::default(), Device::Cpu)
}

fn weights(folder: &Path) -> PathBuf {
    folder.join("unet/diffusion_pytorch_model.safetensors")
}

fn tensors(folder: &Path) -> BTreeMap<String, Tensor> {
    safetensors::File::open(&weights(folder)).unwrap().tensors().unwrap()
}

fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let meta = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::write(path, tensors.iter().map(|(n, t)| (n.as_str(), t)), &meta).unwrap();
}

/// The opened model's network gives what diffusers' gives.
fn answers(opened: &Opened, tolerance: f64) {
    let _guard = tch::no_grad_guard();
    let file = read(&fixtures().join("ddim.json"));
    let x = data("latents", &[2, 1, 8, 8]) * 1.7;
    let t = Tensor::from_slice(&[500f32; 2]);
    let y = opened.net.forward(&x, &t, &Cond::default(), Mode::Eval).unwrap();
    let gap = gap(&y, &file["one"]);
    assert!(gap < tolerance, "{gap:e}");
}

#[test]
fn every_layout_and_format_of_a_folder_gives_the_same_network() {
    answers(&opened(&fixtures().join("ddim")).unwrap(), 2e-5);
    answers(&opened(&fixtures().join("ddim-bin")).unwrap(), 2e-5);

    // Everything at the root, as google/ddpm-* lay it out.
    let (_temp, folder) = copied("ddim");
    for (from, to) in [
        ("unet/config.json", "config.json"),
        ("unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
        ("scheduler/scheduler_config.json", "scheduler_config.json"),
    ] {
        fs::rename(folder.join(from), folder.join(to)).unwrap();
    }
    fs::remove_dir(folder.join("unet")).unwrap();
    fs::remove_dir(folder.join("scheduler")).unwrap();
    answers(&opened(&folder).unwrap(), 2e-5);
    // A network by itself, with its scheduler and without.
    fs::remove_file(folder.join("model_index.json")).unwrap();
    assert!(opened(&folder).unwrap().notes.is_empty());
    fs::remove_file(folder.join("scheduler_config.json")).unwrap();
    let bare = opened(&folder).unwrap();
    answers(&bare, 2e-5);
    assert!(bare.notes.iter().any(|note| note.contains("scheduler_config.json")), "{:?}", bare.notes);
    // The part of a pipeline finds the scheduler beside it.
    let (_temp, folder) = copied("ddim");
    let part = opened(&folder.join("unet")).unwrap();
    assert_eq!(part.card.sample, opened(&folder).unwrap().card.sample);
    answers(&part, 2e-5);

    // Half precision only; shards; names and shapes of older releases.
    let all = tensors(&folder);
    fs::remove_file(weights(&folder)).unwrap();
    let half: BTreeMap<_, _> = all.iter().map(|(n, t)| (n.clone(), t.to_kind(Kind::Half))).collect();
    write(&folder.join("unet/diffusion_pytorch_model.fp16.safetensors"), &half);
    let found = opened(&folder).unwrap();
    answers(&found, 2e-2);
    assert!(found.notes.iter().any(|note| note.contains("fp16")));
    assert!(found.store.named().iter().all(|(_, t)| t.kind() == Kind::Float));

    let mut map = BTreeMap::new();
    for part in 0..3 {
        let file = format!("diffusion_pytorch_model-0000{part}-of-00003.safetensors");
        let some: BTreeMap<_, _> =
            all.iter().skip(part).step_by(3).map(|(n, t)| (n.clone(), t.copy())).collect();
        map.extend(some.keys().map(|name| (name.clone(), file.clone())));
        write(&folder.join("unet").join(file), &some);
    }
    let index = folder.join("unet/diffusion_pytorch_model.safetensors.index.json");
    fs::write(&index, json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string()).unwrap();
    let sharded = opened(&folder).unwrap();
    answers(&sharded, 2e-5);
    assert_eq!(sharded.files.len(), 7);
    fs::remove_file(&index).unwrap();

    let old = all.iter().map(|(name, t)| {
        let mut name = name.clone();
        for (new, old) in [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")] {
            name = name.replace(new, old);
        }
        let square = name.contains("attentions") && t.dim() == 2;
        (name, if square { t.unsqueeze(2).unsqueeze(3) } else { t.copy() })
    });
    write(&weights(&folder), &old.collect());
    answers(&opened(&folder).unwrap(), 2e-5);
}

#[test]
fn a_folder_brings_its_process_and_its_solver() {
    let model = opened(&fixtures().join("ddim")).unwrap();
    assert_eq!(model.card.shape, [1, 8, 8]);
    assert_eq!(model.card.sample.steps, Some(50));
    assert_eq!(model.card.sample.solver.as_ref().unwrap().name.as_str(), "ddim");
    let denoiser = model.denoiser().unwrap();
    assert_eq!(denoiser.process().table_len(), Some(1000));
}

/// The ends of runs of `steps` steps of the folder's own solver: each seed by itself with its own noise, or
/// both samples from the given latents.
fn sampled(folder: &str, file: &Value, init: Option<&Tensor>) -> Tensor {
    let model = opened(&fixtures().join(folder)).unwrap();
    let card = model.card.clone();
    let denoiser = model.denoiser().unwrap();
    let settings = Settings {
        solver: card.sample.solver.clone().unwrap(),
        grid: card.sample.grid.clone().unwrap(),
        budget: Budget::Steps(usize::try_from(file["steps"].as_u64().unwrap()).unwrap()),
        guidance: 1.0,
        rng: Rng::Torch,
        latent: Kind::Float,
    };
    let shape = card.shape.clone();
    let sampler = Sampler::new(&denoiser, &shape, card.classes, settings, Device::Cpu).unwrap();
    let mut sampler = sampler.of_range(card.range);
    let seeds: Vec<u64> = serde_json::from_value(file["seeds"].clone()).unwrap_or(vec![0, 1]);
    let jobs: Vec<Job> = seeds.iter().enumerate().map(|(index, &seed)| Job { index, seed }).collect();
    let parts = jobs.chunks(if init.is_some() { jobs.len() } else { 1 });
    let ends: Vec<Tensor> =
        parts.map(|part| sampler.draw(part, &Classes::None, init, &mut |_| Ok(())).unwrap().x).collect();
    Tensor::cat(&ends, 0)
}

#[test]
fn ten_steps_end_where_those_of_diffusers_end() {
    let file = read(&fixtures().join("ddim.json"));
    for folder in ["ddim", "ddim-bin"] {
        let init = data("latents", &[2, 1, 8, 8]) * 1.7;
        let gap = gap(&sampled(folder, &file, Some(&init)), &file["end"]);
        assert!(gap < 1e-4, "{folder}: {gap:e}");
    }
}

#[test]
fn a_seed_gives_the_image_that_diffusers_makes_of_it() {
    let file = read(&fixtures().join("score-ve.json"));
    // Values in [0, 1] there are values in [-1, 1] here.
    let x = (sampled("score-ve", &file, None) + 1.0) / 2.0;
    let scale = x.abs().max().double_value(&[]);
    let gap = gap(&x, &file["end"]);
    assert!(gap < 1e-4 * scale, "{gap:e} of {scale}");
}

/// A folder with the config of a fixture and weights by the formula.
fn folder_of(name: &str) -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().to_owned();
    let file = read(&fixtures().join(format!("networks/{name}.json")));
    fs::write(folder.join("config.json"), file["config"].to_string()).unwrap();
    let shapes: BTreeMap<String, Vec<i64>> = serde_json::from_value(file["tensors"].clone()).unwrap();
    let all = shapes.iter().map(|(n, s)| (n.clone(), fill(n, s))).collect();
    write(&folder.join("diffusion_pytorch_model.safetensors"), &all);
    (temp, folder)
}

/// A few samples by the folder's own solver.
fn drawn(folder: &Path, steps: usize, classes: &Classes) -> Result<Tensor, Error> {
    let model = opened(folder)?;
    let card = model.card.clone();
    let denoiser = model.denoiser()?;
    let settings = Settings {
        solver: card.sample.solver.clone().unwrap(),
        grid: card.sample.grid.clone().unwrap(),
        budget: Budget::Steps(steps),
        guidance: 1.0,
        rng: Rng::Torch,
        latent: Kind::Float,
    };
    let sampler = Sampler::new(&denoiser, &card.shape, card.classes, settings, Device::Cpu)?;
    let jobs = [0, 1].map(|index| Job { index, seed: index as u64 });
    Ok(sampler.of_range(card.range).draw(&jobs, classes, None, &mut |_| Ok(()))?.x)
}

#[test]
fn networks_with_labels_are_sampled_with_labels() {
    let (_temp, folder) = folder_of("learned-time");
    // The usual table has more times than this network.
    refused(&folder, &["num_train_timesteps", "20", "1000"]);
    let scheduler = json!({"_class_name": "DDPMScheduler", "num_train_timesteps": 20});
    fs::write(folder.join("scheduler_config.json"), scheduler.to_string()).unwrap();
    let model = opened(&folder).unwrap();
    assert_eq!((model.card.classes, model.card.shape), (20, vec![3, 8, 8]));
    assert!(model.notes.iter().any(|note| note.contains("variances")));
    let one = drawn(&folder, 4, &Classes::List(vec![3])).unwrap();
    let other = drawn(&folder, 4, &Classes::List(vec![4])).unwrap();
    assert_eq!(one.size(), [2, 3, 8, 8]);
    assert!((one - other).abs().max().double_value(&[]) > 1e-3);

    let (_temp, folder) = folder_of("label-vectors");
    let error = drawn(&folder, 4, &Classes::None).unwrap_err();
    assert_eq!(error.kind().exit_code(), 2);
    assert!(error.to_string().contains("vectors"), "{error}");
}

#[test]
fn folders_of_karras_ve_run() {
    let (_temp, folder) = copied("score-ve");
    let index = folder.join("model_index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("ScoreSdeVe", "KarrasVe")).unwrap();
    let config = json!({"_class_name": "KarrasVeScheduler", "sigma_max": 20.0, "s_churn": 0});
    fs::write(folder.join("scheduler/scheduler_config.json"), config.to_string()).unwrap();
    let model = opened(&folder).unwrap();
    assert_eq!(model.card.sample.steps, Some(50));
    assert!(model.notes.iter().any(|note| note.contains("KarrasVe")));
    // At the same noise level the network answers as within ScoreSdeVe: the score of data in [0, 1].
    let (ve, edm) =
        (opened(&fixtures().join("score-ve")).unwrap().denoiser().unwrap(), model.denoiser().unwrap());
    let x = data("x", &[2, 3, 8, 8]);
    let _guard = tch::no_grad_guard();
    let answer = |model: &dyn Denoiser| {
        let t = model.process().t_of_lambda(-(3.0f64.ln())).unwrap();
        let at = At::all(Point::new(model.process(), t));
        model.predict(&x, &at, &Cond::default()).unwrap()
    };
    assert!((answer(&ve) - answer(&edm)).abs().max().double_value(&[]) < 1e-5);
    assert_eq!(drawn(&folder, 5, &Classes::None).unwrap().size(), [2, 3, 8, 8]);
}

#[test]
fn networks_run_in_every_number_format() {
    let _guard = tch::no_grad_guard();
    for name in ["resnet-blocks", "skip-blocks", "k-blocks", "learned-time"] {
        let file = read(&fixtures().join(format!("networks/{name}.json")));
        let (_temp, folder) = folder_of(name);
        if name == "learned-time" {
            let scheduler = json!({"_class_name": "DDPMScheduler", "num_train_timesteps": 20});
            fs::write(folder.join("scheduler_config.json"), scheduler.to_string()).unwrap();
        }
        let t = Tensor::from_slice(&floats(&file["t"]));
        let class = serde_json::from_value::<Option<Vec<i64>>>(file["labels"].clone()).unwrap();
        let cond = Cond { class: class.map(|list| Tensor::from_slice(&list)), augment: None };
        let run = |dtype: Dtype, format: MemoryFormat| {
            let options = OpenOptions { dtype, format, ..OpenOptions::default() };
            let model = open(&folder, &options, Device::Cpu).unwrap();
            let shape: Vec<i64> = t.size().into_iter().chain(model.card.shape.iter().copied()).collect();
            let y = model.compute.run(model.net.as_ref(), &data("x", &shape), &t, &cond, Mode::Eval).unwrap();
            y.to_kind(Kind::Double)
        };
        let exact = run(Dtype::F64, MemoryFormat::Contiguous);
        let scale = exact.abs().max().double_value(&[]);
        for (dtype, format, limit) in [
            (Dtype::F32, MemoryFormat::Contiguous, 1e-5),
            (Dtype::F32, MemoryFormat::ChannelsLast, 1e-5),
            (Dtype::Bf16, MemoryFormat::Auto, 0.05),
        ] {
            let gap = (run(dtype, format) - &exact).abs().max().double_value(&[]) / scale;
            assert!(gap < limit, "{name} {dtype:?} {format:?}: {gap:e}");
        }
    }
}

#[test]
fn every_parameter_is_trained() {
    for name in ["resnet-blocks", "skip-blocks", "k-blocks", "learned-time"] {
        let mut file = read(&fixtures().join(format!("networks/{name}.json")));
        // Dropout would draw from libtorch's own generator.
        file["config"]["dropout"] = json!(0);
        let (net, store) = network(&file);
        let t = Tensor::from_slice(&floats(&file["t"]));
        let class = serde_json::from_value::<Option<Vec<i64>>>(file["labels"].clone()).unwrap();
        let cond = Cond { class: class.map(|list| Tensor::from_slice(&list)), augment: None };
        let shape: Vec<i64> = t.size().into_iter().chain(net.sample_shape().iter().copied()).collect();
        let y = net.forward(&data("x", &shape), &t, &cond, Mode::Train).unwrap();
        (y - data("target", &shape)).square().mean(Kind::Float).backward();
        for (name, parameter) in store.trainable() {
            let grad = parameter.grad();
            assert!(grad.defined() && grad.isfinite().all().int64_value(&[]) == 1, "{name}");
        }
    }
}

/// Opening fails as a bad model, and the message names the culprit.
fn refused(folder: &Path, words: &[&str]) {
    let error = opened(folder).unwrap_err();
    assert_eq!(error.kind().exit_code(), 4, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is not in: {error}");
    }
    assert!(error.hint_text().is_some(), "{error}");
}

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

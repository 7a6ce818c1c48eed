//! Networks: names, counts, calls, gradients.

use std::collections::BTreeMap;
use std::fs;

use genlib::math::rng::fnv1a64;
use genlib::model::open::{OpenOptions, open};
use genlib::net::store::{Store, channels_last};
use genlib::net::unet2d::UNet2D;
use genlib::net::unet2d_config::UNet2DConfig;
use genlib::net::{Cond, Mode, Network};
use genlib::torch::runtime::{Dtype, MemoryFormat};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::common::{data, fill, fixtures, floats, folder_of, gap, read};

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
    let cond = Cond { class, ..Cond::default() };
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
        let cond = Cond { class: class.map(|list| Tensor::from_slice(&list)), ..Cond::default() };
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
        let cond = Cond { class: class.map(|list| Tensor::from_slice(&list)), ..Cond::default() };
        let shape: Vec<i64> = t.size().into_iter().chain(net.sample_shape().iter().copied()).collect();
        let y = net.forward(&data("x", &shape), &t, &cond, Mode::Train).unwrap();
        (y - data("target", &shape)).square().mean(Kind::Float).backward();
        for (name, parameter) in store.trainable() {
            let grad = parameter.grad();
            assert!(grad.defined() && grad.isfinite().all().int64_value(&[]) == 1, "{name}");
        }
    }
}

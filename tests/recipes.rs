//! Every recipe that is shipped builds its network at its published size, trains and samples.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{json, root, run, text};
use genlib::data::augment::AugmentSpec;
use genlib::denoiser::network::{Compute, NetDenoiser};
use genlib::io::npy::Dtype;
use genlib::model::sampler::{Classes, Job, Sampler, Settings};
use genlib::net::Mode;
use genlib::net::store::Store;
use genlib::noise::streams::Rng;
use genlib::objective::Batch;
use genlib::optim::Progress;
use genlib::recipe::Recipe;
use genlib::solver::Budget;
use genlib::torch::shim::Generator;
use tch::{Device, Kind};

/// One training step and one sampling step of a CIFAR-10 recipe; gives its number of parameters.
fn step(name: &str) -> usize {
    let recipe = Recipe::load(&root().join("models").join(name), &[]).unwrap();
    let shape = [3, 32, 32];
    let store = Store::new(Device::Cpu, Kind::Float, 0);
    let net = recipe.model.build(&store.root(), &shape, 0).unwrap();
    let process = recipe.process.build().unwrap();
    let mut x = Generator::new(1).unwrap().normal(&[2, 3, 32, 32], Kind::Float).unwrap().clamp(-1.0, 1.0);
    let mut augment = None;
    if let Some(p) = recipe.data.augment {
        let (images, parameters) = AugmentSpec { p, ..AugmentSpec::default() }.apply(&x, 3).unwrap();
        (x, augment) = (images, Some(parameters));
    }
    let batch = Batch { x, class: None, augment, mel: None, frames: None, draw_seed: 7, mode: Mode::Train };
    let mut optimizer = recipe.optim.build(store.trainable()).unwrap();
    let losses = recipe.objective.build().unwrap().loss(net.as_ref(), process.as_ref(), &batch).unwrap();
    let loss = losses.total.double_value(&[]);
    // Every objective here has a target of unit variance per dimension, and the networks start near zero.
    assert!((0.3..3.0).contains(&loss), "{name}: first loss {loss}");
    losses.total.backward();
    assert!(optimizer.grads().len() > 100, "{name}");
    let lr = recipe.optim.lr_at(Progress { step: 100, images: 12800 }, recipe.train.total());
    assert!(lr > 0.0);
    optimizer.step(lr, None).unwrap();
    optimizer.zero_grad().unwrap();

    let parameters = store.parameters();
    let precond = recipe.objective.precond().unwrap();
    let model = NetDenoiser::new(net, process, precond, Compute::default());
    let settings = Settings {
        solver: recipe.sample.solver.clone().unwrap(),
        grid: recipe.sample.grid.clone().unwrap_or_default(),
        budget: Budget::Nfe(3),
        guidance: 1.0,
        rng: Rng::Torch,
        latent: Kind::Float,
    };
    let mut sampler = Sampler::new(&model, &shape, 0, settings, Device::Cpu).unwrap();
    let drawn = sampler.draw(&[Job { index: 0, seed: 5 }], &Classes::None, None, &mut |_| Ok(())).unwrap();
    assert_eq!(drawn.x.size(), [1, 3, 32, 32]);
    parameters
}

#[test]
fn cifar10_ddpmpp() {
    assert_eq!(step("cifar10-ddpmpp"), 106_632_579);
}

#[test]
fn cifar10_ncsnpp() {
    assert_eq!(step("cifar10-ncsnpp"), 107_586_947);
}

#[test]
fn cifar10_edm() {
    assert_eq!(step("cifar10-edm"), 55_733_891);
}

#[test]
fn cifar10_flow() {
    // EDM's network without the nine augmentation parameters.
    assert_eq!(step("cifar10-flow"), 55_733_891 - 9 * 128);
}

/// Random 32x32 images with labels as an archive.
fn random_images(path: &Path) {
    let images: Vec<u8> = (0..16 * 3072u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let labels: Vec<u8> = (0..16i64).flat_map(|i| (i % 10).to_le_bytes()).collect();
    genlib::io::npz::write(path, |out| {
        out.start("arr_0", Dtype::U8, &[16, 32, 32, 3])?;
        out.data(&images)?;
        out.start("arr_1", Dtype::I64, &[16])?;
        out.data(&labels)
    })
    .unwrap();
}

#[test]
fn every_recipe_runs_through_the_program_with_a_smaller_network() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("random.npz");
    random_images(&data);
    for name in ["cifar10-ddpmpp", "cifar10-ncsnpp", "cifar10-edm", "cifar10-flow"] {
        let recipe = root().join("models").join(name);
        let out = temp.path().join(name);
        run(&[
            "train",
            text(&recipe),
            "--data",
            text(&data),
            "--out",
            text(&out),
            "--steps",
            "2",
            "--batch",
            "4",
            "-q",
            "--set",
            "model.model_channels=32",
            "--set",
            "model.num_blocks=1",
            "--set",
            "data.split=all",
            "--set",
            "train.log_every=1",
        ]);
        let samples = temp.path().join(format!("{name}-samples"));
        let summary = json(&[
            "sample",
            "--model",
            text(&out),
            "--out",
            text(&samples),
            "--seeds",
            "0-1",
            "--nfe",
            "3",
            "-q",
        ]);
        assert_eq!(summary["samples"], 2, "{name}");
    }
}

#[test]
fn shipped_recipes_resolve_to_themselves() {
    for entry in std::fs::read_dir(root().join("models")).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("recipe.toml").exists() {
            continue;
        }
        let recipe = Recipe::load(&path, &[]).unwrap();
        let table = genlib::recipe::load::parse_table(&recipe.to_toml().unwrap(), "resolved").unwrap();
        assert_eq!(Recipe::from_table(table, "resolved").unwrap(), recipe, "{}", path.display());
        assert!(path.join("README.md").exists(), "{} has no README", path.display());
    }
}

#[test]
fn metadata_is_a_whole_model() {
    let temp = tempfile::tempdir().unwrap();
    let out = common::tiny_run(temp.path(), &[]);
    let snapshot = out.join("snapshots/00000020.safetensors");
    let file = genlib::io::safetensors::File::open(&snapshot).unwrap();
    let card = genlib::model::card::ModelCard::of(&file).unwrap();
    assert_eq!((card.shape.as_slice(), card.trained.steps), ([1i64, 8, 8].as_slice(), 20));
    assert_eq!(card.trained.ema.as_deref(), Some("main"));
    let mut named: BTreeMap<String, String> = file.metadata().clone();
    assert_eq!(named.remove("format").as_deref(), Some("pt"));
}

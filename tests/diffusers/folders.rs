//! Folders: every layout and format of the weights, the scheduler, whole runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use genlib::denoiser::Denoiser;
use genlib::error::Error;
use genlib::model::card::ModelCard;
use genlib::model::open::Opened;
use genlib::model::sampler::{Classes, Job, Sampler, Settings};
use genlib::net::{Cond, Mode};
use genlib::noise::streams::Rng;
use genlib::process::{At, Point};
use genlib::solver::Budget;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::common::*;

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

/// `steps` steps of the folder's own solver on its own grid.
fn settings(card: &ModelCard, steps: usize) -> Settings {
    Settings {
        solver: card.sample.solver.clone().unwrap(),
        grid: card.sample.grid.clone().unwrap(),
        budget: Budget::Steps(steps),
        guidance: 1.0,
        rng: Rng::Torch,
        latent: Kind::Float,
    }
}

/// The ends of runs of `steps` steps of the folder's own solver: each seed by itself with its own noise, or
/// both samples from the given latents.
fn sampled(folder: &str, file: &Value, init: Option<&Tensor>) -> Tensor {
    let model = opened(&fixtures().join(folder)).unwrap();
    let card = model.card.clone();
    let denoiser = model.denoiser().unwrap();
    let steps = usize::try_from(file["steps"].as_u64().unwrap()).unwrap();
    let settings = settings(&card, steps);
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

/// A few samples by the folder's own solver.
fn drawn(folder: &Path, steps: usize, classes: &Classes) -> Result<Tensor, Error> {
    let model = opened(folder)?;
    let card = model.card.clone();
    let denoiser = model.denoiser()?;
    let settings = settings(&card, steps);
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

//! Checkpoints of the DiffWave projects: what their networks give, what is understood, and damaged files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use genlib::denoiser::precond::{Precond, TimeInput};
use genlib::denoiser::{Denoiser, Prediction};
use genlib::io::safetensors;
use genlib::model::foreign::Layout;
use genlib::model::load::load;
use genlib::model::open::{OpenOptions, Opened, open};
use genlib::model::raw::{ProcessEntry, RawSpec};
use genlib::model::source::Source;
use genlib::net::diffwave::StepTable;
use genlib::net::spec::NetSpec;
use genlib::net::{Cond, Mode};
use genlib::process::{At, Point, ProcessName, ProcessSpec};
use genlib::solver::{Budget, GridSpec, SolverName, plan};
use genlib::torch::runtime::Dtype;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::data;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/diffwave").join(name)
}

fn facts(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(&format!("{name}.json"))).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Opens the checkpoint of a fixture in f64 and compares its output with the project's.
pub fn agrees(name: &str, tolerance: f64) -> Opened {
    let _guard = tch::no_grad_guard();
    let facts = facts(name);
    let options = OpenOptions { dtype: Dtype::F64, ..OpenOptions::default() };
    let opened = open(&fixture(facts["file"].as_str().unwrap()), &options, Device::Cpu).unwrap();
    let size: Vec<i64> = serde_json::from_value(facts["size"].clone()).unwrap();
    let hop = facts["hop"].as_i64().unwrap();
    let frames = facts["frames"].as_i64().unwrap_or((size[2] + hop - 1) / hop + 1);
    let conditional = name.contains("mel") || name == "vocoder" || name == "lmnt";
    let cond = Cond { mel: conditional.then(|| data("mel", &[2, 80, frames])), ..Cond::default() };
    let t = Tensor::from_slice(&floats(&facts["t"]));
    let y = opened.net.forward(&data("x", &size), &t, &cond, Mode::Eval).unwrap();
    let want = Tensor::from_slice(&floats(&facts["values"])).reshape(&size);
    let gap = (y - &want).abs().max().double_value(&[]) / want.abs().max().double_value(&[]);
    assert!(gap < tolerance, "{name}: {gap:e}");
    opened
}

/// The process, the units of time and the sampling that a published network needs.
fn is_sampled_as(opened: &Opened, steps: usize, beta_end: f64, clamp: Option<f64>) {
    let card = &opened.card;
    assert!(
        matches!(card.process, ProcessSpec::Ddpm { steps: n, beta_start, beta_end: end, betas: None, .. }
            if n == steps && beta_start == 1e-4 && (end - beta_end).abs() < 1e-15),
        "{:?}",
        card.process
    );
    let time = TimeInput::discrete(u32::try_from(steps).unwrap());
    assert_eq!(card.scalings(), Some(Precond::Plain { prediction: Prediction::Eps, time, factor: 1.0 }));
    let solver = card.sample.solver.as_ref().unwrap();
    assert_eq!((solver.name, solver.clamp, card.sample.steps), (SolverName::Ddpm, clamp, Some(steps)));
}

#[test]
fn networks_of_diffwave_sashimi_give_what_they_give() {
    let opened = agrees("wavenet", 1e-12);
    is_sampled_as(&opened, 200, 0.02, None);
    assert_eq!(opened.card.shape, [1, 16000]);
    let opened = agrees("wavenet-mel", 1e-12);
    is_sampled_as(&opened, 50, 0.05, None);
    assert!(
        matches!(&opened.card.model, NetSpec::DiffWave(c) if !c.residual_with_step && c.skip_channels == 6)
    );
}

#[test]
fn networks_of_diffwave_vocoder_give_what_they_give() {
    let opened = agrees("vocoder", 1e-12);
    is_sampled_as(&opened, 50, 0.05, None);
    assert_eq!(opened.card.trained.steps, 12_000);
    assert!(matches!(&opened.card.model, NetSpec::DiffWave(config) if config.residual_with_step));
    assert!(opened.notes.iter().any(|n| n.contains("DiffWave-Vocoder")), "{:?}", opened.notes);
}

#[test]
fn networks_of_lmnt_give_what_they_give() {
    let opened = agrees("lmnt", 1e-12);
    is_sampled_as(&opened, 50, 0.05, Some(1.0));
    assert_eq!((opened.card.trained.steps, &opened.card.shape[..]), (777, &[1, 62 * 256][..]));
    let NetSpec::DiffWave(config) = &opened.card.model else { panic!("{:?}", opened.card.model) };
    assert_eq!((config.layers, config.dilation_cycle, config.weight_norm), (3, 2, false));
    assert_eq!(config.steps, StepTable::Pow10 { steps: 50 });
    assert!(opened.notes.is_empty(), "{:?}", opened.notes);
    let opened = agrees("lmnt-unconditional", 1e-12);
    assert_eq!(opened.card.shape, [1, 40]);
}

#[test]
fn networks_of_diffwave_sashimi_with_state_spaces_give_what_they_give() {
    for (name, unet) in [("sashimi", true), ("sashimi-plain", false), ("sashimi-mel", true)] {
        let opened = agrees(name, 1e-10);
        let vocoder = name == "sashimi-mel";
        is_sampled_as(&opened, if vocoder { 50 } else { 200 }, if vocoder { 0.05 } else { 0.02 }, None);
        assert_eq!(opened.card.shape, [1, 64]);
        let NetSpec::DiffWaveSashimi(config) = &opened.card.model else { panic!("{:?}", opened.card.model) };
        assert_eq!(
            (config.unet, config.n_layers, config.d_state, &config.pool[..]),
            (unet, 1, 8, &[2, 4][..])
        );
        assert_eq!((config.n_ssm, config.bidirectional, config.mel.is_some()), (0, true, vocoder));
    }
}

#[test]
fn a_checkpoint_is_sampled_by_every_solver() {
    let options = OpenOptions { dtype: Dtype::F64, ..OpenOptions::default() };
    let opened = open(&fixture("lmnt-unconditional.pt"), &options, Device::Cpu).unwrap();
    let own = opened.card.sample.clone();
    let (solver, model) = (own.solver.unwrap(), opened.denoiser().unwrap());
    let mut seen = Vec::new();
    for (spec, grid, budget) in [
        (solver.clone(), GridSpec::default(), Budget::Steps(own.steps.unwrap())),
        (solver, "betas:1e-4,1e-3,1e-2,0.05,0.2,0.5".parse().unwrap(), Budget::Auto),
        (genlib::solver::SolverSpec::new(SolverName::Dpm), GridSpec::default(), Budget::Steps(10)),
        (genlib::solver::SolverSpec::new(SolverName::DpmPp), GridSpec::default(), Budget::Steps(10)),
        (genlib::solver::SolverSpec::new(SolverName::Ddim), GridSpec::default(), Budget::Steps(10)),
    ] {
        let mut run = plan(&spec, &grid, budget, model.process()).unwrap();
        let mut noise =
            genlib::noise::streams::Streams::new(genlib::noise::streams::Rng::Torch, &[1, 2]).unwrap();
        let x = data("x", &[2, 1, 40]);
        let solved = run.run(&model, &Cond::default(), x, &mut noise, &mut |_| Ok(())).unwrap();
        assert_eq!(solved.x.size(), [2, 1, 40]);
        assert!(spec.clamp.is_none() || solved.x.abs().max().double_value(&[]) <= 1.0);
        seen.push(solved.nfe);
    }
    assert_eq!(seen, [50, 6, 10, 10, 10]);
    // The network is told the index: entry 10 of the table.
    let at = |t: f64| At::all(Point::new(model.process(), t));
    let x = data("x", &[1, 1, 40]);
    let told = model.predict(&x, &at(11.0 / 50.0), &Cond::default()).unwrap();
    let direct = model.net().forward(&x, &Tensor::from_slice(&[10.0]), &Cond::default(), Mode::Eval).unwrap();
    assert!((told - direct).abs().max().double_value(&[]) < 1e-9);
}

#[test]
fn what_a_file_does_not_say_may_be_said() {
    let process = ProcessSpec::Ddpm {
        schedule: genlib::process::BetaSchedule::Linear,
        steps: 1000,
        beta_start: 1e-6,
        beta_end: 0.01,
        betas: None,
        terminal_alpha_bar: None,
    };
    let raw = RawSpec {
        process: Some(ProcessEntry::Spec(process.clone())),
        shape: Some(vec![1, 4096]),
        ..RawSpec::default()
    };
    let card = load(&fixture("12000.pkl"), &OpenOptions { raw, ..OpenOptions::default() }).unwrap().card;
    assert_eq!((card.process, card.shape, card.sample.steps), (process, vec![1, 4096], Some(1000)));
    for (raw, weights, code, word) in [
        (
            RawSpec { process: Some(ProcessEntry::Name(ProcessName::Vp)), ..RawSpec::default() },
            None,
            2,
            "another process",
        ),
        (RawSpec { shape: Some(vec![2, 100]), ..RawSpec::default() }, None, 2, "1,16000"),
        (RawSpec { prediction: Some(Prediction::V), ..RawSpec::default() }, None, 2, "--process and --shape"),
        (RawSpec::default(), Some("ema".to_owned()), 4, "--weights takes raw"),
    ] {
        let options = OpenOptions { raw, weights, ..OpenOptions::default() };
        let error = load(&fixture("12000.pkl"), &options).unwrap_err();
        let text = format!("{error} {}", error.hint_text().unwrap_or_default());
        assert!(error.kind().exit_code() == code && text.contains(word), "{text}");
    }
}

/// The fixture's tensors as a file of their own after `change`, opened; its error must be one line with `word`.
pub fn damaged(file: &str, change: impl FnOnce(&mut BTreeMap<String, Tensor>), word: &str) {
    let source = Source::open(&fixture(file)).unwrap();
    let mut tensors = source.below("").unwrap();
    change(&mut tensors);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let list: Vec<(&str, Tensor)> = tensors
        .iter()
        .map(|(n, t)| (n.as_str(), t.contiguous()))
        .filter(|(_, t)| t.kind() == Kind::Float)
        .collect();
    safetensors::write(&path, list, &BTreeMap::new()).unwrap();
    let error =
        open(&path, &OpenOptions::default(), Device::Cpu).err().unwrap_or_else(|| panic!("{file}: {word}"));
    let text = error.to_string();
    assert_eq!(error.kind().exit_code(), 4, "{text}");
    assert!(text.contains(word) && !text.contains('\n'), "{text}, not {word}");
}

#[test]
fn damaged_checkpoints_name_the_fault() {
    let lmnt = |name: &str| format!("model.{name}");
    let dw = |name: &str| format!("model_state_dict.{name}");
    for name in ["residual_layers.1.dilated_conv.bias", "diffusion_embedding.projection2.weight"] {
        let own =
            if name.contains("dilated") { "residual_blocks.1.dilated_conv_layer.conv.bias" } else { "fc_t2" };
        damaged("lmnt.pt", |t| drop(t.remove(&lmnt(name))), own);
    }
    damaged(
        "lmnt.pt",
        |t| drop(t.insert(lmnt("residual_layers.0.extra.weight"), Tensor::from(1f32))),
        "extra",
    );
    damaged(
        "lmnt.pt",
        |t| {
            drop(t.insert(
                lmnt("residual_layers.0.output_projection.weight"),
                Tensor::zeros([3, 4, 1], (Kind::Float, Device::Cpu)),
            ))
        },
        "no two halves",
    );
    damaged(
        "lmnt.pt",
        |t| {
            drop(t.insert(
                lmnt("residual_layers.0.dilated_conv.weight"),
                Tensor::zeros([8, 4, 5], (Kind::Float, Device::Cpu)),
            ))
        },
        "dilated_conv_layer",
    );
    let wave = "wnet_h4_d3_T200_betaT0.02/wavenet.pkl";
    for name in [
        "init_conv.0.conv.weight_v",
        "residual_layer.residual_blocks.2.res_conv.weight_g",
        "final_conv.2.conv.bias",
    ] {
        damaged(wave, |t| drop(t.remove(&dw(name))), name);
    }
    damaged(
        wave,
        |t| {
            let tensor = t.remove(&dw("residual_layer.residual_blocks.0.fc_t.bias")).unwrap();
            t.insert(dw("residual_layer.residual_blocks.0.fc_t.b"), tensor);
        },
        "residual_blocks.0.fc_t.bias",
    );
    damaged(
        wave,
        |t| {
            drop(t.insert(
                dw("residual_layer.residual_blocks.1.skip_conv.weight_v"),
                Tensor::zeros([6, 5, 1], (Kind::Float, Device::Cpu)),
            ))
        },
        "skip_conv.weight_v",
    );
    damaged(
        wave,
        |t| drop(t.insert(dw("residual_layer.residual_blocks.99999999.x"), Tensor::from(1f32))),
        "no consecutive layers",
    );
}

#[test]
fn damaged_checkpoints_with_state_spaces_name_the_fault() {
    let unit = |rest: &str| format!("model_state_dict.u_layers.1.layer.kernel.kernel.{rest}");
    let float = (Kind::Float, Device::Cpu);
    // Without integers there are no lengths: the damaged files here are written without them.
    damaged("unet_T200_betaT0.02/sashimi.pkl", |_| {}, "layer.kernel.kernel.L");
    let options = OpenOptions::default();
    let with = |change: &dyn Fn(&mut BTreeMap<String, Tensor>), word: &str| {
        let source = Source::open(&fixture("unet_T200_betaT0.02/sashimi.pkl")).unwrap();
        let mut tensors = source.below("").unwrap();
        change(&mut tensors);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let list = tensors.iter().map(|(n, t)| (n.as_str(), t.contiguous()));
        safetensors::write(&path, list, &BTreeMap::new()).unwrap();
        let error = open(&path, &options, Device::Cpu).err().unwrap_or_else(|| panic!("{word}"));
        let text = error.to_string();
        assert_eq!(error.kind().exit_code(), 4, "{text}");
        assert!(text.contains(word) && !text.contains('\n'), "{text}, not {word}");
    };
    with(&|t| drop(t.remove(&unit("log_dt"))), "log_dt");
    with(&|t| drop(t.remove(&unit("C"))), "kernel.C");
    with(&|t| drop(t.insert(unit("P"), Tensor::zeros([1, 4, 3, 2], float))), "kernel.P");
    with(&|t| drop(t.insert(unit("C"), Tensor::zeros([2, 4, 8], float))), "kernel.C");
    with(&|t| drop(t.insert(unit("C"), Tensor::zeros([2, 0, 4, 2], float))), "kernel.");
    with(&|t| drop(t.insert(unit("L"), Tensor::from(-3i64))), "no length");
    with(&|t| drop(t.insert(unit("w_imag"), Tensor::zeros([4, 5], float))), "w_imag");
    with(&|t| drop(t.insert(unit("inv_w_real"), Tensor::zeros([3, 4], float))), "inv_w_real");
    with(&|t| drop(t.remove("model_state_dict.d_layers.1.linear.conv.weight_v")), "no SaShiMi");
    with(&|t| drop(t.remove("model_state_dict.u_layers.3.norm1.m")), "u_layers.3.norm1.m");
    with(&|t| drop(t.insert("model_state_dict.u_layers.9.x".into(), Tensor::from(1f32))), "u_layers.9.x");
}

#[test]
fn layouts_are_told_apart() {
    for (file, layout) in [
        ("lmnt.pt", Layout::DiffWaveLmnt),
        ("12000.pkl", Layout::DiffWave),
        ("unet_T200_betaT0.02/sashimi-plain.pkl", Layout::DiffWaveSashimi),
        ("wnet_h4_d3_T50_betaT0.05/wavenet-mel.pkl", Layout::DiffWave),
    ] {
        assert_eq!(Layout::of(&Source::open(&fixture(file)).unwrap()), Some(layout), "{file}");
    }
}

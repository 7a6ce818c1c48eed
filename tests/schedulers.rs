//! Schedulers of diffusers, read from their configurations, against diffusers' own runs with an exact model.

#![allow(clippy::unwrap_used, missing_docs)]

use std::cell::RefCell;

use genlib::denoiser::precond::Precond;
use genlib::denoiser::{Denoiser, Mixture, Prediction};
use genlib::error::{Kind as ErrorKind, Result};
use genlib::model::scheduler::Scheduler;
use genlib::net::Cond;
use genlib::noise::Noise;
use genlib::objective::ObjectiveSpec;
use genlib::process::{At, Point, Process, ProcessSpec};
use genlib::recipe::SampleSpec;
use genlib::solver::{Budget, Compat, Plan, plan};
use proptest::prelude::*;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

const SET_A: [(f64, f64, f64); 2] = [(0.3, -1.0, 0.2), (0.7, 0.5, 0.35)];

/// A model that knows, as a network does, only the state and the time that it is told.
struct Network {
    exact: Mixture,
    precond: Precond,
    told: RefCell<Vec<f64>>,
}

impl Network {
    fn new(scheduler: &Scheduler) -> Self {
        let process = scheduler.process.build().unwrap();
        let precond = scheduler.objective.precond().unwrap();
        let exact = Mixture::one_dimensional(process, precond.prediction(), &SET_A).unwrap();
        Network { exact, precond, told: RefCell::default() }
    }
}

impl Denoiser for Network {
    fn prediction(&self) -> Prediction {
        self.exact.prediction()
    }
    fn process(&self) -> &dyn Process {
        self.exact.process()
    }
    fn predict(&self, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor> {
        let point = at.points()[0];
        let told = self.precond.at(&point).time;
        self.told.borrow_mut().push(told);
        let seen = match self.process().table_len() {
            Some(len) => Point::new(self.process(), (told + 1.0) / len as f64),
            None => point,
        };
        // The mixture is one of a single coordinate: all of them are samples of it.
        Ok(self.exact.predict(&x.reshape([-1, 1]), &seen.into(), cond)?.reshape(x.size()))
    }
}

/// Draw i of the fixtures.
struct Fixed(u32);

impl Noise for Fixed {
    fn normal(&mut self, like: &Tensor) -> Result<Tensor> {
        let z = 0.8 * (1.3 + 2.1 * f64::from(self.0)).sin();
        self.0 += 1;
        Ok(like.full_like(z))
    }
}

/// The plan of `steps` steps of a configuration, and its model.
fn planned(config: &Value, eta: f64, steps: usize) -> (Plan, Network) {
    let mut scheduler = Scheduler::read(config, "scheduler_config.json", Compat::None).unwrap();
    let spec = scheduler.sample.solver.as_mut().unwrap();
    if eta > 0.0 {
        spec.eta = Some(eta);
    }
    let network = Network::new(&scheduler);
    let grid = scheduler.sample.grid.as_ref().unwrap();
    let spec = scheduler.sample.solver.as_ref().unwrap();
    let plan =
        plan(spec, grid, Budget::Steps(steps), network.process()).unwrap_or_else(|e| panic!("{config}: {e}"));
    (plan, network)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn values(x: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(&x.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

/// The largest difference, in units of `scale` and the size of what is wanted.
fn off(got: &[f64], want: &[f64], scale: f64) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    got.iter().zip(want).map(|(g, w)| (g - w).abs() / (scale + w.abs())).fold(0.0, f64::max)
}

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schedulers/diffusers.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_class_runs_as_in_diffusers() {
    let fixture = fixture();
    let start = Tensor::from_slice(&numbers(&fixture["start"])).reshape([2, 3]);
    let runs = fixture["runs"].as_array().unwrap();
    assert!(runs.len() > 180, "{}", runs.len());
    let (mut failures, mut largest) = (Vec::new(), [0.0f64; 4]);
    for run in runs {
        let steps = run["steps"].as_u64().unwrap() as usize;
        let (mut plan, network) = planned(&run["config"], run["eta"].as_f64().unwrap(), steps);
        let x = &start * plan.start_std();
        let x = plan.run(&network, &Cond::default(), x, &mut Fixed(0), &mut |_| Ok(())).unwrap().x;
        let got = values(&x);
        let times = off(&network.told.borrow(), &numbers(&run["calls"]), 1.0);
        let levels = run["sigmas"].as_array().map_or(0.0, |_| {
            let got: Vec<f64> = plan.points().iter().map(Point::rho).collect();
            off(&got, &numbers(&run["sigmas"]), 1e-9)
        });
        let exact = off(&got, &numbers(&run["end"]), 1.0);
        let single = off(&got, &numbers(&run["end_f32"]), 1.0);
        let name = run["name"].as_str().unwrap();
        // ScoreSdeVe asks its model at times of up to 1e-5 beside those of its levels.
        let beside = if name.starts_with("ve") { 3e-5 } else { 1e-9 };
        if times > beside || levels > 1e-9 || exact > beside || single > 1e-4 {
            failures.push(format!(
                "{name}: times {times:.1e} levels {levels:.1e} end {exact:.1e} f32 {single:.1e}"
            ));
        }
        for (most, one) in largest.iter_mut().zip([times, levels, exact, single]) {
            *most = most.max(one);
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {}, {largest:?}\n{}",
        failures.len(),
        runs.len(),
        failures.join("\n")
    );
}

#[test]
fn what_is_read_is_kept_in_recipes_and_model_cards() {
    for run in fixture()["runs"].as_array().unwrap() {
        let scheduler = Scheduler::read(&run["config"], "x", Compat::None).unwrap();
        let (process, objective, sample) = (&scheduler.process, &scheduler.objective, &scheduler.sample);
        let text = serde_json::to_string(&(process, objective, sample)).unwrap();
        let (p, o, s): (ProcessSpec, ObjectiveSpec, SampleSpec) = serde_json::from_str(&text).unwrap();
        assert_eq!((&p, &o, &s), (process, objective, sample));
        let text = toml::to_string(sample).unwrap();
        assert_eq!(&toml::from_str::<SampleSpec>(&text).unwrap(), sample, "{text}");
        let text = toml::to_string(process).unwrap();
        assert_eq!(&toml::from_str::<ProcessSpec>(&text).unwrap(), process, "{text}");
    }
}

/// Values that an option may have by mistake.
fn odd_values() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(false),
        json!(-1),
        json!(0),
        json!(1),
        json!(2),
        json!(7),
        json!(0.5),
        json!(1e-300),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("linspace"),
        json!("zero"),
        json!([]),
        json!([0.5]),
        json!([0.0, "x"]),
        json!({}),
    ]
}

proptest! {
    #[test]
    fn odd_options_give_a_plan_or_an_error(
        class in 0..CLASSES.len(),
        options in prop::collection::vec((0..KEYS.len(), 0..odd_values().len()), 0..5),
        steps in 1usize..20,
    ) {
        let mut config = json!({"_class_name": format!("{}Scheduler", CLASSES[class])});
        for (key, value) in options {
            config[KEYS[key]] = odd_values()[value].clone();
        }
        match Scheduler::read(&config, "x", Compat::None) {
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Model, "{}: {}", config, error),
            Ok(scheduler) => {
                let process = scheduler.process.build().unwrap();
                let (solver, grid) = (scheduler.sample.solver.unwrap(), scheduler.sample.grid.unwrap());
                match plan(&solver, &grid, Budget::Steps(steps), process.as_ref()) {
                    Ok(plan) => prop_assert!(plan.start_std().is_finite() && plan.nfe().is_some()),
                    // The number of steps, or a value beyond all numbers.
                    Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Usage, "{}: {}", config, error),
                }
            }
        }
    }
}

const CLASSES: [&str; 19] = [
    "DDPM",
    "DDIM",
    "PNDM",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "DPMSolverSDE",
    "DEISMultistep",
    "UniPCMultistep",
    "EDMEuler",
    "EDMDPMSolverMultistep",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "HeunDiscrete",
    "LMSDiscrete",
    "KDPM2Discrete",
    "KDPM2AncestralDiscrete",
    "ScoreSdeVe",
    "FlowMatchEulerDiscrete",
    "FlowMatchHeunDiscrete",
];

const KEYS: [&str; 31] = [
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "rescale_betas_zero_snr",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "variance_type",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "final_sigmas_type",
    "solver_order",
    "lower_order_final",
    "euler_at_final",
    "shift",
    "sigma_min",
    "sigma_max",
    "sigma_data",
    "rho",
    "snr",
    "correct_steps",
    "skip_prk_steps",
];

/// The end of ten steps from `start` times the state's deviation.
fn end(config: &Value, start: f64) -> f64 {
    let (mut plan, network) = planned(config, 0.0, 10);
    let x = Tensor::from_slice(&[start * plan.start_std()]).reshape([1, 1]);
    values(&plan.run(&network, &Cond::default(), x, &mut Fixed(0), &mut |_| Ok(())).unwrap().x)[0]
}

#[test]
fn golden_runs() {
    let linear = |class: &str, options: Value| {
        let mut config =
            json!({"_class_name": class, "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": false});
        for (key, value) in options.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    };
    let spaced = |class: &str, spacing: &str| linear(class, json!({"timestep_spacing": spacing}));
    let dpm = |options| linear("DPMSolverMultistepScheduler", options);
    let single = |order: u32| linear("DPMSolverSinglestepScheduler", json!({"solver_order": order}));
    let mut rows = vec![
        (linear("PNDMScheduler", json!({})), 0.611569),
        (linear("PNDMScheduler", json!({"skip_prk_steps": true})), 0.611259),
        (dpm(json!({"final_sigmas_type": "sigma_min"})), 0.609479),
        (dpm(json!({"solver_order": 3})), 0.612457),
        (dpm(json!({"use_karras_sigmas": true})), 0.736257),
        (dpm(json!({"use_lu_lambdas": true})), 0.684976),
        (single(2), 0.576821),
        (single(3), 0.611756),
    ];
    let families = [
        ("DDIMScheduler", [0.576346, 0.566702, 0.565302]),
        ("DPMSolverMultistepScheduler", [0.606529, 0.614428, 0.607374]),
        ("UniPCMultistepScheduler", [0.611528, 0.618141, 0.612394]),
        ("DEISMultistepScheduler", [0.599288, 0.606396, 0.599924]),
        ("EulerDiscreteScheduler", [0.560093, 0.566702, 0.565298]),
        ("HeunDiscreteScheduler", [0.674791, 0.666984, 0.613808]),
        ("LMSDiscreteScheduler", [0.615266, 0.611719, 0.610050]),
    ];
    for (class, wants) in families {
        for (spacing, want) in ["linspace", "leading", "trailing"].into_iter().zip(wants) {
            rows.push((spaced(class, spacing), want));
        }
    }
    let mut off: Vec<String> = Vec::new();
    let mut check = |config: &Value, got: f64, want: f64| {
        if (got - want).abs() > 2e-5 {
            off.push(format!("{config}: {got:.6}, not {want}"));
        }
    };
    for (config, want) in rows {
        check(&config, end(&config, 0.7), want);
    }
    // From y = 40 at sigma = 80, and from x = 1/2.
    let edm = |class: &str, order: u32| json!({"_class_name": class, "solver_order": order});
    for (class, order, want) in [
        ("EDMEulerScheduler", 1, 0.466349),
        ("EDMDPMSolverMultistepScheduler", 2, 0.676248),
        ("EDMDPMSolverMultistepScheduler", 3, 0.747110),
    ] {
        let config = edm(class, order);
        check(&config, end(&config, 40.0 / 80f64.hypot(1.0)), want);
    }
    for (class, shift, want) in [
        ("FlowMatchEulerDiscreteScheduler", 1.0, 0.513037),
        ("FlowMatchEulerDiscreteScheduler", 3.0, 0.497520),
        ("FlowMatchHeunDiscreteScheduler", 1.0, 0.553817),
    ] {
        let config = json!({"_class_name": class, "shift": shift});
        check(&config, end(&config, 0.5), want);
    }
    assert!(off.is_empty(), "\n{}", off.join("\n"));
}

#[test]
fn model_calls_are_those_of_the_classes() {
    let calls = |class: &str, options: Value| {
        let mut config = options;
        config["_class_name"] = json!(class);
        planned(&config, 0.0, 10).0.nfe().unwrap()
    };
    assert_eq!(calls("PNDMScheduler", json!({})), 19);
    assert_eq!(calls("PNDMScheduler", json!({"skip_prk_steps": true})), 11);
    for class in ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"] {
        assert_eq!(calls(class, json!({})), 19, "{class}");
    }
    assert_eq!(calls("DPMSolverSDEScheduler", json!({})), 19);
    assert_eq!(calls("DPMSolverSinglestepScheduler", json!({"solver_order": 3})), 10);
    assert_eq!(calls("DDIMScheduler", json!({})), 10);
}

#[test]
fn options_without_a_counterpart_are_errors_that_name_them() {
    for (class, options, words) in [
        ("DDPMScheduler", json!({"variance_type": "learned"}), "`variance_type` is \"learned\""),
        ("DDPMScheduler", json!({"beta_schedule": "cubic"}), "`beta_schedule` is \"cubic\""),
        ("DDIMScheduler", json!({"prediction_type": "noise"}), "`prediction_type` is \"noise\""),
        ("DDIMScheduler", json!({"timestep_spacing": "even"}), "`timestep_spacing` is \"even\""),
        ("DDIMScheduler", json!({"steps_offset": 1.5}), "`steps_offset` is 1.5"),
        ("DDIMScheduler", json!({"beta_end": 3.0}), "process.beta_start"),
        ("DDIMScheduler", json!({"trained_betas": [0.1, 0.2]}), "`num_train_timesteps` is not given"),
        ("DPMSolverMultistepScheduler", json!({"use_flow_sigmas": true}), "`use_flow_sigmas` is true"),
        ("DPMSolverMultistepScheduler", json!({"algorithm_type": "dpmsolver"}), "final_sigmas_type"),
        ("DPMSolverMultistepScheduler", json!({"solver_order": 4}), "`solver_order` is 4"),
        ("DPMSolverMultistepScheduler", json!({"lambda_min_clipped": -5.1}), "`lambda_min_clipped` is -5.1"),
        ("DPMSolverSinglestepScheduler", json!({"algorithm_type": "sde-dpmsolver++"}), "no noise here"),
        ("UniPCMultistepScheduler", json!({"disable_corrector": [0]}), "`disable_corrector` is [0]"),
        ("EulerDiscreteScheduler", json!({"interpolation_type": "log_linear"}), "known are `linear`"),
        ("EDMEulerScheduler", json!({"prediction_type": "v_prediction"}), "known are `epsilon`"),
        ("FlowMatchEulerDiscreteScheduler", json!({"use_dynamic_shifting": true}), "one shift"),
        ("IPNDMScheduler", json!({"beta_schedule": "linear"}), "a schedule of its own"),
        ("IPNDMScheduler", json!({"trained_betas": [0.1, 0.2]}), "on its own schedule"),
        ("VQDiffusionScheduler", json!({}), "unknown scheduler class `VQDiffusionScheduler`"),
    ] {
        let mut config = options;
        config["_class_name"] = json!(class);
        let error = Scheduler::read(&config, "scheduler_config.json", Compat::None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model, "{error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("scheduler_config.json"), "{text}");
    }
}

#[test]
fn options_that_change_nothing_are_ignored() {
    let plain = json!({"_class_name": "DDIMScheduler"});
    let full = json!({
        "_class_name": "DDIMScheduler", "_diffusers_version": "0.42.1", "skip_prk_steps": true,
        "trained_betas": null, "thresholding": false, "sigma_min": 0.3, "use_karras_sigmas": true, "lambda_min_clipped": -5.1,
    });
    let read = |config: &Value| Scheduler::read(config, "x", Compat::None).unwrap();
    assert_eq!(read(&plain), read(&full));
    let karras = |class: &str, options: Value| {
        let mut config = options;
        (config["_class_name"], config["use_karras_sigmas"]) = (json!(class), json!(true));
        Scheduler::read(&config, "x", Compat::None).unwrap()
    };
    let dpm = "DPMSolverMultistepScheduler";
    assert_eq!(karras(dpm, json!({})), karras(dpm, json!({"sigma_min": 0.3, "sigma_max": 9.0})));
    let euler = "EulerDiscreteScheduler";
    assert_ne!(karras(euler, json!({})), karras(euler, json!({"sigma_min": 0.3, "sigma_max": 9.0})));
    // As Python writes it.
    let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity}"#;
    assert!(Scheduler::parse(text, "x", Compat::None).is_ok());
    // A table's options stay in the file of a pipeline that was given another scheduler.
    let ipndm = |options: Value| {
        let mut config = options;
        config["_class_name"] = json!("IPNDMScheduler");
        Scheduler::read(&config, "x", Compat::Reference).unwrap()
    };
    assert_eq!(ipndm(json!({})), ipndm(json!({"beta_schedule": "linear", "steps_offset": 1})));
    assert!(
        Scheduler::parse("{", "x", Compat::None).is_err()
            && Scheduler::read(&json!([]), "x", Compat::None).is_err()
    );
}

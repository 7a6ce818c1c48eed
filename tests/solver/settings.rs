//! Plans: what they refuse, how they count, and that every solver runs on every process and prediction.

use clap::ValueEnum;
use genlib::denoiser::{Prediction, ThresholdSpec};
use genlib::error::{Error, Kind as ErrorKind};
use genlib::net::Cond;
use genlib::process::{Flow, Point, Process, ProcessName, Vp};
use genlib::solver::{
    Budget, Churn, Control, Form, GridKind, GridSpec, LowerOrderFinal, Method, SolverName, SolverSpec,
    SolverType, Variant, plan, registered,
};
use tch::Kind;

use super::models::*;

const PREDICTIONS: [Prediction; 5] =
    [Prediction::V, Prediction::X0, Prediction::Velocity, Prediction::Eps, Prediction::Score];

#[test]
fn every_solver_runs_on_every_process_with_every_prediction() {
    for name in ProcessName::value_variants() {
        let build = || name.spec().build().unwrap();
        for entry in registered() {
            let process = build();
            // The process's own ends and grid: flows go from pure noise to clean data.
            let steps = if entry.spec.method == Some(Method::SinglestepFixed) { 36 } else { 12 };
            let mut plan =
                plan(&entry.spec, &GridSpec::default(), Budget::Steps(steps), process.as_ref()).unwrap();
            let start = 0.7 * plan.start_point().sigma;
            let mut first: Option<f64> = None;
            for prediction in PREDICTIONS {
                let model = exact(build(), prediction, &SET_A);
                let of_noise = matches!(prediction, Prediction::Eps | Prediction::Score);
                let x = run_plan(&mut plan, &model, column(&[start]), &mut alternating(0.3));
                let got = values(&x)[0];
                let want = *first.get_or_insert(got);
                // A model of the noise says nothing where there is only noise: it starts a little later.
                let tolerance = if of_noise && plan.start_point().is_pure_noise() { 0.06 } else { 1e-8 };
                assert!(
                    (got - want).abs() < tolerance,
                    "{} {name:?} {prediction:?}: {got} {want}",
                    entry.label
                );
                let single =
                    run_plan(&mut plan, &model, column(&[start]).to_kind(Kind::Float), &mut alternating(0.3));
                assert_eq!(single.kind(), Kind::Float);
                let single = values(&single)[0];
                assert!(
                    (single - got).abs() < 2e-3,
                    "{} {name:?} {prediction:?}: {single} {got}",
                    entry.label
                );
            }
        }
    }
}

#[test]
fn many_steps_reach_the_exact_end_also_between_the_ends_of_a_flow() {
    let want = genlib::solver::exact_end(&SET_A, &Point::new(&Flow, 1.0), &Point::clean(), 0.5);
    let model = exact(Box::new(Flow), Prediction::Velocity, &SET_A);
    for entry in registered() {
        if entry.convergence != genlib::solver::Convergence::Ode {
            continue;
        }
        let got = end(&entry.spec, &GridSpec::default(), 600, &model, 0.5);
        assert!((got - want).abs() < 5e-3, "{}: {got} {want}", entry.label);
    }
}

#[test]
fn rk45_runs_a_flow_from_end_to_end() {
    let want = genlib::solver::exact_end(&SET_A, &Point::new(&Flow, 1.0), &Point::clean(), 0.5);
    for prediction in PREDICTIONS {
        let model = exact(Box::new(Flow), prediction, &SET_A);
        let mut plan =
            plan(&SolverSpec::new(SolverName::Rk45), &GridSpec::default(), Budget::Auto, &Flow).unwrap();
        assert_eq!(plan.nfe(), None);
        let solved =
            plan.run(&model, &Cond::default(), column(&[0.5]), &mut silent(), &mut |_| Ok(())).unwrap();
        let of_noise = matches!(prediction, Prediction::Eps | Prediction::Score);
        let got = values(&solved.x)[0];
        assert!((got - want).abs() < if of_noise { 2e-3 } else { 1e-4 }, "{prediction:?}: {got} {want}");
    }
}

#[test]
fn adaptive_samples_do_not_depend_on_their_batch() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &SET_A);
    let starts = [0.7, -1.9, 0.02, 1.3];
    for name in [SolverName::Rk45, SolverName::DpmAdaptive] {
        let run = |control, starts: &[f64]| {
            let spec = SolverSpec { control, ..SolverSpec::new(name) };
            let mut plan = plan(&spec, &GridSpec::default(), Budget::Auto, &Vp::default()).unwrap();
            let mut last = 0.0;
            let solved = plan
                .run(&model, &Cond::default(), column(starts), &mut silent(), &mut |progress| {
                    assert!(progress.fraction >= last && progress.steps.is_none());
                    last = progress.fraction;
                    Ok(())
                })
                .unwrap();
            assert_eq!(last, 1.0);
            (values(&solved.x), solved.nfe)
        };
        let (together, nfe) = run(Control::Sample, &starts);
        let alone: Vec<(Vec<f64>, u64)> = starts.iter().map(|s| run(Control::Sample, &[*s])).collect();
        for (k, (x, _)) in alone.iter().enumerate() {
            // Vectorised exponentials round by the place in the batch; the steps are the same.
            assert!((together[k] - x[0]).abs() < 1e-9, "{name:?} {k}");
        }
        assert_eq!(Some(nfe), alone.iter().map(|a| a.1).max(), "{name:?}");
        // Alone both rules are the same; in a batch the rule of the batch changes the samples.
        assert_eq!(run(Control::Batch, &[0.7]), alone[0]);
        assert_ne!(run(Control::Batch, &starts).0, together);
    }
}

/// Predicts the class as the clean data, and checks that condition and batch fit.
struct OfClass;

impl genlib::denoiser::Denoiser for OfClass {
    fn prediction(&self) -> Prediction {
        Prediction::X0
    }
    fn process(&self) -> &dyn Process {
        &Flow
    }
    fn predict(
        &self,
        x: &tch::Tensor,
        at: &genlib::process::At,
        cond: &Cond,
    ) -> genlib::error::Result<tch::Tensor> {
        let class = cond.class.as_ref().unwrap().to_kind(Kind::Double).reshape([-1, 1]);
        assert_eq!(class.size(), x.size());
        assert!([1, x.size()[0]].contains(&(at.points().len() as i64)));
        // The further along, the more of the class.
        Ok(class * at.coef(|p| (3.0 * p.alpha).sin()).tensor(x)?)
    }
}

#[test]
fn samples_that_are_done_leave_with_their_class() {
    let classes = [1i64, 50, 2, 9];
    for name in [SolverName::Rk45, SolverName::DpmAdaptive] {
        let grid = GridSpec { t_max: Some(0.99), t_min: Some(0.01), ..GridSpec::default() };
        let run = |classes: &[i64]| {
            let mut plan = plan(&SolverSpec::new(name), &grid, Budget::Auto, &Flow).unwrap();
            let cond = Cond { class: Some(tch::Tensor::from_slice(classes)), ..Cond::default() };
            let x = column(&vec![0.3; classes.len()]);
            values(&plan.run(&OfClass, &cond, x, &mut silent(), &mut |_| Ok(())).unwrap().x)
        };
        let together = run(&classes);
        for (k, class) in classes.into_iter().enumerate() {
            assert!((together[k] - run(&[class])[0]).abs() < 1e-9, "{name:?} {class}");
        }
    }
}

#[test]
fn singlestep_spends_its_budget_to_the_last_call() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &SET_A);
    for name in [ProcessName::Vp, ProcessName::Flow, ProcessName::Edm] {
        let process = name.spec().build().unwrap();
        for order in 1..=3 {
            for nfe in 1..20 {
                for budget in [Budget::Steps(nfe), Budget::Nfe(nfe)] {
                    let spec = SolverSpec { order: Some(order), ..SolverSpec::new(SolverName::Dpm) };
                    let mut made = plan(&spec, &GridSpec::default(), budget, process.as_ref()).unwrap();
                    assert_eq!(made.nfe(), Some(nfe as u64), "{name:?} {order}");
                    if name == ProcessName::Vp {
                        let _ = run_plan(&mut made, &model, column(&[0.7]), &mut silent());
                    }
                }
            }
        }
    }
}

#[test]
fn budgets_in_calls_are_kept() {
    let nfe = |spec: &SolverSpec, budget, name: ProcessName| {
        plan(spec, &GridSpec::default(), budget, name.spec().build().unwrap().as_ref()).map(|p| p.nfe())
    };
    let new = SolverSpec::new;
    assert_eq!(nfe(&new(SolverName::Edm), Budget::Auto, ProcessName::Edm).unwrap(), Some(35));
    assert_eq!(nfe(&new(SolverName::Edm), Budget::Nfe(36), ProcessName::Edm).unwrap(), Some(35));
    assert_eq!(nfe(&new(SolverName::Heun), Budget::Nfe(11), ProcessName::Vp).unwrap(), Some(10));
    let kutta = SolverSpec { variant: Some(Variant::Rhork), ..new(SolverName::Deis) };
    assert_eq!(nfe(&kutta, Budget::Nfe(16), ProcessName::Vp).unwrap(), Some(15));
    let denoised = SolverSpec { denoise: true, ..new(SolverName::Ddim) };
    assert_eq!(nfe(&denoised, Budget::Steps(10), ProcessName::Vp).unwrap(), Some(11));
    assert_eq!(nfe(&denoised, Budget::Nfe(10), ProcessName::Vp).unwrap(), Some(10));
    assert_eq!(nfe(&denoised, Budget::Steps(10), ProcessName::Flow).unwrap(), Some(10));
    let error = nfe(&kutta, Budget::Nfe(2), ProcessName::Vp).unwrap_err();
    assert!(error.to_string().contains("needs 3 at least"), "{error}");
}

#[test]
fn denoising_returns_the_predicted_data_of_the_end() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &SET_A);
    use genlib::denoiser::DenoiserExt;
    for name in [SolverName::Ddim, SolverName::DpmPp, SolverName::Dpm, SolverName::Unipc, SolverName::Deis] {
        let at_the_end = end(&SolverSpec::new(name), &kind(GridKind::Logsnr), 12, &model, 0.7);
        let spec = SolverSpec { denoise: true, corrector: None, ..SolverSpec::new(name) };
        let spec =
            if name == SolverName::Unipc { SolverSpec { corrector: Some(false), ..spec } } else { spec };
        let got = end(&spec, &kind(GridKind::Logsnr), 12, &model, 0.7);
        let point = Point::new(&Vp::default(), 1e-3);
        let x0 = model.x0(&column(&[at_the_end]), &point.into(), &Cond::default()).unwrap();
        let tolerance = if name == SolverName::Unipc { 0.05 } else { 1e-12 };
        assert!((got - values(&x0)[0]).abs() < tolerance, "{name:?}");
    }
}

fn refused(spec: SolverSpec, grid: GridSpec, budget: Budget, process: &dyn Process, words: &str) {
    let error: Error = plan(&spec, &grid, budget, process).unwrap_err();
    let text = format!("{error} | {}", error.hint_text().unwrap_or(""));
    assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
    assert!(text.contains(words), "{text}: no `{words}`");
}

#[test]
fn what_is_not_defined_is_refused_with_the_reason() {
    use SolverName::{Ddim, Deis, Dpm, DpmAdaptive, DpmPp, Edm, Euler, Ipndm, Rk45, SdeDpmPp, Unipc};
    let vp = Vp::default();
    let new = SolverSpec::new;
    let auto = GridSpec::default;
    let order = |name, order| SolverSpec { order: Some(order), ..new(name) };
    let ten = Budget::Steps(10);
    refused(order(Unipc, 9), auto(), ten, &vp, "unipc has the orders 1, 2, 3");
    refused(order(Deis, 4), auto(), ten, &vp, "deis tab has the orders 0, 1, 2, 3");
    refused(order(Ipndm, 5), auto(), ten, &vp, "1, 2, 3, 4");
    refused(order(DpmPp, 3), auto(), Budget::Steps(2), &vp, "dpm++ of order 3 needs 3 steps at least");
    let edm = genlib::process::Edm::default();
    for steps in [1, 2] {
        refused(
            order(DpmPp, 3),
            auto(),
            Budget::Steps(steps),
            &edm,
            "dpm++ of order 3 needs 3 steps at least",
        );
    }
    refused(order(Unipc, 3), "9,2,0".parse().unwrap(), Budget::Auto, &edm, "lower the order with --order");
    refused(new(Ddim), auto(), Budget::Steps(0), &vp, "one step at least");
    let noise = SolverSpec { form: Some(Form::Noise), ..order(SdeDpmPp, 3) };
    refused(noise, auto(), ten, &vp, "orders 1, 2");
    for name in [Dpm, Deis, Ipndm] {
        let spec = SolverSpec { threshold: Some(ThresholdSpec::default()), ..new(name) };
        refused(spec, auto(), ten, &vp, "works with the predicted noise");
    }
    refused(
        SolverSpec { eta: Some(0.5), ..new(DpmPp) },
        auto(),
        ten,
        &vp,
        "eta belongs to ddim, euler-maruyama, kdpm2, dpm++-sde",
    );
    refused(SolverSpec { eta: Some(1.5), ..new(Ddim) }, auto(), ten, &vp, "from 0 to 1");
    refused(
        SolverSpec { churn: Some(Churn::default()), ..new(Euler) },
        auto(),
        ten,
        &vp,
        "churn belongs to edm",
    );
    refused(SolverSpec { solver_type: Some(SolverType::Heun), ..new(Unipc) }, auto(), ten, &vp, "bh1, bh2");
    refused(
        SolverSpec { solver_type: Some(SolverType::Bh2), ..new(DpmPp) },
        auto(),
        ten,
        &vp,
        "midpoint, heun",
    );
    let bad_churn = Churn { s_churn: -1.0, ..Churn::default() };
    refused(SolverSpec { churn: Some(bad_churn), ..new(Edm) }, auto(), ten, &vp, "negative");
    refused(SolverSpec { rtol: Some(0.0), ..new(Rk45) }, auto(), Budget::Auto, &vp, "positive");
    refused(new(Rk45), kind(GridKind::Karras), Budget::Auto, &vp, "chooses its own grid");
    refused(new(DpmPp), kind(GridKind::Logsnr), ten, &Flow, "infinite at t = 1");
    let late = GridSpec { t_max: Some(0.999), ..kind(GridKind::Logsnr) };
    refused(new(DpmPp), late, ten, &Flow, "infinite at t = 0");
    let zero = GridSpec { t_min: Some(0.0), ..kind(GridKind::Logsnr) };
    refused(new(Dpm), zero, ten, &vp, "infinite at t = 0");
    refused(new(DpmAdaptive), auto(), Budget::Auto, &Flow, "--t-max");
    refused(new(Ddim), "t:1,0.5,0.1".parse().unwrap(), ten, &vp, "the grid has 2 steps, but 10");
    refused(new(Ddim), kind(GridKind::Leading), ten, &vp, "processes with a table");
    let table = ProcessName::Ddpm.spec().build().unwrap();
    refused(
        new(Ddim),
        kind(GridKind::Leading),
        Budget::Steps(2000),
        table.as_ref(),
        "do not fit a table of 1000",
    );
    refused(new(Dpm), kind(GridKind::Trailing), ten, table.as_ref(), "multistep");
    refused(SolverSpec { eta: Some(1.5), ..new(SolverName::Kdpm2) }, auto(), ten, &vp, "from 0 to 1");
    let shifted = GridSpec { shift: Some(3.0), ..auto() };
    refused(new(Ddim), shifted, ten, &vp, "flows alone");
    refused(new(Euler), GridSpec { shift: Some(-1.0), ..auto() }, ten, &Flow, "not a positive number");
    refused(
        SolverSpec { warmup: Some(genlib::solver::Warmup::Heun), ..new(Ipndm) },
        auto(),
        ten,
        &vp,
        "warm-up belongs to pndm",
    );
    let lowered = SolverSpec { lower_order_final: LowerOrderFinal::On, ..new(Ddim) };
    refused(lowered, auto(), ten, &vp, "lower-order-final");
}

#[test]
fn a_plan_runs_only_the_process_it_was_made_for() {
    let model = exact(Box::new(Vp { beta_min: 0.1, beta_max: 15.0 }), Prediction::Eps, &SET_A);
    let mut plan =
        plan(&SolverSpec::new(SolverName::Ddim), &GridSpec::default(), Budget::Steps(4), &Vp::default())
            .unwrap();
    let error =
        plan.run(&model, &Cond::default(), column(&[0.7]), &mut silent(), &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
}

#[test]
fn a_run_can_be_watched_and_stopped() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &SET_A);
    let mut plan =
        plan(&SolverSpec::new(SolverName::Dpm), &GridSpec::default(), Budget::Steps(10), &Vp::default())
            .unwrap();
    let mut seen = Vec::new();
    let error = plan
        .run(&model, &Cond::default(), column(&[0.7]), &mut silent(), &mut |progress| {
            seen.push((progress.step, progress.nfe, progress.steps));
            if progress.step == 2 {
                Err(Error::new(ErrorKind::Interrupted(2), "interrupted"))
            } else {
                Ok(())
            }
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted(2));
    assert_eq!(seen, [(1, 3, Some(4)), (2, 6, Some(4))]);
    // A stopped plan starts afresh.
    let got = values(&run_plan(&mut plan, &model, column(&[0.7]), &mut silent()))[0];
    assert!((got - 0.5717873170).abs() < 1e-9, "{got}");
}

#[test]
fn thresholds_hold_and_count_no_calls() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &[(1.0, 3.0, 0.1)]);
    let spec = SolverSpec {
        threshold: Some(ThresholdSpec { quantile: None, ..ThresholdSpec::default() }),
        denoise: true,
        ..SolverSpec::new(SolverName::DpmPp)
    };
    assert_eq!(end(&spec, &GridSpec::default(), 10, &model, 0.3), 1.0);
}

#[test]
fn results_that_are_not_finite_are_errors() {
    let model = OfPoint { process: Box::new(Vp::default()), prediction: Prediction::Eps, f: |_| f64::NAN };
    for name in [SolverName::Ddim, SolverName::Rk45, SolverName::DpmAdaptive] {
        let mut plan =
            plan(&SolverSpec::new(name), &GridSpec::default(), Budget::Auto, &Vp::default()).unwrap();
        let error =
            plan.run(&model, &Cond::default(), column(&[0.7]), &mut silent(), &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Run, "{error}");
    }
}

#[test]
fn specs_round_trip_and_refuse_unknown_keys() {
    for entry in registered() {
        let text = serde_json::to_string(&entry.spec).unwrap();
        assert_eq!(serde_json::from_str::<SolverSpec>(&text).unwrap(), entry.spec);
    }
    let spec: SolverSpec = serde_json::from_str(r#"{"name":"dpm++","solver_type":"taylor"}"#).unwrap();
    assert_eq!(
        spec,
        SolverSpec { solver_type: Some(SolverType::Heun), ..SolverSpec::new(SolverName::DpmPp) }
    );
    assert!(serde_json::from_str::<SolverSpec>(r#"{"name":"dpm++","ordr":2}"#).is_err());
    assert!(serde_json::from_str::<GridSpec>(r#"{"kindd":"karras"}"#).is_err());
    for name in SolverName::value_variants() {
        let value = name.to_possible_value().unwrap();
        assert_eq!(value.get_name(), name.as_str());
        assert_eq!(serde_json::to_value(name).unwrap().as_str(), Some(name.as_str()));
    }
}

#[test]
fn memory_does_not_grow_with_steps() {
    // 2 MiB a state: keeping those of 300 steps would take 600 MiB.
    let resident = || -> u64 {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let model = OfPoint { process: Box::new(Vp::default()), prediction: Prediction::Eps, f: |p| p.t };
    for name in [SolverName::DpmPp, SolverName::Unipc, SolverName::Deis] {
        let run = |steps| {
            let mut plan =
                plan(&SolverSpec::new(name), &GridSpec::default(), Budget::Steps(steps), &Vp::default())
                    .unwrap();
            let x =
                tch::Tensor::zeros([1, 1 << 18], (Kind::Double, tch::Device::Cpu)).set_requires_grad(true);
            let mut most = 0;
            plan.run(&model, &Cond::default(), x, &mut silent(), &mut |progress| {
                assert!(!progress.x.requires_grad());
                most = resident().max(most);
                Ok(())
            })
            .unwrap();
            most
        };
        let (few, many) = (run(5), run(300));
        assert!(many < few + (150 << 20), "{name:?}: {few} {many}");
    }
}

//! The published tables, ancestral sampling and the fast schedule on data N(0, s^2).
//!
//! For Gaussian data the best prediction is `sqrt(1 - abar) x / (abar s^2 + 1 - abar)`, linear in x, so a sampler is
//! a linear map of its start and its draws. One batch with a unit in one of them each gives the map, and with it the
//! standard deviation of the samples, exactly.

use genlib::denoiser::{Denoiser, Prediction};
use genlib::error::Result;
use genlib::net::Cond;
use genlib::noise::Noise;
use genlib::process::{At, Point, Process, ProcessSpec, TrigFlow};
use genlib::solver::{Budget, GridKind, GridSpec, SolverName, SolverSpec, plan};
use tch::{Device, Kind, Tensor};

/// The best model of N(0, s^2).
struct Oracle {
    process: Box<dyn Process>,
    s: f64,
}

impl Denoiser for Oracle {
    fn prediction(&self) -> Prediction {
        Prediction::Eps
    }
    fn process(&self) -> &dyn Process {
        self.process.as_ref()
    }
    fn predict(&self, x: &Tensor, at: &At, _cond: &Cond) -> Result<Tensor> {
        let p = at.points()[0];
        Ok(x * (p.sigma / (p.alpha * p.alpha * self.s * self.s + p.sigma * p.sigma)))
    }
}

/// Draw k is a one for sample k + 1 and zero for the others.
struct Units(i64);

impl Noise for Units {
    fn normal(&mut self, like: &Tensor) -> Result<Tensor> {
        self.0 += 1;
        let out = like.zeros_like();
        let _ = out.get(self.0).fill_(1.0);
        Ok(out)
    }
}

fn table(steps: usize, end: f64) -> Box<dyn Process> {
    let text = format!("type = \"ddpm\"\nsteps = {steps}\nbeta_end = {end}");
    toml::from_str::<ProcessSpec>(&text).unwrap().build().unwrap()
}

/// Standard deviation of what a sampler makes of N(0, start^2) noise.
fn std(spec: &SolverSpec, grid: &GridSpec, (steps, end, s): (usize, f64, f64), start: f64) -> f64 {
    let model = Oracle { process: table(steps, end), s };
    let mut run = plan(spec, grid, Budget::Auto, model.process()).unwrap();
    let x = Tensor::zeros([run.points().len() as i64, 1, 3], (Kind::Double, Device::Cpu));
    let _ = x.get(0).fill_(start);
    let solved = run.run(&model, &Cond::default(), x, &mut Units(0), &mut |_| Ok(())).unwrap();
    solved.x.narrow(2, 0, 1).square().sum(Kind::Double).double_value(&[]).sqrt()
}

const LARGE: (usize, f64) = (200, 0.02);
const BASE: (usize, f64) = (50, 0.05);

#[test]
fn ancestral_sampling_has_its_known_deviations() {
    let ddpm = SolverSpec::new(SolverName::Ddpm);
    let fast: GridSpec = "betas:1e-4,1e-3,1e-2,0.05,0.2,0.5".parse().unwrap();
    for ((steps, end), s, grid, want) in [
        (LARGE, 1.0, GridSpec::default(), 0.990376),
        (LARGE, 0.1, GridSpec::default(), 0.093446),
        (BASE, 1.0, GridSpec::default(), 0.971979),
        (BASE, 0.1, GridSpec::default(), 0.083943),
        (BASE, 1.0, fast.clone(), 0.762408),
        (BASE, 0.1, fast, 0.064907),
    ] {
        let got = std(&ddpm, &grid, (steps, end, s), 1.0);
        assert!((got - want).abs() < 1e-6, "T = {steps}, s = {s}: {got}, {want}");
    }
}

#[test]
fn ancestral_steps_are_the_published_ones() {
    // x <- (x - beta_t/sqrt(1 - abar_t) eps)/sqrt(1 - beta_t), then sigma_t z but for t = 0.
    for (steps, end) in [LARGE, BASE] {
        let model = Oracle { process: table(steps, end), s: 0.1 };
        let ddpm = SolverSpec::new(SolverName::Ddpm);
        let mut run = plan(&ddpm, &GridSpec::default(), Budget::Auto, model.process()).unwrap();
        assert_eq!((run.nfe(), run.points().len()), (Some(steps as u64), steps + 1));
        let mut units = Units(0);
        let x = Tensor::ones([steps as i64 + 1, 1, 1], (Kind::Double, Device::Cpu));
        let solved = run.run(&model, &Cond::default(), x, &mut units, &mut |_| Ok(())).unwrap();
        let beta = |t: usize| 1e-4 + (end - 1e-4) * t as f64 / (steps - 1) as f64;
        let abar: Vec<f64> = (0..steps)
            .scan(1.0, |product, t| {
                *product *= 1.0 - beta(t);
                Some(*product)
            })
            .collect();
        let mut want = vec![1.0; steps + 1];
        let mut draws = 0;
        for t in (0..steps).rev() {
            let variance = abar[t] * 0.01 + 1.0 - abar[t];
            draws += 1;
            for (i, x) in want.iter_mut().enumerate() {
                let eps = (1.0 - abar[t]).sqrt() * *x / variance;
                *x = (*x - beta(t) / (1.0 - abar[t]).sqrt() * eps) / (1.0 - beta(t)).sqrt();
                if t > 0 && i == draws {
                    *x += (beta(t) * (1.0 - abar[t - 1]) / (1.0 - abar[t])).sqrt();
                }
            }
        }
        assert_eq!(units.0 as usize, steps - 1);
        let got = Vec::<f64>::try_from(&solved.x.flatten(0, -1)).unwrap();
        let gap = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(gap < 1e-10, "{gap}");
    }
}

#[test]
fn the_tables_have_their_known_values() {
    for ((steps, end), entries, first, last) in [
        (LARGE, [(0, 0.9999), (1, 0.99970002), (100, 0.59639525), (199, 0.13218275)], 0.00816524, 0.14120138),
        (BASE, [(0, 0.9999), (0, 0.9999), (49, 0.27967250), (49, 0.27967250)], 0.00958127, 0.22131035),
    ] {
        let process = table(steps, end);
        let at = |i: usize| Point::new(process.as_ref(), (i + 1) as f64 / steps as f64);
        for (i, want) in entries {
            assert!((at(i).alpha.powi(2) - want).abs() < 5e-9, "{i}");
        }
        // Noise of the step to entry i - 1: sqrt(beta_i (1 - abar_{i-1})/(1 - abar_i)).
        let sigma = |i: usize| {
            let (s, t) = (at(i), at(i - 1));
            let beta = 1.0 - (s.alpha / t.alpha).powi(2);
            beta.sqrt() * t.sigma / s.sigma
        };
        assert!((sigma(1) - first).abs() < 5e-9 && (sigma(steps - 1) - last).abs() < 5e-9);
    }
}

#[test]
fn deterministic_solvers_converge_to_the_flow_of_the_terminal_state() {
    // On to where the noise is a millionth: a last step of first order onto clean data would have a bias.
    let grid = GridSpec { kind: Some(GridKind::Logsnr), t_min: Some(1e-10), ..GridSpec::default() };
    for ((steps, end), s, want) in [(LARGE, 1.0, 1.0), (LARGE, 0.1, 0.107264), (BASE, 0.1, 0.117596)] {
        for (name, order) in [(SolverName::DpmPp, 2), (SolverName::Dpm, 3)] {
            let spec = SolverSpec { order: Some(order), ..SolverSpec::new(name) };
            let model = Oracle { process: table(steps, end), s };
            let last = Point::new(model.process(), 1.0);
            let marginal = (last.alpha * s).hypot(last.sigma);
            assert!((s / marginal - want).abs() < 5e-7);
            let mut run = plan(&spec, &grid, Budget::Steps(2000), model.process()).unwrap();
            for (start, want) in [(1.0, want), (marginal, s)] {
                let x = Tensor::full([1, 1, 1], start, (Kind::Double, Device::Cpu));
                let solved = run.run(&model, &Cond::default(), x, &mut Units(0), &mut |_| Ok(())).unwrap();
                let got = solved.x.double_value(&[0, 0, 0]);
                assert!((got / want - 1.0).abs() < 1e-5, "{name:?} T = {steps}, s = {s}: {got}, {want}");
            }
        }
    }
}

#[test]
fn errors_fall_as_the_order_of_the_solver_says() {
    for order in 1..=3usize {
        let spec = SolverSpec { order: Some(order), ..SolverSpec::new(SolverName::Dpm) };
        let model = Oracle { process: table(200, 0.02), s: 0.1 };
        let error = |steps: usize| {
            let grid = GridSpec::from(GridKind::Logsnr);
            let mut run = plan(&spec, &grid, Budget::Steps(steps), model.process()).unwrap();
            let x = Tensor::ones([1, 1, 1], (Kind::Double, Device::Cpu));
            let solved = run.run(&model, &Cond::default(), x, &mut Units(0), &mut |_| Ok(())).unwrap();
            let (a, b) = (run.points()[0], run.points()[run.points().len() - 1]);
            let deviation = |p: Point| (p.alpha * 0.1).hypot(p.sigma);
            (solved.x.double_value(&[0, 0, 0]) - deviation(b) / deviation(a)).abs()
        };
        // 32 and 64 steps of order 3, of which the last has order 2.
        let ratio = error(95) / error(191);
        let want = 2f64.powi(order as i32);
        assert!((ratio / want - 1.0).abs() < 0.15, "order {order}: {ratio}");
    }
}

#[test]
fn clamped_steps_stay_in_their_interval() {
    let model = Oracle { process: table(50, 0.05), s: 3.0 };
    let run = |clamp| {
        let spec = SolverSpec { clamp, ..SolverSpec::new(SolverName::Ddpm) };
        let mut run = plan(&spec, &GridSpec::default(), Budget::Auto, model.process()).unwrap();
        let x = Tensor::full([51, 1, 1], 2.5, (Kind::Double, Device::Cpu));
        let mut most = 0.0f64;
        let solved = run.run(&model, &Cond::default(), x, &mut Units(0), &mut |progress| {
            most = most.max(progress.x.abs().max().double_value(&[]));
            Ok(())
        });
        (most, solved.unwrap().x)
    };
    assert!(run(None).0 > 1.5);
    let (most, x) = run(Some(1.0));
    assert_eq!((most, x.max().double_value(&[])), (1.0, 1.0));
    let refused = SolverSpec { clamp: Some(1.0), ..SolverSpec::new(SolverName::DpmPp) };
    assert!(plan(&refused, &GridSpec::default(), Budget::Auto, model.process()).is_err());
    let refused = SolverSpec { clamp: Some(0.0), ..SolverSpec::new(SolverName::Ddpm) };
    assert!(plan(&refused, &GridSpec::default(), Budget::Auto, model.process()).is_err());
}

#[test]
fn v_diffusion_is_the_trigonometric_flow() {
    // alpha = cos(pi t/2), sigma = sin(pi t/2); the best v of N(0, s^2) is linear, its flow known.
    struct V(f64);
    impl Denoiser for V {
        fn prediction(&self) -> Prediction {
            Prediction::V
        }
        fn process(&self) -> &dyn Process {
            &TrigFlow
        }
        fn predict(&self, x: &Tensor, at: &At, _cond: &Cond) -> Result<Tensor> {
            let Point { alpha, sigma, .. } = at.points()[0];
            let s = self.0 * self.0;
            Ok(x * (alpha * sigma * (1.0 - s) / (alpha * alpha * s + sigma * sigma)))
        }
    }
    let p = Point::new(&TrigFlow, 0.3);
    assert!((p.alpha - (0.15 * std::f64::consts::PI).cos()).abs() < 1e-15);
    let model = V(0.2);
    let grid = GridSpec::from(GridKind::Uniform);
    let error = |steps: usize| {
        let mut run =
            plan(&SolverSpec::new(SolverName::Ddim), &grid, Budget::Steps(steps), model.process()).unwrap();
        let x = super::data("x", &[3, 1, 32]);
        let solved = run.run(&model, &Cond::default(), x.shallow_clone(), &mut Units(0), &mut |_| Ok(()));
        let solved = solved.unwrap();
        assert_eq!(solved.x.size(), [3, 1, 32]);
        (solved.x - x * 0.2).abs().max().double_value(&[])
    };
    let (coarse, fine) = (error(50), error(100));
    assert!(fine < 0.02 && (coarse / fine - 2.0).abs() < 0.2, "{coarse} {fine}");
}

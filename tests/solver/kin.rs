//! The solvers of k-diffusion and PNDM against their formulas, and against the solvers they are kin to.

use genlib::denoiser::{DenoiserExt, Mixture, Prediction};
use genlib::net::Cond;
use genlib::process::{Edm, Point, ProcessName, Vp};
use genlib::solver::{
    Form, GridKind, GridSpec, Method, SolverName, SolverSpec, SolverType, Start, Variant, Warmup, plan,
};

use super::models::*;

fn spec(name: SolverName) -> SolverSpec {
    SolverSpec::new(name)
}

fn kdpm2(form: Form, eta: f64) -> SolverSpec {
    SolverSpec { form: Some(form), eta: Some(eta), ..spec(SolverName::Kdpm2) }
}

/// The noise and the data that an exact model on EDM sees in `y` at `sigma`.
fn seen(model: &Mixture, y: f64, sigma: f64) -> (f64, f64) {
    let at = Point::new(&Edm::default(), sigma).into();
    let x0 = values(&model.x0(&column(&[y]), &at, &Cond::default()).unwrap())[0];
    ((y - x0) / sigma, x0)
}

#[test]
fn solvers_that_are_others_on_inner_grids() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &SET_A);
    for grid in [GridKind::Logsnr, GridKind::Karras] {
        let run = |spec: &SolverSpec, steps| end(spec, &kind(grid), steps, &model, 0.7);
        for order in 1..=4 {
            let lms = SolverSpec { order: Some(order), ..spec(SolverName::Lms) };
            let deis = SolverSpec {
                variant: Some(Variant::Rhoab),
                order: Some(order - 1),
                ..spec(SolverName::Deis)
            };
            assert!((run(&lms, 9) - run(&deis, 9)).abs() < 1e-14, "{order}");
        }
        for (name, form) in [(SolverName::Dpm, Form::Noise), (SolverName::DpmPp, Form::Data)] {
            let single = SolverSpec {
                order: Some(2),
                method: Some(Method::SinglestepFixed),
                solver_type: Some(SolverType::Midpoint),
                ..spec(name)
            };
            // The fixed singlestep solver counts calls, and has its inner node on the grid's own spacing.
            if grid == GridKind::Logsnr {
                assert!((run(&kdpm2(form, 0.0), 5) - run(&single, 10)).abs() < 1e-12, "{form:?}");
            }
        }
        let quiet = SolverSpec { eta: Some(0.0), ..spec(SolverName::DpmPpSde) };
        assert!((run(&quiet, 6) - run(&kdpm2(Form::Data, 0.0), 6)).abs() < 1e-13);
    }
}

#[test]
fn lms_keeps_its_order_onto_clean_data() {
    let model = exact(Box::new(Edm::default()), Prediction::X0, &SET_A);
    let levels_ = [9.0, 4.0, 1.5, 0.0];
    let grid = levels(&levels_);
    let lms = SolverSpec { order: Some(2), ..spec(SolverName::Lms) };
    let got = end(&lms, &grid, 3, &model, 5.0);
    // Each step integrates the line through the last two slopes.
    let (mut y, mut before): (f64, Option<(f64, f64)>) = (5.0, None);
    for pair in levels_.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let slope = seen(&model, y, a).0;
        let tilt = before.map_or(0.0, |(level, earlier)| (slope - earlier) / (a - level));
        y += slope * (b - a) + 0.5 * tilt * (b - a) * (b - a);
        before = Some((a, slope));
    }
    assert!((got - y).abs() < 1e-12, "{got} {y}");
}

#[test]
fn ancestral_steps_are_those_of_k_diffusion() {
    let model = exact(Box::new(Edm::default()), Prediction::X0, &SET_A);
    let (s, t, y, z) = (3.0f64, 1.2f64, -2.1, 0.7);
    let up = t * (1.0 - t * t / (s * s)).sqrt();
    let down = (t * t - up * up).sqrt();
    let grid = levels(&[s, t]);
    let one = |spec: &SolverSpec| end_with(spec, &grid, 1, &model, y, &mut Scripted(0, |_| z));
    let (slope, x0) = seen(&model, y, s);
    // Euler's method down, noise up.
    let euler = y + slope * (down - s) + up * z;
    assert!((one(&spec(SolverName::Ddpm)) - euler).abs() < 1e-13);
    // The midpoint in ln sigma, in noise and in data form.
    let middle = (s * down).sqrt();
    let half = seen(&model, y + slope * (middle - s), middle).0;
    assert!((one(&kdpm2(Form::Noise, 1.0)) - (y + half * (down - s) + up * z)).abs() < 1e-13);
    let stage = middle / s * y + (1.0 - middle / s) * x0;
    let half = seen(&model, stage, middle).1;
    let want = down / s * y + (1.0 - down / s) * half + up * z;
    assert!((one(&kdpm2(Form::Data, 1.0)) - want).abs() < 1e-13);
}

#[test]
fn the_stochastic_singlestep_walks_along_one_path() {
    let model = exact(Box::new(Edm::default()), Prediction::X0, &SET_A);
    let (s, t, y) = (3.0f64, 1.2f64, -2.1);
    let draws = [0.7, -0.4];
    let step = |y: f64, x0: f64, to: f64, noise: f64| {
        let up = to * (1.0 - to * to / (s * s)).sqrt();
        let down = (to * to - up * up).sqrt();
        down / s * y + (1.0 - down / s) * x0 + up * noise
    };
    let middle = (s * t).sqrt();
    let stage = step(y, seen(&model, y, s).1, middle, draws[0]);
    // The increment over the whole step is the sum of those over its halves.
    let whole = ((s - middle).sqrt() * draws[0] + (middle - t).sqrt() * draws[1]) / (s - t).sqrt();
    let want = step(y, seen(&model, stage, middle).1, t, whole);
    let mut noise = Scripted(0, |i| draws[i]);
    let got = end_with(&spec(SolverName::DpmPpSde), &levels(&[s, t]), 1, &model, y, &mut noise);
    assert!((got - want).abs() < 1e-13, "{got} {want}");
}

#[test]
fn pseudo_runge_kutta_is_runge_kutta_where_rho_is_linear_in_time() {
    // On EDM a transfer is a step of Euler's, so one step is the classical method of order 4.
    let model = exact(Box::new(Edm::default()), Prediction::X0, &SET_A);
    let slope = |y: f64, sigma: f64| seen(&model, y, sigma).0;
    let (s, t, y) = (3.0, 1.2, -2.1);
    let (h, m) = (t - s, 0.5 * (s + t));
    let a = slope(y, s);
    let b = slope(y + 0.5 * h * a, m);
    let c = slope(y + 0.5 * h * b, m);
    let d = slope(y + h * c, t);
    let want = y + h * (a + 2.0 * b + 2.0 * c + d) / 6.0;
    let got = end(&spec(SolverName::Pndm), &levels(&[s, t]), 1, &model, y);
    assert!((got - want).abs() < 1e-13, "{got} {want}");
    let plms = SolverSpec { warmup: Some(Warmup::Heun), ..spec(SolverName::Pndm) };
    let want = y + 0.5 * h * (a + slope(y + h * a, t));
    assert!((end(&plms, &levels(&[s, t]), 1, &model, y) - want).abs() < 1e-13);
}

#[test]
fn runs_start_from_what_they_are_told_to() {
    for name in [ProcessName::Vp, ProcessName::Edm, ProcessName::Flow] {
        let process = name.spec().build().unwrap();
        let std = |start| {
            let grid = GridSpec { start, ..GridSpec::default() };
            let budget = genlib::solver::Budget::Steps(5);
            plan(&spec(SolverName::Ddim), &grid, budget, process.as_ref()).unwrap().start_std()
        };
        let first = Point::new(process.as_ref(), process.span().max);
        assert_eq!(std(Some(Start::Noise)), first.sigma);
        assert_eq!(std(Some(Start::UnitData)), first.alpha.hypot(first.sigma));
        assert_eq!(std(None), process.prior_std(first.t));
    }
}

//! Identities between solvers, and exactness on polynomials.

use genlib::denoiser::Prediction;
use genlib::net::Cond;
use genlib::process::{Flow, Point, Process, ProcessName, Vp};
use genlib::solver::{
    Budget, Compat, Form, GridKind, GridSpec, LowerOrderFinal, Method, SolverName, SolverSpec, SolverType,
    Tableau, Variant, plan, registered,
};

use super::models::*;

fn base(name: SolverName) -> SolverSpec {
    SolverSpec::new(name)
}

fn multistep(name: SolverName, order: usize, kind: SolverType) -> SolverSpec {
    SolverSpec {
        order: Some(order),
        method: Some(Method::Multistep),
        solver_type: Some(kind),
        lower_order_final: LowerOrderFinal::Off,
        ..base(name)
    }
}

#[test]
fn first_order_is_ddim_whatever_the_solver() {
    let one = |name| SolverSpec { order: Some(1), ..base(name) };
    let single = |name| SolverSpec { method: Some(Method::Singlestep), ..one(name) };
    let deis =
        |variant, order| SolverSpec { variant: Some(variant), order: Some(order), ..base(SolverName::Deis) };
    let specs = [
        single(SolverName::Dpm),
        single(SolverName::DpmPp),
        multistep(SolverName::Dpm, 1, SolverType::Midpoint),
        multistep(SolverName::DpmPp, 1, SolverType::Heun),
        deis(Variant::Tab, 0),
        deis(Variant::Rhoab, 0),
        deis(Variant::Logrho, 1),
        SolverSpec { variant: Some(Variant::Rhork), tableau: Some(Tableau::Euler), ..base(SolverName::Deis) },
        one(SolverName::Ipndm),
        one(SolverName::Edm),
        SolverSpec { corrector: Some(false), ..one(SolverName::Unipc) },
        SolverSpec { corrector: Some(false), form: Some(Form::Noise), ..one(SolverName::Unipc) },
    ];
    for process in [ProcessName::Vp, ProcessName::Subvp, ProcessName::Ddpm] {
        let build = || process.spec().build().unwrap();
        let model = exact(build(), Prediction::V, &SET_A);
        for grid in [GridKind::Logsnr, GridKind::Uniform, GridKind::Quadratic] {
            let want = end(&base(SolverName::Ddim), &kind(grid), 10, &model, 0.7);
            for spec in &specs {
                let grid = GridSpec { terminal: Some(genlib::solver::Terminal::TMin), ..kind(grid) };
                let got = end(spec, &grid, 10, &model, 0.7);
                assert!((got - want).abs() < 1e-12, "{process:?} {spec:?}: {got} {want}");
            }
        }
    }
}

#[test]
fn three_multistep_solvers_of_third_order_are_one() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &SET_A);
    for grid in [GridKind::Logsnr, GridKind::Quadratic] {
        let run = |spec: &SolverSpec| end(spec, &kind(grid), 10, &model, 0.7);
        for (name, form) in [(SolverName::DpmPp, Form::Data), (SolverName::Dpm, Form::Noise)] {
            let unip = SolverSpec {
                order: Some(3),
                solver_type: Some(SolverType::Bh2),
                form: Some(form),
                corrector: Some(false),
                lower_order_final: LowerOrderFinal::Off,
                ..base(SolverName::Unipc)
            };
            // The second step is of second order: UniPC's is the midpoint rule for B(h) = e^h - 1.
            let dpm = multistep(name, 3, SolverType::Midpoint);
            assert!((run(&unip) - run(&dpm)).abs() < 1e-12, "{grid:?} {form:?}");
        }
        // DEIS in ln rho by quadrature of its definition, against the multistep solver that stands for it.
        for order in 1..=3 {
            let spec =
                SolverSpec { variant: Some(Variant::Logrho), order: Some(order), ..base(SolverName::Deis) };
            let mut plan = plan(&spec, &kind(grid), Budget::Steps(6), &Vp::default()).unwrap();
            let points = plan.points().to_vec();
            let want = log_rho_by_quadrature(&points, order, &model, 0.7);
            let got = values(&run_plan(&mut plan, &model, column(&[0.7]), &mut silent()))[0];
            assert!((got - want).abs() < 1e-12, "{grid:?} {order}: {got} {want}");
        }
    }
}

/// `y' = y + sum_j eps_j int l_j(ln rho) drho` with Lagrange polynomials in ln rho, by quadrature.
fn log_rho_by_quadrature(points: &[Point], order: usize, model: &genlib::denoiser::Mixture, x: f64) -> f64 {
    use genlib::denoiser::DenoiserExt;
    use genlib::math::{gauss_legendre, lagrange};
    let (rule, mut y) = (gauss_legendre(64), x / points[0].alpha);
    let (mut nodes, mut eps): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    for pair in points.windows(2) {
        let at = pair[0];
        nodes.insert(0, at.rho().ln());
        eps.insert(0, values(&model.eps(&column(&[y * at.alpha]), &at.into(), &Cond::default()).unwrap())[0]);
        nodes.truncate(order);
        eps.truncate(order);
        let half = (pair[1].rho().ln() - at.rho().ln()) / 2.0;
        for (u, w) in &rule {
            let log_rho = at.rho().ln() + half * (u + 1.0);
            for (j, eps) in eps.iter().enumerate() {
                y += w * half * log_rho.exp() * lagrange(&nodes, j, log_rho) * eps;
            }
        }
    }
    y * points[points.len() - 1].alpha
}

#[test]
fn one_run_in_all_coordinates() {
    // In y = x/alpha every solver but those that step x itself in t depends on the noise levels alone.
    let grids = [
        levels(&[60.0, 20.0, 9.0, 4.0, 2.1, 1.0, 0.6, 0.33, 0.2, 0.11, 0.05]),
        levels(&[60.0, 20.0, 9.0, 4.0, 2.1, 1.0, 0.6, 0.33, 0.2, 0.11, 0.05, 0.0]),
    ];
    let names = [
        ProcessName::Edm,
        ProcessName::Vp,
        ProcessName::Subvp,
        ProcessName::Flow,
        ProcessName::TrigFlow,
        ProcessName::Ve,
        ProcessName::Ddpm,
    ];
    let in_time = [
        SolverName::Euler,
        SolverName::Heun,
        SolverName::EulerMaruyama,
        SolverName::ReverseDiffusion,
        SolverName::Pndm,
    ];
    let mut compared = 0;
    for entry in registered() {
        if in_time.contains(&entry.spec.name) || entry.label.starts_with("deis tab") {
            continue;
        }
        for grid in &grids {
            let mut first: Option<f64> = None;
            for (k, name) in names.into_iter().enumerate() {
                let prediction =
                    [Prediction::Eps, Prediction::X0, Prediction::V, Prediction::Velocity, Prediction::Score]
                        [k % 5];
                let model = exact(name.spec().build().unwrap(), prediction, &SET_A);
                let process = name.spec().build().unwrap();
                let mut plan = plan(&entry.spec, grid, Budget::Auto, process.as_ref()).unwrap();
                let (start, stop) = (plan.start_point(), *plan.points().last().unwrap());
                let got = run_plan(&mut plan, &model, column(&[25.0 * start.alpha]), &mut alternating(0.3));
                let got = values(&got)[0] / stop.alpha;
                let want = *first.get_or_insert(got);
                // The score form of rho-RK etc. divides by small alphas: allow for their rounding.
                assert!(
                    (got - want).abs() < 2e-12 * (1.0 + want.abs()),
                    "{} {name:?}: {got} {want}",
                    entry.label
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 500, "{compared}");
}

#[test]
fn a_constant_noise_is_integrated_exactly_by_every_method_of_deis() {
    for name in [ProcessName::Vp, ProcessName::Subvp, ProcessName::Ve, ProcessName::Flow, ProcessName::Ddpm] {
        let model =
            OfPoint { process: name.spec().build().unwrap(), prediction: Prediction::Eps, f: |_| 0.7 };
        let process = name.spec().build().unwrap();
        for entry in registered() {
            let kin = [SolverName::Deis, SolverName::Ipndm, SolverName::Pndm, SolverName::Lms];
            if !kin.contains(&entry.spec.name) {
                continue;
            }
            for grid in [GridKind::Uniform, GridKind::Quadratic, GridKind::Logsnr, GridKind::Karras] {
                let ends = if name == ProcessName::Flow { (Some(0.98), Some(0.02)) } else { (None, None) };
                let grid = GridSpec { t_max: ends.0, t_min: ends.1, ..kind(grid) };
                let mut plan = plan(&entry.spec, &grid, Budget::Steps(8), process.as_ref()).unwrap();
                let (s, t) = (plan.start_point(), *plan.points().last().unwrap());
                let want = 0.4 / s.alpha + (t.rho() - s.rho()) * 0.7;
                let got = values(&run_plan(&mut plan, &model, column(&[0.4]), &mut silent()))[0] / t.alpha;
                let scale = 1.0 + s.rho().max(1.0 / s.alpha);
                assert!((got - want).abs() < 1e-12 * scale, "{name:?} {}: {got} {want}", entry.label);
            }
        }
    }
}

/// The error of the last of three steps when the prediction is `f`, against `want`, the exact last step
/// from the state before it.
fn last_step_error(
    spec: &SolverSpec,
    grid: &GridSpec,
    process: Box<dyn Process>,
    f: impl Fn(&Point) -> f64,
    prediction: Prediction,
    want: impl Fn(f64, &Point, &Point) -> f64,
) -> f64 {
    let mut plan = plan(spec, grid, Budget::Auto, process.as_ref()).unwrap();
    let points = plan.points().to_vec();
    let model = OfPoint { process, prediction, f };
    let mut states = Vec::new();
    plan.run(&model, &Cond::default(), column(&[0.3]), &mut silent(), &mut |progress| {
        states.push(values(progress.x)[0]);
        Ok(())
    })
    .unwrap();
    let n = points.len();
    states[n - 2] - want(states[n - 3], &points[n - 2], &points[n - 1])
}

/// Polynomials in half log-SNR, lowest coefficient first.
fn poly(c: [f64; 3]) -> impl Fn(f64) -> f64 {
    move |l| c[0] + c[1] * l + c[2] * l * l
}

#[test]
fn polynomials_in_the_log_snr() {
    let knots: Vec<f64> = [-2.0f64, -1.1, -0.4, 0.6].map(|l| (-l).exp()).into();
    let grid = levels(&knots);
    let error = |spec: &SolverSpec, form: Form, c: [f64; 3]| {
        let prediction = if form == Form::Data { Prediction::X0 } else { Prediction::Eps };
        last_step_error(
            spec,
            &grid,
            Box::new(Vp::default()),
            |p| poly(c)(p.lambda),
            prediction,
            |x, s, t| {
                // Antiderivatives of e^(+-lambda) times the polynomial.
                match form {
                    Form::Data => {
                        let i = |l: f64| l.exp() * (c[0] + c[1] * (l - 1.0) + c[2] * (l * l - 2.0 * l + 2.0));
                        t.sigma / s.sigma * x + t.sigma * (i(t.lambda) - i(s.lambda))
                    }
                    Form::Noise => {
                        let i =
                            |l: f64| -(-l).exp() * (c[0] + c[1] * (l + 1.0) + c[2] * (l * l + 2.0 * l + 2.0));
                        t.alpha * (x / s.alpha - (i(t.lambda) - i(s.lambda)))
                    }
                }
            },
        )
        .abs()
    };
    let (line, parabola) = ([2.0, -0.3, 0.0], [2.0, -0.3, 0.7]);
    let (mid, heun) = (SolverType::Midpoint, SolverType::Heun);
    for (name, form) in [(SolverName::DpmPp, Form::Data), (SolverName::Dpm, Form::Noise)] {
        assert!(error(&multistep(name, 1, mid), form, [2.0, 0.0, 0.0]) < 1e-14);
        assert!(error(&multistep(name, 2, heun), form, line) < 1e-14);
        assert!(error(&multistep(name, 3, mid), form, parabola) < 2e-14);
        let published = SolverSpec { compat: Compat::Reference, ..multistep(name, 3, mid) };
        assert!(error(&published, form, line) < 1e-14);
        assert!(error(&published, form, parabola) > 0.01);
        let single = |order, kind| SolverSpec {
            method: Some(Method::SinglestepFixed),
            ..multistep(name, order, kind)
        };
        assert!(error(&single(2, heun), form, line) < 1e-14);
        assert!(error(&single(3, heun), form, parabola) < 2e-14);
        assert!(error(&single(3, mid), form, line) < 1e-14);
    }
    let two = error(&multistep(SolverName::DpmPp, 2, mid), Form::Data, line);
    assert!((two - 1.36e-2).abs() < 5e-5, "{two}");
    let published = SolverSpec { compat: Compat::Reference, ..multistep(SolverName::DpmPp, 3, mid) };
    let three = error(&published, Form::Data, parabola);
    assert!((three - 8.1e-2).abs() < 5e-4, "{three}");
    for (form, kind) in [(Form::Data, SolverType::Bh1), (Form::Noise, SolverType::Bh2)] {
        let spec = SolverSpec {
            order: Some(3),
            form: Some(form),
            solver_type: Some(kind),
            corrector: Some(false),
            lower_order_final: LowerOrderFinal::Off,
            ..base(SolverName::Unipc)
        };
        assert!(error(&spec, form, parabola) < 2e-14, "{form:?}");
    }
    assert!(
        error(
            &SolverSpec { variant: Some(Variant::Logrho), ..base(SolverName::Deis) },
            Form::Noise,
            parabola
        ) < 2e-14
    );
}

#[test]
fn polynomials_in_rho_and_in_time() {
    let c = [0.4, -1.1, 0.6];
    let times = times(&[0.9, 0.7, 0.55, 0.3]);
    let deis =
        |variant, order| SolverSpec { variant: Some(variant), order: Some(order), ..base(SolverName::Deis) };
    // rhoAB: int P(rho) drho.
    let rho = |order| {
        let f = |p: &Point| poly(c)(p.rho());
        last_step_error(
            &deis(Variant::Rhoab, order),
            &times,
            Box::new(Flow),
            f,
            Prediction::Eps,
            |x, s, t| {
                let i = |r: f64| r * (c[0] + r * (c[1] / 2.0 + r * c[2] / 3.0));
                t.alpha * (x / s.alpha + i(t.rho()) - i(s.rho()))
            },
        )
        .abs()
    };
    // tAB on the linear flow: int P(t) dt/(1 - t)^2.
    let tab = |order| {
        let f = |p: &Point| poly(c)(p.t);
        last_step_error(&deis(Variant::Tab, order), &times, Box::new(Flow), f, Prediction::Eps, |x, s, t| {
            let i = |t: f64| {
                let (g, l) = (1.0 / (1.0 - t), (1.0 - t).ln());
                c[0] * g + c[1] * (g + l) + c[2] * (t + 2.0 * l + g)
            };
            t.alpha * (x / s.alpha + i(t.t) - i(s.t))
        })
        .abs()
    };
    // Values are about 100: these are a few units of their last digit.
    assert!(rho(2) < 2e-13 && rho(3) < 2e-13, "{} {}", rho(2), rho(3));
    assert!(tab(2) < 2e-13 && tab(3) < 2e-13, "{} {}", tab(2), tab(3));
    assert!(rho(1) > 1e-3 && tab(1) > 1e-3);
}

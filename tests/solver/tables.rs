//! Tables of known results.

use genlib::denoiser::Prediction;
use genlib::process::{BetaSchedule, Discrete, Edm, Flow, Point, Process, ProcessName, Vp, alpha_bar};
use genlib::solver::{
    Budget, Churn, Compat, Control, Form, GridKind, GridSpec, Langevin, LowerOrderFinal, Method, SolverName,
    SolverSpec, SolverType, Tableau, Terminal, Variance, Variant, exact_end, plan,
};

use super::models::*;

use GridKind::{Karras, Logsnr, Quadratic, Uniform};
use LowerOrderFinal::{Off, On};
use SolverName::{
    Ddim, Deis, Dpm, DpmAdaptive, DpmPp, Edm as EdmSolver, Euler, EulerMaruyama, Heun as HeunSolver, Ipndm,
    SdeDpmPp, Unipc,
};
use SolverType::{Bh1, Bh2, Heun, Midpoint};

fn spec(name: SolverName) -> SolverSpec {
    SolverSpec { lower_order_final: LowerOrderFinal::Auto, ..SolverSpec::new(name) }
}

fn multi(name: SolverName, order: usize, kind: SolverType, lower_order_final: LowerOrderFinal) -> SolverSpec {
    SolverSpec {
        order: Some(order),
        method: Some(Method::Multistep),
        solver_type: Some(kind),
        lower_order_final,
        ..spec(name)
    }
}

fn published(spec: SolverSpec) -> SolverSpec {
    SolverSpec { compat: Compat::Reference, ..spec }
}

fn single(name: SolverName, order: usize, kind: SolverType) -> SolverSpec {
    SolverSpec {
        order: Some(order),
        method: Some(Method::SinglestepFixed),
        solver_type: Some(kind),
        ..spec(name)
    }
}

fn fast(name: SolverName) -> SolverSpec {
    SolverSpec { order: Some(3), method: Some(Method::Singlestep), ..spec(name) }
}

fn unipc(order: usize, kind: SolverType, form: Form, lower_order_final: LowerOrderFinal) -> SolverSpec {
    SolverSpec {
        order: Some(order),
        solver_type: Some(kind),
        form: Some(form),
        lower_order_final,
        ..spec(Unipc)
    }
}

fn deis(variant: Variant, order: usize) -> SolverSpec {
    SolverSpec { variant: Some(variant), order: Some(order), ..spec(Deis) }
}

fn rk(tableau: Tableau) -> SolverSpec {
    SolverSpec { variant: Some(Variant::Rhork), tableau: Some(tableau), ..spec(Deis) }
}

fn sde(order: usize, form: Form, kind: SolverType) -> SolverSpec {
    SolverSpec { order: Some(order), form: Some(form), solver_type: Some(kind), ..spec(SdeDpmPp) }
}

type Row = (&'static str, SolverSpec, GridKind, usize, f64);

/// Runs the rows and lists those that are off.
fn check(rows: Vec<Row>, tolerance: f64, run: impl Fn(&Row) -> f64) {
    let off: Vec<String> = rows
        .iter()
        .map(|row| (row, run(row)))
        .filter(|(row, got)| (got - row.4).abs() > tolerance || got.is_nan())
        .map(|(row, got)| format!("{}: {got:.10}, not {:.10}", row.0, row.4))
        .collect();
    assert!(off.is_empty(), "\n{}", off.join("\n"));
}

/// Half a unit of the tenth digit that the tables have.
const DIGITS: f64 = 0.6e-10;

#[test]
fn set_a_on_vp() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &SET_A);
    let rows: Vec<Row> = vec![
        ("ddim logsnr", spec(Ddim), Logsnr, 10, 0.5539609362),
        ("ddim uniform", spec(Ddim), Uniform, 10, 0.5670121215),
        ("ddim quadratic", spec(Ddim), Quadratic, 10, 0.5857010246),
        ("2M++", multi(DpmPp, 2, Midpoint, Off), Logsnr, 10, 0.6758914355),
        ("2M++ lowered", multi(DpmPp, 2, Midpoint, On), Logsnr, 10, 0.6726078384),
        ("2M noise", multi(Dpm, 2, Midpoint, Off), Logsnr, 10, 0.6305951767),
        ("3M++ published", published(multi(DpmPp, 3, Midpoint, Off)), Logsnr, 10, 0.6616601252),
        ("3M++", multi(DpmPp, 3, Midpoint, Off), Logsnr, 10, 0.6468489941),
        ("3S noise K=3", single(Dpm, 3, Midpoint), Logsnr, 9, 0.8370109230),
        ("UniPC-3 bh2 lowered", unipc(3, Bh2, Form::Data, On), Logsnr, 10, 0.6647769592),
        ("UniPC-2 bh1 lowered", unipc(2, Bh1, Form::Data, On), Logsnr, 10, 0.7253140035),
        ("tAB3", deis(Variant::Tab, 3), Quadratic, 10, 0.6345626768),
        ("tAB2", deis(Variant::Tab, 2), Quadratic, 10, 0.6316862385),
        ("tAB1", deis(Variant::Tab, 1), Quadratic, 10, 0.6225580828),
        ("rhoAB3", deis(Variant::Rhoab, 3), Karras, 10, 0.5903195731),
        ("rhoAB2", deis(Variant::Rhoab, 2), Karras, 10, 0.5858961327),
        ("rhoAB1", deis(Variant::Rhoab, 1), Karras, 10, 0.5749592656),
        ("rho2Heun", rk(Tableau::Heun2), Karras, 5, 1.1806577917),
        ("rho3Kutta", rk(Tableau::Kutta3), Logsnr, 5, 0.6421863333),
        ("rho 3heun", rk(Tableau::Heun3), Logsnr, 5, 0.6072274771),
        ("rho 3ral", rk(Tableau::Ralston3), Logsnr, 5, 0.6002587362),
        ("rho 3vdh", rk(Tableau::Houwen3), Logsnr, 5, 0.5863584600),
        ("rho 3ssprk", rk(Tableau::Ssp3), Logsnr, 5, 0.4909757911),
        ("rho 4rk", rk(Tableau::Rk4), Logsnr, 5, 0.7089428677),
        ("2S++ K=5", single(DpmPp, 2, Midpoint), Logsnr, 10, 0.5823834536),
        ("3S++ K=3", single(DpmPp, 3, Midpoint), Logsnr, 9, 0.6589629941),
        ("2M++ taylor", multi(DpmPp, 2, Heun, Off), Logsnr, 10, 0.7037587404),
        ("2M noise taylor", multi(Dpm, 2, Heun, Off), Logsnr, 10, 0.6199126591),
        ("deis log-rho 2", deis(Variant::Logrho, 2), Logsnr, 10, 0.6199126591),
        ("3M noise published", published(multi(Dpm, 3, Midpoint, Off)), Logsnr, 10, 0.6354781965),
        ("3M noise", multi(Dpm, 3, Midpoint, Off), Logsnr, 10, 0.6388778746),
        ("3M++ lowered published", published(multi(DpmPp, 3, Midpoint, On)), Logsnr, 10, 0.6897820036),
        ("3M++ lowered", multi(DpmPp, 3, Midpoint, On), Logsnr, 10, 0.6889993183),
        (
            "2M++ 9 steps lowered by itself",
            multi(DpmPp, 2, Midpoint, LowerOrderFinal::Auto),
            Logsnr,
            9,
            0.6781626150,
        ),
        ("2M++ 9 steps", multi(DpmPp, 2, Midpoint, Off), Logsnr, 9, 0.6839962659),
        ("UniPC bh1 1", unipc(1, Bh1, Form::Data, Off), Logsnr, 10, 0.6169899133),
        ("UniPC bh1 2", unipc(2, Bh1, Form::Data, Off), Logsnr, 10, 0.7290332845),
        ("UniPC bh1 3", unipc(3, Bh1, Form::Data, Off), Logsnr, 10, 0.6253144384),
        ("UniPC bh2 1", unipc(1, Bh2, Form::Data, Off), Logsnr, 10, 0.5918096501),
        ("UniPC bh2 2", unipc(2, Bh2, Form::Data, Off), Logsnr, 10, 0.6712991043),
        ("UniPC bh2 3", unipc(3, Bh2, Form::Data, Off), Logsnr, 10, 0.6253092204),
        ("UniPC bh1 3 lowered", unipc(3, Bh1, Form::Data, On), Logsnr, 10, 0.6634350484),
        ("UniPC bh2 2 lowered", unipc(2, Bh2, Form::Data, On), Logsnr, 10, 0.6702495921),
        ("UniPC noise bh1 3 lowered", unipc(3, Bh1, Form::Noise, On), Logsnr, 10, 0.6485797739),
        ("UniPC noise bh2 3 lowered", unipc(3, Bh2, Form::Noise, On), Logsnr, 10, 0.6483017866),
        ("2S++ taylor K=5", single(DpmPp, 2, Heun), Logsnr, 10, 0.6159851467),
        ("2S noise K=5", single(Dpm, 2, Midpoint), Logsnr, 10, 0.7972788766),
        ("2S noise taylor K=5", single(Dpm, 2, Heun), Logsnr, 10, 0.6809786067),
        ("3S noise taylor K=3", single(Dpm, 3, Heun), Logsnr, 9, 0.6764122948),
        ("3S++ taylor K=3", single(DpmPp, 3, Heun), Logsnr, 9, 0.7040873219),
        ("fast noise 8", fast(Dpm), Logsnr, 8, 0.8996660124),
        ("fast noise 9", fast(Dpm), Logsnr, 9, 0.9085480468),
        ("fast noise 10", fast(Dpm), Logsnr, 10, 0.5717873170),
        ("fast noise 11", fast(Dpm), Logsnr, 11, 0.5766190046),
        ("fast noise 12", fast(Dpm), Logsnr, 12, 0.6953700102),
        ("fast noise 15", fast(Dpm), Logsnr, 15, 0.6251335840),
        ("fast noise quadratic 9", fast(Dpm), Quadratic, 9, 0.6851919426),
        ("fast noise quadratic 10", fast(Dpm), Quadratic, 10, 0.6544764813),
        ("fast ++ 8", fast(DpmPp), Logsnr, 8, 0.6438401944),
        ("fast ++ 9", fast(DpmPp), Logsnr, 9, 0.5774712103),
        ("fast ++ 10", fast(DpmPp), Logsnr, 10, 0.6494820747),
        ("iPNDM", spec(Ipndm), Uniform, 10, 0.6111110259),
    ];
    check(rows, DIGITS, |row| end(&row.1, &kind(row.2), row.3, &model, 0.7));
}

#[test]
fn names_alone_mean_the_usual_variants() {
    // The same runs by their defaults.
    let model = exact(Box::new(Vp::default()), Prediction::V, &SET_A);
    for (spec, steps, want) in [
        (SolverSpec::new(Dpm), 10, 0.5717873170),
        (SolverSpec::new(DpmPp), 10, 0.6758914355),
        (SolverSpec::new(Ddim), 10, 0.5670121215),
        (SolverSpec::new(Deis), 10, 0.6345626768),
        (SolverSpec::new(Ipndm), 10, 0.6111110259),
        (SolverSpec::new(Unipc), 10, 0.6647769592),
    ] {
        let got = end(&spec, &GridSpec::default(), steps, &model, 0.7);
        assert!((got - want).abs() < DIGITS, "{:?}: {got} {want}", spec.name);
    }
}

#[test]
fn deis_in_log_rho_on_the_quadratic_grid() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &SET_A);
    // Known in single precision.
    for (order, want) in [(2, 0.632516), (3, 0.634534)] {
        let got = end(&deis(Variant::Logrho, order), &kind(Quadratic), 10, &model, 0.7);
        assert!((got - want).abs() < 1e-6, "{order}: {got} {want}");
    }
}

#[test]
fn stochastic_runs_with_known_noise() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &SET_A);
    let rows = [
        ("SDE++ 1", sde(1, Form::Data, Midpoint), 0.3158326839, 0.3158898259),
        ("SDE++ 2 midpoint", sde(2, Form::Data, Midpoint), 0.4510405333, 0.4501134356),
        ("SDE++ 2 heun", sde(2, Form::Data, Heun), 0.5245511446, 0.5244417373),
        ("SDE++ 3 published", published(sde(3, Form::Data, Heun)), 0.5235671350, 0.5229065270),
        ("SDE++ 3", sde(3, Form::Data, Heun), 0.4960332698, 0.5176091179),
        ("SDE noise 1", sde(1, Form::Noise, Midpoint), 0.2812702341, 0.3897720732),
        // DDPM with the small variance and DDIM with eta 1 are the first-order data form.
        ("ddpm", spec(SolverName::Ddpm), 0.3158326839, 0.3158898259),
        ("ddim eta 1", SolverSpec { eta: Some(1.0), ..spec(Ddim) }, 0.3158326839, 0.3158898259),
    ];
    for (name, spec, with_noise, without) in rows {
        let grid = GridSpec { terminal: Some(Terminal::TMin), ..kind(Logsnr) };
        let got = end_with(&spec, &grid, 10, &model, 0.7, &mut alternating(0.3));
        assert!((got - with_noise).abs() < DIGITS, "{name}: {got} {with_noise}");
        let got = end(&spec, &grid, 10, &model, 0.7);
        assert!((got - without).abs() < DIGITS, "{name} without noise: {got} {without}");
    }
    let useless = end(&sde(2, Form::Noise, Midpoint), &kind(Logsnr), 10, &model, 0.7);
    assert!((useless + 5.55).abs() < 0.005, "{useless}");
}

#[test]
fn set_b_on_vp() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &[(1.0, 0.5, 0.25)]);
    let rows: Vec<Row> = vec![
        ("ddim", spec(Ddim), Logsnr, 10, 0.6963010170),
        ("2M++", multi(DpmPp, 2, Midpoint, Off), Logsnr, 10, 0.7559766109),
        ("2M++ lowered", multi(DpmPp, 2, Midpoint, On), Logsnr, 10, 0.7504634312),
        ("3M++", multi(DpmPp, 3, Midpoint, Off), Logsnr, 10, 0.7697642536),
        ("tAB3", deis(Variant::Tab, 3), Quadratic, 10, 0.7407088795),
        ("rho3Kutta", rk(Tableau::Kutta3), Logsnr, 5, 0.7630615959),
    ];
    check(rows, DIGITS, |row| end(&row.1, &kind(row.2), row.3, &model, 1.0));
}

#[test]
fn exact_ends_are_known() {
    let vp = Vp::default();
    let (start, stop) = (Point::new(&vp, 1.0), Point::new(&vp, 1e-3));
    assert!((exact_end(&SET_A, &start, &stop, 0.7) - 0.6388610636).abs() < DIGITS);
    assert!((exact_end(&[(1.0, 0.5, 0.25)], &start, &stop, 1.0) - 0.7493614964).abs() < DIGITS);
    let edm = Edm::default();
    let high = Point::new(&edm, 80.0);
    assert!((exact_end(&SET_A, &high, &Point::clean(), 40.0) - 0.5518690620).abs() < DIGITS);
    assert!((exact_end(&[(1.0, 0.1, 0.5)], &high, &Point::clean(), 80.0) - 0.5993652469).abs() < DIGITS);
    let noise = Point::new(&Flow, 1.0);
    assert!((exact_end(&SET_A, &noise, &Point::clean(), 0.5) - 0.5521578989).abs() < DIGITS);
}

#[test]
fn the_edm_sampler() {
    let gaussian = exact(Box::new(Edm::default()), Prediction::X0, &[(1.0, 0.1, 0.5)]);
    let heun = spec(EdmSolver);
    for (steps, want) in [(10, 0.7090357533), (18, 0.6269651062), (40, 0.6042457686), (80, 0.6005188824)] {
        let got = end(&heun, &GridSpec::default(), steps, &gaussian, 80.0);
        assert!((got - want).abs() < DIGITS, "{steps}: {got} {want}");
        // On EDM's process time is the noise level: Heun on the ODE is the same sampler.
        let same = end(&spec(HeunSolver), &GridSpec::default(), steps, &gaussian, 80.0);
        assert!((got - same).abs() < 1e-12);
    }
    let euler =
        end(&SolverSpec { order: Some(1), ..heun.clone() }, &GridSpec::default(), 18, &gaussian, 80.0);
    assert!((euler - 0.52250265).abs() < 1e-8, "{euler}");
    let mixture = exact(Box::new(Edm::default()), Prediction::X0, &SET_A);
    for (steps, want) in [(18, 0.57162081), (36, 0.55583112), (72, 0.5527646), (144, 0.55208178)] {
        let got = end(&heun, &GridSpec::default(), steps, &mixture, 40.0);
        assert!((got - want).abs() < 1e-8, "{steps}: {got} {want}");
    }
    let limited = Churn { s_churn: 40.0, s_min: 0.05, s_max: 50.0, s_noise: 1.003 };
    let free = Churn { s_churn: 10.0, ..Churn::default() };
    for (churn, want) in [(limited, 0.1124464666), (free, 0.1088889289)] {
        let spec = SolverSpec { churn: Some(churn), ..heun.clone() };
        let got = end_with(&spec, &GridSpec::default(), 18, &gaussian, 80.0, &mut alternating(-0.3));
        assert!((got - want).abs() < DIGITS, "{churn:?}: {got} {want}");
    }
    // Start from sqrt(80^2 + 0.25): relative errors of both orders.
    let x = (80f64 * 80.0 + 0.25).sqrt();
    let zero_mean = exact(Box::new(Edm::default()), Prediction::X0, &[(1.0, 0.0, 0.5)]);
    for (spec, coarse, fine) in [(spec(Euler), -0.15392, -0.077990), (heun, 0.055270, 0.012214)] {
        for (steps, want) in [(18, coarse), (36, fine)] {
            let got = end(&spec, &GridSpec::default(), steps, &zero_mean, x) / 0.5 - 1.0;
            assert!((got - want).abs() < 6e-6, "{:?} {steps}: {got} {want}", spec.name);
        }
    }
}

#[test]
fn the_ablation_sampler_of_edm() {
    let data = [(1.0, 0.1, 0.5)];
    let (euler, heun) = (published(spec(Euler)), published(spec(HeunSolver)));
    let check =
        |spec: &SolverSpec, grid: &GridSpec, model: &dyn genlib::denoiser::Denoiser, x: f64, want: f64| {
            let got = end(spec, grid, 18, model, x);
            assert!((got - want).abs() < 1e-8, "{:?}: {got} {want}", spec.name);
        };
    let vp = exact(Box::new(Vp::default()), Prediction::X0, &data);
    let grid = GridSpec { terminal: Some(Terminal::Zero), ..kind(Uniform) };
    let start = Vp::default().sigma(1.0);
    check(&euler, &grid, &vp, start, 0.59124840);
    check(&heun, &grid, &vp, start, 0.60347275);
    let ve = exact(Box::new(RootVe), Prediction::X0, &data);
    let mut list: Vec<f64> = (0..18).map(|i| 1e4 * (4e-4f64 / 1e4).powf(f64::from(i) / 17.0)).collect();
    list.push(0.0);
    check(&euler, &times(&list), &ve, 100.0, 1.68888942);
    check(&heun, &times(&list), &ve, 100.0, 0.30234525);
    // The levels of the cosine schedule with 1000 steps, 18 of those between 0.002 and 81.
    let alpha_bar = |j: usize| (std::f64::consts::FRAC_PI_2 * j as f64 / 1000.0 / 1.008).sin().powi(2);
    let mut u = vec![0.0; 1001];
    for j in (1..=1000).rev() {
        let ratio = (alpha_bar(j - 1) / alpha_bar(j)).max(0.001);
        u[j - 1] = ((u[j] * u[j] + 1.0) / ratio - 1.0f64).sqrt();
    }
    let kept: Vec<f64> = u.into_iter().filter(|u| (0.002..=81.0).contains(u)).collect();
    let mut list: Vec<f64> = (0..18)
        .map(|i| kept[((kept.len() - 1) as f64 / 17.0 * f64::from(i)).round_ties_even() as usize])
        .collect();
    let start = list[0];
    list.push(0.0);
    let edm = exact(Box::new(Edm::default()), Prediction::X0, &data);
    check(&euler, &levels(&list), &edm, start, 0.55657358);
    check(&heun, &levels(&list), &edm, start, 0.60755220);
}

#[test]
fn the_linear_flow_from_pure_noise_to_clean_data() {
    let euler = [(10, 0.51674144), (20, 0.53404098), (40, 0.5429819), (80, 0.54753836)];
    let heun = [(10, 0.5511718), (20, 0.55192955), (40, 0.55210341), (80, 0.55214463)];
    for prediction in [Prediction::Velocity, Prediction::X0, Prediction::V] {
        let model = exact(Box::new(Flow), prediction, &SET_A);
        for (name, rows) in [(Euler, euler), (HeunSolver, heun)] {
            for (steps, want) in rows {
                let got = end(&spec(name), &GridSpec::default(), steps, &model, 0.5);
                assert!((got - want).abs() < 1e-8, "{name:?} {steps}: {got} {want}");
            }
        }
    }
}

#[test]
fn runs_of_other_programs() {
    // Known in single precision, from runs of diffusers' schedulers with the exact model.
    let close = |got: f64, want: f64, name: &str| assert!((got - want).abs() < 2e-5, "{name}: {got} {want}");
    let table = || Discrete::new(alpha_bar(BetaSchedule::Linear, 1000, 1e-4, 0.02)).unwrap();
    let ddpm = exact(Box::new(table()), Prediction::Eps, &SET_A);
    use GridKind::{Leading, Linspace, Trailing};
    let onto_entry_0 = |k| GridSpec { terminal: Some(Terminal::TMin), ..kind(k) };
    let logrho = SolverSpec { lower_order_final: On, ..deis(Variant::Logrho, 2) };
    let (two, pc) = (multi(DpmPp, 2, Midpoint, On), unipc(2, Bh2, Form::Data, On));
    let three = published(multi(DpmPp, 3, Midpoint, On));
    for (name, spec, grid, want) in [
        ("ddim leading", spec(Ddim), kind(Leading), 0.566702),
        ("ddim trailing", spec(Ddim), kind(Trailing), 0.565302),
        ("dpm++ linspace", two.clone(), kind(Linspace), 0.606529),
        ("dpm++ leading", two.clone(), kind(Leading), 0.614428),
        ("dpm++ trailing", two.clone(), kind(Trailing), 0.607374),
        ("dpm++ onto entry 0", two, onto_entry_0(Linspace), 0.609479),
        ("dpm++ 3", three, kind(Linspace), 0.612457),
        ("unipc linspace", pc.clone(), kind(Linspace), 0.611528),
        ("unipc leading", pc.clone(), kind(Leading), 0.618141),
        ("unipc trailing", pc, kind(Trailing), 0.612394),
        ("deis linspace", logrho.clone(), onto_entry_0(Linspace), 0.599288),
        ("deis leading", logrho.clone(), onto_entry_0(Leading), 0.606396),
        ("deis trailing", logrho, onto_entry_0(Trailing), 0.599924),
    ] {
        close(end(&spec, &grid, 10, &ddpm, 0.7), want, name);
    }
    let edm = exact(Box::new(Edm::default()), Prediction::X0, &SET_A);
    let grid = GridSpec::default();
    close(end(&spec(Euler), &grid, 10, &edm, 40.0), 0.466349, "edm euler");
    close(end(&multi(DpmPp, 2, Midpoint, On), &grid, 10, &edm, 40.0), 0.676248, "edm dpm++ 2");
    close(end(&published(multi(DpmPp, 3, Midpoint, On)), &grid, 10, &edm, 40.0), 0.747110, "edm dpm++ 3");
    let flow = exact(Box::new(Flow), Prediction::Velocity, &SET_A);
    let list = |shift: f64| {
        let shifted = |s: f64| shift * s / (1.0 + (shift - 1.0) * s);
        let last = shifted(0.001);
        let mut list: Vec<f64> = (0..10).map(|i| shifted(1.0 + (last - 1.0) * f64::from(i) / 9.0)).collect();
        list.push(0.0);
        times(&list)
    };
    close(end(&spec(Euler), &list(1.0), 10, &flow, 0.5), 0.513037, "flow euler");
    close(end(&spec(Euler), &list(3.0), 10, &flow, 0.5), 0.497520, "flow euler, shift 3");
    close(end(&spec(HeunSolver), &list(1.0), 10, &flow, 0.5), 0.553817, "flow heun");
}

#[test]
fn adaptive_dpm_with_the_published_tolerances() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &SET_A);
    for (order, form, nfe, want) in [
        (2, Form::Noise, 68, 0.65021308),
        (2, Form::Data, 28, 0.62550288),
        (3, Form::Noise, 30, 0.64270195),
        (3, Form::Data, 30, 0.63431097),
    ] {
        let spec = SolverSpec { order: Some(order), form: Some(form), ..spec(DpmAdaptive) };
        for control in [Control::Sample, Control::Batch] {
            let spec = SolverSpec { control, ..spec.clone() };
            let mut plan = plan(&spec, &GridSpec::default(), Budget::Auto, &Vp::default()).unwrap();
            let solved = plan
                .run(&model, &Default::default(), column(&[0.7]), &mut silent(), &mut |_| Ok(()))
                .unwrap();
            assert_eq!(solved.nfe, nfe, "{order} {form:?}");
            let got = values(&solved.x)[0];
            assert!((got - want).abs() < 1e-8, "{order} {form:?}: {got} {want}");
        }
    }
}

#[test]
fn rk45_is_that_of_scipy() {
    // scipy.integrate.solve_ivp(method="RK45") with rtol = atol, the same ODE in double precision.
    let model = exact(Box::new(Vp::default()), Prediction::Score, &SET_A);
    let three = &[0.7, -1.2, 0.1];
    let rows: [(f64, &[f64], &[f64], u64); 4] = [
        (1e-5, &[0.7], &[0.638865035894], 56),
        (1e-3, &[0.7], &[0.636893384739], 26),
        (1e-5, three, &[0.638862691815, -1.059368273980, 0.357850759899], 68),
        (1e-3, three, &[0.638742984233, -1.055677949250, 0.357968892341], 38),
    ];
    for (tolerance, starts, want, nfe) in rows {
        let spec = SolverSpec {
            rtol: Some(tolerance),
            atol: Some(tolerance),
            control: Control::Batch,
            ..spec(SolverName::Rk45)
        };
        let mut plan = plan(&spec, &GridSpec::default(), Budget::Auto, &Vp::default()).unwrap();
        let solved =
            plan.run(&model, &Default::default(), column(starts), &mut silent(), &mut |_| Ok(())).unwrap();
        assert_eq!(solved.nfe, nfe);
        for (got, want) in values(&solved.x).iter().zip(want) {
            assert!((got - want).abs() < 1e-10, "{got} {want}");
        }
    }
}

/// Row k of the batch is 1 in draw k.
struct Impulses(i64);
impl genlib::noise::Noise for Impulses {
    fn normal(&mut self, like: &tch::Tensor) -> genlib::error::Result<tch::Tensor> {
        self.0 += 1;
        let z = like.zeros_like();
        let _ = z.narrow(0, self.0, 1).fill_(1.0);
        Ok(z)
    }
}

/// The variance of the result of a run on zero-mean data of variance 0.25. The model is linear, so one run
/// of the responses to the start and to each draw gives it exactly.
fn variance_of(spec: &SolverSpec, grid: &GridSpec, name: ProcessName, start: f64) -> f64 {
    let model = exact(name.spec().build().unwrap(), Prediction::Score, &[(1.0, 0.0, 0.5)]);
    let process = name.spec().build().unwrap();
    let mut plan = plan(spec, grid, Budget::Steps(1000), process.as_ref()).unwrap();
    let x = tch::Tensor::zeros([1001, 1], (tch::Kind::Double, tch::Device::Cpu));
    let _ = x.narrow(0, 0, 1).fill_(start);
    let got = run_plan(&mut plan, &model, x, &mut Impulses(0)).square().sum(tch::Kind::Double);
    got.double_value(&[])
}

#[test]
fn the_variances_of_the_predictors_follow_their_recursions() {
    // 1000 steps of 1/1000 from the nodes of the reference sampler, mean of the last step.
    let em = published(spec(EulerMaruyama));
    for (name, start, want) in [(ProcessName::Vp, 1.0, 0.2502327501), (ProcessName::Ve, 50.0, 0.2503492902)] {
        let got = variance_of(&em, &GridSpec::default(), name, start);
        assert!((got - want).abs() < 1e-9, "{name:?}: {got} {want}");
    }
    // Reverse diffusion on the 1000 levels of VE. The reference asks the model at times up to 1e-5 beside
    // its levels; the recursion in plain numbers, with and without that, ties the two together.
    let recursion = |shift: f64| {
        let level = |k: f64| 0.01 * 5000f64.powf(k / 999.0);
        (0..1000).rev().fold((2500.0, 0.0), |(v, _), k| {
            let k = f64::from(k);
            let below = if k > 0.0 { level(k - 1.0) } else { 0.0 };
            let g2 = level(k).powi(2) - below.powi(2);
            let asked = 0.01 * 5000f64.powf(1.0 - (999.0 - k) / 999.0 * (1.0 - shift));
            let mean = (1.0 - g2 / (0.25 + asked * asked)).powi(2) * v;
            (mean + g2, mean)
        })
    };
    assert!((recursion(1e-5).1 - 0.2520640632).abs() < 1e-9);
    let grid = GridSpec { t_min: Some(0.0), ..kind(Uniform) };
    let got = variance_of(&published(spec(SolverName::ReverseDiffusion)), &grid, ProcessName::Ve, 50.0);
    assert!((got - recursion(0.0).1).abs() < 1e-9, "{got}");
}

#[test]
fn predictor_and_corrector_are_their_formulas() {
    let (s, t) = (2.0f64, 1.2f64);
    let variance = 0.25;
    let model = exact(Box::new(Edm::default()), Prediction::Eps, &[(1.0, 0.0, 0.5)]);
    let score = |x: f64| -x / (variance + s * s);
    let (x, z1, z2, r) = (1.7, -0.4, 0.9, 0.16f64);
    // One correction, then one step of the predictor.
    let e = 2.0 * (r * z1 / score(x)).powi(2);
    let corrected = x + e * score(x) + (2.0 * e).sqrt() * z1;
    let v = s * s - t * t;
    let want = corrected + v * score(corrected) + v.sqrt() * z2;
    let spec = SolverSpec { langevin: Some(Langevin::default()), ..spec(SolverName::ReverseDiffusion) };
    let mut noise = Scripted(0, |i| [z1, z2][i]);
    let got = end_with(&spec, &levels(&[s, t]), 1, &model, x, &mut noise);
    assert!((got - want).abs() < 1e-14, "{got} {want}");
    // Norms of a sample stay its own; those of the batch are shared.
    let run = |control, starts: &[f64]| {
        let langevin = Langevin { control, steps: 3, ..Langevin::default() };
        let spec = SolverSpec { langevin: Some(langevin), ..spec.clone() };
        let mut plan = plan(&spec, &levels(&[4.0, 2.0, 1.0, 0.0]), Budget::Auto, &Edm::default()).unwrap();
        assert_eq!(plan.nfe(), Some(12));
        values(&run_plan(&mut plan, &model, column(starts), &mut alternating(0.5)))[0]
    };
    let alone = run(Control::Sample, &[1.0]);
    assert!((run(Control::Sample, &[1.0, 9.0]) - alone).abs() < 1e-14);
    assert!((run(Control::Batch, &[1.0, 9.0]) - alone).abs() > 1e-3);
}

#[test]
fn slopes_on_set_a() {
    let model = exact(Box::new(Vp::default()), Prediction::Eps, &SET_A);
    let want = exact_end(&SET_A, &Point::new(&Vp::default(), 1.0), &Point::new(&Vp::default(), 1e-3), 0.7);
    let rows: Vec<Row> = vec![
        ("ddim", spec(Ddim), Logsnr, 1, 1.0),
        ("2S", single(DpmPp, 2, Midpoint), Logsnr, 2, 2.0),
        ("3S", single(DpmPp, 3, Midpoint), Logsnr, 3, 3.0),
        ("3S noise", single(Dpm, 3, Heun), Logsnr, 3, 3.0),
        ("2M", multi(DpmPp, 2, Midpoint, Off), Logsnr, 1, 2.0),
        ("3M", multi(DpmPp, 3, Midpoint, Off), Logsnr, 1, 3.0),
        ("3M noise", multi(Dpm, 3, Midpoint, Off), Logsnr, 1, 2.97),
        ("3M published", published(multi(DpmPp, 3, Midpoint, Off)), Logsnr, 1, 1.97),
        ("3M noise published", published(multi(Dpm, 3, Midpoint, Off)), Logsnr, 1, 1.98),
        ("UniP-3", SolverSpec { corrector: Some(false), ..unipc(3, Bh2, Form::Data, Off) }, Logsnr, 1, 3.0),
        ("UniPC-2", unipc(2, Bh2, Form::Data, Off), Logsnr, 1, 3.01),
        ("UniPC-3", unipc(3, Bh2, Form::Data, Off), Logsnr, 1, 4.03),
        ("rhoAB1", deis(Variant::Rhoab, 1), Karras, 1, 1.98),
        ("rhoAB2", deis(Variant::Rhoab, 2), Karras, 1, 2.96),
        ("rhoAB3", deis(Variant::Rhoab, 3), Karras, 1, 3.93),
        ("tAB1", deis(Variant::Tab, 1), Quadratic, 1, 1.99),
        ("tAB2", deis(Variant::Tab, 2), Quadratic, 1, 2.94),
        // The first steps are of lower order and come through here: 3.38, 3.34, 3.09, 2.63 from 64 to 1024.
        ("tAB3", deis(Variant::Tab, 3), Quadratic, 1, 3.0922796),
        ("rho2Heun", rk(Tableau::Heun2), Karras, 1, 2.01),
        ("rho3Kutta", rk(Tableau::Kutta3), Karras, 1, 3.0),
        ("rho4", rk(Tableau::Rk4), Karras, 1, 4.01),
    ];
    check(rows, 0.15, |row| {
        let error = |steps: usize| (end(&row.1, &kind(row.2), steps * row.3, &model, 0.7) - want).abs();
        (error(256) / error(512)).log2()
    });
}

#[test]
fn ancestral_steps_are_those_of_ddpm() {
    // Ho et al. 2020, equations 6 and 7, on entries 600 and 590 of the table.
    let table = alpha_bar(BetaSchedule::Linear, 1000, 1e-4, 0.02);
    let (now, before) = (table[600], table[590]);
    let (alpha, beta) = (now / before, 1.0 - now / before);
    let process = Discrete::new(table.clone()).unwrap();
    let model = OfPoint { process: Box::new(process.clone()), prediction: Prediction::X0, f: |_| 0.8 };
    let (x, z) = (-0.4, 1.3);
    let mean = before.sqrt() * beta / (1.0 - now) * 0.8 + alpha.sqrt() * (1.0 - before) / (1.0 - now) * x;
    let small = (1.0 - before) / (1.0 - now) * beta;
    for (variance, squared) in [(Variance::Small, small), (Variance::Large, beta)] {
        let spec = SolverSpec { variance: Some(variance), ..spec(SolverName::Ddpm) };
        let grid = times(&[0.601, 0.591]);
        let got = end_with(&spec, &grid, 1, &model, x, &mut Scripted(0, |_| z));
        let want = mean + squared.sqrt() * z;
        assert!((got - want).abs() < 1e-12, "{variance:?}: {got} {want}");
    }
}

#[test]
fn euler_maruyama_without_noise_is_euler() {
    for name in [ProcessName::Vp, ProcessName::Flow] {
        let model = exact(name.spec().build().unwrap(), Prediction::X0, &SET_A);
        let quiet = SolverSpec { eta: Some(0.0), ..spec(EulerMaruyama) };
        let grid = GridSpec::default();
        let (a, b) = (end(&quiet, &grid, 10, &model, 0.7), end(&spec(Euler), &grid, 10, &model, 0.7));
        assert!((a - b).abs() < 1e-13, "{name:?}: {a} {b}");
    }
}

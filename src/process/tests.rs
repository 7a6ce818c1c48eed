//! Values of the processes, and the identities that tie their functions together.

use super::*;

fn close(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance * want.abs().max(1e-300), "{got} is not {want}");
}

fn all() -> Vec<Box<dyn Process>> {
    [
        ProcessName::Vp,
        ProcessName::Subvp,
        ProcessName::Ve,
        ProcessName::Edm,
        ProcessName::Flow,
        ProcessName::TrigFlow,
        ProcessName::Ddpm,
    ]
    .map(|name| name.spec().build().unwrap())
    .into()
}

/// Ten times inside the span, off the knots of the DDPM table.
fn times(process: &dyn Process) -> Vec<f64> {
    let Span { min, max } = process.span();
    (0..10).map(|i| min + (max - min) * (0.03712 + 0.0973 * f64::from(i))).collect()
}

#[test]
fn vp_has_its_known_values() {
    let vp = Vp::default();
    close(vp.alpha(1.0), 0.006571586494929619, 1e-14);
    close(vp.sigma(1.0), 0.9999784068923386, 1e-15);
    for (t, lambda) in [
        (1.0, -5.024978406659204),
        (0.5, -1.2275677344107874),
        (1e-3, 4.557714932729898),
        (1e-4, 5.7515097952693575),
        (1e-5, 6.907257776075559),
    ] {
        close(vp.lambda(t), lambda, 1e-14);
    }
    close(vp.alpha(0.5), 0.2811828807967524, 1e-14);
    close(vp.sigma(0.5), 0.9596542020680363, 1e-14);
    close(vp.sigma(1e-5), 0.0010004971259352385, 1e-14);
    close(SubVp(vp).sigma(0.5), 0.9209361875468394, 1e-14);
    close(Point::new(&SubVp(vp), 0.5).g2(), 9.987176581281732, 1e-13);
}

#[test]
fn subvp_marginals_are_those_of_its_own_sigma() {
    // Data N(0, 0.25) at t = 0.5: alpha^2 s^2 + sigma^2.
    let variance = |p: &dyn Process| p.alpha(0.5).powi(2) * 0.25 + p.sigma(0.5).powi(2);
    close(variance(&SubVp::default()), 0.867889, 1e-6);
    close(variance(&Vp::default()), 0.940702, 1e-6);
}

#[test]
fn g2_has_its_closed_forms() {
    let vp = Vp::default();
    for t in times(&vp) {
        close(Point::new(&vp, t).g2(), vp.beta(t), 1e-12);
        let sub = SubVp(vp);
        close(Point::new(&sub, t).g2(), vp.beta(t) * -(4.0 * vp.log_alpha(t)).exp_m1(), 1e-11);
        close(Point::new(&Flow, t).g2(), 2.0 * t / (1.0 - t), 1e-12);
        let angle = std::f64::consts::FRAC_PI_2 * t;
        close(Point::new(&TrigFlow, t).g2(), std::f64::consts::PI * angle.tan(), 1e-12);
        let ve = Ve::default();
        close(Point::new(&ve, t).g2(), 2.0 * ve.sigma(t).powi(2) * 5000f64.ln(), 1e-12);
    }
    close(Point::new(&Edm::default(), 3.0).g2(), 6.0, 1e-15);
}

#[test]
fn derivatives_are_those_of_the_functions() {
    for process in all() {
        for t in times(process.as_ref()) {
            // Central differences of fourth order.
            let h = 1e-4 * t;
            let slope = |f: &dyn Fn(f64) -> f64| {
                (8.0 * (f(t + h) - f(t - h)) - (f(t + 2.0 * h) - f(t - 2.0 * h))) / (12.0 * h)
            };
            // The table has kinks: stay inside one of its pieces.
            let inside = (t * 1000.0 - (t * 1000.0).round()).abs() > 2e-4 * t * 1000.0;
            if inside || format!("{process:?}").len() < 200 {
                let (a, s) = (slope(&|t| process.alpha(t)), slope(&|t| process.sigma(t)));
                assert!((a - process.dalpha(t)).abs() < 1e-7 * (1.0 + a.abs()), "{a} {t}");
                assert!((s - process.dsigma(t)).abs() < 1e-7 * (1.0 + s.abs()), "{s} {t}");
            }
            let point = Point::new(process.as_ref(), t);
            close(point.lambda, (point.alpha / point.sigma).ln(), 1e-10);
            close(point.g2(), 2.0 * point.sigma * point.det() / point.alpha, 1e-9);
        }
    }
}

#[test]
fn t_of_lambda_is_the_inverse() {
    for process in all() {
        for t in times(process.as_ref()) {
            close(process.t_of_lambda(process.lambda(t)).unwrap(), t, 1e-12);
        }
    }
    let vp = Vp::default();
    for t in [1e-12, 1e-8, 1e-5, 1e-3] {
        close(vp.t_of_lambda(vp.lambda(t)).unwrap(), t, 1e-12);
        close(SubVp(vp).t_of_lambda(SubVp(vp).lambda(t)).unwrap(), t, 1e-12);
    }
    assert!(vp.t_of_lambda(f64::NAN).is_err());
    assert!(Ve::default().t_of_lambda(f64::INFINITY).is_err());
}

#[test]
fn ends_are_exact() {
    for flow in [&Flow as &dyn Process, &TrigFlow] {
        let (end, start) = (Point::new(flow, 1.0), Point::new(flow, 0.0));
        assert_eq!((end.alpha, end.sigma, end.lambda), (0.0, 1.0, f64::NEG_INFINITY));
        assert_eq!((start.alpha, start.sigma, start.lambda), (1.0, 0.0, f64::INFINITY));
    }
}

#[test]
fn ddpm_tables_have_their_known_values() {
    let table = alpha_bar(BetaSchedule::Linear, 1000, 1e-4, 0.02);
    close(table[0], 0.9999, 1e-12);
    close(table[499], 0.07858724, 1e-6);
    close(table[999], 4.035830e-5, 1e-6);
    let process = Discrete::new(table).unwrap();
    close(process.lambda(1e-3), 4.60512, 1e-6);
    close(process.lambda(1.0), -5.05884, 1e-6);
    assert_eq!(process.span(), Span { min: 1e-3, max: 1.0 });
    close(process.index_of_t(process.t_of_index(17.25)), 17.25, 1e-12);
    let cosine = alpha_bar(BetaSchedule::Cosine, 1000, 0.0, 0.0);
    let beta = |i: usize| 1.0 - cosine[i] / if i == 0 { 1.0 } else { cosine[i - 1] };
    close(beta(0), 4.128422e-5, 1e-6);
    close(beta(499), 3.145886e-3, 1e-6);
    close(beta(999), 0.999, 1e-9);
    close(cosine[499], 0.4938436, 1e-6);
    let scaled = alpha_bar(BetaSchedule::ScaledLinear, 1000, 0.00085, 0.012);
    close(scaled[0], 1.0 - 0.00085, 1e-12);
    close(
        scaled[1],
        (1.0 - 0.00085) * (1.0 - (0.00085f64.sqrt() + (0.012f64.sqrt() - 0.00085f64.sqrt()) / 999.0).powi(2)),
        1e-12,
    );
}

#[test]
fn further_tables_have_their_known_values() {
    // Logistic betas: symmetric about the middle, where they are the mean of both ends.
    let sigmoid = alpha_bar(BetaSchedule::Sigmoid, 1001, 1e-7, 2e-3);
    close(1.0 - sigmoid[500] / sigmoid[499], 0.5 * (1e-7 + 2e-3), 1e-9);
    // e^(-12 t) has equal betas, below the cap.
    let exp = alpha_bar(BetaSchedule::Exp, 1000, 0.0, 0.0);
    close(exp[999], (-12f64).exp(), 1e-9);
    close(1.0 - exp[500] / exp[499], -(-0.012f64).exp_m1(), 1e-9);
    let laplace = alpha_bar(BetaSchedule::Laplace, 1000, 0.0, 0.0);
    assert!(Discrete::new(laplace).is_ok());
    close(from_betas([0.1, 0.5])[1], 0.45, 1e-15);
    let build = |text: &str| serde_json::from_str::<ProcessSpec>(text).unwrap().build();
    let listed = build(r#"{"type":"ddpm","steps":3,"betas":[0.1,0.2,0.3]}"#).unwrap();
    close(listed.alpha(1.0).powi(2), 0.9 * 0.8 * 0.7, 1e-12);
    let error = build(r#"{"type":"ddpm","steps":2,"betas":[0.1,0.2,0.3]}"#).unwrap_err().to_string();
    assert!(error.contains("process.betas") && error.contains("3 is not"), "{error}");
    assert!(build(r#"{"type":"ddpm","steps":2,"betas":[0.1,1.2]}"#).is_err());
    assert!(build(r#"{"type":"ddpm","terminal_alpha_bar":1.0}"#).is_err());
}

#[test]
fn a_table_without_terminal_signal_is_finite_up_to_its_end() {
    let table = alpha_bar(BetaSchedule::Linear, 1000, 1e-4, 0.02);
    let rescaled = without_terminal_signal(&table, 0.0);
    close(rescaled[0], table[0], 1e-12);
    let (first, end) = (table[0].sqrt(), table[999].sqrt());
    close(rescaled[500].sqrt(), (table[500].sqrt() - end) * first / (first - end), 1e-12);
    let process = Discrete::new(rescaled.clone()).unwrap();
    let (last, before) = (Point::new(&process, 1.0), Point::new(&process, 0.999));
    assert_eq!((last.alpha, last.sigma, last.lambda), (0.0, 1.0, f64::NEG_INFINITY));
    close(before.alpha, rescaled[998].sqrt(), 1e-12);
    // Between the last two entries alpha is linear, and the derivatives are finite at the very end.
    let middle = Point::new(&process, 0.9995);
    close(middle.alpha, 0.5 * before.alpha, 1e-9);
    close(middle.dalpha, -1000.0 * before.alpha, 1e-9);
    close(last.dalpha, -1000.0 * before.alpha, 1e-9);
    assert_eq!(last.dsigma, 0.0);
    for t in [0.3, 0.999, 0.9993, 0.99999] {
        close(process.t_of_lambda(process.lambda(t)).unwrap(), t, 1e-9);
    }
    // Sampling starts where there is signal enough, unless it is told to start at the end.
    assert!(process.span().max < 1.0);
    let floor = Discrete::new(without_terminal_signal(&table, 2f64.powi(-24))).unwrap();
    close(Point::new(&floor, 1.0).rho(), (2f64.powi(24) - 1.0).sqrt(), 1e-9);
}

#[test]
fn the_hopeless_tail_of_the_cosine_table_is_not_sampled_from() {
    let spec: ProcessSpec = serde_json::from_str(r#"{"type":"ddpm","schedule":"cosine"}"#).unwrap();
    let process = spec.build().unwrap();
    let max = process.span().max;
    assert!(max < 1.0 && process.lambda(max) >= -5.1 && process.lambda(max + 1e-3) < -5.1);
}

#[test]
fn specs_round_trip_and_refuse_unknown_keys() {
    let spec: ProcessSpec = serde_json::from_str(r#"{"type":"vp","beta_max":15.0}"#).unwrap();
    assert_eq!(spec, ProcessSpec::Vp { beta_min: 0.1, beta_max: 15.0 });
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<ProcessSpec>(&text).unwrap(), spec);
    for bad in [r#"{"type":"vp","beta":1.0}"#, r#"{"type":"flow","x":1.0}"#, r#"{"type":"vpx"}"#] {
        assert!(serde_json::from_str::<ProcessSpec>(bad).is_err(), "{bad}");
    }
    let flow: ProcessSpec = serde_json::from_str(r#"{"type":"trig-flow"}"#).unwrap();
    assert_eq!(flow.name(), ProcessName::TrigFlow);
    let error = ProcessSpec::Ve { sigma_min: 2.0, sigma_max: 1.0 }.build().unwrap_err().to_string();
    assert!(error.contains("sigma_min = 2"), "{error}");
}

//! State-space layers against dense recurrences and printed numbers.

#![allow(clippy::unwrap_used)] // unwrap: a failing test is to panic

use std::collections::BTreeMap;

use genlib::math::{hippo, solve};
use genlib::net::layers::ssm::{Discretisation, DtTransform, RealTransform, S4, S4Config, SsmMode};
use genlib::net::store::Store;
use genlib::torch::shim::{Autocast, Generator};
use tch::{Device, Kind, Tensor};

fn layer(config: &S4Config, kind: Kind, seed: u64) -> (Store, S4) {
    let store = Store::new(Device::Cpu, kind, seed);
    let layer = S4::new(&store.root(), config).unwrap();
    (store, layer)
}

fn set(store: &Store, name: &str, values: &[f64]) {
    let _guard = tch::no_grad_guard();
    let mut t = store.get(name).unwrap();
    t.copy_(&Tensor::from_slice(values).reshape(t.size()));
}

fn values(t: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(t.to_kind(Kind::Double).contiguous().flatten(0, -1)).unwrap()
}

fn close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() < tolerance, "{i}: {got} {want}");
    }
}

fn noise(seed: u64, shape: &[i64]) -> Tensor {
    Generator::new(seed).unwrap().normal(shape, Kind::Double).unwrap()
}

fn gap(got: &Tensor, want: &Tensor) -> f64 {
    let want = want.to_kind(Kind::Double);
    (got.to_kind(Kind::Double) - &want).abs().max().double_value(&[]) / want.abs().max().double_value(&[])
}

/// One feature, dt = 0.1, order 4.
fn small(mode: SsmMode, init: &str, disc: Discretisation) -> S4Config {
    S4Config {
        d_model: 1,
        d_state: 4,
        mode,
        init: init.to_owned(),
        disc: Some(disc),
        dt_transform: DtTransform::Exp,
        b_clip: 0.0,
        ..S4Config::default()
    }
}

/// LegS of order 4 with C = ones in the original basis: C follows from the powers of A on B, which both bases share.
fn legs_with_ones(disc: Discretisation, kind: Kind) -> (Store, S4) {
    let (store, layer) = layer(&small(SsmMode::Dplr, "legs", disc), kind, 0);
    set(&store, "kernel.inv_dt", &[0.1f64.ln()]);
    let h = hippo::legs(4);
    let apply =
        |v: &[f64]| -> Vec<f64> { (0..4).map(|i| (0..4).map(|j| h.a[i * 4 + j] * v[j]).sum()).collect() };
    let mut powers = vec![h.b.clone()];
    for k in 0..3 {
        powers.push(apply(&powers[k]));
    }
    let rows: Vec<Vec<f64>> = (0..4).map(|i| powers.iter().map(|p| p[i]).collect()).collect();
    let weights = solve(&rows, &[1.0; 4]).unwrap();
    let get = |name: &str| values(&store.get(name).unwrap());
    let (re, im, b, p) = (get("kernel.A_real"), get("kernel.A_imag"), get("kernel.B"), get("kernel.P"));
    // v -> (Lambda - P P^*) v on the stored half.
    let mut v: Vec<(f64, f64)> = (0..2).map(|n| (b[2 * n], b[2 * n + 1])).collect();
    let mut c = vec![0.0; 4];
    for weight in weights {
        for n in 0..2 {
            c[2 * n] += weight * v[n].0;
            c[2 * n + 1] -= weight * v[n].1; // conjugated: a row
        }
        let dot: f64 = (0..2).map(|n| 2.0 * (p[2 * n] * v[n].0 + p[2 * n + 1] * v[n].1)).sum();
        v = (0..2)
            .map(|n| {
                let a = (-re[n].exp(), -im[n]);
                (
                    a.0 * v[n].0 - a.1 * v[n].1 - p[2 * n] * dot,
                    a.0 * v[n].1 + a.1 * v[n].0 - p[2 * n + 1] * dot,
                )
            })
            .collect();
    }
    set(&store, "kernel.C", &c);
    (store, layer)
}

const LEGS_BILINEAR: [f64; 8] =
    [0.5470522, 0.22343937, 0.06399393, -0.00459942, -0.02562155, -0.02392916, -0.01325228, -0.00073676];

#[test]
fn the_legs_kernel_has_its_printed_values() {
    let (_store, layer) = legs_with_ones(Discretisation::Bilinear, Kind::Double);
    close(&values(&layer.kernel(8, 1.0).unwrap()), &LEGS_BILINEAR, 1e-8);
    let (_store, layer) = legs_with_ones(Discretisation::Zoh, Kind::Double);
    let want =
        [0.52993287, 0.22122166, 0.06768143, 0.00057333, -0.02090998, -0.02035102, -0.01087185, 0.00063304];
    close(&values(&layer.kernel(8, 1.0).unwrap()), &want, 1e-8);
}

#[test]
fn the_cauchy_form_is_the_dense_kernel() {
    let (store, layer) = legs_with_ones(Discretisation::Bilinear, Kind::Double);
    let cauchy = layer.kernel_by_cauchy(16, 1.0).unwrap().unwrap();
    close(&values(&cauchy)[..8], &LEGS_BILINEAR, 1e-8);
    close(&values(&cauchy), &values(&layer.kernel(16, 1.0).unwrap()), 1e-15);
    // Without the correction for the length the infinite kernel wraps around.
    let complex = |name: &str| store.get(name).unwrap().view_as_complex();
    let a = Tensor::complex(
        &store.get("kernel.A_real").unwrap().exp().neg(),
        &store.get("kernel.A_imag").unwrap().neg(),
    );
    let dt = store.get("kernel.inv_dt").unwrap().exp();
    let b = complex("kernel.B").select(0, 0);
    let wrapped =
        genlib::net::layers::ssm::cauchy(&a, &b, &complex("kernel.C"), &complex("kernel.P"), &dt, 16)
            .unwrap();
    close(&values(&wrapped)[..2], &[0.56370875, 0.23729745], 1e-8);
}

#[test]
fn kernels_in_f32_are_close_to_the_dense_one_in_f64() {
    let config = S4Config { d_model: 2, dt_min: 0.01, dt_max: 0.01, ..S4Config::default() };
    let (wide, exact) = layer(&config, Kind::Double, 3);
    let narrow = Store::new(Device::Cpu, Kind::Float, 3);
    let layer = S4::new(&narrow.root(), &config).unwrap();
    // The same numbers in both.
    wide.load(&narrow.named().into_iter().collect(), "f32").unwrap();
    for len in [256, 1024, 4096] {
        let want = exact.kernel(len, 1.0).unwrap();
        let (powers, cauchy) =
            (layer.kernel(len, 1.0).unwrap(), layer.kernel_by_cauchy(len, 1.0).unwrap().unwrap());
        let in_double = exact.kernel_by_cauchy(len, 1.0).unwrap().unwrap();
        assert!(gap(&powers, &want) < 1e-7, "{len}: {}", gap(&powers, &want));
        assert!(gap(&cauchy, &want) < 2e-6, "{len}: {}", gap(&cauchy, &want));
        assert!(gap(&in_double, &want) < 1e-11, "{len}: {}", gap(&in_double, &want));
        println!("{len}: powers {:.1e}, Cauchy {:.1e}", gap(&powers, &want), gap(&cauchy, &want));
    }
}

/// A diagonal layer of two modes with given C, and optionally A.
fn s4d(init: &str, disc: Discretisation, c: [f64; 4]) -> (Store, S4) {
    let (store, layer) = layer(&small(SsmMode::S4d, init, disc), Kind::Double, 0);
    set(&store, "kernel.inv_dt", &[0.1f64.ln()]);
    set(&store, "kernel.C", &c);
    (store, layer)
}

/// The layer of item 5: a = -1/2, -1/2 + i pi. Stored with negative imaginary parts, so C is conjugated; the zero
/// mode is stored as 1e-4, here it is to be 0.
fn item_5(disc: Discretisation) -> (Store, S4) {
    let (store, layer) = s4d("lin", disc, [1.0, 0.0, 0.5, 0.25]);
    set(&store, "kernel.A_imag", &[0.0, std::f64::consts::PI]);
    (store, layer)
}

#[test]
fn diagonal_kernels_have_their_printed_values() {
    let zoh =
        [0.29858192, 0.28887565, 0.26978667, 0.24318799, 0.21153261, 0.17756206, 0.14401524, 0.11336531];
    let bilinear =
        [0.29774827, 0.28828588, 0.26961923, 0.24352948, 0.21237129, 0.17879592, 0.14547226, 0.1148322];
    for (disc, want) in [(Discretisation::Zoh, zoh), (Discretisation::Bilinear, bilinear)] {
        let (_store, layer) = item_5(disc);
        close(&values(&layer.kernel(8, 1.0).unwrap()), &want, 1e-8);
        // The sum of the whole kernel does not depend on the step size.
        let sum: f64 = values(&layer.kernel(2000, 1.0).unwrap()).iter().sum();
        assert!((sum - 4.204632142198363).abs() < 1e-12, "{sum}");
    }
    let lin =
        [0.38701121, 0.35034119, 0.30098495, 0.24402016, 0.18480892, 0.12845668, 0.07934722, 0.04079088];
    let inv =
        [0.38545605, 0.34032654, 0.27709322, 0.20499048, 0.13363836, 0.07166671, 0.02560788, -0.00081288];
    let legs =
        [0.38333283, 0.32692744, 0.2464416, 0.15832562, 0.07899962, 0.02157548, -0.00644726, -0.00414243];
    for (init, want) in [("lin", lin), ("inv", inv), ("diag-legs", legs)] {
        let (store, layer) = s4d(init, Discretisation::Zoh, [1.0, 0.0, 1.0, 0.0]);
        set(&store, "kernel.B", &[1.0, 0.0, 1.0, 0.0]);
        if init == "lin" {
            set(&store, "kernel.A_imag", &[0.0, std::f64::consts::PI]);
        }
        close(&values(&layer.kernel(8, 1.0).unwrap()), &want, 1e-8);
    }
}

#[test]
fn the_published_convolution_and_its_final_state() {
    let (store, layer) = item_5(Discretisation::Zoh);
    set(&store, "D", &[0.5]);
    let u = Tensor::from_slice(&[1f64, -2.0, 3.0, 0.0, 0.0, 1.0, 0.0, -1.0]).reshape([1, 1, 8]);
    let want =
        [0.79858192, -1.30828819, 2.08778112, 0.57024161, 0.53451664, 1.28264273, 0.71236461, -0.17077423];
    let (y, x) = layer.convolve_from(&u, None).unwrap();
    close(&values(&y), &want, 1e-8);
    // Conjugated, as the stored half is the other one.
    close(&values(&x), &[0.14282867, -0.05210855, 0.0, -0.19135397], 1e-8);
}

#[test]
fn halving_the_step_splits_a_zero_order_hold_kernel_in_pairs() {
    for mode in [SsmMode::S4d, SsmMode::Dplr] {
        let config = S4Config {
            d_model: 3,
            d_state: 8,
            mode,
            disc: Some(Discretisation::Zoh),
            init: if mode == SsmMode::S4d { "inv".to_owned() } else { "legs".to_owned() },
            ..S4Config::default()
        };
        let (_store, layer) = layer(&config, Kind::Double, 1);
        let whole = layer.kernel(50, 1.0).unwrap();
        let half = layer.kernel(100, 0.5).unwrap().reshape([1, 3, 50, 2]);
        let pairs = half.sum_dim_intlist([3i64].as_slice(), false, Kind::Double);
        assert!(gap(&pairs, &whole) < 1e-12, "{}", gap(&pairs, &whole));
    }
}

/// Every sort of layer, 16 features.
fn sorts() -> Vec<S4Config> {
    let base = S4Config { d_model: 16, ..S4Config::default() };
    let named = |init: &str, n_ssm| S4Config { init: init.to_owned(), n_ssm, ..base.clone() };
    let s4d = |init: &str, disc| S4Config { mode: SsmMode::S4d, disc: Some(disc), ..named(init, 4) };
    vec![
        base.clone(),
        named("fout", 0),
        S4Config { rank: 2, ..named("legt", 1) },
        S4Config { rank: 3, real_transform: RealTransform::Softplus, ..named("dplr-lin", 2) },
        named("all", 8),
        S4Config { disc: Some(Discretisation::Zoh), d_state: 16, ..base.clone() },
        s4d("lin", Discretisation::Zoh),
        s4d("inv", Discretisation::Bilinear),
        s4d("legs", Discretisation::Zoh),
        S4Config { real_transform: RealTransform::Relu, ..s4d("real", Discretisation::Zoh) },
    ]
}

/// The recurrence in the dtype `kind`, one input after the other, with the dense matrix.
fn stepped(layer: &S4, u: &Tensor, kind: Kind) -> Tensor {
    let system = layer.discrete(1.0).unwrap();
    let m = system.matrix().unwrap().to_kind(kind);
    let b = Tensor::cat(&[system.b.real(), system.b.imag()], -1).to_kind(kind);
    let c = Tensor::cat(&[system.c.real() * 2.0, system.c.imag() * -2.0], -1).to_kind(kind);
    let (size, d) = (u.size(), layer.skip().unwrap());
    let mut x = Tensor::zeros([size[0], size[1], b.size()[1]], (kind, Device::Cpu));
    let mut out = Vec::new();
    for t in 0..size[2] {
        let input = u.select(2, t);
        x = m.matmul(&x.unsqueeze(-1)).squeeze_dim(-1) + &b * input.unsqueeze(-1);
        out.push((&c * &x).sum_dim_intlist([2i64].as_slice(), false, kind) + &d * input);
    }
    Tensor::stack(&out, 2)
}

#[test]
fn convolution_is_recurrence_also_after_a_training_step() {
    for (i, config) in sorts().iter().enumerate() {
        for kind in [Kind::Double, Kind::Float] {
            let (store, layer) = layer(config, kind, 5);
            let u = noise(1, &[2, 16, 200]).to_kind(kind);
            let limit = if kind == Kind::Double { 1e-8 } else { 2e-5 };
            for round in 0..2 {
                let want = tch::no_grad(|| stepped(&layer, &u, kind));
                let got = layer.convolve(&u).unwrap();
                assert!(gap(&got, &want) < limit, "{i} {kind:?} {round}: {}", gap(&got, &want));
                if round == 0 {
                    got.square().mean(kind).backward();
                    tch::no_grad(|| {
                        for (name, mut p) in store.trainable() {
                            let grad = p.grad();
                            assert!(
                                grad.defined() && grad.isfinite().all().int64_value(&[]) == 1,
                                "{i} {name}"
                            );
                            p.copy_(&(&p - grad.sign() * 1e-2));
                        }
                    });
                }
            }
        }
    }
}

#[test]
fn long_convolutions_in_f32_agree_with_the_recurrence() {
    for (mode, init) in [(SsmMode::S4d, "lin"), (SsmMode::Dplr, "legs")] {
        let config = S4Config { d_model: 16, mode, init: init.to_owned(), n_ssm: 0, ..S4Config::default() };
        let (_store, layer) = layer(&config, Kind::Float, 2);
        let _guard = tch::no_grad_guard();
        for len in [1024, 8192] {
            let u = noise(7, &[1, 16, len]).to_kind(Kind::Float);
            let (got, want) = (layer.convolve(&u).unwrap(), stepped(&layer, &u, Kind::Float));
            println!("{mode:?} {len}: {:.1e}", gap(&got, &want));
            assert!(gap(&got, &want) < 2e-5, "{mode:?} {len}: {}", gap(&got, &want));
        }
    }
}

#[test]
fn pieces_with_carried_states_make_the_whole() {
    let _guard = tch::no_grad_guard();
    for (i, config) in sorts().iter().enumerate() {
        let (_store, layer) = layer(config, Kind::Double, 5);
        let u = noise(3, &[2, 16, 100]);
        let want = layer.convolve(&u).unwrap();
        let (mut x, mut from, mut pieces) = (None, 0, Vec::new());
        for n in [37, 1, 62] {
            let (y, state) = layer.convolve_from(&u.narrow(2, from, n), x.as_ref()).unwrap();
            pieces.push(y);
            (x, from) = (Some(state), from + n);
        }
        let got = Tensor::cat(&pieces, 2);
        assert!(gap(&got, &want) < 1e-11, "{i}: {}", gap(&got, &want));
    }
}

#[test]
fn gradients_are_those_of_differences() {
    for config in [&sorts()[0], &sorts()[2], &sorts()[6]] {
        let config = S4Config { d_model: 2, d_state: 8, n_ssm: 1, ..config.clone() };
        let (store, layer) = layer(&config, Kind::Double, 9);
        let (u, w) = (noise(4, &[1, 2, 40]), noise(5, &[1, 2, 40]));
        let loss = || (layer.convolve(&u).unwrap() * &w).sum(Kind::Double);
        loss().backward();
        for (name, p) in store.trainable() {
            let grad = p.grad();
            let direction = noise(6, &p.size());
            let want = (&grad * &direction).sum(Kind::Double).double_value(&[]);
            let at = |e: f64| {
                tch::no_grad(|| {
                    let mut p = p.shallow_clone();
                    let before = p.copy();
                    p.copy_(&(&before + &direction * e));
                    let out = loss().double_value(&[]);
                    p.copy_(&before);
                    out
                })
            };
            let got = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((got - want).abs() < 1e-6 * (1.0 + want.abs()), "{name}: {got} {want}");
        }
    }
}

#[test]
fn the_hurwitz_form_is_stable_and_the_free_one_is_not() {
    // Lambda + p q^* with free p and q may diverge ...
    let eigenvalues = |re: [[f64; 2]; 2]| {
        let m = Tensor::complex(
            &Tensor::from_slice(re.as_flattened()).reshape([2, 2]),
            &Tensor::from_slice(&[1f64, 0.0, 0.0, -1.0]).reshape([2, 2]),
        );
        m.linalg_eigvals().real().max().double_value(&[])
    };
    assert!((eigenvalues([[0.3, 0.8], [0.8, 0.3]]) - 0.3).abs() < 1e-12);
    // ... Lambda - p p^* cannot.
    assert!((eigenvalues([[-1.5, -1.0], [-1.0, -1.5]]) + 1.5).abs() < 1e-6);
    // 1000 random systems: all powers of the recurrence stay bounded by a contraction.
    for seed in 0..20 {
        let config = S4Config {
            d_model: 50,
            d_state: 8,
            n_ssm: 0,
            rank: 1 + i64::from(seed % 2 == 1),
            init: "dplr-rand".to_owned(),
            dt_min: 1e-3,
            dt_max: 1.0,
            ..S4Config::default()
        };
        let (store, layer) = layer(&config, Kind::Double, seed);
        tch::no_grad(|| {
            for name in ["kernel.A_real", "kernel.A_imag", "kernel.P"] {
                let mut t = store.get(name).unwrap();
                let drawn = noise(seed + 100, &t.size()) * 3.0;
                t.copy_(&drawn);
            }
            let m = layer.discrete(1.0).unwrap().matrix().unwrap();
            let radius = m.linalg_eigvals().abs().max().double_value(&[]);
            assert!(radius < 1.0, "{seed}: {radius}");
        });
    }
}

#[test]
fn layers_compute_in_f32_under_autocast() {
    let config = S4Config { d_model: 4, ..S4Config::default() };
    let (_store, layer) = layer(&config, Kind::Float, 1);
    let _guard = tch::no_grad_guard();
    let u = noise(1, &[1, 4, 64]).to_kind(Kind::Float);
    let want = layer.convolve(&u).unwrap();
    let _cast = Autocast::to(Kind::BFloat16, false).unwrap();
    let got = layer.convolve(&u).unwrap();
    assert!(got.kind() == Kind::Float && gap(&got, &want) < 1e-6);
}

#[test]
fn names_shapes_and_groups_are_those_of_the_published_files() {
    let config = S4Config { d_model: 8, d_state: 4, n_ssm: 2, bidirectional: true, ..S4Config::default() };
    let (store, _layer) = layer(&config, Kind::Float, 1);
    let shapes: BTreeMap<String, Vec<i64>> = store.named().into_iter().map(|(n, t)| (n, t.size())).collect();
    let want: [(&str, &[i64]); 7] = [
        ("D", &[1, 8]),
        ("kernel.A_imag", &[2, 2]),
        ("kernel.A_real", &[2, 2]),
        ("kernel.B", &[1, 2, 2, 2]),
        ("kernel.C", &[2, 8, 2, 2]),
        ("kernel.P", &[1, 2, 2, 2]),
        ("kernel.inv_dt", &[8, 1]),
    ];
    assert_eq!(shapes, want.iter().map(|(n, s)| ((*n).to_owned(), s.to_vec())).collect());
    for ((name, _), group) in store.trainable().iter().zip(store.groups()) {
        let own = !["D", "kernel.C"].contains(&name.as_str());
        assert_eq!(
            (group.lr, group.weight_decay),
            if own { (Some(1e-3), Some(0.0)) } else { (None, None) },
            "{name}"
        );
    }
    let bad = S4Config { d_state: 7, ..config };
    assert!(S4::new(&Store::empty(Device::Cpu, Kind::Float).root(), &bad).is_err());
}

//! Values of the metrics that were computed independently in f64, and what easy mistakes would give.

#![allow(clippy::unwrap_used, missing_docs)]

use genlib::math::rng::SplitMix64;
use genlib::metric::extra::{approximate_sw2, at_infinity, mind, vendi};
use genlib::metric::frechet::{Gaussian, Moments, Route, distance, trace_root};
use genlib::metric::frechet_features::distance_low_rank;
use genlib::metric::inception_score::{IsOrder, inception_score};
use genlib::metric::kid::{KidOptions, kid_subsets};
use genlib::metric::mmd::unbiased_mmd2;
use genlib::metric::nn_two_sample::nn_two_sample;
use genlib::metric::prdc::{PrdcOptions, prdc};
use tch::{Device, Kind, Tensor};

fn uniform(seed: u64, n: i64, d: i64) -> Tensor {
    let mut stream = SplitMix64::new(seed);
    let values: Vec<f64> = (0..n * d).map(|_| stream.uniform24()).collect();
    Tensor::from_slice(&values).view([n, d])
}

fn matrix(values: &[f64], n: i64) -> Tensor {
    Tensor::from_slice(values).view([n, -1])
}

fn gaussian(mean: &[f64], cov: &[f64]) -> Gaussian {
    let d = mean.len() as i64;
    Gaussian { n: None, mean: Tensor::from_slice(mean), cov: matrix(cov, d) }
}

#[track_caller]
fn close(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "got {got}, want {want} within {tolerance}");
}

/// The two sets of case F6.
fn a_and_b() -> (Tensor, Tensor) {
    (uniform(1, 40, 8), uniform(2, 50, 8).square())
}

#[test]
fn the_number_source_is_the_documented_one() {
    let (a, b) = a_and_b();
    close(a.sum(Kind::Double).double_value(&[]), 154.2972091436386, 1e-10);
    close(b.sum(Kind::Double).double_value(&[]), 125.99938202824396, 1e-10);
}

#[test]
fn frechet_distances_of_given_gaussians() {
    let fd = |a: &Gaussian, b: &Gaussian| distance(a, b).unwrap();
    // F1 to F3, F5.
    close(fd(&gaussian(&[0.], &[1.]), &gaussian(&[3.], &[4.])), 10.0, 1e-12);
    let diagonal = |v: [f64; 3]| [v[0], 0., 0., 0., v[1], 0., 0., 0., v[2]];
    let d1 = gaussian(&[0., 0., 0.], &diagonal([1., 4., 9.]));
    let d2 = gaussian(&[1., 2., 3.], &diagonal([4., 9., 16.]));
    close(fd(&d1, &d2), 17.0, 1e-12);
    let g1 = gaussian(&[1., -1.], &[2., 1., 1., 2.]);
    let g2 = gaussian(&[0., 0.5], &[3., -1., -1., 1.]);
    close(fd(&g1, &g2), 4.647279504456862, 1e-12);
    close(fd(&g1, &gaussian(&[1., -1.], &[18., 9., 9., 18.])), 16.0, 1e-12);
    // F4: both covariances have rank one; adding anything to the diagonal would change the value.
    let (v, w) = ([1., 2., 2.], [2., -1., 2.]);
    let outer = |v: [f64; 3]| -> Vec<f64> { v.iter().flat_map(|a| v.map(|b| a * b)).collect() };
    let zero = [0., 0., 0.];
    close(fd(&gaussian(&zero, &outer(v)), &gaussian(&zero, &outer(w))), 10.0, 1e-12);
    // F10.
    close(fd(&g1, &g2) - fd(&g2, &g1), 0.0, 1e-10);
    close(fd(&g1, &g1), 0.0, 1e-10);
}

#[test]
fn frechet_distances_of_samples() {
    let (a, b) = a_and_b();
    let fd =
        |x: &Tensor, y: &Tensor| distance(&Gaussian::fit(x).unwrap(), &Gaussian::fit(y).unwrap()).unwrap();
    close(fd(&a, &b), 0.3167876923947688, 1e-12);
    close(distance_low_rank(&a, &b).unwrap(), 0.3167876923947688, 1e-12);
    // F7: fewer samples than features.
    let (few_a, few_b) = (a.narrow(0, 0, 5), b.narrow(0, 0, 6));
    assert!(Gaussian::fit(&few_a).unwrap().rank_deficient());
    close(fd(&few_a, &few_b), 0.95349296, 1e-8);
    close(fd(&few_a, &few_b), distance_low_rank(&few_a, &few_b).unwrap(), 1e-12);
    close(distance_low_rank(&few_a, &few_b).unwrap(), 0.95349296, 1e-8);
    // F8: a large common offset.
    close(fd(&(&a + 10_000.), &(&b + 10_000.)), 0.3167876923947688, 1e-8);
    // F9: a rotation of both.
    let q = Tensor::linalg_qr(&uniform(3, 8, 8), "reduced").0;
    close(fd(&a.matmul(&q), &b.matmul(&q)), fd(&a, &b), 1e-10);
    close(fd(&b, &a), fd(&a, &b), 1e-10);
    close(fd(&a, &a), 0.0, 1e-10);
}

#[test]
fn both_routes_give_one_trace() {
    let (a, b) = a_and_b();
    let (s1, s2) = (Gaussian::fit(&a).unwrap().cov, Gaussian::fit(&b).unwrap().cov);
    let (first, route) = trace_root(&s1, &s2, Route::Cholesky).unwrap();
    assert_eq!(route, Route::Cholesky);
    close(first, trace_root(&s1, &s2, Route::Factors).unwrap().0, 1e-12);
    // Not positive definite: Cholesky fails and the other route answers.
    let singular = Tensor::zeros([8, 8], (Kind::Double, Device::Cpu));
    assert_eq!(trace_root(&singular, &s2, Route::Cholesky).unwrap(), (0.0, Route::Factors));
}

#[test]
fn moments_do_not_depend_on_batches_or_shards() {
    let (a, _) = a_and_b();
    let whole = Gaussian::fit(&a).unwrap();
    let shards: Vec<Moments> = [0i64, 13, 14, 40]
        .windows(2)
        .map(|w| {
            let mut m = Moments::new();
            // One row at a time.
            (w[0]..w[1]).for_each(|i| m.update(&a.narrow(0, i, 1)).unwrap());
            m
        })
        .collect();
    let mut sum = Moments::new();
    shards.iter().for_each(|m| sum.merge(m).unwrap());
    sum.merge(&Moments::new()).unwrap();
    let merged = sum.finish().unwrap();
    assert_eq!(merged.n, Some(40));
    for (x, y) in [(&merged.mean, &whole.mean), (&merged.cov, &whole.cov)] {
        close((x - y).abs().max().double_value(&[]), 0.0, 1e-14);
    }
    // The first shard is as it was before the merge.
    assert_eq!(shards[0].finish().unwrap().n, Some(13));
    let alone = Gaussian::fit(&a.narrow(0, 0, 13)).unwrap();
    close((shards[0].finish().unwrap().cov - alone.cov).abs().max().double_value(&[]), 0.0, 1e-14);
    assert!(Moments::new().finish().is_err());
    assert!(sum.update(&Tensor::zeros([1, 7], (Kind::Float, Device::Cpu))).is_err());
}

#[test]
fn damaged_statistics_are_errors() {
    let good = gaussian(&[0., 0.], &[1., 0., 0., 1.]);
    let nan = gaussian(&[0., 0.], &[1., f64::NAN, f64::NAN, 1.]);
    assert!(distance(&good, &nan).is_err());
    assert!(distance(&good, &gaussian(&[0.], &[1.])).unwrap_err().to_string().contains("2 and 1"));
    let mut moments = Moments::new();
    moments.update(&matrix(&[0., 1., f64::NAN, 2.], 2)).unwrap();
    assert!(moments.finish().is_err());
}

#[test]
fn sampling_bias_is_that_of_theory() {
    // E[FD] = (1/n + 1/m)(d + d (d + 1) / 4) for two samples of one N(0, I); Box-Muller on the stream.
    let mut stream = SplitMix64::new(11);
    let mut normal = |n: usize, d: usize| {
        let values: Vec<f64> = (0..n * d)
            .map(|_| {
                let (u, v) = (1.0 - stream.uniform24(), stream.uniform24());
                (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
            })
            .collect();
        matrix(&values, n as i64)
    };
    let mut mean = |n: usize| {
        let mut sum = 0.0;
        for _ in 0..8 {
            let (x, y) = (normal(n, 16), normal(n, 16));
            sum += distance(&Gaussian::fit(&x).unwrap(), &Gaussian::fit(&y).unwrap()).unwrap();
        }
        sum / 8.0
    };
    // Spread of one run about 0.029; of the mean of 8, 0.010: five of those.
    close(mean(500), 0.336, 0.05);
    close(mean(2000), 0.084, 0.0125);
}

#[test]
fn extrapolation_finds_the_line() {
    let points: Vec<(usize, f64)> = (0..15)
        .map(|i| (5000.0 + 45_000.0 * f64::from(i) / 14.0) as usize)
        .map(|n| (n, 3.0 + 500.0 / n as f64))
        .collect();
    let (intercept, slope) = at_infinity(&points).unwrap();
    close(intercept, 3.0, 1e-10);
    close(slope, 500.0, 1e-6);
    assert!(at_infinity(&points[..1]).is_err());
}

#[test]
fn inception_scores() {
    let is = |p: &Tensor, splits| inception_score(p, splits, IsOrder::Sequential).unwrap();
    let one_hot = Tensor::eye(7, (Kind::Double, Device::Cpu)) * 1000.0;
    close(is(&one_hot, 1).mean, 7.0, 1e-12);
    close(is(&Tensor::ones([6, 5], (Kind::Float, Device::Cpu)), 2).mean, 1.0, 1e-12);
    close(is(&matrix(&[0.9, 0.1, 0.1, 0.9], 2).log(), 1).mean, 1.4449348111684153, 1e-12);
    let p = matrix(&[0.7, 0.2, 0.1, 0.1, 0.8, 0.1, 0.25, 0.25, 0.5, 0.6, 0.3, 0.1], 4).log();
    close(is(&p, 1).mean, 1.2335550096810743, 1e-12);
    close(is(&p, 2).mean, f64::midpoint(1.249724573995842, 1.1174366312550812), 1e-12);
    let z = uniform(8, 24, 10) * 4.0;
    for (splits, mean, std) in [
        (1, 1.536310053144295, 0.0),
        (3, 1.4986568642694358, 0.04572302800078335),
        (5, 1.4736430419571787, 0.09795174856149501),
        (10, 1.3317624408971365, 0.09075097688613772),
    ] {
        close(is(&z, splits).mean, mean, 1e-12);
        close(is(&z, splits).std, std, 1e-12);
    }
    let shuffled = inception_score(&z, 5, IsOrder::Shuffled).unwrap();
    close(shuffled.mean, 1.4301842885423237, 1e-12);
    close(shuffled.std, 0.08604634792562964, 1e-12);
    assert!(inception_score(&z, 25, IsOrder::Sequential).is_err());
}

#[test]
fn kernel_distances() {
    let x = matrix(&[0., 0., 1., 0., 0., 1.], 3);
    let y = matrix(&[1., 1., 2., 0., 0., 2.], 3);
    close(unbiased_mmd2(&x, &y, 10).unwrap(), 0.5, 1e-13);
    let (a, b) = a_and_b();
    let b40 = b.narrow(0, 0, 40);
    for block in [1, 7, 10_000] {
        close(unbiased_mmd2(&a, &b, block).unwrap(), 0.13629582177706823, 1e-13);
        close(unbiased_mmd2(&a, &b40, block).unwrap(), 0.12227815282143739, 1e-13);
        close(unbiased_mmd2(&a, &a, block).unwrap(), -0.020604602, 1e-9);
    }
    let whole = kid_subsets(&a, &b40, &KidOptions { subsets: 5, size: 40, seed: 2020 }).unwrap();
    close(whole.mean, 0.12227815282143739, 1e-12);
    assert!(whole.std < 1e-12);
    let subsets = kid_subsets(&a, &b, &KidOptions { subsets: 100, size: 20, seed: 2020 }).unwrap();
    close(subsets.mean, 0.13796335295008436, 1e-12);
    close(subsets.std, 0.03827756210931622, 1e-12);
    assert!(kid_subsets(&a, &b, &KidOptions::default()).is_err());
}

/// Precision, recall, density, coverage with one k for all.
fn four(real: &Tensor, fake: &Tensor, k: usize) -> [f64; 4] {
    let results = [1, 7, 10_000].map(|block| {
        let p = prdc(real, fake, &PrdcOptions { pr_k: k, dc_k: k, strict: false, block }).unwrap();
        [p.precision, p.recall, p.density, p.coverage]
    });
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
    results[0]
}

#[track_caller]
fn all(got: [f64; 4], want: [f64; 4]) {
    got.iter().zip(want).for_each(|(g, w)| assert!((g - w).abs() < 5e-7, "got {got:?}, want {want:?}"));
}

#[test]
fn precision_recall_density_coverage() {
    let column = |v: &[f64]| matrix(v, v.len() as i64);
    let (r, g) = (column(&[0., 1., 2., 3., 10.]), column(&[0.5, 1.5, 2.5, 20.]));
    all(four(&r, &g, 1), [0.75, 1.0, 1.5, 0.8]);
    all(four(&r, &g, 2), [0.75, 1.0, 1.125, 1.0]);
    // Ties: `<=` for precision and recall, `<` for density and coverage.
    let (r, g) = (column(&[0., 1., 2., 3.]), column(&[1., 2., 4., 9.]));
    all(four(&r, &g, 1), [0.75, 1.0, 0.5, 0.5]);
    all(four(&r, &g, 2), [0.75, 1.0, 0.625, 1.0]);
    let r = uniform(12, 60, 4);
    let g = uniform(15, 45, 4) * 1.4 - 0.2;
    all(four(&r, &g, 3), [0.733_333_3, 1.0, 0.614_814_8, 0.70]);
    all(four(&r, &g, 5), [0.866_666_7, 1.0, 0.564_444_4, 0.833_333_3]);
    let both = prdc(&r, &g, &PrdcOptions::default()).unwrap();
    let four_of_both = [both.precision, both.recall, both.density, both.coverage];
    all(four_of_both, [0.733_333_3, 1.0, 0.564_444_4, 0.833_333_3]);
    close(both.auth_pct, 62.2222, 1e-4);
    // Swapped arguments swap precision and recall.
    let swapped = prdc(&g, &r, &PrdcOptions::default()).unwrap();
    all([swapped.precision, swapped.recall, 0., 0.], [1.0, 0.733_333_3, 0., 0.]);
    assert!((swapped.density - both.density).abs() > 1e-3);
    assert!(prdc(&r.narrow(0, 0, 5), &g, &PrdcOptions::default()).is_err());
}

#[test]
fn two_sample_accuracy() {
    let column = |v: &[f64]| matrix(v, v.len() as i64);
    close(nn_two_sample(&column(&[0., 1.]), &column(&[10., 11.])).unwrap(), 1.0, 0.0);
    // Copies: each point's nearest other is its copy in the other set.
    let x = column(&[0., 5., 10.]);
    close(nn_two_sample(&x, &(&x + 0.1)).unwrap(), 0.0, 0.0);
    close(nn_two_sample(&column(&[0., 1., 8.]), &column(&[7., 20., 22.])).unwrap(), 4.0 / 6.0, 1e-15);
}

#[test]
fn cheap_extras() {
    let (a, b) = a_and_b();
    close(vendi(&a).unwrap(), 2.6746771153, 1e-9);
    close(vendi(&Tensor::eye(5, (Kind::Float, Device::Cpu))).unwrap(), 5.0, 1e-6);
    close(vendi(&Tensor::ones([9, 4], (Kind::Float, Device::Cpu))).unwrap(), 1.0, 1e-9);
    close(approximate_sw2(&a, &b).unwrap(), 0.17154614815, 1e-10);
    // A shift by v gives 3 |v|^2 in expectation: (v.u)^2 has mean |v|^2 / d and relative deviation below
    // sqrt 2, so 1000 directions give a deviation below 4.5 % of 24: three of those.
    close(mind(&a, &(&a + 1.0), 1000, 0).unwrap(), 24.0, 3.24);
    close(mind(&a, &a, 10, 0).unwrap(), 0.0, 1e-20);
}

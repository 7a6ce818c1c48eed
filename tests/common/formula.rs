//! The Inception network filled by a formula: no weight file is needed to check it.
#![allow(dead_code)]

use std::collections::BTreeMap;

use genlib::math::rng::SplitMix64;
use genlib::metric::inception_weights::shapes;
use tch::Tensor;

/// FNV-1a, 64 bits.
pub fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn fill(name: &str, shape: &[i64]) -> Tensor {
    let mut stream = SplitMix64::new(seed(name));
    let n: i64 = shape.iter().product();
    let fan_in = (n / shape[0]) as f64;
    let value = |u: f64| match name.rsplit_once('.').unwrap() {
        (p, "weight") if p.ends_with(".conv") => (2.0 * u - 1.0) * (6.0 / fan_in).sqrt(),
        (p, "weight") if p.ends_with(".bn") => 0.75 + 0.5 * u,
        (_, "running_var") => 0.5 + u,
        ("fc", "weight") => (2.0 * u - 1.0) * (6f64 / 2048.0).sqrt(),
        ("fc", "bias") => 2.0 * u - 1.0,
        _ => 0.2 * (2.0 * u - 1.0),
    };
    let values: Vec<f32> = (0..n).map(|_| value(stream.uniform24()) as f32).collect();
    Tensor::from_slice(&values).view(shape)
}

pub fn formula() -> BTreeMap<String, Tensor> {
    shapes().into_iter().map(|(name, shape)| (name.clone(), fill(&name, &shape))).collect()
}

//! The Inception network, checked without any weight file: weights and images come from formulas, the values
//! from an independent implementation in f64.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use genlib::io::bytes::tensor_to_f64;
use genlib::io::safetensors;
use genlib::metric::features::{Extractor, Wanted};
use genlib::metric::inception::{Inception, InceptionExtractor, SIDE};
use genlib::metric::inception_weights::Weights;
use genlib::metric::resize::{Protocol, bicubic, half_pixel_bilinear, tf_bilinear};
use tch::{Device, Kind, Tensor};

use formula::{formula, seed};

#[path = "common/formula.rs"]
mod formula;

/// `v(y, x, c) = (7x + 13y + 29c + 90 ((x/8 + y/8) mod 2)) mod 256`, `[1, 3, h, w]`.
fn image(h: usize, w: usize) -> Tensor {
    let mut values = Vec::new();
    for c in 0..3 {
        for y in 0..h {
            for x in 0..w {
                values.push(((7 * x + 13 * y + 29 * c + 90 * ((x / 8 + y / 8) % 2)) % 256) as u8);
            }
        }
    }
    Tensor::from_slice(&values).view([1, 3, h as i64, w as i64])
}

#[track_caller]
fn near(got: f64, want: f64, relative: f64) {
    assert!((got - want).abs() <= relative * want.abs(), "got {got}, want {want} within {relative:e}");
}

fn sum(t: &Tensor) -> f64 {
    t.to_kind(Kind::Double).sum(Kind::Double).double_value(&[])
}

#[test]
fn images_and_resizing() {
    let small = image(32, 32);
    near(sum(&small), 379_904.0, 0.0);
    let pixel = |x: i64, y: i64| tensor_to_f64(&small.select(3, x).select(2, y)).unwrap();
    assert_eq!((pixel(0, 0), pixel(31, 31)), (vec![0., 29., 58.], vec![108., 137., 166.]));
    near(sum(&Protocol::Tf.prepare(&small, SIDE, SIDE).unwrap()), -9273.277343, 1e-6);
    for (h, w, total, tf, half, clean) in [
        (48, 64, 1_165_568.0, 33_886_465.951, 33_919_363.917, Some(33_922_369.575)),
        (320, 400, 48_975_360.0, 34_206_718.133, 34_206_568.293, None),
    ] {
        let x = image(h, w);
        near(sum(&x), total, 0.0);
        let x = x.to_kind(Kind::Float);
        near(sum(&tf_bilinear(&x, SIDE, SIDE).unwrap()), tf, 1e-8);
        near(sum(&half_pixel_bilinear(&x, SIDE, SIDE).unwrap()), half, 1e-8);
        if let Some(clean) = clean {
            // The reference value is of PIL before clipping; clipping moves a part in 10^5 here at most.
            near(sum(&bicubic(&x, SIDE, SIDE).unwrap()), clean, 1e-4);
        }
    }
}

#[test]
fn activations_of_the_formula_network() {
    assert_eq!(seed("fc.bias"), 0x145e_200a_f8fe_4b85);
    let tensors = formula();
    let head = |name: &str| tensor_to_f64(&tensors[name].flatten(0, -1).narrow(0, 0, 3)).unwrap();
    for (name, want) in [
        ("Conv2d_1a_3x3.conv.weight", [-0.15198445, 0.12142248, -0.30463365]),
        ("fc.bias", [-0.0446974, -0.03853643, -0.43987393]),
    ] {
        head(name).iter().zip(want).for_each(|(got, want)| near(*got, want, 1e-6));
    }
    let net = Inception::new(&Weights::new(tensors).unwrap(), Device::Cpu).unwrap();

    // One pass over four inputs: the network is slow on a CPU.
    let tf = |h, w| Protocol::Tf.prepare(&image(h, w), SIDE, SIDE).unwrap();
    let clean = Protocol::Clean.prepare(&image(32, 32), SIDE, SIDE).unwrap();
    let input = Tensor::cat(&[tf(32, 32), tf(48, 64), tf(320, 400), clean], 0);
    let out = net.forward(&input, Wanted { logits: true, spatial: true }, true).unwrap();
    let first = |t: &Tensor| t.get(0).to_kind(Kind::Double);

    for (map, want) in out.means.unwrap().iter().zip([32.79117382, 118.82156795, 582.95309403]) {
        near(sum(&first(map)), want, 1e-5);
    }
    let pool = first(&out.pool3);
    near(sum(&pool), 2302.55362655, 1e-5);
    near(pool.square().sum(Kind::Double).double_value(&[]).sqrt(), 85.95519062, 1e-5);
    for (i, want) in [
        (0, 1.25634595),
        (1, 0.07447176),
        (2, 0.08864331),
        (3, 2.00597364),
        (100, 0.11896473),
        (1000, 2.03953395),
        (2047, 3.38603469),
    ] {
        near(pool.double_value(&[i]), want, 1e-5);
    }
    let logits = first(out.logits.as_ref().unwrap());
    near(logits.double_value(&[0]), -2.55150681, 1e-5);
    near(sum(&logits), -73.09134447, 1e-5);
    let biased = &logits + net.output_bias().to_kind(Kind::Double);
    near(biased.double_value(&[0]), -2.59620422, 1e-5);
    near(sum(&biased), -74.72168182, 1e-5);

    let spatial = first(out.spatial.as_ref().unwrap());
    assert_eq!(spatial.size(), [2023]);
    near(sum(&spatial), 1660.54630735, 1e-5);
    let weights = Tensor::arange_start(1, 2024, (Kind::Double, Device::Cpu));
    near(sum(&(&spatial * weights)), 1628140.28676, 1e-5);
    let head = tensor_to_f64(&spatial.narrow(0, 0, 8)).unwrap();
    for (got, want) in head.iter().zip([0., 0.37108681, 0.61452379, 0., 0., 0., 0.71177081, 0.84759323]) {
        assert!((got - want).abs() < 1e-5, "{head:?}");
    }

    near(sum(&out.pool3.get(1)), 2591.11146, 1e-5);
    let three = tensor_to_f64(&out.pool3.get(1).narrow(0, 0, 3)).unwrap();
    three.iter().zip([1.37361383, 0.09727902, 0.09320107]).for_each(|(g, w)| near(*g, w, 1e-5));
    near(sum(&out.pool3.get(2)), 3069.13898, 1e-5);
    // Antialiased bicubic; the reference value is of PIL's resize without the clip, which acts at sharp edges.
    let clean = sum(&out.pool3.get(3));
    assert!((clean / 2464.9320 - 1.0).abs() < 5e-3, "{clean}");
}

#[test]
fn a_weight_file_gives_an_extractor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("inception.safetensors");
    safetensors::write(&path, formula(), &BTreeMap::new()).unwrap();
    let extractor = InceptionExtractor::open(&path, Protocol::Tf, Device::Cpu, false).unwrap();
    assert_eq!(extractor.weights_sha256().unwrap().len(), 64);
    // Grey images are repeated; the values of the network on it are those of the RGB image.
    let grey = image(32, 32).narrow(1, 1, 1);
    let both = Tensor::cat(&[grey.shallow_clone(), grey.flip([3])], 0);
    let out = extractor.extract(&both, Wanted::default()).unwrap();
    assert_eq!(out.pool.size(), [2, 2048]);
    let rgb = grey.expand([1, 3, 32, 32], false);
    let one = extractor.extract(&rgb, Wanted::default()).unwrap();
    let gap = (out.pool.get(0) - one.pool.get(0)).abs().max().double_value(&[]);
    assert!(gap < 1e-4, "{gap}");
    // Float images are refused: every protocol starts from bytes.
    assert!(extractor.extract(&rgb.to_kind(Kind::Float), Wanted::default()).is_err());
}

//! The same numbers as pytorch-fid, clean-fid and torch-fidelity on two folders of images of mixed sizes and kinds
//! (`scripts/golden/evaluation.py`), with the Inception network filled by a formula.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use genlib::data::{DataOptions, Dataset};
use genlib::io::bytes::tensor_to_f64;
use genlib::io::safetensors;
use genlib::metric::evaluate::{EvalOptions, MetricKind, Reference, Report, collect, evaluate};
use genlib::metric::features::Wanted;
use genlib::metric::inception::{Inception, InceptionExtractor, Layer};
use genlib::metric::inception_weights::Weights;
use genlib::metric::pil::{bicubic_f32, bicubic_u8};
use genlib::metric::resize::Protocol;
use genlib::metric::suite::Suite;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

#[path = "common/formula.rs"]
mod formula;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/evaluation").join(name)
}

fn golden() -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture("golden.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn folder(name: &str) -> Arc<dyn Dataset> {
    let options = DataOptions { any_size: true, classes: Some(false), ..DataOptions::default() };
    Arc::from(genlib::data::open(&fixture(name), &options).unwrap())
}

fn network(protocol: Protocol) -> InceptionExtractor {
    let net = Inception::new(&Weights::new(formula::formula()).unwrap(), Device::Cpu).unwrap();
    InceptionExtractor::new(net, protocol, None)
}

#[track_caller]
fn close(what: &str, got: f64, want: f64, relative: f64) {
    assert!((got - want).abs() <= relative * want.abs(), "{what}: got {got}, want {want}");
}

/// One pass over a folder, its features against those of a tool.
fn features(extractor: &InceptionExtractor, tool: &str, name: &str, batch: usize) -> Tensor {
    let (set, golden) = (folder(name), golden());
    let all: Vec<usize> = (0..set.len()).collect();
    let options = EvalOptions { batch, ..EvalOptions::default() };
    let pass = collect(&set, &all, extractor, Wanted::default(), true, &options, &mut |_, _| {}).unwrap();
    let features = pass.features.unwrap();
    let columns: Vec<i64> = numbers(&golden["columns"]).into_iter().map(|c| c as i64).collect();
    let rows = golden["tools"][tool][name].as_array().unwrap();
    assert_eq!(rows.len(), set.len());
    for (i, row) in rows.iter().enumerate() {
        let want = numbers(row);
        let got: Vec<f64> = columns.iter().map(|&c| features.double_value(&[i as i64, c])).collect();
        for ((g, w), c) in got.iter().zip(&want).zip(&columns) {
            assert!((g - w).abs() < 1e-4 * w.abs() + 1e-6, "{tool} {name}/{i} {c}: got {g}, want {w}");
        }
    }
    features
}

fn report(x: &Tensor, y: &Tensor, options: &EvalOptions) -> Report {
    // The features are known: a classifier that gives them back evaluates them.
    let set = |n: i64| -> Arc<dyn Dataset> {
        use genlib::data::array::{ArrayDataset, Layout};
        let bytes = (0..n).map(|i| u8::try_from(i).unwrap()).collect::<Vec<u8>>();
        Arc::new(ArrayDataset::new(bytes, Layout::Chw, [1, 1, 1], None).unwrap())
    };
    let table = Tensor::cat(&[x, y], 0);
    let n = x.size()[0];
    let images: Arc<dyn Dataset> = set(n);
    let both = set(n + y.size()[0]);
    let rest =
        genlib::data::subset::Subset::new(both, (n as usize..(n + y.size()[0]) as usize).collect()).unwrap();
    let classifier = move |x: &Tensor| -> genlib::error::Result<(Tensor, Tensor)> {
        let index = ((x + 1.0) * 127.5).round().to_kind(Kind::Int64).flatten(0, -1);
        Ok((table.index_select(0, &index), Tensor::zeros([x.size()[0], 2], (Kind::Float, Device::Cpu))))
    };
    let extractor = genlib::metric::digits::Digits::new(Box::new(classifier), [1, 1, 1], Device::Cpu, None);
    evaluate(&images, Some(&Reference::Images(Arc::new(rest))), &extractor, options, &mut |_, _| {}).unwrap()
}

fn figures(x: &Tensor, y: &Tensor, metrics: &[MetricKind], change: impl Fn(&mut EvalOptions)) -> Report {
    let mut options = EvalOptions { metrics: metrics.iter().copied().collect(), ..EvalOptions::default() };
    change(&mut options);
    report(x, y, &options)
}

#[test]
fn pytorch_fid_and_the_legacy_mode_of_clean_fid() {
    let golden = golden();
    let net = network(Suite::PytorchFid.conventions().protocol);
    let (a, b) = (features(&net, "pytorch-fid", "a", 5), features(&net, "pytorch-fid", "b", 16));
    let got = figures(&a, &b, &[MetricKind::Fid, MetricKind::Kid], |_| {});
    assert!(got.rank_deficient);
    let tools = &golden["tools"];
    close("pytorch-fid", got.fid.unwrap(), tools["pytorch-fid"]["fid"].as_f64().unwrap(), 1e-3);
    let legacy = &tools["clean-fid legacy_pytorch"];
    close("clean-fid", got.fid.unwrap(), legacy["fid"].as_f64().unwrap(), 1e-3);
    close("clean-fid KID", got.kid.unwrap(), legacy["kid"].as_f64().unwrap(), 1e-4);
}

#[test]
fn clean_fid() {
    let golden = golden();
    let net = network(Suite::CleanFid.conventions().protocol);
    let (a, b) = (features(&net, "clean-fid clean", "a", 16), features(&net, "clean-fid clean", "b", 16));
    let got = figures(&a, &b, &[MetricKind::Fid, MetricKind::Kid], |_| {});
    let want = &golden["tools"]["clean-fid clean"];
    close("clean-fid", got.fid.unwrap(), want["fid"].as_f64().unwrap(), 1e-3);
    close("clean-fid KID", got.kid.unwrap(), want["kid"].as_f64().unwrap(), 1e-4);
}

#[test]
fn torch_fidelity() {
    let golden = golden();
    let suite = Suite::TorchFidelity.conventions();
    let net = network(suite.protocol);
    let want = &golden["tools"]["torch-fidelity"];
    let number = |name: &str| want[name].as_f64().unwrap();
    // From the files on: batches of 7 of images of different sizes.
    let metrics = [MetricKind::Fid, MetricKind::Is, MetricKind::Kid, MetricKind::Pr];
    let options = EvalOptions {
        metrics: metrics.into(),
        is_splits: 4,
        is_order: suite.is_order,
        kid_subset_size: Some(10),
        pr_k: suite.pr_k,
        batch: 7,
        ..EvalOptions::default()
    };
    let got = evaluate(&folder("a"), Some(&Reference::Images(folder("b"))), &net, &options, &mut |_, _| {})
        .unwrap();
    close("FID", got.fid.unwrap(), number("frechet_inception_distance"), 1e-3);
    close("KID", got.kid.unwrap(), number("kernel_inception_distance_mean"), 1e-4);
    close("KID std", got.kid_std.unwrap(), number("kernel_inception_distance_std"), 1e-3);
    close("IS", got.is_mean.unwrap(), number("inception_score_mean"), 1e-4);
    close("precision", got.precision.unwrap(), number("precision"), 1e-9);
    close("recall", got.recall.unwrap(), number("recall"), 1e-9);
    assert!(got.notes.iter().any(|n| n.contains("alpha")), "{:?}", got.notes);
    let legacy = &golden["tools"]["clean-fid legacy_tensorflow"];
    close("clean-fid", got.fid.unwrap(), legacy["fid"].as_f64().unwrap(), 1e-3);
    // The other layers.
    let set = folder("a");
    let all: Vec<usize> = (0..4).collect();
    for (layer, name) in [(Layer::First, "a64"), (Layer::Second, "a192"), (Layer::Third, "a768")] {
        let net = network(Protocol::Tf).with_layer(layer);
        let options = EvalOptions::default();
        let pass = collect(&set, &all, &net, Wanted::default(), true, &options, &mut |_, _| {}).unwrap();
        let sums = pass.features.unwrap().sum_dim_intlist(1i64, false, Kind::Double);
        assert_eq!(pass.gaussian.dim(), layer.width());
        for (got, want) in tensor_to_f64(&sums).unwrap().iter().zip(numbers(&want[name])) {
            close(name, *got, want, 1e-3);
        }
    }
}

#[test]
fn pil_resampling_is_that_of_pil() {
    // (24, 100) tells whether rows come first (`scripts/golden/resize.py`).
    let file = safetensors::File::open(&fixture("resize.safetensors")).unwrap();
    let (h, w) = (37usize, 53usize);
    let v = |c: usize, y: usize, x: usize| (7 * x + 13 * y + 29 * c + 90 * ((x / 8 + y / 8) % 2)) % 256;
    let values: Vec<u8> = (0..3 * h * w).map(|i| v(i / (h * w), i / w % h, i % w) as u8).collect();
    let image = Tensor::from_slice(&values).view([1, 3, h as i64, w as i64]);
    for (height, width) in [(24, 20), (60, 80), (37, 100), (11, 53), (24, 100)] {
        let want = file.tensor(&format!("u8-{height}x{width}")).unwrap().permute([2, 0, 1]);
        let got = bicubic_u8(&image, height, width).unwrap().get(0);
        assert!(got.equal(&want), "8 bits, {height} x {width}");
        let want = file.tensor(&format!("f32-{height}x{width}")).unwrap().clamp(0.0, 255.0);
        let got = bicubic_f32(&image, height, width).unwrap().get(0).get(1);
        let gap = (got - want).abs().max().double_value(&[]);
        assert!(gap < 1e-5, "f32, {height} x {width}: {gap}");
    }
}

#[test]
fn jpeg_is_decoded_as_pil_does_but_for_rounding() {
    // The standard leaves the rounding of the inverse transform and the way chroma is enlarged open. Without
    // subsampling decoders differ by a level or two in a few places; with it, at coloured edges, by some more.
    for (i, most, share) in [(0, 2, 0.03), (1, 6, 0.3)] {
        let decode = |name: String| {
            let bytes = std::fs::read(fixture("jpeg").join(name)).unwrap();
            genlib::io::picture::Picture::decode(&bytes).unwrap()
        };
        let (own, pil) = (decode(format!("{i}.jpg")), decode(format!("{i}.png")));
        assert_eq!((own.width, own.height, own.channels), (pil.width, pil.height, pil.channels));
        let gaps: Vec<u8> = own.data.iter().zip(&pil.data).map(|(a, b)| a.abs_diff(*b)).collect();
        let differ = gaps.iter().filter(|&&g| g > 0).count() as f64 / gaps.len() as f64;
        let mean = gaps.iter().map(|&g| f64::from(g)).sum::<f64>() / gaps.len() as f64;
        let fits = gaps.iter().all(|&g| g <= most) && differ < share && mean < 0.5;
        assert!(fits, "{i}: {differ}, {mean}, {:?}", gaps.iter().max());
    }
}

//! Intervals, extrapolation, figures per class, the cache of features, mixed sizes, batches.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::sync::Arc;

use genlib::data::array::{ArrayDataset, Layout};
use genlib::data::{DataOptions, Dataset, Item};
use genlib::error::Result;
use genlib::io::picture::Picture;
use genlib::io::png;
use genlib::math::rng::SplitMix64;
use genlib::metric::evaluate::{EvalOptions, MetricKind, Reference, Report, collect, evaluate};
use genlib::metric::features::{Extractor, Features, Wanted};
use genlib::metric::frechet::{Gaussian, distance};
use genlib::metric::numpy_rng::RandomState;
use genlib::metric::pixel8::Pixel8;
use genlib::metric::resize::Protocol;
use tch::{Kind, Tensor};

/// Images of 8 x 8 grey pixels around a level, with classes 0, 1, 2 in turn.
fn set(seed: u64, n: usize, level: u64) -> ArrayDataset {
    let mut stream = SplitMix64::new(seed);
    let class = |i: usize| (i % 3) as u64;
    let bytes: Vec<u8> = (0..n)
        .flat_map(|i| {
            (0..64).map(|_| (level + 40 * class(i) + stream.next_u64() % 60) as u8).collect::<Vec<_>>()
        })
        .collect();
    let labels = (0..n).map(|i| class(i) as i64).collect();
    ArrayDataset::new(bytes, Layout::Chw, [1, 8, 8], Some(labels)).unwrap()
}

fn run(images: &Arc<dyn Dataset>, real: &Reference, options: &EvalOptions) -> Report {
    evaluate(images, Some(real), &Pixel8, options, &mut |_, _| {}).unwrap()
}

fn sets() -> (Arc<dyn Dataset>, Reference) {
    (Arc::new(set(1, 150, 30)), Reference::Images(Arc::new(set(2, 180, 50))))
}

#[test]
fn intervals_hold_the_figures_and_shrink_with_more_images() {
    let (images, real) = sets();
    let metrics = [MetricKind::Fid, MetricKind::Kid, MetricKind::Prdc, MetricKind::Authpct];
    let options = EvalOptions { metrics: metrics.into(), bootstrap: 60, ..EvalOptions::default() };
    let report = run(&images, &real, &options);
    assert_eq!(report.bootstrap, Some(60));
    for (name, value) in [
        ("fid_ci", report.fid),
        ("kid_full_ci", report.kid_full),
        ("precision_ci", report.precision),
        ("recall_ci", report.recall),
        ("density_ci", report.density),
        ("coverage_ci", report.coverage),
        ("auth_pct_ci", report.auth_pct),
    ] {
        let [low, high] = report.intervals[name];
        assert!(low <= value.unwrap() && value.unwrap() <= high, "{name}: {low} {value:?} {high}");
    }
    let width = |r: &Report| r.intervals["fid_ci"][1] - r.intervals["fid_ci"][0];
    let few = run(&images, &real, &EvalOptions { num: Some(40), ..options.clone() });
    assert!(width(&few) > 1.2 * width(&report), "{} {}", width(&few), width(&report));
    // As JSON the intervals stand beside the figures.
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["fid_ci"].as_array().unwrap().len() == 2 && json.get("intervals").is_none());
    // The same seed gives the same interval.
    assert_eq!(run(&images, &real, &options).intervals, report.intervals);
    // Few images: the distance is found from the features, and is that of the covariances.
    assert!(few.rank_deficient);
}

/// The definition, by hand: Frechet distances of 15 nested subsets, a straight line in 1/N, its value at 0. Few
/// images have more than the first-order bias, so only the order of the two figures is known beside it.
#[test]
fn the_extrapolated_distance_is_the_end_of_the_line() {
    let (fake, real) = (set(5, 900, 50), set(6, 900, 55));
    let features = |set: &ArrayDataset, which: Vec<usize>| {
        let items = genlib::data::loader::to_tensor(set, which).unwrap();
        Pixel8.extract(&items, Wanted::default()).unwrap().pool
    };
    let (x, y) = (features(&fake, (0..900).collect()), features(&real, (0..900).collect()));
    let y = Gaussian::fit(&y).unwrap();
    let order: Vec<i64> = RandomState::new(0).permutation(900).into_iter().map(|i| i as i64).collect();
    // Sums over the points (1/N, FD) of the normal equations.
    let (mut n, mut sx, mut sy, mut sxx, mut sxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for i in 0..15 {
        let size = (90.0 + 810.0 * f64::from(i) / 14.0) as usize;
        let part = x.index_select(0, &Tensor::from_slice(&order[..size]));
        let (u, v) = (1.0 / size as f64, distance(&Gaussian::fit(&part).unwrap(), &y).unwrap());
        (n, sx, sy, sxx, sxy) = (n + 1.0, sx + u, sy + v, sxx + u * u, sxy + u * v);
    }
    let want = (sy * sxx - sx * sxy) / (n * sxx - sx * sx);

    let metrics = [MetricKind::Fid, MetricKind::FdInf];
    let options = EvalOptions { metrics: metrics.into(), ..EvalOptions::default() };
    let report = run(&(Arc::new(fake) as Arc<dyn Dataset>), &Reference::Images(Arc::new(real)), &options);
    let (fid, infinite) = (report.fid.unwrap(), report.fd_inf.unwrap());
    assert!((infinite - want).abs() < 1e-6 * fid, "{infinite} {want}");
    assert!(infinite < fid, "{infinite} {fid}");
}

#[test]
fn figures_of_each_class_are_those_of_its_images() {
    let (images, real) = sets();
    let options = EvalOptions { per_class: true, ..EvalOptions::default() };
    let report = run(&images, &real, &options);
    assert_eq!(report.per_class.len(), 3);
    let one = |set: &ArrayDataset, class: i64| {
        let which: Vec<usize> = (0..set.len()).filter(|&i| set.label(i) == Some(class)).collect();
        let items = genlib::data::loader::to_tensor(set, which).unwrap();
        Gaussian::fit(&Pixel8.extract(&items, Wanted::default()).unwrap().pool).unwrap()
    };
    let (a, b) = (set(1, 150, 30), set(2, 180, 50));
    for found in &report.per_class {
        assert_eq!((found.n, found.n_ref), (50, 60));
        let want = distance(&one(&a, found.class), &one(&b, found.class)).unwrap();
        assert!((found.fid.unwrap() / want - 1.0).abs() < 1e-7, "{found:?} {want}");
    }
    let bare = ArrayDataset::new(vec![0; 640], Layout::Chw, [1, 8, 8], None).unwrap();
    let error =
        evaluate(&(Arc::new(bare) as Arc<dyn Dataset>), Some(&real), &Pixel8, &options, &mut |_, _| {});
    assert!(error.unwrap_err().to_string().contains("no classes"));
}

/// Counts how many images it sees.
#[derive(Debug)]
struct Counted(std::cell::Cell<i64>);

impl Extractor for Counted {
    fn name(&self) -> String {
        "counted".into()
    }
    fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        self.0.set(self.0.get() + images.size()[0]);
        Pixel8.prepare(images)
    }
    fn forward(&self, input: &Tensor, wanted: Wanted) -> Result<Features> {
        Pixel8.forward(input, wanted)
    }
}

fn write_folder(folder: &Path, level: u64) {
    std::fs::create_dir_all(folder).unwrap();
    let images = set(level, 12, level);
    for i in 0..12 {
        let Item { image, .. } = images.get(i).unwrap();
        let picture = Picture::new(8, 8, 1, image).unwrap();
        std::fs::write(folder.join(format!("{i}.png")), png::encode(&picture, &[]).unwrap()).unwrap();
    }
}

#[test]
fn the_cache_saves_the_network_and_notices_changes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("images");
    write_folder(&folder, 30);
    let options = EvalOptions {
        metrics: [MetricKind::Fid, MetricKind::Mmd].into(),
        cache: Some(dir.path().join("cache")),
        ..EvalOptions::default()
    };
    let real = Reference::Images(Arc::new(set(2, 20, 60)));
    let once = |options: &EvalOptions| {
        let extractor = Counted(0.into());
        let open = DataOptions { any_size: true, ..DataOptions::default() };
        let images: Arc<dyn Dataset> = Arc::from(genlib::data::open(&folder, &open).unwrap());
        let report = evaluate(&images, Some(&real), &extractor, options, &mut |_, _| {}).unwrap();
        (report, extractor.0.get())
    };
    let (first, seen) = once(&options);
    assert_eq!(seen, 32);
    let (second, seen) = once(&options);
    assert_eq!(
        (second.fid, second.mmd2, second.list_sha256.clone(), seen),
        (first.fid, first.mmd2, first.list_sha256.clone(), 0)
    );
    // Another subset is another set.
    assert_eq!(once(&EvalOptions { num: Some(10), ..options.clone() }).1, 10);
    // A damaged file is made again, with a word about it.
    for entry in std::fs::read_dir(dir.path().join("cache")).unwrap() {
        std::fs::write(entry.unwrap().path(), b"damaged").unwrap();
    }
    let (third, seen) = once(&options);
    assert_eq!((third.fid, seen), (first.fid, 32));
    assert!(third.notes.iter().any(|n| n.contains("made again")), "{:?}", third.notes);
    // A file that changed is noticed, and nothing else is computed again.
    write_folder(&folder, 90);
    let (fourth, seen) = once(&options);
    assert!(seen == 12 && fourth.fid != first.fid);
    // Without a cache the figures are the same.
    let plain = once(&EvalOptions { cache: None, ..options.clone() });
    assert_eq!((plain.0.fid, plain.1), (fourth.fid, 32));
}

/// Images resized for themselves share batches: features do not depend on the batch, whatever the sizes.
#[test]
fn nothing_depends_on_the_batch() {
    #[derive(Debug)]
    struct Small;
    impl Extractor for Small {
        fn name(&self) -> String {
            "small".into()
        }
        fn any_size(&self) -> bool {
            true
        }
        fn prepare(&self, images: &Tensor) -> Result<Tensor> {
            Protocol::Clean.prepare(images, 8, 8)
        }
        fn forward(&self, input: &Tensor, _: Wanted) -> Result<Features> {
            Ok(Features { pool: input.f_flatten(1, -1)?.f_narrow(1, 0, 16)?, logits: None, spatial: None })
        }
    }
    #[derive(Debug)]
    struct Mixed;
    impl Dataset for Mixed {
        fn len(&self) -> usize {
            50
        }
        fn shape(&self) -> [usize; 3] {
            [1, 9, 9]
        }
        fn get(&self, i: usize) -> Result<Item> {
            let (h, w) = (5 + i % 4, 6 + i % 3);
            let mut stream = SplitMix64::new(i as u64);
            let image = (0..h * w).map(|_| stream.next_u64() as u8).collect();
            Ok(Item { image, shape: [1, h, w], label: None })
        }
        fn label(&self, _: usize) -> Option<i64> {
            None
        }
    }
    let set: Arc<dyn Dataset> = Arc::new(Mixed);
    let all: Vec<usize> = (0..50).collect();
    let pass = |batch: usize, workers: usize| {
        let options = EvalOptions { batch, workers, ..EvalOptions::default() };
        collect(&set, &all, &Small, Wanted::default(), true, &options, &mut |_, _| {}).unwrap()
    };
    let want = pass(50, 1);
    let gap = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
    for (batch, workers) in [(1, 2), (3, 1), (7, 4), (64, 2)] {
        let got = pass(batch, workers);
        assert!(gap(got.features.as_ref().unwrap(), want.features.as_ref().unwrap()) == 0.0);
        assert!(gap(&got.gaussian.cov, &want.gaussian.cov) < 1e-12);
    }
    assert_eq!(want.features.unwrap().kind(), Kind::Float);
}

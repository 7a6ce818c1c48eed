//! The small experiment on deterministic shapes: every row of its table, from memory, a folder of PNG files, a
//! zip archive and an npz file. `scripts/golden/metric_shapes.py` makes the Frechet distances of the table.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use genlib::data::array::{ArrayDataset, Layout};
use genlib::data::{DataOptions, Dataset};
use genlib::io::npy::Dtype;
use genlib::io::picture::Picture;
use genlib::io::{npz, png};
use genlib::math::rng::SplitMix64;
use genlib::metric::evaluate::{
    EvalOptions, MetricKind, Reference, Report, SubsetRule, collect, evaluate, open_reference,
};
use genlib::metric::features::Wanted;
use genlib::metric::pixel8::Pixel8;
use genlib::metric::stats_file::Stats;

const SIDE: usize = 32;
type Image = Vec<u8>; // HWC

fn shape(i: u64) -> Image {
    let mut stream = SplitMix64::new(1000 + i);
    let v: Vec<u64> = (0..9).map(|_| stream.next_u64()).collect();
    let (cx, cy, r) = (8 + v[0] % 16, 8 + v[1] % 16, 3 + v[2] % 6);
    let colour = |k: usize| [v[k], v[k + 1], v[k + 2]].map(|c| (c % 256) as u8);
    let (fore, back) = (colour(3), colour(6));
    (0..SIDE as u64)
        .flat_map(|y| (0..SIDE as u64).map(move |x| (x, y)))
        .flat_map(|(x, y)| if x.abs_diff(cx).pow(2) + y.abs_diff(cy).pow(2) <= r * r { fore } else { back })
        .collect()
}

fn reference() -> Vec<Image> {
    (0..1000).map(shape).collect()
}

fn clean() -> Vec<Image> {
    (1000..2000).map(shape).collect()
}

fn noise(a: i64) -> Vec<Image> {
    let mut images = clean();
    for (j, image) in images.iter_mut().enumerate() {
        let mut stream = SplitMix64::new(5_000_000 + j as u64);
        for value in image.iter_mut() {
            let shift = (stream.next_u64() % (2 * a as u64 + 1)) as i64 - a;
            *value = (i64::from(*value) + shift).clamp(0, 255) as u8;
        }
    }
    images
}

fn blur() -> Vec<Image> {
    let near = |v: usize, d: usize| (v + d).saturating_sub(1).min(SIDE - 1);
    let one = |image: &Image| -> Image {
        let mut out = vec![0; image.len()];
        for y in 0..SIDE {
            for x in 0..SIDE {
                for c in 0..3 {
                    let sum: u32 = (0..9)
                        .map(|k| u32::from(image[(near(y, k / 3) * SIDE + near(x, k % 3)) * 3 + c]))
                        .sum();
                    out[(y * SIDE + x) * 3 + c] = (sum / 9) as u8;
                }
            }
        }
        out
    };
    clean().iter().map(one).collect()
}

fn per_pixel(f: impl Fn([u8; 3]) -> [u8; 3]) -> Vec<Image> {
    clean().iter().map(|i| i.chunks_exact(3).flat_map(|p| f([p[0], p[1], p[2]])).collect()).collect()
}

fn dataset(images: &[Image]) -> Arc<dyn Dataset> {
    Arc::new(ArrayDataset::new(images.concat(), Layout::Hwc, [3, SIDE, SIDE], None).unwrap())
}

fn options(metrics: &[MetricKind]) -> EvalOptions {
    EvalOptions {
        metrics: metrics.iter().copied().collect::<BTreeSet<_>>(),
        pr_k: 5,
        prdc_k: 5,
        ..EvalOptions::default()
    }
}

fn run(images: &Arc<dyn Dataset>, reference: &Reference, options: &EvalOptions) -> Report {
    evaluate(images, Some(reference), &Pixel8, options, &mut |_, _| {}).unwrap()
}

const ALL: [MetricKind; 3] = [MetricKind::Fid, MetricKind::Mmd, MetricKind::Prdc];

#[test]
fn every_row_of_the_table() {
    let real = reference();
    let total = |images: &[Image]| images.iter().flatten().map(|&v| u64::from(v)).sum::<u64>();
    assert_eq!((total(&real), total(&clean())), (392_023_187, 389_385_528));
    let real = Reference::Images(dataset(&real));
    let collapse: Vec<Image> = (0..1000).map(|j| shape(1000 + j % 10)).collect();
    let grey = per_pixel(|p| [((u32::from(p[0]) + u32::from(p[1]) + u32::from(p[2])) / 3) as u8; 3]);
    let rows: [(&str, Vec<Image>, [f64; 6]); 8] = [
        ("clean", clean(), [0.1028800474, -0.00038455, 0.8900, 0.8530, 1.0466, 0.9830]),
        ("noise 16", noise(16), [0.1045539016, -0.00037877, 0.8900, 0.8540, 1.0446, 0.9840]),
        ("noise 64", noise(64), [0.2077770111, -0.00027202, 0.8970, 0.8240, 0.9568, 0.9700]),
        ("noise 128", noise(128), [0.8921247732, 0.00052460, 0.8370, 0.7260, 0.5802, 0.7730]),
        ("blur 3x3", blur(), [0.1099521724, -0.00038072, 0.9080, 0.8360, 1.1226, 0.9870]),
        (
            "reversed",
            per_pixel(|[r, g, b]| [b, g, r]),
            [0.1141345624, -0.00024213, 0.8930, 0.8620, 1.0352, 0.9730],
        ),
        ("collapse10", collapse, [4.1546892015, 0.01098553, 1.0000, 0.0000, 1.4400, 0.0700]),
        ("grey", grey, [10.4600861796, 0.00378288, 0.9740, 0.0150, 2.2718, 0.1630]),
    ];
    for (name, images, want) in rows {
        let r = run(&dataset(&images), &real, &options(&ALL));
        let got = [r.fid, r.mmd2, r.precision, r.recall, r.density, r.coverage].map(Option::unwrap);
        // Half a unit of the last digit of the table.
        for ((g, w), tolerance) in got.iter().zip(want).zip([1e-9, 6e-9, 1e-9, 1e-9, 1e-9, 1e-9]) {
            assert!((g - w).abs() <= tolerance, "{name}: got {got:?}, want {want:?}");
        }
        assert!(!r.rank_deficient);
    }
    for (n, want) in [(250, 0.3430624282), (500, 0.1493196340), (750, 0.1292309335)] {
        let few = EvalOptions { num: Some(n), subset: SubsetRule::First, ..options(&[MetricKind::Fid]) };
        let got = run(&dataset(&clean()), &real, &few).fid.unwrap();
        assert!((got - want).abs() < 1e-9, "{n}: {got}");
    }
}

fn write_folder(folder: &Path, images: &[Image]) {
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    for (i, image) in images.iter().enumerate() {
        let picture = Picture::new(SIDE, SIDE, 3, image.clone()).unwrap();
        // Nested folders, hidden files and other files must not matter.
        let name = if i < 500 { format!("{i:06}.png") } else { format!("sub/{i:06}.PNG") };
        std::fs::write(folder.join(name), png::encode(&picture, &[]).unwrap()).unwrap();
    }
    std::fs::write(folder.join(".hidden.png"), b"x").unwrap();
    std::fs::write(folder.join("notes.txt"), b"x").unwrap();
}

fn write_zip(path: &Path, images: &[Image]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (i, image) in images.iter().enumerate() {
        zip.start_file(format!("{:05}/img{i:08}.png", i / 1000), stored).unwrap();
        let picture = Picture::new(SIDE, SIDE, 3, image.clone()).unwrap();
        zip.write_all(&png::encode(&picture, &[]).unwrap()).unwrap();
    }
    zip.start_file("dataset.json", stored).unwrap();
    zip.write_all(br#"{"labels": null}"#).unwrap();
    zip.finish().unwrap();
}

#[test]
fn every_reader_gives_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let images = clean();
    let (folder, zip, npz) = (dir.path().join("images"), dir.path().join("x.zip"), dir.path().join("x.npz"));
    write_folder(&folder, &images);
    write_zip(&zip, &images);
    npz::write(&npz, |w| {
        w.start("arr_0", Dtype::U8, &[1000, SIDE, SIDE, 3])?;
        images.iter().try_for_each(|image| w.data(image))
    })
    .unwrap();
    let real = Reference::Images(dataset(&reference()));
    let want = run(&dataset(&images), &real, &options(&ALL));
    for path in [&folder, &zip, &npz] {
        let set: Arc<dyn Dataset> = Arc::from(genlib::data::open(path, &DataOptions::default()).unwrap());
        for (batch, workers) in [(64, 2), (1000, 1), (7, 3)] {
            let got = run(&set, &real, &EvalOptions { batch, workers, ..options(&ALL) });
            let close = (got.fid.unwrap() - want.fid.unwrap()).abs() < 1e-11;
            assert!(close, "{}: {:?} {:?}", path.display(), got.fid, want.fid);
            assert_eq!(
                (got.precision, got.recall, got.density, got.coverage),
                (want.precision, want.recall, want.density, want.coverage)
            );
            assert!((got.mmd2.unwrap() - want.mmd2.unwrap()).abs() < 1e-14);
            assert_eq!(got.n, 1000);
        }
    }
}

#[test]
fn statistics_files_stand_in_for_images() {
    let dir = tempfile::tempdir().unwrap();
    let real = dataset(&reference());
    let all: Vec<usize> = (0..1000).collect();
    let pass = |keep: bool| {
        let opts = options(&ALL);
        collect(&real, &all, &Pixel8, Wanted::default(), keep, &opts, &mut |_, _| {}).unwrap()
    };
    let want = run(&dataset(&clean()), &Reference::Images(Arc::clone(&real)), &options(&ALL));
    let whole = pass(true).into_stats(&Pixel8, "shapes");
    for name in ["stats.npz", "stats.safetensors"] {
        let path = dir.path().join(name);
        whole.write(&path).unwrap();
        let reference = open_reference(&path, &DataOptions::default()).unwrap();
        assert!(matches!(reference, Reference::Stats(..)));
        let got = run(&dataset(&clean()), &reference, &options(&[MetricKind::Fid]));
        assert!((got.fid.unwrap() - want.fid.unwrap()).abs() < 1e-12, "{name}");
        let features =
            evaluate(&dataset(&clean()), Some(&reference), &Pixel8, &options(&ALL), &mut |_, _| {});
        if name.ends_with("npz") {
            assert!(features.unwrap_err().to_string().contains("statistics only"));
        } else {
            assert_eq!(features.unwrap().coverage, want.coverage);
            assert_eq!(Stats::read(&path).unwrap().origin, whole.origin);
        }
    }
    // Other names of the arrays, f32, and images beside the statistics (ADM's reference batches).
    let path = dir.path().join("adm.npz");
    npz::write(&path, |w| {
        use genlib::io::npy::Array;
        w.array("m", &Array::from_tensor(&whole.gaussian.mean.to_kind(tch::Kind::Float))?)?;
        w.array("s", &Array::from_tensor(&whole.gaussian.cov)?)?;
        w.start("arr_0", Dtype::U8, &[1000, SIDE, SIDE, 3])?;
        w.data(&reference().concat())
    })
    .unwrap();
    let reference = open_reference(&path, &DataOptions::default()).unwrap();
    let got = run(&dataset(&clean()), &reference, &options(&ALL));
    assert!((got.fid.unwrap() - want.fid.unwrap()).abs() < 1e-6);
    assert_eq!((got.recall, got.n_ref_features), (want.recall, Some(1000)));
    assert!(got.notes.iter().any(|n| n.contains("`m` as mean")));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let (real, fake) = (Reference::Images(dataset(&reference()[..10])), dataset(&clean()[..10]));
    let fails = |options: &EvalOptions, reference: Option<&Reference>, part: &str| {
        let error = evaluate(&fake, reference, &Pixel8, options, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        error.kind().exit_code()
    };
    assert_eq!(fails(&options(&[MetricKind::Is]), None, "not defined for `pixel8`"), 2);
    assert_eq!(fails(&options(&[MetricKind::Fid]), None, "no reference"), 2);
    let many = EvalOptions { num: Some(50_000), ..options(&[MetricKind::Fid]) };
    assert_eq!(fails(&many, Some(&real), "found 10 images, 50000 are wanted"), 3);
    let one = EvalOptions { num: Some(1), ..options(&[MetricKind::Fid]) };
    assert_eq!(fails(&one, Some(&real), "at least 2"), 3);
    let kid = EvalOptions { kid_subset_size: Some(11), ..options(&[MetricKind::Kid]) };
    assert_eq!(fails(&kid, Some(&real), "KID subsets of 11"), 2);
    let few = run(&fake, &real, &options(&[MetricKind::Fid]));
    assert!(few.rank_deficient && few.notes.iter().any(|n| n.contains("fewer images than features (192)")));
    let progress = &mut Vec::new();
    evaluate(
        &fake,
        Some(&real),
        &Pixel8,
        &EvalOptions { batch: 6, ..options(&[MetricKind::Fid]) },
        &mut |d, t| progress.push((d, t)),
    )
    .unwrap();
    assert_eq!(*progress, [(6, 20), (10, 20), (16, 20), (20, 20)]);
}

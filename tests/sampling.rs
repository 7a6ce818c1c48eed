//! `gen sample`: a sample is its seed's, whatever it is computed with; the output is what the contract says.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{gen_command, json, outcome, run, text, tiny_run};

fn images(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "png"))
        .collect();
    files.sort();
    files
        .iter()
        .map(|p| {
            let pixels = image::open(p).unwrap().to_luma8().into_raw();
            (p.file_name().unwrap().to_str().unwrap().to_owned(), pixels)
        })
        .collect()
}

fn within_one_level(a: &[(String, Vec<u8>)], b: &[(String, Vec<u8>)], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for ((name, x), (other, y)) in a.iter().zip(b) {
        assert_eq!(name, other, "{what}");
        let gap = x.iter().zip(y).map(|(x, y)| x.abs_diff(*y)).max().unwrap();
        assert!(gap <= 1, "{what}: {name} differs by {gap} levels");
    }
}

#[test]
fn a_sample_does_not_depend_on_batch_order_or_shard() {
    let temp = tempfile::tempdir().unwrap();
    let model = tiny_run(temp.path(), &[]);
    for solver in ["dpm", "dpm++", "ddpm", "sde-dpm++", "euler-maruyama"] {
        let sample = |name: &str, extra: &[&str]| {
            let out = temp.path().join(format!("{solver}-{name}"));
            let mut args = vec![
                "sample",
                "--model",
                text(&model),
                "--out",
                text(&out),
                "--solver",
                solver,
                "--steps",
                "6",
                "-q",
            ];
            args.extend(extra);
            run(&args);
            images(&out)
        };
        let all = sample("64", &["--seeds", "0-9", "--batch", "64"]);
        within_one_level(&all, &sample("1", &["--seeds", "0-9", "--batch", "1"]), solver);
        within_one_level(&all, &sample("3", &["--seeds", "9,3-8,0-2", "--batch", "3"]), solver);
        within_one_level(&all[7..8], &sample("alone", &["--seeds", "7"]), solver);
        let out = temp.path().join(format!("{solver}-shards"));
        for part in ["0/2", "1/2"] {
            run(&[
                "sample",
                "--model",
                text(&model),
                "--out",
                text(&out),
                "--solver",
                solver,
                "--steps",
                "6",
                "-q",
                "--seeds",
                "0-9",
                "--shard",
                part,
                "--resume",
            ]);
        }
        within_one_level(&all, &images(&out), solver);
    }
}

#[test]
fn deterministic_samples_are_equal_to_the_last_bit() {
    let temp = tempfile::tempdir().unwrap();
    let model = tiny_run(temp.path(), &[]);
    let sample = |batch: &str| {
        let out = temp.path().join(format!("{batch}.safetensors"));
        run(&[
            "sample",
            "--model",
            text(&model),
            "--out",
            text(&out),
            "--seeds",
            "0-9",
            "--batch",
            batch,
            "--solver",
            "sde-dpm++",
            "--steps",
            "6",
            "--deterministic",
            "-q",
        ]);
        genlib::io::safetensors::File::open(&out).unwrap().tensor("samples").unwrap()
    };
    let all = sample("64");
    for batch in ["1", "3"] {
        assert!(sample(batch).equal(&all), "batch {batch}");
    }
}

#[test]
fn the_output_is_described_and_can_be_resumed() {
    let temp = tempfile::tempdir().unwrap();
    let model = tiny_run(temp.path(), &[]);
    let out = temp.path().join("out");
    let base = ["sample", "--model", text(&model), "--out", text(&out), "--solver", "dpm", "--steps", "10"];
    let with =
        |extra: &[&'static str]| -> Vec<&str> { base.iter().copied().chain(extra.iter().copied()).collect() };
    let summary = json(&with(&["--seeds", "0-3"]));
    assert_eq!((summary["samples"].as_u64(), summary["nfe"].as_u64()), (Some(4), Some(10)));

    let manifest = fs::read_to_string(out.join("manifest.jsonl")).unwrap();
    assert_eq!(manifest.lines().count(), 4);
    let line: serde_json::Value = serde_json::from_str(manifest.lines().nth(2).unwrap()).unwrap();
    assert_eq!(
        (line["seed"].as_u64(), line["file"].as_str(), line["nfe"].as_u64()),
        (Some(2), Some("000002.png"), Some(10))
    );

    // The PNG says how it was made.
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(out.join("000002.png")).unwrap()));
    let reader = decoder.read_info().unwrap();
    let chunk = &reader.info().uncompressed_latin1_text[0];
    assert_eq!(chunk.keyword, "gen:parameters");
    let parameters: serde_json::Value = serde_json::from_str(&chunk.text).unwrap();
    assert_eq!((parameters["seed"].as_u64(), parameters["solver"]["name"].as_str()), (Some(2), Some("dpm")));

    // A folder that is not empty is not touched without a word.
    let refused = outcome(&with(&["--seeds", "0-5"]));
    assert_eq!(refused.status.code(), Some(2));
    let changed = fs::metadata(out.join("000001.png")).unwrap().modified().unwrap();
    let resumed = json(&with(&["--seeds", "0-5", "--resume"]));
    assert_eq!((resumed["samples"].as_u64(), resumed["skipped"].as_u64()), (Some(2), Some(4)));
    assert_eq!(fs::metadata(out.join("000001.png")).unwrap().modified().unwrap(), changed);
    let other = outcome(&with(&["--seeds", "0-7", "--resume", "--order", "2"]));
    assert_eq!(other.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&other.stderr).contains("differs from that of the samples already there")
    );
    assert_eq!(json(&with(&["--seeds", "0-1", "--overwrite"]))["samples"], 2);
}

#[test]
fn arrays_and_latents_round_trip() {
    let temp = tempfile::tempdir().unwrap();
    let model = tiny_run(temp.path(), &[]);
    let sample = |out: &str, extra: &[&str]| {
        let out = temp.path().join(out);
        let mut args = vec!["sample", "--model", text(&model), "--out", text(&out), "--seeds", "0-4", "-q"];
        args.extend(extra);
        run(&args);
        out
    };
    let npz = sample("a.npz", &["--grid-image", text(&temp.path().join("sheet.png"))]);
    let mut file = genlib::io::npz::Npz::open(&npz).unwrap();
    assert_eq!(file.header("arr_0").unwrap().shape, [5, 8, 8, 1]);
    let folder = sample("png", &[]);
    let pixels = file.array("arr_0").unwrap().to_f64();
    let from_png: Vec<f64> = images(&folder).into_iter().flat_map(|(_, p)| p).map(f64::from).collect();
    assert_eq!(pixels, from_png);
    assert!(image::open(temp.path().join("sheet.png")).unwrap().width() > 64);

    // The latents of the seeds, given as a file, give the same samples.
    let latents: Vec<tch::Tensor> = (0..5)
        .map(|seed| {
            genlib::torch::shim::Generator::new(seed).unwrap().normal(&[1, 8, 8], tch::Kind::Float).unwrap()
        })
        .collect();
    let noise = temp.path().join("noise.safetensors");
    let all = tch::Tensor::stack(&latents, 0);
    genlib::io::safetensors::write(&noise, [("noise", all)], &std::collections::BTreeMap::new()).unwrap();
    let a = sample("x.safetensors", &[]);
    let b = sample("y.safetensors", &["--init-noise", text(&noise)]);
    let read = |p: &Path| genlib::io::safetensors::File::open(p).unwrap().tensor("samples").unwrap();
    assert_eq!(read(&a).size(), [5, 1, 8, 8]);
    assert!(read(&a).equal(&read(&b)));
}

#[test]
fn one_png_goes_to_stdout_and_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let model = tiny_run(temp.path(), &[]);
    let output = outcome(&["sample", "--model", text(&model), "--out", "-", "--seeds", "3"]);
    assert!(output.status.success());
    let image = image::load_from_memory(&output.stdout).unwrap();
    assert_eq!((image.width(), image.height()), (8, 8));
}

#[test]
fn memory_does_not_grow_with_the_steps() {
    let temp = tempfile::tempdir().unwrap();
    let model = tiny_run(temp.path(), &[]);
    for solver in ["dpm++", "deis", "unipc", "ddpm"] {
        let peak = |steps: &str| {
            let out = temp.path().join(format!("{solver}-{steps}"));
            let summary = json(&[
                "sample",
                "--model",
                text(&model),
                "--out",
                text(&out),
                "--solver",
                solver,
                "--steps",
                steps,
                "--seeds",
                "0-511",
                "--batch",
                "512",
                "--format",
                "npz",
                "-q",
            ]);
            summary["peak_mib"].as_f64().unwrap()
        };
        let (few, many) = (peak("10"), peak("100"));
        assert!(many <= 1.2 * few, "{solver}: {few} MiB for 10 steps, {many} MiB for 100");
    }
}

#[test]
fn classes_and_guidance() {
    let temp = tempfile::tempdir().unwrap();
    let model =
        tiny_run(temp.path(), &["--set", "data.classes=true", "--set", "objective.class_dropout=0.1"]);
    let sample = |name: &str, extra: &[&str]| {
        let out = temp.path().join(name);
        let mut args = vec!["sample", "--model", text(&model), "--out", text(&out), "--seeds", "0-3", "-q"];
        args.extend(extra);
        run(&args);
        (images(&out), fs::read_to_string(out.join("manifest.jsonl")).unwrap())
    };
    let (plain, manifest) = sample("listed", &["--class", "3,1"]);
    let classes: Vec<i64> = manifest
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["class"].as_i64().unwrap())
        .collect();
    assert_eq!(classes, [3, 1, 3, 1]);
    let (one, _) = sample("w1", &["--class", "3,1", "--guidance", "1"]);
    assert_eq!(plain, one);
    let (guided, _) = sample("w3", &["--class", "3,1", "--cfg-scale", "3"]);
    assert_ne!(plain, guided);
    let (_, random) = sample("random", &[]);
    assert!(random.contains("\"class\":"));
    for bad in [["--class", "10"], ["--class", "x"]] {
        let out = temp.path().join("bad");
        let mut args = vec!["sample", "--model", text(&model), "--out", text(&out), "--seeds", "0-3", "-q"];
        args.extend(bad);
        assert_eq!(outcome(&args).status.code(), Some(2));
    }
}

#[test]
fn an_interrupted_run_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let model = tiny_run(temp.path(), &[]);
    let out = temp.path().join("out");
    let args = [
        "sample",
        "--model",
        text(&model),
        "--out",
        text(&out),
        "--seeds",
        "0-4095",
        "--batch",
        "16",
        "--solver",
        "ddpm",
        "--steps",
        "200",
    ];
    let child = gen_command(&args).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let manifest = out.join("manifest.jsonl");
    let start = std::time::Instant::now();
    while fs::metadata(&manifest).map_or(0, |m| m.len()) == 0 && start.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "{stderr}");
    assert!(stderr.contains("samples are written; --resume goes on"), "{stderr}");
    let lines = fs::read_to_string(&manifest).unwrap().lines().count();
    assert!((16..4096).contains(&lines));
    assert_eq!(images(&out).len(), lines);
}

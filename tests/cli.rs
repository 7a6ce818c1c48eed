//! Everything a user may get wrong, as they see it: exit code, stdout and stderr together.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

use common::{gen_command, root, text, tiny_run};
use genlib::io::npy::{Array, Dtype};
use genlib::io::{npz, safetensors};
use tch::{Kind, Tensor};

/// A folder with a tiny trained model, shared by all tests.
struct Place {
    folder: PathBuf,
    run: PathBuf,
}

impl Place {
    fn path(&self, name: &str) -> String {
        text(&self.folder.join(name)).to_owned()
    }

    fn snapshot(&self) -> PathBuf {
        self.run.join("snapshots/00000020.safetensors")
    }
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap().keep();
        let run = tiny_run(&folder, &[]);
        Place { folder, run }
    })
}

/// What a person sees, with what differs from machine to machine replaced.
fn shown(args: &[String], output: &Output) -> String {
    let clean = |bytes: &[u8]| {
        let mut out = String::from_utf8_lossy(bytes).replace(text(&place().folder), "[TMP]");
        out = out.replace(text(&root()), "[ROOT]");
        out
    };
    let stderr = clean(&output.stderr);
    for word in
        ["panicked", "Exception raised", "os error", "RUST_BACKTRACE", "unwrap", "TchError", "frame #"]
    {
        assert!(!stderr.contains(word), "`gen {}` says `{word}`:\n{stderr}", args.join(" "));
    }
    let command = clean(args.join(" ").as_bytes());
    let stdout = clean(&output.stdout);
    format!("$ gen {command}\nexit {}\n{stdout}{stderr}", output.status.code().unwrap_or(-1))
}

/// Runs the cases; each must end with `code`, say nothing on stdout, and one `error:` line with at most a hint.
fn failures(code: i32, cases: &[&[&str]]) -> String {
    let mut all = String::new();
    for case in cases {
        let args: Vec<String> = case.iter().map(|arg| arg.replace("[TMP]", text(&place().folder))).collect();
        let parts: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = gen_command(&parts).output().unwrap();
        let seen = shown(&args, &output);
        assert_eq!(output.status.code(), Some(code), "{seen}");
        assert!(output.stdout.is_empty(), "{seen}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = stderr.lines().filter(|l| !l.starts_with("warning: ")).collect();
        let errors = lines.iter().filter(|l| l.starts_with("error: ")).count();
        let hints = lines.iter().filter(|l| l.starts_with("hint: ")).count();
        assert!(errors == 1 && errors + hints == lines.len() && hints <= 1, "{seen}");
        all.push_str(&seen);
        all.push('\n');
    }
    all
}

#[test]
fn wrong_commands_and_flags() {
    let p = place();
    let model = text(&p.run).to_owned();
    let out = p.path("none");
    let sample = |extra: &[&'static str]| -> Vec<String> {
        let base = ["sample", "--model", &model, "--out", &out, "-q"];
        base.iter().chain(extra).map(|s| (*s).to_owned()).collect()
    };
    let cases: Vec<Vec<String>> = vec![
        vec!["smaple".into()],
        vec!["sample".into(), "--model".into(), "x".into()],
        sample(&["--solvr", "dpm"]),
        sample(&["--solver", "dmp"]),
        sample(&["--steps", "0"]),
        sample(&["--steps", "ten"]),
        sample(&["--steps", "10", "--nfe", "10"]),
        sample(&["--solver", "unipc", "--order", "9"]),
        sample(&["--solver", "deis", "--order", "7"]),
        sample(&["--solver", "dpm++", "--order", "3", "--steps", "2"]),
        sample(&["--solver", "ddim", "--order", "2"]),
        sample(&["--solver", "ddim", "--eta", "2"]),
        sample(&["--solver", "dpm", "--threshold", "0.995"]),
        sample(&["--solver", "dpm++", "--threshold", "1.5"]),
        sample(&["--solver", "sde-dpm++", "--form", "noise", "--order", "3"]),
        sample(&["--solver", "heun", "--s-churn", "40"]),
        sample(&["--solver", "rk45", "--grid", "karras"]),
        sample(&["--solver", "rk45", "--rtol", "-1"]),
        sample(&["--grid", "zigzag"]),
        sample(&["--grid", "1,2,3"]),
        sample(&["--t-min", "5", "--t-max", "1"]),
        sample(&["--grid", "logsnr", "--t-min", "0"]),
        sample(&["--seeds", "5-1"]),
        sample(&["--seeds", "a"]),
        sample(&["--shard", "4/4"]),
        sample(&["--batch", "0"]),
        sample(&["--class", "3"]),
        sample(&["--guidance", "2"]),
        sample(&["--resume", "--overwrite"]),
        sample(&["--dtype", "int8"]),
        sample(&["--device", "tpu"]),
        sample(&["--threads", "0"]),
        sample(&["--out", "-", "--format", "npz"]),
        vec!["selftest".into(), "--only".into(), "nothing".into()],
        vec!["completions".into(), "csh".into()],
    ];
    let cases: Vec<Vec<&str>> = cases.iter().map(|c| c.iter().map(String::as_str).collect()).collect();
    let cases: Vec<&[&str]> = cases.iter().map(Vec::as_slice).collect();
    insta::assert_snapshot!(failures(2, &cases));
    assert!(!Path::new(&out).exists(), "a refused command left a folder behind");
}

#[test]
fn wrong_recipes() {
    let p = place();
    let write = |name: &str, text: &str| fs::write(p.folder.join(name), text).unwrap();
    write("syntax.toml", "[model]\ntype = = 3\n");
    write("no-process.toml", "[model]\ntype = \"mlp\"\n");
    write("no-steps.toml", &common::TINY.replace("steps = 20\nlog_every", "log_every"));
    write("both.toml", &common::TINY.replace("steps = 20\nlog_every", "steps = 20\nimages = 9\nlog_every"));
    let recipe = "[TMP]/recipe.toml";
    let digits = common::digits();
    let data = text(&digits);
    let train = |extra: &[&'static str]| -> Vec<String> {
        let base = ["train", recipe, "--data", data, "--out", "[TMP]/refused", "-q"];
        base.iter().chain(extra).map(|s| (*s).to_owned()).collect()
    };
    let mut cases = vec![
        vec!["train".to_owned(), "nowhere.toml".into(), "--out".into(), "[TMP]/refused".into()],
        vec!["train".to_owned(), recipe.to_owned()],
        train(&["--set", "optim.learning_rate=1e-3"]),
        train(&["--set", "model.channels=3"]),
        train(&["--set", "trian.batch=3"]),
        train(&["--set", "train.batch=many"]),
        train(&["--set", "train.batch=0"]),
        train(&["--set", "train.accumulate=3"]),
        train(&["--set", "model.type=resnet"]),
        train(&["--set", "process.type=vpp"]),
        train(&["--set", "process.sigma_min=50"]),
        train(&["--set", "optim.lr=-1"]),
        train(&["--set", "optim.schedule=cosin"]),
        train(&["--set", "ema.decay=2"]),
        train(&["--set", "objective.sigma_data=0"]),
        train(&["--set", "noequals"]),
        train(&["--set", "train.steps.x=3"]),
        train(&["--steps", "0"]),
        train(&["--duration", "5 days"]),
    ];
    for name in ["syntax", "no-process", "no-steps", "both"] {
        cases.push(
            ["train", &format!("[TMP]/{name}.toml"), "--out", "[TMP]/refused"].map(str::to_owned).to_vec(),
        );
    }
    let cases: Vec<Vec<&str>> = cases.iter().map(|c| c.iter().map(String::as_str).collect()).collect();
    let cases: Vec<&[&str]> = cases.iter().map(Vec::as_slice).collect();
    insta::assert_snapshot!(failures(2, &cases));
}

#[test]
fn wrong_models() {
    let p = place();
    let snapshot = fs::read(p.snapshot()).unwrap();
    fs::write(p.folder.join("short.safetensors"), &snapshot[..snapshot.len() / 2]).unwrap();
    fs::write(p.folder.join("text.safetensors"), "hello, I am no model at all").unwrap();
    let file = safetensors::File::open(&p.snapshot()).unwrap();
    let change = |name: &str, edit: &dyn Fn(&mut std::collections::BTreeMap<String, Tensor>)| {
        let mut tensors = file.tensors().unwrap();
        edit(&mut tensors);
        safetensors::write(&p.folder.join(name), tensors, file.metadata()).unwrap();
    };
    change("dropped.safetensors", &|t| drop(t.remove("map_layer0.weight")));
    change("extra.safetensors", &|t| drop(t.insert("surplus".into(), Tensor::from(1f32))));
    change("transposed.safetensors", &|t| {
        let w = t["enc.8x8_conv.weight"].transpose(0, 1).contiguous();
        t.insert("enc.8x8_conv.weight".into(), w);
    });
    let bare = file.tensors().unwrap();
    safetensors::write(&p.folder.join("bare.safetensors"), bare, &std::collections::BTreeMap::new()).unwrap();
    let mut old = file.metadata().clone();
    old.insert("gen".into(), "{\"format\": 99}".into());
    safetensors::write(&p.folder.join("future.safetensors"), file.tensors().unwrap(), &old).unwrap();
    fs::create_dir_all(p.folder.join("empty")).unwrap();
    fs::create_dir_all(p.folder.join("damaged/checkpoints/00000005")).unwrap();
    fs::write(p.folder.join("damaged/checkpoints/00000005/state.json"), "{").unwrap();
    let sample = |model: &'static str| vec!["sample", "--model", model, "--out", "[TMP]/none", "-q"];
    let digits = common::digits();
    let mut cases: Vec<Vec<&str>> = [
        "[TMP]/missing.safetensors",
        "[TMP]/short.safetensors",
        "[TMP]/text.safetensors",
        "[TMP]/dropped.safetensors",
        "[TMP]/extra.safetensors",
        "[TMP]/transposed.safetensors",
        "[TMP]/bare.safetensors",
        "[TMP]/future.safetensors",
        "[TMP]/empty",
        "models/digits-features",
        "models/cifar10-edm",
    ]
    .into_iter()
    .map(sample)
    .collect();
    let mut weights = sample("[TMP]/run");
    weights.extend(["--weights", "nobody"]);
    cases.push(weights);
    cases.push(vec!["inspect", "[TMP]/missing.pth"]);
    cases.push(vec!["inspect", "[TMP]/text.safetensors"]);
    cases.push(vec!["train", "[TMP]/recipe.toml", "--data", text(&digits), "--out", "[TMP]/damaged", "-q"]);
    let cases: Vec<&[&str]> = cases.iter().map(Vec::as_slice).collect();
    insta::assert_snapshot!(failures(4, &cases));
}

#[test]
fn wrong_data() {
    let p = place();
    let folder = |name: &str| {
        let path = p.folder.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let picture = |path: &Path, w: u32, h: u32| image::GrayImage::new(w, h).save(path).unwrap();
    let bad = folder("bad-image");
    picture(&bad.join("a.png"), 8, 8);
    fs::write(bad.join("b.png"), "this is no picture").unwrap();
    let mixed = folder("mixed");
    picture(&mixed.join("a.png"), 8, 8);
    picture(&mixed.join("b.png"), 8, 9);
    folder("no-images");
    let good = folder("good");
    for i in 0..5 {
        picture(&good.join(format!("{i}.png")), 8, 8);
    }
    npz::write(&p.folder.join("float.npz"), |out| {
        out.array("arr_0", &Array::from_f64(&vec![0.5; 4 * 192], &[4, 8, 8, 3]))
    })
    .unwrap();
    npz::write(&p.folder.join("nchw.npz"), |out| {
        out.start("arr_0", Dtype::U8, &[4, 5, 8, 8])?;
        out.data(&[0; 4 * 5 * 64])
    })
    .unwrap();
    let stats = |name: &str, d: usize, value: f64| {
        npz::write(&p.folder.join(name), |out| {
            out.array("mu", &Array::from_f64(&vec![0.0; d], &[d]))?;
            out.array("sigma", &Array::from_f64(&vec![value; d * d], &[d, d]))
        })
        .unwrap();
    };
    stats("narrow.npz", 4, 1.0);
    stats("nan.npz", 192, f64::NAN);
    fs::write(p.folder.join("half.npz"), &fs::read(p.folder.join("nan.npz")).unwrap()[..999]).unwrap();
    let wrong = Tensor::zeros([3, 1, 8, 8], (Kind::Float, tch::Device::Cpu));
    safetensors::write(
        &p.folder.join("noise.safetensors"),
        [("x", wrong)],
        &std::collections::BTreeMap::new(),
    )
    .unwrap();
    let train = |data: &'static str| {
        vec!["train", "[TMP]/recipe.toml", "--data", data, "--out", "[TMP]/refused", "-q"]
    };
    let eval = |extra: &[&'static str]| {
        let mut args = vec!["eval-fid", "--features", "pixel8", "-q"];
        args.extend(extra);
        args
    };
    let cases: Vec<Vec<&str>> = vec![
        train("[TMP]/nothing"),
        train("[TMP]/bad-image"),
        train("[TMP]/mixed"),
        train("[TMP]/no-images"),
        train("[TMP]/float.npz"),
        train("[TMP]/half.npz"),
        vec![
            "sample",
            "--model",
            "[TMP]/run",
            "--out",
            "[TMP]/none",
            "-q",
            "--init-noise",
            "[TMP]/noise.safetensors",
        ],
        vec![
            "sample",
            "--model",
            "[TMP]/run",
            "--out",
            "[TMP]/none",
            "-q",
            "--init-noise",
            "[TMP]/nothing.npz",
        ],
        eval(&["--images", "[TMP]/nothing", "--ref", "[TMP]/good"]),
        eval(&["--images", "[TMP]/good", "--ref", "[TMP]/nothing"]),
        eval(&["--images", "[TMP]/good", "--ref", "[TMP]/good", "--num", "50"]),
        eval(&["--images", "[TMP]/bad-image", "--ref", "[TMP]/good"]),
        eval(&["--images", "[TMP]/good", "--ref", "[TMP]/narrow.npz"]),
        eval(&["--images", "[TMP]/good", "--ref", "[TMP]/nan.npz"]),
        eval(&["--images", "[TMP]/nchw.npz", "--ref", "[TMP]/good"]),
        eval(&["--images", "[TMP]/float.npz", "--ref", "[TMP]/good"]),
        vec!["ref-stats", "--features", "pixel8", "--data", "[TMP]/no-images", "--out", "[TMP]/s.npz", "-q"],
    ];
    let cases: Vec<&[&str]> = cases.iter().map(Vec::as_slice).collect();
    insta::assert_snapshot!(failures(3, &cases));
}

#[test]
fn wrong_evaluations() {
    let p = place();
    let good = p.folder.join("eval-good");
    fs::create_dir_all(&good).unwrap();
    for i in 0..5u8 {
        image::GrayImage::from_pixel(8, 8, image::Luma([i * 40]))
            .save(good.join(format!("{i}.png")))
            .unwrap();
    }
    let cases: Vec<Vec<&str>> = vec![
        vec!["eval-fid", "--images", "[TMP]/eval-good", "--ref", "[TMP]/eval-good", "-q"],
        vec!["eval-fid", "--images", "[TMP]/eval-good", "--features", "pixel8", "-q"],
        vec![
            "eval-fid",
            "--images",
            "[TMP]/eval-good",
            "--ref",
            "[TMP]/eval-good",
            "--features",
            "pixel8",
            "--metrics",
            "fdi",
        ],
        vec![
            "eval-fid",
            "--images",
            "[TMP]/eval-good",
            "--ref",
            "[TMP]/eval-good",
            "--features",
            "pixel8",
            "--metrics",
            "is",
            "-q",
        ],
        vec!["eval-fid", "--images", "[TMP]/eval-good", "--ref", "[TMP]/eval-good", "--features", "vgg"],
        vec![
            "eval-fid",
            "--images",
            "[TMP]/eval-good",
            "--ref",
            "[TMP]/eval-good",
            "--features",
            "pixel8",
            "--metrics",
            "kid",
            "--max",
            "3",
            "-q",
        ],
    ];
    let cases: Vec<&[&str]> = cases.iter().map(Vec::as_slice).collect();
    insta::assert_snapshot!(failures(2, &cases));
}

#[test]
fn runs_that_fail() {
    let cases: Vec<Vec<&str>> = vec![
        vec!["sample", "--model", "[TMP]/run", "--out", "/proc/none/out", "-q"],
        vec!["sample", "--model", "[TMP]/run", "--out", "/proc/none/out.npz", "-q"],
        vec![
            "eval-fid",
            "--images",
            "data/digits",
            "--ref",
            "data/digits",
            "--ref-split",
            "test",
            "--features",
            "pixel8",
            "--max",
            "0.001",
            "-q",
            "--num",
            "20",
            "--json",
        ],
    ];
    // The last prints its result and then fails: checked by hand.
    let (last, first) = cases.split_last().unwrap();
    let first: Vec<&[&str]> = first.iter().map(Vec::as_slice).collect();
    insta::assert_snapshot!(failures(1, &first));
    let output = gen_command(last).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["fid"].as_f64().unwrap() > 0.001
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("error: FID is"));
}

#[test]
fn a_missing_device_is_explained() {
    let output =
        gen_command(&["sample", "--model", text(&place().run), "--out", "x", "--device", "cuda:77"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(5));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let explained =
        ["does not load", "no NVIDIA driver", "offers no device", "this machine has", "no libtorch_cuda.so"];
    assert!(explained.iter().any(|reason| stderr.contains(reason)), "{stderr}");
    assert!(stderr.contains("hint: "), "{stderr}");
    assert!(!Path::new("x").exists());
}

#[test]
fn an_output_folder_in_use_is_refused() {
    let p = place();
    let out = p.folder.join("used");
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("thesis.txt"), "years of work").unwrap();
    insta::assert_snapshot!(failures(2, &[&["sample", "--model", "[TMP]/run", "--out", "[TMP]/used", "-q"]]));
    assert_eq!(fs::read_to_string(out.join("thesis.txt")).unwrap(), "years of work");
}

#[test]
fn habits_of_other_tools_are_understood() {
    let p = place();
    let run = text(&p.run);
    let edm = p.path("edm");
    let diffusers = p.path("diffusers");
    let cases: [Vec<&str>; 2] = [
        vec![
            "sample",
            "--network",
            run,
            "--outdir",
            &edm,
            "--seeds",
            "0-1",
            "--solver",
            "edm",
            "--steps",
            "3",
            "--S_churn",
            "10",
            "--S_min",
            "0.05",
            "--S_max",
            "50",
            "--S_noise",
            "1.003",
            "--sigma_min",
            "0.02",
            "--sigma_max",
            "20",
            "--rho",
            "7",
            "-q",
        ],
        vec![
            "sample",
            "-m",
            run,
            "-o",
            &diffusers,
            "--seeds",
            "0-1",
            "--num_inference_steps",
            "3",
            "--guidance_scale",
            "1",
            "-q",
        ],
    ];
    for case in cases {
        let output = gen_command(&case).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "-q is not quiet");
    }
}

#[test]
fn json_is_one_object_on_stdout() {
    let p = place();
    let snapshot = p.snapshot();
    let out = p.path("json-out");
    let commands: Vec<Vec<&str>> = vec![
        vec!["doctor", "--json"],
        vec!["inspect", text(&snapshot), "--json"],
        vec!["selftest", "--only", "dpm++ 2", "--steps", "64", "--json"],
        vec!["bench", "models/digits-edm", "--batch", "2", "-r", "1", "--json"],
        vec!["train", "[TMP]/recipe.toml", "--dry-run", "--json"],
        vec!["sample", "--model", text(&p.run), "--out", &out, "--seeds", "0", "--json"],
        vec!["eval-fid", "--images", "data/digits", "--ref", "data/digits", "--features", "pixel8", "--json"],
    ];
    for command in commands {
        let args: Vec<String> = command.iter().map(|a| a.replace("[TMP]", text(&p.folder))).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = gen_command(&args).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(stdout.lines().count(), 1, "{args:?}: {stdout}");
        assert!(serde_json::from_str::<serde_json::Value>(&stdout).unwrap().is_object(), "{args:?}");
    }
}

#[test]
fn errors_are_json_where_that_is_asked_for() {
    let output = gen_command(&["sample", "--model", "nowhere", "--out", "x", "--log-format", "json"])
        .output()
        .unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((value["level"].as_str(), value["code"].as_u64()), (Some("error"), Some(4)));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = gen_command(&["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn help_has_examples_and_every_command() {
    let top = gen_command(&["--help"]).output().unwrap();
    let top = String::from_utf8(top.stdout).unwrap();
    for command in [
        "train",
        "sample",
        "eval-fid",
        "ref-stats",
        "inspect",
        "bench",
        "selftest",
        "doctor",
        "completions",
        "man",
    ] {
        assert!(top.contains(&format!("\n  {command} ")), "{command} is not listed:\n{top}");
        let help = gen_command(&[command, "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains("Examples:"), "{command} has no examples");
        assert!(help.contains(&format!("gen {command}")), "{command}'s examples do not use it");
    }
    insta::assert_snapshot!("help", top);
}

//! A run that is stopped, interrupted or killed is the run that was not.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{digits, gen_command, outcome, run, text, tiny_recipe};

/// All bytes of the checkpoint of `step`, but for the wall-clock seconds.
fn state(run: &Path, step: u64) -> Vec<(String, Vec<u8>)> {
    let folder = run.join(format!("checkpoints/{step:08}"));
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let mut bytes = fs::read(&path).unwrap();
            if name == "state.json" {
                let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                value["seconds"] = 0.into();
                bytes = value.to_string().into_bytes();
            }
            (name, bytes)
        })
        .collect();
    files.sort();
    files
}

/// The log without times.
fn losses(run: &Path) -> Vec<(u64, u64, u64)> {
    fs::read_to_string(run.join("log.jsonl"))
        .unwrap()
        .lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let bits = |key: &str| value[key].as_f64().unwrap().to_bits();
            (value["step"].as_u64().unwrap(), bits("loss"), bits("grad_norm"))
        })
        .collect()
}

#[test]
fn thirty_seven_and_sixty_three_steps_are_a_hundred() {
    let temp = tempfile::tempdir().unwrap();
    let recipe = tiny_recipe(temp.path());
    let (whole, parts) = (temp.path().join("whole"), temp.path().join("parts"));
    let data = digits();
    let train = |out: &Path, extra: &[&str]| {
        let mut args = vec![
            "train",
            text(&recipe),
            "--data",
            text(&data),
            "--out",
            text(out),
            "--steps",
            "100",
            "-q",
            "--set",
            "data.flip=true",
            "--set",
            "train.accumulate=2",
        ];
        args.extend(extra);
        run(&args);
    };
    train(&whole, &[]);
    train(&parts, &["--stop-after", "37"]);
    assert!(parts.join("checkpoints/00000037").exists());
    train(&parts, &[]);
    assert_eq!(state(&whole, 100), state(&parts, 100));
    assert_eq!(losses(&whole), losses(&parts));
    let snapshot = |run: &Path| fs::read(run.join("snapshots/00000100.safetensors")).unwrap();
    assert_eq!(snapshot(&whole), snapshot(&parts));
}

#[test]
fn a_killed_run_always_has_a_good_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    let recipe = tiny_recipe(temp.path());
    let (data, out) = (digits(), temp.path().join("run"));
    let args = [
        "train",
        text(&recipe),
        "--data",
        text(&data),
        "--out",
        text(&out),
        "-q",
        "--steps",
        "100000",
        "--set",
        "optim.schedule=constant",
        "--set",
        "train.checkpoint_every=1",
        "--set",
        "train.batch=1",
    ];
    let mut newest = 0;
    let mut delay = 12345u64;
    for _ in 0..50 {
        let mut child = gen_command(&args).spawn().unwrap();
        // Wait until it saves at all, then kill it somewhere within the next saves.
        let start = std::time::Instant::now();
        while latest(&out) <= newest && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        delay = delay.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        std::thread::sleep(Duration::from_micros(delay >> 44 & 0xffff));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = latest(&out);
        assert!(now > newest, "no progress after {newest}");
        newest = now;
    }
    // The newest checkpoint is whole: the run goes on from it and removes what was half-written.
    let mut last = args.to_vec();
    last.extend(["--stop-after", "1"]);
    run(&last);
    assert_eq!(latest(&out), newest + 1);
    let left = fs::read_dir(out.join("checkpoints")).unwrap().count();
    assert!(left <= 2, "{left} folders are left");
}

fn latest(run: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return 0 };
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).max().unwrap_or(0)
}

#[test]
fn an_interrupt_saves_the_state_and_exits_130() {
    let temp = tempfile::tempdir().unwrap();
    let recipe = tiny_recipe(temp.path());
    let (data, out) = (digits(), temp.path().join("run"));
    let args = ["train", text(&recipe), "--data", text(&data), "--out", text(&out), "--steps", "100000"];
    let child = gen_command(&args).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let start = std::time::Instant::now();
    while !out.join("log.jsonl").exists() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    let signalled =
        std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("error: interrupted: the state of step"), "{stderr}");
    assert!(latest(&out) > 0);
}

#[test]
fn a_run_is_not_continued_under_another_recipe() {
    let temp = tempfile::tempdir().unwrap();
    let recipe = tiny_recipe(temp.path());
    let (data, out) = (digits(), temp.path().join("run"));
    let base = ["train", text(&recipe), "--data", text(&data), "--out", text(&out), "-q"];
    let with = |extra: &[&'static str]| {
        let mut args = base.to_vec();
        args.extend(extra);
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let go = |args: Vec<String>| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        outcome(&args)
    };
    assert!(go(with(&["--set", "optim.schedule=constant"])).status.success());
    let other = go(with(&["--set", "optim.schedule=constant", "--set", "optim.lr=0.5"]));
    let stderr = String::from_utf8_lossy(&other.stderr).into_owned();
    assert_eq!(other.status.code(), Some(2), "{stderr}");
    assert!(stderr.starts_with("error: `optim.lr` differs from the run's"), "{stderr}");
    // More steps under a constant learning rate do not change the past.
    assert!(go(with(&["--set", "optim.schedule=constant", "--steps", "30"])).status.success());
    assert_eq!(latest(&out), 30);
    // The cosine schedule knows the end.
    let out2 = temp.path().join("cosine");
    let cosine = |steps: &str| {
        outcome(&[
            "train",
            text(&recipe),
            "--data",
            text(&data),
            "--out",
            text(&out2),
            "-q",
            "--steps",
            steps,
        ])
    };
    assert!(cosine("10").status.success());
    assert_eq!(cosine("20").status.code(), Some(2));
}

#[test]
fn a_loss_that_explodes_stops_the_run_and_leaves_the_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    let recipe = tiny_recipe(temp.path());
    let (data, out) = (digits(), temp.path().join("run"));
    let output = outcome(&[
        "train",
        text(&recipe),
        "--data",
        text(&data),
        "--out",
        text(&out),
        "-q",
        "--steps",
        "400",
        "--set",
        "optim.lr=1e18",
        "--set",
        "optim.schedule=constant",
        "--set",
        "optim.clip=0",
        "--set",
        "train.log_every=1",
        "--set",
        "train.checkpoint_every=1",
        "--set",
        "optim.warmup=2",
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: the loss is not finite at step"), "{stderr}");
    assert!(stderr.contains("is good"), "{stderr}");
    assert!(latest(&out) > 0);
}

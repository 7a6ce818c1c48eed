//! Where output goes: results on stdout, words on stderr, nothing where nothing was asked for.

use std::process::Stdio;

use serde_json::Value;

use super::world::{Transcript, world};

#[test]
fn places_that_cannot_be_written() {
    let mut t = Transcript::new();
    let sample = "sample --model runs/plain --seeds 0 --out";
    t.fails(1, &format!("{sample} /proc/out"));
    t.fails(1, &format!("{sample} /proc/out.npz"));
    t.fails(1, &format!("{sample} note.txt"));
    t.fails(1, &format!("{sample} note.txt/deeper"));
    t.fails(1, &format!("{sample} empty --format npz --overwrite"));
    t.fails(1, &format!("{sample} out/unwritten --grid-image /proc/sheet.png"));
    t.fails(2, &format!("{sample} - --format npz"));
    t.fails(1, "train tiny.toml --data data/digits --out /proc/run");
    t.fails(1, "train tiny.toml --data data/digits --out note.txt");
    t.fails(1, "ref-stats --data images/good --features pixel8 --out /proc/stats.npz");
    t.fails(1, "ref-stats --data images/good --features pixel8 --out empty");
    t.fails(1, "man --out /proc/man");
    t.check("output-places");
}

#[test]
fn json_is_one_object_for_every_command() {
    let mut t = Transcript::new();
    let data = (0..4000).map(|i| (i as f32 * 0.1).sin() / 2.0).collect();
    let sound = genlib::io::sound::Sound { channels: 1, rate: 8000, data };
    genlib::io::wav::write_sound(&world().join("sounds-json.wav"), &sound, Default::default()).unwrap();
    for line in [
        "train tiny.toml --data data/digits --out runs/json --json",
        "train tiny.toml --dry-run --json",
        "sample --model runs/plain --out out/json --seeds 0-1 --json",
        "eval-fid --images images/good --ref images/good --features pixel8 --json",
        "ref-stats --data images/good --features pixel8 --out stats/json.npz --json",
        "audio info sounds-json.wav --json",
        "audio stats sounds-json.wav --json",
        "audio quantize sounds-json.wav --json",
        "audio convert sounds-json.wav out/sounds-json.wav --overwrite --json",
        "plot sounds-json.wav --out out/sounds-json.png --json",
        "eval-audio --audio sounds-json.wav --ref sounds-json.wav --ref-split all --metrics lsd --json",
        "inspect models/whole.safetensors --json",
        "inspect runs/plain --json",
        "inspect models/class.pt --json",
        "selftest --only euler --json",
        "bench tiny.toml --shape 1,8,8 --batch 1 --repeat 1 --json",
        "bench tiny.toml --shape 1,8,8 --batch 1 --repeat 1 --output jsonl --json",
        "doctor --json",
        "completions bash --json",
        "man --json",
        "man --out man --json",
    ] {
        let output = Transcript::new().command(line).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gen {line}\n{err}");
        assert_eq!(text.lines().count(), 1, "gen {line}\n{text}");
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("gen {line}: {e}\n{text}"));
        assert!(value.is_object(), "gen {line}");
        if line.starts_with("eval-fid") {
            assert!(err.contains("warning: "), "a warning is on stderr\n{err}");
        }
    }
    // A failure says nothing on stdout.
    t.fails(4, "sample --model absent --out x --json");
    t.fails(3, "eval-fid --images absent --ref images/good --features pixel8 --json");
    t.check("output-json");
}

#[test]
fn errors_as_json() {
    let mut t = Transcript::new();
    for (code, line) in [
        (2, "sample --model runs/plain --out x --steps 0 --log-format json"),
        (2, "sample --model runs/plain --out x --order 9 --log-format json"),
        (2, "--log-format=json frobnicate"),
        (3, "train tiny.toml --data absent --out x --log-format json"),
        (4, "inspect absent --log-format json"),
    ] {
        let output = t.command(line).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "gen {line}");
        let text = String::from_utf8(output.stderr).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("gen {line}: {e}\n{text}"));
        assert_eq!((value["level"].as_str(), value["code"].as_i64()), (Some("error"), Some(i64::from(code))));
        assert!(value["message"].is_string() && value["hint"].is_string(), "{text}");
    }
    t.env("GEN_LOG_FORMAT", "json");
    let text = String::from_utf8(t.command("sample --steps 0").output().unwrap().stderr).unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
    // News and warnings, too: every line is an object.
    let output =
        t.command("eval-fid --images images/good --ref images/good --features pixel8").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|v| v["level"] == "warning"))
    );
    assert!(text.lines().count() >= 1);
}

#[test]
fn quiet_commands_say_nothing() {
    for line in [
        "train tiny.toml --data data/digits --out runs/quiet -q",
        "sample --model runs/plain --out out/quiet --seeds 0-1 -q",
        "selftest --only euler -q",
        "selftest sound --only mu-law -q",
        "bench tiny.toml --shape 1,8,8 --batch 1 --repeat 1 -q",
    ] {
        let output = Transcript::new().command(line).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && err.is_empty(), "gen {line}\n{err}");
    }
}

#[test]
fn colours_are_for_those_who_want_them() {
    let stderr = |line: &str, no_color: Option<&str>| {
        let mut command = Transcript::new().command(line);
        command.env_remove("NO_COLOR");
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    for line in ["sample --model absent --out x", "sample --steps 0"] {
        assert!(!stderr(line, None).contains('\x1b'), "no colours into a pipe");
        assert!(!stderr(line, Some("1")).contains('\x1b'));
        assert!(!stderr(&format!("{line} --color never"), None).contains('\x1b'));
        let coloured = stderr(&format!("{line} --color always"), None);
        assert!(coloured.starts_with("\x1b[1;31merror:\x1b[0m "), "{coloured:?}");
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    for line in
        ["--help", "inspect models/whole.safetensors", "completions bash", "man", "train tiny.toml --dry-run"]
    {
        let mut command = Transcript::new().command(line);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && err.is_empty(), "gen {line}: {:?}\n{err}", output.status);
    }
}

#[test]
fn a_full_disk_is_told() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Transcript::new().command("inspect models/whole.safetensors");
    let output = command.stdout(full).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.starts_with("error: cannot write (stdout): no space left on device\nhint: "), "{err}");
}

#[test]
fn a_picture_goes_to_stdout_alone() {
    let mut command = Transcript::new().command("sample --model runs/plain --seeds 7 --out - --json");
    let output = command.output().unwrap();
    assert!(output.status.success());
    let picture = image::load_from_memory(&output.stdout).unwrap();
    assert_eq!((picture.width(), picture.height()), (8, 8));
    assert!(!world().join("-").exists());
}

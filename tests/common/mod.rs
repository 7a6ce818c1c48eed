//! Running the program as a user does.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The checkout.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// `gen` with the given arguments, on the CPU with one thread.
pub fn gen_command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gen"));
    command.args(args).env("GEN_DEVICE", "cpu").env("GEN_THREADS", "1");
    // Weights that the user of this machine has must not matter.
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR")).current_dir(root());
    command
}

/// Runs `gen` and expects success; gives its stdout.
pub fn run(args: &[&str]) -> String {
    let output = gen_command(args).output().unwrap();
    assert!(output.status.success(), "gen {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `gen` and gives everything.
pub fn outcome(args: &[&str]) -> Output {
    gen_command(args).output().unwrap()
}

/// Runs `gen` with `--json` and gives the object.
pub fn json(args: &[&str]) -> serde_json::Value {
    let mut all = args.to_vec();
    all.push("--json");
    serde_json::from_str(&run(&all)).unwrap()
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A small, fast recipe on the shipped digits.
pub const TINY: &str = r#"
[model]
type = "song-unet"
model_channels = 8
channel_mult = [1, 2]
num_blocks = 1
attn_resolutions = [4]
dropout = 0.1

[process]
type = "edm"
sigma_min = 0.02
sigma_max = 20.0

[objective]
type = "edm"
sigma_data = 0.75

[data]
split = "train"
classes = false

[train]
batch = 16
steps = 20
log_every = 7

[optim]
type = "adamw"
lr = 1e-3
warmup = 5
schedule = "cosine"
clip = 1.0

[ema]
type = "decay"
decay = 0.9

[sample]
steps = 5
solver = { name = "dpm++" }
"#;

/// Writes [`TINY`] into a folder.
pub fn tiny_recipe(folder: &Path) -> PathBuf {
    let path = folder.join("recipe.toml");
    std::fs::write(&path, TINY).unwrap();
    path
}

/// The digits.
pub fn digits() -> PathBuf {
    root().join("data/digits")
}

/// Trains [`TINY`] into `folder/run` and gives that.
pub fn tiny_run(folder: &Path, extra: &[&str]) -> PathBuf {
    let recipe = tiny_recipe(folder);
    let out = folder.join("run");
    let data = digits();
    let mut args = vec!["train", text(&recipe), "--data", text(&data), "--out", text(&out), "-q"];
    args.extend(extra);
    run(&args);
    out
}

//! The spellings of other programs, and the environment.

use std::fs;

use serde_json::Value;

use super::world::{Transcript, world};

fn settings(line: &str, env: &[(&'static str, &str)], out: &str) -> Value {
    let mut t = Transcript::new();
    for (key, value) in env {
        t.env(key, value);
    }
    let output = t.command(line).output().unwrap();
    assert!(output.status.success(), "gen {line}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&fs::read_to_string(world().join(out).join("sample.json")).unwrap()).unwrap()
}

#[test]
fn edm_users_keep_their_flags() {
    let edm = "sample --network=runs/plain --outdir=out/edm --seeds=0-1 --steps=4 --solver=edm --sigma_min=0.05 \
               --sigma_max=10 --rho=5 --S_churn=3 --S_min=0.1 --S_max=inf --S_noise=1.003 --batch=1";
    let own = "sample --model runs/plain --out out/own --seeds 0-1 --steps 4 --solver edm --sigma-min 0.05 \
               --sigma-max 10 --rho 5 --s-churn 3 --s-min 0.1 --s-max inf --s-noise 1.003 --batch 1";
    let (edm, own) = (settings(edm, &[], "out/edm"), settings(own, &[], "out/own"));
    assert_eq!(edm, own);
    assert_eq!(edm["solver"]["churn"]["s_churn"], 3.0);
    assert_eq!(edm["sigma"][0].as_f64().map(f64::round), Some(10.0));
}

#[test]
fn diffusers_users_keep_their_flags() {
    let theirs = settings(
        "sample --model runs/classes --output_dir out/theirs --num_inference_steps 4 --guidance_scale 2 --seeds 0",
        &[],
        "out/theirs",
    );
    let ours =
        settings("sample -m runs/classes -o out/ours --steps 4 --guidance 2 --seeds 0", &[], "out/ours");
    assert_eq!(theirs, ours);
    assert_eq!(theirs["guidance"], 2.0);
    let dry = |line: &str| {
        let output = Transcript::new().command(line).output().unwrap();
        assert!(output.status.success(), "gen {line}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        dry(
            "train tiny.toml --train_data_dir data/digits --output_dir x --train_batch_size 8 --max_train_steps 9 \
             --resume_from_checkpoint latest --dry_run"
        ),
        dry("train tiny.toml --data data/digits --out x --batch 8 --steps 9 --resume auto --dry-run")
    );
}

#[test]
fn every_long_option_is_known_with_underscores_and_to_the_environment() {
    let command = genlib::cli::surface::command();
    let mut seen = 0;
    for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
        for arg in sub.get_arguments() {
            let Some(long) = arg.get_long().filter(|long| !["help", "version"].contains(long)) else {
                continue;
            };
            let place = format!("gen {} --{long}", sub.get_name());
            let under = long.replace('-', "_");
            let names = arg.get_all_aliases().unwrap_or_default();
            assert!(under == long || names.contains(&under.as_str()), "{place} has no --{under}");
            assert!(arg.get_env().is_some_and(|e| e.to_string_lossy().starts_with("GEN_")), "{place}");
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} options");
}

#[test]
fn the_environment_gives_what_the_command_line_leaves_out() {
    let env =
        [("GEN_MODEL", "runs/plain"), ("GEN_SEEDS", "0-1"), ("GEN_STEPS", "3"), ("GEN_NO_METADATA", "1")];
    let by_env = settings("sample --out out/by-env", &env, "out/by-env");
    assert_eq!(by_env["nfe"], 3);
    // The command line wins.
    let by_both = settings("sample --out out/by-both --steps 4", &env, "out/by-both");
    assert_eq!(by_both["nfe"], 4);
    // Underscores reach switches and global options, too.
    let output = Transcript::new()
        .command("sample --model runs/plain --out out/under --seeds 0 --no_metadata --latent_dtype f64 --log_format json")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.starts_with(b"{"), "{}", String::from_utf8_lossy(&output.stderr));
    // A switch that says no is off.
    let off = [("GEN_JSON", "0"), ("GEN_MODEL", "runs/plain"), ("GEN_SEEDS", "0")];
    let mut t = Transcript::new();
    for (key, value) in off {
        t.env(key, value);
    }
    let output = t.command("sample --out out/off -q").output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
}

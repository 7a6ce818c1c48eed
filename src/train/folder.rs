//! The run folder: what lies where, and which checkpoint is the newest whole one.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// A folder that a training run lives in.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// The run folder at `root`, made if it is not there.
    ///
    /// # Errors
    /// Where it cannot be made, or `root` is a file.
    pub fn create(root: &Path) -> Result<Self> {
        for folder in
            [root.to_path_buf(), root.join("checkpoints"), root.join("snapshots"), root.join("samples")]
        {
            fs::create_dir_all(&folder).map_err(|e| Error::write(&folder, &e))?;
        }
        Ok(RunFolder { root: root.to_path_buf() })
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved recipe.
    #[must_use]
    pub fn recipe(&self) -> PathBuf {
        self.root.join("recipe.toml")
    }

    /// The tokenizer of a run on text.
    #[must_use]
    pub fn tokenizer(&self) -> PathBuf {
        self.root.join("tokenizer.json")
    }

    /// One JSON object for every logged step.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root.join("log.jsonl")
    }

    /// The picture of the loss.
    #[must_use]
    pub fn curve(&self) -> PathBuf {
        self.root.join("loss.svg")
    }

    /// The checkpoint of `step`.
    #[must_use]
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.root.join("checkpoints").join(format!("{step:08}"))
    }

    /// The EMA weights after `step`, as one self-describing file; `profile` names one of several EMAs.
    #[must_use]
    pub fn snapshot(&self, step: u64, profile: Option<&str>) -> PathBuf {
        let name = match profile {
            None => format!("{step:08}.safetensors"),
            Some(profile) => format!("{step:08}-{profile}.safetensors"),
        };
        self.root.join("snapshots").join(name)
    }

    /// The grid of samples drawn after `step`.
    #[must_use]
    pub fn samples(&self, step: u64) -> PathBuf {
        self.root.join("samples").join(format!("{step:08}.png"))
    }

    /// Writes what the run computes with to `env.json`.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_env(&self, device: &str, threads: i32) -> Result<()> {
        let path = self.root.join("env.json");
        let args: Vec<String> = std::env::args().collect();
        let value = json!({
            "gen": env!("CARGO_PKG_VERSION"), "commit": env!("GEN_COMMIT"), "libtorch": crate::torch::LIBTORCH,
            "device": device, "threads": threads, "command": args,
            "machine": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        });
        fs::write(&path, format!("{value:#}\n")).map_err(|e| Error::write(&path, &e))
    }

    /// The steps of the whole checkpoints, ascending. Half-written ones have other names.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<u64>> {
        let folder = self.root.join("checkpoints");
        let entries = fs::read_dir(&folder).map_err(|e| Error::read(&folder, &e))?;
        let mut steps: Vec<u64> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|step| self.checkpoint(*step).join("state.json").exists())
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Removes all checkpoints but the newest `keep`, and what a killed run left half-written.
    ///
    /// # Errors
    /// Where the folder cannot be read or changed.
    pub fn prune(&self, keep: usize) -> Result<()> {
        let steps = self.checkpoints()?;
        for step in steps.iter().rev().skip(keep.max(1)) {
            let path = self.checkpoint(*step);
            fs::remove_dir_all(&path).map_err(|e| Error::write(&path, &e))?;
        }
        let folder = self.root.join("checkpoints");
        let entries = fs::read_dir(&folder).map_err(|e| Error::read(&folder, &e))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            // Half-written under a temporary name, or half-removed.
            let temporary = path.file_name().is_some_and(|name| name.to_string_lossy().contains(".tmp-"));
            if temporary || !path.join("state.json").exists() {
                fs::remove_dir_all(&path).map_err(|e| Error::write(&path, &e))?;
            }
        }
        Ok(())
    }

    /// The logged steps so far as (step, loss), for the curve of a resumed run.
    #[must_use]
    pub fn logged(&self, key: &str) -> Vec<(u64, f64)> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let value: Value = serde_json::from_str(line).ok()?;
                Some((value["step"].as_u64()?, value[key].as_f64()?))
            })
            .collect()
    }

    /// Drops the log lines after `step`: a run that was killed goes back to its last checkpoint.
    ///
    /// # Errors
    /// Where the log cannot be read or written.
    pub fn rewind_log(&self, step: u64) -> Result<()> {
        let path = self.log();
        if !path.exists() {
            return Ok(());
        }
        let text = fs::read_to_string(&path).map_err(|e| Error::read(&path, &e))?;
        let kept: String = text
            .lines()
            .filter(|line| {
                serde_json::from_str::<Value>(line)
                    .is_ok_and(|value| value["step"].as_u64().is_some_and(|at| at <= step))
            })
            .map(|line| format!("{line}\n"))
            .collect();
        if kept == text {
            return Ok(());
        }
        fs::write(&path, kept).map_err(|e| Error::write(&path, &e))
    }
}

/// Keys whose change does not change the past.
const FREE: &[&str] = &[
    "train.steps",
    "train.images",
    "train.log_every",
    "train.sample_every",
    "train.snapshot_every",
    "train.checkpoint_every",
    "train.keep",
    "train.validate_every",
    "train.validate_count",
    "sample",
    "data.path",
    "data.workers",
];

/// Refuses to go on with a run under a recipe that would have changed its past.
///
/// `schedule_knows_end`: the learning rate depends on the number of steps, so that may not change either.
///
/// # Errors
/// Where such a key differs; the error names it and both values.
pub fn same_past(old: &Value, new: &Value, schedule_knows_end: bool) -> Result<()> {
    let free = |key: &str| {
        let steps = key == "train.steps" || key == "train.images";
        (!steps || !schedule_knows_end)
            && FREE.iter().any(|f| key == *f || key.strip_prefix(f).is_some_and(|rest| rest.starts_with('.')))
    };
    let (old, new) = (flatten(old), flatten(new));
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let (a, b) = (old.get(key), new.get(key));
        if a != b && !free(key) {
            let show = |v: Option<&Value>| v.map_or_else(|| "nothing".to_owned(), ToString::to_string);
            return Err(Error::usage(format!("`{key}` differs from the run's"))
                .why(format!("it was {}, now it is {}", show(a), show(b)))
                .hint("train into another --out folder, or set the key back"));
        }
    }
    Ok(())
}

fn flatten(value: &Value) -> std::collections::BTreeMap<String, Value> {
    fn walk(prefix: &str, value: &Value, out: &mut std::collections::BTreeMap<String, Value>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&name, value, out);
                }
            }
            other => {
                out.insert(prefix.to_owned(), other.clone());
            }
        }
    }
    let mut out = std::collections::BTreeMap::new();
    walk("", value, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_checkpoints_count_and_the_newest_stay() {
        let temp = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(temp.path()).unwrap();
        for step in [5, 10, 20] {
            fs::create_dir(folder.checkpoint(step)).unwrap();
            fs::write(folder.checkpoint(step).join("state.json"), "{}").unwrap();
        }
        // Killed while it was removed, and while it was written.
        fs::create_dir(folder.checkpoint(30)).unwrap();
        fs::create_dir(temp.path().join("checkpoints/00000040.tmp-7")).unwrap();
        assert_eq!(folder.checkpoints().unwrap(), [5, 10, 20]);
        folder.prune(2).unwrap();
        assert_eq!(folder.checkpoints().unwrap(), [10, 20]);
        assert_eq!(fs::read_dir(temp.path().join("checkpoints")).unwrap().count(), 2);
    }

    #[test]
    fn the_log_goes_back_to_the_checkpoint() {
        let temp = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(temp.path()).unwrap();
        fs::write(folder.log(), "{\"step\":1,\"loss\":2.0}\n{\"step\":2,\"loss\":1.5}\n{\"step\":3,\"lo")
            .unwrap();
        folder.rewind_log(1).unwrap();
        assert_eq!(folder.logged("loss"), [(1, 2.0)]);
    }

    #[test]
    fn the_past_may_not_change() {
        let old = json!({"optim": {"lr": 1e-3}, "train": {"steps": 10, "keep": 2}, "sample": {"steps": 3}});
        let mut new = old.clone();
        new["train"]["steps"] = json!(20);
        new["sample"]["steps"] = json!(5);
        assert!(same_past(&old, &new, false).is_ok());
        assert!(same_past(&old, &new, true).unwrap_err().to_string().contains("`train.steps`"));
        new["optim"]["lr"] = json!(2e-3);
        assert!(same_past(&old, &new, false).unwrap_err().to_string().contains("`optim.lr`"));
    }
}

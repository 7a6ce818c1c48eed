//! `samples.jsonl`: the samples of an autoregressive model sorted by likelihood, and which of them are kept.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::sound::Reject;
use crate::error::{Error, Result};
use crate::io::atomic;

/// Fewest samples of which shares mean something.
pub const FEWEST: usize = 20;

/// Writes `samples.jsonl` in the folder of a `manifest.jsonl`: its lines by growing log-likelihood, with `rank` and
/// `kept`. Of `n` samples the ranks below `floor(low n)` and from `floor((1 - high) n)` on are not kept. Gives the
/// number that is.
///
/// # Errors
/// Where there are too few samples to reject any, or a file cannot be read or written.
pub fn write(folder: &Path, reject: Option<Reject>) -> Result<usize> {
    let manifest = folder.join("manifest.jsonl");
    let text = std::fs::read_to_string(&manifest).map_err(|e| Error::read(&manifest, &e))?;
    let mut lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if reject.is_some() && lines.len() < FEWEST {
        return Err(Error::usage(format!("--reject needs at least {FEWEST} samples"))
            .at(folder.display())
            .why(format!("there are {}", lines.len())));
    }
    let likelihood = |line: &Value| line["log_likelihood_nats"].as_f64().unwrap_or(f64::NEG_INFINITY);
    lines.sort_by(|a, b| likelihood(a).total_cmp(&likelihood(b)));
    let kept = kept(lines.len(), reject);
    let path = folder.join("samples.jsonl");
    atomic::write(&path, |out| {
        for (rank, line) in lines.iter_mut().enumerate() {
            line["rank"] = json!(rank);
            line["kept"] = json!(kept.contains(&rank));
            out.write_all(format!("{line}\n").as_bytes()).map_err(|e| Error::write(&path, &e))?;
        }
        Ok(())
    })?;
    Ok(kept.len())
}

fn kept(n: usize, reject: Option<Reject>) -> std::ops::Range<usize> {
    let Some(Reject { low, high }) = reject else { return 0..n };
    // A share such as 0.95 of 20 is 19, whatever its last bit says.
    let index = |share: f64| (share * n as f64 + 1e-9).floor() as usize;
    index(low)..index(1.0 - high).max(index(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_cut_from_both_ends() {
        assert_eq!(kept(10_240, Some(Reject { low: 0.4, high: 0.05 })), 4096..9728);
        assert_eq!(kept(20, Some(Reject { low: 0.4, high: 0.05 })), 8..19);
        assert_eq!(kept(7, None), 0..7);
    }

    #[test]
    fn lines_are_sorted_by_likelihood() {
        let dir = tempfile::tempdir().unwrap();
        let lines: Vec<String> =
            (0..20).map(|i| json!({"seed": i, "log_likelihood_nats": -((i * 7) % 20)}).to_string()).collect();
        std::fs::write(dir.path().join("manifest.jsonl"), lines.join("\n")).unwrap();
        assert_eq!(write(dir.path(), Some(Reject { low: 0.4, high: 0.05 })).unwrap(), 11);
        let text = std::fs::read_to_string(dir.path().join("samples.jsonl")).unwrap();
        let all: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let likelihoods: Vec<f64> = all.iter().map(|l| l["log_likelihood_nats"].as_f64().unwrap()).collect();
        assert!(likelihoods.is_sorted() && likelihoods.len() == 20);
        assert_eq!((all[7]["kept"].clone(), all[8]["kept"].clone()), (json!(false), json!(true)));
        std::fs::write(dir.path().join("manifest.jsonl"), &lines[0]).unwrap();
        assert!(write(dir.path(), Some(Reject { low: 0.1, high: 0.0 })).is_err());
        assert_eq!(write(dir.path(), None).unwrap(), 1);
    }
}

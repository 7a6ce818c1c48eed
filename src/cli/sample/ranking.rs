//! `samples.jsonl`: the samples of an autoregressive model sorted by likelihood, and which of them are kept.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};
use tch::Device;

use super::sound::Reject;
use crate::cli::eval_audio::SoundChoice;
use crate::data::audio::{AudioSpec, Clips, Part};
use crate::error::{Error, Result};
use crate::io::atomic;
use crate::metric::audio::features::{SoundExtractor, collect};
use crate::metric::audio::reject::{Tuned, tune};
use crate::metric::audio::scores::Probabilities;

/// Sounds in one call of the classifier.
const BATCH: usize = 32;

/// What was put aside.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ranked {
    /// Samples in all.
    samples: usize,
    /// Those that are kept.
    kept: usize,
    /// Share of the least likely ones that is not.
    low: f64,
    /// Share of the most likely ones that is not.
    high: f64,
    /// How the shares were found, where they were searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    tuned: Option<Tuned>,
}

impl Ranked {
    /// For a person.
    pub fn words(&self) -> String {
        let Ranked { samples, kept, low, high, .. } = self;
        let found = self.tuned.map_or_else(String::new, |t| {
            format!(
                "; tuned: Inception Score of the other half {:.3}, before {:.3}",
                t.test.inception_score, t.test_all.inception_score
            )
        });
        format!(
            "{kept} of {samples} samples are kept, as samples.jsonl says: the least likely {:.0} % and the most \
             likely {:.0} % are not{found}",
            100.0 * low,
            100.0 * high
        )
    }
}

/// Checks before any work that `samples` are enough, and opens the classifier where one is needed.
///
/// # Errors
/// A usage error where they are too few; a model error where the classifier is missing.
pub fn prepare(
    reject: Reject,
    classifier: &SoundChoice,
    samples: usize,
    device: Device,
) -> Result<Option<SoundExtractor>> {
    enough(reject, samples).map_err(|e| e.at("--reject").why(format!("{samples} are asked for")))?;
    (reject == Reject::Tune).then(|| classifier.open(device)).transpose()
}

fn enough(reject: Reject, samples: usize) -> Result<()> {
    let fewest = reject.fewest();
    let few = || Error::usage(format!("--reject needs at least {fewest} samples"));
    if samples < fewest { Err(few()) } else { Ok(()) }
}

/// Writes `samples.jsonl` in the folder of a `manifest.jsonl`: its lines by growing log-likelihood, with `rank` and
/// `kept`. Of `n` samples the ranks below `floor(low n)` and from `floor((1 - high) n)` on are not kept; `classifier`
/// tunes these shares.
///
/// # Errors
/// Where there are too few samples to reject any, or a file cannot be read or written.
pub fn write(folder: &Path, reject: Option<Reject>, classifier: Option<&SoundExtractor>) -> Result<Ranked> {
    let manifest = folder.join("manifest.jsonl");
    let text = std::fs::read_to_string(&manifest).map_err(|e| Error::read(&manifest, &e))?;
    let mut lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if let Some(reject) = reject {
        enough(reject, lines.len())
            .map_err(|e| e.at(folder.display()).why(format!("there are {}", lines.len())))?;
    }
    let likelihood = |line: &Value| line["log_likelihood_nats"].as_f64().unwrap_or(f64::NEG_INFINITY);
    lines.sort_by(|a, b| likelihood(a).total_cmp(&likelihood(b)));
    let tuned = classifier.map(|classifier| tuned(folder, &lines, classifier)).transpose()?;
    let (low, high) = match (tuned, reject) {
        (Some(tuned), _) => (tuned.low, tuned.high),
        (None, Some(Reject::Shares { low, high })) => (low, high),
        _ => (0.0, 0.0),
    };
    let kept = kept(lines.len(), low, high);
    let path = folder.join("samples.jsonl");
    atomic::write(&path, |out| {
        for (rank, line) in lines.iter_mut().enumerate() {
            line["rank"] = json!(rank);
            line["kept"] = json!(kept.contains(&rank));
            out.write_all(format!("{line}\n").as_bytes()).map_err(|e| Error::write(&path, &e))?;
        }
        Ok(())
    })?;
    Ok(Ranked { samples: lines.len(), kept: kept.len(), low, high, tuned })
}

/// The best shares for the sounds of the sorted `lines`.
fn tuned(folder: &Path, lines: &[Value], classifier: &SoundExtractor) -> Result<Tuned> {
    let spec = AudioSpec {
        rate: classifier.rate,
        length: classifier.length,
        channels: Some(1),
        ..AudioSpec::default()
    };
    let clips = Clips::open(folder, Part::All, &spec)?;
    let places: BTreeMap<String, usize> = (0..clips.len()).map(|i| (clips.name(i), i)).collect();
    let indices = lines
        .iter()
        .map(|line| {
            let name = line["file"].as_str().unwrap_or_default();
            places.get(name).copied().ok_or_else(|| Error::data("a sample is missing").at(name))
        })
        .collect::<Result<Vec<_>>>()?;
    let logits = collect(&clips, &indices, classifier, BATCH, &mut |_| ())?.logits.ok_or_else(|| {
        Error::usage(format!("`{}` gives no class probabilities", classifier.name))
            .at("--classifier")
            .hint("tuning needs a module that returns embeddings and logits")
    })?;
    tune(&Probabilities::of_logits(&logits)?, 0)
}

fn kept(n: usize, low: f64, high: f64) -> std::ops::Range<usize> {
    // A share such as 0.95 of 20 is 19, whatever its last bit says.
    let index = |share: f64| (share * n as f64 + 1e-9).floor() as usize;
    index(low)..index(1.0 - high).max(index(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_cut_from_both_ends() {
        assert_eq!(kept(10_240, 0.4, 0.05), 4096..9728);
        assert_eq!(kept(20, 0.4, 0.05), 8..19);
        assert_eq!(kept(7, 0.0, 0.0), 0..7);
    }

    #[test]
    fn lines_are_sorted_by_likelihood() {
        let dir = tempfile::tempdir().unwrap();
        let lines: Vec<String> =
            (0..20).map(|i| json!({"seed": i, "log_likelihood_nats": -((i * 7) % 20)}).to_string()).collect();
        std::fs::write(dir.path().join("manifest.jsonl"), lines.join("\n")).unwrap();
        assert_eq!(write(dir.path(), Some(Reject::Shares { low: 0.4, high: 0.05 }), None).unwrap().kept, 11);
        let text = std::fs::read_to_string(dir.path().join("samples.jsonl")).unwrap();
        let all: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let likelihoods: Vec<f64> = all.iter().map(|l| l["log_likelihood_nats"].as_f64().unwrap()).collect();
        assert!(likelihoods.is_sorted() && likelihoods.len() == 20);
        assert_eq!((all[7]["kept"].clone(), all[8]["kept"].clone()), (json!(false), json!(true)));
        std::fs::write(dir.path().join("manifest.jsonl"), &lines[0]).unwrap();
        assert!(write(dir.path(), Some(Reject::Shares { low: 0.1, high: 0.0 }), None).is_err());
        assert_eq!(write(dir.path(), None, None).unwrap().kept, 1);
    }
}

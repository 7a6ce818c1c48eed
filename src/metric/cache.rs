//! Features kept between runs.
//!
//! A file is named by a hash of everything its content depends on: the list of images with the sizes and times of
//! their files (or their content, where they lie in one array), the extractor with its weights, how images are resized, and the version of this code. A file that is
//! damaged is made again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::collect::{Collected, Progress, list_hash};
use super::features::{Extractor, Wanted};
use super::frechet::Gaussian;
use super::inception_weights::hex;
use super::settings::EvalOptions;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::io::safetensors;
use sha2::{Digest, Sha256};

/// Raised whenever features of the same images come out differently.
const VERSION: u32 = 1;

/// As [`super::collect::collect`], from the cache where `options` name one and it has what is wanted.
///
/// # Errors
/// As there, or where the folder cannot be written.
pub fn collect(
    dataset: &Arc<dyn Dataset>,
    indices: &[usize],
    extractor: &dyn Extractor,
    wanted: Wanted,
    keep: bool,
    options: &EvalOptions,
    progress: Progress<'_>,
) -> Result<Collected> {
    let fresh = |keep: bool, progress: Progress<'_>| {
        super::collect::collect(dataset, indices, extractor, wanted, keep, options, progress)
    };
    let Some((folder, stamp)) = options.cache.as_ref().and_then(|f| Some((f, dataset.stamp()?))) else {
        return fresh(keep, progress);
    };
    let path = place(folder, &stamp, &list_hash(&**dataset, indices), extractor, wanted);
    let mut notes = dataset.notes();
    if path.exists() {
        match read(&path, wanted, options) {
            Ok(mut found) => {
                progress(indices.len(), indices.len());
                found.labels = indices.iter().map(|&i| dataset.label(i)).collect();
                found.list_sha256 = list_hash(&**dataset, indices);
                found.features = found.features.filter(|_| keep);
                found.notes.append(&mut notes);
                return Ok(found);
            }
            Err(error) => notes.push(format!("{}: made again, as it is damaged: {error}", path.display())),
        }
    }
    let mut found = fresh(true, progress)?;
    std::fs::create_dir_all(folder)
        .map_err(|e| Error::run("cannot make a folder").at(folder.display()).why(e.to_string()))?;
    write(&path, &found)?;
    found.features = found.features.filter(|_| keep);
    found.notes = notes;
    Ok(found)
}

fn place(folder: &Path, stamp: &str, list: &str, extractor: &dyn Extractor, wanted: Wanted) -> PathBuf {
    let protocol = extractor.protocol().map(|p| p.to_string());
    let key = format!(
        "{VERSION}|{stamp}|{list}|{}|{:?}|{:?}|{:?}|{wanted:?}",
        extractor.name(),
        extractor.weights_sha256(),
        protocol,
        extractor.resize()
    );
    folder.join(format!("{}.safetensors", &hex(&Sha256::digest(key.as_bytes()))[..32]))
}

fn write(path: &Path, found: &Collected) -> Result<()> {
    let mut list = vec![("mu", &found.gaussian.mean), ("sigma", &found.gaussian.cov)];
    list.extend(found.spatial.iter().flat_map(|g| [("mu_s", &g.mean), ("sigma_s", &g.cov)]));
    list.extend(found.features.iter().map(|f| ("features", f)));
    list.extend(found.logits.iter().map(|l| ("logits", l)));
    let n = found.gaussian.n.unwrap_or(0).to_string();
    safetensors::write(path, list, &BTreeMap::from([("gen_features".to_owned(), n)]))
}

fn read(path: &Path, wanted: Wanted, options: &EvalOptions) -> Result<Collected> {
    let file = safetensors::File::open(path)?;
    let n: Option<u64> = file.metadata().get("gen_features").and_then(|n| n.parse().ok());
    let Some(n) = n else { return Err(Error::data("no features")) };
    let gaussian = |mean: &str, cov: &str| -> Result<Gaussian> {
        let mean = file.tensor(mean)?;
        let d = mean.size().first().copied().unwrap_or(0);
        Ok(Gaussian { n: Some(n), mean, cov: file.tensor_shaped(cov, &[d, d])? })
    };
    let features = file.tensor("features")?.f_to_device(options.device)?;
    let (rows, width) = features.size2()?;
    if rows.unsigned_abs() != n {
        return Err(Error::data(format!("{rows} rows of features for {n} images")));
    }
    Ok(Collected {
        gaussian: gaussian("mu", "sigma")?,
        spatial: if wanted.spatial { Some(gaussian("mu_s", "sigma_s")?) } else { None },
        few: (rows <= width).then(|| features.shallow_clone()),
        features: Some(features),
        logits: if wanted.logits { Some(file.tensor("logits")?) } else { None },
        labels: None,
        list_sha256: String::new(),
        notes: Vec::new(),
    })
}

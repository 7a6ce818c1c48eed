//! Reference statistics on disk.
//!
//! Read: `.npz` of EDM, TTUR and pytorch-fid (`mu`, `sigma`; also `m`/`s`, `mean`/`cov`), of the ADM reference
//! batches (with `mu_s`, `sigma_s` of the spatial features and `arr_0`, 10 000 images for precision and recall),
//! of score_sde (`pool_3`, raw activations) and clean-fid (`feats`, the same for KID), and the own safetensors form, which says how it was made. Written:
//! `.npz` (`mu`, `sigma` f64) and safetensors.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::frechet::Gaussian;
use super::resize::Protocol;
use crate::error::{Error, Result};
use crate::io::bytes::tensor_to_f64;
use crate::io::npy::Array;
use crate::io::npz::{self, Npz};
use crate::io::safetensors;

/// How statistics were made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// Name of the extractor.
    pub extractor: Option<String>,
    /// SHA-256 of its weights.
    pub weights_sha256: Option<String>,
    /// Resizing protocol.
    pub protocol: Option<Protocol>,
    /// How images were resized, where it is no protocol of FID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<String>,
    /// Number of images.
    pub n: Option<u64>,
    /// What the images were.
    pub source: Option<String>,
    /// SHA-256 of the list of images.
    pub list_sha256: Option<String>,
    /// Version of gen.
    pub gen_version: Option<String>,
}

/// Statistics of a reference set.
#[derive(Debug)]
pub struct Stats {
    /// Gaussian of the features.
    pub gaussian: Gaussian,
    /// Gaussian of the spatial features (sFID).
    pub spatial: Option<Gaussian>,
    /// The features themselves `[N, d]`, for the metrics that need them.
    pub features: Option<Tensor>,
    /// How they were made.
    pub origin: Origin,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// Whether `path` holds statistics rather than images.
///
/// # Errors
/// Where it cannot be read.
pub fn is_stats(path: &Path) -> Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    let data = crate::io::bytes::Bytes::map(path)?;
    if data.starts_with(b"PK") {
        return Ok(Npz::open(path).is_ok_and(|npz| raw(&npz).is_some() || keys(&npz).is_some()));
    }
    Ok(safetensors::File::open(path).is_ok_and(|file| file.metadata().contains_key("gen_stats")))
}

fn keys(npz: &Npz) -> Option<(&'static str, &'static str)> {
    [("mu", "sigma"), ("m", "s"), ("mean", "cov")].into_iter().find(|(m, s)| npz.has(m) && npz.has(s))
}

/// The array of raw features: score_sde's and clean-fid's (`..._kid.npz`) files hold these alone.
fn raw(npz: &Npz) -> Option<&'static str> {
    ["pool_3", "feats"].into_iter().find(|name| npz.has(name))
}

impl Stats {
    /// Reads statistics of any form.
    ///
    /// # Errors
    /// Where the file is of no such form, shapes do not fit, or a covariance is not one.
    pub fn read(path: &Path) -> Result<Self> {
        let data = crate::io::bytes::Bytes::map(path)?;
        let read = if data.starts_with(b"PK") { Self::read_npz(path) } else { Self::read_safetensors(path) };
        read.map_err(|e| e.at(path.display()))
    }

    fn read_npz(path: &Path) -> Result<Self> {
        let mut npz = Npz::open(path)?;
        let mut notes = Vec::new();
        let Some((mu, sigma)) = keys(&npz) else {
            if let Some(name) = raw(&npz) {
                let features = npz.array(name)?.to_tensor()?.f_to_kind(Kind::Float)?;
                let gaussian = Gaussian::fit(&features)?;
                let protocol = protocol_of_name(path);
                let origin = Origin { n: gaussian.n, protocol, ..Origin::default() };
                return Ok(Stats { gaussian, spatial: None, features: Some(features), origin, notes });
            }
            return Err(Error::data("no statistics")
                .why(format!("it holds {}, `mu` and `sigma` are needed", npz.names().join(", "))));
        };
        if mu != "mu" {
            notes.push(format!("{}: taking `{mu}` as mean and `{sigma}` as covariance", path.display()));
        }
        let mut gaussian = |mean: &str, cov: &str| -> Result<Gaussian> {
            let tensor = |array: Array| array.to_tensor()?.f_to_kind(Kind::Double).map_err(Error::from);
            checked(tensor(npz.array(mean)?)?, tensor(npz.array(cov)?)?, None, (mean, cov))
        };
        let pool = gaussian(mu, sigma)?;
        let spatial = if npz_has(path, "mu_s")? { Some(gaussian("mu_s", "sigma_s")?) } else { None };
        let origin = Origin { protocol: protocol_of_name(path), ..Origin::default() };
        Ok(Stats { gaussian: pool, spatial, features: None, origin, notes })
    }

    fn read_safetensors(path: &Path) -> Result<Self> {
        let file = safetensors::File::open(path)?;
        let Some(text) = file.metadata().get("gen_stats") else {
            return Err(Error::data("no statistics").why("it has no `gen_stats` in its metadata"));
        };
        let origin: Origin = serde_json::from_str(text)
            .map_err(|e| Error::data("bad statistics").why(format!("`gen_stats`: {e}")))?;
        let gaussian = |mean: &str, cov: &str| -> Result<Gaussian> {
            checked(file.tensor(mean)?, file.tensor(cov)?, origin.n, (mean, cov))
        };
        let has = |name: &str| file.entries().contains_key(name);
        let spatial = if has("mu_s") { Some(gaussian("mu_s", "sigma_s")?) } else { None };
        let features = if has("features") { Some(file.tensor("features")?) } else { None };
        Ok(Stats { gaussian: gaussian("mu", "sigma")?, spatial, features, origin, notes: Vec::new() })
    }

    /// Writes statistics: `.npz` by that extension, safetensors otherwise (features only there).
    ///
    /// # Errors
    /// A write error.
    pub fn write(&self, path: &Path) -> Result<()> {
        let spatial = self.spatial.as_ref();
        let mut list = vec![("mu", &self.gaussian.mean), ("sigma", &self.gaussian.cov)];
        list.extend(spatial.iter().flat_map(|g| [("mu_s", &g.mean), ("sigma_s", &g.cov)]));
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz")) {
            return npz::write(path, |out| {
                for (name, tensor) in &list {
                    out.array(name, &Array::from_tensor(&tensor.f_to_kind(Kind::Double)?)?)?;
                }
                Ok(())
            });
        }
        list.extend(self.features.iter().map(|f| ("features", f)));
        let origin = serde_json::to_string(&self.origin)
            .map_err(|e| Error::run("cannot write statistics").why(e.to_string()))?;
        let metadata = BTreeMap::from([("gen_stats".to_owned(), origin)]);
        safetensors::write(path, list, &metadata)
    }
}

fn npz_has(path: &Path, name: &str) -> Result<bool> {
    Ok(Npz::open(path)?.has(name))
}

/// clean-fid names its files `<name>_<mode>_<split>_<res>.npz`.
fn protocol_of_name(path: &Path) -> Option<Protocol> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let has = |mode: &str| name.contains(&format!("_{mode}_"));
    if has("legacy_tensorflow") {
        Some(Protocol::Tf)
    } else if has("legacy_pytorch") {
        Some(Protocol::Pytorch)
    } else if has("clean") {
        Some(Protocol::Clean)
    } else {
        None
    }
}

/// A Gaussian read from a file: shapes, symmetry, finiteness, diagonal.
fn checked(mean: Tensor, cov: Tensor, n: Option<u64>, (mu, sigma): (&str, &str)) -> Result<Gaussian> {
    let bad = |key: &str, why: String| {
        Err(Error::data(format!("bad statistics `{key}`")).why(why).hint(
            "a covariance is finite, symmetric and not negative; `gen ref-stats` makes one from images",
        ))
    };
    let (mean, cov) = (mean.f_to_kind(Kind::Double)?.f_flatten(0, -1)?, cov.f_to_kind(Kind::Double)?);
    let d = mean.size()[0];
    if cov.size() != [d, d] {
        return bad(sigma, format!("expected shape {:?}, got {:?}", [d, d], cov.size()));
    }
    let number = |t: Tensor| -> Result<f64> { Ok(t.f_to_kind(Kind::Double)?.f_double_value(&[])?) };
    for (key, tensor) in [(mu, &mean), (sigma, &cov)] {
        if number(tensor.f_isfinite()?.f_all()?)? == 0.0 {
            return bad(key, "it holds values that are not finite".to_owned());
        }
    }
    let diagonal = tensor_to_f64(&cov.f_diagonal(0, 0, 1)?)?;
    if let Some((i, v)) = diagonal.iter().enumerate().find(|(_, v)| **v < 0.0) {
        return bad(sigma, format!("its diagonal is {v} at {i}"));
    }
    let skew = number(cov.f_sub(&cov.f_transpose(0, 1)?)?.f_abs()?.f_max()?)?;
    if skew > 1e-6 * number(cov.f_abs()?.f_max()?)? {
        return bad(sigma, format!("it is not symmetric: entries differ by {skew:e}"));
    }
    Ok(Gaussian { n, mean, cov })
}

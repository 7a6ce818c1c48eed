//! The weights of the FID Inception network: which tensors there are, and reading them from a file.
//!
//! The network of the TensorFlow graph `inception-2015-12-05` goes by several files with torchvision's names:
//! `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid, `weights-inception-2015-12-05-6726825d.pth` of
//! torch-fidelity, or a safetensors file made of either.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::io::bytes::Bytes;
use crate::io::{pth, safetensors};

/// First digits of the SHA-256 of the published `.pth` files.
pub const PUBLISHED: &str = "6726825d";

/// A convolution, batch normalisation and ReLU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Name, such as `Mixed_6d.branch7x7dbl_3`.
    pub name: String,
    /// Input channels.
    pub input: i64,
    /// Output channels.
    pub output: i64,
    /// Kernel height and width.
    pub kernel: [i64; 2],
    /// Stride.
    pub stride: i64,
    /// Padding of height and width.
    pub padding: [i64; 2],
}

/// The 94 units of the network.
#[must_use]
pub fn units() -> Vec<Unit> {
    let mut all = Vec::new();
    // Kernels with stride 2 and those of the stem without padding are "valid", all others "same".
    let mut unit = |name: String, input: i64, output: i64, kernel: [i64; 2], stride: i64, valid: bool| {
        let padding = if valid { [0, 0] } else { [kernel[0] / 2, kernel[1] / 2] };
        all.push(Unit { name, input, output, kernel, stride, padding });
    };
    for (name, input, output, k, stride, valid) in [
        ("Conv2d_1a_3x3", 3, 32, 3, 2, true),
        ("Conv2d_2a_3x3", 32, 32, 3, 1, true),
        ("Conv2d_2b_3x3", 32, 64, 3, 1, false),
        ("Conv2d_3b_1x1", 64, 80, 1, 1, false),
        ("Conv2d_4a_3x3", 80, 192, 3, 1, true),
    ] {
        unit(name.to_owned(), input, output, [k, k], stride, valid);
    }
    let mut block = |block: &str, branches: &[(&str, i64, i64, [i64; 2], i64)]| {
        for &(branch, input, output, kernel, stride) in branches {
            unit(format!("{block}.{branch}"), input, output, kernel, stride, stride == 2);
        }
    };
    for (name, n, pool) in [("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)] {
        block(
            name,
            &[
                ("branch1x1", n, 64, [1, 1], 1),
                ("branch5x5_1", n, 48, [1, 1], 1),
                ("branch5x5_2", 48, 64, [5, 5], 1),
                ("branch3x3dbl_1", n, 64, [1, 1], 1),
                ("branch3x3dbl_2", 64, 96, [3, 3], 1),
                ("branch3x3dbl_3", 96, 96, [3, 3], 1),
                ("branch_pool", n, pool, [1, 1], 1),
            ],
        );
    }
    block(
        "Mixed_6a",
        &[
            ("branch3x3", 288, 384, [3, 3], 2),
            ("branch3x3dbl_1", 288, 64, [1, 1], 1),
            ("branch3x3dbl_2", 64, 96, [3, 3], 1),
            ("branch3x3dbl_3", 96, 96, [3, 3], 2),
        ],
    );
    for (name, c) in [("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)] {
        block(
            name,
            &[
                ("branch1x1", 768, 192, [1, 1], 1),
                ("branch7x7_1", 768, c, [1, 1], 1),
                ("branch7x7_2", c, c, [1, 7], 1),
                ("branch7x7_3", c, 192, [7, 1], 1),
                ("branch7x7dbl_1", 768, c, [1, 1], 1),
                ("branch7x7dbl_2", c, c, [7, 1], 1),
                ("branch7x7dbl_3", c, c, [1, 7], 1),
                ("branch7x7dbl_4", c, c, [7, 1], 1),
                ("branch7x7dbl_5", c, 192, [1, 7], 1),
                ("branch_pool", 768, 192, [1, 1], 1),
            ],
        );
    }
    block(
        "Mixed_7a",
        &[
            ("branch3x3_1", 768, 192, [1, 1], 1),
            ("branch3x3_2", 192, 320, [3, 3], 2),
            ("branch7x7x3_1", 768, 192, [1, 1], 1),
            ("branch7x7x3_2", 192, 192, [1, 7], 1),
            ("branch7x7x3_3", 192, 192, [7, 1], 1),
            ("branch7x7x3_4", 192, 192, [3, 3], 2),
        ],
    );
    for (name, n) in [("Mixed_7b", 1280), ("Mixed_7c", 2048)] {
        block(
            name,
            &[
                ("branch1x1", n, 320, [1, 1], 1),
                ("branch3x3_1", n, 384, [1, 1], 1),
                ("branch3x3_2a", 384, 384, [1, 3], 1),
                ("branch3x3_2b", 384, 384, [3, 1], 1),
                ("branch3x3dbl_1", n, 448, [1, 1], 1),
                ("branch3x3dbl_2", 448, 384, [3, 3], 1),
                ("branch3x3dbl_3a", 384, 384, [1, 3], 1),
                ("branch3x3dbl_3b", 384, 384, [3, 1], 1),
                ("branch_pool", n, 192, [1, 1], 1),
            ],
        );
    }
    all
}

/// Names and shapes of all 472 tensors.
#[must_use]
pub fn shapes() -> Vec<(String, Vec<i64>)> {
    let mut all = Vec::new();
    for unit in units() {
        let [kh, kw] = unit.kernel;
        all.push((format!("{}.conv.weight", unit.name), vec![unit.output, unit.input, kh, kw]));
        for part in ["weight", "bias", "running_mean", "running_var"] {
            all.push((format!("{}.bn.{part}", unit.name), vec![unit.output]));
        }
    }
    all.push(("fc.weight".to_owned(), vec![1008, 2048]));
    all.push(("fc.bias".to_owned(), vec![1008]));
    all
}

/// All tensors of the network, f32 on the CPU, checked.
#[derive(Debug)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
    /// SHA-256 of the file, where they came from one.
    pub sha256: Option<String>,
}

impl Weights {
    /// Takes `tensors`, which must be exactly those of the network (`num_batches_tracked` is passed over).
    ///
    /// # Errors
    /// A model error that names the first missing, unknown or mis-shaped tensor.
    pub fn new(mut tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let mut checked = BTreeMap::new();
        for (name, shape) in shapes() {
            let tensor = tensors.remove(&name).ok_or_else(|| {
                Error::model(format!("no tensor `{name}`"))
                    .hint("the weights of the FID Inception network (inception-2015-12-05) are needed")
            })?;
            if tensor.size() != shape {
                let hint = if name == "fc.weight" {
                    "these look like torchvision's weights, which FID does not use"
                } else {
                    "the weights of the FID Inception network (inception-2015-12-05) are needed"
                };
                let why = format!("expected shape {shape:?}, got {:?}", tensor.size());
                return Err(Error::model(format!("tensor `{name}`")).why(why).hint(hint));
            }
            checked.insert(name, tensor.f_to_kind(Kind::Float)?);
        }
        if let Some(name) = tensors.keys().find(|n| !n.ends_with(".num_batches_tracked")) {
            return Err(Error::model(format!("unknown tensor `{name}`"))
                .why("the FID Inception network has none of that name"));
        }
        Ok(Weights { tensors: checked, sha256: None })
    }

    /// Reads a `.pth` (either container) or safetensors file.
    ///
    /// A `.pth` whose hash is not that of the published files is refused unless `allow_unverified`.
    ///
    /// # Errors
    /// Where the file is missing, of another kind or holds other tensors.
    pub fn open(path: &Path, allow_unverified: bool) -> Result<Self> {
        let sha256 = sha256_of(path)?;
        let data = Bytes::map(path)?;
        let pickled = data.starts_with(b"PK\x03\x04") || data.starts_with(&pth::LEGACY_MAGIC);
        let tensors = if pickled {
            if !sha256.starts_with(PUBLISHED) && !allow_unverified {
                // Say what is wrong with the file first, if it is not even a checkpoint.
                pth::Checkpoint::open(path)?;
                return Err(not_published(path, &sha256, PUBLISHED));
            }
            pth::Checkpoint::open(path)?.tensors()?
        } else {
            safetensors::File::open(path).map_err(|e| e.kinded(crate::error::Kind::Model))?.tensors()?
        };
        let mut weights = Self::new(tensors).map_err(|e| e.at(path.display()))?;
        weights.sha256 = Some(sha256);
        Ok(weights)
    }

    /// Tensor `name`.
    ///
    /// # Errors
    /// Where the network has none of that name.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::model(format!("no tensor `{name}`")))
    }
}

/// The error for a weight file whose hash does not start with `published`.
pub(super) fn not_published(path: &Path, sha256: &str, published: &str) -> Error {
    let has = &sha256[..8.min(sha256.len())];
    Error::model("not the published weights")
        .at(path.display())
        .why(format!("its SHA-256 starts with {has}, that of the published files with {published}"))
        .hint("--allow-unverified-weights uses them all the same")
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// Where it cannot be read.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(|e| Error::read(path, &e))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 18];
    loop {
        let n = file.read(&mut buffer).map_err(|e| Error::read(path, &e))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('?'));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_has_the_counts_of_the_published_file() {
        let shapes = shapes();
        assert_eq!((units().len(), shapes.len()), (94, 472));
        let count = |filter: &dyn Fn(&str) -> bool| -> i64 {
            shapes.iter().filter(|(n, _)| filter(n)).map(|(_, s)| s.iter().product::<i64>()).sum()
        };
        assert_eq!(count(&|n| n.ends_with("conv.weight")), 21_751_136);
        assert_eq!(count(&|n| n.contains(".bn.")), 68_864);
        assert_eq!(count(&|_| true), 23_885_392);
    }

    #[test]
    fn wrong_sets_of_tensors_are_named() {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Half, tch::Device::Cpu));
        let all = || -> BTreeMap<String, Tensor> {
            shapes().into_iter().map(|(n, s)| (n, zeros(&[1]).expand(&s, false))).collect()
        };
        let mut good = all();
        good.insert("Conv2d_1a_3x3.bn.num_batches_tracked".into(), zeros(&[]));
        let weights = Weights::new(good).unwrap();
        assert_eq!(weights.get("fc.bias").unwrap().kind(), Kind::Float);
        let mut missing = all();
        missing.remove("Mixed_7c.branch_pool.bn.running_var");
        assert!(
            Weights::new(missing).unwrap_err().to_string().contains("Mixed_7c.branch_pool.bn.running_var")
        );
        let mut extra = all();
        extra.insert("AuxLogits.fc.weight".into(), zeros(&[1]));
        assert!(
            Weights::new(extra).unwrap_err().to_string().contains("unknown tensor `AuxLogits.fc.weight`")
        );
        let mut torchvision = all();
        torchvision.insert("fc.weight".into(), zeros(&[1000, 2048]));
        let error = Weights::new(torchvision).unwrap_err();
        assert!(error.to_string().contains("expected shape [1008, 2048], got [1000, 2048]"), "{error}");
        assert!(error.hint_text().unwrap().contains("torchvision"));
    }

    #[test]
    fn hashes_are_sha256() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(
            sha256_of(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}

//! What a path holds, decided by content and not by its name.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};
use crate::io::pth::is_pickle;

/// The kinds of model files and folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A safetensors file.
    Safetensors,
    /// A pickled checkpoint of PyTorch: zip or legacy container, or a plain pickle.
    Checkpoint,
    /// A TorchScript module.
    TorchScript,
    /// An AOTInductor package.
    Package,
    /// A numpy archive.
    Npz,
    /// A run folder of `gen train`, or a model folder of this project.
    Run,
    /// A folder in the layout of Hugging Face or diffusers.
    HuggingFace,
}

impl FileKind {
    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FileKind::Safetensors => "safetensors file",
            FileKind::Checkpoint => "PyTorch checkpoint",
            FileKind::TorchScript => "TorchScript module",
            FileKind::Package => "AOTInductor package",
            FileKind::Npz => "numpy archive",
            FileKind::Run => "run folder",
            FileKind::HuggingFace => "Hugging Face folder",
        }
    }

    /// The kind of what lies at `path`.
    ///
    /// # Errors
    /// A model error where there is nothing, or nothing known.
    pub fn of(path: &Path) -> Result<Self> {
        let missing = |e: std::io::Error| Error::read(path, &e).kinded(crate::error::Kind::Model);
        let meta = std::fs::metadata(path).map_err(missing)?;
        if meta.is_dir() {
            return folder(path);
        }
        let mut head = [0u8; 16];
        let mut file = File::open(path).map_err(missing)?;
        let n = read_up_to(&mut file, &mut head).map_err(missing)?;
        let head = &head[..n];
        if head.starts_with(b"PK\x03\x04") {
            return zip(path);
        }
        let header = head.get(..8).map(|b| b.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte)));
        match header {
            Some(len) if head.get(8) == Some(&b'{') && len <= 100_000_000 => Ok(FileKind::Safetensors),
            // After safetensors, whose header may be 640 bytes long: 0x80 0x02.
            _ if is_pickle(head) => Ok(FileKind::Checkpoint),
            _ => Err(unknown(path)),
        }
    }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

fn unknown(path: &Path) -> Error {
    Error::model("not a model")
        .at(path.display())
        .why("it is of no known format")
        .hint("gen reads safetensors, PyTorch checkpoints, TorchScript modules, run folders and Hugging Face folders")
}

fn folder(path: &Path) -> Result<FileKind> {
    let has = |name: &str| path.join(name).exists();
    if has("recipe.toml") || has("snapshots") || has("checkpoints") {
        Ok(FileKind::Run)
    } else if has("model_index.json") || has("config.json") {
        Ok(FileKind::HuggingFace)
    } else if has("model.safetensors") {
        Ok(FileKind::Run)
    } else {
        Err(Error::model("not a model folder")
            .at(path.display())
            .why("it holds no recipe.toml, model.safetensors, model_index.json or config.json")
            .hint("name a run folder of `gen train`, a model file, or a Hugging Face folder"))
    }
}

fn zip(path: &Path) -> Result<FileKind> {
    let file = File::open(path).map_err(|e| Error::read(path, &e).kinded(crate::error::Kind::Model))?;
    let damaged =
        |e: zip::result::ZipError| Error::model("damaged zip archive").at(path.display()).why(e.to_string());
    let archive = zip::ZipArchive::new(file).map_err(damaged)?;
    let names: Vec<String> = archive.file_names().filter_map(|n| Some(n.ok()?.into_owned())).collect();
    let any = |test: &dyn Fn(&str) -> bool| names.iter().any(|n| test(n));
    if any(&|n| n.ends_with("/constants.pkl")) {
        Ok(FileKind::TorchScript)
    } else if any(&|n| n.contains("data/aotinductor/")) {
        Ok(FileKind::Package)
    } else if any(&|n| n.ends_with("/data.pkl") || n == "data.pkl") {
        Ok(FileKind::Checkpoint)
    } else if any(&|n| n.ends_with(".npy")) {
        Ok(FileKind::Npz)
    } else {
        Err(unknown(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("weights.png");
        let list = [("a", tch::Tensor::from_slice(&[1f32]))];
        crate::io::safetensors::write(&path, list, &std::collections::BTreeMap::new()).unwrap();
        assert_eq!(FileKind::of(&path).unwrap(), FileKind::Safetensors);
        std::fs::write(&path, b"hello").unwrap();
        assert!(FileKind::of(&path).unwrap_err().to_string().starts_with("not a model"));
        assert!(FileKind::of(&temp.path().join("none")).is_err());
        assert!(FileKind::of(temp.path()).is_err());
        std::fs::write(temp.path().join("recipe.toml"), "").unwrap();
        assert_eq!(FileKind::of(temp.path()).unwrap(), FileKind::Run);
    }
}

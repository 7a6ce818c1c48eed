//! Folders in the layout of Hugging Face: JSON files, and weights in one file or in several.
//!
//! Weights with the stem S lie in `S.safetensors`, or in shards that `S.safetensors.index.json` lists
//! (`{"weight_map": {tensor: file}}`), or in the same with `.bin` (pickled checkpoints). A variant such as
//! fp16 has its name in between: `S.fp16.safetensors`, `S.safetensors.index.fp16.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::Tensor;

use super::pth::Checkpoint;
use super::safetensors;
use crate::error::{Error, Kind, Result};

/// Stems of the weights that diffusers and transformers write.
pub const STEMS: [&str; 3] = ["diffusion_pytorch_model", "model", "pytorch_model"];

/// Variants that are taken by themselves where there is nothing in full precision.
const VARIANTS: [&str; 2] = ["fp16", "bf16"];

/// Python's JSON: what `json.loads` of Python reads, with the infinities and NaN, which are not JSON, as
/// null.
///
/// # Errors
/// Where it is not JSON otherwise.
pub fn parse_json(text: &str) -> serde_json::Result<Value> {
    let (mut clean, mut inside, mut rest) = (String::with_capacity(text.len()), false, text);
    while let Some(next) = rest.chars().next() {
        let word =
            ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| !inside && rest.starts_with(word));
        if let Some(word) = word {
            clean.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        let mut take = next.len_utf8();
        if inside && next == '\\' {
            take += rest[take..].chars().next().map_or(0, char::len_utf8);
        } else if next == '"' {
            inside = !inside;
        }
        clean.push_str(&rest[..take]);
        rest = &rest[take..];
    }
    serde_json::from_str(&clean)
}

/// A JSON file of a model folder.
///
/// # Errors
/// A model error where it is missing, a pointer of Git LFS, or not JSON.
pub fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, &e).kinded(Kind::Model))?;
    parse_json(&text).map_err(|e| {
        refuse_pointer(path).err().unwrap_or_else(|| {
            Error::model("not a JSON file")
                .at(path.display())
                .why(e.to_string())
                .hint("the file is damaged; copy it again")
        })
    })
}

/// Files kept by Git LFS are replaced by a few lines of text where it is not installed.
fn refuse_pointer(path: &Path) -> Result<()> {
    const POINTER: &[u8] = b"version https://git-lfs.github.com/spec";
    let mut head = Vec::new();
    if let Ok(file) = File::open(path) {
        // What cannot be read is reported by the reader itself.
        let _ = file.take(POINTER.len() as u64).read_to_end(&mut head);
    }
    if head == POINTER {
        return Err(Error::model("not the file itself")
            .at(path.display())
            .why("it is a pointer of Git LFS")
            .hint("run `git lfs pull` in its folder, or download the file"));
    }
    Ok(())
}

/// What is known of a tensor without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Name of its type.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<i64>,
}

/// The weights of one model, in one file or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// The file that lists the shards.
    index: Option<PathBuf>,
    /// File of each tensor, where an index says so.
    map: BTreeMap<String, PathBuf>,
    /// The files with tensors.
    files: Vec<PathBuf>,
    variant: Option<String>,
}

impl Weights {
    /// The weights with `stem` in `folder`: of the given `variant`, or else the full ones, or else a variant
    /// of 16 bits.
    ///
    /// # Errors
    /// A model error where there are none (it lists what was looked for), or a shard is missing.
    pub fn find(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Self> {
        if let Some(found) = Self::look(folder, stem, variant)? {
            return Ok(found);
        }
        let looked = names(stem, variant);
        let hint = match variant {
            Some(_) => "leave --weights out for the full weights, or name another variant".to_owned(),
            None => {
                format!("download the weights into that folder ({} will do)", names(stem, Some("fp16"))[0])
            }
        };
        Err(Error::model("no weights")
            .at(folder.display())
            .why(format!("it has neither {} nor {}", looked[..3].join(", "), looked[3]))
            .hint(hint))
    }

    /// As [`Weights::find`], for weights that may be absent.
    ///
    /// # Errors
    /// A model error where a shard is missing.
    pub fn look(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Option<Self>> {
        let variants: Vec<Option<&str>> = match variant {
            Some(name) => vec![Some(name)],
            None => std::iter::once(None).chain(VARIANTS.map(Some)).collect(),
        };
        for variant in variants {
            let there = names(stem, variant).map(|name| folder.join(name)).into_iter().find(|p| p.exists());
            if let Some(path) = there {
                return Self::of(path, variant).map(Some);
            }
        }
        Ok(None)
    }

    fn of(path: PathBuf, variant: Option<&str>) -> Result<Self> {
        let variant = variant.map(str::to_owned);
        if path.extension().is_none_or(|e| e != "json") {
            refuse_pointer(&path)?;
            return Ok(Weights { index: None, map: BTreeMap::new(), files: vec![path], variant });
        }
        let bad = |why: &str| Error::model("not an index of weights").at(path.display()).why(why);
        let json = read_json(&path)?;
        let Value::Object(list) = &json["weight_map"] else {
            return Err(bad("it has no `weight_map`"));
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut map = BTreeMap::new();
        for (name, file) in list {
            // A shard lies beside its index: nothing outside the folder is ever opened.
            let file = file.as_str().filter(|f| Path::new(f).file_name().is_some_and(|n| n == *f));
            let file = file.ok_or_else(|| bad("its `weight_map` does not name files beside it"))?;
            map.insert(name.clone(), folder.join(file));
        }
        let files: Vec<PathBuf> = map.values().collect::<BTreeSet<_>>().into_iter().cloned().collect();
        if files.is_empty() {
            return Err(bad("its `weight_map` is empty"));
        }
        for file in &files {
            if !file.exists() {
                return Err(Error::model("missing part of the weights")
                    .at(file.display())
                    .why(format!("{} lists {} parts, but this one is not there", name_of(&path), files.len()))
                    .hint("download that file into the same folder"));
            }
            refuse_pointer(file)?;
        }
        Ok(Weights { index: Some(path), map, files, variant })
    }

    /// All files that the weights depend on.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.index.iter().chain(&self.files).cloned().collect()
    }

    /// The variant that was found, such as fp16.
    #[must_use]
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// The place to name in errors: the index, or the only file.
    #[must_use]
    pub fn place(&self) -> String {
        self.index.as_ref().or(self.files.first()).map_or_else(String::new, |p| p.display().to_string())
    }

    /// Whether `file` is where the tensor `name` belongs.
    fn belongs(&self, name: &str, file: &Path) -> bool {
        self.index.is_none() || self.map.get(name).is_some_and(|at| at == file)
    }

    /// All tensors without their values, in the order of the files.
    ///
    /// # Errors
    /// A model error where a file is damaged.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut out = Vec::new();
        for file in &self.files {
            out.extend(Part::open(file)?.entries().into_iter().filter(|e| self.belongs(&e.name, file)));
        }
        Ok(out)
    }

    /// Writes tensors to where `dest` says, by name, straight from the files: `Some((tensor, transposed))`, or nothing
    /// for one that is not wanted. Gives the number of tensors written.
    ///
    /// # Errors
    /// A model error where a file is damaged, or a shape differs.
    pub fn copy_to(&self, mut dest: impl FnMut(&str) -> Option<(Tensor, bool)>) -> Result<usize> {
        let mut written = 0;
        for file in &self.files {
            let part = Part::open(file)?;
            for entry in part.entries() {
                let name = entry.name.as_str();
                let Some((to, transposed)) = dest(name).filter(|_| self.belongs(name, file)) else {
                    continue;
                };
                part.copy_to(name, &to, transposed).map_err(|e| e.kinded(Kind::Model))?;
                written += 1;
            }
        }
        Ok(written)
    }

    /// A copy of the tensor `name` on the CPU, in the type of its file; nothing where there is none.
    ///
    /// # Errors
    /// A model error where a file is damaged.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        for file in &self.files {
            let part = Part::open(file)?;
            if self.belongs(name, file) && part.entries().iter().any(|e| e.name == name) {
                return part.tensor(name).map(Some).map_err(|e| e.kinded(Kind::Model));
            }
        }
        Ok(None)
    }

    /// Copies of all tensors on the CPU, by name, in the types of the files.
    ///
    /// # Errors
    /// A model error where a file is damaged, or a shard lacks a tensor that the index says it has.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut out = BTreeMap::new();
        for file in &self.files {
            let part = Part::open(file)?;
            for entry in part.entries() {
                if self.belongs(&entry.name, file) {
                    let tensor = part.tensor(&entry.name).map_err(|e| e.kinded(Kind::Model))?;
                    out.insert(entry.name, tensor);
                }
            }
        }
        if let Some((name, file)) = self.map.iter().find(|(name, _)| !out.contains_key(*name)) {
            return Err(Error::model(format!("no tensor `{name}`"))
                .at(file.display())
                .why(format!("{} says that it is there", name_of(&PathBuf::from(self.place()))))
                .hint("the parts are not of one model; download all of them again"));
        }
        Ok(out)
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Names of the weights with `stem`, in the order in which they are looked for.
fn names(stem: &str, variant: Option<&str>) -> [String; 4] {
    let dot = variant.map_or_else(String::new, |v| format!(".{v}"));
    [
        format!("{stem}{dot}.safetensors"),
        format!("{stem}.safetensors.index{dot}.json"),
        format!("{stem}{dot}.bin"),
        format!("{stem}.bin.index{dot}.json"),
    ]
}

/// One file with tensors.
enum Part {
    Safetensors(safetensors::File),
    Pickled(Checkpoint),
}

impl Part {
    fn open(path: &Path) -> Result<Self> {
        if path.extension().is_some_and(|e| e == "safetensors") {
            let file = safetensors::File::open(path).map_err(|e| e.kinded(Kind::Model))?;
            return Ok(Part::Safetensors(file));
        }
        let opened = Checkpoint::open(path).map(Part::Pickled);
        opened.map_err(|e| e.hint("the file was cut off or is damaged; copy it again"))
    }

    fn entries(&self) -> Vec<Entry> {
        match self {
            Part::Safetensors(file) => file
                .entries()
                .iter()
                .map(|(name, e)| Entry {
                    name: name.clone(),
                    dtype: e.dtype.to_string().to_lowercase(),
                    shape: e.shape.clone(),
                })
                .collect(),
            Part::Pickled(file) => file
                .names()
                .iter()
                .filter_map(|name| Some((name, file.entries().get(name)?)))
                .map(|(name, e)| Entry {
                    name: name.clone(),
                    dtype: format!("{:?}", e.kind).to_lowercase(),
                    shape: e.shape.clone(),
                })
                .collect(),
        }
    }

    fn copy_to(&self, name: &str, dest: &Tensor, transposed: bool) -> Result<()> {
        let file = match self {
            Part::Safetensors(file) => return file.copy_to(name, dest, transposed),
            Part::Pickled(file) => file,
        };
        let _guard = tch::no_grad_guard();
        let source = file.tensor(name)?;
        let source = if transposed && source.dim() == 2 { source.f_transpose(0, 1)? } else { source };
        if source.size() != dest.size() {
            return Err(Error::shape(name, &dest.size(), &source.size()));
        }
        dest.shallow_clone().f_copy_(&source)?;
        Ok(())
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        match self {
            Part::Safetensors(file) => file.tensor(name),
            Part::Pickled(file) => file.tensor(name),
        }
    }
}

#[cfg(test)]
mod tests;

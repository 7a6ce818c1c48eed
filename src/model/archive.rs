//! What archives of code say of themselves, read as text and data: nothing of them is run or loaded.

use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};
use zip::ZipArchive;

use crate::error::{Error, Kind, Result};

/// Longest text that is read from an archive.
const MAX_TEXT: u64 = 16 << 20;

fn open(path: &Path) -> Result<ZipArchive<std::fs::File>> {
    let file = std::fs::File::open(path).map_err(|e| Error::read(path, &e).kinded(Kind::Model))?;
    ZipArchive::new(file)
        .map_err(|e| Error::model("damaged zip archive").at(path.display()).why(e.to_string()))
}

fn text(archive: &mut ZipArchive<std::fs::File>, name: &str, path: &Path) -> Result<String> {
    let damaged =
        |why: String| Error::model("damaged archive").at(format!("{}: {name}", path.display())).why(why);
    let entry = archive.by_name(name).map_err(|e| damaged(e.to_string()))?;
    let mut bytes = Vec::new();
    entry.take(MAX_TEXT).read_to_end(&mut bytes).map_err(|e| damaged(e.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn names(archive: &ZipArchive<std::fs::File>) -> Vec<String> {
    archive.file_names().filter_map(|n| Some(n.ok()?.into_owned())).collect()
}

/// The methods of the classes in a TorchScript archive, as `CLASS` and `NAME(ARGUMENTS) -> TYPE`, in the order
/// of the archive.
///
/// # Errors
/// A model error where the archive is damaged.
pub fn methods(path: &Path) -> Result<Vec<(String, String)>> {
    let mut archive = open(path)?;
    let mut all = Vec::new();
    for name in names(&archive) {
        if name.contains("/code/") && name.ends_with(".py") {
            let source = text(&mut archive, &name, path)?;
            all.extend(signatures(&source));
        }
    }
    Ok(all)
}

/// Classes with the signatures of their methods in TorchScript source.
fn signatures(source: &str) -> Vec<(String, String)> {
    let mut class = String::new();
    let mut out = Vec::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("class ") {
            class = rest.split(['(', ':']).next().unwrap_or_default().to_owned();
        } else if let Some(rest) = line.trim_start().strip_prefix("def ") {
            let mut signature = rest.trim().to_owned();
            while !signature.ends_with(':') {
                let Some(more) = lines.next() else { break };
                signature.push(' ');
                signature.push_str(more.trim());
            }
            let signature = signature.trim_end_matches(':').split_once("self: ").map_or_else(
                || signature.trim_end_matches(':').to_owned(),
                |(head, tail)| {
                    // The type of `self` is the class.
                    let tail = tail.split_once(", ").map_or_else(
                        || tail.find(')').map_or(tail, |i| &tail[i..]).to_owned(),
                        |(_, tail)| tail.to_owned(),
                    );
                    format!("{head}{tail}")
                },
            );
            out.push((class.clone(), signature));
        }
    }
    out
}

/// The metadata of an AOTInductor package: the JSON files that lie in it.
///
/// # Errors
/// A model error where the archive is damaged.
pub fn metadata(path: &Path) -> Result<Map<String, Value>> {
    let mut archive = open(path)?;
    let mut all = Map::new();
    for name in names(&archive) {
        if name.ends_with("_metadata.json") {
            let source = text(&mut archive, &name, path)?;
            if let Ok(Value::Object(entries)) = serde_json::from_str(&source) {
                all.extend(entries);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read_from_source() {
        let source = "class Net(Module):\n  __parameters__ = []\n  def forward(self: __torch__.Net,\n    x: Tensor,\n    \
                      t: Tensor) -> Tensor:\n    return x\n  def eps(self: __torch__.Net) -> Tensor:\n    pass\n";
        assert_eq!(
            signatures(source),
            [
                ("Net".to_owned(), "forward(x: Tensor, t: Tensor) -> Tensor".to_owned()),
                ("Net".to_owned(), "eps() -> Tensor".to_owned())
            ]
        );
    }
}

//! `gen inspect`: what is in a model file or folder.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::ui::Ui;
use crate::error::{Error, Kind, Result};
use crate::io::npz::Npz;
use crate::io::pth::{Checkpoint, Scalar};
use crate::io::{hub, safetensors};
use crate::model::archive;
use crate::model::card::TOKENIZER;
use crate::model::foreign::Layout;
use crate::model::kind::FileKind;
use crate::model::source::Source;

/// List the tensors and settings of a model file
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen inspect runs/digits/snapshots/00002500.safetensors\n  \
    gen inspect model.pth --json | jq '.tensors[].name'\n\n\
    Nothing in the file is executed: pickles are read by a restricted reader, code is left alone.")]
pub struct InspectArgs {
    /// A safetensors file, PyTorch checkpoint, TorchScript module, AOTInductor package, numpy archive, run folder
    /// or Hugging Face folder
    path: PathBuf,
}

struct Row {
    name: String,
    dtype: String,
    shape: Vec<i64>,
}

struct Contents {
    rows: Vec<Row>,
    settings: Vec<(String, Value)>,
}

/// Runs the command.
pub fn run(args: &InspectArgs, ui: Ui) -> anyhow::Result<()> {
    let kind = FileKind::of(&args.path)?;
    let (path, kind) = match kind {
        FileKind::Run => (crate::model::open::weights_of(&args.path, None)?, FileKind::Safetensors),
        other => (args.path.clone(), other),
    };
    let mut contents = match kind {
        // A run folder has become its snapshot above.
        FileKind::Safetensors | FileKind::Run => from_safetensors(&path)?,
        FileKind::Checkpoint => from_checkpoint(&path)?,
        FileKind::Npz => from_npz(&path)?,
        FileKind::HuggingFace => from_folder(&path)?,
        FileKind::TorchScript => from_script(&path)?,
        FileKind::Package => Contents { rows: Vec::new(), settings: metadata(&path)? },
    };
    if matches!(kind, FileKind::Checkpoint | FileKind::Safetensors)
        && let Some(layout) = Layout::of(&Source::open(&path)?)
    {
        contents.settings.insert(0, ("layout".to_owned(), json!(layout.name())));
    }
    let parameters: i64 = contents.rows.iter().map(|row| row.shape.iter().product::<i64>()).sum();

    ui.line(format!(
        "{}: {}, {} tensors, {} values",
        path.display(),
        kind.name(),
        contents.rows.len(),
        thousands(parameters)
    ))?;
    let width = contents.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in &contents.rows {
        ui.line(format!("  {:width$}  {:<5} {:?}", row.name, row.dtype, row.shape))?;
    }
    for (key, value) in &contents.settings {
        let text = match value {
            Value::String(text) => text.clone(),
            other => format!("{other:#}"),
        };
        ui.line(format!("  {key} = {text}"))?;
    }
    let tensors: Vec<Value> = contents
        .rows
        .iter()
        .map(|row| json!({"name": row.name, "dtype": row.dtype, "shape": row.shape}))
        .collect();
    ui.result(&json!({
        "path": path.display().to_string(), "kind": kind.name(), "values": parameters, "tensors": tensors,
        "settings": contents.settings.into_iter().collect::<serde_json::Map<_, _>>(),
    }))?;
    Ok(())
}

fn from_safetensors(path: &Path) -> Result<Contents> {
    let file = safetensors::File::open(path).map_err(|e| e.kinded(Kind::Model))?;
    let rows = file.entries().iter().map(|(name, entry)| Row {
        name: name.clone(),
        dtype: entry.dtype.to_string().to_lowercase(),
        shape: entry.shape.clone(),
    });
    // Metadata values are strings; those that are JSON are shown as such.
    let setting = |(key, text): (&String, &String)| {
        // A whole vocabulary is nothing to read.
        if key == TOKENIZER {
            return (key.clone(), Value::String(format!("a tokenizer.json of {} bytes", text.len())));
        }
        (key.clone(), serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone())))
    };
    Ok(Contents { rows: rows.collect(), settings: file.metadata().iter().map(setting).collect() })
}

fn from_checkpoint(path: &Path) -> Result<Contents> {
    Ok(checkpoint_contents(&Checkpoint::open(path)?))
}

/// Key of the classes that were not read.
const FOREIGN: &str = "not read (foreign classes)";

fn checkpoint_contents(file: &Checkpoint) -> Contents {
    let rows = file.names().iter().filter_map(|name| {
        let entry = file.entries().get(name)?;
        let dtype = format!("{:?}", entry.kind).to_lowercase();
        Some(Row { name: name.clone(), dtype, shape: entry.shape.clone() })
    });
    let mut settings: Vec<(String, Value)> = file
        .scalars()
        .iter()
        .map(|(key, value)| {
            let value = match value {
                Scalar::Bool(b) => json!(b),
                Scalar::Int(i) => json!(i),
                Scalar::Float(x) => json!(x),
                Scalar::Str(s) => json!(s),
                Scalar::Empty => json!([]),
            };
            (key.clone(), value)
        })
        .collect();
    if !file.unknown().is_empty() {
        settings.push((FOREIGN.to_owned(), json!(file.unknown())));
    }
    Contents { rows: rows.collect(), settings }
}

/// A TorchScript module: its attributes, and the methods of its outermost class.
fn from_script(path: &Path) -> Result<Contents> {
    let mut contents = checkpoint_contents(&Checkpoint::open_script(path)?);
    // The classes of the module itself are no foreign ones.
    contents.settings.retain(|(key, _)| key != FOREIGN && !key.ends_with("training"));
    let methods = archive::methods(path)?;
    let outer = methods.iter().map(|(class, _)| class.clone()).next_back().unwrap_or_default();
    let own = methods.into_iter().filter(|(class, _)| *class == outer).map(|(_, method)| json!(method));
    contents.settings.insert(0, ("methods".to_owned(), Value::Array(own.collect())));
    contents.settings.insert(0, ("class".to_owned(), json!(outer)));
    Ok(contents)
}

/// What a package says of itself.
fn metadata(path: &Path) -> Result<Vec<(String, Value)>> {
    Ok(archive::metadata(path)?.into_iter().collect())
}

fn from_npz(path: &Path) -> Result<Contents> {
    let mut file = Npz::open(path)?;
    let mut rows = Vec::new();
    for name in file.names().to_vec() {
        let header = file.header(&name)?;
        let shape = header.shape.iter().map(|n| *n as i64).collect();
        rows.push(Row { name, dtype: format!("{:?}", header.dtype).to_lowercase(), shape });
    }
    Ok(Contents { rows, settings: Vec::new() })
}

/// A folder of Hugging Face: the weights of the folder itself, or of each component below it.
fn from_folder(path: &Path) -> Result<Contents> {
    let mut folders = vec![(String::new(), path.to_path_buf())];
    let entries = std::fs::read_dir(path).map_err(|e| Error::read(path, &e).kinded(Kind::Model))?;
    let mut below: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect();
    below.sort();
    for folder in below {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        folders.push((format!("{name}/"), folder.clone()));
    }
    let (mut rows, mut settings) = (Vec::new(), Vec::new());
    for (prefix, folder) in &folders {
        for name in ["model_index.json", "config.json", "scheduler_config.json"] {
            let file = folder.join(name);
            if file.exists() {
                settings.push((format!("{prefix}{name}"), hub::read_json(&file)?));
            }
        }
        for stem in hub::STEMS {
            let Some(weights) = hub::Weights::look(folder, stem, None)? else { continue };
            rows.extend(weights.entries()?.into_iter().map(|e| Row {
                name: format!("{prefix}{}", e.name),
                dtype: e.dtype,
                shape: e.shape,
            }));
            break;
        }
    }
    if rows.is_empty() {
        // Says what was looked for.
        hub::Weights::find(path, hub::STEMS[0], None)?;
    }
    Ok(Contents { rows, settings })
}

/// 1234567 as 1 234 567.
fn thousands(n: i64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && c != '-' {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

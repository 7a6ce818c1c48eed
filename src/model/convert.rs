//! A model in one form, written in another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::diffusers_out;
use super::export;
use super::foreign::Layout;
use super::kind::FileKind;
use super::load::{Loaded, load};
use super::open::{OpenOptions, Opened, assemble, weights_of};
use super::source::Source;
use crate::error::{Error, Result};
use crate::io::{atomic, safetensors};

/// The forms a model can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// This project's own: one safetensors file that also says what the model is.
    Snapshot,
    /// A folder that diffusers' DDPMPipeline loads (UNet2DModel networks only).
    Diffusers,
    /// The tensors alone, under the names that the file gives them.
    Safetensors,
    /// A TorchScript module with its parameters, and a JSON file beside it that says what it is.
    #[value(name = "torchscript")]
    TorchScript,
}

impl Form {
    /// The form that a destination of this name is to have.
    ///
    /// # Errors
    /// A usage error where the name says nothing.
    pub fn of(source: &Path, destination: &Path) -> Result<Self> {
        match destination.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => Ok(if is_model(source)? { Form::Snapshot } else { Form::Safetensors }),
            Some("pt" | "ts") => Ok(Form::TorchScript),
            None => Ok(Form::Diffusers),
            Some(_) if destination.is_dir() => Ok(Form::Diffusers),
            Some(other) => Err(Error::usage(format!("`.{other}` does not say what to write"))
                .at(destination.display())
                .hint("name a .safetensors file, a .pt file (TorchScript) or a folder, or say --to")),
        }
    }
}

/// Whether `path` is a model rather than only weights.
fn is_model(path: &Path) -> Result<bool> {
    Ok(match FileKind::of(path)? {
        FileKind::Run | FileKind::HuggingFace => true,
        FileKind::Safetensors | FileKind::Checkpoint => {
            let source = Source::open(path)?;
            source.text(super::card::KEY).is_some() || Layout::of(&source).is_some()
        }
        _ => false,
    })
}

/// What to write, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The form.
    pub form: Form,
    /// How the source is read.
    pub open: OpenOptions,
    /// Type of the floating-point tensors; that of the source if not given.
    pub kind: Option<Kind>,
    /// Only tensors whose names start with this and a dot, which are taken off ([`Form::Safetensors`]).
    pub part: Option<String>,
    /// Replace what is there.
    pub overwrite: bool,
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values in them.
    pub values: usize,
    /// The files.
    pub files: Vec<PathBuf>,
    /// What had to be assumed about the source, for people to read.
    pub notes: Vec<String>,
}

/// Writes the model `source` to `destination`, completely or not at all.
///
/// # Errors
/// Where the source cannot be read or is damaged, the form cannot hold it, or the destination is there already
/// or cannot be written.
pub fn convert(source: &Path, destination: &Path, settings: &Settings) -> Result<Written> {
    let _no_grad = tch::no_grad_guard();
    vacant(source, destination, settings)?;
    if settings.form == Form::Safetensors {
        let tensors = cast(plain(source, settings)?, settings.kind)?;
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::write(destination, &tensors, &metadata)?;
        return Ok(written(&tensors, vec![destination.to_owned()], Vec::new()));
    }
    if let Some(part) = &settings.part {
        return Err(Error::usage("a model is written whole")
            .at(format!("--part {part}"))
            .hint("--to safetensors writes a part of a file's tensors"));
    }
    let Loaded { card, tensors, place, mut notes, path, .. } = load(source, &settings.open)?;
    // Built once, so that what is written is known to fit its network.
    let (net, store) = assemble(&card, &tensors, &place, Kind::Float, Device::Cpu)?;
    if settings.form == Form::TorchScript {
        if settings.kind.is_some_and(|kind| kind != Kind::Float) {
            return Err(Error::usage("a module is written in f32")
                .at("--dtype")
                .hint("cast the module when it is loaded: module.to(torch.bfloat16)"));
        }
        let opened = Opened::new(card, net, store, path);
        let files = export::torchscript(&opened, destination)?;
        return Ok(written(&tensors, files, notes));
    }
    drop((net, store));
    let tensors = cast(tensors, settings.kind)?;
    let files = if settings.form == Form::Snapshot {
        safetensors::write(destination, &tensors, &card.metadata()?)?;
        vec![destination.to_owned()]
    } else {
        if card.classes > 0 {
            notes.push(
                "diffusers' DDPMPipeline hands no class to the network: call its `unet` with class_labels"
                    .to_owned(),
            );
        }
        diffusers_out::write(destination, &card, &tensors)?
    };
    Ok(written(&tensors, files, notes))
}

fn written(tensors: &BTreeMap<String, Tensor>, files: Vec<PathBuf>, notes: Vec<String>) -> Written {
    let values = tensors.values().map(Tensor::numel).sum();
    Written { tensors: tensors.len(), values, files, notes }
}

/// Fails unless `destination` is free, or may be replaced.
fn vacant(source: &Path, destination: &Path, settings: &Settings) -> Result<()> {
    let folder = settings.form == Form::Diffusers;
    let wrong = |what: &str| Error::usage(what.to_owned()).at(destination.display());
    let same = std::fs::canonicalize(destination)
        .is_ok_and(|to| std::fs::canonicalize(source).is_ok_and(|from| from == to));
    if same {
        return Err(wrong("a model cannot be converted into itself").hint("name another destination"));
    }
    if destination.exists() {
        if destination.is_dir() != folder {
            return Err(wrong(if folder {
                "a file is where a folder is to be"
            } else {
                "a folder is where a file is to be"
            })
            .hint("name another destination"));
        }
        // A whole folder is replaced: nothing but an earlier result may be in it.
        let empty =
            folder && std::fs::read_dir(destination).is_ok_and(|mut entries| entries.next().is_none());
        if folder && !empty && !destination.join("model_index.json").exists() {
            return Err(wrong("the folder holds other things").hint("name a new folder"));
        }
        if !settings.overwrite && !empty {
            return Err(wrong(if folder { "the folder is not empty" } else { "file exists" })
                .hint("--overwrite replaces it"));
        }
    }
    if let Some(parent) = destination.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|e| Error::write(parent, &e))?;
    }
    if folder { Ok(()) } else { atomic::check(destination) }
}

/// The tensors of a file under its own names.
fn plain(path: &Path, settings: &Settings) -> Result<BTreeMap<String, Tensor>> {
    let file = match FileKind::of(path)? {
        FileKind::Run => weights_of(path, settings.open.weights.as_deref())?,
        FileKind::HuggingFace => return Ok(load(path, &settings.open)?.tensors),
        _ => path.to_path_buf(),
    };
    let source = Source::open(&file)?;
    let prefix = settings.part.as_ref().map_or_else(String::new, |part| format!("{part}."));
    let tensors = source.below(&prefix)?;
    if tensors.is_empty() {
        let mut parts: Vec<&str> =
            source.names().iter().filter_map(|name| Some(name.split_once('.')?.0)).collect();
        parts.dedup();
        let error = Error::model("no tensors to convert").at(file.display());
        return Err(if prefix.is_empty() {
            error
        } else {
            let shown = parts.iter().take(6).map(|part| format!("`{part}`")).collect::<Vec<_>>().join(", ");
            error.why(format!("no name starts with `{prefix}`")).hint(format!("its parts are {shown}"))
        });
    }
    Ok(tensors)
}

/// Floating-point tensors as `kind`, if it is given.
fn cast(tensors: BTreeMap<String, Tensor>, kind: Option<Kind>) -> Result<BTreeMap<String, Tensor>> {
    let Some(kind) = kind else { return Ok(tensors) };
    let floats = [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16];
    let cast = |(name, tensor): (String, Tensor)| -> Result<(String, Tensor)> {
        let floating = floats.contains(&tensor.f_kind()?);
        let tensor = if floating { tensor.f_to_kind(kind)? } else { tensor };
        if floating && kind == Kind::Half && tensor.f_isinf()?.f_any()?.f_int64_value(&[])? != 0 {
            return Err(Error::run(format!("tensor `{name}` does not fit f16"))
                .why("its largest value is above 65504")
                .hint("--dtype bf16 has the range of f32"));
        }
        Ok((name, tensor))
    };
    tensors.into_iter().map(cast).collect()
}

//! From a path to a model that can be sampled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use super::card::ModelCard;
use super::kind::FileKind;
use super::load::{Loaded, load};
use super::raw::RawSpec;
use crate::denoiser::network::{Compute, NetDenoiser};
use crate::error::{Error, Kind, Result};
use crate::net::Network;
use crate::net::store::Store;
use crate::solver::Compat;
use crate::torch::runtime::{Dtype, MemoryFormat};

/// How a model is opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Which of a run's averages, or which variant of a folder's weights (`--weights`); the first if not given.
    /// Checkpoints of other projects have `ema` and `raw`.
    pub weights: Option<String>,
    /// Whether what a folder says of its sampling is taken as published code takes it (`--compat`).
    pub compat: Compat,
    /// What the network computes in.
    pub dtype: Dtype,
    /// What is said of a module or checkpoint that does not say it itself.
    pub raw: RawSpec,
    /// Memory format of images and convolution weights.
    pub format: MemoryFormat,
    /// The network always sees blocks of [`BLOCK`] samples, so that a sample is the same to the last bit
    /// in batches of any size.
    pub blocks: bool,
}

/// Samples of a block.
pub const BLOCK: i64 = 8;

/// A network with its weights.
#[derive(Debug)]
pub struct Opened {
    /// What it is.
    pub card: ModelCard,
    /// The network; its tensors live in `store`.
    pub net: Box<dyn Network>,
    /// The weights.
    pub store: Store,
    /// The file or folder they came from.
    pub path: PathBuf,
    /// All files they depend on.
    pub files: Vec<PathBuf>,
    /// What a person should know about how the model was understood.
    pub notes: Vec<String>,
    /// How the network computes.
    pub compute: Compute,
    blocks: bool,
}

impl Opened {
    /// `net` with its weights in `store`, as `card` says, run in f32; `path` is where they come from.
    #[must_use]
    pub fn new(card: ModelCard, net: Box<dyn Network>, store: Store, path: PathBuf) -> Self {
        let files = vec![path.clone()];
        let compute = Compute::default();
        Opened { card, net, store, path, files, notes: Vec::new(), compute, blocks: false }
    }

    /// The network as a model of its process.
    ///
    /// # Errors
    /// Where its objective does not make it one (a classifier).
    pub fn denoiser(self) -> Result<NetDenoiser> {
        let precond = self.card.scalings().ok_or_else(|| {
            Error::model("not a model that can be sampled")
                .at(self.path.display())
                .why("it was trained as a classifier")
                .hint("classifiers are the features of `gen eval-fid`; sample a model of a process")
        })?;
        let model = NetDenoiser::new(self.net, self.card.process.build()?, precond, self.compute);
        Ok(if self.blocks { model.in_blocks(BLOCK) } else { model })
    }
}

/// Opens the model at `path` on `device`.
///
/// # Errors
/// A model error where it is missing, of an unknown kind, or its tensors do not fit.
pub fn open(path: &Path, options: &OpenOptions, device: Device) -> Result<Opened> {
    let kind = FileKind::of(path)?;
    if matches!(kind, FileKind::TorchScript | FileKind::Package) {
        return open_module(path, kind, options, device);
    }
    build(load(path, options)?, options, device)
}

/// Opens a bare module. Its memory format is its own affair.
fn open_module(path: &Path, kind: FileKind, options: &OpenOptions, device: Device) -> Result<Opened> {
    let card = options.raw.clone().or(RawSpec::beside(path)?).card(path, kind)?;
    let store = Store::empty(device, options.dtype.storage());
    let net = card.model.build(&store.root(), &card.shape, card.classes)?;
    let compute =
        Compute { kind: options.dtype.storage(), autocast: options.dtype.autocast(), channels_last: false };
    Ok(Opened { compute, blocks: options.blocks, ..Opened::new(card, net, store, path.to_owned()) })
}

/// The network of a card with its tensors, ready to be run.
fn build(model: Loaded, options: &OpenOptions, device: Device) -> Result<Opened> {
    let Loaded { card, tensors, path, place, files, notes } = model;
    let (net, store) = assemble(&card, &tensors, &place, options.dtype.storage(), device)?;
    let compute = Compute {
        kind: options.dtype.storage(),
        autocast: options.dtype.autocast(),
        channels_last: options.format.channels_last(options.dtype, device),
    };
    compute.prepare(&store)?;
    Ok(Opened { card, net, store, path, files, notes, compute, blocks: options.blocks })
}

/// The network of `card` with the weights `tensors`, which came from `place`.
///
/// # Errors
/// A model error where the card makes no network, or the tensors do not fit it.
pub fn assemble(
    card: &ModelCard,
    tensors: &BTreeMap<String, Tensor>,
    place: &str,
    kind: tch::Kind,
    device: Device,
) -> Result<(Box<dyn Network>, Store)> {
    let store = Store::empty(device, kind);
    let net = card.model.build(&store.root(), &card.shape, card.classes).map_err(|e| {
        let e = e.at(place).kinded(Kind::Model);
        e.hint("the options of the network must be those it was trained with")
    })?;
    store.load(tensors, place)?;
    Ok((net, store))
}

/// The file of weights that a run or model folder stands for: `model.safetensors`, or the newest snapshot.
///
/// # Errors
/// A model error where there is none.
pub fn weights_of(folder: &Path, profile: Option<&str>) -> Result<PathBuf> {
    let own = folder.join("model.safetensors");
    if profile.is_none() && own.exists() {
        return Ok(own);
    }
    let snapshots = folder.join("snapshots");
    let entries = std::fs::read_dir(&snapshots)
        .map_err(|e| Error::read(&snapshots, &e).kinded(Kind::Model).hint("no snapshot was written yet"))?;
    let mut files: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.strip_suffix(".safetensors")?.to_owned();
            Some((name, path))
        })
        .filter(|(name, _)| match (profile, name.split_once('-')) {
            (None, None) => true,
            (Some(wanted), Some((_, has))) => wanted == has,
            _ => false,
        })
        .collect();
    files.sort();
    files.pop().map(|(_, path)| path).ok_or_else(|| {
        let what = profile.map_or_else(String::new, |p| format!(" of `{p}`"));
        Error::model(format!("no snapshot{what}")).at(snapshots.display()).hint(
            "the run writes one at its end, and every train.snapshot_every; averages are the names in [ema]",
        )
    })
}

//! Models in the files of other projects: which layout a file has, and its card and weights.

use std::path::Path;

use super::card::{ModelCard, Range, Trained};
use super::load::{Loaded, says_itself};
use super::open::OpenOptions;
use super::raw::RawSpec;
use super::source::Source;
use super::{diffwave, diffwave_lmnt, diffwave_sashimi, dit, edm, score_sde, state_spaces};
use crate::error::{Error, Result};
use crate::net::spec::NetSpec;
use crate::objective::ObjectiveSpec;
use crate::process::ProcessSpec;
use crate::recipe::SampleSpec;

/// The layouts that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Pickles of NVlabs/edm.
    Edm,
    /// Checkpoints of score_sde (PyTorch).
    ScoreSde,
    /// Checkpoints of DiT and SiT.
    Dit,
    /// Checkpoints of DiffWave-Vocoder, and of diffwave-sashimi with the same network.
    DiffWave,
    /// Checkpoints of diffwave-sashimi with SaShiMi.
    DiffWaveSashimi,
    /// Checkpoints of lmnt-com/diffwave.
    DiffWaveLmnt,
    /// Checkpoints of state-spaces/s4: SaShiMi and WaveNet.
    StateSpaces,
}

impl Layout {
    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Layout::Edm => "EDM pickle",
            Layout::ScoreSde => "score_sde checkpoint",
            Layout::Dit => "DiT or SiT checkpoint",
            Layout::DiffWave => "DiffWave checkpoint",
            Layout::DiffWaveSashimi => "DiffWave checkpoint with SaShiMi",
            Layout::DiffWaveLmnt => "DiffWave checkpoint of lmnt-com",
            Layout::StateSpaces => "state-spaces checkpoint",
        }
    }

    /// The layout of `source`, judged by the names in it.
    #[must_use]
    pub fn of(source: &Source) -> Option<Self> {
        if edm::place(source, None).is_some() {
            Some(Layout::Edm)
        } else if score_sde::place(source).is_some() {
            Some(Layout::ScoreSde)
        } else if dit::place(source, None).is_some() {
            Some(Layout::Dit)
        } else if diffwave::place(source).is_some() {
            Some(Layout::DiffWave)
        } else if diffwave_sashimi::place(source).is_some() {
            Some(Layout::DiffWaveSashimi)
        } else if diffwave_lmnt::place(source).is_some() {
            Some(Layout::DiffWaveLmnt)
        } else if state_spaces::place(source).is_some() {
            Some(Layout::StateSpaces)
        } else {
            None
        }
    }
}

/// Reads the model in `path`.
///
/// # Errors
/// A model error where the layout is unknown, or the file does not hold what its layout must.
pub fn read(path: &Path, options: &OpenOptions) -> Result<Loaded> {
    let source = Source::open(path)?;
    let layout = Layout::of(&source).ok_or_else(|| unknown(&source))?;
    read_as(layout, &source, options).map_err(|e| e.at(path.display()))
}

/// Reads the model in `source`, which has this layout.
///
/// # Errors
/// As [`read`].
pub fn read_as(layout: Layout, source: &Source, options: &OpenOptions) -> Result<Loaded> {
    let mut options = options.clone();
    match layout {
        // These files say what they are themselves; of a clip's length those of state-spaces know nothing.
        Layout::Edm => says_itself(source.path(), layout.name(), &options)?,
        Layout::StateSpaces => {
            let raw = RawSpec { shape: None, ..options.raw.clone() };
            says_itself(source.path(), layout.name(), &OpenOptions { raw, ..options.clone() })?;
        }
        _ => {
            options.raw = options.raw.or(RawSpec::in_folder_of(source.path())?);
            options.raw.only_process(layout.name(), layout != Layout::Dit)?;
        }
    }
    match layout {
        Layout::Edm => edm::read(source, &options),
        Layout::ScoreSde => score_sde::read(source, &options),
        Layout::Dit => dit::read(source, &options),
        Layout::DiffWave => diffwave::read(source, &options),
        Layout::DiffWaveSashimi => diffwave_sashimi::read(source, &options),
        Layout::DiffWaveLmnt => diffwave_lmnt::read(source, &options),
        Layout::StateSpaces => state_spaces::read(source, &options),
    }
}

fn unknown(source: &Source) -> Error {
    let first = source.names().first().map_or_else(|| "none".to_owned(), |name| format!("`{name}`"));
    Error::model("weights of no known network")
        .at(source.path().display())
        .why(format!("it holds {} tensors, the first is {first}", source.names().len()))
        .hint(
            "gen knows the layouts of EDM, score_sde, DiT, SiT, DiffWave and state-spaces; `gen convert FILE x.safetensors --to \
             safetensors` takes the tensors of any other",
        )
}

/// The card of a foreign model.
pub(super) fn card(
    model: NetSpec,
    process: ProcessSpec,
    objective: ObjectiveSpec,
    (shape, classes): (Vec<i64>, i64),
    average: Option<&str>,
) -> ModelCard {
    ModelCard {
        format: ModelCard::FORMAT,
        tokenizer: None,
        model,
        process,
        objective,
        precond: None,
        shape,
        classes,
        range: Range::default(),
        rate: None,
        sample: SampleSpec::default(),
        trained: Trained {
            ema: average.map(str::to_owned),
            gen_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Trained::default()
        },
    }
}

/// The error for a name of `--weights` that a file of this layout does not have.
pub(super) fn no_such_weights(name: &str, known: &[&str]) -> Error {
    Error::model(format!("no weights `{name}` in this file"))
        .hint(format!("--weights takes {} here", known.join(" or ")))
}

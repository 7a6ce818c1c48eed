//! Where a run goes on from, and the keys of what is random in it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tch::Tensor;

use super::folder::{RunFolder, same_past};
use crate::error::{Error, Result};
use crate::math::rng::SplitMix64;
use crate::optim::spec::Schedule;
use crate::recipe::Recipe;

/// Whether a run goes on from a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// From the newest checkpoint of the run folder, if there is one.
    Auto,
    /// From the beginning; a folder with checkpoints is refused.
    Never,
    /// From this checkpoint folder.
    From(PathBuf),
}

/// Prefix of the loss scaler's tensors in the optimiser's file.
pub(super) const SCALER: &str = "scaler.";

pub(super) fn split_scaler(
    state: BTreeMap<String, Tensor>,
) -> (BTreeMap<String, Tensor>, BTreeMap<String, Tensor>) {
    let (scale, own): (BTreeMap<_, _>, BTreeMap<_, _>) =
        state.into_iter().partition(|(name, _)| name.starts_with(SCALER));
    let scale = scale.into_iter().map(|(name, t)| (name[SCALER.len()..].to_owned(), t)).collect();
    (own, scale)
}

/// A key for one part of one step.
pub(super) fn mix(seed: u64, step: u64, micro: u64) -> u64 {
    let mut hash = SplitMix64::new(seed);
    let a = hash.next_u64() ^ step;
    let b = SplitMix64::new(a).next_u64() ^ micro;
    SplitMix64::new(b).next_u64()
}

/// The checkpoint to go on from, after checking that the recipe would not have changed the past.
pub(super) fn resume_path(folder: &RunFolder, recipe: &Recipe, resume: &Resume) -> Result<Option<PathBuf>> {
    let newest = folder.checkpoints()?.last().map(|step| folder.checkpoint(*step));
    let path = match resume {
        Resume::Auto => newest,
        Resume::From(path) => Some(path.clone()),
        Resume::Never => match newest {
            Some(path) => {
                return Err(Error::usage("the run folder holds a run already")
                    .at(path.display())
                    .hint("leave --resume out to go on with it, or use another --out"));
            }
            None => None,
        },
    };
    let file = folder.recipe();
    if path.is_some() && file.exists() {
        let old = Recipe::load(&file, &[])?;
        let knows_end = matches!(recipe.optim.schedule, Schedule::Cosine | Schedule::Linear);
        let (old_json, new_json) = (old.to_json()?, recipe.to_json()?);
        same_past(&old_json, &new_json, knows_end)?;
        let validation = |r: &Recipe| (r.train.validate_every, r.train.validate_count);
        if recipe.optim.schedule == Schedule::Plateau && validation(&old) != validation(recipe) {
            return Err(Error::usage(
                "`train.validate_every` or `train.validate_count` differs from the run's",
            )
            .why("its learning rate depends on the held-out losses")
            .hint("use another --out for another run"));
        }
    }
    Ok(path)
}

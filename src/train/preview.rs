//! Samples drawn during training, and the card of what was trained.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::data::augment::{AugmentSpec, flip};
use crate::denoiser::network::{Compute, NetDenoiser};
use crate::error::Result;
use crate::io::picture::{Picture, quantize};
use crate::io::sheet::{Layout, contact_sheet};
use crate::model::card::{ModelCard, Range, Trained};
use crate::model::sampler::{Classes, Job, Sampler, Settings};
use crate::net::store::Store;
use crate::noise::streams::Rng;
use crate::optim::Progress;
use crate::optim::ema::Ema;
use crate::recipe::Recipe;
use crate::solver::{Budget, SolverName, SolverSpec};

/// The card of the weights after `at`.
#[must_use]
pub fn card(
    recipe: &Recipe,
    shape: &[i64],
    (classes, rate): (i64, Option<u32>),
    at: Progress,
    ema: Option<&(String, Ema)>,
) -> ModelCard {
    ModelCard {
        format: ModelCard::FORMAT,
        tokenizer: None,
        model: recipe.model.clone(),
        process: recipe.process.clone(),
        objective: recipe.objective.clone(),
        precond: None,
        shape: shape.to_vec(),
        classes,
        range: Range::default(),
        rate,
        sample: recipe.sample.clone(),
        trained: Trained {
            steps: at.step,
            images: at.images,
            ema: ema.map(|(name, _)| name.clone()),
            gen_version: env!("CARGO_PKG_VERSION").to_owned(),
        },
    }
}

/// A contact sheet of `count` samples with the seeds 0, 1, ... and, where there are classes, one class
/// after another; none for a classifier.
///
/// # Errors
/// Where sampling fails.
pub fn draw(
    card: &ModelCard,
    weights: Vec<(String, Tensor)>,
    compute: Compute,
    device: Device,
    count: u64,
) -> Result<Option<Picture>> {
    let Some(precond) = card.scalings() else {
        return Ok(None);
    };
    let _no_grad = tch::no_grad_guard();
    let store = Store::empty(device, compute.kind);
    let net = card.model.build(&store.root(), &card.shape, card.classes)?;
    store.load(&weights.into_iter().collect::<BTreeMap<_, _>>(), "the run's weights")?;
    compute.prepare(&store)?;
    let model = NetDenoiser::new(net, card.process.build()?, precond, compute);
    let settings = Settings {
        solver: card.sample.solver.clone().unwrap_or_else(|| SolverSpec::new(SolverName::DpmPp)),
        grid: card.sample.grid.clone().unwrap_or_default(),
        budget: card.sample.budget().unwrap_or(Budget::Auto),
        guidance: card.sample.guidance.unwrap_or(1.0),
        rng: Rng::Torch,
        latent: Kind::Float,
    };
    let mut sampler = Sampler::new(&model, &card.shape, card.classes, settings, device)?;
    let classes = if card.classes > 0 { Classes::List((0..card.classes).collect()) } else { Classes::None };
    let jobs: Vec<Job> = (0..count).map(|seed| Job { index: seed as usize, seed }).collect();
    let mut images = Vec::new();
    for batch in jobs.chunks(64) {
        let drawn = sampler.draw(batch, &classes, None, &mut |_| Ok(()))?;
        images.push(quantize(&drawn.x.f_to_device(Device::Cpu)?)?);
    }
    contact_sheet(&Tensor::f_cat(&images, 0)?, &Layout::default()).map(Some)
}

/// The images of a batch, mirrored at random or augmented as the recipe says, with the augmentation's
/// parameters; the same for the same `seed`.
///
/// # Errors
/// Where libtorch fails.
pub fn augment(recipe: &Recipe, images: Tensor, seed: u64) -> Result<(Tensor, Option<Tensor>)> {
    if let Some(p) = recipe.data.augment {
        let (images, parameters) = AugmentSpec { p, ..AugmentSpec::default() }.apply(&images, seed)?;
        return Ok((images, Some(parameters)));
    }
    let images = if recipe.data.flip { flip(&images, seed)? } else { images };
    Ok((images, None))
}

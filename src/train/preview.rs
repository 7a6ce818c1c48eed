//! Samples drawn during training, and the card of what was trained.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::data::augment::{AugmentSpec, flip};
use crate::decode::SamplerSpec;
use crate::denoiser::network::{Compute, NetDenoiser};
use crate::error::Result;
use crate::io::picture::{Picture, quantize};
use crate::io::plot::{PlotOptions, spectrogram};
use crate::io::sheet::{Layout, contact_sheet};
use crate::io::sound::Sound;
use crate::model::card::{ModelCard, Range, Trained};
use crate::model::sampler::{Classes, Job, Sampler, Settings};
use crate::model::tokens::{TokenSampler, TokenSettings};
use crate::net::store::Store;
use crate::noise::streams::Rng;
use crate::objective::ObjectiveSpec;
use crate::objective::autoregressive::causal;
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

/// What is drawn during training.
#[derive(Debug)]
pub struct Preview {
    /// The samples, or their spectrograms, on one sheet.
    pub picture: Picture,
    /// The sounds themselves, where the samples are sounds.
    pub sounds: Vec<Sound>,
}

/// Sounds of a preview at most: they are listened to one by one.
const SOUNDS: u64 = 8;

/// `count` samples with the seeds 0, 1, ... and, where there are classes, one class after another; none for
/// classifiers, vocoders and models of text.
///
/// # Errors
/// Where sampling fails.
pub fn draw(
    card: &ModelCard,
    weights: Vec<(String, Tensor)>,
    compute: Compute,
    device: Device,
    count: u64,
) -> Result<Option<Preview>> {
    let _no_grad = tch::no_grad_guard();
    let store = Store::empty(device, compute.kind);
    let net = card.model.build(&store.root(), &card.shape, card.classes)?;
    store.load(&weights.into_iter().collect::<BTreeMap<_, _>>(), "the run's weights")?;
    compute.prepare(&store)?;
    let classes = if card.classes > 0 { Classes::List((0..card.classes).collect()) } else { Classes::None };
    let count = if card.rate.is_some() { count.min(SOUNDS) } else { count };
    let jobs: Vec<Job> = (0..count).map(|seed| Job { index: seed as usize, seed }).collect();
    if let (ObjectiveSpec::Autoregressive(objective), Some(rate)) = (&card.objective, card.rate) {
        let settings = TokenSettings {
            sampler: SamplerSpec::default(),
            length: card.shape.last().copied().unwrap_or(1),
            prefixes: Vec::new(),
            rng: Rng::Torch,
            block: None,
        };
        let sampler = TokenSampler::new(causal(&*net)?, &objective.quant, card.classes, settings, device)?;
        return of_sounds(&sampler.draw(&jobs, &classes, &mut |_| Ok(()))?.x, rate).map(Some);
    }
    let (Some(precond), None) = (card.scalings(), net.spectrogram()) else {
        return Ok(None);
    };
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
    let mut drawn = Vec::new();
    for batch in jobs.chunks(64) {
        drawn.push(sampler.draw(batch, &classes, None, &mut |_| Ok(()))?.x.f_to_device(Device::Cpu)?);
    }
    let drawn = Tensor::f_cat(&drawn, 0)?;
    match card.rate {
        Some(rate) => of_sounds(&drawn, rate).map(Some),
        None => {
            let picture = contact_sheet(&quantize(&drawn)?, &Layout::default())?;
            Ok(Some(Preview { picture, sounds: Vec::new() }))
        }
    }
}

/// Waveforms `[N, C, T]` of `rate` samples a second, and their spectrograms.
fn of_sounds(waves: &Tensor, rate: u32) -> Result<Preview> {
    let waves = waves.f_to_device(Device::Cpu)?;
    let sounds = (0..waves.size()[0])
        .map(|i| Sound::from_tensor(&waves.f_get(i)?, rate))
        .collect::<Result<Vec<_>>>()?;
    let options = PlotOptions { width: 320, ..PlotOptions::default() };
    let pictures =
        sounds.iter().map(|s| spectrogram(s, &options)?.to_tensor()).collect::<Result<Vec<_>>>()?;
    let picture = contact_sheet(&Tensor::f_stack(&pictures, 0)?, &Layout::default())?;
    Ok(Preview { picture, sounds })
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

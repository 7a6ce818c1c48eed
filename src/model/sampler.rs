//! Drawing samples: seeds in, images out, in batches of any size with the same result.

use tch::{Device, Kind, Tensor};

use super::card::Range;
use crate::denoiser::{Denoiser, Guided};
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::noise::streams::{Rng, Streams};
use crate::solver::{Budget, GridSpec, Plan, Progress, SolverSpec, plan};

/// How samples are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The sampler.
    pub solver: SolverSpec,
    /// The grid of times.
    pub grid: GridSpec,
    /// How long the run may be.
    pub budget: Budget,
    /// Strength of classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// The generator of the samples' streams.
    pub rng: Rng,
    /// Dtype of the state.
    pub latent: Kind,
}

/// Which class the samples are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classes {
    /// The model knows no classes, or none is wanted.
    None,
    /// Drawn from each sample's own stream.
    Random,
    /// One for each sample, taken in turn from this list by the sample's place in the run.
    List(Vec<i64>),
}

/// A batch of samples.
#[derive(Debug)]
pub struct Drawn {
    /// `[B, ...]` f32 on the device, images in [-1, 1].
    pub x: Tensor,
    /// Their classes.
    pub classes: Option<Vec<i64>>,
    /// Network evaluations of each (guidance counts the pair as one).
    pub nfe: u64,
    /// What else the manifest says of each; nothing, or one for each sample.
    pub extra: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// One sample to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// Its place in the whole list of seeds.
    pub index: usize,
    /// Its seed.
    pub seed: u64,
}

/// What a vocoder is to make sound of.
#[derive(Debug)]
pub struct Mel {
    /// Where it comes from.
    pub name: String,
    /// Its frames, `[bands, frames]` on the device.
    pub frames: Tensor,
    /// Length of the sound in samples.
    pub length: i64,
}

/// A model with a plan.
pub struct Sampler<'a> {
    model: &'a dyn Denoiser,
    plan: Plan,
    settings: Settings,
    shape: Vec<i64>,
    classes: i64,
    range: Range,
    /// Conditions of a vocoder, taken in turn by a sample's place in the run.
    mels: Vec<Mel>,
    device: Device,
}

impl<'a> Sampler<'a> {
    /// Plans runs of `model`, whose samples have `shape` and which knows `classes` classes.
    ///
    /// # Errors
    /// Where the settings cannot be combined with each other or with the model.
    pub fn new(
        model: &'a dyn Denoiser,
        shape: &[i64],
        classes: i64,
        settings: Settings,
        device: Device,
    ) -> Result<Self> {
        if settings.guidance != 1.0 && classes == 0 {
            return Err(Error::usage("guidance needs a class-conditional model")
                .at("--guidance")
                .why("this model knows no classes")
                .hint("leave it out; only models trained with classes can be guided"));
        }
        let plan = plan(&settings.solver, &settings.grid, settings.budget, model.process())?;
        let (shape, range) = (shape.to_vec(), Range::Centred);
        Ok(Sampler { model, plan, settings, shape, classes, range, mels: Vec::new(), device })
    }

    /// The same for a model of data in `range`. Samples are in [-1, 1] all the same.
    #[must_use]
    pub fn of_range(self, range: Range) -> Self {
        Sampler { range, ..self }
    }

    /// The same for a vocoder: sample i is the sound of the i-th of `mels`, which are taken in turn.
    #[must_use]
    pub fn with_mels(self, mels: Vec<Mel>) -> Self {
        Sampler { mels, ..self }
    }

    /// The spectrogram of a sample.
    fn mel(&self, job: &Job) -> Option<&Mel> {
        self.mels.get(job.index % self.mels.len().max(1))
    }

    /// Whether two samples can be of one batch: they have the same shape.
    #[must_use]
    pub fn fit_together(&self, a: &Job, b: &Job) -> bool {
        let form = |job| self.mel(job).map(|mel| (mel.length, mel.frames.size()));
        form(a) == form(b)
    }

    /// The plan: grid and number of evaluations.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Draws the samples of `jobs`, which fit together. `init` `[N, ...]` holds the unit-normal latents of all samples of the
    /// run instead of the streams' own.
    ///
    /// # Errors
    /// Where the model fails, a sample is not finite, or `watch` stops the run.
    pub fn draw(
        &mut self,
        jobs: &[Job],
        classes: &Classes,
        init: Option<&Tensor>,
        watch: &mut dyn FnMut(&Progress<'_>) -> Result<()>,
    ) -> Result<Drawn> {
        let _no_grad = tch::no_grad_guard();
        let seeds: Vec<u64> = jobs.iter().map(|job| job.seed).collect();
        let mut streams = Streams::new(self.settings.rng, &seeds)?;
        // The latent is drawn in any case, so that --init-noise does not shift the noise of the steps; the
        // same holds for the class, as in EDM.
        let mut shape = self.shape.clone();
        if let (Some(mel), Some(last)) = (jobs.first().and_then(|job| self.mel(job)), shape.last_mut()) {
            *last = mel.length;
        }
        let mut latent = streams.draw(&shape)?;
        let random = if self.classes > 0 { Some(streams.below(self.classes)?) } else { None };
        if let Some(init) = init {
            let rows: Vec<i64> = jobs.iter().map(|job| job.index as i64).collect();
            latent = init.f_index_select(0, &Tensor::f_from_slice(&rows)?)?;
        }
        let labels = match classes {
            Classes::None => None,
            Classes::Random => random,
            Classes::List(list) => Some(jobs.iter().map(|job| list[job.index % list.len()]).collect()),
        };
        let class = labels.as_ref().map(|l| Tensor::f_from_slice(l)?.f_to_device(self.device)).transpose()?;
        let frames: Vec<&Tensor> =
            jobs.iter().filter_map(|job| self.mel(job)).map(|mel| &mel.frames).collect();
        let mel = (!frames.is_empty()).then(|| Tensor::f_stack(&frames, 0)).transpose()?;
        let cond = Cond { class, mel, ..Cond::default() };
        let x = latent
            .f_to_device(self.device)?
            .f_to_kind(self.settings.latent)?
            .f_mul_scalar(self.plan.start_std())?;
        let guided;
        let model: &dyn Denoiser = if self.settings.guidance == 1.0 {
            self.model
        } else {
            guided = Guided::new(self.model, self.settings.guidance);
            &guided
        };
        let solved = self.plan.run(model, &cond, x, &mut streams, watch)?;
        let mut x = solved.x.f_to_kind(Kind::Float)?;
        if self.range == Range::Unit {
            x = x.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?;
        }
        self.check_finite(&x, jobs)?;
        let named = |job| self.mel(job).map(|mel| [("mel".to_owned(), mel.name.as_str().into())]);
        let extra = jobs.iter().filter_map(named).map(serde_json::Map::from_iter).collect();
        Ok(Drawn { x, classes: labels, nfe: solved.nfe, extra })
    }

    fn check_finite(&self, x: &Tensor, jobs: &[Job]) -> Result<()> {
        let bad = x.f_isfinite()?.f_reshape([jobs.len() as i64, -1])?.f_all_dim(1, false)?.f_logical_not()?;
        if !bad.f_any()?.f_int64_value(&[]).is_ok_and(|any| any != 0) {
            return Ok(());
        }
        let first = bad.f_to_kind(Kind::Int64)?.f_argmax(0, false)?.f_int64_value(&[])?;
        let seed = jobs.get(first as usize).map_or(0, |job| job.seed);
        Err(Error::run(format!("the sample of seed {seed} is not finite"))
            .hint("try more --steps, another --solver, or --dtype f32"))
    }
}

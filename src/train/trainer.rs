//! The training loop.
//!
//! Everything random in step s is keyed by (seed, s), and the position in the data is the number of
//! images seen, so a run that is stopped and resumed repeats the uninterrupted one bit for bit on the
//! CPU. Nothing is read back from the device between log lines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tch::{Device, Kind};

use super::checkpoint::{Checkpoint, Saved, State};
use super::folder::RunFolder;
use super::log::{Log, Record};
use super::preview;
use super::resume::{Resume, SCALER, mix, resume_path, split_scaler};
use super::sums::Sums;
use super::tokens;
use super::validate::Validation;
use crate::data::feed::{Feed, Source};
use crate::data::loader::LoaderOptions;

use crate::error::{Error, Result};
use crate::io::atomic;
use crate::math::rng::SplitMix64;

use crate::net::store::{Store, channels_last};
use crate::net::{Mode, Network};
use crate::objective::{Batch, Objective};
use crate::optim::ema::Ema;
use crate::optim::plateau::Plateau;
use crate::optim::scaler::Scaler;
use crate::optim::spec::Schedule;
use crate::optim::{Count, Optimizer, Progress, clip_grad_norm, found_inf};
use crate::process::Process;
use crate::recipe::Recipe;
use crate::torch::interrupt;
use crate::torch::runtime::Dtype;
use crate::torch::shim::Autocast;

/// What happened, for those who watch.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step was done.
    Step(Progress),
    /// A log line was written.
    Logged(&'a Record),
    /// The loss on held-out data was measured.
    Validated(u64, &'a BTreeMap<String, f64>),
    /// A file or folder was written.
    Wrote(&'a Path),
}

/// A run, ready to go on.
#[derive(Debug)]
pub struct Trainer {
    pub(super) recipe: Recipe,
    pub(super) folder: RunFolder,
    pub(super) device: Device,
    pub(super) shape: Vec<i64>,
    pub(super) classes: i64,
    net: Box<dyn Network>,
    pub(super) store: Store,
    pub(super) emas: Vec<(String, Ema)>,
    optimizer: Box<dyn Optimizer>,
    scaler: Option<Scaler>,
    pub(super) objective: Box<dyn Objective>,
    pub(super) process: Box<dyn Process>,
    feed: Box<dyn Feed>,
    pub(super) validation: Option<Validation>,
    /// What the learning rate has seen of held-out losses.
    pub(super) plateau: Plateau,
    pub(super) rate: Option<u32>,
    /// `tokenizer.json` of a run on text.
    pub(super) tokenizer: Option<String>,
    sums: Sums,
    pub(super) log: Log,
    pub(super) at: Progress,
    seconds: f64,
    /// Where this sitting began.
    started_at: Progress,
}

impl Trainer {
    /// Builds the run of `recipe` on `data` in the folder `out`, or takes it up where it was left.
    ///
    /// # Errors
    /// Where recipe, data and network do not fit, the folder holds a run of another recipe, or a file
    /// cannot be read or written.
    pub fn new(recipe: Recipe, data: &Source, out: &Path, device: Device, resume: &Resume) -> Result<Self> {
        let (shape, classes) = (data.shape(), data.classes());
        let precision = recipe.train.precision;
        let store = Store::new(device, precision.storage(), recipe.train.seed);
        let net = recipe.model.build(&store.root(), &shape, classes).map_err(|e| {
            e.kinded(crate::error::Kind::Usage)
                .at("[model] of the recipe")
                .hint(format!("the data have samples of {shape:?} and {classes} classes"))
        })?;
        if recipe.train.channels_last {
            store.channels_last()?;
        }
        let objective = recipe.objective.build()?;
        let process = recipe.process.build()?;
        let mut optimizer = recipe.optim.build_grouped(store.trainable(), &store.groups())?;
        let mut emas = recipe
            .ema
            .iter()
            .map(|(name, spec)| Ok((name.clone(), Ema::new(*spec, store.named())?)))
            .collect::<Result<Vec<_>>>()?;
        let mut scaler = if precision == Dtype::F16 { Some(Scaler::new(device)?) } else { None };

        let folder = RunFolder::create(out)?;
        let tokenizer = tokens::keep(&folder, data, net.as_ref())?;
        let mut state = State::fresh();
        if let Some(path) = resume_path(&folder, &recipe, resume)? {
            let saved = Saved::open(&path)?;
            let place = path.display().to_string();
            store.load(&saved.model()?, &place)?;
            for (name, ema) in &mut emas {
                ema.load(&saved.ema(name)?, &place)?;
            }
            let (own, scale) = split_scaler(saved.optimizer()?);
            optimizer.load_state(&own, &place)?;
            if let Some(scaler) = &mut scaler {
                scaler.load_state(&scale, &place)?;
            }
            state = saved.state;
        }
        let at = Progress { step: state.step, images: state.images };
        let feed = data.feed(LoaderOptions {
            batch: recipe.train.micro_batch() as usize,
            seed: recipe.train.seed,
            position: state.images,
            device,
            ..LoaderOptions::default()
        })?;
        atomic::write_bytes(&folder.recipe(), recipe.to_toml()?.as_bytes())?;
        folder.write_env(&crate::torch::device::device_name(device), tch::get_num_threads())?;
        let log = Log::open(&folder, state.step)?;
        Ok(Trainer {
            sums: Sums::resume(&state.sums, state.terms, device)?,
            recipe,
            folder,
            device,
            shape,
            classes,
            net,
            store,
            emas,
            optimizer,
            scaler,
            objective,
            process,
            feed,
            validation: None,
            rate: data.rate(),
            tokenizer,
            log,
            at,
            seconds: state.seconds,
            plateau: state.plateau,
            started_at: at,
        })
    }

    /// Measures the loss on `held_out`, too, as `train.validate_every` says.
    #[must_use]
    pub fn validated_on(self, held_out: Source) -> Self {
        Trainer { validation: Some(Validation::new(held_out)), ..self }
    }

    /// Number of trained parameters.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.store.parameters()
    }

    /// How far the run has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.at
    }

    /// The run folder.
    #[must_use]
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Trains to the end of the recipe, or for `stop_after` steps, or until a signal. The state is saved
    /// in every case; gives the newest snapshot.
    ///
    /// # Errors
    /// Where the loss is not finite (the last checkpoint stays), something cannot be written, or a signal
    /// asks to stop.
    pub fn run(
        &mut self,
        stop_after: Option<u64>,
        watch: &mut dyn FnMut(&Event<'_>) -> Result<()>,
    ) -> Result<Option<PathBuf>> {
        let total = self.recipe.total_steps();
        let stop = stop_after.map_or(total, |n| total.min(self.at.step + n));
        let mut interval = Instant::now();
        let mut interval_images = self.at.images;
        let mut sitting = Instant::now();
        let mut saved_at = None;
        while self.at.step < stop {
            let before = self.at;
            let lr = self.step()?;
            let due = |every: Option<Count>| every.is_some_and(|every| every.due(before, self.at));
            let spec = &self.recipe.train;
            let validate = due(spec.validate_every);
            let at_the_end = spec.validate_every.is_some() && self.at.step == total;
            let (sample, snapshot, save) =
                (due(spec.sample_every), due(spec.snapshot_every), due(spec.checkpoint_every));
            if due(Some(spec.log_every)) {
                let seconds = interval.elapsed().as_secs_f64();
                let rate = (self.at.images - interval_images) as f64 / seconds.max(1e-9);
                self.seconds += std::mem::replace(&mut sitting, Instant::now()).elapsed().as_secs_f64();
                let record = self.write_log(lr, rate)?;
                watch(&Event::Logged(&record))?;
                (interval, interval_images) = (Instant::now(), self.at.images);
            }
            if validate || at_the_end {
                let loss = self.validate(watch)?;
                // The extra one at the end would not be there in a longer run.
                if validate && let (Schedule::Plateau, Some(loss)) = (self.recipe.optim.schedule, loss) {
                    self.plateau.take(loss, self.recipe.optim.patience);
                }
            }
            if sample {
                self.draw_samples(watch)?;
            }
            if snapshot {
                let _ = self.save_snapshots(watch)?;
            }
            let signal = interrupt::requested();
            if save || signal.is_some() {
                self.seconds += std::mem::replace(&mut sitting, Instant::now()).elapsed().as_secs_f64();
                self.save(watch)?;
                saved_at = Some(self.at.step);
            }
            if let Some(signal) = signal {
                let why = format!("the state of step {} is saved; the same command goes on", self.at.step);
                return Err(Error::new(crate::error::Kind::Interrupted(signal), "interrupted").why(why));
            }
            watch(&Event::Step(self.at))?;
        }
        self.seconds += sitting.elapsed().as_secs_f64();
        if saved_at != Some(self.at.step) && self.at != self.started_at {
            self.save(watch)?;
        }
        self.log.draw()?;
        if self.at.step < total { Ok(None) } else { self.save_snapshots(watch).map(Some) }
    }

    /// One optimiser step; gives its learning rate.
    fn step(&mut self) -> Result<f64> {
        let spec = self.recipe.train.clone();
        let optim = &self.recipe.optim;
        let lr = optim.lr_at(self.at, spec.total());
        let lr = self.plateau.lower(lr, optim.factor, optim.final_lr);
        self.optimizer.zero_grad()?;
        for micro in 0..spec.accumulate {
            let mut keys = SplitMix64::new(mix(spec.seed, self.at.step, micro));
            tch::manual_seed((keys.next_u64() >> 1) as i64);
            let batch = self.batch(keys.next_u64())?;
            let losses = {
                let cuda = matches!(self.device, Device::Cuda(_));
                let _autocast = spec.precision.autocast().map(|kind| Autocast::to(kind, cuda)).transpose()?;
                self.objective.loss(self.net.as_ref(), self.process.as_ref(), &batch)?
            };
            let share = losses.total.f_mul_scalar(1.0 / spec.accumulate as f64)?;
            match &self.scaler {
                Some(scaler) => scaler.scaled(&share)?.f_backward()?,
                None => share.f_backward()?,
            }
            self.sums.add("loss", &share)?;
            for (name, value) in &losses.parts {
                self.sums.add(name, &value.f_mul_scalar(1.0 / spec.accumulate as f64)?)?;
            }
        }
        let grads = self.optimizer.grads();
        if let Some(scaler) = &self.scaler {
            scaler.unscale(&grads)?;
        }
        let norm = clip_grad_norm(&grads, self.recipe.optim.clip_norm())?;
        // A step with a non-finite gradient changes nothing; the log shows what is wrong.
        let bad = found_inf(&norm)?;
        self.optimizer.step(lr, Some(&bad))?;
        if let Some(scaler) = &mut self.scaler {
            scaler.update(&bad)?;
        }
        for (_, ema) in &mut self.emas {
            ema.update(self.at, spec.batch)?;
        }
        self.sums.add("grad_norm", &norm)?;
        self.sums.next();
        self.at = Progress { step: self.at.step + 1, images: self.at.images + spec.batch };
        Ok(lr)
    }

    /// The next batch on the device, mirrored or augmented as the recipe says.
    fn batch(&mut self, draw_seed: u64) -> Result<Batch> {
        let fed = self.feed.next_batch()?;
        let _no_grad = tch::no_grad_guard();
        let (mut x, augment) = preview::augment(&self.recipe, fed.x, draw_seed)?;
        if self.recipe.train.precision == Dtype::F64 {
            x = x.f_to_kind(Kind::Double)?;
        }
        if self.recipe.train.channels_last && x.dim() == 4 {
            x = channels_last(&x)?;
        }
        Ok(Batch {
            x,
            class: fed.class,
            augment,
            mel: None,
            frames: fed.frames,
            draw_seed,
            mode: Mode::Train,
        })
    }

    fn write_log(&mut self, lr: f64, images_per_s: f64) -> Result<Record> {
        let mut means = self.sums.take()?;
        let loss = means.remove("loss").unwrap_or(f64::NAN);
        let grad_norm = means.remove("grad_norm").unwrap_or(f64::NAN);
        if !loss.is_finite() {
            let last = self.folder.checkpoints()?.last().copied();
            let hint = match last {
                Some(step) => format!("checkpoint {step} is good; lower optim.lr or set optim.clip"),
                None => "lower optim.lr or set optim.clip".to_owned(),
            };
            return Err(Error::non_finite("the loss", self.at.step).hint(hint));
        }
        let record = Record {
            step: self.at.step,
            images: self.at.images,
            loss,
            grad_norm,
            lr,
            images_per_s,
            seconds: self.seconds,
        };
        let parts: Vec<(&str, f64)> = means.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        self.log.write(&record, &parts)?;
        Ok(record)
    }

    fn save(&self, watch: &mut dyn FnMut(&Event<'_>) -> Result<()>) -> Result<()> {
        let (sums, terms) = self.sums.read()?;
        if sums.values().any(|sum| !sum.is_finite()) {
            return Err(Error::non_finite("the loss", self.at.step).hint("no checkpoint was written of it"));
        }
        let mut optimizer = self.optimizer.state();
        if let Some(scaler) = &self.scaler {
            optimizer.extend(scaler.state().into_iter().map(|(name, t)| (format!("{SCALER}{name}"), t)));
        }
        let checkpoint = Checkpoint {
            model: self.store.named(),
            emas: self.emas.iter().map(|(name, ema)| (name.clone(), ema.named())).collect(),
            optimizer,
            state: State {
                format: State::FORMAT,
                step: self.at.step,
                images: self.at.images,
                sums,
                terms,
                seconds: self.seconds,
                plateau: self.plateau,
            },
        };
        let path = self.folder.checkpoint(self.at.step);
        checkpoint.save(&path)?;
        self.folder.prune(self.recipe.train.keep)?;
        watch(&Event::Wrote(&path))
    }
}

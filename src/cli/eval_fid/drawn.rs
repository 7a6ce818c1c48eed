//! `--model`: images that are drawn from a model on the spot.
//!
//! They are spooled as raw bytes to a temporary file, which the evaluation maps: memory does not grow with
//! their number, and the figures equal those of `gen sample` followed by `gen eval-fid --images`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tch::Device;

use crate::cli::raw::RawArgs;
use crate::cli::sample::{self, HowArgs};
use crate::cli::ui::Ui;
use crate::cli::{Globals, values::positive};
use crate::data::Dataset;
use crate::data::array::{ArrayDataset, Layout};
use crate::denoiser::network::NetDenoiser;
use crate::error::{Error, Result};
use crate::io::bytes::Bytes;
use crate::io::picture::quantize;
use crate::model::card::ModelCard;
use crate::model::open::{OpenOptions, open};
use crate::model::sampler::{Job, Sampler};
use crate::noise::streams::Rng;
use crate::torch::interrupt;
use crate::torch::runtime::MemoryFormat;

/// A model instead of images.
#[derive(Debug, Args)]
#[command(next_help_heading = "Images from a model")]
pub struct DrawArgs {
    /// Draw the images from this model: a run folder, a snapshot, a model folder or file
    #[arg(short, long, visible_alias = "network", alias = "net", value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Which of its averaged weights, or variant of a folder's such as fp16 [default: the first]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub model_weights: Option<String>,
    /// Seed of the first image; --num says how many
    #[arg(long, default_value_t = 0, value_name = "SEED", hide_short_help = true)]
    pub first_seed: u64,
    /// Class of the images: a number, a list taken in turn, or `random`
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// Images computed at once
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = positive, hide_short_help = true)]
    pub sample_batch: usize,
    /// Draw and measure so many sets of images, of seeds that follow on; the FID of each, their mean and their minimum
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = positive)]
    pub repeats: usize,
    /// How to get from noise to images
    #[command(flatten)]
    pub how: HowArgs,
    /// What a bare module is
    #[command(flatten)]
    pub raw: RawArgs,
}

impl DrawArgs {
    /// Whether a flag is given that means nothing without a model.
    pub fn is_used(&self) -> bool {
        let how = &self.how;
        self.repeats > 1
            || self.first_seed > 0
            || self.class.is_some()
            || self.model_weights.is_some()
            || how.solver.is_some()
            || how.steps.is_some()
            || how.nfe.is_some()
    }
}

/// A model that images are drawn from.
pub struct Drawer<'a> {
    args: &'a DrawArgs,
    card: ModelCard,
    model: NetDenoiser,
    device: Device,
}

impl<'a> Drawer<'a> {
    /// Opens the model at `path`.
    ///
    /// # Errors
    /// Where it cannot be opened, or makes no images.
    pub fn open(path: &Path, args: &'a DrawArgs, globals: &Globals, ui: Ui, device: Device) -> Result<Self> {
        let options = OpenOptions {
            weights: args.model_weights.clone(),
            compat: args.how.compat.unwrap_or_default(),
            dtype: globals.dtype.unwrap_or_default(),
            raw: args.raw.spec(),
            format: MemoryFormat::default(),
            blocks: globals.deterministic,
        };
        let opened = open(path, &options, device)?;
        for note in &opened.notes {
            ui.say(format!("note: {note}"));
        }
        let shape = &opened.card.shape;
        if !matches!(shape.as_slice(), [1 | 3, _, _]) {
            return Err(Error::usage("the model makes no images")
                .at(path.display())
                .why(format!("its samples have shape {shape:?}"))
                .hint("images are [1, H, W] or [3, H, W]"));
        }
        Ok(Drawer { args, card: opened.card.clone(), model: opened.denoiser()?, device })
    }

    /// Draws the `n` images of the `repeat`-th set.
    ///
    /// # Errors
    /// Where the settings do not fit the model, it fails, or the spool cannot be written.
    pub fn draw(&self, n: usize, repeat: usize, ui: Ui) -> Result<Spooled> {
        let (args, card) = (self.args, &self.card);
        let settings = sample::settings(&args.how, card, Rng::default())?;
        let classes = sample::classes(args.class.as_deref(), card.classes)?;
        let sampler = Sampler::new(&self.model, &card.shape, card.classes, settings, self.device)?;
        let mut sampler = sampler.of_range(card.range);
        let first = args.first_seed + (repeat * n) as u64;
        let jobs: Vec<Job> = (0..n).map(|index| Job { index, seed: first + index as u64 }).collect();
        let mut spool = Spool::create()?;
        let mut labels = Vec::new();
        let mut bar = ui.bar("sampling", n as u64, "img");
        let mut done = 0;
        for batch in jobs.chunks(args.sample_batch) {
            let mut watch = |progress: &crate::solver::Progress<'_>| {
                bar.set((done as f64 + progress.fraction * batch.len() as f64) as u64);
                interrupt::check("nothing was measured yet")
            };
            let drawn = sampler.draw(batch, &classes, None, &mut watch)?;
            spool.write(&drawn.x)?;
            labels.extend(drawn.classes.into_iter().flatten());
            done += batch.len();
        }
        bar.finish();
        let labels = (labels.len() == n && labels.iter().all(|class| *class >= 0)).then_some(labels);
        spool.finish(&card.shape, labels)
    }
}

/// Images on the way into a temporary file.
struct Spool {
    file: BufWriter<File>,
    path: Temporary,
}

/// A file that goes away with its name's owner.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // A file that cannot be removed is no reason to fail: the folder is a temporary one.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A set of drawn images; the file behind it goes away with it.
#[derive(Debug)]
pub struct Spooled {
    /// The images.
    pub images: Arc<dyn Dataset>,
    _path: Temporary,
}

impl Spool {
    fn create() -> Result<Self> {
        let folder = std::env::temp_dir();
        for attempt in 0..100 {
            let path = folder.join(format!("gen-images-{}-{attempt}.bin", std::process::id()));
            match File::create_new(&path) {
                Ok(file) => return Ok(Spool { file: BufWriter::new(file), path: Temporary(path) }),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    return Err(
                        Error::write(&path, &e).hint("TMPDIR names a folder with room for the images")
                    );
                }
            }
        }
        Err(Error::run("no free name for a temporary file").at(folder.display()))
    }

    fn write(&mut self, x: &tch::Tensor) -> Result<()> {
        let bytes = quantize(x)?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let bytes = Vec::<u8>::try_from(bytes.f_view(-1)?)?;
        self.file.write_all(&bytes).map_err(|e| Error::write(&self.path.0, &e))
    }

    fn finish(mut self, shape: &[i64], labels: Option<Vec<i64>>) -> Result<Spooled> {
        self.file.flush().map_err(|e| Error::write(&self.path.0, &e))?;
        let shape: Vec<usize> = shape.iter().map(|n| *n as usize).collect();
        let shape = [shape[0], shape[1], shape[2]];
        let images = ArrayDataset::new(Bytes::map(&self.path.0)?, Layout::Chw, shape, labels)?;
        Ok(Spooled { images: Arc::new(images), _path: self.path })
    }
}

//! `gen eval-fid`: how far images are from real ones.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;

use super::Globals;
use super::ui::{Bar, Ui};
use super::values::{finite, positive};
use crate::data::{DataOptions, Dataset, Split};
use crate::error::{Error, Result};
use crate::metric::baseline;
use crate::metric::between::between;
use crate::metric::evaluate::{
    EvalOptions, MetricKind, Reference, Report, SubsetRule, evaluate, open_reference,
};
use crate::metric::inception_score::IsOrder;
use crate::metric::stats_file::{Stats, is_stats};
use crate::metric::suite::{Conventions, Suite};

use drawn::{DrawArgs, Drawer};
pub use features::{FeatureArgs, FeatureChoice};

mod drawn;
mod features;
mod report;

/// Measure images against real ones: FID, KID, IS, precision, recall, ...
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen eval-fid --images out --ref cifar10.npz --weights pt_inception-2015-12-05-6726825d.pth\n  \
    gen eval-fid --suite adm --images samples.npz --ref VIRTUAL_imagenet256_labeled.npz --download\n  \
    gen eval-fid --images out --ref real --features dinov2:dinov2-large --metrics fid,prdc --bootstrap 100\n  \
    gen eval-fid --images out --ref data/digits --ref-split test --features digits --metrics fid,nn\n  \
    gen eval-fid --images a --ref b --features pixel8 --metrics fid,kid,prdc --json\n  \
    gen eval-fid --model runs/cifar --solver edm --steps 18 --num 50000 --repeats 3 --ref cifar10.npz --download\n\n\
    Images: a folder or zip of image files, an .npz (`arr_0`, bytes, N x H x W x C), CIFAR-10 batches, IDX \
    files; or statistics, where the Frechet distance alone is wanted.\n\
    Reference: the same, or statistics: an .npz with `mu` and `sigma`, or a file of `gen ref-stats`. ADM's \
    reference batches also hold `mu_s` and `sigma_s` for sFID over the whole dataset, and 10 000 images in \
    `arr_0` for precision and recall.\n\
    A FID without its protocol and number of images is no number: report both.")]
pub struct EvalFidArgs {
    /// The images to measure
    #[arg(
        long,
        value_name = "PATH",
        alias = "samples",
        required_unless_present = "model",
        conflicts_with = "model"
    )]
    pub images: Option<PathBuf>,
    /// Real images, or their statistics
    #[arg(long = "ref", value_name = "PATH", alias = "reference")]
    pub reference: Option<PathBuf>,
    /// Part of the real images
    #[arg(long, value_enum, default_value_t, value_name = "PART")]
    pub ref_split: Split,
    /// How images become features
    #[command(flatten)]
    pub features: FeatureArgs,
    /// Measure as this tool does; flags that are given go before it
    #[arg(long, value_enum, value_name = "TOOL")]
    pub suite: Option<Suite>,
    /// What to measure [default: fid, or what the suite measures]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub metrics: Vec<MetricKind>,
    /// Number of images, or `all` [default: all; 50000 with --suite edm]
    #[arg(long, value_name = "N")]
    pub num: Option<Count>,
    /// Which images, where there are more
    #[arg(long, value_enum, default_value_t, value_name = "RULE", hide_short_help = true)]
    pub subset: SubsetRule,
    /// Seed of the random subset
    #[arg(long, default_value_t = 0, value_name = "SEED", hide_short_help = true)]
    pub seed: u32,
    /// Random subsets of KID [default: 100]
    #[arg(long, value_name = "N", value_parser = positive, hide_short_help = true)]
    pub kid_subsets: Option<usize>,
    /// Images in a subset of KID [default: 1000, or all if there are fewer]
    #[arg(long, value_name = "N", value_parser = positive, hide_short_help = true)]
    pub kid_subset_size: Option<usize>,
    /// Splits of the Inception Score [default: 10; chunks of 5000 with --suite adm]
    #[arg(long, value_name = "N", value_parser = positive, hide_short_help = true)]
    pub is_splits: Option<usize>,
    /// Order of the images in these splits [default: shuffled; sequential with --suite adm]
    #[arg(long, value_enum, value_name = "ORDER", hide_short_help = true)]
    pub is_order: Option<IsOrder>,
    /// Neighbours of precision and recall [default: 3; 5 with --suite dgm-eval]
    #[arg(long, value_name = "K", value_parser = positive, hide_short_help = true)]
    pub pr_k: Option<usize>,
    /// Neighbours of density and coverage [default: 5]
    #[arg(long, value_name = "K", value_parser = positive, hide_short_help = true)]
    pub prdc_k: Option<usize>,
    /// Intervals of 95 % from this many resamplings of the features
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub bootstrap: usize,
    /// Also the Frechet distance of each class
    #[arg(long)]
    pub per_class: bool,
    /// Keep features in this folder, and take them from there
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Also say which conventions the figures follow
    #[arg(long)]
    pub explain: bool,
    /// Also measure noise, a Gaussian fitted to the pixels of these real images, and these images themselves
    #[arg(long, value_name = "PATH")]
    pub baselines: Option<PathBuf>,
    /// Part of these real images
    #[arg(long, value_enum, default_value = "train", value_name = "PART", hide_short_help = true)]
    pub baselines_split: Split,
    /// Exit with code 1 if the FID is above this
    #[arg(long, value_name = "FID", value_parser = finite)]
    pub max: Option<f64>,
    /// Images from a model
    #[command(flatten)]
    pub draw: DrawArgs,
}

/// `--num`: a number, or everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub Option<usize>);

impl FromStr for Count {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "all" {
            return Ok(Count(None));
        }
        text.parse().map(|n| Count(Some(n))).map_err(|_| "expected a number or `all`".to_owned())
    }
}

/// Runs the command.
pub fn run(args: &EvalFidArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    let conventions = args.suite.map_or_else(Conventions::default, Suite::conventions);
    let options = options(args, &conventions);
    if args.max.is_some() && !options.metrics.contains(&MetricKind::Fid) {
        return Err(Error::usage("a limit without FID").at("--max").hint("add fid to --metrics").into());
    }
    if args.images.is_some() && args.draw.is_used() {
        return Err(Error::usage("images are given")
            .at("--images")
            .hint("flags of sampling, --class, --first-seed and --repeats go with --model")
            .into());
    }
    let device = globals.start()?;
    let options = EvalOptions { device, ..options };
    let any_size = DataOptions { any_size: true, classes: Some(args.per_class), ..DataOptions::default() };
    let real = DataOptions { split: args.ref_split, ..any_size.clone() };
    // The reference first: a wrong path fails at once, not after the long work.
    let reference = args.reference.as_deref().map(|path| open_reference(path, &real)).transpose()?;
    if let (Some(path), Some(Reference::Stats(real, _))) = (&args.images, &reference)
        && is_stats(path)?
        && crate::data::open(path, &any_size).is_err()
    {
        let start = std::time::Instant::now();
        let report = between(&Stats::read(path)?, real, &options)?;
        for note in &report.notes {
            ui.warn(note);
        }
        report::print(&report, &[], &[], args, &options, ui, start.elapsed().as_secs_f64())?;
        return limit(args.max, &report);
    }
    let source = Source::open(args, &any_size, (globals, ui, device), options.num)?;
    let extractor = args.features.open(&conventions, device)?;
    let start = std::time::Instant::now();
    let (images, _spooled) = source.images(0, ui)?;
    let mut bar: Option<Bar> = None;
    let mut progress = |done: usize, total: usize| {
        bar.get_or_insert_with(|| ui.bar("evaluating", total as u64, "img")).set(done as u64);
    };
    let report = evaluate(&images, reference.as_ref(), &*extractor, &options, &mut progress)?;
    if let Some(bar) = &bar {
        bar.finish();
    }
    let mut repeated: Vec<f64> = report.frechet().into_iter().collect();
    for repeat in 1..args.draw.repeats {
        let (images, _spooled) = source.images(repeat, ui)?;
        let metrics = BTreeSet::from([MetricKind::Fid]);
        let options = EvalOptions { metrics, bootstrap: 0, per_class: false, cache: None, ..options.clone() };
        let again = evaluate(&images, reference.as_ref(), &*extractor, &options, &mut |_, _| ())?;
        repeated.extend(again.frechet());
    }
    let mut baselines = Vec::new();
    if let Some(path) = &args.baselines {
        let n = Some(report.n as usize);
        let options = EvalOptions { num: n, bootstrap: 0, per_class: false, cache: None, ..options.clone() };
        let part =
            DataOptions { split: args.baselines_split, classes: Some(false), ..DataOptions::default() };
        for (name, set) in baseline_sets(path, &part, &images, report.n as usize, args.seed)? {
            let num = options.num.map(|n| n.min(set.len()));
            let options = EvalOptions { num, ..options.clone() };
            baselines
                .push((name, evaluate(&set, reference.as_ref(), &*extractor, &options, &mut |_, _| ())?));
        }
    }
    for note in &report.notes {
        ui.warn(note);
    }
    report::print(&report, &baselines, &repeated, args, &options, ui, start.elapsed().as_secs_f64())?;
    limit(args.max, &report)
}

/// The failure of a run whose FID is above `--max`.
fn limit(max: Option<f64>, report: &Report) -> anyhow::Result<()> {
    match (max, report.frechet()) {
        (Some(max), Some(fid)) if fid > max => {
            let error = Error::run(format!("FID is {fid:.4}")).at("--max").why(format!("{max} was allowed"));
            Err(error.hint("the images are worse than the limit allows; the figures are those above").into())
        }
        _ => Ok(()),
    }
}

/// Where the images come from.
enum Source<'a> {
    Files(Arc<dyn Dataset>),
    Model(Box<Drawer<'a>>, usize),
}

impl<'a> Source<'a> {
    fn open(
        args: &'a EvalFidArgs,
        options: &DataOptions,
        (globals, ui, device): (&Globals, Ui, tch::Device),
        num: Option<usize>,
    ) -> Result<Self> {
        if let Some(path) = &args.images {
            return Ok(Source::Files(Arc::from(crate::data::open(path, options)?)));
        }
        let path = args.draw.model.as_deref().unwrap_or(Path::new(""));
        let num = num.ok_or_else(|| {
            Error::usage("no number of images").at("--num").hint("say how many to draw, such as --num 50000")
        })?;
        Ok(Source::Model(Box::new(Drawer::open(path, &args.draw, globals, ui, device)?), num))
    }

    /// The images of the `repeat`-th set, and what keeps them alive.
    fn images(&self, repeat: usize, ui: Ui) -> Result<(Arc<dyn Dataset>, Option<drawn::Spooled>)> {
        match self {
            Source::Files(images) => Ok((Arc::clone(images), None)),
            Source::Model(drawer, num) => {
                let spooled = drawer.draw(*num, repeat, ui)?;
                Ok((Arc::clone(&spooled.images), Some(spooled)))
            }
        }
    }
}

/// The settings: what the flags say, then what the suite says.
fn options(args: &EvalFidArgs, suite: &Conventions) -> EvalOptions {
    let metrics = if args.metrics.is_empty() { &suite.metrics } else { &args.metrics };
    // Splits that are asked for are splits of equal size.
    let chunk = suite.is_chunk.filter(|_| args.is_splits.is_none());
    EvalOptions {
        metrics: metrics.iter().copied().collect::<BTreeSet<_>>(),
        num: args.num.map_or(suite.num, |count| count.0),
        subset: args.subset,
        seed: args.seed,
        batch: args.features.batch as usize,
        workers: args.features.workers as usize,
        kid_subsets: args.kid_subsets.unwrap_or(suite.kid_subsets),
        kid_subset_size: args.kid_subset_size.or(suite.kid_subset_size),
        is_splits: args.is_splits.unwrap_or(suite.is_splits),
        is_order: args.is_order.unwrap_or(suite.is_order),
        is_chunk: chunk,
        pr_k: args.pr_k.unwrap_or(suite.pr_k),
        pr_strict: suite.pr_strict,
        prdc_k: args.prdc_k.unwrap_or(suite.prdc_k),
        prdc_subset: suite.prdc_subset,
        bootstrap: args.bootstrap,
        per_class: args.per_class,
        cache: args.cache.clone(),
        ..EvalOptions::default()
    }
}

/// Noise, a Gaussian fit and the real images themselves, to compare with.
fn baseline_sets(
    path: &Path,
    part: &DataOptions,
    images: &Arc<dyn Dataset>,
    n: usize,
    seed: u32,
) -> Result<Vec<(&'static str, Arc<dyn Dataset>)>> {
    let real: Arc<dyn Dataset> = Arc::from(crate::data::open(path, part)?);
    let seed = u64::from(seed);
    Ok(vec![
        ("noise", Arc::new(baseline::noise(images.shape(), n, seed)?)),
        ("gaussian", Arc::new(baseline::gaussian(&*real, n, seed)?)),
        ("real", real),
    ])
}

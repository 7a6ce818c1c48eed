//! `gen eval-fid`: how far images are from real ones.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tch::Device;

use super::Globals;
use super::ui::{Bar, Ui};
use super::values::{finite, positive};
use crate::data::{DataOptions, Dataset, Split};
use crate::error::{Error, Kind, Result};
use crate::io::safetensors;
use crate::metric::baseline;
use crate::metric::digits::Digits;
use crate::metric::evaluate::{EvalOptions, MetricKind, Report, SubsetRule, evaluate, open_reference};
use crate::metric::features::Extractor;
use crate::metric::inception::InceptionExtractor;
use crate::metric::inception_score::IsOrder;
use crate::metric::inception_weights::sha256_of;
use crate::metric::pixel8::Pixel8;
use crate::metric::resize::Protocol;
use crate::metric::torchscript::ScriptExtractor;
use crate::model::card::ModelCard;
use crate::model::open::weights_of;
use crate::net::digit_cnn::DigitCnn;
use crate::net::spec::NetSpec;
use crate::net::store::Store;
use crate::torch::shim;

/// Where the classifier of the shipped digits lies, in a checkout.
const DIGITS_WEIGHTS: &str = "models/digits-features";

/// Measure images against real ones: FID, KID, IS, precision, recall, ...
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen eval-fid --images out --ref cifar10.npz --weights pt_inception-2015-12-05-6726825d.pth\n  \
    gen eval-fid --images samples.npz --ref VIRTUAL_imagenet256_labeled.npz --weights inception.pth \\\n      \
    --metrics is,fid,sfid,pr --is-order sequential\n  \
    gen eval-fid --images out --ref data/digits --ref-split test --features digits --metrics fid,nn\n  \
    gen eval-fid --images a --ref b --features pixel8 --metrics fid,kid,prdc --json\n\n\
    Images: a folder or zip of image files, an .npz (`arr_0`, bytes, N x H x W x C), CIFAR-10 batches, IDX \
    files.\n\
    Reference: the same, or statistics: an .npz with `mu` and `sigma`, or a file of `gen ref-stats`. ADM's \
    reference batches also hold `mu_s` and `sigma_s` for sFID over the whole dataset, and 10 000 images in \
    `arr_0` for precision and recall.\n\
    A FID without its protocol and number of images is no number: report both.")]
pub struct EvalFidArgs {
    /// The images to measure
    #[arg(long, value_name = "PATH", alias = "samples")]
    pub images: PathBuf,
    /// Real images, or their statistics
    #[arg(long = "ref", value_name = "PATH", alias = "reference")]
    pub reference: Option<PathBuf>,
    /// Part of the real images
    #[arg(long, value_enum, default_value_t, value_name = "PART")]
    pub ref_split: Split,
    /// How images become features
    #[command(flatten)]
    pub features: FeatureArgs,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "fid", value_name = "LIST")]
    pub metrics: Vec<MetricKind>,
    /// Number of images, or `all`
    #[arg(long, default_value = "all", value_name = "N")]
    pub num: Count,
    /// Which images, where there are more
    #[arg(long, value_enum, default_value_t, value_name = "RULE")]
    pub subset: SubsetRule,
    /// Seed of the random subset
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    pub seed: u32,
    /// Random subsets of KID
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = positive)]
    pub kid_subsets: usize,
    /// Images in a subset of KID [default: 1000, or all if there are fewer]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub kid_subset_size: Option<usize>,
    /// Splits of the Inception Score
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = positive)]
    pub is_splits: usize,
    /// Order of the images in these splits
    #[arg(long, value_enum, default_value = "shuffled", value_name = "ORDER")]
    pub is_order: IsOrder,
    /// Neighbours of precision and recall
    #[arg(long, default_value_t = 3, value_name = "K", value_parser = positive)]
    pub pr_k: usize,
    /// Neighbours of density and coverage
    #[arg(long, default_value_t = 5, value_name = "K", value_parser = positive)]
    pub prdc_k: usize,
    /// Also measure noise, a Gaussian fitted to the pixels of these real images, and these images themselves
    #[arg(long, value_name = "PATH")]
    pub baselines: Option<PathBuf>,
    /// Part of these real images
    #[arg(long, value_enum, default_value = "train", value_name = "PART")]
    pub baselines_split: Split,
    /// Exit with code 1 if the FID is above this
    #[arg(long, value_name = "FID", value_parser = finite)]
    pub max: Option<f64>,
}

/// How images become features; shared with `gen ref-stats`.
#[derive(Debug, Clone, Args)]
pub struct FeatureArgs {
    /// inception, pixel8 (no weights), digits, or torchscript:FILE
    #[arg(long, default_value = "inception", value_name = "NAME", alias = "extractor")]
    pub features: FeatureChoice,
    /// Weights of the features' network (.pth or .safetensors)
    #[arg(long, env = "GEN_INCEPTION", value_name = "FILE", alias = "inception")]
    pub weights: Option<PathBuf>,
    /// Use Inception weights whose hash is not that of the published file
    #[arg(long)]
    pub allow_unverified_weights: bool,
    /// How images are resized: tf (original FID, EDM, ADM, torch-fidelity), pytorch (pytorch-fid), clean (clean-fid)
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    pub protocol: Protocol,
    /// Images in one call of the network
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Threads that decode images
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: u32,
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

/// `--features`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeatureChoice {
    /// The Inception network of FID.
    Inception,
    /// Mean colours on an 8 x 8 grid.
    Pixel8,
    /// The classifier of the shipped digits.
    Digits,
    /// A TorchScript module.
    TorchScript(PathBuf),
}

impl FromStr for FeatureChoice {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "inception" => Ok(FeatureChoice::Inception),
            "pixel8" => Ok(FeatureChoice::Pixel8),
            "digits" => Ok(FeatureChoice::Digits),
            _ => match text.strip_prefix("torchscript:") {
                Some(path) if !path.is_empty() => Ok(FeatureChoice::TorchScript(path.into())),
                _ => Err("expected inception, pixel8, digits or torchscript:FILE".to_owned()),
            },
        }
    }
}

impl FeatureArgs {
    /// The extractor on `device`.
    ///
    /// # Errors
    /// Where weights are missing or do not fit.
    pub fn open(&self, device: Device) -> Result<Box<dyn Extractor>> {
        // Features must not depend on the GPU's rounding of matrix products.
        shim::set_tf32(false)?;
        Ok(match &self.features {
            FeatureChoice::Pixel8 => Box::new(Pixel8),
            FeatureChoice::TorchScript(path) => Box::new(ScriptExtractor::open(path, device)?),
            FeatureChoice::Digits => {
                let path = self.weights.as_deref().unwrap_or(Path::new(DIGITS_WEIGHTS));
                Box::new(digits(path, device)?)
            }
            FeatureChoice::Inception => {
                let path = self.weights.as_deref().ok_or_else(|| {
                    Error::usage("no Inception weights are given").at("--weights").hint(
                        "download pt_inception-2015-12-05-6726825d.pth (release of mseitzer/pytorch-fid; SHA-256 \
                         6726825d...) and name it with --weights; --features pixel8 needs no weights",
                    )
                })?;
                let opened =
                    InceptionExtractor::open(path, self.protocol, device, self.allow_unverified_weights);
                let hint =
                    "Inception weights are pt_inception-2015-12-05-6726825d.pth or a safetensors file of it";
                Box::new(opened.map_err(|e| e.kinded(Kind::Model).hint(hint))?)
            }
        })
    }
}

/// The classifier at `path`, a snapshot or run folder of `gen train`.
fn digits(path: &Path, device: Device) -> Result<Digits> {
    let missing = |e: Error| e.kinded(Kind::Model).hint("train it with `gen train models/digits-features`");
    let path = if path.is_dir() { weights_of(path, None).map_err(missing)? } else { path.to_owned() };
    let file = safetensors::File::open(&path).map_err(missing)?;
    let card = ModelCard::of(&file)?;
    let NetSpec::DigitCnn(config) = &card.model else {
        return Err(Error::model("not a classifier of digits")
            .at(path.display())
            .hint("leave --weights out, or train one with `gen train models/digits-features`"));
    };
    let store = Store::empty(device, tch::Kind::Float);
    let net = DigitCnn::new(&store.root(), config, &card.shape, card.classes)?;
    store.load(&file.tensors()?, &path.display().to_string())?;
    store.set_requires_grad(false)?;
    let shape = <[i64; 3]>::try_from(card.shape.as_slice())
        .map_err(|_| Error::model("not a classifier of images").at(path.display()))?;
    let classifier = move |x: &tch::Tensor| {
        // The store keeps the weights alive.
        let _ = &store;
        net.features(x)
    };
    Ok(Digits::new(Box::new(classifier), shape, device, Some(sha256_of(&path)?)))
}

/// Runs the command.
pub fn run(args: &EvalFidArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    if args.max.is_some() && !args.metrics.contains(&MetricKind::Fid) {
        return Err(Error::usage("a limit without FID").at("--max").hint("add fid to --metrics").into());
    }
    let device = globals.start()?;
    let any_size = DataOptions { any_size: true, classes: Some(false), ..DataOptions::default() };
    let real = DataOptions { split: args.ref_split, ..any_size.clone() };
    // The reference first: a wrong path fails at once, not after the long work.
    let reference = args.reference.as_deref().map(|path| open_reference(path, &real)).transpose()?;
    let images: Arc<dyn Dataset> = Arc::from(crate::data::open(&args.images, &any_size)?);
    let extractor = args.features.open(device)?;
    let options = EvalOptions {
        metrics: args.metrics.iter().copied().collect::<BTreeSet<_>>(),
        num: args.num.0,
        subset: args.subset,
        seed: args.seed,
        batch: args.features.batch as usize,
        workers: args.features.workers as usize,
        kid_subsets: args.kid_subsets,
        kid_subset_size: args.kid_subset_size,
        is_splits: args.is_splits,
        is_order: args.is_order,
        pr_k: args.pr_k,
        prdc_k: args.prdc_k,
        device,
    };
    let start = std::time::Instant::now();
    let mut bar: Option<Bar> = None;
    let mut progress = |done: usize, total: usize| {
        bar.get_or_insert_with(|| ui.bar("evaluating", total as u64, "img")).set(done as u64);
    };
    let report = evaluate(&images, reference.as_ref(), &*extractor, &options, &mut progress)?;
    if let Some(bar) = &bar {
        bar.finish();
    }
    let mut baselines = Vec::new();
    if let Some(path) = &args.baselines {
        let options = EvalOptions { num: Some(report.n as usize), ..options };
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
    print(&report, &baselines, args, ui, start.elapsed().as_secs_f64())?;
    match (args.max, report.fid) {
        (Some(max), Some(fid)) if fid > max => {
            let error = Error::run(format!("FID is {fid:.4}")).at("--max").why(format!("{max} was allowed"));
            Err(error.hint("the images are worse than the limit allows; the figures are those above").into())
        }
        _ => Ok(()),
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

/// The numbers of a report as rows of text, by name.
fn rows(report: &Report) -> Vec<(&'static str, String)> {
    let pm = |mean: Option<f64>, std: Option<f64>, scale: f64| {
        let std = std.map_or(String::new(), |s| format!(" +- {:.4}", s * scale));
        mean.map(|m| format!("{:.4}{std}", m * scale))
    };
    let plain = |v: Option<f64>| pm(v, None, 1.0);
    // Rounding may put a distance of 0 a little below it.
    let distance = |v: Option<f64>| plain(v.map(|v| v.max(0.0)));
    [
        ("FID", distance(report.fid)),
        ("sFID", distance(report.sfid)),
        ("Inception Score", pm(report.is_mean, report.is_std, 1.0)),
        ("KID x 1000", pm(report.kid, report.kid_std, 1e3)),
        ("KID x 1000, all pairs", pm(report.kid_full, None, 1e3)),
        ("MMD^2 x 1000", pm(report.mmd2, None, 1e3)),
        ("precision", plain(report.precision)),
        ("recall", plain(report.recall)),
        ("density", plain(report.density)),
        ("coverage", plain(report.coverage)),
        ("authenticity, %", plain(report.auth_pct)),
        ("1-NN accuracy", plain(report.nn_accuracy)),
        ("MIND", plain(report.mind)),
        ("Vendi score", plain(report.vendi)),
        ("sliced W2", plain(report.sw)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// The table for people, or the JSON object.
fn print(
    report: &Report,
    baselines: &[(&str, Report)],
    args: &EvalFidArgs,
    ui: Ui,
    seconds: f64,
) -> anyhow::Result<()> {
    let mut value = serde_json::to_value(report)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("images".into(), json!(args.images.display().to_string()));
        object.insert("ref".into(), json!(args.reference.as_ref().map(|p| p.display().to_string())));
        object.insert("seconds".into(), json!(seconds));
        object.insert("gen_version".into(), json!(env!("CARGO_PKG_VERSION")));
        if !baselines.is_empty() {
            let all: serde_json::Map<String, serde_json::Value> = baselines
                .iter()
                .map(|(name, report)| Ok(((*name).to_owned(), serde_json::to_value(report)?)))
                .collect::<anyhow::Result<_>>()?;
            object.insert("baselines".into(), all.into());
        }
    }
    ui.result(&value)?;
    let columns: Vec<_> = baselines.iter().map(|(_, report)| rows(report)).collect();
    if !baselines.is_empty() {
        let names: String = baselines.iter().map(|(name, _)| format!("{name:<14}")).collect();
        ui.line(format!("{:<22}{:<20}{}", "", "images", names.trim_end()))?;
    }
    for (i, (name, value)) in rows(report).into_iter().enumerate() {
        let others: String = columns.iter().map(|c| format!("{:<14}", c[i].1)).collect();
        let gap = if others.is_empty() { 0 } else { 20 };
        ui.line(format!("{name:<22}{value:<gap$}{}", others.trim_end()))?;
    }
    let protocol = report.protocol.map_or(String::new(), |p| format!(", protocol {p}"));
    let against = report.n_ref.or(report.n_ref_features).map_or(String::new(), |n| format!(" against {n}"));
    ui.line(format!("{:<22}{}{against} ({}{protocol})", "images", report.n, report.extractor))?;
    Ok(())
}

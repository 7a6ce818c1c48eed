//! One pass over images, any set of metrics, one report.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use super::distance::{BLOCK, rows};
use super::extra::{approximate_sw2, mind, vendi};
use super::features::{Extractor, Wanted};
use super::frechet::{self, Gaussian, Moments};
use super::inception_score::{IsOrder, inception_score};
use super::inception_weights::hex;
use super::kid::{KidOptions, kid_subsets};
use super::mmd::unbiased_mmd2;
use super::nn_two_sample::nn_two_sample;
use super::numpy_rng::RandomState;
use super::prdc::{PrdcOptions, prdc};
use super::stats_file::{Origin, Stats};
use crate::data::loader::batch_tensor;
use crate::data::prefetch::{Plan, Prefetch};
use crate::data::{Dataset, Item};
use crate::error::{Error, Result};

/// A metric that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MetricKind {
    /// Frechet distance of the features.
    Fid,
    /// Frechet distance of the spatial features.
    Sfid,
    /// Inception Score.
    Is,
    /// Kernel distance: over subsets, and exact over all pairs.
    Kid,
    /// Precision and recall.
    Pr,
    /// Density and coverage, with precision and recall.
    Prdc,
    /// Authenticity: per cent of images that are no copies.
    Authpct,
    /// Unbiased squared MMD, cubic kernel (`kid` without subsets).
    Mmd,
    /// Leave-one-out 1-nearest-neighbour two-sample accuracy.
    Nn,
    /// Monge-independent distance.
    Mind,
    /// Vendi score of the generated set.
    Vendi,
    /// Approximate sliced 2-Wasserstein distance.
    Sw,
}

impl MetricKind {
    /// Whether features themselves are needed, of both sets unless it is [`MetricKind::Vendi`].
    fn needs_features(self) -> bool {
        !matches!(self, MetricKind::Fid | MetricKind::Sfid | MetricKind::Is)
    }

    fn needs_reference(self) -> bool {
        !matches!(self, MetricKind::Is | MetricKind::Vendi)
    }
}

/// Which images are taken where there are more than asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SubsetRule {
    /// A random subset by the seed, in file order (EDM's rule, with numpy's shuffle).
    #[default]
    Random,
    /// The first ones.
    First,
    /// None: more images than asked for are an error.
    Error,
}

/// Settings of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalOptions {
    /// The metrics.
    pub metrics: BTreeSet<MetricKind>,
    /// Images wanted of the generated set; nothing takes all.
    pub num: Option<usize>,
    /// What to do with more images than wanted.
    pub subset: SubsetRule,
    /// Seed of the random subset.
    pub seed: u32,
    /// Images per network call.
    pub batch: usize,
    /// Threads that decode.
    pub workers: usize,
    /// Subsets of KID; subset size `None` is the smaller of 1000 and the sets' sizes.
    pub kid_subsets: usize,
    /// Images per subset of KID.
    pub kid_subset_size: Option<usize>,
    /// Splits of the Inception Score.
    pub is_splits: usize,
    /// Order of its rows.
    pub is_order: IsOrder,
    /// Neighbours of precision and recall.
    pub pr_k: usize,
    /// Neighbours of density and coverage.
    pub prdc_k: usize,
    /// Device of the metrics on features.
    pub device: Device,
}

impl Default for EvalOptions {
    fn default() -> Self {
        EvalOptions {
            metrics: BTreeSet::from([MetricKind::Fid]),
            num: None,
            subset: SubsetRule::Random,
            seed: 0,
            batch: 64,
            workers: 2,
            kid_subsets: 100,
            kid_subset_size: None,
            is_splits: 10,
            is_order: IsOrder::Shuffled,
            pr_k: 3,
            prdc_k: 5,
            device: Device::Cpu,
        }
    }
}

/// What the generated images are held against.
#[derive(Debug)]
pub enum Reference {
    /// Real images.
    Images(Arc<dyn Dataset>),
    /// Statistics, and perhaps real images beside them for the metrics that need features (ADM's batches).
    Stats(Box<Stats>, Option<Arc<dyn Dataset>>),
}

/// The figures. Only those asked for are there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fid: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sfid: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_std: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid_std: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid_full: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub density: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_pct: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmd2: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nn_accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mind: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendi: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sw: Option<f64>,
    /// Generated images.
    pub n: u64,
    /// Reference images behind the Frechet distance, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_ref: Option<u64>,
    /// Reference images behind the metrics on features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_ref_features: Option<u64>,
    pub extractor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<super::resize::Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pr_k: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prdc_k: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid_subset_size: Option<usize>,
    /// Seed of the random subset of images.
    pub seed: u32,
    /// Whether a covariance has less than full rank for lack of images.
    pub rank_deficient: bool,
    /// SHA-256 of the list of generated images.
    pub list_sha256: String,
    /// What may spoil the result.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What one pass over a set of images gave.
#[derive(Debug)]
pub struct Collected {
    /// Gaussian of the features.
    pub gaussian: Gaussian,
    /// Gaussian of the spatial features.
    pub spatial: Option<Gaussian>,
    /// The features, where they were kept.
    pub features: Option<Tensor>,
    /// Class logits.
    pub logits: Option<Tensor>,
    /// SHA-256 of the list of images.
    pub list_sha256: String,
    /// What a user should know about the images.
    pub notes: Vec<String>,
}

/// Told of images done and images in all.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// The images to take of `have`.
///
/// # Errors
/// Where there are fewer than `num`, or more under [`SubsetRule::Error`].
pub fn choose(have: usize, num: Option<usize>, rule: SubsetRule, seed: u32) -> Result<Vec<usize>> {
    let num = num.unwrap_or(have);
    if have < num {
        return Err(Error::data(format!("found {have} images, {num} are wanted"))
            .hint("give --num all to take what is there; the number is part of the result"));
    }
    if have == num {
        return Ok((0..have).collect());
    }
    match rule {
        SubsetRule::First => Ok((0..num).collect()),
        SubsetRule::Random => {
            let mut chosen = RandomState::new(seed).choice(have, num);
            chosen.sort_unstable();
            Ok(chosen)
        }
        SubsetRule::Error => Err(Error::data(format!("found {have} images, {num} are wanted"))
            .hint("--subset random or --subset first chooses among them")),
    }
}

/// Runs the images `indices` of `dataset` through the extractor once. Images may differ in size: each is
/// resized for itself, and neighbours of one size share a batch. Results do not depend on the batch size beyond
/// rounding, nor on the number of workers.
///
/// # Errors
/// Where an image cannot be decoded (it is named) or the extractor fails.
pub fn collect(
    dataset: &Arc<dyn Dataset>,
    indices: &[usize],
    extractor: &dyn Extractor,
    wanted: Wanted,
    keep_features: bool,
    options: &EvalOptions,
    progress: Progress<'_>,
) -> Result<Collected> {
    if indices.len() < 2 {
        return Err(Error::data(format!("{} images", indices.len())).why("at least 2 are needed"));
    }
    let batch = options.batch.max(1);
    let jobs: Vec<Vec<usize>> = indices.chunks(batch).map(<[usize]>::to_vec).collect();
    let plan: Arc<Plan> = Arc::new(move |k| jobs.get(usize::try_from(k).ok()?).cloned());
    let queue = Prefetch::start(dataset, &plan, options.workers, 2)?;
    let (mut moments, mut spatial) = (Moments::new(), Moments::new());
    let (mut features, mut logits) = (Vec::new(), Vec::new());
    let mut done = 0;
    for items in queue {
        let items = items?;
        for group in items.chunk_by(|a, b| a.shape == b.shape) {
            let out = extractor.extract(&batch_tensor(&grouped(group, extractor)?)?, wanted)?;
            moments.update(&out.pool)?;
            if let Some(map) = &out.spatial {
                spatial.update(map)?;
            }
            if keep_features {
                features.push(out.pool.f_to_device(options.device)?);
            }
            logits.extend(out.logits.map(|l| l.f_to_device(Device::Cpu)).transpose()?);
        }
        done += items.len();
        progress(done, indices.len());
    }
    if done != indices.len() {
        return Err(Error::run(format!("{done} of {} images were read", indices.len())));
    }
    let mut hash = Sha256::new();
    for &i in indices {
        hash.update(dataset.name(i).as_bytes());
        hash.update(b"\n");
    }
    let cat = |list: Vec<Tensor>| -> Result<Option<Tensor>> {
        if list.is_empty() { Ok(None) } else { Ok(Some(Tensor::f_cat(&list, 0)?)) }
    };
    Ok(Collected {
        gaussian: moments.finish()?,
        spatial: if wanted.spatial { Some(spatial.finish()?) } else { None },
        features: cat(features)?,
        logits: cat(logits)?,
        list_sha256: hex(&hash.finalize()),
        notes: dataset.notes(),
    })
}

/// The items with the channels the extractor wants.
fn grouped(group: &[Item], extractor: &dyn Extractor) -> Result<Vec<Item>> {
    let Some(channels) = extractor.channels() else { return Ok(group.to_vec()) };
    group
        .iter()
        .map(|item| match (item.shape[0], channels) {
            (have, want) if have == want => Ok(item.clone()),
            (1, want) => {
                let [_, h, w] = item.shape;
                Ok(Item { image: item.image.repeat(want), shape: [want, h, w], label: item.label })
            }
            (have, want) => {
                Err(Error::data(format!("image has {have} channels")).why(format!("{want} are wanted")))
            }
        })
        .collect()
}

impl Collected {
    /// The pass as statistics that can be written to a file.
    #[must_use]
    pub fn into_stats(self, extractor: &dyn Extractor, source: &str) -> Stats {
        let origin = Origin {
            extractor: Some(extractor.name()),
            weights_sha256: extractor.weights_sha256(),
            protocol: extractor.protocol(),
            n: self.gaussian.n,
            source: Some(source.to_owned()),
            list_sha256: Some(self.list_sha256),
            gen_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        };
        Stats {
            gaussian: self.gaussian,
            spatial: self.spatial,
            features: self.features,
            origin,
            notes: self.notes,
        }
    }
}

/// Opens what generated images are held against: statistics, or a set of images.
///
/// # Errors
/// Where it is neither.
pub fn open_reference(path: &Path, options: &crate::data::DataOptions) -> Result<Reference> {
    if !path.exists() {
        return Err(Error::data("cannot read").at(path.display()).why("No such file or directory"));
    }
    if super::stats_file::is_stats(path)? {
        let stats = Stats::read(path)?;
        // A reference batch of ADM has images beside its statistics.
        let images = crate::data::open(path, options).ok().map(Arc::from);
        return Ok(Reference::Stats(Box::new(stats), images));
    }
    Ok(Reference::Images(Arc::from(crate::data::open(path, options)?)))
}

/// Refuses statistics that were made in another way than the run makes them.
fn check_origin(stats: &Stats, extractor: &dyn Extractor) -> Result<()> {
    let differ = |what: &str, file: &str, run: &str| {
        Err(Error::usage(format!("reference statistics have another {what}"))
            .why(format!("`{file}` in the file, `{run}` in this run"))
            .hint(format!("choose the same {what}, or make statistics with `gen ref-stats`")))
    };
    if let (Some(file), Some(run)) = (stats.origin.protocol, extractor.protocol())
        && file != run
    {
        return differ("protocol", &file.to_string(), &run.to_string());
    }
    if let Some(file) = &stats.origin.extractor
        && *file != extractor.name()
    {
        return differ("extractor", file, &extractor.name());
    }
    if let (Some(file), Some(run)) = (&stats.origin.weights_sha256, extractor.weights_sha256())
        && *file != run
    {
        return differ("weight file", &file[..file.len().min(8)], &run[..8]);
    }
    Ok(())
}

/// Evaluates `images` against `reference` (the Inception Score and the Vendi score need none).
///
/// # Errors
/// Where a metric needs what is not there (a reference, features, class logits), images cannot be used, or a
/// value is not finite.
pub fn evaluate(
    images: &Arc<dyn Dataset>,
    reference: Option<&Reference>,
    extractor: &dyn Extractor,
    options: &EvalOptions,
    progress: Progress<'_>,
) -> Result<Report> {
    let metrics = &options.metrics;
    let asked = |kind: MetricKind| metrics.contains(&kind);
    if metrics.is_empty() {
        return Err(Error::usage("no metric is asked for").at("--metrics"));
    }
    let wanted = Wanted { logits: asked(MetricKind::Is), spatial: asked(MetricKind::Sfid) };
    let can = extractor.can();
    if (wanted.logits && !can.logits) || (wanted.spatial && !can.spatial) {
        let name = if wanted.logits && !can.logits { "is" } else { "sfid" };
        return Err(Error::usage(format!("metric `{name}` is not defined for `{}`", extractor.name()))
            .at("--metrics")
            .hint("it needs --features inception"));
    }
    if reference.is_none() && metrics.iter().any(|m| m.needs_reference()) {
        return Err(Error::usage("no reference is given").at("--ref").hint("name real images or statistics"));
    }
    // Everything about the reference that can fail does so before the long work.
    if let Some(Reference::Stats(stats, real)) = reference {
        check_origin(stats, extractor)?;
        let needs = metrics.iter().any(|m| m.needs_features() && m.needs_reference());
        if needs && stats.features.is_none() && real.is_none() {
            return Err(Error::data("the reference holds statistics only")
                .at("--ref")
                .why("the metrics asked for need features of real images")
                .hint("give real images, or statistics made with `gen ref-stats --with-features`"));
        }
        if wanted.spatial && stats.spatial.is_none() {
            return Err(Error::data("the reference has no spatial statistics")
                .at("--ref")
                .hint("sFID needs `mu_s` and `sigma_s`, or real images"));
        }
    }
    let indices = choose(images.len(), options.num, options.subset, options.seed)?;
    let keep = metrics.iter().any(|m| m.needs_features());
    let reference_total = match reference {
        Some(Reference::Images(real)) => real.len(),
        Some(Reference::Stats(stats, Some(real))) if keep && stats.features.is_none() => real.len(),
        _ => 0,
    };
    let total = indices.len() + reference_total;
    let generated =
        collect(images, &indices, extractor, wanted, keep, options, &mut |done, _| progress(done, total))?;

    let mut report = Report {
        n: indices.len() as u64,
        extractor: extractor.name(),
        protocol: extractor.protocol(),
        weights_sha256: extractor.weights_sha256(),
        seed: options.seed,
        list_sha256: generated.list_sha256.clone(),
        notes: generated.notes.clone(),
        ..Report::default()
    };
    let base = indices.len();
    let real_wanted = Wanted { logits: false, ..wanted };
    let mut pass = |real: &Arc<dyn Dataset>| -> Result<Collected> {
        let all: Vec<usize> = (0..real.len()).collect();
        collect(real, &all, extractor, real_wanted, keep, options, &mut |done, _| {
            progress(base + done, total)
        })
    };
    match reference {
        None => own_metrics(&generated, options, &mut report)?,
        Some(Reference::Images(real)) => {
            let real = pass(real)?;
            report.notes.extend(real.notes.iter().cloned());
            if real.list_sha256 == generated.list_sha256 && images.name(0) != "image 0" {
                report.notes.push(
                    "generated and reference images have the same names: are they the same files?".into(),
                );
            }
            own_metrics(&generated, options, &mut report)?;
            gaussian_metrics(&generated, (&real.gaussian, real.spatial.as_ref()), options, &mut report)?;
            feature_metrics(&generated, real.features.as_ref(), options, &mut report)?;
        }
        Some(Reference::Stats(stats, real)) => {
            report.notes.extend(stats.notes.iter().cloned());
            own_metrics(&generated, options, &mut report)?;
            gaussian_metrics(&generated, (&stats.gaussian, stats.spatial.as_ref()), options, &mut report)?;
            let features = match (&stats.features, real) {
                (None, Some(real)) if keep => pass(real)?.features,
                (features, _) => features.as_ref().map(|f| f.f_to_device(options.device)).transpose()?,
            };
            feature_metrics(&generated, features.as_ref(), options, &mut report)?;
        }
    }
    if report.rank_deficient {
        let d = generated.gaussian.dim();
        report.notes.push(format!("fewer images than features ({d}): covariances do not have full rank"));
    }
    Ok(report)
}

/// Metrics of the generated set alone.
fn own_metrics(generated: &Collected, options: &EvalOptions, report: &mut Report) -> Result<()> {
    if options.metrics.contains(&MetricKind::Is)
        && let Some(logits) = &generated.logits
    {
        let score = inception_score(logits, options.is_splits, options.is_order)?;
        (report.is_mean, report.is_std) = (Some(score.mean), Some(score.std));
    }
    if options.metrics.contains(&MetricKind::Vendi)
        && let Some(features) = &generated.features
    {
        report.vendi = Some(vendi(features)?);
    }
    Ok(())
}

/// Metrics of means and covariances.
fn gaussian_metrics(
    generated: &Collected,
    reference: (&Gaussian, Option<&Gaussian>),
    options: &EvalOptions,
    report: &mut Report,
) -> Result<()> {
    report.n_ref = reference.0.n;
    if options.metrics.contains(&MetricKind::Fid) {
        report.fid = Some(frechet::distance(&generated.gaussian, reference.0)?);
        report.rank_deficient = generated.gaussian.rank_deficient() || reference.0.rank_deficient();
    }
    if options.metrics.contains(&MetricKind::Sfid)
        && let (Some(own), Some(other)) = (&generated.spatial, reference.1)
    {
        report.sfid = Some(frechet::distance(own, other)?);
        report.rank_deficient |= own.rank_deficient() || other.rank_deficient();
    }
    Ok(())
}

/// Metrics of the features themselves.
fn feature_metrics(
    generated: &Collected,
    reference: Option<&Tensor>,
    options: &EvalOptions,
    report: &mut Report,
) -> Result<()> {
    let (Some(x), Some(y)) = (&generated.features, reference) else { return Ok(()) };
    let asked = |kind: MetricKind| options.metrics.contains(&kind);
    let (n, m) = (rows(x)?.0, rows(y)?.0);
    report.n_ref_features = Some(m as u64);
    if asked(MetricKind::Kid) {
        let size = options.kid_subset_size.unwrap_or(n.min(m).min(1000));
        let kid = KidOptions { subsets: options.kid_subsets, size, ..KidOptions::default() };
        let value = kid_subsets(x, y, &kid)?;
        (report.kid, report.kid_std) = (Some(value.mean), Some(value.std));
        report.kid_subset_size = Some(size);
        report.kid_full = Some(unbiased_mmd2(x, y, BLOCK)?);
    }
    if asked(MetricKind::Mmd) {
        report.mmd2 = Some(match report.kid_full {
            Some(value) => value,
            None => unbiased_mmd2(x, y, BLOCK)?,
        });
    }
    if asked(MetricKind::Pr) || asked(MetricKind::Prdc) || asked(MetricKind::Authpct) {
        let settings = PrdcOptions { pr_k: options.pr_k, dc_k: options.prdc_k, block: BLOCK };
        let value = prdc(y, x, &settings)?;
        if asked(MetricKind::Pr) || asked(MetricKind::Prdc) {
            (report.precision, report.recall) = (Some(value.precision), Some(value.recall));
            report.pr_k = Some(options.pr_k);
        }
        if asked(MetricKind::Prdc) {
            (report.density, report.coverage) = (Some(value.density), Some(value.coverage));
            report.prdc_k = Some(options.prdc_k);
        }
        if asked(MetricKind::Authpct) {
            report.auth_pct = Some(value.auth_pct);
        }
    }
    if asked(MetricKind::Nn) {
        // Equal sizes, as otherwise 0.5 does not stand for equal distributions; a random part of the larger set,
        // as files are often ordered by class or author.
        let both = n.min(m);
        let part = |x: &Tensor, n: usize| -> Result<Tensor> {
            let chosen = choose(n, Some(both), SubsetRule::Random, options.seed)?;
            let index: Vec<i64> = chosen.into_iter().map(|i| i as i64).collect();
            Ok(x.f_index_select(0, &Tensor::f_from_slice(&index)?.f_to_device(x.device())?)?)
        };
        report.nn_accuracy = Some(nn_two_sample(&part(x, n)?, &part(y, m)?)?);
    }
    if asked(MetricKind::Mind) {
        report.mind = Some(mind(x, y, 1000, 2020)?);
    }
    if asked(MetricKind::Sw) {
        report.sw = Some(approximate_sw2(x, y)?);
    }
    Ok(())
}

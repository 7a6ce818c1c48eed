//! The figures, from what passes over images gave.

use std::collections::BTreeMap;

use tch::Tensor;

use super::bootstrap::Resampling;
use super::collect::{Collected, choose};
use super::distance::{BLOCK, rows};
use super::extra::{approximate_sw2, at_infinity, infinity_sizes, mind, vendi};
use super::frechet::{self, Gaussian};
use super::frechet_features::Against;
use super::inception_score::{inception_score, inception_score_chunks};
use super::kid::{KidOptions, MeanStd, kid_subsets};
use super::mmd::unbiased_mmd2;
use super::nn_two_sample::nn_two_sample;
use super::numpy_rng::RandomState;
use super::prdc::{PrdcOptions, items};
use super::settings::{ClassReport, EvalOptions, MetricKind, Report, SubsetRule};
use crate::error::{Error, Result};

/// The reference: statistics, and features where they are known.
#[derive(Debug)]
pub struct Real<'a> {
    /// Gaussian of the features.
    pub gaussian: &'a Gaussian,
    /// Gaussian of the spatial features.
    pub spatial: Option<&'a Gaussian>,
    /// The features.
    pub features: Option<Tensor>,
    /// The features, where there are no more images than features.
    pub few: Option<Tensor>,
    /// Classes of the images.
    pub labels: Option<&'a [i64]>,
}

/// Which key of the report the Frechet distance of an extractor goes to.
pub(super) fn frechet_key(report: &mut Report) -> (&'static str, &mut Option<f64>) {
    let name = report.extractor.as_str();
    if name.starts_with("dinov2") {
        ("fd_dinov2", &mut report.fd_dinov2)
    } else if name.starts_with("clip") {
        ("clip_fid", &mut report.clip_fid)
    } else {
        ("fid", &mut report.fid)
    }
}

fn resampling(options: &EvalOptions) -> Option<Resampling> {
    (options.bootstrap > 0).then_some(Resampling { times: options.bootstrap, seed: options.seed })
}

fn score(logits: &Tensor, options: &EvalOptions) -> Result<MeanStd> {
    match options.is_chunk {
        Some(chunk) => inception_score_chunks(logits, chunk),
        None => inception_score(logits, options.is_splits, options.is_order),
    }
}

/// Rows `index` of `x`.
fn take(x: &Tensor, index: &[usize]) -> Result<Tensor> {
    let index: Vec<i64> = index.iter().map(|&i| i as i64).collect();
    Ok(x.f_index_select(0, &Tensor::f_from_slice(&index)?.f_to_device(x.device())?)?)
}

/// Metrics of the generated set alone.
///
/// # Errors
/// As the metrics.
pub fn own_metrics(generated: &Collected, options: &EvalOptions, report: &mut Report) -> Result<()> {
    if options.metrics.contains(&MetricKind::Is)
        && let Some(logits) = &generated.logits
    {
        let value = score(logits, options)?;
        (report.is_mean, report.is_std) = (Some(value.mean), Some(value.std));
        if let Some(resample) = resampling(options) {
            let found = resample.of_rows(value.mean, logits, |logits| Ok(score(logits, options)?.mean))?;
            report.intervals.insert("is_ci".into(), found);
        }
    }
    if options.metrics.contains(&MetricKind::Vendi)
        && let Some(features) = &generated.features
    {
        report.vendi = Some(vendi(features)?);
    }
    Ok(())
}

/// The Frechet distance, from features where there are few images.
fn frechet_distance(generated: &Collected, real: &Real) -> Result<f64> {
    match (&generated.few, &real.few) {
        (Some(x), Some(y)) => Against::features(y)?.distance(x),
        (Some(x), None) => Against::gaussian(real.gaussian)?.distance(x),
        (None, Some(y)) => Against::gaussian(&generated.gaussian)?.distance(y),
        (None, None) => frechet::distance(&generated.gaussian, real.gaussian),
    }
}

/// Metrics of means and covariances.
///
/// # Errors
/// As the metrics.
pub fn gaussian_metrics(
    generated: &Collected,
    real: &Real,
    options: &EvalOptions,
    report: &mut Report,
) -> Result<()> {
    report.n_ref = real.gaussian.n;
    let asked = |kind: MetricKind| options.metrics.contains(&kind);
    let against = || match &real.few {
        Some(y) => Against::features(y),
        None => Against::gaussian(real.gaussian),
    };
    if asked(MetricKind::Fid) {
        let value = frechet_distance(generated, real)?;
        let (name, place) = frechet_key(report);
        *place = Some(value);
        report.rank_deficient = generated.gaussian.rank_deficient() || real.gaussian.rank_deficient();
        if let (Some(resample), Some(x)) = (resampling(options), &generated.features) {
            report.intervals.insert(format!("{name}_ci"), resample.of_frechet(value, x, &against()?)?);
        }
    }
    if asked(MetricKind::FdInf)
        && let Some(x) = &generated.features
    {
        let (n, against) = (rows(x)?.0, against()?);
        // Nested subsets, so that the points of the line share their noise.
        let order = RandomState::new(options.seed).permutation(n);
        let one = |size: usize| Ok((size, against.distance(&take(x, &order[..size])?)?));
        let points = infinity_sizes(n).into_iter().map(one).collect::<Result<Vec<_>>>()?;
        report.fd_inf = Some(at_infinity(&points)?.0);
    }
    if asked(MetricKind::Sfid)
        && let (Some(own), Some(other)) = (&generated.spatial, real.spatial)
    {
        report.sfid = Some(frechet::distance(own, other)?);
        report.rank_deficient |= own.rank_deficient() || other.rank_deficient();
    }
    Ok(())
}

/// Metrics of the features themselves.
///
/// # Errors
/// As the metrics.
pub fn feature_metrics(
    generated: &Collected,
    real: &Real,
    options: &EvalOptions,
    report: &mut Report,
) -> Result<()> {
    let (Some(x), Some(y)) = (&generated.features, &real.features) else { return Ok(()) };
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
    if let (Some(resample), Some(value)) = (resampling(options), report.kid_full.or(report.mmd2)) {
        let found = resample.of_mmd2(value, x, y)?;
        let names = [("kid_full_ci", report.kid_full), ("mmd2_ci", report.mmd2)];
        names.iter().filter(|(_, v)| v.is_some()).for_each(|(name, _)| {
            report.intervals.insert((*name).into(), found);
        });
    }
    if asked(MetricKind::Pr) || asked(MetricKind::Prdc) || asked(MetricKind::Authpct) {
        neighbours(x, y, options, report)?;
    }
    if asked(MetricKind::Nn) {
        // Equal sizes, as otherwise 0.5 does not stand for equal distributions; a random part of the larger set,
        // as files are often ordered by class or author.
        let both = n.min(m);
        let part = |x: &Tensor, n: usize| -> Result<Tensor> {
            take(x, &choose(n, Some(both), SubsetRule::Random, options.seed)?)
        };
        report.nn_accuracy = Some(nn_two_sample(&part(x, n)?, &part(y, m)?)?);
    }
    if asked(MetricKind::Mind) {
        report.mind = Some(mind(x, y, 1000, 2020)?);
    }
    if asked(MetricKind::Sw) {
        report.sw = Some(approximate_sw2(x, y)?);
    }
    if options.per_class {
        report.per_class = per_class((x, generated.labels.as_deref()), (y, real.labels))?;
    }
    Ok(())
}

/// Precision, recall, density, coverage, authenticity.
fn neighbours(x: &Tensor, y: &Tensor, options: &EvalOptions, report: &mut Report) -> Result<()> {
    let asked = |kind: MetricKind| options.metrics.contains(&kind);
    let settings =
        PrdcOptions { pr_k: options.pr_k, dc_k: options.prdc_k, strict: options.pr_strict, block: BLOCK };
    let (n, m) = (rows(x)?.0, rows(y)?.0);
    let found = match options.prdc_subset.map(|most| most.min(n).min(m)) {
        Some(size) if size < n.max(m) => {
            let part =
                |x: &Tensor, n: usize| take(x, &choose(n, Some(size), SubsetRule::Random, options.seed)?);
            report.prdc_subset = Some(size);
            items(&part(y, m)?, &part(x, n)?, &settings)?
        }
        _ => items(y, x, &settings)?,
    };
    let value = found.figures();
    let mut named: Vec<(&str, &[f64], f64)> = Vec::new();
    if asked(MetricKind::Pr) || asked(MetricKind::Prdc) {
        (report.precision, report.recall) = (Some(value.precision), Some(value.recall));
        report.pr_k = Some(options.pr_k);
        named.extend([("precision_ci", &found.precise[..], 1.0), ("recall_ci", &found.recalled[..], 1.0)]);
    }
    if asked(MetricKind::Prdc) {
        (report.density, report.coverage) = (Some(value.density), Some(value.coverage));
        report.prdc_k = Some(options.prdc_k);
        named.extend([("density_ci", &found.density[..], 1.0), ("coverage_ci", &found.covered[..], 1.0)]);
    }
    if asked(MetricKind::Authpct) {
        report.auth_pct = Some(value.auth_pct);
        named.push(("auth_pct_ci", &found.authentic[..], 100.0));
    }
    if let Some(resample) = resampling(options) {
        for (name, values, scale) in named {
            report.intervals.insert(name.into(), resample.of_mean(values).map(|v| v * scale));
        }
    }
    Ok(())
}

/// The Frechet distance of each class that both sets have images of, and of those that only one has the counts.
fn per_class(
    (x, x_labels): (&Tensor, Option<&[i64]>),
    (y, y_labels): (&Tensor, Option<&[i64]>),
) -> Result<Vec<ClassReport>> {
    let (Some(x_labels), Some(y_labels)) = (x_labels, y_labels) else {
        return Err(Error::data("no classes")
            .at("--per-class")
            .hint("both sets need labels: class folders, dataset.json, or an npz with labels"));
    };
    let mut classes: BTreeMap<i64, [Vec<usize>; 2]> = BTreeMap::new();
    for (side, labels) in [x_labels, y_labels].into_iter().enumerate() {
        for (i, &label) in labels.iter().enumerate() {
            classes.entry(label).or_default()[side].push(i);
        }
    }
    classes
        .into_iter()
        .map(|(class, [own, other])| {
            let enough = own.len() >= 2 && other.len() >= 2;
            let fid = match enough {
                true => Some(Against::features(&take(y, &other)?)?.distance(&take(x, &own)?)?),
                false => None,
            };
            Ok(ClassReport { class, n: own.len(), n_ref: other.len(), fid })
        })
        .collect()
}

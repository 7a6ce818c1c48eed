//! One pass over images, any set of metrics, one report.

use std::path::Path;
use std::sync::Arc;

use tch::Tensor;

pub use super::collect::{Collected, Progress, choose, collect};
use super::distance::{BLOCK, rows};
use super::extra::{approximate_sw2, mind, vendi};
use super::features::{Extractor, Wanted};
use super::frechet::{self, Gaussian};
use super::inception_score::inception_score;
use super::kid::{KidOptions, kid_subsets};
use super::mmd::unbiased_mmd2;
use super::nn_two_sample::nn_two_sample;
use super::prdc::{PrdcOptions, prdc};
pub use super::settings::{EvalOptions, MetricKind, Report, SubsetRule};
use super::stats_file::Stats;
use crate::data::Dataset;
use crate::error::{Error, Result};

/// What the generated images are held against.
#[derive(Debug)]
pub enum Reference {
    /// Real images.
    Images(Arc<dyn Dataset>),
    /// Statistics, and perhaps real images beside them for the metrics that need features (ADM's batches).
    Stats(Box<Stats>, Option<Arc<dyn Dataset>>),
}

/// Opens what generated images are held against: statistics, or a set of images.
///
/// # Errors
/// Where it is neither.
pub fn open_reference(path: &Path, options: &crate::data::DataOptions) -> Result<Reference> {
    std::fs::metadata(path).map_err(|e| Error::read(path, &e))?;
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

//! One pass over images, any set of metrics, one report.

use std::path::Path;
use std::sync::Arc;

use tch::Tensor;

use super::between::{check_same, origin_of};
use super::cache;
pub use super::collect::{Collected, Progress, choose, collect};
use super::compute::{Real, feature_metrics, gaussian_metrics, own_metrics};
use super::features::{Extractor, Wanted};
pub use super::settings::{ClassReport, EvalOptions, MetricKind, Report, SubsetRule};
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

/// Everything about the settings and the reference that can fail does so before the long work.
fn check(reference: Option<&Reference>, extractor: &dyn Extractor, options: &EvalOptions) -> Result<Wanted> {
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
    if reference.is_none() && (options.per_class || metrics.iter().any(|m| m.needs_reference())) {
        return Err(Error::usage("no reference is given").at("--ref").hint("name real images or statistics"));
    }
    if let Some(Reference::Stats(stats, real)) = reference {
        check_same(&stats.origin, &origin_of(extractor))?;
        if options.per_class {
            return Err(Error::data("the reference holds statistics")
                .at("--ref")
                .why("figures of each class need real images with labels"));
        }
        if options.keeps_reference_features() && stats.features.is_none() && real.is_none() {
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
    Ok(wanted)
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
    let wanted = check(reference, extractor, options)?;
    let indices = choose(images.len(), options.num, options.subset, options.seed)?;
    let keep_real = options.keeps_reference_features();
    let reference_total = match reference {
        Some(Reference::Images(real)) => real.len(),
        Some(Reference::Stats(stats, Some(real))) if keep_real && stats.features.is_none() => real.len(),
        _ => 0,
    };
    let total = indices.len() + reference_total;
    let mut base = 0;
    let mut pass =
        |set: &Arc<dyn Dataset>, which: &[usize], wanted: Wanted, keep: bool| -> Result<Collected> {
            let mut tell = |done: usize, _: usize| progress(base + done, total);
            let out = cache::collect(set, which, extractor, wanted, keep, options, &mut tell)?;
            base += which.len();
            Ok(out)
        };
    let generated = pass(images, &indices, wanted, options.keeps_features())?;
    let mut report = Report {
        n: indices.len() as u64,
        extractor: extractor.name(),
        protocol: extractor.protocol(),
        resize: extractor.resize(),
        weights_sha256: extractor.weights_sha256(),
        bootstrap: (options.bootstrap > 0).then_some(options.bootstrap),
        seed: options.seed,
        list_sha256: generated.list_sha256.clone(),
        notes: generated.notes.clone(),
        ..Report::default()
    };
    own_metrics(&generated, options, &mut report)?;
    let real_wanted = Wanted { logits: false, ..wanted };
    let whole = |set: &Arc<dyn Dataset>| (0..set.len()).collect::<Vec<usize>>();
    match reference {
        None => {}
        Some(Reference::Images(set)) => {
            let found = pass(set, &whole(set), real_wanted, keep_real)?;
            report.notes.extend(found.notes.iter().cloned());
            if found.list_sha256 == generated.list_sha256 && images.name(0) != "image 0" {
                report.notes.push(
                    "generated and reference images have the same names: are they the same files?".into(),
                );
            }
            let real = Real {
                gaussian: &found.gaussian,
                spatial: found.spatial.as_ref(),
                features: found.features.as_ref().map(Tensor::shallow_clone),
                few: found.few.as_ref().map(Tensor::shallow_clone),
                labels: found.labels.as_deref(),
            };
            gaussian_metrics(&generated, &real, options, &mut report)?;
            feature_metrics(&generated, &real, options, &mut report)?;
        }
        Some(Reference::Stats(stats, set)) => {
            report.notes.extend(stats.notes.iter().cloned());
            let features = match (&stats.features, set) {
                (None, Some(set)) if keep_real => pass(set, &whole(set), real_wanted, true)?.features,
                (features, _) => features.as_ref().map(|f| f.f_to_device(options.device)).transpose()?,
            };
            // Images beside statistics are a part of what these were made of: only features of all are the few.
            let few = stats.features.as_ref().filter(|f| f.size().first() <= f.size().get(1));
            let real = Real {
                gaussian: &stats.gaussian,
                spatial: stats.spatial.as_ref(),
                features,
                few: few.map(Tensor::shallow_clone),
                labels: None,
            };
            gaussian_metrics(&generated, &real, options, &mut report)?;
            feature_metrics(&generated, &real, options, &mut report)?;
        }
    }
    if report.rank_deficient {
        let d = generated.gaussian.dim();
        report.notes.push(format!("fewer images than features ({d}): covariances do not have full rank"));
    }
    Ok(report)
}

//! The distance between two sets of statistics: no image and no network is needed.

use super::compute::frechet_key;
use super::evaluate::{EvalOptions, MetricKind, Report};
use super::features::Extractor;
use super::frechet;
use super::stats_file::{Origin, Stats};
use super::{inception_weights, torchscript};
use crate::error::{Error, Result};

/// Refuses statistics `file` that were made in another way than `run`; what either does not say cannot differ.
///
/// # Errors
/// Naming the first difference.
pub fn check_same(file: &Origin, run: &Origin) -> Result<()> {
    let text = |o: &Origin| {
        [o.protocol.map(|p| p.to_string()), o.extractor.clone(), o.resize.clone(), o.weights_sha256.clone()]
    };
    for ((what, a), b) in
        ["protocol", "extractor", "resizing", "weight file"].into_iter().zip(text(file)).zip(text(run))
    {
        let (Some(a), Some(b)) = (a, b) else { continue };
        let hash = what == "weight file";
        if a == b || (hash && same_weights(&a, &b)) {
            continue;
        }
        let shown = |s: &str| if hash { s.chars().take(8).collect() } else { s.to_owned() };
        return Err(Error::usage(format!("reference statistics have another {what}"))
            .why(format!("`{}` in the file, `{}` in this run", shown(&a), shown(&b)))
            .hint(format!("choose the same {what}, or make statistics with `gen ref-stats`")));
    }
    Ok(())
}

/// What statistics made by `extractor` would say of themselves.
#[must_use]
pub fn origin_of(extractor: &dyn Extractor) -> Origin {
    Origin {
        extractor: Some(extractor.name()),
        weights_sha256: extractor.weights_sha256(),
        protocol: extractor.protocol(),
        resize: extractor.resize(),
        ..Origin::default()
    }
}

/// Whether two hashes are of the same weights: the published packagings of the Inception network hold the same.
fn same_weights(a: &str, b: &str) -> bool {
    let published = |sha: &str| sha.starts_with(inception_weights::PUBLISHED) || sha == torchscript::NVIDIA;
    a == b || (published(a) && published(b))
}

/// The Frechet distances between the statistics of generated and of real images.
///
/// # Errors
/// Where they were made in different ways, or a metric needs more than statistics.
pub fn between(generated: &Stats, real: &Stats, options: &EvalOptions) -> Result<Report> {
    let more = options.metrics.iter().find(|m| !matches!(m, MetricKind::Fid | MetricKind::Sfid));
    if more.is_some() || options.bootstrap > 0 || options.per_class || options.num.is_some() {
        return Err(Error::usage("statistics give Frechet distances only")
            .at("--images")
            .why("what is asked for needs the images themselves")
            .hint("name the images, or ask for --metrics fid"));
    }
    check_same(&real.origin, &generated.origin)?;
    let origin = &generated.origin;
    let mut report = Report {
        n: generated.gaussian.n.unwrap_or(0),
        n_ref: real.gaussian.n,
        extractor: origin.extractor.clone().or(real.origin.extractor.clone()).unwrap_or("statistics".into()),
        protocol: origin.protocol.or(real.origin.protocol),
        resize: origin.resize.clone().or(real.origin.resize.clone()),
        weights_sha256: origin.weights_sha256.clone().or(real.origin.weights_sha256.clone()),
        seed: options.seed,
        notes: generated.notes.iter().chain(&real.notes).cloned().collect(),
        ..Report::default()
    };
    if options.metrics.contains(&MetricKind::Fid) {
        let value = frechet::distance(&generated.gaussian, &real.gaussian)?;
        *frechet_key(&mut report).1 = Some(value);
        report.rank_deficient = generated.gaussian.rank_deficient() || real.gaussian.rank_deficient();
    }
    if options.metrics.contains(&MetricKind::Sfid) {
        let (Some(a), Some(b)) = (&generated.spatial, &real.spatial) else {
            return Err(Error::data("no spatial statistics")
                .at("--metrics sfid")
                .hint("both files need `mu_s` and `sigma_s`; `gen ref-stats --sfid` writes them"));
        };
        report.sfid = Some(frechet::distance(a, b)?);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::frechet::Gaussian;
    use tch::{Device, Kind, Tensor};

    fn stats(mean: f64, scale: f64, origin: Origin) -> Stats {
        let cov = Tensor::eye(4, (Kind::Double, Device::Cpu)) * scale;
        let mean = Tensor::full([4], mean, (Kind::Double, Device::Cpu));
        let gaussian = Gaussian { n: Some(1000), mean, cov };
        Stats { gaussian, spatial: None, features: None, origin, notes: Vec::new() }
    }

    #[test]
    fn known_distance_and_refusals() {
        let options = EvalOptions { metrics: [MetricKind::Fid].into(), ..EvalOptions::default() };
        let (a, b) = (stats(0.0, 1.0, Origin::default()), stats(1.0, 4.0, Origin::default()));
        assert!((between(&a, &b, &options).unwrap().fid.unwrap() - 8.0).abs() < 1e-12);
        let more = EvalOptions { metrics: [MetricKind::Kid].into(), ..EvalOptions::default() };
        assert!(between(&a, &b, &more).is_err());
        let spatial = EvalOptions { metrics: [MetricKind::Sfid].into(), ..EvalOptions::default() };
        assert!(between(&a, &b, &spatial).is_err());
        let named = |name: &str| Origin { extractor: Some(name.to_owned()), ..Origin::default() };
        let error = between(&stats(0.0, 1.0, named("a")), &stats(0.0, 1.0, named("b")), &options);
        assert!(error.unwrap_err().to_string().contains("another extractor"));
        assert!(between(&stats(0.0, 1.0, named("a")), &b, &options).is_ok());
    }
}

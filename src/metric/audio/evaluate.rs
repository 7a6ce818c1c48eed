//! One pass over sounds, any set of metrics, one report.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;
use tch::Tensor;

use super::fad::{AtInfinity, check_frames, fad, fad_infinity, fad_per_file};
use super::features::{Collected, SoundExtractor, collect};
use super::ndb::ndb;
use super::scores::{Probabilities, am, is_published, is_standard, mis};
use super::spectral::{MrStft, log_spectral_distance, mr_stft, si_sdr};
use crate::data::audio::{Clips, stack};
use crate::error::{Error, Result};
use crate::metric::distance::rows;
use crate::metric::frechet::{self, Gaussian};

/// A metric of sounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum SoundMetric {
    /// Frechet distance of one feature row a sound.
    Fid,
    /// Inception Score: standard, and as published for SC09.
    Is,
    /// Modified Inception Score, 10 000 random pairs.
    Mis,
    /// AM score against the classes of the reference.
    Am,
    /// Share of 50 cells of the reference whose share of sounds differs.
    Ndb,
    /// Frechet audio distance: all frames of all sounds.
    Fad,
    /// The same, extrapolated to infinitely many frames.
    FadInf,
    /// Multi-resolution STFT distance from the reference of the same name.
    #[value(alias = "mr-stft")]
    Stft,
    /// Scale-invariant signal-to-distortion ratio to it, in dB.
    SiSdr,
    /// Log-spectral distance from it, in dB.
    Lsd,
}

impl SoundMetric {
    /// Whether it is found from pairs of sounds and not from features.
    #[must_use]
    pub fn of_pairs(self) -> bool {
        matches!(self, SoundMetric::Stft | SoundMetric::SiSdr | SoundMetric::Lsd)
    }

    /// Whether it needs class probabilities.
    #[must_use]
    pub fn of_classes(self) -> bool {
        matches!(self, SoundMetric::Is | SoundMetric::Mis | SoundMetric::Am)
    }

    /// Whether it needs a reference.
    #[must_use]
    pub fn needs_reference(self) -> bool {
        !matches!(self, SoundMetric::Is | SoundMetric::Mis)
    }
}

/// Settings.
#[derive(Debug, Clone, PartialEq)]
pub struct SoundOptions {
    /// What to measure.
    pub metrics: Vec<SoundMetric>,
    /// Seed of random pairs, cells and draws.
    pub seed: u64,
    /// Sounds in one call of the network.
    pub batch: usize,
    /// Cells of NDB.
    pub cells: usize,
    /// Whether a Frechet audio distance of too few frames is computed all the same.
    pub allow_singular: bool,
    /// Whether figures of each sound are wanted.
    pub per_file: bool,
}

impl Default for SoundOptions {
    fn default() -> Self {
        SoundOptions {
            metrics: Vec::new(),
            seed: 0,
            batch: 32,
            cells: 50,
            allow_singular: false,
            per_file: false,
        }
    }
}

/// Figures of one sound.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FileReport {
    /// Name.
    pub name: String,
    /// Frechet audio distance of its own frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fad: Option<f64>,
    /// Most likely class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<usize>,
    /// Probability of that class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
}

/// The figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SoundReport {
    /// Number of sounds.
    pub n: usize,
    /// Number of reference sounds.
    pub n_ref: Option<usize>,
    /// What made features of them.
    pub extractor: Option<String>,
    /// SHA-256 of its weights.
    pub weights_sha256: Option<String>,
    /// Samples a second at which they were measured.
    pub rate: u32,
    /// Frames of embeddings of all sounds, and of the reference.
    pub frames: Option<usize>,
    /// See `frames`.
    pub frames_ref: Option<usize>,
    /// Frechet distance.
    pub fid: Option<f64>,
    /// Inception Score.
    #[serde(rename = "is")]
    pub inception_score: Option<f64>,
    /// Inception Score of the published script.
    pub is_ref: Option<f64>,
    /// Modified Inception Score.
    pub mis: Option<f64>,
    /// AM score.
    pub am: Option<f64>,
    /// Share of different cells.
    pub ndb: Option<f64>,
    /// Share of sounds whose most likely class is that of their folder.
    pub accuracy: Option<f64>,
    /// Frechet audio distance.
    pub fad: Option<f64>,
    /// The same at infinitely many frames.
    pub fad_inf: Option<AtInfinity>,
    /// Multi-resolution STFT distance, mean over pairs.
    pub mr_stft: Option<MrStft>,
    /// Scale-invariant signal-to-distortion ratio in dB, mean over pairs.
    pub si_sdr: Option<f64>,
    /// Log-spectral distance in dB, mean over pairs.
    pub lsd: Option<f64>,
    /// Figures of each sound.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileReport>,
    /// What a reader of the figures should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Told of sounds done and sounds in all.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

fn all(clips: &Clips) -> Vec<usize> {
    (0..clips.len()).collect()
}

/// Measures `sounds` against `reference`.
///
/// # Errors
/// Where a metric needs what is not there, sounds cannot be read, or a value is not finite.
pub fn evaluate(
    sounds: &Clips,
    reference: Option<&Clips>,
    extractor: Option<&SoundExtractor>,
    options: &SoundOptions,
    progress: Progress<'_>,
) -> Result<SoundReport> {
    let mut report = SoundReport { n: sounds.len(), rate: sounds.rate(), ..SoundReport::default() };
    report.n_ref = reference.map(Clips::len);
    report.notes.extend(sounds.notes().iter().cloned());
    report.notes.extend(reference.iter().flat_map(|r| r.notes().iter().cloned()));
    let asked = |metric: SoundMetric| options.metrics.contains(&metric);
    if reference.is_none() && options.metrics.iter().any(|m| m.needs_reference()) {
        return Err(Error::usage("no reference is given").at("--ref").hint("name real sounds"));
    }
    if let Some(reference) = reference
        && options.metrics.iter().any(|m| m.of_pairs())
    {
        of_pairs(sounds, reference, options, &mut report)?;
    }
    let of_features = options.metrics.iter().any(|m| !m.of_pairs());
    let Some(extractor) = extractor.filter(|_| of_features) else { return Ok(report) };
    report.extractor = Some(extractor.name.clone());
    report.weights_sha256.clone_from(&extractor.weights_sha256);
    let wants_reference =
        options.metrics.iter().any(|m| m.needs_reference() && !m.of_pairs()) || options.per_file;
    let total = sounds.len() + reference.filter(|_| wants_reference).map_or(0, Clips::len);
    let own = collect(sounds, &all(sounds), extractor, options.batch, &mut |n| progress(n, total))?;
    let needs_classes = options.metrics.iter().any(|m| m.of_classes());
    if needs_classes && own.logits.is_none() {
        return Err(Error::usage(format!("`{}` gives no class probabilities", extractor.name))
            .at("--metrics")
            .hint("is, mis and am need a classifier: a module that returns embeddings and logits"));
    }
    if let Some(logits) = &own.logits {
        let p = Probabilities::of_logits(logits)?;
        if asked(SoundMetric::Is) {
            (report.inception_score, report.is_ref) = (Some(is_standard(&p)), Some(is_published(&p)?));
        }
        if asked(SoundMetric::Mis) {
            report.mis = Some(mis(&p, 10_000, options.seed));
        }
        if sounds.classes() > 0 && logits.size().get(1).copied() == i64::try_from(sounds.classes()).ok() {
            report.accuracy = Some(accuracy(sounds, logits)?);
        }
    }
    let mut each: Vec<Option<f64>> = Vec::new();
    if let Some(reference) = reference.filter(|_| wants_reference) {
        let done = sounds.len();
        let other = collect(reference, &all(reference), extractor, options.batch, &mut |n| {
            progress(done + n, total)
        })?;
        if asked(SoundMetric::Am)
            && let (Some(x), Some(y)) = (&own.logits, &other.logits)
        {
            report.am = Some(am(&Probabilities::of_logits(x)?, &Probabilities::of_logits(y)?)?);
        }
        against(&own, &other, options, &mut report)?;
        if options.per_file {
            each = fad_per_file(&own.files, &other.frames()?)?;
        }
    }
    if options.per_file {
        report.files = per_file(sounds, &own, &each)?;
    }
    Ok(report)
}

/// Metrics of two sets of features.
fn against(
    own: &Collected,
    other: &Collected,
    options: &SoundOptions,
    report: &mut SoundReport,
) -> Result<()> {
    let asked = |metric: SoundMetric| options.metrics.contains(&metric);
    let (x, y) = (own.means()?, other.means()?);
    if asked(SoundMetric::Fid) {
        let (a, b) = (Gaussian::fit(&x)?, Gaussian::fit(&y)?);
        if a.rank_deficient() || b.rank_deficient() {
            let d = a.dim();
            report.notes.push(format!("fewer sounds than features ({d}): covariances do not have full rank"));
        }
        report.fid = Some(frechet::distance(&a, &b)?);
    }
    if asked(SoundMetric::Ndb) {
        report.ndb = Some(ndb(&x, &y, options.cells, options.seed)?);
    }
    if asked(SoundMetric::Fad) || asked(SoundMetric::FadInf) {
        let (x, y) = (own.frames()?, other.frames()?);
        let ((n, d), (m, _)) = (rows(&x)?, rows(&y)?);
        (report.frames, report.frames_ref) = (Some(n), Some(m));
        if options.allow_singular {
            if n.min(m) <= d {
                report.notes.push(format!("{} frames of {d} numbers: a covariance is singular", n.min(m)));
            }
        } else {
            check_frames(n.min(m), d)?;
        }
        if asked(SoundMetric::Fad) {
            report.fad = Some(fad(&x, &y)?);
        }
        if asked(SoundMetric::FadInf) {
            report.fad_inf = Some(fad_infinity(&x, &y, options.seed)?);
        }
    }
    Ok(())
}

fn accuracy(sounds: &Clips, logits: &Tensor) -> Result<f64> {
    let best = Vec::<i64>::try_from(&logits.f_argmax(1, false)?)?;
    let right = best.iter().enumerate().filter(|(i, class)| sounds.label(*i) == Some(**class)).count();
    #[allow(clippy::cast_precision_loss)]
    Ok(right as f64 / best.len().max(1) as f64)
}

fn per_file(sounds: &Clips, own: &Collected, fads: &[Option<f64>]) -> Result<Vec<FileReport>> {
    let classes = match &own.logits {
        None => None,
        Some(logits) => {
            let (top, class) = logits.f_softmax(1, tch::Kind::Double)?.f_max_dim(1, false)?;
            Some((Vec::<f64>::try_from(&top)?, Vec::<i64>::try_from(&class)?))
        }
    };
    Ok((0..sounds.len())
        .map(|i| FileReport {
            name: sounds.name(i),
            fad: fads.get(i).copied().flatten(),
            class: classes.as_ref().and_then(|(_, class)| usize::try_from(class[i]).ok()),
            confidence: classes.as_ref().map(|(top, _)| top[i]),
        })
        .collect())
}

/// The distances of one pair.
type Pair = (Option<MrStft>, Option<f64>, Option<f64>);

/// The name of a file without its folders and extension.
fn stem(name: &str) -> &str {
    let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Distances of sounds from the reference sounds of the same name, each channel for itself, cut to the shorter.
#[allow(clippy::cast_precision_loss)]
fn of_pairs(
    sounds: &Clips,
    reference: &Clips,
    options: &SoundOptions,
    report: &mut SoundReport,
) -> Result<()> {
    let names: BTreeMap<String, usize> =
        (0..reference.len()).map(|i| (stem(&reference.name(i)).to_owned(), i)).collect();
    let pairs: Vec<(usize, usize)> =
        (0..sounds.len()).filter_map(|i| Some((i, *names.get(stem(&sounds.name(i)))?))).collect();
    if pairs.len() < sounds.len() {
        let lost = (0..sounds.len()).find(|i| !pairs.iter().any(|(k, _)| k == i)).unwrap_or(0);
        return Err(Error::data(format!(
            "{} of {} sounds have no reference",
            sounds.len() - pairs.len(),
            sounds.len()
        ))
        .at(sounds.name(lost))
        .why("these metrics compare sounds of the same name")
        .hint("name reference files as the sounds, such as 000000.wav"));
    }
    if sounds.rate() != reference.rate() || sounds.shape()[0] != reference.shape()[0] {
        return Err(Error::data("sounds and reference do not match").why(format!(
            "{} Hz with {} channels and {} Hz with {}",
            sounds.rate(),
            sounds.shape()[0],
            reference.rate(),
            reference.shape()[0]
        )));
    }
    let asked = |metric: SoundMetric| options.metrics.contains(&metric);
    let channels = usize::try_from(sounds.shape()[0]).unwrap_or(1);
    let each = pairs
        .par_iter()
        .map(|&(i, j)| {
            let (x, y) = (sounds.get(i)?, reference.get(j)?);
            let frames = x.frames.min(y.frames);
            let wave = |clip| -> Result<Tensor> {
                let length = i64::try_from(frames).unwrap_or(i64::MAX);
                Ok(stack(&[clip], channels)?.0.f_squeeze_dim(0)?.f_narrow(1, 0, length)?)
            };
            let uneven = x.frames != y.frames;
            let (x, y) = (wave(x)?, wave(y)?);
            let measure = || -> Result<Pair> {
                Ok((
                    asked(SoundMetric::Stft).then(|| mr_stft(&x, &y)).transpose()?,
                    asked(SoundMetric::SiSdr).then(|| si_sdr(&x, &y)).transpose()?,
                    asked(SoundMetric::Lsd).then(|| log_spectral_distance(&x, &y)).transpose()?,
                ))
            };
            Ok((measure().map_err(|e| e.at(sounds.name(i)))?, uneven))
        })
        .collect::<Result<Vec<_>>>()?;
    let n = each.len() as f64;
    let mean = |f: &dyn Fn(&Pair) -> Option<f64>| {
        each.iter().map(|(one, _)| f(one)).sum::<Option<f64>>().map(|sum| sum / n)
    };
    if let (Some(total), Some(convergence), Some(log_magnitude)) =
        (mean(&|v| Some(v.0?.total)), mean(&|v| Some(v.0?.convergence)), mean(&|v| Some(v.0?.log_magnitude)))
    {
        report.mr_stft = Some(MrStft { total, convergence, log_magnitude });
    }
    report.si_sdr = mean(&|v| v.1);
    report.lsd = mean(&|v| v.2);
    let uneven = each.iter().filter(|(_, uneven)| *uneven).count();
    if uneven > 0 {
        report.notes.push(format!("{uneven} pairs differ in length: the longer one was cut"));
    }
    Ok(())
}

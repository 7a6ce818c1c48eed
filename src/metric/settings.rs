//! What is measured and how, and the report of the figures.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tch::Device;

use super::inception_score::IsOrder;

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
    /// Frechet distance extrapolated to infinitely many images.
    FdInf,
}

impl MetricKind {
    /// Whether the features of the generated images themselves are needed.
    pub(super) fn needs_features(self) -> bool {
        !matches!(self, MetricKind::Fid | MetricKind::Sfid | MetricKind::Is)
    }

    /// Whether the features of the reference images themselves are needed.
    pub(super) fn needs_reference_features(self) -> bool {
        self.needs_features() && !matches!(self, MetricKind::Vendi | MetricKind::FdInf)
    }

    pub(super) fn needs_reference(self) -> bool {
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
    /// Splits of this many rows each instead, a shorter one at the end (ADM).
    pub is_chunk: Option<usize>,
    /// Neighbours of precision and recall.
    pub pr_k: usize,
    /// Whether precision and recall leave out points that lie on the edge of a neighbourhood (PRDC, dgm-eval).
    pub pr_strict: bool,
    /// Neighbours of density and coverage.
    pub prdc_k: usize,
    /// Most images of each set, chosen at random, for precision, recall, density and coverage.
    pub prdc_subset: Option<usize>,
    /// Resamplings for intervals of 95 per cent; 0 for none.
    pub bootstrap: usize,
    /// Also the Frechet distance of each class.
    pub per_class: bool,
    /// Folder where features are kept between runs.
    pub cache: Option<PathBuf>,
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
            is_chunk: None,
            pr_k: 3,
            pr_strict: false,
            prdc_k: 5,
            prdc_subset: None,
            bootstrap: 0,
            per_class: false,
            cache: None,
            device: Device::Cpu,
        }
    }
}

impl EvalOptions {
    /// Whether the features of the generated images themselves are needed.
    pub(super) fn keeps_features(&self) -> bool {
        let resampled = self.bootstrap > 0 && self.metrics.contains(&MetricKind::Fid);
        resampled || self.per_class || self.metrics.iter().any(|m| m.needs_features())
    }

    /// Whether the features of the reference images themselves are needed.
    pub(super) fn keeps_reference_features(&self) -> bool {
        self.per_class || self.metrics.iter().any(|m| m.needs_reference_features())
    }
}

/// The Frechet distance of one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassReport {
    /// The class.
    pub class: i64,
    /// Generated images of it.
    pub n: usize,
    /// Reference images of it.
    pub n_ref: usize,
    /// Frechet distance; nothing where a set has fewer than two images.
    pub fid: Option<f64>,
}

/// The figures. Only those asked for are there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fid: Option<f64>,
    /// Frechet distance of DINOv2's features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd_dinov2: Option<f64>,
    /// Frechet distance of CLIP's features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_fid: Option<f64>,
    /// Frechet distance extrapolated to infinitely many images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd_inf: Option<f64>,
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
    /// Intervals of 95 per cent by the name of the figure and `_ci`.
    #[serde(flatten)]
    pub intervals: BTreeMap<String, [f64; 2]>,
    /// Figures of each class.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_class: Vec<ClassReport>,
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
    /// How images were resized, where it is no protocol of FID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pr_k: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prdc_k: Option<usize>,
    /// Images of each set behind precision, recall, density and coverage, where not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prdc_subset: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid_subset_size: Option<usize>,
    /// Resamplings behind the intervals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<usize>,
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

impl Report {
    /// The Frechet distance of the features, whichever they are.
    #[must_use]
    pub fn frechet(&self) -> Option<f64> {
        self.fid.or(self.fd_dinov2).or(self.clip_fid)
    }
}

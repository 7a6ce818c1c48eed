//! The conventions of other tools, by name: which metrics, which resize, which k, which order.

use serde::{Deserialize, Serialize};

use super::inception_score::IsOrder;
use super::resize::Protocol;
use super::settings::{EvalOptions, MetricKind};

/// A tool whose numbers are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// mseitzer/pytorch-fid: FID.
    PytorchFid,
    /// GaParmar/clean-fid, mode `clean`: FID and KID.
    CleanFid,
    /// toshas/torch-fidelity: Inception Score, FID, KID, precision and recall.
    #[value(alias = "fidelity")]
    TorchFidelity,
    /// The evaluator of openai/guided-diffusion: Inception Score, FID, sFID, precision and recall.
    Adm,
    /// `fid.py` of NVlabs/edm: FID of 50 000 images.
    Edm,
    /// layer6ai-labs/dgm-eval: Frechet and kernel distance, precision, recall, density, coverage of DINOv2's
    /// features.
    #[value(alias = "dgm")]
    DgmEval,
}

/// What a suite sets; a flag that is given goes before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Conventions {
    /// The metrics.
    pub metrics: Vec<MetricKind>,
    /// The resize of FID.
    pub protocol: Protocol,
    /// Whether the features are DINOv2's and not the Inception network's.
    pub dinov2: bool,
    /// Images wanted.
    pub num: Option<usize>,
    /// Order of the Inception Score.
    pub is_order: IsOrder,
    /// Its splits.
    pub is_splits: usize,
    /// Its rows per split, where that is fixed instead.
    pub is_chunk: Option<usize>,
    /// Subsets of KID.
    pub kid_subsets: usize,
    /// Their size; nothing is the smaller of 1000 and what there is.
    pub kid_subset_size: Option<usize>,
    /// Neighbours of precision and recall.
    pub pr_k: usize,
    /// Whether they are compared by `<`.
    pub pr_strict: bool,
    /// Neighbours of density and coverage.
    pub prdc_k: usize,
    /// Most images of each set for these.
    pub prdc_subset: Option<usize>,
}

impl Default for Conventions {
    /// What holds without a suite.
    fn default() -> Self {
        let own = EvalOptions::default();
        Conventions {
            metrics: vec![MetricKind::Fid],
            protocol: Protocol::Tf,
            dinov2: false,
            num: None,
            is_order: own.is_order,
            is_splits: own.is_splits,
            is_chunk: None,
            kid_subsets: own.kid_subsets,
            kid_subset_size: None,
            pr_k: own.pr_k,
            pr_strict: false,
            prdc_k: own.prdc_k,
            prdc_subset: None,
        }
    }
}

impl Suite {
    /// What the tool does.
    #[must_use]
    pub fn conventions(self) -> Conventions {
        use MetricKind::{Fid, Is, Kid, Pr, Prdc, Sfid};
        let own = Conventions::default();
        match self {
            Suite::PytorchFid => Conventions { protocol: Protocol::Pytorch, ..own },
            Suite::CleanFid => Conventions { protocol: Protocol::Clean, metrics: vec![Fid, Kid], ..own },
            Suite::TorchFidelity => {
                Conventions { metrics: vec![Is, Fid, Kid, Pr], kid_subset_size: Some(1000), ..own }
            }
            Suite::Adm => Conventions {
                metrics: vec![Is, Fid, Sfid, Pr],
                is_order: IsOrder::Sequential,
                is_chunk: Some(5000),
                ..own
            },
            Suite::Edm => Conventions { num: Some(50_000), ..own },
            Suite::DgmEval => Conventions {
                metrics: vec![Fid, Kid, Prdc],
                dinov2: true,
                pr_k: 5,
                pr_strict: true,
                prdc_k: 5,
                prdc_subset: Some(10_000),
                ..own
            },
        }
    }
}

/// The conventions behind figures, one line each: name and text.
#[must_use]
pub fn explain(
    options: &EvalOptions,
    protocol: Option<Protocol>,
    resize: Option<&str>,
) -> Vec<(&'static str, String)> {
    let asked = |kinds: &[MetricKind]| kinds.iter().any(|k| options.metrics.contains(k));
    let mut out =
        vec![("images", "8-bit RGB; grey is repeated, alpha is dropped and not blended".to_owned())];
    if let Some(protocol) = protocol {
        let text = match protocol {
            Protocol::Tf => {
                "TensorFlow 1 bilinear to 299 x 299, no half-pixel centres, not rounded; (x - 128) / 128"
            }
            Protocol::Pytorch => {
                "bilinear to 299 x 299 with half-pixel centres, no antialiasing; 2 x / 255 - 1"
            }
            Protocol::Clean => {
                "PIL bicubic to 299 x 299, antialiased, in f32, clipped, not rounded; (x - 128) / 128"
            }
        };
        out.push(("resize", text.to_owned()));
    } else if let Some(text) = resize {
        out.push(("resize", text.to_owned()));
    }
    if asked(&[MetricKind::Fid, MetricKind::Sfid, MetricKind::FdInf]) {
        out.push((
            "Frechet distance",
            "moments in f64, divisor N - 1; trace of the root by symmetric eigenvalues or singular values, nothing \
             is added to the diagonal"
                .to_owned(),
        ));
    }
    if asked(&[MetricKind::Sfid]) {
        out.push((
            "sFID",
            "first 7 channels of Mixed_6d.branch1x1 after ReLU, NHWC order, 2023 numbers".to_owned(),
        ));
    }
    if asked(&[MetricKind::FdInf]) {
        out.push(("FD infinity", "line in 1/N through 15 nested subsets, its value at 1/N = 0".to_owned()));
    }
    if asked(&[MetricKind::Is]) {
        let splits = match options.is_chunk {
            Some(chunk) => format!("splits of {chunk} images each, in order"),
            None => {
                let order = match options.is_order {
                    IsOrder::Shuffled => "shuffled by numpy's RandomState(2020)",
                    IsOrder::Sequential => "in order",
                };
                format!("{} equal splits, {order}", options.is_splits)
            }
        };
        out.push((
            "Inception Score",
            format!("logits without bias, 1008 classes; {splits}; deviation with divisor K"),
        ));
    }
    if asked(&[MetricKind::Kid]) {
        let size = options.kid_subset_size.map_or("min(1000, n, m)".to_owned(), |s| s.to_string());
        out.push((
            "KID",
            format!(
                "kernel (x.y/d + 1)^3, unbiased; {} subsets of {size} by RandomState(2020), generated drawn first",
                options.kid_subsets
            ),
        ));
    }
    if asked(&[MetricKind::Pr, MetricKind::Prdc]) {
        let by = if options.pr_strict { "<" } else { "<=" };
        let of = options.prdc_subset.map_or(String::new(), |n| format!(", at most {n} images of each set"));
        out.push((
            "precision, recall",
            format!("k = {}, {by}, the point itself not counted{of}", options.pr_k),
        ));
    }
    if asked(&[MetricKind::Prdc]) {
        out.push(("density, coverage", format!("k = {}, <", options.prdc_k)));
    }
    if options.bootstrap > 0 {
        out.push((
            "intervals",
            format!("95 %, {} resamplings of features, spread about their mean", options.bootstrap),
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_what_the_tools_do() {
        assert_eq!(Suite::PytorchFid.conventions().protocol, Protocol::Pytorch);
        assert_eq!(Suite::CleanFid.conventions().protocol, Protocol::Clean);
        let adm = Suite::Adm.conventions();
        assert_eq!(
            (adm.protocol, adm.is_chunk, adm.pr_k, adm.pr_strict),
            (Protocol::Tf, Some(5000), 3, false)
        );
        assert!(adm.metrics.contains(&MetricKind::Sfid));
        let dgm = Suite::DgmEval.conventions();
        assert!(dgm.dinov2 && dgm.pr_strict && dgm.prdc_k == 5 && dgm.prdc_subset == Some(10_000));
        assert_eq!(Suite::TorchFidelity.conventions().kid_subset_size, Some(1000));
        assert_eq!(Suite::Edm.conventions().num, Some(50_000));
    }

    #[test]
    fn explanations_name_what_was_used() {
        let options = EvalOptions {
            metrics: [MetricKind::Fid, MetricKind::Is, MetricKind::Prdc].into(),
            is_chunk: Some(5000),
            pr_strict: true,
            ..EvalOptions::default()
        };
        let all = explain(&options, Some(Protocol::Clean), None);
        let text = |name: &str| all.iter().find(|(n, _)| *n == name).map_or("", |(_, t)| t.as_str());
        assert!(text("resize").contains("PIL bicubic") && text("Inception Score").contains("5000"));
        assert!(text("precision, recall").contains("k = 3, <,") && text("KID").is_empty());
    }
}

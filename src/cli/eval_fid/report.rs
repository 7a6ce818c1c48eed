//! What `gen eval-fid` prints: the table for people, or the JSON object.

use serde_json::{Map, Value, json};

use super::EvalFidArgs;
use crate::cli::ui::Ui;
use crate::metric::evaluate::{EvalOptions, Report};
use crate::metric::suite::explain;

/// The numbers of a report as rows of text, by name.
fn rows(report: &Report) -> Vec<(&'static str, String)> {
    let row = |mean: Option<f64>, std: Option<f64>, scale: f64, key: &str| {
        let std = std.map_or(String::new(), |s| format!(" +- {:.4}", s * scale));
        let interval = report
            .intervals
            .get(key)
            .map_or(String::new(), |[low, high]| format!(" [{:.4}, {:.4}]", low * scale, high * scale));
        mean.map(|m| format!("{:.4}{std}{interval}", m * scale))
    };
    let plain = |v: Option<f64>, key: &str| row(v, None, 1.0, key);
    // Rounding may put a distance of 0 a little below it.
    let distance = |v: Option<f64>, key: &str| plain(v.map(|v| v.max(0.0)), key);
    [
        ("FID", distance(report.fid, "fid_ci")),
        ("FD-DINOv2", distance(report.fd_dinov2, "fd_dinov2_ci")),
        ("CLIP-FID", distance(report.clip_fid, "clip_fid_ci")),
        ("FD, infinite N", plain(report.fd_inf, "")),
        ("sFID", distance(report.sfid, "")),
        ("Inception Score", row(report.is_mean, report.is_std, 1.0, "is_ci")),
        ("KID x 1000", row(report.kid, report.kid_std, 1e3, "")),
        ("KID x 1000, all pairs", row(report.kid_full, None, 1e3, "kid_full_ci")),
        ("MMD^2 x 1000", row(report.mmd2, None, 1e3, "mmd2_ci")),
        ("precision", plain(report.precision, "precision_ci")),
        ("recall", plain(report.recall, "recall_ci")),
        ("density", plain(report.density, "density_ci")),
        ("coverage", plain(report.coverage, "coverage_ci")),
        ("authenticity, %", plain(report.auth_pct, "auth_pct_ci")),
        ("1-NN accuracy", plain(report.nn_accuracy, "")),
        ("MIND", plain(report.mind, "")),
        ("Vendi score", plain(report.vendi, "")),
        ("sliced W2", plain(report.sw, "")),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// Mean, standard deviation (n - 1) and minimum.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, var.sqrt(), values.iter().copied().fold(f64::INFINITY, f64::min))
}

/// Prints the result.
#[allow(clippy::too_many_arguments)]
pub fn print(
    report: &Report,
    baselines: &[(&str, Report)],
    repeated: &[f64],
    args: &EvalFidArgs,
    options: &EvalOptions,
    ui: Ui,
    seconds: f64,
) -> anyhow::Result<()> {
    let conventions =
        if args.explain { explain(options, report.protocol, report.resize.as_deref()) } else { Vec::new() };
    let mut value = serde_json::to_value(report)?;
    if let Some(object) = value.as_object_mut() {
        let path = args.images.as_ref().or(args.draw.model.as_ref());
        let from = if args.images.is_some() { "images" } else { "model" };
        object.insert(from.into(), json!(path.map(|p| p.display().to_string())));
        if repeated.len() > 1 {
            let (mean, std, min) = spread(repeated);
            object.insert("repeats".into(), json!({"fid": repeated, "mean": mean, "std": std, "min": min}));
        }
        object.insert("ref".into(), json!(args.reference.as_ref().map(|p| p.display().to_string())));
        if let Some(suite) = args.suite {
            object.insert("suite".into(), serde_json::to_value(suite)?);
        }
        object.insert("seconds".into(), json!(seconds));
        object.insert("gen_version".into(), json!(env!("CARGO_PKG_VERSION")));
        if !baselines.is_empty() {
            let all: Map<String, Value> = baselines
                .iter()
                .map(|(name, report)| Ok(((*name).to_owned(), serde_json::to_value(report)?)))
                .collect::<anyhow::Result<_>>()?;
            object.insert("baselines".into(), all.into());
        }
        if !conventions.is_empty() {
            let all: Map<String, Value> =
                conventions.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
            object.insert("conventions".into(), all.into());
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
    if repeated.len() > 1 {
        let (mean, std, min) = spread(repeated);
        let name = format!("FID of {} sets", repeated.len());
        ui.line(format!("{name:<22}{mean:.4} +- {std:.4}, minimum {min:.4}"))?;
    }
    for class in &report.per_class {
        let fid = class.fid.map_or("too few images".to_owned(), |fid| format!("{fid:.4}"));
        let name = format!("class {}", class.class);
        ui.line(format!("{name:<22}{fid:<20}{} against {}", class.n, class.n_ref))?;
    }
    let protocol = report.protocol.map_or(String::new(), |p| format!(", protocol {p}"));
    let against = report.n_ref.or(report.n_ref_features).map_or(String::new(), |n| format!(" against {n}"));
    ui.line(format!("{:<22}{}{against} ({}{protocol})", "images", report.n, report.extractor))?;
    for (name, text) in &conventions {
        ui.line(format!("{:<22}{text}", format!("{name}:")))?;
    }
    Ok(())
}

//! What `gen eval-audio` prints: the table for people, or the JSON object.

use serde_json::json;

use super::EvalAudioArgs;
use super::baseline::Baseline;
use crate::cli::ui::Ui;
use crate::metric::audio::evaluate::SoundReport;

fn rows(report: &SoundReport, baseline: Option<&Baseline>) -> Vec<(String, String)> {
    let number = |v: Option<f64>| v.map(|v| format!("{v:.4}"));
    // Rounding may put a distance of 0 a little below it.
    let distance = |v: Option<f64>| number(v.map(|v| v.max(0.0)));
    let infinity = report.fad_inf.map(|f| format!("{:.4} (slope {:.1}, R^2 {:.3})", f.value, f.slope, f.r2));
    let stft = report.mr_stft.map(|d| {
        format!("{:.4} (convergence {:.4}, log magnitude {:.4})", d.total, d.convergence, d.log_magnitude)
    });
    let db = |v: Option<f64>| v.map(|v| format!("{v:.2} dB"));
    let bits = baseline.map(|b| {
        format!(
            "{:.4} bits a sample (of codes {:.4}, of amplitudes {:.4})",
            b.bits, b.bits_codes, b.bits_amplitude
        )
    });
    let lpc = baseline.map_or_else(String::new, |b| format!("predictor, order {}", b.order));
    [
        ("FID", distance(report.fid)),
        ("Inception Score", number(report.inception_score)),
        ("IS, published script", number(report.is_ref)),
        ("modified IS", number(report.mis)),
        ("AM score", number(report.am)),
        ("NDB", number(report.ndb)),
        ("accuracy", number(report.accuracy)),
        ("FAD", distance(report.fad)),
        ("FAD, infinite frames", infinity),
        ("multi-resolution STFT", stft),
        ("SI-SDR", db(report.si_sdr)),
        ("log-spectral distance", db(report.lsd)),
        (lpc.as_str(), bits),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}

/// Prints the result.
pub fn print(
    report: &SoundReport,
    baseline: Option<&Baseline>,
    args: &EvalAudioArgs,
    ui: Ui,
    seconds: f64,
) -> anyhow::Result<()> {
    let mut value = serde_json::to_value(report)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("audio".into(), json!(args.audio.display().to_string()));
        object.insert("ref".into(), json!(args.reference.as_ref().map(|p| p.display().to_string())));
        object.insert("baseline".into(), serde_json::to_value(baseline)?);
        object.insert("seconds".into(), json!(seconds));
        object.insert("gen_version".into(), json!(env!("CARGO_PKG_VERSION")));
    }
    ui.result(&value)?;
    for (name, value) in rows(report, baseline) {
        ui.line(format!("{name:<24}{value}"))?;
    }
    for file in &report.files {
        let fad = file.fad.map_or(String::new(), |v| format!("  FAD {v:.4}"));
        let class = match (file.class, file.confidence) {
            (Some(class), Some(p)) => format!("  class {class} ({p:.3})"),
            _ => String::new(),
        };
        ui.line(format!("{}{fad}{class}", file.name))?;
    }
    let against = report.n_ref.map_or(String::new(), |n| format!(" against {n}"));
    let frames = match (report.frames, report.frames_ref) {
        (Some(n), Some(m)) => format!(", {n} frames against {m}"),
        _ => String::new(),
    };
    let by = report.extractor.as_ref().map_or(String::new(), |name| format!(", {name}"));
    ui.line(format!("{:<24}{}{against}{frames} ({} Hz{by})", "sounds", report.n, report.rate))?;
    Ok(())
}

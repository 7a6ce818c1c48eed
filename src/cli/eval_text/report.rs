//! What `gen eval-text` prints: tables for people, or the JSON object.

use super::{Measured, TextReport, Written};
use crate::cli::ui::Ui;

/// Prints the result.
pub fn print(report: &TextReport, ui: Ui) -> anyhow::Result<()> {
    ui.result(&serde_json::to_value(report)?)?;
    if let Some(written) = &report.ppl {
        for (name, value) in likelihood(written) {
            ui.line(format!("{name:<24}{value}"))?;
        }
    }
    if let Some(texts) = &report.texts {
        let sets: Vec<&Measured> = [Some(texts), report.reference.as_ref()].into_iter().flatten().collect();
        if sets.len() > 1 {
            ui.line(format!("{:<24}{:>12}{:>12}", "", "samples", "reference"))?;
        }
        for (name, values) in rows(&sets) {
            let columns: String =
                values.iter().map(|v| format!("{:>12}", v.as_deref().unwrap_or("-"))).collect();
            ui.line(format!("{name:<24}{columns}"))?;
        }
        if let Some(mauve) = &report.mauve {
            ui.line(format!("{:<24}{:>12.4}", "MAUVE", mauve.mauve))?;
            let by = report.features.as_deref().unwrap_or_default();
            ui.line(format!("{:<24}{} clusters, {} components, {by}", "", mauve.clusters, mauve.components))?;
        }
        let scorer = report.scorer.as_ref().map_or_else(String::new, |name| {
            let how = if report.given_prompt { "after their prompts" } else { "alone" };
            format!(", scored {how} by {name}")
        });
        ui.line(format!("{:<24}{}{scorer}", "counted", texts.tokenizer))?;
    }
    Ok(())
}

fn likelihood(written: &Written) -> Vec<(&'static str, String)> {
    let found = &written.likelihood;
    vec![
        ("perplexity", format!("{:.4}", found.perplexity)),
        ("nats per token", format!("{:.4}", found.nats_per_token)),
        ("bits per byte", format!("{:.4}", written.bits_per_byte)),
        ("bits per character", format!("{:.4}", written.bits_per_character)),
        ("mean entropy", format!("{:.4} nats", found.mean_entropy)),
        (
            "text",
            format!(
                "{} tokens of {} bytes (windows of {}, stride {}, exact)",
                found.tokens, written.bytes, written.context, written.stride
            ),
        ),
    ]
}

/// The rows of a table with a column for each set; a figure that no set has is left out.
fn rows(sets: &[&Measured]) -> Vec<(&'static str, Vec<Option<String>>)> {
    type Figure = (&'static str, fn(&Measured) -> Option<f64>);
    let figures: [Figure; 19] = [
        ("perplexity", |m| m.scored.map(|s| s.perplexity)),
        ("  mean over texts", |m| m.scored.map(|s| s.perplexity_of_texts)),
        ("surprisal, scored", |m| m.scored.map(|s| s.nats_per_token)),
        ("entropy, scored", |m| m.scored.map(|s| s.mean_entropy)),
        ("|surprisal - entropy|", |m| m.scored.map(|s| s.untypical)),
        ("surprisal, drawn", |m| m.drawn.map(|d| d.mean_surprisal)),
        ("entropy, drawn", |m| m.drawn.map(|d| d.mean_entropy)),
        ("rep-2", |m| Some(m.stats.rep_2)),
        ("rep-3", |m| Some(m.stats.rep_3)),
        ("rep-4", |m| Some(m.stats.rep_4)),
        ("diversity", |m| Some(m.stats.diversity)),
        ("distinct-1", |m| Some(m.stats.distinct_1)),
        ("distinct-2", |m| Some(m.stats.distinct_2)),
        ("distinct-3", |m| Some(m.stats.distinct_3)),
        ("distinct-4", |m| Some(m.stats.distinct_4)),
        ("Zipf", |m| Some(m.stats.zipf)),
        ("entropy of tokens, bits", |m| Some(m.stats.entropy_bits)),
        ("mean length", |m| Some(m.stats.mean_length)),
        ("texts", |m| Some(m.stats.texts as f64)),
    ];
    figures
        .into_iter()
        .map(|(name, figure)| {
            let digits = if name == "texts" { 0 } else { 4 };
            let show = |m: &&Measured| figure(m).map(|v| format!("{v:.digits$}"));
            (name, sets.iter().map(show).collect::<Vec<_>>())
        })
        .filter(|(_, values)| values.iter().any(Option::is_some))
        .collect()
}

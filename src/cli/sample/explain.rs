//! `--explain`: what every stage of the sampler leaves of the first token after a prompt.

use serde_json::json;
use tch::{Device, Tensor};

use super::text::Writer;
use crate::cli::ui::Ui;
use crate::decode::TextSettings;
use crate::error::Result;
use crate::net::Cond;

/// Candidates shown.
const TOP: i64 = 8;

/// Prints a table for each of `prompts`; nothing is drawn.
///
/// # Errors
/// Where the network fails, or the sampler is not defined.
pub fn run(
    writer: &Writer<'_>,
    prompts: &[(String, Vec<i64>)],
    settings: &TextSettings,
    (ui, device): (Ui, Device),
) -> anyhow::Result<()> {
    let _no_grad = tch::no_grad_guard();
    let mut all = Vec::new();
    for (text, tokens) in prompts {
        let logits = next(writer, tokens, device)?;
        let stages = settings.explain(&logits, tokens, TOP)?;
        ui.line(format!("after {text:?}, {} tokens:", tokens.len()))?;
        ui.line(format!("  {:<28}{:>7}{:>10}{:>10}  most probable", "stage", "kept", "mass", "entropy"))?;
        let mut rows = Vec::new();
        for stage in &stages {
            let named = stage
                .top
                .iter()
                .map(|c| Ok((writer.tokenizer.decode(&[c.token], false)?, c)))
                .collect::<Result<Vec<_>>>()?;
            let top: Vec<String> = named.iter().map(|(text, c)| format!("{text:?} {:.3}", c.p)).collect();
            ui.line(format!(
                "  {:<28}{:>7}{:>10.4}{:>10.4}  {}",
                stage.stage,
                stage.kept,
                stage.mass,
                stage.entropy,
                top.join("  ")
            ))?;
            let top: Vec<_> =
                named.iter().map(|(text, c)| json!({"token": c.token, "text": text, "p": c.p})).collect();
            rows.push(json!({
                "stage": stage.stage, "kept": stage.kept, "mass": stage.mass, "entropy": stage.entropy, "top": top,
            }));
        }
        all.push(json!({"prompt": text, "tokens": tokens, "stages": rows}));
    }
    ui.result(&json!({"prompts": all}))?;
    Ok(())
}

/// Logits `[1, V]` of the token after `tokens`.
fn next(writer: &Writer<'_>, tokens: &[i64], device: Device) -> Result<Tensor> {
    let mut state = writer.net.begin(1, &Cond::default())?;
    let tokens = Tensor::f_from_slice(tokens)?.f_unsqueeze(0)?.f_to_device(device)?;
    Ok(state.prefill(&tokens)?.f_select(1, -1)?)
}

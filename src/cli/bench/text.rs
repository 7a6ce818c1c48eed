//! The same for language models: prompts taken in, tokens decoded, and what the memory would allow.

use std::time::Instant;

use serde_json::{Value, json};
use tch::Device;

use super::{BenchArgs, What, header, print};
use crate::cli::peak_mib;
use crate::cli::ui::Ui;
use crate::error::Error;
use crate::model::language::{self, LanguageOptions, Precision};
use crate::net::lm::timing::{Timing, copy_bandwidth, measure};
use crate::torch::device::device_name;
use crate::torch::runtime::Dtype;

const COLUMNS: &[&str] = &[
    "batch",
    "dtype",
    "device",
    "threads",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "share_of_copy",
    "ready_s",
    "peak_mib",
];

/// A measurement, before the speed of memory is known.
struct Case {
    dtype: Dtype,
    timing: Timing,
    ready: f64,
    peak: f64,
}

/// Times the model in the folder.
pub fn run(args: &BenchArgs, device: Device, ui: Ui) -> anyhow::Result<()> {
    let others = [
        ("--shape", !args.shape.is_empty()),
        ("--set", !args.set.is_empty()),
        ("--what", args.what != [What::Forward]),
        ("--channels-last", args.channels_last != [false]),
    ];
    if let Some((flag, _)) = others.iter().find(|(_, given)| *given) {
        return Err(Error::usage("the folder is a language model").at(*flag).hint("leave it out").into());
    }
    let mut cases = Vec::new();
    for &dtype in &args.formats {
        let start = Instant::now();
        let options = LanguageOptions { precision: Precision::of(Some(dtype)), weights: None };
        let model = language::open(&args.recipe, &options, device)?;
        let ready = start.elapsed().as_secs_f64();
        let (prompt, new) = (args.prompt_tokens.unwrap_or(128), args.new_tokens.unwrap_or(64));
        model
            .check_length(prompt as usize, new as usize)
            .map_err(|e| e.at("--prompt-tokens").hint("ask for fewer of them, or of --new-tokens"))?;
        for &batch in &args.batch {
            let timing = measure(&model.net, batch, prompt, new, args.repeat as usize)?;
            let rate = timing.decode_rate();
            ui.say(format!("batch {batch}, {}: {rate:.1} tokens/s decoded", dtype.name()));
            cases.push(Case { dtype, timing, ready, peak: peak_mib() });
        }
    }
    // The copy takes memory of its own: it comes after all peaks are read, and the models are gone.
    let copy = if device == Device::Cpu { Some(copy_bandwidth()?) } else { None };
    header(args.output, COLUMNS, ui)?;
    let mut rows = Vec::new();
    for case in &cases {
        let row = describe(case, copy, device);
        print(args.output, COLUMNS, &row, ui)?;
        rows.push(row);
    }
    ui.result(&json!({ "rows": rows }))?;
    Ok(())
}

fn describe(case: &Case, copy: Option<f64>, device: Device) -> Value {
    let timing = &case.timing;
    json!({
        "who": "gen", "what": "text", "batch": timing.batch, "dtype": case.dtype.name(), "prompt": timing.prompt,
        "new": timing.new, "device": device_name(device), "threads": tch::get_num_threads(),
        "prefill_tokens_per_s": timing.prefill_rate(), "decode_tokens_per_s": timing.decode_rate(),
        "weight_bytes": timing.bytes, "weights_bytes_per_s": timing.bandwidth(), "copy_bytes_per_s": copy,
        "share_of_copy": copy.map(|copy| timing.bandwidth() / copy), "ready_s": case.ready, "peak_mib": case.peak,
    })
}

//! Texts from a language model.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use tch::Device;

use super::SampleArgs;
use crate::cli::Globals;
use crate::cli::ui::Ui;
use crate::decode::{Continuation, TextSettings, continue_texts};
use crate::error::{Error, Result};
use crate::io::atomic;
use crate::io::tokenizer::Tokenizer;
use crate::model::language::Generation;
use crate::model::language::Message;
use crate::model::language::{self, Language, LanguageOptions, Precision};
use crate::model::open::Opened;
use crate::net::causal::Causal;
use crate::torch::device::device_name;
use crate::torch::interrupt;

/// A text to be written.
struct Job {
    prompt: usize,
    seed: u64,
}

/// What continues prompts.
struct Writer<'a> {
    net: &'a dyn Causal,
    tokenizer: Tokenizer,
    generation: Generation,
    language: Option<&'a Language>,
}

/// Runs the command on a folder of Hugging Face.
pub fn run_folder(args: &SampleArgs, globals: &Globals, ui: Ui, device: Device) -> anyhow::Result<()> {
    let precision = if args.text.int8 { Precision::Int8 } else { Precision::of(globals.dtype) };
    let options = LanguageOptions { precision, weights: args.weights.clone() };
    let language = language::open(&args.model, &options, device)?;
    for note in &language.notes {
        ui.say(format!("note: {note}"));
    }
    if !language.generation.unknown.is_empty() {
        ui.say(format!("note: generation_config.json also says {}", language.generation.unknown.join(", ")));
    }
    let writer = Writer {
        net: &language.net,
        tokenizer: language.tokenizer.clone().unwrap_or_else(Tokenizer::bytes),
        generation: language.generation.clone(),
        language: Some(&language),
    };
    write(args, ui, device, &writer)
}

/// Runs the command on a model of this project.
pub fn run_snapshot(args: &SampleArgs, ui: Ui, device: Device, opened: &Opened) -> anyhow::Result<()> {
    let net = crate::objective::autoregressive::causal(&*opened.net)?;
    let tokenizer = opened.card.tokenizer()?;
    let writer = Writer { net, tokenizer, generation: Generation::default(), language: None };
    write(args, ui, device, &writer)
}

fn write(args: &SampleArgs, ui: Ui, device: Device, writer: &Writer<'_>) -> anyhow::Result<()> {
    let (text, own) = (&args.text, &writer.generation);
    let prompts = prompts(args, writer)?;
    let max_new =
        text.max_new_tokens.or(own.max_new_tokens.and_then(|n| usize::try_from(n).ok())).unwrap_or(256);
    let settings = TextSettings {
        sampler: text.sampler(own, &args.sound)?,
        penalties: text.penalties(own)?,
        mirostat: text.mirostat()?,
        max_new,
        min_new: text.min_new_tokens,
        eos: own.eos.clone(),
        rng: args.rng,
    };
    if let Some(language) = writer.language {
        for (_, tokens) in &prompts {
            language.check_tokens(tokens)?;
            language.check_length(tokens.len(), max_new).map_err(|e| e.at("--prompt"))?;
        }
    }
    let seeds = args.seeds.as_ref().map_or_else(|| vec![0], |seeds| seeds.0.clone());
    let jobs: Vec<Job> =
        (0..prompts.len()).flat_map(|prompt| seeds.iter().map(move |&seed| Job { prompt, seed })).collect();
    let stdout = args.out == Path::new("-");
    if !stdout {
        if args.out.exists() && !args.overwrite {
            return Err(Error::usage("file exists")
                .at(args.out.display())
                .hint("--overwrite replaces it")
                .into());
        }
        atomic::check(&args.out)?;
    }
    let chain = settings.sampler.describe()?;
    ui.say(format!("{} texts of up to {max_new} tokens, {chain}, on {}", jobs.len(), device_name(device)));
    let start = Instant::now();
    let mut lines = Vec::new();
    let mut tokens = 0;
    for batch in jobs.chunks(args.batch as usize) {
        // One text alone is shown as it comes.
        let live = stdout && jobs.len() == 1 && !ui.json;
        let texts = one_batch(batch, &prompts, writer, (&settings, text.stop.as_slice(), live), device, ui)?;
        for (job, text) in batch.iter().zip(texts) {
            tokens += text.1.tokens.len();
            let line = describe(job, &prompts[job.prompt], &text, &chain, args.text.logprobs);
            if stdout && !live && !ui.json {
                ui.line(&text.0)?;
            }
            lines.push(line);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    if !stdout {
        atomic::write(&args.out, |out| {
            for line in &lines {
                out.write_all(format!("{line}\n").as_bytes()).map_err(|e| Error::write(&args.out, &e))?;
            }
            Ok(())
        })?;
    }
    let rate = tokens as f64 / seconds.max(1e-9);
    ui.say(format!("{tokens} tokens in {}: {rate:.1} tokens/s", crate::cli::ui::duration(seconds)));
    ui.result(&json!({
        "texts": lines, "tokens": tokens, "seconds": seconds, "tokens_per_s": rate, "sampler": chain,
        "peak_mib": crate::cli::peak_mib(), "device": device_name(device),
    }))?;
    Ok(())
}

/// Prompts as texts and tokens.
fn prompts(args: &SampleArgs, writer: &Writer<'_>) -> Result<Vec<(String, Vec<i64>)>> {
    let texts = match &args.text.prompt_file {
        Some(path) => {
            let content = std::fs::read_to_string(path).map_err(|e| Error::read(path, &e))?;
            let jsonl = path.extension().is_some_and(|e| e == "jsonl");
            content
                .lines()
                .filter(|line| !line.trim().is_empty())
                .map(|line| {
                    if !jsonl {
                        return Ok(line.to_owned());
                    }
                    let value: Value = serde_json::from_str(line).unwrap_or_default();
                    value["prompt"].as_str().map(str::to_owned).ok_or_else(|| {
                        Error::data("a line without a prompt")
                            .at(path.display())
                            .hint("each line is an object with the key \"prompt\"")
                    })
                })
                .collect::<Result<Vec<_>>>()?
        }
        None => args.text.prompt.clone(),
    };
    if texts.is_empty() {
        // A model that knows how texts begin needs no prompt.
        let start = writer.generation.bos.unwrap_or_else(|| writer.net.start_token());
        return Ok(vec![(String::new(), vec![start])]);
    }
    texts
        .into_iter()
        .map(|text| {
            let full = match (args.text.chat, writer.language) {
                (false, _) => text.clone(),
                (true, Some(language)) => {
                    language.conversation(&[Message { role: "user".to_owned(), content: text.clone() }])?
                }
                (true, None) => {
                    return Err(Error::usage("the model has no chat template").at("--chat"));
                }
            };
            // A template writes its own special tokens.
            let tokens = writer.tokenizer.encode(&full, !args.text.chat)?;
            Ok((text, tokens))
        })
        .collect()
}

/// The texts of a batch with their tokens.
fn one_batch(
    jobs: &[Job],
    prompts: &[(String, Vec<i64>)],
    writer: &Writer<'_>,
    (settings, stops, live): (&TextSettings, &[String], bool),
    device: Device,
    ui: Ui,
) -> Result<Vec<(String, Continuation)>> {
    let inputs: Vec<Vec<i64>> = jobs.iter().map(|job| prompts[job.prompt].1.clone()).collect();
    let seeds: Vec<u64> = jobs.iter().map(|job| job.seed).collect();
    let mut streams: Vec<_> = jobs.iter().map(|_| writer.tokenizer.stream(true)).collect();
    let mut texts: Vec<String> = vec![String::new(); jobs.len()];
    let mut watch = |i: usize, token: i64| -> Result<bool> {
        interrupt::check("the texts of this batch are lost")?;
        let piece = streams[i].push(token)?;
        texts[i].push_str(&piece);
        if live {
            ui.bytes(piece.as_bytes())?;
        }
        Ok(cut(&mut texts[i], stops))
    };
    let done = continue_texts(writer.net, &inputs, &seeds, settings, device, &mut watch)?;
    for (text, stream) in texts.iter_mut().zip(&mut streams) {
        let rest = stream.finish()?;
        text.push_str(&rest);
        if live {
            ui.bytes(rest.as_bytes())?;
        }
        cut(text, stops);
    }
    if live {
        ui.bytes(b"\n")?;
    }
    Ok(texts.into_iter().zip(done).collect())
}

/// Cuts `text` where the first of `stops` begins; whether there is one.
fn cut(text: &mut String, stops: &[String]) -> bool {
    match stops.iter().filter_map(|stop| text.find(stop.as_str())).min() {
        Some(at) => {
            text.truncate(at);
            true
        }
        None => false,
    }
}

fn describe(
    job: &Job,
    (prompt, _): &(String, Vec<i64>),
    (text, done): &(String, Continuation),
    chain: &str,
    logprobs: bool,
) -> Value {
    let mut line = json!({
        "prompt": prompt, "text": text, "seed": job.seed, "ids": done.tokens, "finish_reason": done.finish,
        "logprob": done.log_probs.iter().sum::<f64>(), "chain": chain,
        "mean_surprisal": mean(&done.log_probs.iter().map(|v| -v).collect::<Vec<_>>()),
        "mean_entropy": mean(&done.entropies),
    });
    if logprobs {
        line["logprobs"] = json!(done.log_probs);
    }
    line
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

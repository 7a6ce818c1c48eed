//! Texts from a language model.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde_json::{Map, Value, json};
use tch::Device;

use super::SampleArgs;
use super::explain;
use super::search::{self, Draft, Written};
use super::search_args::Way;
use super::text_args::Truncate;
use crate::cli::Globals;
use crate::cli::ui::Ui;
use crate::decode::{Tally, TextSettings, continue_texts};
use crate::error::{Error, Result};
use crate::io::atomic;
use crate::io::tokenizer::Tokenizer;
use crate::model::language::Generation;
use crate::model::language::Message;
use crate::model::language::{self, Language, LanguageOptions, Precision};
use crate::model::open::{OpenOptions, Opened};
use crate::net::causal::Causal;
use crate::torch::device::device_name;
use crate::torch::interrupt;

/// A text to be written.
struct Job {
    prompt: usize,
    seed: u64,
}

/// What continues prompts.
pub struct Writer<'a> {
    pub net: &'a dyn Causal,
    pub tokenizer: Tokenizer,
    pub generation: Generation,
    pub language: Option<&'a Language>,
}

/// How a folder of Hugging Face is opened.
fn options(args: &SampleArgs, globals: &Globals) -> LanguageOptions {
    let precision = if args.text.int8 { Precision::Int8 } else { Precision::of(globals.dtype) };
    LanguageOptions { precision, weights: None }
}

/// Runs the command on a folder of Hugging Face.
pub fn run_folder(args: &SampleArgs, globals: &Globals, ui: Ui, device: Device) -> anyhow::Result<()> {
    let options = LanguageOptions { weights: args.weights.clone(), ..options(args, globals) };
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
    write(args, globals, (ui, device), &writer)
}

/// Runs the command on a model of this project.
pub fn run_snapshot(
    args: &SampleArgs,
    globals: &Globals,
    ui: Ui,
    device: Device,
    opened: &Opened,
) -> anyhow::Result<()> {
    let net = crate::objective::autoregressive::causal(&*opened.net)?;
    let tokenizer = opened.card.tokenizer()?;
    let writer = Writer { net, tokenizer, generation: Generation::default(), language: None };
    write(args, globals, (ui, device), &writer)
}

fn write(
    args: &SampleArgs,
    globals: &Globals,
    (ui, device): (Ui, Device),
    writer: &Writer<'_>,
) -> anyhow::Result<()> {
    let (text, own) = (&args.text, &writer.generation);
    let mut prompts = prompts(args, writer)?;
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
    let way = args.search.way(text, &args.sound, own)?;
    if let (Some(Truncate::Left), Some(language)) = (text.truncate, writer.language) {
        for (prompt, tokens) in &mut prompts {
            let cut = language.truncate_left(tokens, max_new);
            if cut > 0 {
                ui.warn(format!(
                    "{cut} tokens are cut from the beginning of a prompt of {} characters",
                    prompt.len()
                ));
            }
        }
    }
    let draft = draft(args, globals, device, (writer, &prompts, max_new))?;
    if let Some(language) = writer.language {
        for (_, tokens) in &prompts {
            language.check_tokens(tokens)?;
            language.check_length(tokens.len(), max_new).map_err(|e| {
                e.at("--prompt")
                    .hint("cut its beginning with --truncate left, or ask for fewer --max-new-tokens")
            })?;
        }
    }
    if text.explain {
        if settings.mirostat.is_some() {
            return Err(Error::usage("mirostat has no stages to show").at("--explain").into());
        }
        return explain::run(writer, &prompts, &settings, (ui, device));
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
    let chain = describe_way(&way, &settings)?;
    ui.say(format!("{} texts of up to {max_new} tokens, {chain}, on {}", jobs.len(), device_name(device)));
    let start = Instant::now();
    let mut lines = Vec::new();
    let (mut tokens, mut tally) = (0, Tally::default());
    // Ways other than draws take one prompt at a time.
    let size = if way == Way::Draw { args.batch as usize } else { 1 };
    for batch in jobs.chunks(size) {
        // One text alone is shown as it comes.
        let live = stdout && jobs.len() == 1 && !ui.json && !matches!(way, Way::Beams(..));
        let how = (&settings, text.stop.as_slice(), live);
        let texts = if way == Way::Draw {
            one_batch(batch, &prompts, writer, how, device, ui)?
        } else {
            let begin = (prompts[batch[0].prompt].1.as_slice(), batch[0].seed);
            let (texts, seen) = search::written(writer, (way, draft.as_ref()), begin, how, device, ui)?;
            tally = tally.with(seen);
            texts
        };
        for (i, written) in texts.iter().enumerate() {
            tokens += written.done.tokens.len();
            let job = &batch[i.min(batch.len() - 1)];
            let line = describe(job, &prompts[job.prompt], written, &chain, args.text.logprobs);
            if stdout && !live && !ui.json {
                ui.line(&written.text)?;
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
    let mut result = json!({
        "texts": lines, "tokens": tokens, "seconds": seconds, "tokens_per_s": rate, "sampler": chain,
        "peak_mib": crate::cli::peak_mib(), "device": device_name(device),
    });
    if let (Way::Draft(_), Some(result)) = (way, result.as_object_mut()) {
        result.extend(search::told(&tally));
        if let Some(share) = tally.share() {
            let (passes, share) = (tally.rounds, 100.0 * share);
            ui.say(format!("{share:.1} % of the draft's tokens stayed, {passes} passes of the model"));
        }
    }
    ui.result(&result)?;
    Ok(())
}

/// The model that proposes, where there is one, checked against `writer` and the prompts with their new tokens.
fn draft(
    args: &SampleArgs,
    globals: &Globals,
    device: Device,
    (writer, prompts, max_new): (&Writer<'_>, &[(String, Vec<i64>)], usize),
) -> Result<Option<Draft>> {
    let Some(path) = &args.search.draft_model else { return Ok(None) };
    let own = OpenOptions {
        weights: None,
        dtype: globals.dtype.unwrap_or_default(),
        raw: args.raw.spec(),
        format: args.memory_format,
        ..OpenOptions::default()
    };
    let draft = Draft::open(path, (options(args, globals), own), device)?;
    let longest = prompts.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
    draft.check(writer, (longest, max_new))?;
    Ok(Some(draft))
}

/// The way in words, for people.
fn describe_way(way: &Way, settings: &TextSettings) -> Result<String> {
    Ok(match way {
        Way::Draw => settings.sampler.describe()?,
        Way::Beams(how, _) => {
            let early = format!("{:?}", how.early_stopping).to_lowercase();
            let (beams, penalty) = (how.beams, how.length_penalty);
            format!("beam search of {beams}, length penalty {penalty}, early stopping {early}")
        }
        Way::Contrastive(how) => format!("contrastive search, alpha {}, top-k {}", how.alpha, how.top_k),
        Way::Draft(ahead) => format!("{}, drafts of {ahead}", settings.sampler.describe()?),
    })
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
) -> Result<Vec<Written>> {
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
    let texts = texts.into_iter().zip(done);
    Ok(texts.map(|(text, done)| Written { text, done, more: Map::new() }).collect())
}

/// Cuts `text` where the first of `stops` begins; whether there is one.
pub fn cut(text: &mut String, stops: &[String]) -> bool {
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
    Written { text, done, more }: &Written,
    chain: &str,
    logprobs: bool,
) -> Value {
    let mut line = json!({
        "prompt": prompt, "text": text, "seed": job.seed, "ids": done.tokens, "finish_reason": done.finish,
        "logprob": done.log_probs.iter().sum::<f64>(), "chain": chain,
        "mean_surprisal": mean(&done.log_probs.iter().map(|v| -v).collect::<Vec<_>>()),
        "mean_entropy": mean(&done.entropies),
    });
    if let Some(line) = line.as_object_mut() {
        line.extend(more.clone());
    }
    if logprobs {
        line["logprobs"] = json!(done.log_probs);
    }
    line
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

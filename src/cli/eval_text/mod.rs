//! `gen eval-text`: how likely a text is, and how much like written text samples are.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tch::Device;

use super::Globals;
use super::ui::Ui;
use super::values::{finite, positive};
use crate::data::Split;
use crate::data::text::bytes_of;
use crate::error::{Error, Result};
use crate::metric::text::{
    Likelihood, Mauve, Passage, Plan, TextStats, last_hidden, likelihood, mauve, score, text_stats,
};
use crate::model::language::reader::Reader;
use crate::torch::interrupt;
use samples::{Counter, Sample, Unit};

mod report;
mod samples;

/// Measure texts: perplexity, repetition, variety, Zipf's law, MAUVE
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen eval-text --model runs/shakespeare --ppl data/shakespeare --split test\n  \
    gen eval-text --model gpt2 --ppl wiki.test.txt --stride 512 --json\n  \
    gen eval-text --texts nucleus.jsonl --ref written.jsonl --gen-ppl gpt2-large --mauve gpt2-large\n  \
    gen eval-text --texts stories.txt --tokenizer bytes\n\n\
    --ppl is exact: every token but the first is scored once, from all tokens before it or, where a text is longer \
    than the context, from at least context - stride of them. Bits per byte and per character compare models of \
    different tokenizers, perplexities do not.\n\
    Texts: the .jsonl of `gen sample --out`, a file with a text on each line, or a folder of .txt files.\n\
    A figure without its tokenizer, scorer and number of texts is no figure: report all.")]
pub struct EvalTextArgs {
    /// The model that --ppl measures: a folder of Hugging Face, a run or a snapshot
    #[arg(short, long, value_name = "MODEL", requires = "ppl")]
    pub model: Option<PathBuf>,
    /// Written text: a file (.gz too) or a folder of .txt files, as one text
    #[arg(long, value_name = "PATH", requires = "model")]
    pub ppl: Option<PathBuf>,
    /// Part of it: all, train (the first nine tenths of its bytes) or test
    #[arg(long, value_enum, default_value_t, value_name = "PART", requires = "ppl")]
    pub split: Split,
    /// Tokens of the window that slides over a text [default: what the model sees at once]
    #[arg(long, alias = "max-length", value_name = "N", value_parser = positive)]
    pub context: Option<usize>,
    /// Tokens from one window to the next; 1 is the exact figure of the context [default: half of it]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub stride: Option<usize>,
    /// Samples to measure
    #[arg(long, value_name = "PATH", alias = "samples")]
    pub texts: Option<PathBuf>,
    /// What counts as a token of repetition and variety: words, bytes, or a model's tokens
    #[arg(long, default_value = "words", value_name = "words|bytes|PATH")]
    pub tokenizer: Unit,
    /// Perplexity of the samples under this model
    #[arg(long, value_name = "SCORER", requires = "texts", alias = "scorer")]
    pub gen_ppl: Option<PathBuf>,
    /// Score each sample as what follows its prompt
    #[arg(long, requires = "gen_ppl")]
    pub given_prompt: bool,
    /// Written texts to compare the samples with
    #[arg(long = "ref", value_name = "PATH", requires = "texts", alias = "reference")]
    pub reference: Option<PathBuf>,
    /// MAUVE of the samples and the reference on the last hidden state of this model
    #[arg(long, value_name = "SCORER", requires = "reference")]
    pub mauve: Option<PathBuf>,
    /// Clusters of MAUVE [default: a tenth of the smaller set]
    #[arg(long, value_name = "K", value_parser = positive, requires = "mauve")]
    pub clusters: Option<usize>,
    /// Tokens of a text that MAUVE looks at
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = positive)]
    pub max_tokens: usize,
    /// Seed of the clusters
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    pub seed: u64,
    /// Windows or texts computed at once
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = positive)]
    pub batch: usize,
    /// Exit with code 1 if the perplexity of --ppl or else of --gen-ppl is above this
    #[arg(long, value_name = "VALUE", value_parser = finite)]
    pub max: Option<f64>,
}

/// What `--ppl` found.
#[derive(Debug, Serialize)]
pub struct Written {
    model: String,
    data: String,
    split: Split,
    /// `exact`, in contrast to a bound.
    kind: &'static str,
    context: usize,
    stride: usize,
    #[serde(flatten)]
    likelihood: Likelihood,
    /// Bytes and characters after the first token, which is given.
    bytes: usize,
    characters: usize,
    bits_per_byte: f64,
    bits_per_character: f64,
}

/// What is said of a set of texts.
#[derive(Debug, Serialize)]
pub struct Measured {
    path: String,
    tokenizer: String,
    #[serde(flatten)]
    stats: TextStats,
    /// Under the scorer.
    scored: Option<Likelihood>,
    /// Means over tokens of what was noted when they were drawn, in nats.
    drawn: Option<Drawn>,
}

/// Surprisal and entropy of the model itself where tokens were drawn.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Drawn {
    mean_surprisal: f64,
    mean_entropy: f64,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub struct TextReport {
    ppl: Option<Written>,
    texts: Option<Measured>,
    #[serde(rename = "ref")]
    reference: Option<Measured>,
    mauve: Option<Mauve>,
    scorer: Option<String>,
    given_prompt: bool,
    features: Option<String>,
    seconds: f64,
    gen_version: &'static str,
}

/// Runs the command.
pub fn run(args: &EvalTextArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    if args.ppl.is_none() && args.texts.is_none() {
        return Err(Error::usage("nothing to measure")
            .hint("give a model and a text with --model and --ppl, or samples with --texts")
            .into());
    }
    if args.max.is_some() && args.ppl.is_none() && args.gen_ppl.is_none() {
        let error = Error::usage("a limit without a figure").at("--max");
        return Err(error.hint("it holds for --ppl, or for --gen-ppl where that is not given").into());
    }
    let device = globals.start()?;
    let start = std::time::Instant::now();
    let bench = Bench { args, globals, ui, device };
    let mut report = TextReport { gen_version: env!("CARGO_PKG_VERSION"), ..TextReport::default() };
    if let (Some(model), Some(data)) = (&args.model, &args.ppl) {
        report.ppl = Some(bench.written(model, data)?);
    }
    if let Some(path) = &args.texts {
        bench.samples(path, &mut report)?;
    }
    report.seconds = start.elapsed().as_secs_f64();
    report::print(&report, ui)?;
    let measured = report.ppl.as_ref().map(|p| p.likelihood.perplexity);
    let scored = || report.texts.as_ref()?.scored.map(|s| s.perplexity);
    match (args.max, measured.or_else(scored)) {
        (Some(max), Some(value)) if value > max => {
            let error = Error::run(format!("the perplexity is {value:.4}"));
            let error = error.at("--max").why(format!("{max} was allowed"));
            Err(error
                .hint("the text is less likely than the limit allows; the figures are those above")
                .into())
        }
        _ => Ok(()),
    }
}

/// What measures.
struct Bench<'a> {
    args: &'a EvalTextArgs,
    globals: &'a Globals,
    ui: Ui,
    device: Device,
}

impl Bench<'_> {
    fn open(&self, path: &Path) -> Result<Reader> {
        let reader = Reader::open(path, self.globals.dtype, self.device)?;
        for note in &reader.notes {
            self.ui.warn(note);
        }
        Ok(reader)
    }

    fn plan(&self, reader: &Reader) -> Result<Plan> {
        let context = self.args.context.unwrap_or(reader.context);
        if context > reader.context {
            return Err(Error::usage(format!("a window of {context} tokens"))
                .at("--context")
                .why(format!("the model sees {} at once", reader.context)));
        }
        let stride = self.args.stride.unwrap_or((context / 2).max(1));
        Ok(Plan { context, stride, batch: self.args.batch })
    }

    fn score(
        &self,
        reader: &Reader,
        passages: &[Passage],
        plan: Plan,
    ) -> Result<Vec<crate::metric::text::Score>> {
        self.watched("scoring", "windows", |watch| score(reader.net()?, passages, plan, self.device, watch))
    }

    /// Runs `work`, which tells how many of how many `units` are done, under a bar.
    fn watched<T>(
        &self,
        label: &'static str,
        unit: &'static str,
        work: impl FnOnce(&mut dyn FnMut(usize, usize) -> Result<()>) -> Result<T>,
    ) -> Result<T> {
        let mut bar = None;
        let done = work(&mut |done, total| {
            bar.get_or_insert_with(|| self.ui.bar(label, total as u64, unit)).set(done as u64);
            interrupt::check("nothing is lost but the figures so far")
        })?;
        if let Some(bar) = &bar {
            bar.finish();
        }
        Ok(done)
    }

    fn written(&self, model: &Path, data: &Path) -> Result<Written> {
        let reader = self.open(model)?;
        let plan = self.plan(&reader)?;
        plan.check()?;
        let text = bytes_of(data, self.args.split)?;
        let mut tokens = reader.tokenizer.lead()?;
        let special = tokens.len();
        tokens.extend(reader.tokenizer.encode_bytes(&text).map_err(|e| e.at(data.display()))?);
        if tokens.len() < 2 {
            return Err(Error::data(format!("{} tokens of text", tokens.len()))
                .at(data.display())
                .why("the first one is given: nothing is left to predict"));
        }
        // Without a token of the beginning the first token of the text is given, and so are its bytes.
        let given = match special {
            0 if reader.tokenizer.is_bytes() => 1,
            0 => reader.tokenizer.decode(&tokens[..1], false)?.len().min(text.len()),
            _ => 0,
        };
        let scores = self.score(&reader, &[Passage { tokens, from: special.max(1) }], plan)?;
        let likelihood = likelihood(&scores).ok_or_else(|| Error::run("no token was scored"))?;
        let bits = likelihood.nats_per_token * likelihood.tokens as f64 / std::f64::consts::LN_2;
        let rest = &text[given..];
        let characters = String::from_utf8_lossy(rest).chars().count();
        Ok(Written {
            model: model.display().to_string(),
            data: data.display().to_string(),
            split: self.args.split,
            kind: "exact",
            context: plan.context,
            stride: plan.stride,
            likelihood,
            bytes: rest.len(),
            characters,
            bits_per_byte: bits / rest.len().max(1) as f64,
            bits_per_character: bits / characters.max(1) as f64,
        })
    }

    fn samples(&self, path: &Path, report: &mut TextReport) -> Result<()> {
        let args = self.args;
        let texts = samples::read(path)?;
        let reference = args.reference.as_deref().map(samples::read).transpose()?;
        let mut counter = Counter::new(&args.tokenizer)?;
        let scorer = args.gen_ppl.as_deref().map(|path| self.open(path)).transpose()?;
        report.texts = Some(self.measure(path, &texts, &mut counter, scorer.as_ref())?);
        if let (Some(path), Some(set)) = (&args.reference, &reference) {
            report.reference = Some(self.measure(path, set, &mut counter, scorer.as_ref())?);
        }
        report.scorer = args.gen_ppl.as_ref().map(|p| p.display().to_string());
        report.given_prompt = args.given_prompt;
        if let (Some(model), Some(reference)) = (&args.mauve, &reference) {
            // The same model is not opened twice.
            let own = if args.gen_ppl.as_ref() == Some(model) { None } else { Some(self.open(model)?) };
            let reader = own.as_ref().or(scorer.as_ref());
            let reader = reader.ok_or_else(|| Error::run("the scorer was not opened"))?;
            let (p, q) = (self.features(reader, path, &texts)?, self.features(reader, path, reference)?);
            report.mauve = Some(mauve(&p, &q, args.clusters, args.seed)?);
            report.features = Some(model.display().to_string());
        }
        Ok(())
    }

    fn measure(
        &self,
        path: &Path,
        texts: &[Sample],
        counter: &mut Counter,
        scorer: Option<&Reader>,
    ) -> Result<Measured> {
        let tokens = texts.iter().map(|s| counter.tokens(&s.text)).collect::<Result<Vec<_>>>()?;
        let scored = match scorer {
            None => None,
            Some(reader) => {
                let passages =
                    texts.iter().map(|s| self.passage(reader, s, path)).collect::<Result<Vec<_>>>()?;
                likelihood(&self.score(reader, &passages, self.plan(reader)?)?)
            }
        };
        Ok(Measured {
            path: path.display().to_string(),
            tokenizer: self.args.tokenizer.to_string(),
            stats: text_stats(&tokens),
            scored,
            drawn: drawn(texts),
        })
    }

    fn passage(&self, reader: &Reader, sample: &Sample, path: &Path) -> Result<Passage> {
        let mut tokens = reader.tokenizer.lead()?;
        if self.args.given_prompt {
            let prompt = sample.prompt.as_deref().filter(|p| !p.is_empty()).ok_or_else(|| {
                Error::data("a text without a prompt")
                    .at(path.display())
                    .hint("each line needs the key \"prompt\"; leave --given-prompt out to score texts alone")
            })?;
            tokens.extend(reader.tokenizer.encode(prompt, false)?);
        }
        let from = tokens.len().max(1);
        tokens.extend(reader.tokenizer.encode(&sample.text, false)?);
        Ok(Passage { tokens, from })
    }

    /// `[N, D]`, one row for each text that is not empty.
    fn features(&self, reader: &Reader, path: &Path, texts: &[Sample]) -> Result<tch::Tensor> {
        let most = self.args.max_tokens.min(reader.context);
        let (lead, mut all) = (reader.tokenizer.lead()?, Vec::new());
        for sample in texts {
            let tokens = reader.tokenizer.encode(&sample.text, false)?;
            if !tokens.is_empty() {
                all.push(lead.iter().copied().chain(tokens).take(most).collect());
            }
        }
        if all.len() < texts.len() {
            self.ui.warn(format!(
                "{} empty texts have no features ({})",
                texts.len() - all.len(),
                path.display()
            ));
        }
        if all.is_empty() {
            return Err(Error::data("all texts are empty").at(path.display()));
        }
        self.watched("features", "texts", |watch| {
            last_hidden(reader.net()?, &all, self.args.batch, self.device, watch)
        })
    }
}

/// Means over all tokens of the texts that say how they were drawn.
fn drawn(texts: &[Sample]) -> Option<Drawn> {
    let known: Vec<(usize, f64, f64)> = texts.iter().filter_map(|s| s.drawn).collect();
    let tokens = known.iter().map(|k| k.0).sum::<usize>() as f64;
    let mean =
        |f: &dyn Fn(&(usize, f64, f64)) -> f64| known.iter().map(|k| k.0 as f64 * f(k)).sum::<f64>() / tokens;
    (tokens > 0.0).then(|| Drawn { mean_surprisal: mean(&|k| k.1), mean_entropy: mean(&|k| k.2) })
}

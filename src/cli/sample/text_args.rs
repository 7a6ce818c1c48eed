//! Flags of text.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::values::{finite, positive};
use crate::decode::{Mirostat, Order, Penalties, SamplerSpec};
use crate::error::{Error, Result};
use crate::model::language::Generation;

/// Where a prompt that is too long is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Truncate {
    /// At its beginning: its end is what the text goes on from.
    Left,
}

/// Text.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Text")]
pub struct TextArgs {
    /// What to continue; may be given again (language models)
    #[arg(long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// A file with a prompt on each line, or with {"prompt": ...} (.jsonl)
    #[arg(long, value_name = "FILE", conflicts_with = "prompt", hide_short_help = true)]
    pub prompt_file: Option<PathBuf>,
    /// The prompt is what a user says: put it into the model's chat template
    #[arg(long, hide_short_help = true)]
    pub chat: bool,
    /// New tokens at most [default: the model's own, else 256]
    #[arg(long, alias = "max_new_tokens", value_name = "N", value_parser = positive)]
    pub max_new_tokens: Option<usize>,
    /// New tokens before a text may end
    #[arg(long, alias = "min_new_tokens", default_value_t = 0, value_name = "N", hide_short_help = true)]
    pub min_new_tokens: usize,
    /// End a text here; may be given again
    #[arg(long, value_name = "TEXT", hide_short_help = true)]
    pub stop: Vec<String>,
    /// Locally typical sampling: tokens whose surprise is nearest to the expected one, until they sum to this share
    #[arg(long, alias = "typical_p", value_name = "TAU", value_parser = finite)]
    pub typical_p: Option<f64>,
    /// The most probable tokens only; 0 is off
    #[arg(long, alias = "top_k", value_name = "K")]
    pub top_k: Option<i64>,
    /// Tokens of at least this share of the largest probability
    #[arg(long, alias = "min_p", value_name = "P", value_parser = finite, hide_short_help = true)]
    pub min_p: Option<f64>,
    /// Tokens of at least this probability
    #[arg(long, alias = "epsilon_cutoff", value_name = "EPS", value_parser = finite, hide_short_help = true)]
    pub epsilon_cutoff: Option<f64>,
    /// The same by the entropy: min(eps, sqrt(eps) exp(-H))
    #[arg(long, alias = "eta_cutoff", value_name = "EPS", value_parser = finite, hide_short_help = true)]
    pub eta_cutoff: Option<f64>,
    /// Logits within so many standard deviations of the largest
    #[arg(long, value_name = "N", value_parser = finite, hide_short_help = true)]
    pub top_n_sigma: Option<f64>,
    /// Tokens until their entropy reaches this share of the whole
    #[arg(long, value_name = "H", value_parser = finite, hide_short_help = true)]
    pub top_h: Option<f64>,
    /// How often the top choices are excluded
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = finite, hide_short_help = true)]
    pub xtc_probability: f64,
    /// What a top choice is
    #[arg(long, default_value_t = 0.1, value_name = "P", value_parser = finite, hide_short_help = true)]
    pub xtc_threshold: f64,
    /// The temperature varies by this much with the entropy
    #[arg(long, default_value_t = 0.0, value_name = "T", value_parser = finite, hide_short_help = true)]
    pub dynatemp_range: f64,
    /// Order of the stages: hf, llama, or a list such as typical-p,top-k,temperature
    #[arg(long, default_value = "hf", value_name = "ORDER", hide_short_help = true)]
    pub sampler_order: Order,
    /// Tokens that no stage removes
    #[arg(long, default_value_t = 1, value_name = "N", hide_short_help = true)]
    pub min_tokens_to_keep: i64,
    /// Mirostat, version 1 or 2, in place of all truncation
    #[arg(long, value_name = "V", hide_short_help = true)]
    pub mirostat: Option<u8>,
    /// Its target surprise in bits
    #[arg(long, default_value_t = 5.0, value_name = "BITS", value_parser = finite, hide_short_help = true)]
    pub mirostat_tau: f64,
    /// Its learning rate
    #[arg(long, default_value_t = 0.1, value_name = "RATE", value_parser = finite, hide_short_help = true)]
    pub mirostat_eta: f64,
    /// Divides the logits of tokens that occurred
    #[arg(long, alias = "repetition_penalty", value_name = "R", value_parser = finite, hide_short_help = true)]
    pub repetition_penalty: Option<f64>,
    /// Taken from the logit of a token for every time it occurred
    #[arg(long, default_value_t = 0.0, value_name = "F", value_parser = finite, hide_short_help = true)]
    pub frequency_penalty: f64,
    /// Taken from the logit of every token that occurred
    #[arg(long, default_value_t = 0.0, value_name = "Q", value_parser = finite, hide_short_help = true)]
    pub presence_penalty: f64,
    /// No sequence of so many tokens twice; 0 is off
    #[arg(long, alias = "no_repeat_ngram_size", value_name = "N", hide_short_help = true)]
    pub no_repeat_ngram_size: Option<usize>,
    /// Strength of DRY, the penalty of repeated sequences
    #[arg(long, default_value_t = 0.0, value_name = "M", value_parser = finite, hide_short_help = true)]
    pub dry_multiplier: f64,
    /// How DRY grows with the length
    #[arg(long, default_value_t = 1.75, value_name = "B", value_parser = finite, hide_short_help = true)]
    pub dry_base: f64,
    /// Repetitions shorter than this are free of DRY
    #[arg(long, default_value_t = 2, value_name = "N", hide_short_help = true)]
    pub dry_allowed_length: usize,
    /// Draw nothing: show what every stage of the sampler leaves of the first token after each prompt
    #[arg(long, hide_short_help = true)]
    pub explain: bool,
    /// What to do about a prompt that is too long for the model; without it that is an error
    #[arg(long, value_enum, value_name = "SIDE", hide_short_help = true)]
    pub truncate: Option<Truncate>,
    /// Also write the log-probability of every token
    #[arg(long, hide_short_help = true)]
    pub logprobs: bool,
    /// Keep the weights as 8-bit integers (language models, CPU)
    #[arg(long, hide_short_help = true)]
    pub int8: bool,
}

impl TextArgs {
    /// A flag of text that is given.
    pub fn used(&self) -> Option<&'static str> {
        let flags = [
            ("--prompt", !self.prompt.is_empty()),
            ("--prompt-file", self.prompt_file.is_some()),
            ("--typical-p", self.typical_p.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    /// The flags that say how tokens are drawn, with their values, where they are given.
    pub fn sampling(&self, sound: &super::SoundArgs) -> Vec<(&'static str, String)> {
        let some = |v: Option<f64>| v.map(|v| v.to_string());
        let unless = |v: f64, neutral: f64| (v != neutral).then(|| v.to_string());
        let order = (self.sampler_order != Order::Hf).then(|| String::from(self.sampler_order.clone()));
        let flags = [
            ("--temperature", unless(sound.temperature, 1.0)),
            ("--top-p", unless(sound.top_p, 1.0)),
            ("--top-k", self.top_k.map(|k| k.to_string())),
            ("--typical-p", some(self.typical_p)),
            ("--min-p", some(self.min_p)),
            ("--epsilon-cutoff", some(self.epsilon_cutoff)),
            ("--eta-cutoff", some(self.eta_cutoff)),
            ("--top-n-sigma", some(self.top_n_sigma)),
            ("--top-h", some(self.top_h)),
            ("--xtc-probability", unless(self.xtc_probability, 0.0)),
            ("--dynatemp-range", unless(self.dynatemp_range, 0.0)),
            ("--mirostat", self.mirostat.map(|v| v.to_string())),
            ("--sampler-order", order),
        ];
        flags.into_iter().filter_map(|(flag, value)| Some((flag, value?))).collect()
    }

    /// The sampler: the flags over what the model's folder says.
    ///
    /// # Errors
    /// Where values are out of range or exclude each other.
    pub fn sampler(&self, own: &Generation, sound: &super::SoundArgs) -> Result<SamplerSpec> {
        let said = own.do_sample.unwrap_or(true);
        let temperature = if sound.temperature == 1.0 { own.temperature } else { None };
        let spec = SamplerSpec {
            greedy: sound.greedy || (!said && self.sampling(sound).is_empty()),
            temperature: temperature.unwrap_or(sound.temperature),
            dynatemp_range: self.dynatemp_range,
            top_k: self.top_k.or(own.top_k).unwrap_or(0),
            top_p: if sound.top_p == 1.0 { own.top_p.unwrap_or(1.0) } else { sound.top_p },
            min_p: self.min_p.or(own.min_p).unwrap_or(0.0),
            typical_p: self.typical_p.or(own.typical_p).unwrap_or(1.0),
            epsilon_cutoff: self.epsilon_cutoff.or(own.epsilon_cutoff).unwrap_or(0.0),
            eta_cutoff: self.eta_cutoff.or(own.eta_cutoff).unwrap_or(0.0),
            top_n_sigma: self.top_n_sigma,
            top_h: self.top_h,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            min_tokens_to_keep: self.min_tokens_to_keep,
            order: self.sampler_order.clone(),
            ..SamplerSpec::default()
        };
        let stages = spec.chain()?;
        let truncates = |stage: &&crate::decode::Stage| stage.name() != "temperature";
        if let (Some(_), Some(stage)) = (self.mirostat, stages.iter().find(truncates)) {
            return Err(Error::usage(format!("mirostat stands in place of {}", stage.name()))
                .at("--mirostat")
                .hint("leave all other truncation out; only the temperature stays"));
        }
        Ok(spec)
    }

    /// The penalties, checked.
    ///
    /// # Errors
    /// Where a value is out of range.
    pub fn penalties(&self, own: &Generation) -> Result<Penalties> {
        let ngram = own.no_repeat_ngram_size.and_then(|n| usize::try_from(n).ok());
        let penalties = Penalties {
            repetition_penalty: self.repetition_penalty.or(own.repetition_penalty).unwrap_or(1.0),
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            no_repeat_ngram_size: self.no_repeat_ngram_size.or(ngram).unwrap_or(0),
            dry_multiplier: self.dry_multiplier,
            dry_base: self.dry_base,
            dry_allowed_length: self.dry_allowed_length,
            ..Penalties::default()
        };
        penalties.check()?;
        Ok(penalties)
    }

    /// Mirostat, if asked for.
    ///
    /// # Errors
    /// Where a value is out of range.
    pub fn mirostat(&self) -> Result<Option<Mirostat>> {
        self.mirostat.map(|v| Mirostat::new(v, self.mirostat_tau, self.mirostat_eta)).transpose()
    }
}

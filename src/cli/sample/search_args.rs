//! Flags of texts that are searched rather than drawn, and of drafts.

use std::path::PathBuf;

use clap::Args;

use super::{SoundArgs, TextArgs};
use crate::cli::values::{finite, positive};
use crate::decode::{Beams, Contrastive, EarlyStopping};
use crate::error::{Error, Result};
use crate::model::language::Generation;

/// Tokens that a draft proposes unless told otherwise.
const AHEAD: usize = 4;

/// Search.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Text")]
pub struct SearchArgs {
    /// Beam search with so many beams; 1 is off (language models)
    #[arg(long, alias = "num_beams", value_name = "N", value_parser = positive)]
    pub num_beams: Option<usize>,
    /// Exponent of the length in a beam's score: above 0 for longer texts [default: 1]
    #[arg(long, alias = "length_penalty", value_name = "E", value_parser = finite, hide_short_help = true, allow_hyphen_values = true)]
    pub length_penalty: Option<f64>,
    /// When as many texts as beams are finished: stop (true), stop where no running one is better now (false), or could
    /// become better (never) [default: false]
    #[arg(long, alias = "early_stopping", value_enum, value_name = "WHEN", hide_short_help = true)]
    pub early_stopping: Option<EarlyStopping>,
    /// How many of the best beams are written [default: 1]
    #[arg(long, alias = "num_return_sequences", value_name = "N", value_parser = positive, hide_short_help = true)]
    pub num_return: Option<usize>,
    /// Contrastive search among the --top-k likeliest tokens: weight of their unlikeness to what was said
    #[arg(long, alias = "penalty_alpha", value_name = "ALPHA", value_parser = finite, hide_short_help = true, allow_hyphen_values = true)]
    pub penalty_alpha: Option<f64>,
    /// A smaller model of the same vocabulary that proposes tokens; what is drawn has the distribution of --model
    #[arg(long, alias = "assistant_model", value_name = "PATH")]
    pub draft_model: Option<PathBuf>,
    /// How many it proposes at a time [default: 4]
    #[arg(long, value_name = "N", value_parser = positive, requires = "draft_model", hide_short_help = true)]
    pub draft_tokens: Option<usize>,
}

/// How texts are continued.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// Token by token.
    Draw,
    /// By the best beams, so many of them.
    Beams(Beams, usize),
    /// Contrastive search.
    Contrastive(Contrastive),
    /// Token by token, with proposals of so many tokens.
    Draft(usize),
}

impl SearchArgs {
    /// A flag of search that is given.
    pub fn used(&self) -> Option<&'static str> {
        let flags = [
            ("--num-beams", self.num_beams.is_some()),
            ("--penalty-alpha", self.penalty_alpha.is_some()),
            ("--draft-model", self.draft_model.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    /// The way of continuing: the flags over what the model's folder says.
    ///
    /// # Errors
    /// Where values are out of range or exclude each other.
    pub fn way(&self, text: &TextArgs, sound: &SoundArgs, own: &Generation) -> Result<Way> {
        let drawn = text.sampling(sound);
        // The folder asks for a search where it does not ask for draws, and the user asks for neither.
        let quiet = own.do_sample != Some(true) && drawn.is_empty() && !sound.greedy && self.used().is_none();
        let folder = |n: Option<i64>| n.filter(|_| quiet).and_then(|n| usize::try_from(n).ok());
        let beams = self.num_beams.or(folder(own.num_beams)).unwrap_or(1);
        let alpha = self.penalty_alpha.or(own.penalty_alpha.filter(|a| quiet && *a > 0.0 && beams == 1));
        self.check_pairs(beams, alpha)?;
        if let Some(alpha) = alpha {
            return contrastive(alpha, text.top_k.or(own.top_k), &drawn);
        }
        if beams > 1 {
            let say = format!("--num-beams {beams}");
            if let Some((flag, value)) = drawn.first() {
                return Err(excluded("beam search draws no token", &say, flag, value));
            }
            let keep = self.num_return.unwrap_or(1);
            if keep > beams {
                return Err(Error::usage(format!("num-return must be in 1 to {beams}, got {keep}"))
                    .at("--num-return")
                    .why(format!("there are {beams} beams"))
                    .hint(format!("raise --num-beams to {keep}")));
            }
            let how = Beams {
                beams,
                length_penalty: self.length_penalty.or(own.length_penalty).unwrap_or(1.0),
                early_stopping: self.early_stopping.or(own.early_stopping).unwrap_or_default(),
            };
            return Ok(Way::Beams(how, keep));
        }
        if self.draft_model.is_none() {
            return Ok(Way::Draw);
        }
        if let Some(version) = text.mirostat {
            let what = "a draft cannot follow mirostat";
            return Err(excluded(what, "--draft-model", "--mirostat", &version.to_string()));
        }
        Ok(Way::Draft(self.draft_tokens.unwrap_or(AHEAD)))
    }

    /// Checks that the flags here go together.
    fn check_pairs(&self, beams: usize, alpha: Option<f64>) -> Result<()> {
        let of_beams = [
            ("--length-penalty", self.length_penalty.map(|v| v.to_string())),
            ("--early-stopping", self.early_stopping.map(|v| format!("{v:?}").to_lowercase())),
            ("--num-return", self.num_return.map(|v| v.to_string())),
        ];
        let mut given = of_beams.into_iter().filter_map(|(flag, value)| Some((flag, value?)));
        if let Some((flag, value)) = given.next().filter(|_| beams == 1) {
            return Err(Error::usage(format!("{flag} {value} without beams"))
                .at(flag)
                .why("it is of beam search, which needs --num-beams of 2 or more")
                .hint("give --num-beams, such as 4"));
        }
        let beams = (beams > 1).then(|| ("--num-beams", beams.to_string()));
        let alpha = alpha.map(|v| ("--penalty-alpha", v.to_string()));
        let draft = self.draft_model.as_ref().map(|v| ("--draft-model", v.display().to_string()));
        let ways: Vec<(&str, String)> = [beams, alpha, draft].into_iter().flatten().collect();
        match ways.as_slice() {
            [(first, value), (second, other), ..] => {
                Err(excluded("two ways of decoding", &format!("{first} {value}"), second, other))
            }
            _ => Ok(()),
        }
    }
}

/// That a flag with a value excludes what `with` says.
fn excluded(what: &str, with: &str, flag: &str, value: &str) -> Error {
    Error::usage(format!("{what}: {with} excludes {flag} {value}"))
        .at(flag)
        .hint(format!("leave {flag} out, or {}", with.split(' ').next().unwrap_or(with)))
}

fn contrastive(alpha: f64, top_k: Option<i64>, drawn: &[(&str, String)]) -> Result<Way> {
    if !(0.0..=1.0).contains(&alpha) {
        return Err(
            Error::usage(format!("penalty-alpha must be in [0, 1], got {alpha}")).at("--penalty-alpha")
        );
    }
    if let Some((flag, value)) = drawn.iter().find(|(flag, _)| *flag != "--top-k") {
        let with = format!("--penalty-alpha {alpha}");
        return Err(excluded("contrastive search draws no token", &with, flag, value));
    }
    match top_k {
        Some(top_k) if top_k >= 1 => Ok(Way::Contrastive(Contrastive { alpha, top_k })),
        _ => Err(Error::usage(format!("top-k must be at least 1, got {}", top_k.unwrap_or(0)))
            .at("--top-k")
            .why("contrastive search chooses among the likeliest tokens")
            .hint("give --top-k, such as 4")),
    }
}

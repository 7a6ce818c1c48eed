//! Texts continued one at a time: by search, or with a draft.

use serde_json::{Map, Value, json};
use tch::Device;

use super::search_args::Way;
use super::text::{Writer, cut};
use crate::cli::ui::Ui;
use crate::decode::{Continuation, Tally, TextSettings, search_beams, search_contrastive, speculate};
use crate::error::{Error, Result};
use crate::io::tokenizer::Tokenizer;
use crate::model::language::{self, Language, LanguageOptions};
use crate::model::open::{OpenOptions, Opened, open};
use crate::net::causal::Causal;
use crate::objective::autoregressive::causal;
use crate::torch::interrupt;

/// A text, and what else is to be said of it.
pub struct Written {
    pub text: String,
    pub done: Continuation,
    pub more: Map<String, Value>,
}

/// A model that proposes tokens.
pub enum Draft {
    Folder(Box<Language>),
    Own(Box<Opened>),
}

impl Draft {
    /// Opens the model at `path`, as the model it proposes to is opened.
    pub fn open(
        path: &std::path::Path,
        options: (LanguageOptions, OpenOptions),
        device: Device,
    ) -> Result<Self> {
        if language::is_one(path) {
            return Ok(Draft::Folder(Box::new(language::open(path, &options.0, device)?)));
        }
        Ok(Draft::Own(Box::new(open(path, &options.1, device)?)))
    }

    fn net(&self) -> Result<&dyn Causal> {
        match self {
            Draft::Folder(language) => Ok(&language.net),
            Draft::Own(opened) => causal(&*opened.net).map_err(|_| {
                Error::usage("the draft model writes no text")
                    .at("--draft-model")
                    .hint("take a language model of the same vocabulary")
            }),
        }
    }

    /// Checks that it speaks of the same tokens as `writer`, and can follow a text of `prompt + new` of them.
    pub fn check(&self, writer: &Writer<'_>, (prompt, new): (usize, usize)) -> Result<()> {
        let (own, other) = (writer.net.vocab(), self.net()?.vocab());
        let wrong = |why: String| {
            Error::model("the draft model has another vocabulary")
                .at("--draft-model")
                .why(why)
                .hint("take a smaller model of the same family")
        };
        if own != other {
            return Err(wrong(format!("it has {other} tokens, the model {own}")));
        }
        let Draft::Folder(language) = self else { return Ok(()) };
        let named = writer.language.is_none_or(|l| l.tokenizer.is_some());
        if let Some(tokenizer) = language.tokenizer.as_ref().filter(|_| named) {
            let differs = |id: &i64| tokenizer.token(*id) != writer.tokenizer.token(*id);
            if let Some(id) = (0..own).find(differs) {
                let name = |t: &Tokenizer| t.token(id).map_or("nothing".to_owned(), |t| format!("`{t}`"));
                let (theirs, ours) = (name(tokenizer), name(&writer.tokenizer));
                return Err(wrong(format!("token {id} is {theirs}, to the model it is {ours}")));
            }
        }
        language.check_length(prompt, new).map_err(|e| {
            e.at("--draft-model").hint("the draft's context counts, too: ask for fewer --max-new-tokens")
        })
    }
}

/// Continues one prompt; gives its text, or its best ones.
pub fn written(
    writer: &Writer<'_>,
    (way, draft): (Way, Option<&Draft>),
    (prompt, seed): (&[i64], u64),
    (settings, stops, live): (&TextSettings, &[String], bool),
    device: Device,
    ui: Ui,
) -> Result<(Vec<Written>, Tally)> {
    let mut tally = Tally::default();
    if let Way::Beams(how, keep) = way {
        let mut ends = |tokens: &[i64]| -> Result<bool> {
            interrupt::check("the texts of this prompt are lost")?;
            Ok(!stops.is_empty() && cut(&mut writer.tokenizer.decode(tokens, true)?, stops))
        };
        let best = search_beams(writer.net, prompt, &how, settings, device, &mut ends)?;
        let texts = best.into_iter().take(keep).enumerate().map(|(i, beam)| {
            let mut text = writer.tokenizer.decode(&beam.text.tokens, true)?;
            cut(&mut text, stops);
            let more = [("beam".to_owned(), json!(i)), ("score".to_owned(), json!(beam.score))];
            Ok(Written { text, done: beam.text, more: more.into_iter().collect() })
        });
        return Ok((texts.collect::<Result<_>>()?, tally));
    }
    let (mut stream, mut text) = (writer.tokenizer.stream(true), String::new());
    let mut watch = |token: i64| -> Result<bool> {
        interrupt::check("this text is lost")?;
        let piece = stream.push(token)?;
        text.push_str(&piece);
        if live {
            ui.bytes(piece.as_bytes())?;
        }
        Ok(cut(&mut text, stops))
    };
    let mut more = Map::new();
    let done = match (way, draft) {
        (Way::Contrastive(how), _) => {
            search_contrastive(writer.net, prompt, &how, settings, device, &mut watch)?
        }
        (Way::Draft(ahead), Some(draft)) => {
            let nets = (writer.net, draft.net()?);
            let (done, seen) = speculate(nets, (prompt, seed), ahead, settings, device, &mut watch)?;
            tally = seen;
            more = told(&seen);
            done
        }
        _ => return Err(Error::run("texts that are drawn are drawn together")),
    };
    let rest = stream.finish()?;
    text.push_str(&rest);
    if live {
        ui.bytes(rest.as_bytes())?;
        ui.bytes(b"\n")?;
    }
    cut(&mut text, stops);
    Ok((vec![Written { text, done, more }], tally))
}

/// What a tally says, for a JSON object.
pub fn told(tally: &Tally) -> Map<String, Value> {
    let pairs = [
        ("model_passes", json!(tally.rounds)),
        ("drafted", json!(tally.drafted)),
        ("accepted", json!(tally.accepted)),
        ("accepted_share", json!(tally.share())),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

//! Chat templates: how a conversation becomes the text that a model was trained on.
//!
//! Templates are Jinja, rendered as transformers does: `trim_blocks` and `lstrip_blocks`, methods of Python's strings,
//! lists and dicts, `raise_exception`, JSON as Python writes it. `strftime_now` is not defined, so templates that ask
//! for the date fall back to the one they hold: the same conversation gives the same text on every day.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Value as Jinja, context};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::error::{Error, Kind, Result};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it: `system`, `user`, `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// A chat template with the special tokens it may name.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatTemplate {
    source: String,
    tokens: Vec<(String, String)>,
    place: String,
}

/// Special tokens of `tokenizer_config.json` that templates use.
const TOKENS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

impl ChatTemplate {
    /// The template of a model folder: `chat_template.jinja`, or the key of `tokenizer_config.json` (of a list, the
    /// one named `default`). Nothing where there is none.
    ///
    /// # Errors
    /// A model error where a file cannot be read.
    pub fn of_folder(folder: &Path, config: &Value) -> Result<Option<Self>> {
        let own = folder.join("chat_template.jinja");
        let (source, place) = if own.exists() {
            let text =
                std::fs::read_to_string(&own).map_err(|e| Error::read(&own, &e).kinded(Kind::Model))?;
            (Some(text), own)
        } else {
            let text = match &config["chat_template"] {
                Value::Array(list) => list.iter().find(|t| t["name"] == "default").map(|t| &t["template"]),
                one => Some(one),
            };
            let place = folder.join("tokenizer_config.json");
            (text.and_then(Value::as_str).map(str::to_owned), place)
        };
        Ok(source.map(|source| Self::new(&source, config, &place.display().to_string())))
    }

    /// The template `source` with the special tokens of a `tokenizer_config.json`; `place` names it in errors.
    #[must_use]
    pub fn new(source: &str, config: &Value, place: &str) -> Self {
        let text = |key: &str| {
            let value = &config[key];
            value.as_str().or_else(|| value["content"].as_str()).map(|t| (key.to_owned(), t.to_owned()))
        };
        let tokens = TOKENS.iter().filter_map(|key| text(key)).collect();
        ChatTemplate { source: without_marks(source), tokens, place: place.to_owned() }
    }

    /// The text of `messages`; with `reply`, followed by what opens the assistant's turn.
    ///
    /// # Errors
    /// A usage error where the template refuses the conversation, a model error where it is wrong itself.
    pub fn render(&self, messages: &[Message], reply: bool) -> Result<String> {
        let mut env = Environment::new();
        if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
            env.set_syntax(syntax);
        }
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", |why: String| -> std::result::Result<String, minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, format!("{REFUSED}{why}")))
        });
        env.add_filter("tojson", to_json);
        let wrong = |e: &minijinja::Error| {
            let text = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
            match text.split_once(REFUSED) {
                Some((_, why)) => {
                    Error::usage("the chat template refuses the conversation").why(why.to_owned())
                }
                None => Error::model("the chat template cannot be rendered")
                    .why(format!("{text}, line {}", e.line().unwrap_or(0)))
                    .hint("give the whole text as the prompt instead of a conversation"),
            }
            .at(&self.place)
        };
        let template = env.template_from_str(&self.source).map_err(|e| wrong(&e))?;
        let tokens = Jinja::from_pairs(self.tokens.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let values =
            context! { messages => Jinja::from(Serde(messages)), add_generation_prompt => reply, ..tokens };
        template.render(values).map_err(|e| wrong(&e))
    }
}

/// What marks a refusal among other errors.
const REFUSED: &str = "raise_exception: ";

/// transformers' `{% generation %}` blocks mark the assistant's words for training; they change nothing in the text.
fn without_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}") else { break };
        let tag = &rest[start..start + len + 2];
        let word = tag[2..tag.len() - 2].trim_matches('-').trim();
        out.push_str(&rest[..start]);
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[start + len + 2..];
    }
    out + rest
}

/// JSON with the separators of Python's `json.dumps`.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

fn to_json(value: &Jinja, options: Kwargs) -> std::result::Result<Jinja, minijinja::Error> {
    let failed = |e: &dyn std::fmt::Display| {
        minijinja::Error::new(minijinja::ErrorKind::BadSerialization, e.to_string())
    };
    let mut out = Vec::new();
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    match indent {
        Some(n) => {
            let indent = vec![b' '; n];
            let format = PrettyFormatter::with_indent(&indent);
            value.serialize(&mut Serializer::with_formatter(&mut out, format)).map_err(|e| failed(&e))?;
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Python)).map_err(|e| failed(&e))?,
    }
    String::from_utf8(out).map(Jinja::from).map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn say(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    fn render(source: &str) -> Result<String> {
        let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
        ChatTemplate::new(source, &config, "here")
            .render(&[say("user", " a<b "), say("assistant", "c")], true)
    }

    #[test]
    fn python_and_jinja_are_understood() {
        let source = "{{ bos_token }}\n{%- for m in messages %}\n  {% generation %}\n[{{ m.role.upper() }}]\
                      {{ m['content'].strip() }}{{ eos_token }}{% endgeneration %}\n{% endfor %}\
                      {% if add_generation_prompt %}>{% endif %}";
        assert_eq!(render(source).unwrap(), "<s>[USER]a<b</s>[ASSISTANT]c</s>>");
        assert_eq!(
            render("{{ messages[0] | tojson }}{{ 'y' if strftime_now is defined else 'n' }}").unwrap(),
            r#"{"role": "user", "content": " a<b "}n"#
        );
    }

    #[test]
    fn refusals_and_faults_differ() {
        let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert_eq!(error.kind().exit_code(), 2);
        assert!(error.to_string().ends_with("(here): roles must alternate"), "{error}");
        for source in ["{% for %}", "{{ messages.no_such() }}"] {
            assert_eq!(render(source).unwrap_err().kind().exit_code(), 4, "{source}");
        }
    }

    #[test]
    fn a_folder_may_hold_several() {
        let dir = tempfile::tempdir().unwrap();
        let read = |config: &Value| ChatTemplate::of_folder(dir.path(), config).unwrap();
        assert_eq!(read(&Value::Null), None);
        let list = json!({"chat_template": [{"name": "tool_use", "template": "x"},
            {"name": "default", "template": "y"}]});
        assert_eq!(read(&list).unwrap().source, "y");
        std::fs::write(dir.path().join("chat_template.jinja"), "z").unwrap();
        assert_eq!(read(&list).unwrap().source, "z");
    }
}

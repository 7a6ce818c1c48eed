//! What a tokenizer says of a recipe.

use std::path::Path;

use toml::{Table, Value};

use super::tidy;
use crate::error::{Error, Result};
use crate::io::tokenizer::Tokenizer;

/// The value of `data.text.tokenizer`.
fn tokenizer(table: &mut Table) -> Option<&mut String> {
    match table.get_mut("data")?.get_mut("text")?.get_mut("tokenizer")? {
        Value::String(path) => Some(path),
        _ => None,
    }
}

/// Makes a relative path of the tokenizer one that begins at `folder`, where the recipe is.
pub fn place(table: &mut Table, folder: Option<&Path>) {
    if let (Some(path), Some(folder)) = (tokenizer(table), folder)
        && Path::new(path.as_str()).is_relative()
    {
        *path = tidy(&folder.join(path.as_str())).to_string_lossy().into_owned();
    }
}

/// Takes `model.vocab` of a language model from its tokenizer, where the recipe does not say it.
///
/// # Errors
/// Where the tokenizer cannot be read, or has more tokens than the recipe says.
pub fn vocab(table: &mut Table, place: &str) -> Result<()> {
    let Some(path) = tokenizer(table).map(|path| path.clone()) else { return Ok(()) };
    let Some(Value::Table(model)) = table.get_mut("model") else { return Ok(()) };
    if model.get("type").and_then(Value::as_str) != Some("lm") {
        return Ok(());
    }
    let size = Tokenizer::at(Path::new(&path))?.size();
    match model.get("vocab").and_then(Value::as_integer) {
        Some(vocab) if vocab < size => Err(Error::usage(format!("`model.vocab` is {vocab}"))
            .at(place)
            .why(format!("the tokenizer {path} has {size} tokens"))
            .hint("leave model.vocab out: it is that of the tokenizer")),
        _ => {
            model.entry("vocab").or_insert(Value::Integer(size));
            Ok(())
        }
    }
}

//! The tokens of a run on text: they must be those of the network, and the run keeps its tokenizer.

use super::folder::RunFolder;
use crate::data::feed::Source;
use crate::error::{Error, Result};
use crate::io::atomic;
use crate::net::Network;

/// Checks that `net` has the tokens of `data`, and writes the tokenizer into the run folder; gives its content.
///
/// # Errors
/// A usage error where the network has too few tokens, or the run was begun with another tokenizer.
pub fn keep(folder: &RunFolder, data: &Source, net: &dyn Network) -> Result<Option<String>> {
    let Source::Text(text) = data else { return Ok(None) };
    if let Some(causal) = net.causal()
        && causal.vocab() < text.vocab()
    {
        let whose = if text.tokenizer().is_bytes() { "the bytes of the text" } else { "the tokenizer" };
        return Err(Error::usage(format!("the network has {} tokens", causal.vocab()))
            .at("model.vocab")
            .why(format!("{whose} need {}", text.vocab()))
            .hint(format!("set model.vocab = {}", text.vocab())));
    }
    let Some(json) = text.tokenizer().to_json()? else { return Ok(None) };
    let path = folder.tokenizer();
    match std::fs::read_to_string(&path) {
        Ok(begun) if begun != json => Err(Error::usage("the run was begun with another tokenizer")
            .at(path.display())
            .why("the tokens it has learned would mean something else")
            .hint("train into another folder, or give the tokenizer it was begun with")),
        Ok(_) => Ok(Some(json)),
        Err(_) => {
            atomic::write_bytes(&path, json.as_bytes())?;
            Ok(Some(json))
        }
    }
}

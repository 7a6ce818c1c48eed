//! From a TOML file and `--set` overrides to typed settings.
//!
//! Every table is read on its own, so that an error can name the whole key (`optim.learning_rate`) and
//! the nearest right one.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::error::{Error, Result};

/// Reads the TOML file at `path`.
///
/// # Errors
/// Where the file cannot be read or is not TOML; the error names the line.
pub fn read_table(path: &Path) -> Result<Table> {
    let text =
        std::fs::read_to_string(path).map_err(|e| Error::read(path, &e).kinded(crate::error::Kind::Usage))?;
    parse_table(&text, &path.display().to_string())
}

/// Parses TOML text; `place` names it in errors.
///
/// # Errors
/// Where it is not TOML.
pub fn parse_table(text: &str, place: &str) -> Result<Table> {
    text.parse::<Table>().map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
        let place = line.map_or_else(|| place.to_owned(), |line| format!("{place}:{line}"));
        let why = error.message().lines().next().unwrap_or("syntax error").to_owned();
        Error::usage("cannot read the recipe")
            .at(place)
            .why(why)
            .hint("a recipe is TOML; see models/ for some")
    })
}

/// How `--set` is written.
const SET: &str = "write --set key=value, such as --set optim.lr=1e-4";

/// Sets `key=value` (`optim.lr=1e-4`) in the table. The value is TOML; what is not is taken as a string.
///
/// # Errors
/// Where the text is not `key=value`, or the key leads through something that is not a table.
pub fn set(table: &mut Table, assignment: &str) -> Result<()> {
    let place = format!("--set {assignment}");
    let (key, text) =
        assignment.split_once('=').ok_or_else(|| Error::usage("not an assignment").at(&place).hint(SET))?;
    let text = text.trim();
    let value = format!("v = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts
        .pop()
        .filter(|last| !last.is_empty())
        .ok_or_else(|| Error::usage("no key").at(&place).hint(SET))?;
    let mut here = table;
    for part in parts {
        let next = here.entry(part).or_insert_with(|| Value::Table(Table::new()));
        here = next
            .as_table_mut()
            .ok_or_else(|| Error::usage(format!("`{part}` is not a table")).at(&place).hint(SET))?;
    }
    here.insert(last.to_owned(), value);
    Ok(())
}

/// Reads one table of a recipe into its type; an absent table is an empty one.
///
/// # Errors
/// Where a key is unknown, missing or of the wrong type; the error names it, and the nearest key there is.
pub fn take<T: DeserializeOwned>(recipe: &mut Table, name: &str, place: &str) -> Result<T> {
    let value = recipe.remove(name).unwrap_or_else(|| Value::Table(Table::new()));
    value.clone().try_into::<T>().map_err(|error| {
        let message = error.message();
        let key =
            culprit::<T>(&value, message).map_or_else(|| name.to_owned(), |key| format!("{name}.{key}"));
        explain(message, name, &key, place)
    })
}

/// The key whose value is behind the error `message`: without it, reading the table fails otherwise or not at
/// all. (serde does not say which key that is within tagged enums.)
fn culprit<T: DeserializeOwned>(value: &Value, message: &str) -> Option<String> {
    let mut found: Vec<String> = leaves(value, "")
        .into_iter()
        .filter(|key| {
            let mut without = value.clone();
            remove(&mut without, key);
            without.try_into::<T>().err().is_none_or(|error| error.message() != message)
        })
        .collect();
    // Without its tag a table cannot be read at all, so another key is the likelier one.
    found.sort_by_key(|key| matches!(key.rsplit('.').next(), Some("type" | "name")));
    found.into_iter().next()
}

fn leaves(value: &Value, prefix: &str) -> Vec<String> {
    match value {
        Value::Table(table) => table
            .iter()
            .flat_map(|(key, value)| {
                let dot = if prefix.is_empty() { "" } else { "." };
                leaves(value, &format!("{prefix}{dot}{key}"))
            })
            .collect(),
        _ => vec![prefix.to_owned()],
    }
}

fn remove(value: &mut Value, key: &str) {
    let mut here = value;
    let (path, last) = key.rsplit_once('.').unwrap_or(("", key));
    for part in path.split('.').filter(|part| !part.is_empty()) {
        match here.get_mut(part) {
            Some(next) => here = next,
            None => return,
        }
    }
    if let Some(table) = here.as_table_mut() {
        table.remove(last);
    }
}

/// Fails if tables are left that nobody reads.
///
/// # Errors
/// Where there are.
pub fn finish(recipe: &Table, known: &[&str], place: &str) -> Result<()> {
    match recipe.keys().next() {
        None => Ok(()),
        Some(key) => Err(unknown(key, known, "", place)),
    }
}

/// serde's message in our words; `key` is the key it is about.
fn explain(message: &str, table: &str, key: &str, place: &str) -> Error {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown field") && !quoted.is_empty() {
        let prefix = key.strip_suffix(quoted[0]).filter(|rest| rest.ends_with('.'));
        return unknown(quoted[0], &quoted[1..], prefix.unwrap_or(&format!("{table}.")), place);
    }
    if message.starts_with("unknown variant") && !quoted.is_empty() {
        let error = Error::usage(format!("unknown value `{}` of `{key}`", quoted[0])).at(place);
        return match nearest(quoted[0], &quoted[1..]) {
            Some(near) => error.hint(format!("did you mean `{near}`? there are {}", quoted[1..].join(", "))),
            None => error.hint(format!("there are {}", quoted[1..].join(", "))),
        };
    }
    if message.starts_with("missing field") && !quoted.is_empty() {
        return Error::usage(format!("missing key `{table}.{}`", quoted[0]))
            .at(place)
            .hint(format!("add it to the table [{table}], or give --set {table}.{}=VALUE", quoted[0]));
    }
    Error::usage(format!("wrong value of `{key}`"))
        .at(place)
        .why(plain(message))
        .hint("`gen train RECIPE --dry-run` prints a recipe with all its values")
}

/// serde's complaint about a value without the names of Rust's types.
fn plain(message: &str) -> String {
    let message = message.trim().replace('\n', " ");
    let Some((got, want)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "))
    else {
        return message;
    };
    let want = match want {
        "f64" | "f32" => "a number",
        "u64" | "usize" | "u32" | "u8" => "a whole number from 0 up",
        "i64" | "i32" | "isize" => "a whole number",
        "a sequence" => "a list",
        "a map" => "a table",
        "a boolean" | "bool" => "true or false",
        other => other.strip_prefix("struct ").map_or(other, |_| "a table"),
    };
    let kinds = ["string ", "integer ", "floating point ", "boolean "];
    let got = kinds.iter().find_map(|kind| got.strip_prefix(kind)).unwrap_or(match got {
        "sequence" => "a list",
        "map" => "a table",
        other => other,
    });
    format!("expected {want}, got {}", got.replace('`', ""))
}

fn unknown(key: &str, known: &[&str], prefix: &str, place: &str) -> Error {
    let error = Error::usage(format!("unknown key `{prefix}{key}`")).at(place);
    match nearest(key, known) {
        Some(near) => error.hint(format!("did you mean `{prefix}{near}`?")),
        None => error.hint(format!("known are {}", known.join(", "))),
    }
}

/// Names that other projects give to our keys.
const SYNONYMS: &[(&str, &str)] = &[
    ("learning_rate", "lr"),
    ("batch_size", "batch"),
    ("max_steps", "steps"),
    ("num_steps", "steps"),
    ("iterations", "steps"),
    ("grad_accum_steps", "accumulate"),
    ("gradient_accumulation_steps", "accumulate"),
    ("mixed_precision", "precision"),
    ("lr_warmup_steps", "warmup"),
    ("warmup_steps", "warmup"),
    ("grad_clip", "clip"),
    ("max_grad_norm", "clip"),
    ("optimizer", "optim"),
];

/// The known name that `key` most likely stands for.
#[must_use]
pub fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    if let Some((_, ours)) = SYNONYMS.iter().find(|(theirs, _)| *theirs == key)
        && let Some(found) = known.iter().find(|name| *name == ours)
    {
        return Some(found);
    }
    let close = known.iter().map(|name| (distance(key, name), *name)).min()?;
    (close.0 <= key.len().max(close.1.len()) / 2).then_some(close.1)
}

/// Edits between two words; two letters in the wrong order are one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut d = vec![vec![0; b.len() + 1]; a.len() + 1];
    d[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        d[i][0] = i;
        for j in 1..=b.len() {
            let same = a[i - 1] == b[j - 1];
            d[i][j] = (d[i - 1][j - 1] + usize::from(!same)).min(d[i][j - 1] + 1).min(d[i - 1][j] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                d[i][j] = d[i][j].min(d[i - 2][j - 2] + 1);
            }
        }
    }
    d[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Optim {
        lr: f64,
        #[serde(default)]
        betas: Vec<f64>,
    }

    fn read(text: &str) -> Result<Optim> {
        take(&mut parse_table(text, "r.toml").unwrap(), "optim", "r.toml")
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        let error = read("[optim]\nlearning_rate = 1.0").unwrap_err();
        assert_eq!(error.to_string(), "unknown key `optim.learning_rate` (r.toml)");
        assert_eq!(error.hint_text(), Some("did you mean `optim.lr`?"));
        let error = read("[optim]\nbeta = 1.0").unwrap_err();
        assert_eq!(error.hint_text(), Some("did you mean `optim.betas`?"));
    }

    #[test]
    fn missing_and_mistyped_keys_are_named() {
        assert_eq!(read("[optim]").unwrap_err().to_string(), "missing key `optim.lr` (r.toml)");
        let error = read("[optim]\nlr = \"x\"").unwrap_err();
        assert_eq!(error.to_string(), "wrong value of `optim.lr` (r.toml): expected a number, got \"x\"");
        let error = parse_table("[optim]\nlr = = 3", "r.toml").unwrap_err();
        assert!(error.to_string().starts_with("cannot read the recipe (r.toml:2)"), "{error}");
    }

    #[test]
    fn overrides_reach_any_depth_and_any_type() {
        let mut table = parse_table("[a]\nb = 1", "r").unwrap();
        for text in ["a.b=2", "a.c.d=[1, 2]", "a.e=500Ki img", "f=true"] {
            set(&mut table, text).unwrap();
        }
        assert_eq!(table["a"]["b"].as_integer(), Some(2));
        assert_eq!(table["a"]["c"]["d"].as_array().map(Vec::len), Some(2));
        assert_eq!(table["a"]["e"].as_str(), Some("500Ki img"));
        assert!(set(&mut table, "novalue").is_err() && set(&mut table, "f.g=1").is_err());
    }

    #[test]
    fn distances() {
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("a", "a")), (3, 2, 0));
        assert_eq!((distance("dmp", "dpm"), nearest("dmp", &["deis", "dpm", "dpm++"])), (1, Some("dpm")));
        assert_eq!(nearest("zzzzzz", &["lr", "betas"]), None);
    }
}

//! Wrong command lines in our words: one line that names the option, and a hint.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::Error;
use crate::recipe::load::nearest;

/// The error of the argument parser as one of ours. `help` is the command that explains what is accepted.
#[must_use]
pub fn explain(error: &clap::Error, help: &str) -> Error {
    let text = |kind| strings(error.get(kind)).into_iter().next();
    let argument = text(ContextKind::InvalidArg).map(|arg| option(&arg));
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let allowed = strings(error.get(ContextKind::ValidValue));
    let see = format!("`{help}` lists what is accepted");
    let near = |kind| text(kind).map(|near| format!("did you mean `{near}`?"));
    let said = match (error.kind(), argument) {
        (ErrorKind::InvalidValue, Some(place)) if value.is_empty() => {
            let error = Error::usage("no value is given").at(&place);
            if allowed.is_empty() { error } else { error.hint(format!("there are {}", allowed.join(", "))) }
        }
        (ErrorKind::InvalidValue, Some(place)) => {
            let names: Vec<&str> = allowed.iter().map(String::as_str).collect();
            let error = Error::usage(format!("unknown value `{value}`"))
                .at(&place)
                .why(format!("there are {}", allowed.join(", ")));
            let error = match from_environment(&place, &value) {
                Some(hint) => error.hint(hint),
                None => error,
            };
            let near = nearest(&value, &names).map(str::to_owned).or(text(ContextKind::SuggestedValue));
            match near {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            }
        }
        (ErrorKind::ValueValidation, Some(place)) => {
            let why = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
            let error = Error::usage(format!("wrong value `{value}`")).at(&place).why(range(&why));
            match from_environment(&place, &value) {
                Some(hint) => error.hint(hint),
                None => error,
            }
        }
        (ErrorKind::UnknownArgument, Some(argument)) if !argument.starts_with('-') => {
            Error::usage(format!("unexpected `{argument}`"))
        }
        (ErrorKind::UnknownArgument, Some(argument)) => {
            let error = Error::usage(format!("unknown option `{argument}`"));
            match near(ContextKind::SuggestedArg) {
                Some(hint) => error.hint(hint),
                None => error,
            }
        }
        (ErrorKind::InvalidSubcommand, _) => {
            let name = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let error = Error::usage(format!("unknown command `{name}`"));
            match near(ContextKind::SuggestedSubcommand) {
                Some(hint) => error.hint(hint),
                None => error.hint("`gen -h` lists the commands"),
            }
        }
        (ErrorKind::MissingRequiredArgument, _) => {
            let missing = strings(error.get(ContextKind::InvalidArg));
            Error::usage(format!("missing {}", missing.join(" and ")))
        }
        (ErrorKind::ArgumentConflict, Some(argument)) => {
            let others: Vec<String> =
                strings(error.get(ContextKind::PriorArg)).iter().map(|other| option(other)).collect();
            if others.contains(&argument) {
                Error::usage(format!("{argument} is given twice"))
            } else {
                Error::usage(format!("{argument} and {} exclude each other", others.join(", ")))
                    .hint("give one of them")
            }
        }
        _ => rendered(error),
    };
    said.hint(see)
}

/// The environment variable that `value` of `option` comes from, if it does.
fn from_environment(option: &str, value: &str) -> Option<String> {
    let name = format!("GEN_{}", option.trim_start_matches('-').replace('-', "_").to_uppercase());
    let set = std::env::var(&name).is_ok_and(|set| set.split(',').any(|part| part == value) || set == value);
    set.then(|| format!("it comes from the environment variable {name}"))
}

/// What a context holds, as strings.
fn strings(value: Option<&ContextValue>) -> Vec<String> {
    match value {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(list)) => list.clone(),
        _ => Vec::new(),
    }
}

/// `--steps <N>` as `--steps`.
fn option(argument: &str) -> String {
    argument.split(' ').next().unwrap_or(argument).trim_end_matches("...").to_owned()
}

/// `0 is not in 1..18446744073709551615` in words: an end that no number reaches is none.
fn range(why: &str) -> String {
    let read = || {
        let (_, range) = why.split_once(" is not in ")?;
        let (low, high) = range.split_once("..")?;
        let (high, open) = match high.strip_prefix('=') {
            Some(high) => (high, false),
            None => (high, true),
        };
        let endless = high.is_empty() || high.parse::<u64>().is_ok_and(|n| n >= u64::from(u32::MAX));
        let endless = endless || high == i64::MAX.to_string();
        Some(match (endless, open) {
            (true, _) => format!("it must be at least {low}"),
            (false, true) => format!("it must be from {low} to below {high}"),
            (false, false) => format!("it must be from {low} to {high}"),
        })
    };
    let why = match why {
        "invalid digit found in string" => "it is not a whole number from 0 up",
        "invalid float literal" => "it is not a number",
        other => other,
    };
    read().unwrap_or_else(|| why.to_owned())
}

/// Everything else: the parser's own text in one line.
fn rendered(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let kept: Vec<&str> = lines
        .filter(|line| !["Usage:", "For more information", "tip: "].iter().any(|p| line.starts_with(p)))
        .collect();
    Error::usage(kept.join(" ").trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_said_in_words() {
        assert_eq!(range("0 is not in 1..18446744073709551615"), "it must be at least 1");
        assert_eq!(range("0 is not in 1..=4294967295"), "it must be at least 1");
        assert_eq!(range("9 is not in 1..=4"), "it must be from 1 to 4");
        assert_eq!(range("expected i/n"), "expected i/n");
    }
}

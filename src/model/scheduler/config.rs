//! The options of a `scheduler_config.json`, read with errors that name them.

use serde_json::Value;

use crate::error::{Error, Result};

/// A configuration and where it came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Config<'a> {
    json: &'a Value,
    place: &'a str,
}

impl<'a> Config<'a> {
    /// The configuration `json` of `place`.
    ///
    /// # Errors
    /// Where it is no table of options.
    pub(super) fn new(json: &'a Value, place: &'a str) -> Result<Self> {
        if json.is_object() {
            return Ok(Config { json, place });
        }
        Err(Error::model("unreadable scheduler").at(place).why("it is no JSON object"))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key)
    }

    /// Whether the option is there at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// An error about the option `key` as it stands.
    pub(super) fn wrong(&self, key: &str, why: &str) -> Error {
        let value = self.get(key).map_or_else(|| "not given".to_owned(), ToString::to_string);
        Error::model(format!("scheduler option `{key}` is {value}")).at(self.place).why(why)
    }

    /// An option that is true or false. In Python null counts as false.
    pub(super) fn flag(&self, key: &str, usual: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(usual),
            Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(self.wrong(key, "it must be true or false")),
        }
    }

    /// A number, or none where it is null or absent.
    pub(super) fn some_number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let number = value.as_f64().filter(|number| number.is_finite());
                number.map(Some).ok_or_else(|| self.wrong(key, "it must be a number"))
            }
        }
    }

    /// A number.
    pub(super) fn number(&self, key: &str, usual: f64) -> Result<f64> {
        Ok(self.some_number(key)?.unwrap_or(usual))
    }

    /// A positive number.
    pub(super) fn positive(&self, key: &str, usual: f64) -> Result<f64> {
        let number = self.number(key, usual)?;
        if number > 0.0 { Ok(number) } else { Err(self.wrong(key, "it must be positive")) }
    }

    /// A whole number that is not negative.
    pub(super) fn whole(&self, key: &str, usual: usize) -> Result<usize> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(usual),
            Some(value) => (value.as_u64().and_then(|n| usize::try_from(n).ok()))
                .ok_or_else(|| self.wrong(key, "it must be a whole number, not below 0")),
        }
    }

    /// The number of training times.
    pub(super) fn times(&self, usual: usize) -> Result<usize> {
        let key = "num_train_timesteps";
        let times = self.whole(key, usual)?;
        let range = 2..=1_000_000;
        if range.contains(&times) { Ok(times) } else { Err(self.wrong(key, "it must be from 2 to 1000000")) }
    }

    /// A word.
    pub(super) fn word(&self, key: &str, usual: &'static str) -> Result<&'a str> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(usual),
            Some(value) => value.as_str().ok_or_else(|| self.wrong(key, "it must be text")),
        }
    }

    /// A list of numbers, or none.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => (value.as_array())
                .and_then(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>())
                .map(Some)
                .ok_or_else(|| self.wrong(key, "it must be a list of numbers")),
        }
    }

    /// One of several words, by what they stand for.
    pub(super) fn choice<T: Copy>(&self, key: &str, usual: &'static str, choices: &[(&str, T)]) -> Result<T> {
        let word = self.word(key, usual)?;
        choices.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
            self.wrong(key, &format!("known are {}", names.join(", ")))
        })
    }

    /// Refuses options that are switched on (true, a number, a word, a list with entries).
    pub(super) fn refuse(&self, keys: &[&str], why: &str) -> Result<()> {
        let on = |key: &&&str| match self.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        keys.iter().find(on).map_or(Ok(()), |key| Err(self.wrong(key, why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_options_are_named_with_their_value() {
        let json = serde_json::from_str(r#"{"steps_offset": -1, "clip_sample": "yes", "beta_schedule": 3}"#)
            .unwrap();
        let config = Config::new(&json, "s.json").unwrap();
        let error = config.whole("steps_offset", 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "scheduler option `steps_offset` is -1 (s.json): it must be a whole number, not below 0"
        );
        assert!(config.flag("clip_sample", true).is_err() && config.word("beta_schedule", "linear").is_err());
        assert!(Config::new(&Value::Null, "x").is_err());
    }
}

//! `generation_config.json`: how a model is decoded unless the user says otherwise.

use clap::ValueEnum;
use serde_json::Value;

use crate::decode::EarlyStopping;
use crate::error::{Error, Result};
use crate::net::lm::json::ids;

/// Settings of a model folder. What is absent is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generation {
    /// Tokens that end a text.
    pub eos: Vec<i64>,
    /// The token a text starts with.
    pub bos: Option<i64>,
    /// The token that stands for nothing.
    pub pad: Option<i64>,
    /// Whether tokens are drawn; else the likeliest is taken.
    pub do_sample: Option<bool>,
    /// Temperature.
    pub temperature: Option<f64>,
    /// Likeliest tokens that are kept.
    pub top_k: Option<i64>,
    /// Probability mass that is kept.
    pub top_p: Option<f64>,
    /// Least probability, relative to the likeliest token's.
    pub min_p: Option<f64>,
    /// Mass of locally typical sampling.
    pub typical_p: Option<f64>,
    /// Least probability.
    pub epsilon_cutoff: Option<f64>,
    /// Least probability, by entropy.
    pub eta_cutoff: Option<f64>,
    /// Penalty of tokens that were there already.
    pub repetition_penalty: Option<f64>,
    /// Length of runs of tokens that may not come twice.
    pub no_repeat_ngram_size: Option<i64>,
    /// Beams.
    pub num_beams: Option<i64>,
    /// Exponent of the length in a beam's score.
    pub length_penalty: Option<f64>,
    /// When a search with beams stops.
    pub early_stopping: Option<EarlyStopping>,
    /// Penalty of contrastive search.
    pub penalty_alpha: Option<f64>,
    /// Tokens that are generated at most.
    pub max_new_tokens: Option<i64>,
    /// The same with the prompt's.
    pub max_length: Option<i64>,
    /// Tokens that are generated at least.
    pub min_new_tokens: Option<i64>,
    /// Keys of the file that gen has no counterpart for, where they are neither null nor bookkeeping.
    pub unknown: Vec<String>,
}

/// Keys that say nothing of decoding.
const ASIDE: [&str; 8] = [
    "_from_model_config",
    "transformers_version",
    "use_cache",
    "return_dict_in_generate",
    "output_scores",
    "output_attentions",
    "output_hidden_states",
    "decoder_start_token_id",
];

impl Generation {
    /// The settings of `file` (the content of `generation_config.json`, or null); tokens that it does not name are
    /// those of `config` (of `config.json`).
    ///
    /// # Errors
    /// A model error where a value is not of its kind.
    pub fn read(file: &Value, config: &Value) -> Result<Self> {
        let mut out = Generation::default();
        let bad = |key: &str, value: &Value, kind: &str| {
            Error::model(format!("key `{key}`")).why(format!("{value} is not {kind}"))
        };
        for (key, value) in file.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            let number = || value.as_f64().map(Some).ok_or_else(|| bad(key, value, "a number"));
            let integer = || value.as_i64().map(Some).ok_or_else(|| bad(key, value, "an integer"));
            match key.as_str() {
                "do_sample" => {
                    out.do_sample = Some(value.as_bool().ok_or_else(|| bad(key, value, "true or false"))?);
                }
                "early_stopping" => {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    let known = EarlyStopping::from_str(&text, false);
                    out.early_stopping =
                        Some(known.map_err(|_| bad(key, value, "true, false or \"never\""))?);
                }
                "temperature" => out.temperature = number()?,
                "top_k" => out.top_k = integer()?,
                "top_p" => out.top_p = number()?,
                "min_p" => out.min_p = number()?,
                "typical_p" => out.typical_p = number()?,
                "epsilon_cutoff" => out.epsilon_cutoff = number()?,
                "eta_cutoff" => out.eta_cutoff = number()?,
                "repetition_penalty" => out.repetition_penalty = number()?,
                "no_repeat_ngram_size" => out.no_repeat_ngram_size = integer()?,
                "num_beams" => out.num_beams = integer()?,
                "length_penalty" => out.length_penalty = number()?,
                "penalty_alpha" => out.penalty_alpha = number()?,
                "max_new_tokens" => out.max_new_tokens = integer()?,
                "max_length" => out.max_length = integer()?,
                "min_new_tokens" => out.min_new_tokens = integer()?,
                "eos_token_id" | "bos_token_id" | "pad_token_id" => {
                    if ids(value).is_empty() {
                        return Err(bad(key, value, "a token"));
                    }
                }
                other if ASIDE.contains(&other) => {}
                other => out.unknown.push(other.to_owned()),
            }
        }
        let tokens = |key: &str| {
            let own = ids(&file[key]);
            if own.is_empty() { ids(&config[key]) } else { own }
        };
        out.eos = tokens("eos_token_id");
        out.bos = tokens("bos_token_id").first().copied();
        out.pad = tokens("pad_token_id").first().copied();
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_taken_and_what_is_unknown_is_named() {
        let file = json!({"do_sample": true, "temperature": 0.6, "top_k": 50, "eos_token_id": [1, 2],
            "transformers_version": "5.0", "watermarking_config": {"a": 1}, "guidance_scale": null});
        let config = json!({"eos_token_id": 7, "bos_token_id": 3});
        let read = Generation::read(&file, &config).unwrap();
        assert_eq!((read.do_sample, read.temperature, read.top_k), (Some(true), Some(0.6), Some(50)));
        assert_eq!((read.eos, read.bos, read.pad), (vec![1, 2], Some(3), None));
        assert_eq!(read.unknown, ["watermarking_config"]);
        assert_eq!(Generation::read(&Value::Null, &config).unwrap().eos, [7]);
        for file in [json!({"top_k": 0.5}), json!({"do_sample": 1}), json!({"eos_token_id": "x"})] {
            assert_eq!(Generation::read(&file, &config).unwrap_err().kind().exit_code(), 4);
        }
    }
}

//! A sampler by its settings: which stages there are, and in which order they come.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::stage::Stage;
use crate::error::{Error, Result};

/// Settings of a sampler, under the names of transformers' `generation_config.json` and llama.cpp. A stage whose
/// value is neutral is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplerSpec {
    /// Always the most probable candidate.
    pub greedy: bool,
    /// Logits are divided by it; 0 is `greedy`.
    pub temperature: f64,
    /// The temperature lies within this of `temperature`, by the entropy; 0 is off.
    pub dynatemp_range: f64,
    /// How it depends on the entropy.
    pub dynatemp_exponent: f64,
    /// Number of candidates; 0 is off.
    pub top_k: i64,
    /// Nucleus; 1 is off.
    pub top_p: f64,
    /// Share of the largest probability; 0 is off.
    pub min_p: f64,
    /// Locally typical; 1 is off.
    pub typical_p: f64,
    /// Least probability; 0 is off.
    pub epsilon_cutoff: f64,
    /// Least probability by the entropy; 0 is off.
    pub eta_cutoff: f64,
    /// Standard deviations of the logits; nothing is off.
    pub top_n_sigma: Option<f64>,
    /// Share of the entropy; nothing is off.
    pub top_h: Option<f64>,
    /// How often the top choices are excluded; 0 is off.
    pub xtc_probability: f64,
    /// What a top choice is.
    pub xtc_threshold: f64,
    /// Candidates that no stage removes.
    pub min_tokens_to_keep: i64,
    /// The order of the stages.
    pub order: Order,
}

impl Default for SamplerSpec {
    fn default() -> Self {
        SamplerSpec {
            greedy: false,
            temperature: 1.0,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            epsilon_cutoff: 0.0,
            eta_cutoff: 0.0,
            top_n_sigma: None,
            top_h: None,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            min_tokens_to_keep: 1,
            order: Order::Hf,
        }
    }
}

/// In which order stages come. The same settings in another order are another distribution.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Order {
    /// As transformers: temperature first.
    #[default]
    Hf,
    /// As llama.cpp: temperature last.
    Llama,
    /// By name; a stage that is not named keeps out.
    Custom(Vec<String>),
}

const HF: [&str; 10] =
    ["temperature", "top-n-sigma", "top-h", "top-k", "top-p", "min-p", "typical-p", "epsilon", "eta", "xtc"];
const LLAMA: [&str; 10] =
    ["top-n-sigma", "top-k", "typical-p", "top-p", "min-p", "epsilon", "eta", "top-h", "xtc", "temperature"];

impl FromStr for Order {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "hf" | "transformers" => Ok(Order::Hf),
            "llama" | "llama.cpp" => Ok(Order::Llama),
            _ => {
                let list = text.strip_prefix("custom:").unwrap_or(text);
                let names: Vec<String> = list.split(',').map(|n| n.trim().replace('_', "-")).collect();
                match names.iter().find(|n| !HF.contains(&n.as_str())) {
                    Some(name) => Err(format!(
                        "`{name}` is no stage; expected hf, llama, or a list of {}",
                        HF.join(", ")
                    )),
                    None => Ok(Order::Custom(names)),
                }
            }
        }
    }
}

impl TryFrom<String> for Order {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<Order> for String {
    fn from(order: Order) -> String {
        match order {
            Order::Hf => "hf".to_owned(),
            Order::Llama => "llama".to_owned(),
            Order::Custom(names) => names.join(","),
        }
    }
}

impl SamplerSpec {
    /// The stages, in their order.
    ///
    /// # Errors
    /// A usage error where a value is out of its range, naming the flag, the value and the range.
    pub fn chain(&self) -> Result<Vec<Stage>> {
        self.check()?;
        let names: Vec<&str> = match &self.order {
            Order::Hf => HF.to_vec(),
            Order::Llama => LLAMA.to_vec(),
            Order::Custom(names) => names.iter().map(String::as_str).collect(),
        };
        Ok(names.into_iter().filter_map(|name| self.stage(name)).collect())
    }

    /// Whether the most probable candidate is always taken.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.greedy || (self.temperature == 0.0 && self.dynatemp_range == 0.0)
    }

    /// The chain in words, for people.
    ///
    /// # Errors
    /// As [`SamplerSpec::chain`].
    pub fn describe(&self) -> Result<String> {
        if self.is_greedy() {
            return Ok("greedy".to_owned());
        }
        let stages: Vec<String> = self.chain()?.iter().map(|stage| format!("{stage:?}")).collect();
        Ok(if stages.is_empty() { "the model's own distribution".to_owned() } else { stages.join(" -> ") })
    }

    fn stage(&self, name: &str) -> Option<Stage> {
        let on = |on: bool, stage: Stage| on.then_some(stage);
        match name {
            "temperature" if self.dynatemp_range > 0.0 => Some(Stage::DynamicTemperature {
                low: (self.temperature - self.dynatemp_range).max(1e-3),
                high: self.temperature + self.dynatemp_range,
                exponent: self.dynatemp_exponent,
            }),
            "temperature" => {
                on(self.temperature != 1.0 && !self.is_greedy(), Stage::Temperature(self.temperature))
            }
            "top-k" => on(self.top_k > 0, Stage::TopK(self.top_k)),
            "top-p" => on(self.top_p < 1.0, Stage::TopP(self.top_p)),
            "min-p" => on(self.min_p > 0.0, Stage::MinP(self.min_p)),
            "typical-p" => on(self.typical_p < 1.0, Stage::Typical(self.typical_p)),
            "epsilon" => on(self.epsilon_cutoff > 0.0, Stage::Epsilon(self.epsilon_cutoff)),
            "eta" => on(self.eta_cutoff > 0.0, Stage::Eta(self.eta_cutoff)),
            "top-n-sigma" => self.top_n_sigma.map(Stage::TopNSigma),
            "top-h" => self.top_h.map(Stage::TopH),
            "xtc" => on(
                self.xtc_probability > 0.0,
                Stage::Xtc { probability: self.xtc_probability, threshold: self.xtc_threshold },
            ),
            _ => None,
        }
    }

    fn check(&self) -> Result<()> {
        let finite_at_least_0 = |v: f64| v >= 0.0 && v.is_finite();
        let share = |v: f64| v > 0.0 && v <= 1.0;
        let rows: [(&str, f64, bool, &str); 13] = [
            ("--temperature", self.temperature, finite_at_least_0(self.temperature), "at least 0"),
            ("--dynatemp-range", self.dynatemp_range, finite_at_least_0(self.dynatemp_range), "at least 0"),
            ("--top-k", self.top_k as f64, self.top_k >= 0, "at least 0"),
            ("--top-p", self.top_p, share(self.top_p), "in (0, 1]"),
            ("--min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "in [0, 1]"),
            ("--typical-p", self.typical_p, share(self.typical_p), "in (0, 1), or 1 for off"),
            ("--epsilon-cutoff", self.epsilon_cutoff, (0.0..1.0).contains(&self.epsilon_cutoff), "in [0, 1)"),
            ("--eta-cutoff", self.eta_cutoff, (0.0..1.0).contains(&self.eta_cutoff), "in [0, 1)"),
            (
                "--top-n-sigma",
                self.top_n_sigma.unwrap_or(1.0),
                self.top_n_sigma.is_none_or(|n| n > 0.0),
                "above 0",
            ),
            ("--top-h", self.top_h.unwrap_or(1.0), self.top_h.is_none_or(share), "in (0, 1]"),
            (
                "--xtc-probability",
                self.xtc_probability,
                (0.0..=1.0).contains(&self.xtc_probability),
                "in [0, 1]",
            ),
            ("--xtc-threshold", self.xtc_threshold, (0.0..=1.0).contains(&self.xtc_threshold), "in [0, 1]"),
            (
                "--min-tokens-to-keep",
                self.min_tokens_to_keep as f64,
                self.min_tokens_to_keep >= 1,
                "at least 1",
            ),
        ];
        match rows.iter().find(|(_, _, good, _)| !good) {
            Some((flag, value, _, range)) => {
                Err(Error::usage(format!("{} must be {range}, got {value}", flag.trim_start_matches('-')))
                    .at(*flag))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neutral_values_make_no_stages_and_orders_differ() {
        assert!(SamplerSpec::default().chain().unwrap().is_empty());
        let spec = SamplerSpec { temperature: 0.7, top_k: 40, typical_p: 0.2, ..SamplerSpec::default() };
        let names =
            |spec: &SamplerSpec| -> Vec<&str> { spec.chain().unwrap().iter().map(Stage::name).collect() };
        assert_eq!(names(&spec), ["temperature", "top-k", "typical-p"]);
        let llama = SamplerSpec { order: Order::Llama, ..spec.clone() };
        assert_eq!(names(&llama), ["top-k", "typical-p", "temperature"]);
        let custom = SamplerSpec { order: "typical_p,top-k".parse().unwrap(), ..spec.clone() };
        assert_eq!(names(&custom), ["typical-p", "top-k"]);
        assert!("top-k,best".parse::<Order>().unwrap_err().contains("`best` is no stage"));
        let text = serde_json::to_string(&custom).unwrap();
        assert_eq!(serde_json::from_str::<SamplerSpec>(&text).unwrap(), custom);
        assert!(SamplerSpec { temperature: 0.0, ..spec }.is_greedy());
    }

    #[test]
    fn every_range_is_checked() {
        let base = SamplerSpec::default;
        for (spec, text) in [
            (SamplerSpec { temperature: -1.0, ..base() }, "temperature must be at least 0, got -1"),
            (SamplerSpec { top_p: 1.3, ..base() }, "top-p must be in (0, 1], got 1.3"),
            (SamplerSpec { typical_p: 0.0, ..base() }, "typical-p must be in (0, 1), or 1 for off, got 0"),
            (SamplerSpec { min_p: 2.0, ..base() }, "min-p must be in [0, 1], got 2"),
            (SamplerSpec { top_k: -1, ..base() }, "top-k must be at least 0, got -1"),
            (SamplerSpec { top_n_sigma: Some(0.0), ..base() }, "top-n-sigma must be above 0"),
            (SamplerSpec { top_h: Some(2.0), ..base() }, "top-h must be"),
        ] {
            assert!(spec.chain().unwrap_err().to_string().contains(text), "{text}");
        }
    }
}

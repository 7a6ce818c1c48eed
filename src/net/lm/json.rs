//! Options of a language model in a `config.json` of transformers. Values that are left out have the defaults of its
//! configuration classes.

use serde_json::Value;

use super::config::{Feed, LmConfig, NormKind, Positions};
use super::rope::{Rope, Scaling};
use crate::error::{Error, Result};

/// The types of model that are known, by `model_type`.
pub const TYPES: [&str; 7] = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"];

/// A `config.json`, read key by key.
struct Json<'a>(&'a Value);

impl Json<'_> {
    fn bad(&self, key: &str, expected: &str) -> Error {
        Error::model(format!("config key `{key}`")).why(format!("{} is not {expected}", self.0[key]))
    }

    fn is_null(&self, key: &str) -> bool {
        self.0[key].is_null()
    }

    fn int(&self, key: &str, usual: i64) -> Result<i64> {
        if self.is_null(key) {
            return Ok(usual);
        }
        self.0[key].as_i64().ok_or_else(|| self.bad(key, "an integer"))
    }

    fn maybe_int(&self, key: &str) -> Result<Option<i64>> {
        if self.is_null(key) { Ok(None) } else { self.int(key, 0).map(Some) }
    }

    fn number(&self, key: &str, usual: f64) -> Result<f64> {
        if self.is_null(key) {
            return Ok(usual);
        }
        self.0[key].as_f64().ok_or_else(|| self.bad(key, "a number"))
    }

    fn flag(&self, key: &str, usual: bool) -> Result<bool> {
        if self.is_null(key) {
            return Ok(usual);
        }
        self.0[key].as_bool().ok_or_else(|| self.bad(key, "true or false"))
    }

    fn text<'b>(&'b self, key: &str, usual: &'b str) -> Result<&'b str> {
        if self.is_null(key) {
            return Ok(usual);
        }
        self.0[key].as_str().ok_or_else(|| self.bad(key, "a string"))
    }
}

/// The ids of a key that holds one or a list of them (`eos_token_id`).
#[must_use]
pub fn ids(value: &Value) -> Vec<i64> {
    match value {
        Value::Array(list) => list.iter().filter_map(Value::as_i64).collect(),
        one => one.as_i64().into_iter().collect(),
    }
}

/// The options in `config`.
///
/// # Errors
/// A model error for another type of model, or an option that is not understood.
pub fn read(config: &Value) -> Result<LmConfig> {
    let json = Json(config);
    let kind = json.text("model_type", "none")?;
    if !TYPES.contains(&kind) {
        return Err(Error::model(format!("model type `{kind}`"))
            .why("its network is not known")
            .hint(format!("known are {}", TYPES.join(", "))));
    }
    let read = if kind == "gpt2" { gpt2(&json)? } else { llama(&json, kind)? };
    read.check()?;
    Ok(read)
}

fn gpt2(json: &Json) -> Result<LmConfig> {
    let usual = LmConfig::default();
    if !json.flag("scale_attn_weights", true)? {
        return Err(Error::model("config key `scale_attn_weights`").why("only true is known"));
    }
    let context = json.int("n_ctx", usual.context)?;
    Ok(LmConfig {
        vocab: json.int("vocab_size", usual.vocab)?,
        context: json.int("n_positions", context)?,
        width: json.int("n_embd", usual.width)?,
        depth: json.int("n_layer", usual.depth)?,
        heads: json.int("n_head", usual.heads)?,
        hidden: json.maybe_int("n_inner")?,
        eps: json.number("layer_norm_epsilon", usual.eps)?,
        feed: feed(json.text("activation_function", "gelu_new")?, "activation_function")?,
        scale_by_block: json.flag("scale_attn_by_inverse_layer_idx", false)?,
        tied: json.flag("tie_word_embeddings", true)?,
        dropout: json.number("resid_pdrop", usual.dropout)?,
        start: json.maybe_int("bos_token_id")?,
        ..usual
    })
}

fn feed(name: &str, key: &str) -> Result<Feed> {
    Ok(match name {
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Feed::GeluTanh,
        "gelu" => Feed::Gelu,
        "relu" => Feed::Relu,
        "silu" | "swish" => Feed::Silu,
        other => {
            return Err(Error::model(format!("config key `{key}`"))
                .why(format!("activation `{other}` is not known"))
                .hint("known are gelu_new, gelu_pytorch_tanh, gelu, relu and silu"));
        }
    })
}

/// Vocabulary, width, inner width, blocks, heads, heads of keys and context of the configuration classes.
fn sizes(kind: &str) -> [i64; 7] {
    match kind {
        "mistral" => [32_000, 4096, 14_336, 32, 32, 8, 131_072],
        "qwen2" | "qwen3" => [151_936, 4096, 22_016, 32, 32, 32, 32_768],
        "gemma" => [256_000, 3072, 24_576, 28, 16, 16, 8192],
        "gemma2" => [256_000, 2304, 9216, 26, 8, 4, 8192],
        _ => [32_000, 4096, 11_008, 32, 32, 32, 2048],
    }
}

fn llama(json: &Json, kind: &str) -> Result<LmConfig> {
    let [vocab, width, hidden, depth, heads, groups, context] = sizes(kind);
    let gemma = kind.starts_with("gemma");
    let given_heads = json.int("num_attention_heads", heads)?;
    // Llama's class takes as many heads of keys as of queries where it is silent.
    let groups = if kind == "llama" { given_heads } else { groups };
    let head = match kind {
        "gemma" | "gemma2" => Some(json.int("head_dim", 256)?),
        "qwen3" => Some(json.int("head_dim", 128)?),
        _ => json.maybe_int("head_dim")?,
    };
    let bias = json.flag("attention_bias", false)?;
    let key = if kind == "gemma2" { "hidden_activation" } else { "hidden_act" };
    let activation = match json.text(key, if gemma { "gelu_pytorch_tanh" } else { "silu" })? {
        // What early Gemma files say of a network that was trained with the other form.
        "gelu" if kind == "gemma" => "gelu_pytorch_tanh",
        other => other,
    };
    let feed = match feed(activation, key)? {
        Feed::Silu => Feed::SwiGlu,
        Feed::GeluTanh => Feed::GeGluTanh,
        Feed::Gelu => Feed::GeGlu,
        _ => {
            return Err(Error::model(format!("config key `{key}`"))
                .why(format!("activation `{activation}` is not known for a gate")));
        }
    };
    let depth = json.int("num_hidden_layers", depth)?;
    let context = json.int("max_position_embeddings", context)?;
    let (window, windowed) = windows(json, kind, depth)?;
    let gemma2 = kind == "gemma2";
    let cap = |key: &str, usual: f64| -> Result<Option<f64>> {
        // A key that is there and null turns it off; one that is absent has the class's default.
        let absent = json.0.get(key).is_none();
        if !gemma2 || (json.is_null(key) && !absent) { Ok(None) } else { json.number(key, usual).map(Some) }
    };
    let scalar = if gemma2 { Some(json.number("query_pre_attn_scalar", 256.0)?) } else { None };
    Ok(LmConfig {
        vocab: json.int("vocab_size", vocab)?,
        context,
        width: json.int("hidden_size", width)?,
        depth,
        heads: given_heads,
        kv_heads: Some(json.int("num_key_value_heads", groups)?),
        head_dim: head,
        hidden: Some(json.int("intermediate_size", hidden)?),
        positions: Positions::Rotary,
        rope: rope(json, context)?,
        norm: if gemma { NormKind::RmsOffset } else { NormKind::Rms },
        eps: json.number("rms_norm_eps", 1e-6)?,
        feed,
        qkv_bias: bias || kind == "qwen2",
        out_bias: bias && kind != "qwen2",
        feed_bias: kind == "llama" && json.flag("mlp_bias", false)?,
        qk_norm: kind == "qwen3",
        post_norms: gemma2,
        scale: scalar.map(|s| s.sqrt().recip()),
        scale_by_block: false,
        softcap: cap("attn_logit_softcapping", 50.0)?,
        logit_softcap: cap("final_logit_softcapping", 30.0)?,
        window,
        windowed,
        scale_embedding: gemma,
        tied: json.flag("tie_word_embeddings", gemma)?,
        dropout: json.number("attention_dropout", 0.0)?,
        start: json.maybe_int("bos_token_id")?,
    })
}

/// The window of attention, and the blocks that have one.
fn windows(json: &Json, kind: &str, depth: i64) -> Result<(Option<i64>, Vec<i64>)> {
    let none = Ok((None, Vec::new()));
    if !matches!(kind, "mistral" | "qwen2" | "qwen3" | "gemma2") {
        return none;
    }
    // Null turns it off, which only an absent key does not.
    let absent = json.0.get("sliding_window").is_none();
    let window = if absent { Some(4096) } else { json.maybe_int("sliding_window")? };
    let Some(window) = window else { return none };
    if kind == "mistral" {
        return Ok((Some(window), Vec::new()));
    }
    if kind != "gemma2" && !json.flag("use_sliding_window", false)? {
        return none;
    }
    let blocks: Vec<i64> = match &json.0["layer_types"] {
        Value::Array(types) => {
            if i64::try_from(types.len()) != Ok(depth) {
                return Err(json.bad("layer_types", &format!("a list of {depth}")));
            }
            (0i64..).zip(types).filter(|(_, t)| **t == "sliding_attention").map(|(i, _)| i).collect()
        }
        _ if kind == "gemma2" => (0..depth).step_by(2).collect(),
        _ => (json.int("max_window_layers", 28)?..depth).collect(),
    };
    if blocks.is_empty() { none } else { Ok((Some(window), blocks)) }
}

/// Rotary positions: `rope_parameters` of newer files, `rope_theta` and `rope_scaling` of older ones.
#[allow(clippy::cast_precision_loss)]
fn rope(json: &Json, context: i64) -> Result<Rope> {
    let key = if json.is_null("rope_parameters") { "rope_scaling" } else { "rope_parameters" };
    let given = &json.0[key];
    if !given.is_null() && !given.is_object() {
        return Err(json.bad(key, "an object"));
    }
    let theta = json.number("rope_theta", 10_000.0)?;
    let inner = Json(given);
    let theta = inner.number("rope_theta", theta)?;
    if inner.number("partial_rotary_factor", json.number("partial_rotary_factor", 1.0)?)? != 1.0 {
        return Err(Error::model("config key `partial_rotary_factor`").why("only 1 is known"));
    }
    let older = inner.text("type", "default")?.to_owned();
    let kind = inner.text("rope_type", &older)?;
    let factor = || inner.number("factor", f64::NAN);
    let original = || -> Result<f64> {
        let outer = json.number("original_max_position_embeddings", context as f64)?;
        inner.number("original_max_position_embeddings", outer)
    };
    let scaling = match kind {
        "default" => Scaling::None,
        "linear" => Scaling::Linear { factor: factor()? },
        "dynamic" => Scaling::Dynamic { factor: factor()? },
        "llama3" => Scaling::Llama3 {
            factor: factor()?,
            low: inner.number("low_freq_factor", f64::NAN)?,
            high: inner.number("high_freq_factor", f64::NAN)?,
            original: original()?,
        },
        "yarn" => {
            let original = original()?;
            let factor = inner.number("factor", context as f64 / original)?;
            Scaling::Yarn {
                factor,
                beta_fast: inner.number("beta_fast", 32.0)?,
                beta_slow: inner.number("beta_slow", 1.0)?,
                original,
                attention: inner.number("attention_factor", yarn_attention(&inner, factor)?)?,
                truncate: inner.flag("truncate", true)?,
            }
        }
        other => {
            return Err(Error::model(format!("config key `{key}`"))
                .why(format!("rotary positions of type `{other}` are not known"))
                .hint("known are default, linear, dynamic, llama3 and yarn"));
        }
    };
    Ok(Rope { theta, scaling })
}

/// `0.1 ln(factor) + 1`, or the ratio of two of these.
fn yarn_attention(json: &Json, factor: f64) -> Result<f64> {
    let one = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    let (m, all) = (json.number("mscale", 0.0)?, json.number("mscale_all_dim", 0.0)?);
    Ok(if m != 0.0 && all != 0.0 { one(m) / one(all) } else { one(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_empty_config_has_the_defaults_of_its_class() {
        let read = |kind: &str| read(&json!({"model_type": kind})).unwrap();
        let gpt2 = read("gpt2");
        assert_eq!(gpt2, LmConfig::default());
        let llama = read("llama");
        assert_eq!((llama.width, llama.inner(), llama.groups(), llama.tied), (4096, 11_008, 32, false));
        assert_eq!((read("mistral").window, read("mistral").groups()), (Some(4096), 8));
        let qwen2 = read("qwen2");
        assert_eq!((qwen2.qkv_bias, qwen2.out_bias, qwen2.window), (true, false, None));
        assert!(read("qwen3").qk_norm && read("qwen3").head() == 128);
        let gemma2 = read("gemma2");
        assert_eq!((gemma2.softcap, gemma2.scale, gemma2.windowed.len()), (Some(50.0), Some(0.0625), 13));
        assert!(gemma2.tied && gemma2.scale_embedding && gemma2.feed == Feed::GeGluTanh);
    }

    #[test]
    fn rope_is_read_from_old_and_new_keys() {
        let of = |rest: Value| {
            let mut config = json!({"model_type": "llama", "max_position_embeddings": 4096});
            for (key, value) in rest.as_object().unwrap() {
                config[key] = value.clone();
            }
            read(&config).map(|c| c.rope)
        };
        let old = of(json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap();
        let new = of(json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}));
        assert_eq!((old, old.theta, old.scaling), (new.unwrap(), 5e5, Scaling::Linear { factor: 2.0 }));
        let yarn = of(json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 1024}}));
        let Scaling::Yarn { attention, original, .. } = yarn.unwrap().scaling else { panic!() };
        assert!((attention - 1.138_629_436).abs() < 1e-9 && original == 1024.0);
        for (scaling, word) in [
            (json!({"rope_type": "longrope"}), "longrope"),
            (json!({"rope_type": "linear"}), "rope"),
            (json!({"rope_type": "llama3", "factor": 8.0}), "rope"),
            (json!("linear"), "rope_scaling"),
        ] {
            let error = of(json!({"rope_scaling": scaling})).unwrap_err();
            assert!(error.to_string().contains(word) && error.kind().exit_code() == 4, "{error}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (config, word) in [
            (json!({"model_type": "bert"}), "bert"),
            (json!({}), "none"),
            (json!({"model_type": "gpt2", "n_embd": "x"}), "n_embd"),
            (json!({"model_type": "gpt2", "activation_function": "tanh"}), "tanh"),
            (json!({"model_type": "llama", "hidden_act": "relu"}), "relu"),
            (json!({"model_type": "llama", "num_key_value_heads": 5}), "kv_heads"),
            (json!({"model_type": "gemma2", "layer_types": ["full_attention"]}), "layer_types"),
        ] {
            let error = read(&config).unwrap_err();
            assert!(error.to_string().contains(word) && error.kind().exit_code() == 4, "{error}");
        }
    }

    #[test]
    fn windows_follow_the_rules_of_each_type() {
        let of = |config: Value| {
            let c = read(&config).unwrap();
            (c.window, c.windowed)
        };
        let qwen = |rest: Value| {
            let mut config = json!({"model_type": "qwen2", "num_hidden_layers": 4, "use_sliding_window": true,
                "sliding_window": 8, "max_window_layers": 2});
            for (key, value) in rest.as_object().unwrap() {
                config[key] = value.clone();
            }
            of(config)
        };
        assert_eq!(qwen(json!({})), (Some(8), vec![2, 3]));
        let types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"];
        assert_eq!(qwen(json!({"layer_types": types})), (Some(8), vec![0, 3]));
        assert_eq!(qwen(json!({"use_sliding_window": false})), (None, vec![]));
        assert_eq!(of(json!({"model_type": "mistral", "sliding_window": null})), (None, vec![]));
    }
}

//! Options of a transformer language model. The defaults are those of GPT-2 small (Radford et al. 2019).

use serde::{Deserialize, Serialize};

use super::rope::Rope;
use crate::error::{Error, Result};

/// How a token knows its position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// A learned vector for every position, added to the token's.
    #[default]
    Learned,
    /// Queries and keys are turned by angles proportional to it (Su et al. 2021).
    Rotary,
}

/// The norm of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormKind {
    /// Layer norm with weight and bias.
    #[default]
    Layer,
    /// `x / rms(x) w`.
    Rms,
    /// `x / rms(x) (1 + w)` (Gemma).
    RmsOffset,
}

/// What follows attention in a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feed {
    /// `W2 gelu(W1 x)` with the tanh form of GELU.
    #[default]
    GeluTanh,
    /// The same with GELU itself.
    Gelu,
    /// The same with ReLU.
    Relu,
    /// The same with SiLU.
    Silu,
    /// `W3 (silu(W1 x) W2 x)` (Shazeer 2020).
    SwiGlu,
    /// `W3 (gelu(W1 x) W2 x)` with the tanh form of GELU.
    GeGluTanh,
    /// The same with GELU itself.
    GeGlu,
}

impl Feed {
    /// Whether one of two products gates the other.
    #[must_use]
    pub fn gated(self) -> bool {
        matches!(self, Feed::SwiGlu | Feed::GeGluTanh | Feed::GeGlu)
    }
}

/// Options of the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LmConfig {
    /// Number of tokens.
    pub vocab: i64,
    /// Longest sequence.
    pub context: i64,
    /// Width of a token.
    pub width: i64,
    /// Blocks.
    pub depth: i64,
    /// Heads of queries.
    pub heads: i64,
    /// Heads of keys and values, which neighbouring heads of queries share (Ainslie et al. 2023); as many as of
    /// queries if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<i64>,
    /// Numbers of a head; `width / heads` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<i64>,
    /// Width inside the feed-forward part; four times `width` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<i64>,
    /// How positions enter.
    pub positions: Positions,
    /// Angles of rotary positions.
    pub rope: Rope,
    /// Norms.
    pub norm: NormKind,
    /// Added to variances.
    pub eps: f64,
    /// The feed-forward part.
    pub feed: Feed,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the projection after attention has one.
    pub out_bias: bool,
    /// Whether the feed-forward part has them.
    pub feed_bias: bool,
    /// Whether queries and keys of each head are normalised (Qwen3).
    pub qk_norm: bool,
    /// Whether what a block adds is normalised too (Gemma 2).
    pub post_norms: bool,
    /// Factor of the products of queries and keys; `head_dim^-1/2` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Whether that factor is divided by the number of the block, from 1.
    pub scale_by_block: bool,
    /// `c` of `c tanh(s / c)`, applied to those products (Gemma 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub softcap: Option<f64>,
    /// The same for the logits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_softcap: Option<f64>,
    /// Tokens that a token looks back at, itself included (Mistral).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<i64>,
    /// Blocks that have that window; all if none are named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windowed: Vec<i64>,
    /// Whether embeddings are multiplied by `width^1/2` (Gemma).
    pub scale_embedding: bool,
    /// Whether the output layer is the embedding's transpose.
    pub tied: bool,
    /// Dropout probability after the embedding, in attention and after each part of a block.
    pub dropout: f64,
    /// The token a text starts with; the last one if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<i64>,
}

impl Default for LmConfig {
    fn default() -> Self {
        LmConfig {
            vocab: 50257,
            context: 1024,
            width: 768,
            depth: 12,
            heads: 12,
            kv_heads: None,
            head_dim: None,
            hidden: None,
            positions: Positions::Learned,
            rope: Rope::default(),
            norm: NormKind::Layer,
            eps: 1e-5,
            feed: Feed::GeluTanh,
            qkv_bias: true,
            out_bias: true,
            feed_bias: true,
            qk_norm: false,
            post_norms: false,
            scale: None,
            scale_by_block: false,
            softcap: None,
            logit_softcap: None,
            window: None,
            windowed: Vec::new(),
            scale_embedding: false,
            tied: true,
            dropout: 0.1,
            start: None,
        }
    }
}

impl LmConfig {
    /// Heads of keys and values.
    #[must_use]
    pub fn groups(&self) -> i64 {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// Numbers of a head.
    #[must_use]
    pub fn head(&self) -> i64 {
        self.head_dim.unwrap_or(self.width / self.heads.max(1))
    }

    /// Width inside the feed-forward part.
    #[must_use]
    pub fn inner(&self) -> i64 {
        self.hidden.unwrap_or(4 * self.width)
    }

    /// The token a text starts with.
    #[must_use]
    pub fn start_token(&self) -> i64 {
        self.start.unwrap_or(self.vocab - 1)
    }

    /// Longest sequence that makes sense: the context, or what dynamic scaling of rotary positions makes of it.
    #[must_use]
    pub fn limit(&self) -> i64 {
        match self.positions {
            Positions::Learned => self.context,
            Positions::Rotary => self.rope.limit(self.context),
        }
    }

    /// The window of block `i`.
    #[must_use]
    pub fn window_of(&self, i: i64) -> Option<i64> {
        self.window.filter(|_| self.windowed.is_empty() || self.windowed.contains(&i))
    }

    /// Factor of the products of queries and keys in block `i`.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn scale_of(&self, i: i64) -> f64 {
        let scale = self.scale.unwrap_or_else(|| (self.head() as f64).sqrt().recip());
        if self.scale_by_block { scale / (i + 1) as f64 } else { scale }
    }

    /// Checks that the options make a network.
    ///
    /// # Errors
    /// Where they do not; the error names the option.
    pub fn check(&self) -> Result<()> {
        let bad =
            |key: &str, why: String| Err(Error::model(format!("language model option `{key}`")).why(why));
        let sizes = [
            ("vocab", self.vocab, 1 << 22),
            ("context", self.context, 1 << 24),
            ("width", self.width, 1 << 17),
            ("depth", self.depth, 1 << 12),
            ("heads", self.heads, 1 << 12),
            ("kv_heads", self.groups(), 1 << 12),
            ("head_dim", self.head(), 1 << 12),
            ("hidden", self.inner(), 1 << 19),
            ("window", self.window.unwrap_or(1), 1 << 30),
        ];
        for (key, value, most) in sizes {
            if !(1..=most).contains(&value) {
                return bad(key, format!("{value} is outside [1, {most}]"));
            }
        }
        if self.head_dim.is_none() && self.width % self.heads != 0 {
            return bad("heads", format!("{} do not divide a width of {}", self.heads, self.width));
        }
        if self.heads % self.groups() != 0 {
            return bad(
                "kv_heads",
                format!("{} heads cannot share {} of keys and values", self.heads, self.groups()),
            );
        }
        if self.head() % 2 != 0 {
            return bad("head_dim", format!("{} is not even", self.head()));
        }
        let positive = [
            ("eps", Some(self.eps)),
            ("scale", self.scale),
            ("softcap", self.softcap),
            ("logit_softcap", self.logit_softcap),
        ];
        for (key, value) in positive {
            if value.is_some_and(|v| !(v.is_finite() && v > 0.0)) {
                return bad(key, "it must be positive".to_owned());
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return bad("dropout", format!("{} is outside [0, 1)", self.dropout));
        }
        if !(0..self.vocab).contains(&self.start_token()) {
            return bad("start", format!("token {} is not among {}", self.start_token(), self.vocab));
        }
        self.rope.check(self.head())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_network_is_named() {
        let check = |edit: &dyn Fn(&mut LmConfig)| {
            let mut config = LmConfig::default();
            edit(&mut config);
            config.check().map_err(|e| e.to_string())
        };
        assert!(check(&|_| {}).is_ok());
        type Edit<'a> = &'a dyn Fn(&mut LmConfig);
        let cases: [(&str, Edit); 8] = [
            ("heads", &|c| c.heads = 5),
            ("kv_heads", &|c| c.kv_heads = Some(5)),
            ("head_dim", &|c| c.head_dim = Some(7)),
            ("vocab", &|c| c.vocab = 0),
            ("depth", &|c| c.depth = -1),
            ("dropout", &|c| c.dropout = 1.0),
            ("start", &|c| c.start = Some(50257)),
            ("softcap", &|c| c.softcap = Some(0.0)),
        ];
        for (key, edit) in cases {
            let error = check(edit).unwrap_err();
            assert!(error.contains(&format!("`{key}`")), "{error}");
        }
    }

    #[test]
    fn windows_and_scales_are_by_block() {
        let config = LmConfig {
            window: Some(8),
            windowed: vec![1],
            scale_by_block: true,
            scale: Some(1.0),
            ..LmConfig::default()
        };
        assert_eq!((config.window_of(0), config.window_of(1)), (None, Some(8)));
        assert_eq!(config.scale_of(1), 0.5);
        let all = LmConfig { window: Some(8), ..LmConfig::default() };
        assert_eq!(all.window_of(5), Some(8));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<LmConfig>(&text).unwrap(), config);
    }
}

//! Options of SaShiMi.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::net::layers::ssm::S4Config;

/// How the levels are connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wiring {
    /// Blocks on the way up only, one residual sum per level.
    #[default]
    Standard,
    /// Blocks on both ways, every layer on the way up adds the input of its mirror image.
    Unet,
}

/// The norm before every layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormKind {
    /// `s/std(x) (x - mean(x) + m)` with two numbers and no epsilon (the published training code).
    #[default]
    Scalar,
    /// Layer norm with a weight and bias per feature (the published standalone file).
    Layer,
}

/// What follows the state-space layer and its GELU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputAct {
    /// A linear map to twice the width, the first half times the sigmoid of the second.
    #[default]
    Glu,
    /// A linear map.
    Id,
}

/// Options of the network. Defaults are those of the published configuration for SC09.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SashimiConfig {
    /// Bits of a sample: the network has `2^bits` tokens.
    pub bits: u32,
    /// Width at the full rate.
    pub d_model: i64,
    /// Pairs of layers (state space, feed-forward) in a run of blocks.
    pub n_layers: i64,
    /// Factors of the pools, the full rate first.
    pub pool: Vec<i64>,
    /// Factor of the width at each pool.
    pub expand: i64,
    /// Width inside a feed-forward layer as a multiple of its own.
    pub ff: i64,
    /// How the levels are connected.
    pub wiring: Wiring,
    /// The norm before every layer.
    pub norm: NormKind,
    /// What follows the state-space layer.
    pub act: OutputAct,
    /// The maps of the pools are weight-normalised; by default in the standard wiring with the scalar norm, as in
    /// the published training code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_weight_norm: Option<bool>,
    /// Dropout probability, after GELU and on residuals.
    pub dropout: f64,
    /// The state-space layers.
    pub layer: S4Config,
}

impl Default for SashimiConfig {
    fn default() -> Self {
        SashimiConfig {
            bits: 8,
            d_model: 64,
            n_layers: 8,
            pool: vec![4, 4],
            expand: 2,
            ff: 2,
            wiring: Wiring::Standard,
            norm: NormKind::Scalar,
            act: OutputAct::Glu,
            pool_weight_norm: None,
            dropout: 0.0,
            layer: S4Config::default(),
        }
    }
}

impl SashimiConfig {
    /// The retrained U-Net for SC09 with 6.8 M parameters.
    #[must_use]
    pub fn unet() -> Self {
        SashimiConfig {
            wiring: Wiring::Unet,
            layer: S4Config { n_ssm: 0, ..S4Config::default() },
            ..Self::default()
        }
    }

    /// Number of tokens.
    #[must_use]
    pub fn vocab(&self) -> i64 {
        1 << self.bits
    }

    /// Samples per vector at the lowest rate.
    #[must_use]
    pub fn stride(&self) -> i64 {
        self.pool.iter().product()
    }

    /// Width at level `i`, 0 being the full rate.
    #[must_use]
    pub fn width(&self, i: usize) -> i64 {
        (0..i).fold(self.d_model, |h, _| h * self.expand)
    }

    /// Whether the maps of the pools are weight-normalised.
    #[must_use]
    pub fn weight_norm(&self) -> bool {
        self.pool_weight_norm.unwrap_or(self.wiring == Wiring::Standard && self.norm == NormKind::Scalar)
    }

    /// Checks that the options make a network.
    ///
    /// # Errors
    /// A model error that names the first option that does not fit.
    pub fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::model("the SaShiMi network is not defined").why(why));
        if !(1..=16).contains(&self.bits) {
            return wrong(format!("bits = {} is not from 1 to 16", self.bits));
        }
        if !(1..=1 << 14).contains(&self.d_model) || !(1..=256).contains(&self.n_layers) {
            return wrong(format!("d_model = {}, n_layers = {}", self.d_model, self.n_layers));
        }
        if self.pool.len() > 8 || self.pool.iter().any(|p| !(2..=64).contains(p)) {
            return wrong(format!("pool = {:?}", self.pool));
        }
        if !(1..=16).contains(&self.expand) || !(1..=64).contains(&self.ff) {
            return wrong(format!("expand = {}, ff = {}", self.expand, self.ff));
        }
        if self.d_model.saturating_mul(self.expand.saturating_pow(self.pool.len() as u32)) > 1 << 14 {
            return wrong(format!("its widest level would have {} features", self.width(self.pool.len())));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong(format!("dropout = {}", self.dropout));
        }
        if self.layer.bidirectional {
            return wrong("a bidirectional layer would know the future".to_owned());
        }
        self.layer.with_width(self.d_model).check()
    }
}

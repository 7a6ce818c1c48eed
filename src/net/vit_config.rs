//! Options of a vision transformer, and where to find them: `config.json` of a Hugging Face folder, or the shapes in
//! a file of facebookresearch/dinov2.

use std::collections::BTreeMap;

use serde_json::Value;
use tch::Tensor;

use crate::error::{Error, Result};

/// The activation of the layer between the two of a block's MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// Exact GELU (DINOv2).
    Gelu,
    /// `x sigmoid(1.702 x)` (CLIP).
    QuickGelu,
    /// `silu(a) b` of two halves (DINOv2's giant).
    SwiGlu,
}

/// How the table of positions is made to fit another number of patches, n instead of m. All are bicubic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PositionRule {
    /// By a scale of `(n + offset) / m`, as facebookresearch/dinov2 does with an offset of 0.1: what evaluations with
    /// DINOv2 use.
    Scale {
        /// Added to n.
        offset: f64,
    },
    /// By the sizes, as transformers does.
    Size,
    /// By the sizes, antialiased: networks with registers.
    Antialiased,
}

/// Options of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Side in pixels of the images that the table of positions is for.
    pub image: i64,
    /// Side of a patch.
    pub patch: i64,
    /// Width of a token.
    pub width: i64,
    /// Blocks.
    pub depth: i64,
    /// Attention heads.
    pub heads: i64,
    /// Width between the layers of the MLP.
    pub hidden: i64,
    /// Its activation.
    pub feed: Feed,
    /// Added to variances.
    pub eps: f64,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether branches are scaled by a learned vector.
    pub layer_scale: bool,
    /// Whether the patches' projection has a bias.
    pub patch_bias: bool,
    /// Whether tokens are normalised before the first block.
    pub pre_norm: bool,
    /// Register tokens.
    pub registers: i64,
    /// Width of the projection after the last norm.
    pub projection: Option<i64>,
    /// What is done for other numbers of patches.
    pub positions: PositionRule,
}

impl VitConfig {
    /// Patches along a side that the table of positions is for.
    #[must_use]
    pub fn side(&self) -> i64 {
        self.image / self.patch.max(1)
    }

    /// Checks that the options make a network.
    ///
    /// # Errors
    /// Where they do not.
    pub fn check(&self) -> Result<()> {
        let positive = [self.image, self.patch, self.width, self.depth, self.heads, self.hidden];
        let small =
            positive.iter().all(|&v| v > 0 && v <= 1 << 16) && (0..=1 << 10).contains(&self.registers);
        if small && self.width % self.heads == 0 && self.image % self.patch == 0 && self.eps > 0.0 {
            return Ok(());
        }
        Err(Error::model("the vision transformer is not defined").why(format!(
            "width {}, {} heads, {} blocks, images of {} in patches of {}",
            self.width, self.heads, self.depth, self.image, self.patch
        )))
    }

    /// The options in a `config.json` of transformers: model types `dinov2`, `dinov2_with_registers`, `clip`,
    /// `clip_vision_model`.
    ///
    /// # Errors
    /// A model error for another type, or an option that is missing or not understood.
    pub fn of_json(config: &Value) -> Result<Self> {
        let kind = config["model_type"].as_str().unwrap_or("none");
        match kind {
            "dinov2" | "dinov2_with_registers" => Self::dinov2(config, kind != "dinov2"),
            "clip" => {
                let wide = config["projection_dim"].as_i64().unwrap_or(512);
                Self::clip(&config["vision_config"], wide)
            }
            "clip_vision_model" => Self::clip(config, config["projection_dim"].as_i64().unwrap_or(512)),
            other => Err(Error::model(format!("model type `{other}`"))
                .why("it is no vision transformer that features are taken of")
                .hint("known are dinov2, dinov2_with_registers, clip and clip_vision_model")),
        }
    }

    fn dinov2(config: &Value, registers: bool) -> Result<Self> {
        // Values that are left out have transformers' defaults, those of DINOv2's base size.
        let int = |key: &str, default: i64| integer(config, key, default);
        let width = int("hidden_size", 768)?;
        let hidden = width * int("mlp_ratio", 4)?;
        let swiglu = config["use_swiglu_ffn"].as_bool().unwrap_or(false);
        check_activation(config, "gelu")?;
        Ok(VitConfig {
            image: int("image_size", 224)?,
            patch: int("patch_size", if registers { 16 } else { 14 })?,
            width,
            depth: int("num_hidden_layers", 12)?,
            heads: int("num_attention_heads", 12)?,
            hidden: if swiglu { (hidden * 2 / 3 + 7) / 8 * 8 } else { hidden },
            feed: if swiglu { Feed::SwiGlu } else { Feed::Gelu },
            eps: config["layer_norm_eps"].as_f64().unwrap_or(1e-6),
            qkv_bias: config["qkv_bias"].as_bool().unwrap_or(true),
            layer_scale: true,
            patch_bias: true,
            pre_norm: false,
            registers: if registers { int("num_register_tokens", 4)? } else { 0 },
            projection: None,
            positions: if registers {
                PositionRule::Antialiased
            } else {
                PositionRule::Scale { offset: 0.1 }
            },
        })
    }

    fn clip(config: &Value, projection: i64) -> Result<Self> {
        let int = |key: &str, default: i64| integer(config, key, default);
        let quick = config["hidden_act"].as_str().unwrap_or("quick_gelu") == "quick_gelu";
        if !quick {
            check_activation(config, "gelu")?;
        }
        Ok(VitConfig {
            image: int("image_size", 224)?,
            patch: int("patch_size", 32)?,
            width: int("hidden_size", 768)?,
            depth: int("num_hidden_layers", 12)?,
            heads: int("num_attention_heads", 12)?,
            hidden: int("intermediate_size", 3072)?,
            feed: if quick { Feed::QuickGelu } else { Feed::Gelu },
            eps: config["layer_norm_eps"].as_f64().unwrap_or(1e-5),
            qkv_bias: true,
            layer_scale: false,
            patch_bias: false,
            pre_norm: true,
            registers: 0,
            projection: Some(projection),
            positions: PositionRule::Size,
        })
    }

    /// The options of a file in the layout of facebookresearch/dinov2, from the shapes of its tensors. All published
    /// sizes have heads of 64.
    ///
    /// # Errors
    /// A model error where a tensor that decides is missing or of another shape.
    pub fn of_tensors(tensors: &BTreeMap<String, Tensor>) -> Result<Self> {
        let shape = |name: &str| -> Result<Vec<i64>> {
            tensors.get(name).map(Tensor::size).ok_or_else(|| {
                Error::model(format!("no tensor `{name}`"))
                    .why("a checkpoint of DINOv2 has it")
                    .hint("give a Hugging Face folder (config.json, model.safetensors) or a dinov2_vit*.pth")
            })
        };
        let bad = |name: &str, size: &[i64]| {
            Err(Error::model(format!("tensor `{name}`")).why(format!("shape {size:?}")))
        };
        let (width, patch) = match shape("patch_embed.proj.weight")?.as_slice() {
            &[width, 3, a, b] if a == b => (width, a),
            other => return bad("patch_embed.proj.weight", other),
        };
        let table = shape("pos_embed")?;
        let patches = table.get(1).copied().unwrap_or(0) - 1;
        let side = (1..=512).find(|s| s * s == patches);
        let Some(side) = side else { return bad("pos_embed", &table) };
        let number = |name: &String| name.strip_prefix("blocks.")?.split('.').next()?.parse::<i64>().ok();
        let depth = tensors.keys().filter_map(number).max().map_or(0, |top| top + 1);
        let swiglu = tensors.contains_key("blocks.0.mlp.w12.weight");
        let first = if swiglu { "blocks.0.mlp.w12.weight" } else { "blocks.0.mlp.fc1.weight" };
        let rows = shape(first)?.first().copied().unwrap_or(0);
        let registers = tensors.get("register_tokens").and_then(|t| t.size().get(1).copied()).unwrap_or(0);
        Ok(VitConfig {
            image: side * patch,
            patch,
            width,
            depth,
            heads: (width / 64).max(1),
            hidden: if swiglu { rows / 2 } else { rows },
            feed: if swiglu { Feed::SwiGlu } else { Feed::Gelu },
            eps: 1e-6,
            qkv_bias: tensors.contains_key("blocks.0.attn.qkv.bias"),
            layer_scale: tensors.contains_key("blocks.0.ls1.gamma"),
            patch_bias: true,
            pre_norm: false,
            registers,
            projection: None,
            positions: if registers > 0 {
                PositionRule::Antialiased
            } else {
                PositionRule::Scale { offset: 0.1 }
            },
        })
    }
}

/// A whole number, or a pair of equal ones.
fn integer(config: &Value, key: &str, default: i64) -> Result<i64> {
    let value = &config[key];
    let found = match value {
        Value::Null => Some(default),
        Value::Array(pair) if pair.iter().all(|v| v == &pair[0]) => pair.first().and_then(Value::as_i64),
        // Some files write 4.0 for 4.
        #[allow(clippy::cast_possible_truncation)]
        Value::Number(n) => n.as_i64().or(n.as_f64().filter(|v| v.fract() == 0.0).map(|v| v as i64)),
        _ => None,
    };
    found.ok_or_else(|| Error::model(format!("option `{key}`")).why(format!("{value} is no whole number")))
}

fn check_activation(config: &Value, known: &str) -> Result<()> {
    match config["hidden_act"].as_str() {
        None => Ok(()),
        Some(name) if name == known => Ok(()),
        Some(other) => Err(Error::model(format!("activation `{other}`")).why("it is not known here")),
    }
}

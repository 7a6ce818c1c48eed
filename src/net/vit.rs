//! Vision transformers as feature extractors: DINOv2 (Oquab et al. 2023) and the image tower of CLIP (Radford et al.
//! 2021).
//!
//! Parameters have the names of facebookresearch/dinov2 (`blocks.0.attn.qkv.weight`); those of other files are
//! mapped to them by [`super::vit_weights`].

use tch::{Kind, Tensor};

use super::layers::init::Init;
use super::layers::linear::Linear;
use super::store::Path;
use super::vit_config::{Feed, PositionRule, VitConfig};
use crate::error::{Error, Result};

/// Layer norm over the last axis.
#[derive(Debug)]
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    fn new(p: &Path, width: i64, eps: f64) -> Result<Self> {
        Ok(LayerNorm {
            weight: p.param("weight", &[width], Init::ONES)?,
            bias: p.param("bias", &[width], Init::ZEROS)?,
            eps,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)?)
    }
}

/// What follows attention in a block.
#[derive(Debug)]
struct Mlp {
    into: Linear,
    out: Linear,
    feed: Feed,
}

impl Mlp {
    fn new(p: &Path, config: &VitConfig) -> Result<Self> {
        let (width, hidden) = (config.width, config.hidden);
        let (first, second, rows) = match config.feed {
            Feed::Gelu | Feed::QuickGelu => ("fc1", "fc2", hidden),
            Feed::SwiGlu => ("w12", "w3", 2 * hidden),
        };
        Ok(Mlp {
            into: Linear::new(&(p / first), width, rows)?,
            out: Linear::new(&(p / second), hidden, width)?,
            feed: config.feed,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.into.forward(x)?;
        let x = match self.feed {
            Feed::Gelu => x.f_gelu("none")?,
            Feed::QuickGelu => x.f_mul(&x.f_mul_scalar(1.702)?.f_sigmoid_()?)?,
            Feed::SwiGlu => {
                let halves = x.f_chunk(2, -1)?;
                halves[0].f_silu()?.f_mul(&halves[1])?
            }
        };
        self.out.forward(&x)
    }
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    mlp: Mlp,
    /// LayerScale after attention and after the MLP.
    scales: Option<[Tensor; 2]>,
    heads: i64,
}

impl Block {
    fn new(p: &Path, config: &VitConfig) -> Result<Self> {
        let d = config.width;
        let scale = |name: &str| (p / name).param("gamma", &[d], Init::ONES);
        let scales = if config.layer_scale { Some([scale("ls1")?, scale("ls2")?]) } else { None };
        let bias = config.qkv_bias.then_some(Init::ZEROS);
        Ok(Block {
            norm1: LayerNorm::new(&(p / "norm1"), d, config.eps)?,
            qkv: Linear::with(&(p / "attn.qkv"), d, 3 * d, Init::KaimingUniform, bias)?,
            proj: Linear::new(&(p / "attn.proj"), d, d)?,
            norm2: LayerNorm::new(&(p / "norm2"), d, config.eps)?,
            mlp: Mlp::new(&(p / "mlp"), config)?,
            scales,
            heads: config.heads,
        })
    }

    fn attend(&self, x: &Tensor) -> Result<Tensor> {
        let (b, l, d) = x.size3()?;
        let qkv = self.qkv.forward(x)?.f_view([b, l, 3, self.heads, d / self.heads])?;
        let qkv = qkv.f_permute([2, 0, 3, 1, 4])?;
        let part = |k: i64| qkv.f_select(0, k);
        let mask = None::<Tensor>;
        let out = Tensor::f_scaled_dot_product_attention(
            &part(0)?,
            &part(1)?,
            &part(2)?,
            mask,
            0.0,
            false,
            None,
            false,
        )?;
        self.proj.forward(&out.f_transpose(1, 2)?.f_flatten(2, 3)?)
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let scaled = |y: Tensor, k: usize| -> Result<Tensor> {
            Ok(match &self.scales {
                Some(scales) => y.f_mul(&scales[k])?,
                None => y,
            })
        };
        let x = x.f_add(&scaled(self.attend(&self.norm1.forward(x)?)?, 0)?)?;
        let y = scaled(self.mlp.forward(&self.norm2.forward(&x)?)?, 1)?;
        Ok(x.f_add(&y)?)
    }
}

/// The network.
#[derive(Debug)]
pub struct Vit {
    config: VitConfig,
    patch_weight: Tensor,
    patch_bias: Option<Tensor>,
    class: Tensor,
    positions: Tensor,
    registers: Option<Tensor>,
    pre: Option<LayerNorm>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Option<Tensor>,
}

impl Vit {
    /// The network of `config` at `p`.
    ///
    /// # Errors
    /// Where the options do not make a network, or libtorch fails.
    pub fn new(p: &Path, config: &VitConfig) -> Result<Self> {
        config.check()?;
        let (d, patch, side) = (config.width, config.patch, config.side());
        let small = Init::Normal(0.02);
        let embed = p / "patch_embed.proj";
        let registers = match config.registers {
            0 => None,
            n => Some(p.param("register_tokens", &[1, n, d], small)?),
        };
        Ok(Vit {
            patch_weight: embed.param("weight", &[d, 3, patch, patch], small)?,
            patch_bias: if config.patch_bias { Some(embed.param("bias", &[d], Init::ZEROS)?) } else { None },
            class: p.param("cls_token", &[1, 1, d], small)?,
            positions: p.param("pos_embed", &[1, 1 + side * side, d], small)?,
            registers,
            pre: if config.pre_norm { Some(LayerNorm::new(&(p / "norm_pre"), d, config.eps)?) } else { None },
            blocks: (0..config.depth)
                .map(|i| Block::new(&(p / format!("blocks.{i}")), config))
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(&(p / "norm"), d, config.eps)?,
            head: config.projection.map(|out| p.param("head.weight", &[out, d], small)).transpose()?,
            config: config.clone(),
        })
    }

    /// The options it was made with.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Features `[N, d]` of images `[N, 3, H, W]`, normalised as the network was trained: the class token after the
    /// last norm, through the projection where there is one. H and W are multiples of the patch.
    ///
    /// # Errors
    /// Where the size does not fit, or libtorch fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, _, h, w) = x.size4()?;
        let patch = self.config.patch;
        if h % patch != 0 || w % patch != 0 {
            return Err(
                Error::data("images").why(format!("{w} x {h} pixels do not divide into patches of {patch}"))
            );
        }
        let tokens = x.f_conv2d(&self.patch_weight, self.patch_bias.as_ref(), patch, 0, 1, 1)?;
        let tokens = tokens.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let class = self.class.f_expand([n, 1, self.config.width], false)?;
        let mut x = Tensor::f_cat(&[class, tokens], 1)?.f_add(&self.positions(h / patch, w / patch)?)?;
        if let Some(registers) = &self.registers {
            let registers = registers.f_expand([n, self.config.registers, self.config.width], false)?;
            let (class, rest) = (x.f_narrow(1, 0, 1)?, x.f_narrow(1, 1, x.size()[1] - 1)?);
            x = Tensor::f_cat(&[class, registers, rest], 1)?;
        }
        if let Some(pre) = &self.pre {
            x = pre.forward(&x)?;
        }
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        // The norm is for each token: that of the class token is all that is looked at.
        let out = self.norm.forward(&x.f_select(1, 0)?)?;
        match &self.head {
            Some(head) => Ok(out.f_linear(head, None::<Tensor>)?),
            None => Ok(out),
        }
    }

    /// The table of positions for `h` x `w` patches, `[1, 1 + h w, d]`.
    fn positions(&self, h: i64, w: i64) -> Result<Tensor> {
        let side = self.config.side();
        if (h, w) == (side, side) {
            return Ok(self.positions.shallow_clone());
        }
        let (first, rest) = (self.positions.f_narrow(1, 0, 1)?, self.positions.f_narrow(1, 1, side * side)?);
        let grid = rest.f_view([1, side, side, self.config.width])?.f_permute([0, 3, 1, 2])?;
        let grid = grid.f_to_kind(Kind::Float)?;
        #[allow(clippy::cast_precision_loss)]
        let resized = match self.config.positions {
            PositionRule::Scale { offset } => {
                let scale = |n: i64| (n as f64 + offset) / side as f64;
                grid.f_upsample_bicubic2d([h, w], false, scale(h), scale(w))?
            }
            PositionRule::Size => grid.f_upsample_bicubic2d([h, w], false, None, None)?,
            PositionRule::Antialiased => grid.f_internal_upsample_bicubic2d_aa([h, w], false, None, None)?,
        };
        let table = resized.f_permute([0, 2, 3, 1])?.f_reshape([1, h * w, self.config.width])?;
        Ok(Tensor::f_cat(&[first, table.f_to_kind(self.positions.kind())?], 1)?)
    }
}

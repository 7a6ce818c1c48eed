//! The diffusion transformer on patches (Peebles and Xie 2023, "Scalable diffusion models with transformers"),
//! also the network of SiT (Ma et al. 2024), parameters named as in their published files.
//!
//! Blocks are modulated by time and class (adaLN-Zero): `x + g1 attn(s1 LN(x) + b1)`, then
//! `x + g2 mlp(s2 LN(x) + b2)`, with LN without parameters and s = 1 + scale.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::layers::embed::{Sinusoid, checked_class};
use super::layers::init::Init;
use super::layers::linear::Linear;
use super::layers::{attention, silu};
use super::{Cond, Mode, Network};
use crate::error::{Error, Result};
use crate::net::store::Path;

/// Options of the network. Defaults are those of DiT-S/2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DitConfig {
    /// Side of a patch.
    pub patch_size: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Width of a token.
    pub hidden_size: i64,
    /// Attention heads.
    pub num_heads: i64,
    /// Width of the MLP as a multiple of the token's.
    pub mlp_ratio: f64,
    /// Twice the channels at the output, of which the second half (a variance) is left alone.
    pub learn_sigma: bool,
    /// One more row in the class table for "no class"; guidance needs it.
    pub null_class: bool,
    /// Shift in the exponent of the frequencies of time: 0, or 1 as diffusers has it.
    pub freq_shift: f64,
    /// Added to variances in the norm before the MLP: 1e-6, or 1e-5 as diffusers' files have it.
    pub mlp_norm_eps: f64,
}

impl Default for DitConfig {
    fn default() -> Self {
        Self::small(2)
    }
}

impl DitConfig {
    fn sized(patch_size: i64, depth: i64, hidden_size: i64, num_heads: i64) -> Self {
        DitConfig {
            patch_size,
            depth,
            hidden_size,
            num_heads,
            mlp_ratio: 4.0,
            learn_sigma: true,
            null_class: true,
            freq_shift: 0.0,
            mlp_norm_eps: EPS,
        }
    }

    /// DiT-S with patches of side `patch`.
    #[must_use]
    pub fn small(patch: i64) -> Self {
        Self::sized(patch, 12, 384, 6)
    }

    /// DiT-B.
    #[must_use]
    pub fn base(patch: i64) -> Self {
        Self::sized(patch, 12, 768, 12)
    }

    /// DiT-L.
    #[must_use]
    pub fn large(patch: i64) -> Self {
        Self::sized(patch, 24, 1024, 16)
    }

    /// DiT-XL.
    #[must_use]
    pub fn xlarge(patch: i64) -> Self {
        Self::sized(patch, 28, 1152, 16)
    }

    /// Checks that the options make a network for samples of `shape`; returns its channels, and the patches
    /// along its height and width.
    fn check(&self, shape: &[i64]) -> Result<(i64, i64, i64)> {
        let wrong = |why: String| Err(Error::model("the transformer is not defined").why(why));
        let &[channels, height, width] = shape else {
            return wrong(format!("it needs images, not samples of shape {shape:?}"));
        };
        let p = self.patch_size;
        if p < 1 || height % p != 0 || width % p != 0 || height < p || width < p {
            return wrong(format!("images of {height}x{width} cannot be cut into patches of {p}x{p}"));
        }
        if self.depth < 1 || self.num_heads < 1 || self.hidden_size < 4 || self.hidden_size % 4 != 0 {
            return wrong(format!("depth {}, hidden_size {}", self.depth, self.hidden_size));
        }
        if self.hidden_size % self.num_heads != 0 {
            return wrong(format!("{} values do not divide into {} heads", self.hidden_size, self.num_heads));
        }
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio < 1e3) {
            return wrong(format!("mlp_ratio = {}", self.mlp_ratio));
        }
        Ok((channels, height / p, width / p))
    }
}

/// Added to variances in norms.
const EPS: f64 = 1e-6;
/// Values of the sinusoids of time.
const FREQUENCIES: i64 = 256;
/// First values of linear layers.
const XAVIER: Init = Init::XavierUniform(1.0);
/// First values of the embeddings of time and class.
const SMALL: Init = Init::Normal(0.02);

/// `(1 + scale) LN(x) + shift`; `x` `[B, T, D]`, `shift` and `scale` `[B, 1, D]`.
fn modulated(x: &Tensor, shift: &Tensor, scale: &Tensor, eps: f64) -> Result<Tensor> {
    let width = x.size()[2];
    let y = x.f_layer_norm([width], None::<Tensor>, None::<Tensor>, eps, false)?;
    Ok(shift.f_addcmul(&y, &scale.f_add_scalar(1.0)?)?)
}

#[derive(Debug)]
struct Block {
    qkv: Linear,
    proj: Linear,
    fc1: Linear,
    fc2: Linear,
    modulation: Linear,
    heads: i64,
    eps: f64,
}

impl Block {
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    fn new(p: &Path, config: &DitConfig) -> Result<Self> {
        let width = config.hidden_size;
        let linear =
            |name: &str, input, out| Linear::with(&(p / name), input, out, XAVIER, Some(Init::ZEROS));
        let inner = (width as f64 * config.mlp_ratio) as i64;
        let modulation = p / "adaLN_modulation.1";
        Ok(Block {
            qkv: linear("attn.qkv", width, 3 * width)?,
            proj: linear("attn.proj", width, width)?,
            fc1: linear("mlp.fc1", width, inner)?,
            fc2: linear("mlp.fc2", inner, width)?,
            modulation: Linear::with(&modulation, width, 6 * width, Init::ZEROS, Some(Init::ZEROS))?,
            heads: config.num_heads,
            eps: config.mlp_norm_eps,
        })
    }

    /// `x` `[B, T, D]`; `c` `[B, D]` is the condition after SiLU.
    fn forward(&self, x: &Tensor, c: &Tensor) -> Result<Tensor> {
        let m = self.modulation.forward(c)?.f_unsqueeze(1)?.f_chunk(6, 2)?;
        let qkv = self.qkv.forward(&modulated(x, &m[0], &m[1], EPS)?)?.f_chunk(3, 2)?;
        let a = self.proj.forward(&attention::attend(&qkv[0], &qkv[1], &qkv[2], self.heads)?)?;
        let x = x.f_addcmul(&m[2], &a)?;
        let h = self.fc1.forward(&modulated(&x, &m[3], &m[4], self.eps)?)?.f_gelu("tanh")?;
        Ok(x.f_addcmul(&m[5], &self.fc2.forward(&h)?)?)
    }
}

/// The network.
#[derive(Debug)]
pub struct Dit {
    shape: Vec<i64>,
    classes: i64,
    null_class: bool,
    patch: i64,
    /// Patches along the height and width.
    grid: (i64, i64),
    patches: (Tensor, Tensor),
    positions: Tensor,
    time: Sinusoid,
    time_0: Linear,
    time_2: Linear,
    table: Option<Tensor>,
    blocks: Vec<Block>,
    last_modulation: Linear,
    last: Linear,
    learn_sigma: bool,
}

impl Dit {
    /// The network for samples of `shape` `[C, H, W]` and `classes` classes (0 for none) at `p`.
    ///
    /// # Errors
    /// Where the options do not make a network for this shape, or libtorch fails.
    pub fn new(p: &Path, config: &DitConfig, shape: &[i64], classes: i64) -> Result<Self> {
        let (channels, rows, columns) = config.check(shape)?;
        let (width, patch) = (config.hidden_size, config.patch_size);
        let embed = p / "x_embedder.proj";
        // Drawn as the linear map it is: fan-in and fan-out of a convolution would count pixels twice.
        #[allow(clippy::cast_precision_loss)]
        let bound = (6.0 / (channels * patch * patch + width) as f64).sqrt();
        let kernel = embed.param("weight", &[width, channels, patch, patch], Init::Uniform(bound))?;
        let patches = (kernel, embed.param("bias", &[width], Init::ZEROS)?);
        let table = positions(width, rows, columns);
        let positions = p.constant("pos_embed", &[1, rows * columns, width], &table)?;
        let time = Sinusoid::new(p, FREQUENCIES, config.freq_shift, true)?;
        let t = p / "t_embedder.mlp";
        let time_0 = Linear::with(&(&t / "0"), FREQUENCIES, width, SMALL, Some(Init::ZEROS))?;
        let time_2 = Linear::with(&(&t / "2"), width, width, SMALL, Some(Init::ZEROS))?;
        let table = (classes > 0)
            .then(|| {
                let size = [classes + i64::from(config.null_class), width];
                (p / "y_embedder.embedding_table").param("weight", &size, SMALL)
            })
            .transpose()?;
        let blocks = (0..config.depth)
            .map(|i| Block::new(&(p / format!("blocks.{i}")), config))
            .collect::<Result<Vec<_>>>()?;
        let end = p / "final_layer";
        let zero = |name: &str, out| Linear::with(&(&end / name), width, out, Init::ZEROS, Some(Init::ZEROS));
        let out = if config.learn_sigma { 2 * channels } else { channels };
        Ok(Dit {
            shape: shape.to_vec(),
            classes,
            null_class: config.null_class,
            patch,
            grid: (rows, columns),
            patches,
            positions,
            time,
            time_0,
            time_2,
            table,
            blocks,
            last_modulation: zero("adaLN_modulation.1", 2 * width)?,
            last: zero("linear", patch * patch * out)?,
            learn_sigma: config.learn_sigma,
        })
    }

    /// The condition `[B, D]` after SiLU.
    fn embed(&self, t: &Tensor, cond: &Cond) -> Result<Tensor> {
        let mut c = self.time_2.forward(&silu(self.time_0.forward(&self.time.forward(t)?)?)?)?;
        let batch = t.size()[0];
        let class = checked_class(cond.class.as_ref(), self.classes, batch)?;
        if let Some(table) = &self.table {
            let none = || Tensor::f_full([batch], -1, (Kind::Int64, t.device()));
            let class = class.map_or_else(none, Ok)?;
            let absent = class.f_lt(0)?;
            let rows = if self.null_class {
                let row = Tensor::f_full_like(&class, self.classes)?;
                table.f_index_select(0, &row.f_where_self(&absent, &class)?)?
            } else {
                let rows = table.f_index_select(0, &class.f_clamp_min(0)?)?;
                rows.f_masked_fill(&absent.f_unsqueeze(1)?, 0.0)?
            };
            c = c.f_add(&rows.f_to_kind(c.kind())?)?;
        }
        silu(c)
    }
}

impl Network for Dit {
    fn forward(&self, x: &Tensor, t: &Tensor, cond: &Cond, _mode: Mode) -> Result<Tensor> {
        let size = x.size();
        if size.len() != 4 || size[1..] != self.shape[..] {
            return Err(Error::run("the transformer's input")
                .why(format!("expected samples of {:?}, got a batch of shape {size:?}", self.shape)));
        }
        let c = self.embed(t, cond)?;
        let p = [self.patch; 2];
        let (kernel, bias) = &self.patches;
        let h = x.f_conv2d(kernel, Some(bias), p, [0, 0], [1, 1], 1)?;
        let mut h = h.f_flatten(2, 3)?.f_transpose(1, 2)?.f_add(&self.positions)?;
        for block in &self.blocks {
            h = block.forward(&h, &c)?;
        }
        let m = self.last_modulation.forward(&c)?.f_unsqueeze(1)?.f_chunk(2, 2)?;
        let tokens = self.last.forward(&modulated(&h, &m[0], &m[1], EPS)?)?;
        // [B, rows, columns, p, p, out] to [B, out, rows p, columns p].
        let (rows, columns) = self.grid;
        let channels = self.shape[0] * if self.learn_sigma { 2 } else { 1 };
        let y = tokens.f_reshape([size[0], rows, columns, self.patch, self.patch, channels])?;
        let y = if self.learn_sigma { y.f_narrow(5, 0, self.shape[0])? } else { y };
        let y = y.f_permute([0, 5, 1, 3, 2, 4])?;
        Ok(y.f_reshape([size[0], self.shape[0], self.shape[1], self.shape[2]])?)
    }

    fn sample_shape(&self) -> &[i64] {
        &self.shape
    }

    fn classes(&self) -> i64 {
        self.classes
    }
}

/// The table of positions `[rows columns, width]`: in the first half of a row `[sin, cos]` of the column, in the
/// second half of the row, at frequencies `10000^(-k/(width/4))`.
#[allow(clippy::cast_precision_loss)]
fn positions(width: i64, rows: i64, columns: i64) -> Vec<f64> {
    let quarter = width / 4;
    let phase = |at: i64, k: i64| at as f64 * 10_000f64.powf(-(k as f64) / quarter as f64);
    let mut out = Vec::new();
    for row in 0..rows {
        for column in 0..columns {
            for at in [column, row] {
                out.extend((0..quarter).map(|k| phase(at, k).sin()));
                out.extend((0..quarter).map(|k| phase(at, k).cos()));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::store::Store;
    use crate::torch::shim::Generator;
    use tch::Device;

    #[test]
    fn a_fresh_transformer_is_silent_and_refuses_what_does_not_fit() {
        let _guard = tch::no_grad_guard();
        let config = DitConfig { depth: 2, hidden_size: 32, num_heads: 4, ..DitConfig::small(2) };
        let store = Store::new(Device::Cpu, Kind::Float, 1);
        let net = Dit::new(&store.root(), &config, &[4, 8, 6], 3).unwrap();
        let x = Generator::new(1).unwrap().normal(&[2, 4, 8, 6], Kind::Float).unwrap();
        let t = Tensor::from_slice(&[1.0f32, 500.0]);
        let y = net.forward(&x, &t, &Cond::default(), Mode::Eval).unwrap();
        assert_eq!((y.size(), y.abs().max().double_value(&[])), (vec![2, 4, 8, 6], 0.0));
        let other = x.narrow(3, 0, 4);
        assert!(net.forward(&other, &t, &Cond::default(), Mode::Eval).is_err());
        let odd = Store::empty(Device::Cpu, Kind::Float);
        assert!(Dit::new(&odd.root(), &config, &[4, 7, 6], 3).is_err());
        let heads = DitConfig { num_heads: 5, ..config };
        assert!(Dit::new(&odd.root(), &heads, &[4, 8, 8], 0).is_err());
    }
}

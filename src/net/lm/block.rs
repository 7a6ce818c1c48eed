//! A block of a language model: attention to the tokens before, and a feed-forward part.

use tch::{Kind, Tensor};

use super::cache::Layer;
use super::config::{Feed, LmConfig, NormKind};
use super::matrix::{Matrix, plain};
use super::rope::turn;
use crate::error::Result;
use crate::net::layers::init::Init;
use crate::net::store::Path;
use crate::torch::shim::rows::{AttendStep, rms_norm};

/// Layer norm or RMS norm over the last axis.
#[derive(Debug)]
pub(super) struct Norm {
    kind: NormKind,
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

impl Norm {
    pub fn new(p: &Path, width: i64, kind: NormKind, eps: f64) -> Result<Self> {
        let first = if kind == NormKind::RmsOffset { Init::ZEROS } else { Init::ONES };
        let weight = p.param("weight", &[width], first)?;
        let bias = if kind == NormKind::Layer { Some(p.param("bias", &[width], Init::ZEROS)?) } else { None };
        Ok(Norm { kind, weight, bias, eps })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let kind = x.kind();
        if self.kind == NormKind::Layer {
            let as_x = |t: &Tensor| t.f_to_kind(kind);
            let bias = self.bias.as_ref().map(as_x).transpose()?;
            let size = self.weight.size();
            return Ok(x.f_layer_norm(size, Some(&as_x(&self.weight)?), bias.as_ref(), self.eps, true)?);
        }
        let offset = self.kind == NormKind::RmsOffset;
        if self.weight.kind() == Kind::Float && plain(x, &[&self.weight]) {
            return rms_norm(x, &self.weight, self.eps, f64::from(u8::from(offset)));
        }
        let wide = if kind == Kind::Double { Kind::Double } else { Kind::Float };
        let y = x.f_to_kind(wide)?;
        let mean = y.f_square()?.f_mean_dim([-1i64].as_slice(), true, wide)?;
        let y = y.f_mul(&mean.f_add_scalar(self.eps)?.f_rsqrt()?)?;
        if offset {
            return Ok(y.f_mul(&self.weight.f_to_kind(wide)?.f_add_scalar(1.0)?)?.f_to_kind(kind)?);
        }
        Ok(y.f_to_kind(kind)?.f_mul(&self.weight.f_to_kind(kind)?)?)
    }
}

/// Which tokens each token sees, for queries of the last L of S tokens.
#[derive(Debug)]
pub(super) enum Sees {
    /// Itself and all before it; L = S.
    Before,
    /// All S; L = 1.
    All,
    /// Where this is true, `[B or 1, 1, L, S]`.
    Mask(Tensor),
}

/// What the blocks of one pass have in common.
#[derive(Debug)]
pub(super) struct Pass {
    /// Cosines and sines `[B or 1, 1, L, d / 2]`.
    pub rotary: Option<(Tensor, Tensor)>,
    /// What is seen without a window.
    pub full: Sees,
    /// What is seen with one.
    pub windowed: Option<Sees>,
    /// Dropout probability; 0 in inference.
    pub dropout: f64,
}

impl Pass {
    fn drop(&self, x: Tensor) -> Result<Tensor> {
        if self.dropout > 0.0 { Ok(x.f_dropout(self.dropout, true)?) } else { Ok(x) }
    }
}

/// The tables and the place of one token of every sequence.
#[derive(Debug)]
pub(super) struct OneStep<'a> {
    pub rotary: Option<(&'a Tensor, &'a Tensor)>,
    pub pads: &'a Tensor,
    pub at: i64,
}

#[derive(Debug)]
pub(super) struct Block {
    norm1: Norm,
    qkv: Matrix,
    qk_norms: Option<(Norm, Norm)>,
    out: Matrix,
    norm2: Norm,
    into: Matrix,
    down: Matrix,
    post: Option<(Norm, Norm)>,
    feed: Feed,
    heads: i64,
    groups: i64,
    dim: i64,
    scale: f64,
    softcap: Option<f64>,
    window: Option<i64>,
}

impl Block {
    pub fn new(p: &Path, c: &LmConfig, i: i64, std: f64, residual_std: f64) -> Result<Self> {
        let (d, heads, groups, dim) = (c.width, c.heads, c.groups(), c.head());
        let norm = |name: &str, width: i64| Norm::new(&(p / name), width, c.norm, c.eps);
        let attn = p / "attn";
        let qk = |name: &str| {
            let kind = if c.norm == NormKind::Layer { NormKind::Rms } else { c.norm };
            Norm::new(&(&attn / name), dim, kind, c.eps)
        };
        let into = if c.feed.gated() { 2 * c.inner() } else { c.inner() };
        Ok(Block {
            norm1: norm("norm1", d)?,
            qkv: Matrix::new(&(&attn / "qkv"), d, (heads + 2 * groups) * dim, std, c.qkv_bias)?,
            qk_norms: if c.qk_norm { Some((qk("q_norm")?, qk("k_norm")?)) } else { None },
            out: Matrix::new(&(&attn / "out"), heads * dim, d, residual_std, c.out_bias)?,
            norm2: norm("norm2", d)?,
            into: Matrix::new(&(p / "feed.in"), d, into, std, c.feed_bias)?,
            down: Matrix::new(&(p / "feed.out"), c.inner(), d, residual_std, c.feed_bias)?,
            post: if c.post_norms { Some((norm("post1", d)?, norm("post2", d)?)) } else { None },
            feed: c.feed,
            heads,
            groups,
            dim,
            scale: c.scale_of(i),
            softcap: c.softcap,
            window: c.window_of(i),
        })
    }

    pub fn matrices(&self) -> [&Matrix; 4] {
        [&self.qkv, &self.out, &self.into, &self.down]
    }

    pub fn matrices_mut(&mut self) -> [&mut Matrix; 4] {
        [&mut self.qkv, &mut self.out, &mut self.into, &mut self.down]
    }

    /// `x` `[B, L, D]` through the block; keys and values go to `kept` and those kept there are seen too.
    pub fn forward(&self, x: &Tensor, pass: &Pass, kept: Option<(&mut Layer, i64)>) -> Result<Tensor> {
        let a = self.attend(&self.qkv.forward(&self.norm1.forward(x)?)?, pass, kept)?;
        let x = self.add(x, &self.out, &a, self.post.as_ref().map(|p| &p.0), pass.dropout)?;
        let h = self.feed(&self.into.forward(&self.norm2.forward(&x)?)?)?;
        self.add(&x, &self.down, &h, self.post.as_ref().map(|p| &p.1), pass.dropout)
    }

    /// One token of every sequence, `x` `[B, D]`, by the kernels that keep no graph.
    pub fn step(&self, x: &Tensor, step: &OneStep, kept: &Layer) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let a = AttendStep {
            rotary: step.rotary,
            norms: self.qk_norms.as_ref().map(|(q, k)| (&q.weight, &k.weight)),
            eps: self.norm1.eps,
            scale: self.scale,
            cap: self.softcap,
            window: self.window,
        };
        let a = a.apply(&qkv, (&kept.keys, &kept.values), step.pads, step.at)?;
        let x = self.add(x, &self.out, &a, self.post.as_ref().map(|p| &p.0), 0.0)?;
        let h = self.feed(&self.into.forward(&self.norm2.forward(&x)?)?)?;
        self.add(&x, &self.down, &h, self.post.as_ref().map(|p| &p.1), 0.0)
    }

    /// Whether [`Block::step`] knows this block.
    pub fn steps(&self) -> bool {
        self.qk_norms.as_ref().is_none_or(|(q, k)| {
            q.kind == NormKind::Rms && q.weight.kind() == Kind::Float && k.weight.kind() == Kind::Float
        })
    }

    /// `x + norm(matrix h)`.
    fn add(
        &self,
        x: &Tensor,
        matrix: &Matrix,
        h: &Tensor,
        norm: Option<&Norm>,
        dropout: f64,
    ) -> Result<Tensor> {
        if norm.is_none() && dropout <= 0.0 {
            return matrix.forward_add(h, x);
        }
        let mut y = matrix.forward(h)?;
        if let Some(norm) = norm {
            y = norm.forward(&y)?;
        }
        if dropout > 0.0 {
            y = y.f_dropout(dropout, true)?;
        }
        Ok(x.f_add(&y)?)
    }

    fn feed(&self, x: &Tensor) -> Result<Tensor> {
        if self.feed.gated() {
            let halves = x.f_chunk(2, -1)?;
            let gate = match self.feed {
                Feed::GeGluTanh => halves[0].f_gelu("tanh")?,
                Feed::GeGlu => halves[0].f_gelu("none")?,
                _ => halves[0].f_silu()?,
            };
            return Ok(gate.f_mul(&halves[1])?);
        }
        Ok(match self.feed {
            Feed::Gelu => x.f_gelu("none")?,
            Feed::Relu => x.f_relu()?,
            Feed::Silu => x.f_silu()?,
            _ => x.f_gelu("tanh")?,
        })
    }

    fn attend(&self, qkv: &Tensor, pass: &Pass, kept: Option<(&mut Layer, i64)>) -> Result<Tensor> {
        let (b, l, _) = qkv.size3()?;
        let (heads, groups, d) = (self.heads, self.groups, self.dim);
        let part = |from: i64, n: i64| -> Result<Tensor> {
            Ok(qkv.f_narrow(2, from * d, n * d)?.f_view([b, l, n, d])?)
        };
        let (mut q, mut k, v) = (part(0, heads)?, part(heads, groups)?, part(heads + groups, groups)?);
        if let Some((q_norm, k_norm)) = &self.qk_norms {
            (q, k) = (q_norm.forward(&q.f_contiguous()?)?, k_norm.forward(&k.f_contiguous()?)?);
        }
        let (mut q, mut k, mut v) = (q.f_transpose(1, 2)?, k.f_transpose(1, 2)?, v.f_transpose(1, 2)?);
        if let Some((cos, sin)) = &pass.rotary {
            (q, k) = (turn(&q, (cos, sin))?, turn(&k, (cos, sin))?);
        }
        if let Some((layer, at)) = kept {
            (k, v) = layer.write(at, &k, &v)?;
        }
        let spread = |t: Tensor| -> Result<Tensor> {
            let (s, rep) = (t.size()[2], heads / groups);
            if rep == 1 {
                return Ok(t);
            }
            Ok(t.f_unsqueeze(2)?.f_expand([b, groups, rep, s, d], false)?.f_reshape([b, heads, s, d])?)
        };
        let (k, v) = (spread(k)?, spread(v)?);
        let sees = match &pass.windowed {
            Some(windowed) if self.window.is_some() => windowed,
            _ => &pass.full,
        };
        let y = match self.softcap {
            Some(cap) => self.capped(&q, &k, &v, sees, cap, pass)?,
            None => {
                let (mask, causal) = match sees {
                    Sees::Before => (None, true),
                    Sees::All => (None, false),
                    Sees::Mask(mask) => (Some(mask), false),
                };
                Tensor::f_scaled_dot_product_attention(
                    &q,
                    &k,
                    &v,
                    mask,
                    pass.dropout,
                    causal,
                    self.scale,
                    false,
                )?
            }
        };
        Ok(y.f_transpose(1, 2)?.f_reshape([b, l, heads * d])?)
    }

    fn capped(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        sees: &Sees,
        cap: f64,
        pass: &Pass,
    ) -> Result<Tensor> {
        let s =
            q.f_matmul(&k.f_transpose(2, 3)?)?.f_mul_scalar(self.scale / cap)?.f_tanh()?.f_mul_scalar(cap)?;
        let hidden = match sees {
            Sees::All => None,
            Sees::Mask(mask) => Some(mask.f_logical_not()?),
            Sees::Before => {
                let (l, device) = (q.size()[2], q.device());
                Some(Tensor::f_ones([l, l], (Kind::Bool, device))?.f_triu(1)?)
            }
        };
        let s = match hidden {
            Some(hidden) => s.f_masked_fill(&hidden, f64::NEG_INFINITY)?,
            None => s,
        };
        let wide = if q.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let w = pass.drop(s.f_softmax(-1, wide)?.f_to_kind(v.kind())?)?;
        Ok(w.f_matmul(v)?)
    }
}

//! Self-attention over the pixels of an image.

use tch::Tensor;

use super::conv::Conv2d;
use super::init::Init;
use super::linear::Linear;
use super::norm::GroupNorm;
use crate::error::{Error, Result};
use crate::net::store::Path;

/// `softmax(q k^T / sqrt d) v` for `q`, `k`, `v` `[B, L, heads d]`, to `[B, L, heads d]`.
pub(in crate::net) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, heads: i64) -> Result<Tensor> {
    let split = |t: &Tensor| -> Result<Tensor> {
        let size = t.size();
        Ok(t.f_view([-1, size[1], heads, size[2] / heads])?.f_transpose(1, 2)?)
    };
    let (q, k, v) = (split(q)?, split(k)?, split(v)?);
    let mask = None::<Tensor>;
    let out = Tensor::f_scaled_dot_product_attention(&q, &k, &v, mask, 0.0, false, None, false)?;
    Ok(out.f_transpose(1, 2)?.f_flatten(2, 3)?)
}

/// `[B, C, H, W]` to `[B, H W, C]`: a view if `x` is channels-last.
fn to_tokens(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_flatten(2, 3)?.f_transpose(1, 2)?)
}

/// `[B, H W, C]` to `[B, C, H, W]` as a view.
fn to_image(tokens: &Tensor, size: &[i64]) -> Result<Tensor> {
    Ok(tokens.f_transpose(1, 2)?.f_unflatten(2, [size[2], size[3]])?)
}

fn check_heads(channels: i64, heads: i64) -> Result<()> {
    if heads > 0 && channels % heads == 0 {
        return Ok(());
    }
    Err(Error::model("attention is not defined")
        .why(format!("{channels} channels do not divide into {heads} heads")))
}

/// Attention of the DDPM++/NCSN++/EDM family: `norm2`, one 1x1 convolution `qkv` whose rows hold
/// (q, k, v) of a channel next to each other, and `proj`.
#[derive(Debug)]
pub struct PackedAttention {
    norm: GroupNorm,
    qkv: Conv2d,
    proj: Conv2d,
    heads: i64,
    channels: i64,
}

impl PackedAttention {
    /// Attention over `channels` channels, with parameters beside those of the block at `p`.
    ///
    /// # Errors
    /// Where `heads` does not divide `channels`, a name is taken, or libtorch fails.
    pub fn new(p: &Path, channels: i64, heads: i64, groups: i64, eps: f64) -> Result<Self> {
        let gain = (Init::XavierUniform(0.2f64.sqrt()), Init::ZEROS);
        Self::with(p, channels, heads, (groups, eps), gain, (Init::XavierUniform(1e-5), Init::ZEROS))
    }

    /// The same with first values (weight, bias) of `qkv` and of `proj`; `norm` is (groups, eps).
    ///
    /// # Errors
    /// As [`PackedAttention::new`].
    pub fn with(
        p: &Path,
        channels: i64,
        heads: i64,
        norm: (i64, f64),
        qkv: (Init, Init),
        proj: (Init, Init),
    ) -> Result<Self> {
        check_heads(channels, heads)?;
        let norm = GroupNorm::new(&(p / "norm2"), norm.0, channels, norm.1)?;
        let qkv = Conv2d::with(&(p / "qkv"), channels, 3 * channels, 1, qkv.0, qkv.1)?;
        let proj = Conv2d::with(&(p / "proj"), channels, channels, 1, proj.0, proj.1)?;
        Ok(PackedAttention { norm, qkv, proj, heads, channels })
    }

    /// What attention adds to `x` `[B, C, H, W]`.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let tokens = to_tokens(&self.norm.forward(x)?)?;
        // Rows 3c, 3c+1, 3c+2 to three blocks of rows: a small copy of the weights saves three large
        // ones of the activations.
        let (weight, bias) = self.qkv.weights();
        let weight =
            weight.f_reshape([self.channels, 3, self.channels])?.f_transpose(0, 1)?.f_flatten(0, 1)?;
        let bias = match bias {
            Some(bias) => Some(bias.f_view([self.channels, 3])?.f_transpose(0, 1)?.f_flatten(0, 1)?),
            None => None,
        };
        let qkv = tokens.f_linear(&weight, bias)?.f_chunk(3, 2)?;
        let out = attend(&qkv[0], &qkv[1], &qkv[2], self.heads)?;
        let (weight, bias) = self.proj.weights();
        let out = out.f_linear(&weight.f_flatten(1, 3)?, bias)?;
        to_image(&out, &x.size())
    }
}

/// Attention of the diffusers family: `group_norm`, linear `to_q`, `to_k`, `to_v`, `to_out.0`.
#[derive(Debug)]
pub struct SplitAttention {
    norm: Option<GroupNorm>,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: i64,
}

impl SplitAttention {
    /// Attention over `channels` channels by `heads` heads of `dim` channels each; without `groups` there is
    /// no norm before it. Heads need not fill the channels: the projections are `[heads dim, channels]`.
    ///
    /// # Errors
    /// Where there is no head, a name is taken, or libtorch fails.
    pub fn new(
        p: &Path,
        channels: i64,
        (heads, dim): (i64, i64),
        groups: Option<i64>,
        eps: f64,
    ) -> Result<Self> {
        if heads < 1 || dim < 1 {
            return Err(Error::model("attention is not defined")
                .why(format!("{channels} channels do not make a head of {dim}")));
        }
        let linear = |name: &str| Linear::new(&(p / name), channels, heads * dim);
        Ok(SplitAttention {
            norm: groups.map(|n| GroupNorm::new(&(p / "group_norm"), n, channels, eps)).transpose()?,
            q: linear("to_q")?,
            k: linear("to_k")?,
            v: linear("to_v")?,
            out: Linear::new(&(p / "to_out.0"), heads * dim, channels)?,
            heads,
        })
    }

    /// What attention adds to `x` `[B, C, H, W]`.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let tokens = match &self.norm {
            Some(norm) => to_tokens(&norm.forward(x)?)?,
            None => to_tokens(x)?,
        };
        let (q, k, v) = (self.q.forward(&tokens)?, self.k.forward(&tokens)?, self.v.forward(&tokens)?);
        let out = self.out.forward(&attend(&q, &k, &v, self.heads)?)?;
        to_image(&out, &x.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::store::{Store, channels_last};
    use crate::torch::shim::Generator;
    use tch::{Device, Kind};

    fn noise(shape: &[i64], seed: u64) -> Tensor {
        Generator::new(seed).unwrap().normal(shape, Kind::Double).unwrap()
    }

    #[test]
    fn packed_rows_are_q_k_v_of_one_channel() {
        let (c, heads, d) = (8, 2, 4);
        let store = Store::new(Device::Cpu, Kind::Double, 3);
        let layer = PackedAttention::new(&store.root(), c, heads, 2, 1e-6).unwrap();
        let _guard = tch::no_grad_guard();
        for (name, mut t) in store.named() {
            t.copy_(&noise(&t.size(), name.len() as u64));
        }
        let x = noise(&[2, c, 3, 3], 77);
        let get = |name: &str| store.get(name).unwrap();
        let normed = x.group_norm(2, Some(get("norm2.weight")), Some(get("norm2.bias")), 1e-6, false);
        let qkv = normed.conv2d(&get("qkv.weight"), Some(get("qkv.bias")), [1, 1], [0, 0], [1, 1], 1);
        // Head h, channel c of q, k, v are rows 3(h d + c) + 0, 1, 2.
        let qkv = qkv.reshape([2 * heads, d, 3, 9]).unbind(2);
        let w = (qkv[0].transpose(1, 2).matmul(&qkv[1]) / (d as f64).sqrt()).softmax(2, Kind::Double);
        let a = qkv[2].matmul(&w.transpose(1, 2)).reshape([2, c, 3, 3]);
        let want = a.conv2d(&get("proj.weight"), Some(get("proj.bias")), [1, 1], [0, 0], [1, 1], 1);
        for x in [x.shallow_clone(), channels_last(&x).unwrap()] {
            let got = layer.forward(&x).unwrap();
            assert!((got - &want).abs().max().double_value(&[]) < 1e-12);
        }
    }

    #[test]
    fn heads_must_divide_channels() {
        let store = Store::new(Device::Cpu, Kind::Float, 0);
        assert!(PackedAttention::new(&store.root(), 8, 3, 2, 1e-5).is_err());
        assert!(SplitAttention::new(&store.root(), 8, (0, 16), Some(2), 1e-5).is_err());
    }
}

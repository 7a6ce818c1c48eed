//! The residual layers: state space with GELU and a linear map, or feed-forward, behind a norm.

use tch::{Kind, Tensor};

use super::config::{NormKind, OutputAct, SashimiConfig};
use crate::error::Result;
use crate::net::Mode;
use crate::net::layers::dropout;
use crate::net::layers::init::Init;
use crate::net::layers::linear::bias_bound;
use crate::net::layers::ssm::S4;
use crate::net::store::Path;
use crate::optim::Group;

/// Epsilon of layer norms.
pub(super) const EPS: f64 = 1e-5;

/// The norm over features, the last dimension.
#[derive(Debug)]
pub(super) enum Norm {
    Scalar { m: Tensor, s: Tensor },
    Layer { weight: Tensor, bias: Tensor },
}

impl Norm {
    fn new(p: &Path, width: i64, kind: NormKind) -> Result<Self> {
        Ok(match kind {
            NormKind::Scalar => {
                let p = p / "norm.norm";
                let number = |name: &str, init| p.param_in(name, &[1], init, Group::NO_DECAY);
                Norm::Scalar { m: number("m", Init::ZEROS)?, s: number("s", Init::ONES)? }
            }
            NormKind::Layer => Self::layer(&(p / "norm"), width)?,
        })
    }

    pub(super) fn layer(p: &Path, width: i64) -> Result<Self> {
        let (weight, bias) =
            (p.param("weight", &[width], Init::ONES)?, p.param("bias", &[width], Init::ZEROS)?);
        Ok(Norm::Layer { weight, bias })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Norm::Scalar { m, s } => {
                let (var, mean) = x.f_var_mean_dim([-1i64].as_slice(), false, true)?;
                let scale = var.f_rsqrt()?.f_mul(s)?;
                Ok(x.f_sub(&mean.f_sub(m)?)?.f_mul(&scale)?)
            }
            Norm::Layer { weight, bias } => {
                let width = weight.size()[0];
                Ok(x.f_layer_norm([width], Some(weight), Some(bias), EPS, false)?)
            }
        }
    }
}

/// A linear map with weight `[out, in]` and bias `[out]`.
#[derive(Debug)]
pub(super) struct Map {
    pub weight: Tensor,
    pub bias: Tensor,
}

impl Map {
    /// First values of `torch.nn.Linear`; the bias in the group `bias`.
    pub(super) fn new(p: &Path, input: i64, out: i64, bias: Group) -> Result<Self> {
        Ok(Map {
            weight: p.param("weight", &[out, input], Init::KaimingUniform)?,
            bias: p.param_in("bias", &[out], Init::Uniform(bias_bound(input)), bias)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }
}

#[derive(Debug)]
pub(super) enum Core {
    Ssm { ssm: S4, out: Map, glu: bool },
    FeedForward { first: Map, second: Map },
}

/// `x + layer(norm(x))`.
#[derive(Debug)]
pub(super) struct Layer {
    pub norm: Norm,
    pub core: Core,
    dropout: f64,
}

impl Layer {
    /// A state-space layer of `width` features at `p`.
    pub(super) fn ssm(p: &Path, width: i64, config: &SashimiConfig) -> Result<Self> {
        let inner = p / "layer";
        let glu = config.act == OutputAct::Glu;
        let out = &inner / "output_linear.0";
        let ssm = S4::new(&(&inner / "layer"), &config.layer.with_width(width))?;
        let out = Map::new(&out, width, if glu { 2 * width } else { width }, Group::default())?;
        let norm = Norm::new(p, width, config.norm)?;
        Ok(Layer { norm, core: Core::Ssm { ssm, out, glu }, dropout: config.dropout })
    }

    /// A feed-forward layer.
    pub(super) fn feed_forward(p: &Path, width: i64, config: &SashimiConfig) -> Result<Self> {
        let inner = p / "layer.ff";
        let wide = width * config.ff;
        let first = Map::new(&(&inner / "0.0"), width, wide, Group::NO_DECAY)?;
        let second = Map::new(&(&inner / "2"), wide, width, Group::NO_DECAY)?;
        let norm = Norm::new(p, width, config.norm)?;
        Ok(Layer { norm, core: Core::FeedForward { first, second }, dropout: config.dropout })
    }

    /// `x` `[B, L, H]`; `state` is that of the state-space layer before and after, if it is wanted.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        mode: Mode,
        state: Option<&mut Option<Tensor>>,
    ) -> Result<Tensor> {
        let on = mode == Mode::Train;
        let z = self.norm.forward(x)?;
        let y = match &self.core {
            Core::Ssm { ssm, out, glu } => {
                let u = z.f_transpose(1, 2)?;
                let y = match state {
                    None => ssm.convolve(&u)?,
                    Some(state) => {
                        let (y, after) = ssm.convolve_from(&u, state.as_ref())?;
                        *state = Some(after);
                        y
                    }
                };
                let y = dropout(y.f_gelu("none")?, self.dropout, on)?.f_transpose(1, 2)?;
                let y = out.forward(&y)?;
                if *glu { y.f_glu(-1)? } else { y }
            }
            Core::FeedForward { first, second } => {
                let y = first.forward(&z)?.f_gelu("none")?;
                second.forward(&dropout(y, self.dropout, on)?)?
            }
        };
        Ok(x.f_add(&dropout(y, self.dropout, on)?)?)
    }
}

/// A linear map between rates, weight-normalised (`W = g v/|v|` by rows) or plain.
#[derive(Debug)]
pub(super) enum PoolMap {
    Plain(Map),
    Normed { v: Tensor, g: Tensor, bias: Tensor },
}

impl PoolMap {
    pub(super) fn new(p: &Path, input: i64, out: i64, normed: bool) -> Result<Self> {
        let p = p / "linear";
        if !normed {
            return Ok(PoolMap::Plain(Map::new(&p, input, out, Group::NO_DECAY)?));
        }
        let bias = p.param_in("bias", &[out], Init::Uniform(bias_bound(input)), Group::NO_DECAY)?;
        let v = p.param("weight_v", &[out, input], Init::KaimingUniform)?;
        let lengths = v.f_detach()?.f_to_kind(Kind::Double)?.f_norm_scalaropt_dim(2.0, [1i64], false)?;
        let lengths = crate::io::bytes::tensor_to_f64(&lengths)?;
        let g = p.param_of("weight_g", &[out, 1], &lengths, Group::default())?;
        Ok(PoolMap::Normed { v, g, bias })
    }

    /// Weight `[out, in]` and bias `[out]`.
    pub(super) fn weights(&self) -> Result<(Tensor, Tensor)> {
        match self {
            PoolMap::Plain(map) => Ok((map.weight.shallow_clone(), map.bias.shallow_clone())),
            PoolMap::Normed { v, g, bias } => {
                let length = v.f_norm_scalaropt_dim(2.0, [1i64], true)?;
                Ok((v.f_mul(&g.f_divide(&length)?)?, bias.shallow_clone()))
            }
        }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = self.weights()?;
        Ok(x.f_linear(&weight, Some(&bias))?)
    }
}

/// The two maps between a level and the one below it; `factor` vectors of the finer level make one of the coarser.
#[derive(Debug)]
pub(super) struct Pool {
    pub factor: i64,
    pub down: PoolMap,
    pub up: PoolMap,
}

impl Pool {
    /// `x` `[B, L, H]` to `[B, L/p, H e]`; feature `h p + s` of a group is feature h of its member s.
    pub(super) fn down(&self, x: &Tensor) -> Result<Tensor> {
        let size = x.size();
        let groups = x.f_reshape([size[0], size[1] / self.factor, self.factor, size[2]])?;
        self.down.forward(&groups.f_transpose(2, 3)?.f_flatten(2, 3)?)
    }

    /// `x` `[B, L', H e]` to `[B, L' p, H]`, delayed by one coarse step so that no output knows a later input.
    /// `pending` `[B, H p]` is what the step before the first gave (zeros at the start), replaced by what the last
    /// one gives.
    pub(super) fn up(&self, x: &Tensor, pending: Option<&mut Option<Tensor>>) -> Result<Tensor> {
        let y = self.up.forward(x)?;
        let size = y.size();
        let before = match &pending {
            Some(Some(before)) => before.f_to_kind(y.kind())?.f_unsqueeze(1)?,
            _ => Tensor::f_zeros([size[0], 1, size[2]], (y.kind(), y.device()))?,
        };
        if let Some(pending) = pending {
            *pending = Some(y.f_select(1, size[1] - 1)?);
        }
        let y = Tensor::f_cat(&[before, y.f_narrow(1, 0, size[1] - 1)?], 1)?;
        let features = size[2] / self.factor;
        let y = y.f_reshape([size[0], size[1], features, self.factor])?.f_transpose(2, 3)?;
        Ok(y.f_reshape([size[0], size[1] * self.factor, features])?)
    }
}

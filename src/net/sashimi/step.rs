//! The recurrence by operations of libtorch: for any device and dtype, without a host sync.

use tch::{Kind, Tensor};

use super::backbone::Carry;
use super::block::{Core, Layer};
use super::config::Wiring;
use super::net::Sashimi;
use crate::error::{Error, Result};
use crate::net::Mode;
use crate::net::causal::Steps;
use crate::net::layers::tokens::check_steps;

/// One state-space layer made ready: the state is `[B, H, N]`, real parts before imaginary parts.
#[derive(Debug)]
struct Ready {
    /// `d` as factors of `(re, im)` and of `(im, re)`, `[H, N]` each.
    diagonal: Option<(Tensor, Tensor)>,
    /// Columns `[rank, H, N]` and rows `[rank, H, N]`.
    low_rank: Option<(Tensor, Tensor)>,
    dense: Option<Tensor>,
    b: Tensor,
    c: Tensor,
    d: Tensor,
}

impl Ready {
    fn of(layer: &Layer, kind: Kind) -> Result<Option<Self>> {
        let Core::Ssm { ssm, .. } = &layer.core else { return Ok(None) };
        let system = ssm.discrete(1.0)?;
        let cast = |t: Tensor| t.f_to_kind(kind);
        let vector =
            |z: &Tensor| -> Result<Tensor> { Ok(cast(Tensor::f_cat(&[z.f_real()?, z.f_imag()?], -1)?)?) };
        let row = |z: &Tensor| -> Result<Tensor> {
            Ok(cast(Tensor::f_cat(&[z.f_real()?.f_mul_scalar(2.0)?, z.f_imag()?.f_mul_scalar(-2.0)?], -1)?)?)
        };
        let (re, im) = (system.d.f_real()?, system.d.f_imag()?);
        let diagonal = match system.dense {
            Some(_) => None,
            None => Some((
                cast(Tensor::f_cat(&[&re, &re], -1)?)?,
                cast(Tensor::f_cat(&[&im.f_neg()?, &im], -1)?)?,
            )),
        };
        let low_rank = match &system.low_rank {
            Some((p, w)) => Some((vector(p)?, row(w)?)),
            None => None,
        };
        Ok(Some(Ready {
            diagonal,
            low_rank,
            dense: system.dense.map(cast).transpose()?,
            b: vector(&system.b)?,
            c: row(&system.c.f_select(0, 0)?)?,
            d: ssm.skip()?,
        }))
    }

    /// `u` `[B, H]` to the output `[B, H]` before GELU; `x` becomes the next state.
    fn step(&self, u: &Tensor, x: &mut Tensor) -> Result<Tensor> {
        let input = self.b.f_mul(&u.f_unsqueeze(-1)?)?;
        let mut next = match (&self.diagonal, &self.dense) {
            (Some((same, other)), _) => {
                let turned = x.f_roll([x.size()[2] / 2], [2i64])?;
                input.f_addcmul(x, same)?.f_addcmul(&turned, other)?
            }
            (None, Some(dense)) => dense.f_matmul(&x.f_unsqueeze(-1)?)?.f_squeeze_dim(-1)?.f_add(&input)?,
            (None, None) => input,
        };
        if let Some((p, w)) = &self.low_rank {
            for j in 0..p.size()[0] {
                let dot = w.f_select(0, j)?.f_mul(x)?.f_sum_dim_intlist([2i64].as_slice(), true, x.kind())?;
                next = next.f_sub(&p.f_select(0, j)?.f_mul(&dot)?)?;
            }
        }
        *x = next;
        let y = self.c.f_mul(x)?.f_sum_dim_intlist([2i64].as_slice(), false, x.kind())?;
        Ok(y.f_addcmul(u, &self.d)?)
    }
}

/// A pool in the middle of a group.
#[derive(Debug)]
struct PoolState {
    factor: i64,
    /// Weight and bias of the way down, `[H e, H p]`, and up, `[H p, H e]`.
    down: (Tensor, Tensor),
    up: (Tensor, Tensor),
    /// Members of the group so far.
    group: Vec<Tensor>,
    /// What the last group gave, `[B, H p]`.
    pending: Tensor,
}

/// The recurrence.
#[derive(Debug)]
pub(super) struct Stepper<'a> {
    net: &'a Sashimi,
    class: Option<Tensor>,
    batch: i64,
    ready: Vec<Option<Ready>>,
    states: Vec<Tensor>,
    pools: Vec<PoolState>,
    done: i64,
}

impl<'a> Stepper<'a> {
    pub(super) fn new(net: &'a Sashimi, batch: i64, class: Option<Tensor>) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let (kind, device) = (net.embedding.weight().kind(), net.embedding.weight().device());
        let mut ready = Vec::new();
        for layer in net.backbone.layers() {
            ready.push(Ready::of(layer, kind)?);
        }
        let mut states = Vec::new();
        for one in &ready {
            let mut size = vec![batch];
            size.extend(one.as_ref().map_or(vec![0], |one| one.b.size()));
            states.push(Tensor::f_zeros(size, (kind, device))?);
        }
        let mut pools = Vec::new();
        for pool in net.backbone.levels.iter().filter_map(|level| level.pool.as_ref()) {
            let (down, up) = (pool.down.weights()?, pool.up.weights()?);
            let pending = Tensor::f_zeros([batch, up.1.size()[0]], (kind, device))?;
            pools.push(PoolState { factor: pool.factor, down, up, group: Vec::new(), pending });
        }
        Ok(Stepper { net, class, batch, ready, states, pools, done: 0 })
    }

    fn layer(&mut self, layer: &Layer, at: usize, x: &Tensor) -> Result<Tensor> {
        let z = layer.norm.forward(x)?;
        let y = match (&layer.core, &self.ready[at]) {
            (Core::Ssm { out, glu, .. }, Some(ready)) => {
                let y = out.forward(&ready.step(&z, &mut self.states[at])?.f_gelu("none")?)?;
                if *glu { y.f_glu(-1)? } else { y }
            }
            (Core::FeedForward { first, second }, _) => {
                second.forward(&first.forward(&z)?.f_gelu("none")?)?
            }
            (Core::Ssm { .. }, None) => return Err(Error::run("a layer without a recurrence")),
        };
        Ok(x.f_add(&y)?)
    }

    /// One vector at level `i`; layers of this and lower levels on the way down begin at `down_at`, those on the way
    /// up end before `up_end`.
    fn level(&mut self, i: usize, x: &Tensor, down_at: usize, up_end: usize) -> Result<Tensor> {
        let net = self.net;
        let level = &net.backbone.levels[i];
        let mut outs = vec![x.shallow_clone()];
        let mut y = x.shallow_clone();
        for (k, layer) in level.down.iter().enumerate() {
            y = self.layer(layer, down_at + k, &y)?;
            outs.push(y.shallow_clone());
        }
        if level.pool.is_none() {
            return Ok(y.f_add(x)?);
        }
        outs.pop();
        let up_at = up_end - level.up.len();
        let factor = self.pools[i].factor;
        let phase = self.pools[i].group.len();
        let pending = self.pools[i].pending.f_reshape([self.batch, -1, factor])?;
        let delayed = pending.f_select(2, i64::try_from(phase).unwrap_or(0))?;
        self.pools[i].group.push(y.shallow_clone());
        if i64::try_from(self.pools[i].group.len()).unwrap_or(0) == factor {
            let group = Tensor::f_stack(&self.pools[i].group, 2)?.f_flatten(1, 2)?;
            self.pools[i].group.clear();
            let (weight, bias) = &self.pools[i].down;
            let coarse = group.f_linear(weight, Some(bias))?;
            let below = self.level(i + 1, &coarse, down_at + level.down.len(), up_at)?;
            let (weight, bias) = &self.pools[i].up;
            self.pools[i].pending = below.f_linear(weight, Some(bias))?;
        }
        y = delayed.f_add(&y)?;
        let unet = net.backbone.wiring == Wiring::Unet;
        let z = y.shallow_clone();
        for (k, layer) in level.up.iter().enumerate() {
            y = self.layer(layer, up_at + k, &y)?;
            if let (true, Some(mirror)) = (unet, outs.pop()) {
                y = y.f_add(&mirror)?;
            }
        }
        if unet { Ok(y) } else { Ok(y.f_add(&z)?) }
    }
}

/// Steps to the next multiple of the stride, absorbs as much as possible by `whole`, and steps through the rest.
pub(super) fn prefill_by<S: Steps + ?Sized>(
    steps: &mut S,
    tokens: &Tensor,
    (stride, done): (i64, i64),
    whole: impl Fn(&mut S, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let len = tokens.size()[1];
    let first = (stride - done % stride) % stride;
    let (first, mut out) = (first.min(len), Vec::new());
    let middle = (len - first) / stride * stride;
    for t in 0..first {
        out.push(steps.step(&tokens.f_select(1, t)?)?.f_unsqueeze(1)?);
    }
    if middle > 0 {
        out.push(whole(steps, &tokens.f_narrow(1, first, middle)?)?);
    }
    for t in first + middle..len {
        out.push(steps.step(&tokens.f_select(1, t)?)?.f_unsqueeze(1)?);
    }
    Ok(Tensor::f_cat(&out, 1)?)
}

impl Steps for Stepper<'_> {
    fn step(&mut self, tokens: &Tensor) -> Result<Tensor> {
        check_steps(tokens, self.batch, 1)?;
        let _guard = tch::no_grad_guard();
        let x = self.net.embedding.forward(&tokens.f_unsqueeze(1)?, self.class.as_ref())?.f_squeeze_dim(1)?;
        let y = self.level(0, &x, 0, self.ready.len())?;
        self.done += 1;
        self.net.head.forward(&self.net.backbone.norm.forward(&y)?)
    }

    fn prefill(&mut self, tokens: &Tensor) -> Result<Tensor> {
        check_steps(tokens, self.batch, 2)?;
        let _guard = tch::no_grad_guard();
        let at = (self.net.config.stride(), self.done);
        prefill_by(self, tokens, at, |me, tokens| {
            let mut carry = Carry {
                states: me.states.iter().map(|x| (x.dim() == 3).then(|| x.shallow_clone())).collect(),
                pending: me.pools.iter().map(|pool| Some(pool.pending.shallow_clone())).collect(),
            };
            let logits = me.net.run(tokens, me.class.as_ref(), Mode::Eval, Some(&mut carry))?;
            for (mine, new) in me.states.iter_mut().zip(carry.states) {
                if let Some(new) = new {
                    *mine = new.f_to_kind(mine.kind())?;
                }
            }
            for (pool, new) in me.pools.iter_mut().zip(carry.pending) {
                if let Some(new) = new {
                    pool.pending = new;
                }
            }
            me.done += tokens.size()[1];
            Ok(logits)
        })
    }
}

//! The levels and how they are connected.

use tch::Tensor;

use super::block::{Layer, Norm, Pool};
use super::config::{SashimiConfig, Wiring};
use crate::error::Result;
use crate::net::Mode;
use crate::net::store::Path;

/// What the network remembers between two pieces of a sequence, each piece a multiple of the stride: states of the
/// state-space layers in the order they run in, and what each pool's way up has pending.
#[derive(Debug, Default)]
pub(super) struct Carry {
    pub states: Vec<Option<Tensor>>,
    pub pending: Vec<Option<Tensor>>,
}

/// One rate.
#[derive(Debug)]
pub(super) struct Level {
    /// Layers before the pool; all layers of the lowest rate.
    pub down: Vec<Layer>,
    /// The way to the next lower rate and back.
    pub pool: Option<Pool>,
    /// Layers after it.
    pub up: Vec<Layer>,
}

/// The levels, the full rate first, and the norm at the end.
#[derive(Debug)]
pub(super) struct Backbone {
    pub levels: Vec<Level>,
    pub wiring: Wiring,
    pub norm: Norm,
}

impl Backbone {
    pub(super) fn new(p: &Path, config: &SashimiConfig) -> Result<Self> {
        let (n, pools) = (usize::try_from(config.n_layers).unwrap_or(1), config.pool.len());
        // n pairs of layers at places named by `place`.
        let run = |width: i64, place: &dyn Fn(usize) -> String| -> Result<Vec<Layer>> {
            (0..2 * n)
                .map(|k| {
                    let p = p / place(k);
                    if k % 2 == 0 {
                        Layer::ssm(&p, width, config)
                    } else {
                        Layer::feed_forward(&p, width, config)
                    }
                })
                .collect()
        };
        let unet = config.wiring == Wiring::Unet;
        let mut levels = Vec::new();
        for i in 0..pools {
            let (width, wide, factor) = (config.width(i), config.width(i + 1), config.pool[i]);
            let each = 2 * n + 1;
            let down = if unet { run(width, &|k| format!("d_layers.{}", i * each + k))? } else { Vec::new() };
            let j = pools - 1 - i;
            let (down_at, up_at) = if unet {
                (format!("d_layers.{}", i * each + 2 * n), format!("u_layers.{}", j * each))
            } else {
                (format!("d_layers.{i}"), format!("u_layers.{j}.0"))
            };
            let map = |at: String, input, out| {
                super::block::PoolMap::new(&(p / at), input, out, config.weight_norm())
            };
            let pool = Pool {
                factor,
                down: map(down_at, width * factor, wide)?,
                up: map(up_at, wide, width * factor)?,
            };
            let up = run(width, &|k| {
                if unet {
                    format!("u_layers.{}", j * each + 1 + k)
                } else {
                    format!("u_layers.{j}.{}", k + 1)
                }
            })?;
            levels.push(Level { down, pool: Some(pool), up });
        }
        let center = run(config.width(pools), &|k| format!("c_layers.{k}"))?;
        levels.push(Level { down: center, pool: None, up: Vec::new() });
        let norm = Norm::layer(&(p / "norm"), config.d_model)?;
        Ok(Backbone { levels, wiring: config.wiring, norm })
    }

    /// All layers in the order they run in at the last vector of a group of every level.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Layer> {
        let down = self.levels.iter().flat_map(|level| level.down.iter());
        down.chain(self.levels.iter().rev().flat_map(|level| level.up.iter()))
    }

    /// `x` `[B, L, H]`, L a multiple of the stride.
    pub(super) fn forward(&self, x: &Tensor, mode: Mode, carry: Option<&mut Carry>) -> Result<Tensor> {
        let mut walk = Walk { mode, carry, next: 0 };
        if let Some(carry) = &mut walk.carry {
            carry.states.resize_with(self.layers().count(), || None);
            carry.pending.resize_with(self.levels.len(), || None);
        }
        let y = self.level(0, x, &mut walk)?;
        self.norm.forward(&y)
    }

    fn level(&self, i: usize, x: &Tensor, walk: &mut Walk<'_>) -> Result<Tensor> {
        let level = &self.levels[i];
        let mut outs = vec![x.shallow_clone()];
        let mut y = x.shallow_clone();
        for layer in &level.down {
            y = walk.layer(layer, &y)?;
            outs.push(y.shallow_clone());
        }
        let Some(pool) = &level.pool else { return Ok(y.f_add(x)?) };
        let below = self.level(i + 1, &pool.down(&y)?, walk)?;
        y = pool.up(&below, walk.pending(i))?.f_add(&y)?;
        let unet = self.wiring == Wiring::Unet;
        outs.pop();
        let z = y.shallow_clone();
        for layer in &level.up {
            y = walk.layer(layer, &y)?;
            if let (true, Some(mirror)) = (unet, outs.pop()) {
                y = y.f_add(&mirror)?;
            }
        }
        if unet { Ok(y) } else { Ok(y.f_add(&z)?) }
    }
}

/// A walk through the layers.
struct Walk<'a> {
    mode: Mode,
    carry: Option<&'a mut Carry>,
    next: usize,
}

impl Walk<'_> {
    fn layer(&mut self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let state = self.carry.as_mut().map(|carry| &mut carry.states[self.next]);
        self.next += 1;
        layer.forward(x, self.mode, state)
    }

    fn pending(&mut self, i: usize) -> Option<&mut Option<Tensor>> {
        self.carry.as_mut().map(|carry| &mut carry.pending[i])
    }
}

//! A fully connected denoising network: `[x, Fourier features of t, class]` through SiLU layers.
//!
//! For low-dimensional data and tiny images, where it trains in a minute on one core.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::layers::embed::{Fourier, checked_class, one_hot};
use super::layers::linear::Linear;
use super::layers::silu;
use super::{Cond, Mode, Network};
use crate::error::{Error, Result};
use crate::net::store::Path;

/// Options of the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpConfig {
    /// Widths of the hidden layers.
    pub widths: Vec<i64>,
    /// Number of Fourier features of the time.
    pub time_features: i64,
    /// Standard deviation of their frequencies.
    pub fourier_scale: f64,
}

impl Default for MlpConfig {
    fn default() -> Self {
        MlpConfig { widths: vec![512; 3], time_features: 32, fourier_scale: 1.0 }
    }
}

/// The network.
#[derive(Debug)]
pub struct Mlp {
    shape: Vec<i64>,
    classes: i64,
    time: Fourier,
    layers: Vec<Linear>,
}

impl Mlp {
    /// The network for samples of `shape` (any) and `classes` classes (0 for none) at `p`.
    ///
    /// # Errors
    /// Where the options do not make a network, or libtorch fails.
    pub fn new(p: &Path, config: &MlpConfig, shape: &[i64], classes: i64) -> Result<Self> {
        let dim: i64 = shape.iter().product();
        if dim < 1 || config.widths.iter().any(|&w| w < 1) {
            return Err(Error::model("the network is not defined")
                .why(format!("samples of shape {shape:?}, widths {:?}", config.widths)));
        }
        let time = Fourier::new(&(p / "time"), config.time_features, config.fourier_scale)?;
        let mut input = dim + config.time_features + classes;
        let mut layers = Vec::new();
        for (i, &width) in config.widths.iter().chain([&dim]).enumerate() {
            layers.push(Linear::new(&(p / format!("layers.{i}")), input, width)?);
            input = width;
        }
        Ok(Mlp { shape: shape.to_vec(), classes, time, layers })
    }
}

impl Network for Mlp {
    fn forward(&self, x: &Tensor, t: &Tensor, cond: &Cond, _mode: Mode) -> Result<Tensor> {
        let batch = x.size().first().copied().unwrap_or(0);
        let time = self.time.forward(t)?;
        let mut parts = vec![x.f_flatten(1, -1)?, time];
        let class = checked_class(cond.class.as_ref(), self.classes, batch)?;
        if self.classes > 0 {
            let none = || Tensor::f_full([batch], -1, (Kind::Int64, x.device()));
            let class = class.map_or_else(none, Ok)?;
            parts.push(one_hot(&class, self.classes, x.kind())?);
        }
        let mut h = Tensor::f_cat(&parts, 1)?;
        for (i, layer) in self.layers.iter().enumerate() {
            h = layer.forward(&h)?;
            if i + 1 < self.layers.len() {
                h = silu(h)?;
            }
        }
        // -1 for the batch: an exported network is to take any.
        let shape: Vec<i64> = std::iter::once(-1).chain(self.shape.iter().copied()).collect();
        Ok(h.f_reshape(shape)?)
    }

    fn sample_shape(&self) -> &[i64] {
        &self.shape
    }

    fn classes(&self) -> i64 {
        self.classes
    }
}

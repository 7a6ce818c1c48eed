//! DiffWave with SaShiMi (Goel et al. 2022, "It's raw! Audio generation with state-space models", section 4.3): a
//! U-Net of bidirectional state-space layers in the place of the dilated convolutions.
//!
//! Parameters are named as in the published files, except for those of the state-space layers.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::mel::{MelConfig, checked};
use super::step::{StepEmbedding, StepTable};
use super::unit::{DownPool, ScalarNorm, Unit, UpPool};
use super::{Head, checked_input};
use crate::error::{Error, Result};
use crate::net::layers::ssm::{DtTransform, S4Config, SsmMode};
use crate::net::layers::weight_norm::NormConv1d;
use crate::net::store::Path;
use crate::net::{Cond, Mode, Network};
use crate::torch::spectrum::MelSpectrogram;

/// Options of the network. Defaults are those of the large unconditional model (23.5 million parameters).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiffWaveSashimiConfig {
    /// Channels at the full rate.
    pub d_model: i64,
    /// Units of each level (down, and up again).
    pub n_layers: i64,
    /// Factors between levels.
    pub pool: Vec<i64>,
    /// Factor of the channels between levels.
    pub expand: i64,
    /// Factor of the channels inside feed-forward blocks.
    pub ff: i64,
    /// Units on the way down too, and a skip connection for each; else for the pools alone.
    pub unet: bool,
    /// The mel spectrogram that it is conditioned on, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mel: Option<MelConfig>,
    /// The sinusoids of the diffusion step.
    pub steps: StepTable,
    /// Size of a state.
    pub d_state: i64,
    /// Structure of the state matrices.
    pub ssm: SsmMode,
    /// Independent copies of them in a layer; 0 for one per channel.
    pub n_ssm: i64,
    /// Layers look both ways in time.
    pub bidirectional: bool,
    /// Learning rate of the state-space parameters before the schedule; 0 takes that of the rest.
    pub ssm_lr: f64,
}

impl Default for DiffWaveSashimiConfig {
    fn default() -> Self {
        DiffWaveSashimiConfig {
            d_model: 128,
            n_layers: 6,
            pool: vec![4, 4],
            expand: 2,
            ff: 2,
            unet: true,
            mel: None,
            steps: StepTable::default(),
            d_state: 64,
            ssm: SsmMode::Dplr,
            n_ssm: 0,
            bidirectional: true,
            ssm_lr: 0.0,
        }
    }
}

impl DiffWaveSashimiConfig {
    /// Samples that are one at the coarsest level.
    #[must_use]
    pub fn stride(&self) -> i64 {
        self.pool.iter().product()
    }

    fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::model("the network is not defined").why(why));
        if self.pool.len() > 8 || self.pool.iter().any(|p| !(1..=64).contains(p)) {
            return wrong(format!("pool = {:?}", self.pool));
        }
        let factors = (1..=16).contains(&self.expand) && (1..=64).contains(&self.ff);
        if !factors || !(1..=4096).contains(&self.n_layers) || !(1..=65_536).contains(&self.d_model) {
            return wrong(format!(
                "d_model {}, n_layers {}, expand {}, ff {}",
                self.d_model, self.n_layers, self.expand, self.ff
            ));
        }
        self.mel.as_ref().map_or(Ok(()), MelConfig::check)
    }

    fn layer(&self, d_model: i64) -> S4Config {
        S4Config {
            d_model,
            d_state: self.d_state,
            mode: self.ssm,
            init: "legs".to_owned(),
            n_ssm: self.n_ssm,
            dt_transform: DtTransform::Exp,
            bidirectional: self.bidirectional,
            b_clip: 0.0,
            lr: self.ssm_lr,
            ..S4Config::default()
        }
    }
}

#[derive(Debug)]
enum Layer {
    Unit(Box<Unit>),
    Down(DownPool),
    Up(UpPool),
}

impl Layer {
    fn forward(&self, x: &Tensor, step: &Tensor, mel: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Layer::Unit(unit) => unit.forward(x, step, mel),
            Layer::Down(pool) => pool.forward(x),
            Layer::Up(pool) => pool.forward(x),
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct DiffWaveSashimi {
    shape: Vec<i64>,
    config: DiffWaveSashimiConfig,
    first: NormConv1d,
    step: StepEmbedding,
    down: Vec<Layer>,
    centre: Vec<Layer>,
    up: Vec<Layer>,
    norm: ScalarNorm,
    head: Head,
}

impl DiffWaveSashimi {
    /// The network for waveforms of `shape` `[C, T]` at `p`; it runs on any length that its pools divide.
    ///
    /// # Errors
    /// Where the options do not make a network, or samples are no waveforms of such a length.
    pub fn new(p: &Path, config: &DiffWaveSashimiConfig, shape: &[i64], classes: i64) -> Result<Self> {
        config.check()?;
        let channels = super::channels(shape, classes)?;
        divided(shape[1], &config.pool).map_err(|e| e.kinded(crate::error::Kind::Model))?;
        let first = NormConv1d::new(&(p / "init_conv.0.conv"), (channels, config.d_model), 1, 1, true)?;
        let step = StepEmbedding::new(p, config.steps)?;
        let mel = config.mel.as_ref();
        let unit = |place: &Path, width: i64| -> Result<Layer> {
            Ok(Layer::Unit(Box::new(Unit::new(place, &config.layer(width), config.ff, mel)?)))
        };
        let mut width = config.d_model;
        let mut down = Vec::new();
        for &factor in &config.pool {
            for _ in 0..if config.unet { config.n_layers } else { 0 } {
                down.push(unit(&(p / format!("d_layers.{}", down.len())), width)?);
            }
            let place = p / format!("d_layers.{}", down.len());
            down.push(Layer::Down(DownPool::new(&place, (width, width * config.expand), factor)?));
            width *= config.expand;
        }
        let centre = (0..config.n_layers)
            .map(|i| unit(&(p / format!("c_layers.{i}")), width))
            .collect::<Result<Vec<_>>>()?;
        let mut up = Vec::new();
        for &factor in config.pool.iter().rev() {
            let place = p / format!("u_layers.{}", up.len());
            up.push(Layer::Up(UpPool::new(&place, (width, width / config.expand), factor)?));
            width /= config.expand;
            for _ in 0..config.n_layers {
                up.push(unit(&(p / format!("u_layers.{}", up.len())), width)?);
            }
        }
        let norm = ScalarNorm::new(&(p / "norm"))?;
        let head = Head::new(p, config.d_model, channels, true)?;
        let (shape, config) = (shape.to_vec(), config.clone());
        Ok(DiffWaveSashimi { shape, config, first, step, down, centre, up, norm, head })
    }
}

/// Refuses lengths that the pools do not divide.
fn divided(length: i64, pool: &[i64]) -> Result<()> {
    let stride: i64 = pool.iter().product();
    if length % stride == 0 {
        return Ok(());
    }
    let factors: Vec<String> = pool.iter().map(i64::to_string).collect();
    Err(Error::usage(format!("waveforms of {length} samples"))
        .why(format!("the length is not divisible by {stride} (pool {})", factors.join("x"))))
}

impl Network for DiffWaveSashimi {
    fn forward(&self, x: &Tensor, t: &Tensor, cond: &Cond, _mode: Mode) -> Result<Tensor> {
        let (batch, length) = checked_input(x, self.shape[0])?;
        divided(length, &self.config.pool)?;
        let mel = checked(cond.mel.as_ref(), self.config.mel.as_ref(), (batch, length), x.kind())?;
        // The shared upsampler is none here: every unit has its own.
        let (mel, step) = (mel.as_ref(), self.step.forward(t, x.kind())?);
        let mut x = self.first.forward(x)?.f_relu()?;
        let mut skips = Vec::new();
        for layer in &self.down {
            let next = layer.forward(&x, &step, mel)?;
            skips.push(x);
            x = next;
        }
        let before = x.shallow_clone();
        for layer in &self.centre {
            x = layer.forward(&x, &step, mel)?;
        }
        x = x.f_add(&before)?;
        for layer in &self.up {
            x = layer.forward(&x, &step, mel)?;
            if self.config.unet || matches!(layer, Layer::Up(_)) {
                let skip = skips.pop().ok_or_else(|| Error::run("a level without its skip connection"))?;
                x = x.f_add(&skip)?;
            }
        }
        self.head.forward(&self.norm.forward(&x)?)
    }

    fn sample_shape(&self) -> &[i64] {
        &self.shape
    }

    fn spectrogram(&self) -> Option<MelSpectrogram> {
        self.config.mel.as_ref().map(MelConfig::spectrogram)
    }
}

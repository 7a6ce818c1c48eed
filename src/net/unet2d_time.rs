//! What [`UNet2D`](super::unet2d::UNet2D) makes of the time and the class.

use std::f64::consts::PI;

use tch::{Kind, Tensor};

use super::layers::embed::{Sinusoid, checked_class, one_hot};
use super::layers::init::Init;
use super::layers::linear::Linear;
use super::layers::silu;
use super::store::Path;
use super::unet2d_config::{ClassEmbed, TimeEmbedding, UNet2DConfig};
use super::unet2d_resnet::Step;
use crate::error::{Error, Result};

/// Standard deviation of the frequencies of Fourier features.
const FOURIER_SCALE: f64 = 16.0;

/// Features of a time.
#[derive(Debug)]
enum Features {
    /// Sines and cosines; with an odd number of features a zero is added.
    Sinusoid { sinusoid: Sinusoid, pad: bool },
    /// `[sin, cos](2 pi W ln t)`.
    Fourier(Tensor),
    /// Rows of a table.
    Table(Tensor),
}

impl Features {
    fn new(p: &Path, config: &UNet2DConfig, width: i64) -> Result<Self> {
        Ok(match config.time_embedding_type {
            TimeEmbedding::Positional => {
                let pad = width % 2 == 1;
                let dim = width - i64::from(pad);
                let sinusoid = Sinusoid::new(p, dim, config.freq_shift, config.flip_sin_to_cos)?;
                Features::Sinusoid { sinusoid, pad }
            }
            TimeEmbedding::Fourier => {
                let p = p / "time_proj";
                Features::Fourier(p.buffer("weight", &[width], Init::Normal(FOURIER_SCALE))?)
            }
            TimeEmbedding::Learned => {
                let rows = config.num_train_timesteps.unwrap_or(0);
                Features::Table((p / "time_proj").param("weight", &[rows, width], Init::Normal(1.0))?)
            }
        })
    }

    /// `t` `[B]` to `[B, F]`.
    fn forward(&self, t: &Tensor) -> Result<Tensor> {
        match self {
            Features::Sinusoid { sinusoid, pad } => {
                let features = sinusoid.forward(t)?;
                if *pad { Ok(features.f_constant_pad_nd([0, 1])?) } else { Ok(features) }
            }
            Features::Fourier(w) => {
                // In the order of diffusers: with frequencies of hundreds of turns the rounding shows.
                let phase = t.f_to_kind(w.kind())?.f_log()?.f_unsqueeze(1)?.f_mul(w)?;
                let phase = phase.f_mul_scalar(2.0)?.f_mul_scalar(PI)?;
                Ok(Tensor::f_cat(&[phase.f_sin()?, phase.f_cos()?], 1)?)
            }
            Features::Table(table) => {
                // Only whole times have a row; those between take the nearest.
                let rows = table.size()[0];
                let index = t.f_round()?.f_clamp(0.0, (rows - 1) as f64)?.f_to_kind(Kind::Int64)?;
                Ok(table.f_index_select(0, &index)?)
            }
        }
    }
}

/// Linear, SiLU, linear.
#[derive(Debug)]
struct Mlp(Linear, Linear);

impl Mlp {
    fn new(p: &Path, input: i64, out: i64) -> Result<Self> {
        Ok(Mlp(Linear::new(&(p / "linear_1"), input, out)?, Linear::new(&(p / "linear_2"), out, out)?))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.1.forward(&silu(self.0.forward(x)?)?)
    }
}

/// How labels enter.
#[derive(Debug)]
enum Labels {
    /// There are none.
    Absent,
    /// A row of `[classes, E]` for each.
    Table(Tensor),
    /// Their numbers, embedded as times.
    Time(Mlp),
    /// They are vectors `[B, E]`.
    Vector,
}

/// The embedding of time and class.
#[derive(Debug)]
pub(super) struct Embedding {
    features: Features,
    time: Mlp,
    labels: Labels,
    classes: i64,
}

impl Embedding {
    /// For `classes` classes (0 for none), with parameters at `p`.
    pub fn new(p: &Path, config: &UNet2DConfig, classes: i64) -> Result<Self> {
        let (width, emb) = (config.block_out_channels[0], config.emb_dim());
        let fourier = config.time_embedding_type == TimeEmbedding::Fourier;
        let inputs = if fourier { 2 * width } else { width };
        let c = p / "class_embedding";
        let labels = match config.class_embed_type {
            ClassEmbed::Table if classes == 0 => Labels::Absent,
            ClassEmbed::Table => Labels::Table(c.param("weight", &[classes, emb], Init::Normal(1.0))?),
            ClassEmbed::Identity if classes == 0 => Labels::Vector,
            ClassEmbed::Timestep if classes > 0 => Labels::Time(Mlp::new(&c, inputs, emb)?),
            _ => {
                return Err(Error::model("config key `class_embed_type`").why(if classes == 0 {
                    "a network that embeds labels as times needs classes"
                } else {
                    "a network that takes vectors for labels has no classes"
                }));
            }
        };
        Ok(Embedding {
            features: Features::new(p, config, width)?,
            time: Mlp::new(&(p / "time_embedding"), inputs, emb)?,
            labels,
            classes,
        })
    }

    /// What the blocks need of the times `t` `[B]` and the labels: indices `[B]` of classes (-1 for "no
    /// class"), or vectors `[B, E]`.
    pub fn forward(
        &self,
        t: &Tensor,
        class: Option<&Tensor>,
        config: &UNet2DConfig,
        train: bool,
    ) -> Result<Step> {
        let mut emb = self.time.forward(&self.features.forward(t)?)?;
        if let Some(label) = self.label(class, &emb)? {
            emb = emb.f_add(&label.f_to_kind(emb.kind())?)?;
        }
        Ok(Step { act: config.act_fn.of(&emb)?, emb, train })
    }

    fn label(&self, class: Option<&Tensor>, emb: &Tensor) -> Result<Option<Tensor>> {
        if let Labels::Vector = self.labels {
            let Some(vector) = class else {
                return Err(Error::usage("the model is conditioned on vectors, but none was given")
                    .hint("a network with class_embed_type identity can be used from the library only"));
            };
            if vector.size() != emb.size() {
                return Err(Error::run("label vectors").why(format!(
                    "expected {:?}, got {:?}",
                    emb.size(),
                    vector.size()
                )));
            }
            return Ok(Some(vector.shallow_clone()));
        }
        let Some(class) = checked_class(class, self.classes, emb.size()[0])? else { return Ok(None) };
        match &self.labels {
            Labels::Table(table) => Ok(Some(one_hot(&class, self.classes, table.kind())?.f_matmul(table)?)),
            Labels::Time(mlp) => {
                let label = mlp.forward(&self.features.forward(&class)?)?;
                let none = class.f_lt(0)?.f_unsqueeze(1)?;
                Ok(Some(label.f_masked_fill(&none, 0.0)?))
            }
            Labels::Absent | Labels::Vector => Ok(None),
        }
    }
}

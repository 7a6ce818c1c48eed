//! The network: embedding, backbone, logits.

use tch::{Kind, Tensor};

use super::backbone::{Backbone, Carry};
use super::block::Map;
use super::config::SashimiConfig;
use super::{pack, step};
use crate::error::{Error, Result};
use crate::net::causal::{Causal, Steps};
use crate::net::layers::embed::checked_class;
use crate::net::layers::init::Init;
use crate::net::store::Path;
use crate::net::{Cond, Mode, Network};
use crate::optim::Group;

/// The network.
#[derive(Debug)]
pub struct Sashimi {
    pub(super) config: SashimiConfig,
    shape: Vec<i64>,
    classes: i64,
    pub(super) embedding: Tensor,
    table: Option<Tensor>,
    pub(super) backbone: Backbone,
    pub(super) head: Map,
}

impl Sashimi {
    /// The network for clips of `shape` `[1, T]` and `classes` classes (0 for none) at `p`.
    ///
    /// # Errors
    /// Where the options do not make a network for this shape, or libtorch fails.
    pub fn new(p: &Path, config: &SashimiConfig, shape: &[i64], classes: i64) -> Result<Self> {
        config.check()?;
        if !matches!(shape, &[1, t] if t > 0) {
            return Err(Error::model("the SaShiMi network is not defined")
                .why(format!("it needs waveforms of one channel, not samples of shape {shape:?}")));
        }
        let (vocab, width) = (config.vocab(), config.d_model);
        let encoder = p / "encoder";
        let embedding = (&encoder / "0").param("weight", &[vocab, width], Init::Normal(1.0))?;
        let table = (classes > 0)
            .then(|| (&encoder / "class").param("weight", &[classes, width], Init::Normal(1.0)))
            .transpose()?;
        let backbone = Backbone::new(&(p / "model"), config)?;
        let head = Map::new(&(p / "decoder.0.output_transform"), width, vocab, Group::default())?;
        let (config, shape) = (config.clone(), shape.to_vec());
        Ok(Sashimi { config, shape, classes, embedding, table, backbone, head })
    }

    /// The options.
    #[must_use]
    pub fn config(&self) -> &SashimiConfig {
        &self.config
    }

    /// What the class adds to every position, `[B, H]`; none without classes.
    pub(super) fn class_vector(&self, cond: &Cond, batch: i64) -> Result<Option<Tensor>> {
        let class = checked_class(cond.class.as_ref(), self.classes, batch)?;
        let (Some(table), Some(class)) = (&self.table, class) else { return Ok(None) };
        let rows = table.f_index_select(0, &class.f_clamp_min(0)?)?;
        Ok(Some(rows.f_masked_fill(&class.f_lt(0)?.f_unsqueeze(1)?, 0.0)?))
    }

    /// Logits of `tokens` `[B, L]`, going on from and updating `carry`.
    pub(super) fn run(
        &self,
        tokens: &Tensor,
        class: Option<&Tensor>,
        mode: Mode,
        carry: Option<&mut Carry>,
    ) -> Result<Tensor> {
        let mut x = Tensor::f_embedding(&self.embedding, tokens, -1, false, false)?;
        if let Some(class) = class {
            x = x.f_add(&class.f_unsqueeze(1)?)?;
        }
        self.head.forward(&self.backbone.forward(&x, mode, carry)?)
    }

    /// As [`Causal::begin`], by operations of libtorch whatever the device: what other recurrences are checked
    /// against.
    ///
    /// # Errors
    /// As [`Causal::begin`].
    pub fn begin_by_operations(&self, batch: i64, cond: &Cond) -> Result<Box<dyn Steps + '_>> {
        let _guard = tch::no_grad_guard();
        let class = self.class_vector(cond, batch)?;
        Ok(Box::new(step::Stepper::new(self, batch, class)?))
    }
}

/// `tokens` checked to be i64 `[B, L]` (`[B, 1, L]` is taken as well).
fn sequences(tokens: &Tensor, stride: i64) -> Result<Tensor> {
    let size = tokens.size();
    let flat = match size[..] {
        [_, _] => tokens.shallow_clone(),
        [_, 1, _] => tokens.f_squeeze_dim(1)?,
        _ => return Err(wrong(&size)),
    };
    let len = flat.size()[1];
    if flat.kind() != Kind::Int64 || len < 1 || size[0] < 1 {
        return Err(wrong(&size).why(format!("they have dtype {:?}", flat.kind())));
    }
    if len % stride != 0 {
        return Err(wrong(&size).why(format!("{len} is no multiple of {stride}")));
    }
    Ok(flat)
}

fn wrong(size: &[i64]) -> Error {
    Error::run(format!("tokens of shape {size:?}")).hint("the network takes i64 tokens [batch, length]")
}

impl Causal for Sashimi {
    fn vocab(&self) -> i64 {
        self.config.vocab()
    }

    fn logits(&self, tokens: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        let tokens = sequences(tokens, self.stride())?;
        let class = self.class_vector(cond, tokens.size()[0])?;
        self.run(&tokens, class.as_ref(), mode, None)
    }

    fn start_token(&self) -> i64 {
        self.config.vocab() / 2
    }

    fn stride(&self) -> i64 {
        self.config.stride()
    }

    fn begin(&self, batch: i64, cond: &Cond) -> Result<Box<dyn Steps + '_>> {
        if batch < 1 {
            return Err(Error::run(format!("a batch of {batch} sequences")));
        }
        let _guard = tch::no_grad_guard();
        if pack::fits(self) {
            let class = self.class_vector(cond, batch)?;
            return Ok(Box::new(pack::Packed::new(self, batch, class)?));
        }
        self.begin_by_operations(batch, cond)
    }
}

impl Network for Sashimi {
    /// `x` are tokens, `t` is ignored; the output are logits `[B, L, V]`.
    fn forward(&self, x: &Tensor, _t: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        self.logits(x, cond, mode)
    }

    fn sample_shape(&self) -> &[i64] {
        &self.shape
    }

    fn classes(&self) -> i64 {
        self.classes
    }

    fn causal(&self) -> Option<&dyn Causal> {
        Some(self)
    }
}

//! The network: embedding, backbone, logits.

use tch::Tensor;

use super::backbone::{Backbone, Carry};
use super::block::Map;
use super::config::SashimiConfig;
use super::{pack, step};
use crate::error::{Error, Result};
use crate::net::causal::{Causal, Steps};
use crate::net::layers::tokens::{TokenEmbedding, sequences};
use crate::net::store::Path;
use crate::net::{Cond, Mode, Network};
use crate::optim::Group;

/// The network.
#[derive(Debug)]
pub struct Sashimi {
    pub(super) config: SashimiConfig,
    shape: Vec<i64>,
    pub(super) embedding: TokenEmbedding,
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
        let embedding = TokenEmbedding::new(&(p / "encoder"), vocab, width, classes)?;
        let backbone = Backbone::new(&(p / "model"), config)?;
        let head = Map::new(&(p / "decoder.0.output_transform"), width, vocab, Group::default())?;
        let (config, shape) = (config.clone(), shape.to_vec());
        Ok(Sashimi { config, shape, embedding, backbone, head })
    }

    /// The options.
    #[must_use]
    pub fn config(&self) -> &SashimiConfig {
        &self.config
    }

    /// Logits of `tokens` `[B, L]`, going on from and updating `carry`.
    pub(super) fn run(
        &self,
        tokens: &Tensor,
        class: Option<&Tensor>,
        mode: Mode,
        carry: Option<&mut Carry>,
    ) -> Result<Tensor> {
        let x = self.embedding.forward(tokens, class)?;
        self.head.forward(&self.backbone.forward(&x, mode, carry)?)
    }

    /// As [`Causal::begin`], by operations of libtorch whatever the device: what other recurrences are checked
    /// against.
    ///
    /// # Errors
    /// As [`Causal::begin`].
    pub fn begin_by_operations(&self, batch: i64, cond: &Cond) -> Result<Box<dyn Steps + '_>> {
        let _guard = tch::no_grad_guard();
        let class = self.embedding.class_rows(cond, batch)?;
        Ok(Box::new(step::Stepper::new(self, batch, class)?))
    }
}

impl Causal for Sashimi {
    fn vocab(&self) -> i64 {
        self.config.vocab()
    }

    fn logits(&self, tokens: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        let tokens = sequences(tokens, self.stride())?;
        let class = self.embedding.class_rows(cond, tokens.size()[0])?;
        self.run(&tokens, class.as_ref(), mode, None)
    }

    fn start_token(&self) -> i64 {
        self.config.vocab() / 2
    }

    fn stride(&self) -> i64 {
        self.config.stride()
    }

    fn begin(&self, batch: i64, cond: &Cond) -> Result<Box<dyn Steps + '_>> {
        let _guard = tch::no_grad_guard();
        if pack::fits(self) {
            let class = self.embedding.class_rows(cond, batch)?;
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
        self.embedding.classes()
    }

    fn causal(&self) -> Option<&dyn Causal> {
        Some(self)
    }
}

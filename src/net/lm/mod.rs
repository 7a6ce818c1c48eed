//! Transformer language models: the GPT-2 family and the Llama family with the options of Mistral, Qwen2, Qwen3, Gemma
//! and Gemma 2.
//!
//! One network with options ([`LmConfig`]); parameters have names of their own (`blocks.0.attn.qkv.weight`, queries,
//! keys and values in one matrix, gate and input of a gated feed-forward part in another), and [`weights`] maps those
//! of Hugging Face files to them. On the CPU activations are f32 whatever the weights are.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use self::block::{Block, Norm, OneStep, Pass, Sees};
use self::cache::Layer;
pub use self::config::LmConfig;
use self::config::Positions;
use self::matrix::Matrix;
use self::steps::LmSteps;
use super::causal::{Causal, Steps};
use super::store::Path;
use super::{Cond, Mode, Network};
use crate::error::{Error, Result};

mod block;
mod cache;
pub mod config;
pub mod json;
mod matrix;
pub mod rope;
mod steps;
pub mod timing;
pub mod weights;

/// Cosines and sines for the positions of sequences of `len` tokens.
#[derive(Debug)]
struct Table {
    len: i64,
    cos: Tensor,
    sin: Tensor,
}

/// The network.
#[derive(Debug)]
pub struct Lm {
    config: LmConfig,
    embed: Matrix,
    positions: Option<Matrix>,
    blocks: Vec<Block>,
    norm: Norm,
    head: Option<Matrix>,
    table: RefCell<Option<Table>>,
    /// Dtype of activations.
    stream: Kind,
    device: Device,
    shape: [i64; 2],
}

impl Lm {
    /// The network of `config` at `p`; `length` is that of the sequences it is trained on. First values are those of
    /// GPT-2: normal with 0.02, divided by `(2 depth)^1/2` where a block adds to its input.
    ///
    /// # Errors
    /// Where the options do not make a network, or libtorch fails.
    #[allow(clippy::cast_precision_loss)]
    pub fn new(p: &Path, config: &LmConfig, length: i64) -> Result<Self> {
        config.check()?;
        let (std, d) = (0.02, config.width);
        let residual = std / (2.0 * config.depth as f64).sqrt();
        let (device, kind) = (p.store().device(), p.store().kind());
        let stream = if device == Device::Cpu && kind != Kind::Double { Kind::Float } else { kind };
        let positions = match config.positions {
            Positions::Learned => Some(Matrix::new(&(p / "positions"), d, config.context, std, false)?),
            Positions::Rotary => None,
        };
        Ok(Lm {
            embed: Matrix::new(&(p / "embed"), d, config.vocab, std, false)?,
            positions,
            blocks: (0..config.depth)
                .map(|i| Block::new(&(p / format!("blocks.{i}")), config, i, std, residual))
                .collect::<Result<_>>()?,
            norm: Norm::new(&(p / "norm"), d, config.norm, config.eps)?,
            head: if config.tied {
                None
            } else {
                Some(Matrix::new(&(p / "head"), d, config.vocab, std, false)?)
            },
            table: RefCell::new(None),
            stream,
            device,
            shape: [1, length],
            config: config.clone(),
        })
    }

    /// The options it was made with.
    #[must_use]
    pub fn config(&self) -> &LmConfig {
        &self.config
    }

    /// Where its weights are.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Bytes of weights that one step of decoding reads.
    #[must_use]
    pub fn bytes_per_step(&self) -> usize {
        let blocks: usize = self.blocks.iter().flat_map(Block::matrices).map(Matrix::bytes).sum();
        blocks + self.output().bytes()
    }

    fn output(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// Turns the weights of all linear layers, output and embedding into 8-bit integers with a scale for each row. A
    /// store that still holds the network's weights keeps their memory.
    ///
    /// # Errors
    /// Where a weight is not finite, or libtorch fails.
    pub fn quantise(&mut self) -> Result<()> {
        let blocks = self.blocks.iter_mut().flat_map(Block::matrices_mut);
        let mut all: Vec<&mut Matrix> = blocks.chain(self.head.as_mut()).chain([&mut self.embed]).collect();
        all.iter_mut().try_for_each(|matrix| matrix.quantise())
    }

    /// The last block's output after the final norm, `[B, L, D]`: features of the tokens `[B, L]`.
    ///
    /// # Errors
    /// Where a token is unknown, the sequence is longer than the context, or libtorch fails.
    pub fn hidden(&self, tokens: &Tensor, mode: Mode) -> Result<Tensor> {
        self.pass(tokens, &[], None, mode)
    }

    /// A state for `batch` sequences, with what only this kind of network can do (see [`LmSteps`]).
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn start(&self, batch: i64) -> Result<LmSteps<'_>> {
        LmSteps::new(self, batch)
    }

    /// `hidden` `[..., D]` to logits `[..., V]`, in f32 (f64 for a network in f64).
    fn logits_of(&self, hidden: &Tensor) -> Result<Tensor> {
        let y = self.output().forward(hidden)?;
        let y = if self.stream == Kind::Double { y } else { y.f_to_kind(Kind::Float)? };
        match self.config.logit_softcap {
            Some(cap) => Ok(y.f_div_scalar(cap)?.f_tanh()?.f_mul_scalar(cap)?),
            None => Ok(y),
        }
    }

    fn check_length(&self, len: i64) -> Result<()> {
        let limit = self.config.limit();
        if len <= limit {
            return Ok(());
        }
        Err(Error::usage("the text is too long for the model")
            .why(format!("it has {len} tokens, the context is {limit}"))
            .hint("use a shorter prompt, or generate fewer tokens"))
    }

    /// Cosines and sines for the first `len` positions of sequences of that length.
    fn rotary(&self, len: i64) -> Result<Option<(Tensor, Tensor)>> {
        let c = &self.config;
        if c.positions != Positions::Rotary {
            return Ok(None);
        }
        let mut kept = self.table.borrow_mut();
        // Frequencies depend on the length beyond the context only, where they are scaled dynamically.
        let stands_for = len.max(c.context);
        let fits = |t: &Table| t.len == stands_for && t.cos.size()[0] >= len;
        if !kept.as_ref().is_some_and(fits) {
            let rows = (len + cache::BLOCK - 1) / cache::BLOCK * cache::BLOCK;
            let kind = if self.stream == Kind::Double { Kind::Double } else { Kind::Float };
            let (cos, sin) = c.rope.table(c.head(), c.context, (rows, stands_for), kind, self.device)?;
            *kept = Some(Table { len: stands_for, cos, sin });
        }
        Ok(kept.as_ref().map(|t| (t.cos.shallow_clone(), t.sin.shallow_clone())))
    }

    /// Embeddings of `tokens` (any shape) at `positions` (of the same shape, or one that fits it).
    fn embedded(&self, tokens: &Tensor, positions: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        let mut x = self.embed.rows(tokens, self.stream)?;
        if self.config.scale_embedding {
            #[allow(clippy::cast_precision_loss)]
            let by = (self.config.width as f64).sqrt();
            // The factor has the precision of the weights, as it had in training.
            let by = match self.embed.kind() {
                kind @ (Kind::BFloat16 | Kind::Half) => {
                    Tensor::from(by).f_to_kind(kind)?.f_double_value(&[])?
                }
                _ => by,
            };
            x = x.f_mul_scalar(by)?;
        }
        match &self.positions {
            Some(table) => Ok(x.f_add(&table.rows(&positions()?, self.stream)?)?),
            None => Ok(x),
        }
    }

    /// `tokens` `[B, L]` that follow those in `kept` to features `[B, L, D]`.
    fn pass(
        &self,
        tokens: &Tensor,
        pads: &[i64],
        kept: Option<(&mut [Layer], i64)>,
        mode: Mode,
    ) -> Result<Tensor> {
        let (_, l) = tokens.size2()?;
        let past = kept.as_ref().map_or(0, |k| k.1);
        let real = past + l - pads.iter().min().copied().unwrap_or(0);
        self.check_length(real)?;
        let integers = (Kind::Int64, self.device);
        let places = Tensor::f_arange_start(past, past + l, integers)?.f_unsqueeze(0)?;
        let padded = pads.iter().any(|p| *p != 0);
        let pads = if padded {
            Some(Tensor::f_from_slice(pads)?.f_to_device(self.device)?.f_unsqueeze(1)?)
        } else {
            None
        };
        let positions = match &pads {
            Some(pads) => places.f_sub(pads)?.f_clamp_min(0)?,
            None => places.shallow_clone(),
        };
        let dropout = if mode == Mode::Train { self.config.dropout } else { 0.0 };
        let rotary = match self.rotary(real)? {
            Some((cos, sin)) => {
                let flat = positions.f_flatten(0, 1)?;
                let pick = |t: &Tensor| -> Result<Tensor> {
                    let rows = t.f_index_select(0, &flat)?.f_to_kind(self.stream)?;
                    Ok(rows.f_view([-1, 1, l, self.config.head() / 2])?)
                };
                Some((pick(&cos)?, pick(&sin)?))
            }
            None => None,
        };
        let sees = |window: Option<i64>| sees(&places, past + l, pads.as_ref(), window);
        let windowed = self.config.window.map(|w| sees(Some(w))).transpose()?;
        let pass = Pass { rotary, full: sees(None)?, windowed, dropout };
        let mut x = self.embedded(tokens, || Ok(positions))?;
        if dropout > 0.0 {
            x = x.f_dropout(dropout, true)?;
        }
        match kept {
            Some((layers, at)) => {
                for (block, layer) in self.blocks.iter().zip(layers) {
                    x = block.forward(&x, &pass, Some((layer, at)))?;
                }
            }
            None => {
                for block in &self.blocks {
                    x = block.forward(&x, &pass, None)?;
                }
            }
        }
        self.norm.forward(&x)
    }

    /// Whether one token is done by the kernels for that.
    fn has_kernels(&self) -> bool {
        let free = |m: &Matrix| !m.requires_grad();
        self.device == Device::Cpu
            && self.stream == Kind::Float
            && self.blocks.iter().all(|b| b.steps() && b.matrices().into_iter().all(free))
            && free(&self.embed)
    }

    /// One token of every sequence, `tokens` `[B]`, at place `at`, to features `[B, D]`, by those kernels.
    /// The longest sequence then has `len` tokens.
    fn one(&self, tokens: &Tensor, pads: &Tensor, (at, len): (i64, i64), layers: &[Layer]) -> Result<Tensor> {
        let rotary = self.rotary(len)?;
        let rotary = rotary.as_ref().map(|(cos, sin)| (cos, sin));
        let step = OneStep { rotary, pads, at };
        let mut x = self.embedded(tokens, || Ok(pads.f_neg()?.f_add_scalar(at)?))?;
        for (block, layer) in self.blocks.iter().zip(layers) {
            x = block.step(&x, &step, layer)?;
        }
        self.norm.forward(&x)
    }
}

/// What tokens at `places` `[1, L]`, the last of `total`, see; `pads` `[B, 1]`.
fn sees(places: &Tensor, total: i64, pads: Option<&Tensor>, window: Option<i64>) -> Result<Sees> {
    let l = places.size()[1];
    let window = window.filter(|w| *w < total);
    if pads.is_none() && window.is_none() {
        if l == total {
            return Ok(Sees::Before);
        }
        if l == 1 {
            return Ok(Sees::All);
        }
    }
    let query = places.f_view([1, l, 1])?;
    let key = Tensor::f_arange(total, (Kind::Int64, places.device()))?.f_view([1, 1, total])?;
    let mut mask = key.f_le_tensor(&query)?;
    if let Some(window) = window {
        mask = mask.f_logical_and(&key.f_gt_tensor(&query.f_sub_scalar(window)?)?)?;
    }
    if let Some(pads) = pads {
        mask = mask.f_logical_and(&key.f_ge_tensor(&pads.f_unsqueeze(2)?)?)?;
        // What stands for nothing sees itself, so that it stays finite.
        mask = mask.f_logical_or(&key.f_eq_tensor(&query)?)?;
    }
    Ok(Sees::Mask(mask.f_unsqueeze(1)?))
}

impl Causal for Lm {
    fn vocab(&self) -> i64 {
        self.config.vocab
    }

    fn logits(&self, tokens: &Tensor, _cond: &Cond, mode: Mode) -> Result<Tensor> {
        self.logits_of(&self.hidden(tokens, mode)?)
    }

    fn start_token(&self) -> i64 {
        self.config.start_token()
    }

    fn begin(&self, batch: i64, _cond: &Cond) -> Result<Box<dyn Steps + '_>> {
        Ok(Box::new(self.start(batch)?))
    }
}

impl Network for Lm {
    fn forward(&self, x: &Tensor, _t: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        self.logits(x, cond, mode)
    }

    fn sample_shape(&self) -> &[i64] {
        &self.shape
    }

    fn causal(&self) -> Option<&dyn Causal> {
        Some(self)
    }
}

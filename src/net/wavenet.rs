//! The autoregressive WaveNet (van den Oord et al. 2016) as the published audio baseline has it: gated dilated
//! convolutions of two taps without bias, `z = tanh(f) sigmoid(g)`, residual and skip maps, two maps at the end.
//!
//! What lies before the first sample is silence without end: the input there is the start token, so every layer sees
//! the constant that such a past makes of it.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::causal::{Causal, Steps};
use super::layers::init::Init;
use super::layers::linear::bias_bound;
use super::layers::tokens::{TokenEmbedding, check_steps, sequences};
use super::{Cond, Mode, Network};
use crate::error::{Error, Result};
use crate::net::store::Path;

/// Options of the network. Defaults are those of the published baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WavenetConfig {
    /// Bits of a sample: the network has `2^bits` tokens.
    pub bits: u32,
    /// Runs of layers with dilations from 1 on.
    pub blocks: i64,
    /// Layers of a run, each of twice the dilation of the one before.
    pub layers: i64,
    /// Channels between layers.
    pub residual_channels: i64,
    /// Channels inside a layer.
    pub dilation_channels: i64,
    /// Channels of the sum of all layers.
    pub skip_channels: i64,
    /// Channels before the last map.
    pub end_channels: i64,
}

impl Default for WavenetConfig {
    fn default() -> Self {
        WavenetConfig {
            bits: 8,
            blocks: 4,
            layers: 10,
            residual_channels: 64,
            dilation_channels: 64,
            skip_channels: 1024,
            end_channels: 512,
        }
    }
}

impl WavenetConfig {
    fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::model("the WaveNet is not defined").why(why));
        if !(1..=12).contains(&self.bits) {
            return wrong(format!("bits = {} is not from 1 to 12", self.bits));
        }
        if !(1..=64).contains(&self.blocks) || !(1..=20).contains(&self.layers) {
            return wrong(format!("blocks = {}, layers = {}", self.blocks, self.layers));
        }
        let channels =
            [self.residual_channels, self.dilation_channels, self.skip_channels, self.end_channels];
        if channels.iter().any(|c| !(1..=1 << 14).contains(c)) {
            return wrong(format!("channels = {channels:?}"));
        }
        Ok(())
    }

    /// Inputs that an output depends on.
    #[must_use]
    pub fn receptive_field(&self) -> i64 {
        self.blocks * ((1 << self.layers) - 1) + 1
    }
}

/// A gated layer: weights `[D, R, 2]` (the tap of the past first), `[R, D, 1]`, `[S, D, 1]`.
#[derive(Debug)]
struct Layer {
    filter: Tensor,
    gate: Tensor,
    residual: Tensor,
    skip: Tensor,
    dilation: i64,
}

impl Layer {
    /// `x` `[B, R, d + L]`, d inputs of the past before L new ones; the new ones after the layer and the skip
    /// output, both of L.
    fn forward(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let conv = |w: &Tensor| x.f_conv1d(w, None::<Tensor>, [1], [0], [self.dilation], 1);
        let z = conv(&self.filter)?.f_tanh()?.f_mul(&conv(&self.gate)?.f_sigmoid()?)?;
        let one = |w: &Tensor| z.f_conv1d(w, None::<Tensor>, [1], [0], [1], 1);
        let new = x.f_narrow(2, self.dilation, x.size()[2] - self.dilation)?;
        Ok((one(&self.residual)?.f_add(&new)?, one(&self.skip)?))
    }
}

/// The network.
#[derive(Debug)]
pub struct Wavenet {
    config: WavenetConfig,
    shape: Vec<i64>,
    embedding: TokenEmbedding,
    start: Tensor,
    layers: Vec<Layer>,
    end: [(Tensor, Tensor); 2],
    head: (Tensor, Tensor),
}

impl Wavenet {
    /// The network for clips of `shape` `[1, T]` and `classes` classes (0 for none) at `p`.
    ///
    /// # Errors
    /// Where the options do not make a network for this shape, or libtorch fails.
    pub fn new(p: &Path, config: &WavenetConfig, shape: &[i64], classes: i64) -> Result<Self> {
        config.check()?;
        if !matches!(shape, &[1, t] if t > 0) {
            return Err(Error::model("the WaveNet is not defined")
                .why(format!("it needs waveforms of one channel, not samples of shape {shape:?}")));
        }
        let vocab = 1i64 << config.bits;
        let (r, d, s) = (config.residual_channels, config.dilation_channels, config.skip_channels);
        let embedding = TokenEmbedding::new(&(p / "encoder"), vocab, vocab, classes)?;
        let m = p / "model";
        let weight = |name: String, shape: &[i64]| (&m / name).param("weight", shape, Init::KaimingUniform);
        let layers = (0..config.blocks * config.layers)
            .map(|i| {
                Ok(Layer {
                    filter: weight(format!("filter_convs.{i}"), &[d, r, 2])?,
                    gate: weight(format!("gate_convs.{i}"), &[d, r, 2])?,
                    residual: weight(format!("residual_convs.{i}"), &[r, d, 1])?,
                    skip: weight(format!("skip_convs.{i}"), &[s, d, 1])?,
                    dilation: 1 << (i % config.layers),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let start = weight("start_conv".to_owned(), &[r, vocab, 1])?;
        let map = |p: &Path, shape: &[i64]| -> Result<(Tensor, Tensor)> {
            let bias = p.param("bias", &shape[..1], Init::Uniform(bias_bound(shape[1])))?;
            Ok((p.param("weight", shape, Init::KaimingUniform)?, bias))
        };
        let e = config.end_channels;
        Ok(Wavenet {
            end: [map(&(&m / "end_conv_1"), &[e, s, 1])?, map(&(&m / "end_conv_2"), &[vocab, e, 1])?],
            head: map(&(p / "decoder.0.output_transform"), &[vocab, vocab])?,
            config: config.clone(),
            shape: shape.to_vec(),
            embedding,
            start,
            layers,
        })
    }

    /// The options.
    #[must_use]
    pub fn config(&self) -> &WavenetConfig {
        &self.config
    }

    /// The input of the first layer, `[B, R, L]`.
    fn first(&self, tokens: &Tensor, class: Option<&Tensor>) -> Result<Tensor> {
        let x = self.embedding.forward(tokens, class)?;
        Ok(x.f_linear(&self.start.f_squeeze_dim(2)?, None::<Tensor>)?.f_transpose(1, 2)?)
    }

    /// What each layer has seen before the first input, `[B or 1, R, 1]`: its input after silence without end.
    fn silence(&self, class: Option<&Tensor>, batch: i64) -> Result<Vec<Tensor>> {
        let batch = if class.is_some() { batch } else { 1 };
        let tokens =
            Tensor::f_full([batch, 1], self.start_token(), (Kind::Int64, self.embedding.weight().device()))?;
        let mut x = self.first(&tokens, class)?;
        let mut out = Vec::new();
        for layer in &self.layers {
            out.push(x.shallow_clone());
            let filled = x.f_expand([-1, -1, layer.dilation + 1], false)?;
            x = layer.forward(&filled)?.0;
        }
        Ok(out)
    }

    fn last(&self, skip: &Tensor) -> Result<Tensor> {
        let mut y = skip.shallow_clone();
        for (weight, bias) in &self.end {
            y = y.f_relu()?.f_conv1d(weight, Some(bias), [1], [0], [1], 1)?;
        }
        Ok(y.f_transpose(1, 2)?.f_linear(&self.head.0, Some(&self.head.1))?)
    }

    /// Logits, with the past of each layer given and replaced.
    fn run(
        &self,
        tokens: &Tensor,
        class: Option<&Tensor>,
        past: &mut [Tensor],
        keep: bool,
    ) -> Result<Tensor> {
        let mut x = self.first(tokens, class)?;
        let batch = x.size()[0];
        let mut sum: Option<Tensor> = None;
        for (layer, past) in self.layers.iter().zip(past) {
            let before = past.f_expand([batch, -1, layer.dilation], false)?;
            let whole = Tensor::f_cat(&[&before, &x], 2)?;
            if keep {
                *past = whole.f_narrow(2, x.size()[2], layer.dilation)?.f_contiguous()?;
            }
            let (next, skip) = layer.forward(&whole)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&skip)?,
                None => skip,
            });
            x = next;
        }
        self.last(&sum.ok_or_else(|| Error::model("a WaveNet without layers"))?)
    }
}

impl Causal for Wavenet {
    fn vocab(&self) -> i64 {
        1 << self.config.bits
    }

    fn logits(&self, tokens: &Tensor, cond: &Cond, _mode: Mode) -> Result<Tensor> {
        let tokens = sequences(tokens, 1)?;
        let class = self.embedding.class_rows(cond, tokens.size()[0])?;
        let mut past = self.silence(class.as_ref(), tokens.size()[0])?;
        self.run(&tokens, class.as_ref(), &mut past, false)
    }

    fn start_token(&self) -> i64 {
        self.vocab() / 2
    }

    fn begin(&self, batch: i64, cond: &Cond) -> Result<Box<dyn Steps + '_>> {
        let _guard = tch::no_grad_guard();
        Ok(Box::new(Queues::new(self, batch, self.embedding.class_rows(cond, batch)?)?))
    }
}

impl Network for Wavenet {
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

/// The recurrence: each layer keeps its last d inputs in a ring `[d, B, R]` (Le Paine et al. 2016, "Fast WaveNet
/// generation algorithm").
#[derive(Debug)]
struct Queues<'a> {
    net: &'a Wavenet,
    batch: i64,
    class: Option<Tensor>,
    /// What a token makes of itself before the first layer, `[V, R]`, and what the class adds, `[B, R]`.
    table: Tensor,
    class_rows: Option<Tensor>,
    /// `[2 D, R]` for the past and for the present input (filter, then gate), and `[R + S, D]`.
    maps: Vec<(Tensor, Tensor, Tensor)>,
    rings: Vec<Tensor>,
    done: i64,
}

impl<'a> Queues<'a> {
    fn new(net: &'a Wavenet, batch: i64, class: Option<Tensor>) -> Result<Self> {
        let start = net.start.f_squeeze_dim(2)?;
        let mut maps = Vec::new();
        for layer in &net.layers {
            let both = Tensor::f_cat(&[&layer.filter, &layer.gate], 0)?;
            let out = Tensor::f_cat(&[&layer.residual, &layer.skip], 0)?;
            maps.push((
                both.f_select(2, 0)?.f_contiguous()?,
                both.f_select(2, 1)?.f_contiguous()?,
                out.f_squeeze_dim(2)?.f_contiguous()?,
            ));
        }
        let mut rings = Vec::new();
        for (layer, x) in net.layers.iter().zip(net.silence(class.as_ref(), batch)?) {
            let filled = x.f_permute([2, 0, 1])?.f_expand([layer.dilation, batch, -1], false)?;
            let mut ring = filled.f_detach()?.f_empty_like()?.f_contiguous()?;
            ring.f_copy_(&filled)?;
            rings.push(ring);
        }
        let class_rows = match &class {
            Some(rows) => Some(rows.f_linear(&start, None::<Tensor>)?),
            None => None,
        };
        let table = net.embedding.weight().f_linear(&start, None::<Tensor>)?;
        Ok(Queues { net, batch, class, table, class_rows, maps, rings, done: 0 })
    }
}

impl Steps for Queues<'_> {
    fn step(&mut self, tokens: &Tensor) -> Result<Tensor> {
        check_steps(tokens, self.batch, 1)?;
        let _guard = tch::no_grad_guard();
        let mut x = self.table.f_index_select(0, tokens)?;
        if let Some(rows) = &self.class_rows {
            x = x.f_add(rows)?;
        }
        let width = self.net.config.residual_channels;
        let mut sum: Option<Tensor> = None;
        for ((layer, (past, present, out)), ring) in self.net.layers.iter().zip(&self.maps).zip(&self.rings) {
            // The oldest input is the one that is needed, and makes room for the newest.
            let mut slot = ring.f_select(0, self.done % layer.dilation)?;
            let z = slot
                .f_matmul(&past.f_transpose(0, 1)?)?
                .f_addmm(&x, &present.f_transpose(0, 1)?)?
                .f_chunk(2, 1)?;
            slot.f_copy_(&x)?;
            let z = z[0].f_tanh()?.f_mul(&z[1].f_sigmoid()?)?.f_matmul(&out.f_transpose(0, 1)?)?;
            x = x.f_add(&z.f_narrow(1, 0, width)?)?;
            let skip = z.f_narrow(1, width, z.size()[1] - width)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&skip)?,
                None => skip,
            });
        }
        self.done += 1;
        let sum = sum.ok_or_else(|| Error::model("a WaveNet without layers"))?;
        Ok(self.net.last(&sum.f_unsqueeze(2)?)?.f_squeeze_dim(1)?)
    }

    fn prefill(&mut self, tokens: &Tensor) -> Result<Tensor> {
        check_steps(tokens, self.batch, 2)?;
        let _guard = tch::no_grad_guard();
        let mut past = Vec::new();
        for (layer, ring) in self.net.layers.iter().zip(&self.rings) {
            let oldest_first = ring.f_roll([-(self.done % layer.dilation)], [0i64])?;
            past.push(oldest_first.f_permute([1, 2, 0])?);
        }
        let logits = self.net.run(tokens, self.class.as_ref(), &mut past, true)?;
        self.done += tokens.size()[1];
        for ((layer, ring), past) in self.net.layers.iter().zip(&mut self.rings).zip(past) {
            *ring = past.f_permute([2, 0, 1])?.f_roll([self.done % layer.dilation], [0i64])?;
        }
        Ok(logits)
    }
}

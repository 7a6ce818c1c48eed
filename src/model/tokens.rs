//! Drawing samples from autoregressive models: seeds in, waveforms out.

use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use super::sampler::{Classes, Drawn, Job};
use crate::data::quantize::Quantizer;
use crate::decode::{Generated, SamplerSpec, generate};
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::net::causal::Causal;
use crate::noise::streams::{Rng, Streams};

/// How sequences are drawn.
#[derive(Debug)]
pub struct TokenSettings {
    /// How tokens are chosen.
    pub sampler: SamplerSpec,
    /// Tokens of a sequence, those of the prefix included.
    pub length: i64,
    /// Waveforms `[1, P]` that sequences begin with, taken in turn by a sample's place in the run.
    pub prefixes: Vec<Tensor>,
    /// The generator of the samples' streams.
    pub rng: Rng,
    /// Samples computed at once whatever the batch, so that its size cannot change a bit; none for the batch's own.
    pub block: Option<i64>,
}

/// An autoregressive model with settings.
pub struct TokenSampler<'a> {
    net: &'a dyn Causal,
    quant: &'a Quantizer,
    settings: TokenSettings,
    /// The prefixes as tokens.
    prefixes: Vec<Tensor>,
    classes: i64,
    device: Device,
}

impl<'a> TokenSampler<'a> {
    /// Checks the settings against the model.
    ///
    /// # Errors
    /// Where they do not fit.
    pub fn new(
        net: &'a dyn Causal,
        quant: &'a Quantizer,
        classes: i64,
        settings: TokenSettings,
        device: Device,
    ) -> Result<Self> {
        settings.sampler.chain()?;
        if settings.length < 1 {
            return Err(Error::usage("nothing to draw").at("--seconds").why("the length is 0"));
        }
        let mut prefixes = Vec::new();
        for wave in &settings.prefixes {
            let n = wave.size().last().copied().unwrap_or(0);
            if n >= settings.length {
                return Err(Error::usage(format!("the prefix has {n} samples"))
                    .at("--prefix")
                    .why(format!("{} are asked for in all", settings.length))
                    .hint("ask for more with --seconds, or shorten it with --prefix-seconds"));
            }
            prefixes.push(quant.encode(&wave.f_view([1, -1])?)?.f_to_device(device)?);
        }
        if let Some(first) = prefixes.first()
            && prefixes.iter().any(|p| p.size() != first.size())
        {
            return Err(Error::usage("prefixes of different lengths")
                .at("--prefix")
                .hint("--prefix-seconds cuts them to one length"));
        }
        Ok(TokenSampler { net, quant, settings, prefixes, classes, device })
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &TokenSettings {
        &self.settings
    }

    /// Network evaluations of a sample: the positions that are drawn.
    #[must_use]
    pub fn nfe(&self) -> u64 {
        let given = self.prefixes.first().map_or(0, |p| p.size()[1]);
        (self.settings.length - given).unsigned_abs()
    }

    /// Draws the samples of `jobs`; `watch` gets the share that is done.
    ///
    /// # Errors
    /// Where the network fails, or `watch` stops the run.
    pub fn draw(
        &self,
        jobs: &[Job],
        classes: &Classes,
        watch: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Drawn> {
        let block = self.settings.block.map_or(jobs.len(), |n| n.unsigned_abs() as usize).max(1);
        let mut parts = Vec::new();
        for (i, part) in jobs.chunks(block).enumerate() {
            // A block is filled up with repetitions of its first sample.
            let filled: Vec<Job> = (0..block).map(|k| part.get(k).copied().unwrap_or(part[0])).collect();
            let before = (i * block) as f64 / jobs.len() as f64;
            let share = part.len() as f64 / jobs.len() as f64;
            let mut tell = |done: f64| watch(before + share * done);
            parts.push((part.len() as i64, self.block(&filled, classes, &mut tell)?));
        }
        let mut waves = Vec::new();
        let (mut labels, mut extra) = (Vec::new(), Vec::new());
        for (n, (generated, class)) in parts {
            let tokens = generated.tokens.f_narrow(0, 0, n)?;
            waves.push(self.quant.decode(&tokens)?.f_to_kind(Kind::Float)?.f_unsqueeze(1)?);
            labels.extend(class.into_iter().take(n as usize));
            let values = generated.log_likelihood.iter().zip(&generated.entropy).take(n as usize);
            extra.extend(values.map(|(ll, entropy)| about(*ll, *entropy, generated.generated)));
        }
        Ok(Drawn {
            x: Tensor::f_cat(&waves, 0)?,
            classes: (self.classes > 0).then_some(labels),
            nfe: self.nfe(),
            extra,
        })
    }

    /// One block.
    fn block(
        &self,
        jobs: &[Job],
        classes: &Classes,
        watch: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<(Generated, Vec<i64>)> {
        let seeds: Vec<u64> = jobs.iter().map(|job| job.seed).collect();
        let mut streams = Streams::new(self.settings.rng, &seeds)?;
        let random = if self.classes > 0 { streams.below(self.classes)? } else { Vec::new() };
        let labels = match classes {
            Classes::None => Vec::new(),
            Classes::Random => random,
            Classes::List(list) => jobs.iter().map(|job| list[job.index % list.len()]).collect(),
        };
        let class = (!labels.is_empty())
            .then(|| -> Result<Tensor> { Ok(Tensor::f_from_slice(&labels)?.f_to_device(self.device)?) })
            .transpose()?;
        let cond = Cond { class, ..Cond::default() };
        let prefix = (!self.prefixes.is_empty())
            .then(|| {
                let n = self.prefixes.len();
                let rows: Vec<&Tensor> = jobs.iter().map(|job| &self.prefixes[job.index % n]).collect();
                Tensor::f_cat(&rows, 0)
            })
            .transpose()?;
        let length = self.settings.length;
        let mut tell = |at: i64| watch(at as f64 / length as f64);
        let generated = generate(
            self.net,
            &mut streams,
            (jobs.len() as i64, length),
            prefix.as_ref(),
            &self.settings.sampler,
            (&cond, self.device),
            &mut tell,
        )?;
        Ok((generated, labels))
    }
}

/// What the manifest says of a sample.
fn about(log_likelihood: f64, entropy: f64, n: i64) -> Map<String, Value> {
    let bits = std::f64::consts::LN_2;
    let n = n.max(1) as f64;
    let value = json!({
        "log_likelihood_nats": log_likelihood,
        "nll_bits": -log_likelihood / n / bits,
        "entropy_bits": entropy / bits,
    });
    value.as_object().cloned().unwrap_or_default()
}

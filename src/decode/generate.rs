//! The loop: step, draw, feed back.

use tch::{Device, Kind, Tensor};

use super::choose::Chooser;
use super::spec::SamplerSpec;
use crate::error::Result;
use crate::net::Cond;
use crate::net::causal::Causal;
use crate::noise::streams::Streams;

/// Steps whose random numbers are drawn together, and between which the caller is told how far things are.
/// Samples depend on it; it must not change.
const CHUNK: i64 = 256;

/// A batch of sequences.
#[derive(Debug)]
pub struct Generated {
    /// Tokens `[B, T]` i64 on the device, those of the prefix included.
    pub tokens: Tensor,
    /// Log-likelihood of the generated positions in nats under the model itself, for each sequence.
    pub log_likelihood: Vec<f64>,
    /// Mean entropy of the model's distribution over the generated positions in nats, for each sequence.
    pub entropy: Vec<f64>,
    /// Number of generated positions of each.
    pub generated: i64,
}

/// Draws sequences of `length` tokens; `prefix` `[B, P]` is given and not drawn. `watch` is told the number of
/// positions done.
///
/// # Errors
/// Where the network fails, or `watch` stops the run.
pub fn generate(
    net: &dyn Causal,
    streams: &mut Streams,
    (batch, length): (i64, i64),
    prefix: Option<&Tensor>,
    sampler: &SamplerSpec,
    (cond, device): (&Cond, Device),
    watch: &mut dyn FnMut(i64) -> Result<()>,
) -> Result<Generated> {
    let _no_grad = tch::no_grad_guard();
    let chooser = Chooser::new(sampler)?;
    let mut state = net.begin(batch, cond)?;
    let start = Tensor::f_full([batch, 1], net.start_token(), (Kind::Int64, device))?;
    let given = prefix.map_or(0, |p| p.size().get(1).copied().unwrap_or(0)).min(length);
    // What is fed in before the first free position: the start token and the prefix.
    let fed = match prefix {
        Some(prefix) => Tensor::f_cat(&[&start, &prefix.f_narrow(1, 0, given)?], 1)?,
        None => start,
    };
    let mut done: Vec<Tensor> = fed.f_narrow(1, 1, given)?.f_unbind(1)?;
    let last = |t: &Tensor| -> Result<Tensor> { Ok(t.f_narrow(1, t.size()[1] - 1, 1)?.f_squeeze_dim(1)?) };
    let mut logits = if given == 0 { state.step(&last(&fed)?)? } else { last_logits(&state.prefill(&fed)?)? };
    let options = (Kind::Double, device);
    let (mut likelihood, mut entropy) = (Tensor::f_zeros(batch, options)?, Tensor::f_zeros(batch, options)?);
    let mut at = given;
    while at < length {
        let n = CHUNK.min(length - at);
        // Always the whole chunk, so that a shorter run is the beginning of a longer one.
        let draws = chooser.draws();
        let u = streams.uniform(CHUNK * draws)?.f_view([batch, CHUNK, draws])?;
        let u = u.f_to_device(device)?.f_transpose(0, 1)?.f_contiguous()?;
        for i in 0..n {
            let choice = chooser.choose(&logits, &u.f_get(i)?)?;
            let _ = likelihood.f_add_(&choice.log_probs)?;
            let _ = entropy.f_add_(&choice.entropy)?;
            if at + i + 1 < length {
                logits = state.step(&choice.tokens)?;
            }
            done.push(choice.tokens);
        }
        at += n;
        watch(at)?;
    }
    let generated = length - given;
    let to_host = |t: &Tensor| -> Result<Vec<f64>> { Ok(Vec::<f64>::try_from(t.f_to_device(Device::Cpu)?)?) };
    Ok(Generated {
        tokens: Tensor::f_stack(&done, 1)?,
        log_likelihood: to_host(&likelihood)?,
        entropy: to_host(&entropy.f_div_scalar(generated.max(1))?)?,
        generated,
    })
}

fn last_logits(logits: &Tensor) -> Result<Tensor> {
    Ok(logits.f_select(1, -1)?)
}

//! Maximum likelihood of sequences, one token after another.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Batch, Losses, Objective};
use crate::data::quantize::Quantizer;
use crate::error::{Error, Result};
use crate::net::causal::Causal;
use crate::net::{Cond, Mode, Network};
use crate::process::Process;

/// The mean of `-ln p(q_t | q_<t)` over all positions but padding; the parts are the same in bits, and the share
/// of tokens that were the most probable one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Autoregressive {
    /// How waveforms become tokens.
    pub quant: Quantizer,
}

/// Target of positions that do not count.
const PADDING: i64 = -100;

impl Autoregressive {
    /// Tokens `[B, T]` of a batch: codes of a waveform `[B, 1, T]` of which `frames` are valid, or what is
    /// whole-numbered already.
    ///
    /// # Errors
    /// Where the waveform has several channels, or libtorch fails.
    pub fn tokens(&self, x: &Tensor, frames: Option<&Tensor>) -> Result<Tensor> {
        if matches!(x.kind(), Kind::Int64 | Kind::Int) {
            return Ok(x.shallow_clone());
        }
        match x.size().as_slice() {
            [_, 1, _] => self.quant.encode_valid(&x.f_squeeze_dim(1)?, frames),
            size => Err(Error::data("an autoregressive model needs one channel")
                .why(format!("the clips have shape {:?}", &size[1..]))
                .hint("set data.audio.channels = 1")),
        }
    }

    /// Logits `[B, T, V]` of `tokens` `[B, T]`, each from those before it.
    ///
    /// # Errors
    /// Where the network fails.
    pub fn logits(net: &dyn Causal, tokens: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
        let (batch, length) = tokens.size2()?;
        if length % net.stride() != 0 {
            return Err(Error::usage(format!("length {length} is not divisible by {}", net.stride()))
                .at("data.audio.length")
                .hint("the network halves its length several times; choose a multiple"));
        }
        let start = Tensor::f_full([batch, 1], net.start_token(), (Kind::Int64, tokens.device()))?;
        let shifted = Tensor::f_cat(&[&start, &tokens.f_narrow(1, 0, length - 1)?], 1)?;
        net.logits(&shifted, cond, mode)
    }

    /// `-ln p(q_t | q_<t)` of every position, `[B, T]` f32 in nats.
    ///
    /// # Errors
    /// Where the network fails.
    pub fn nats(net: &dyn Causal, tokens: &Tensor, cond: &Cond) -> Result<Tensor> {
        let logits = Self::logits(net, tokens, cond, Mode::Eval)?.f_to_kind(Kind::Float)?;
        let log_p = logits.f_log_softmax(-1, Kind::Float)?;
        Ok(log_p.f_gather(-1, &tokens.f_unsqueeze(-1)?, false)?.f_squeeze_dim(-1)?.f_neg()?)
    }
}

/// The network as an autoregressive one.
///
/// # Errors
/// A usage error where it is none.
pub fn causal(net: &dyn Network) -> Result<&dyn Causal> {
    net.causal().ok_or_else(|| {
        Error::usage("the network is not autoregressive")
            .at("[objective] type = \"autoregressive\"")
            .hint("sashimi and wavenet are")
    })
}

impl Objective for Autoregressive {
    fn loss(&self, net: &dyn Network, _process: &dyn Process, batch: &Batch) -> Result<Losses> {
        let net = causal(net)?;
        if batch.x.kind() == Kind::Float && net.vocab() != self.quant.levels() {
            return Err(Error::usage(format!("the network has {} values", net.vocab()))
                .at("objective.quant.bits")
                .why(format!("{} bits make {}", self.quant.bits, self.quant.levels())));
        }
        let tokens = self.tokens(&batch.x, batch.frames.as_ref())?;
        let cond = Cond { class: batch.class.as_ref().map(Tensor::shallow_clone), ..Cond::default() };
        let logits = Self::logits(net, &tokens, &cond, batch.mode)?.f_to_kind(Kind::Float)?;
        let target = match &batch.frames {
            Some(frames) => {
                let at = Tensor::f_arange(tokens.size2()?.1, (Kind::Int64, tokens.device()))?;
                tokens.f_masked_fill(&at.f_ge_tensor(&frames.f_unsqueeze(1)?)?, PADDING)?
            }
            None => tokens,
        };
        let (logits, target) = (logits.f_flatten(0, 1)?, target.f_flatten(0, 1)?);
        let total =
            logits.f_cross_entropy_loss(&target, None::<Tensor>, tch::Reduction::Mean, PADDING, 0.0)?;
        let bits = total.f_detach()?.f_div_scalar(std::f64::consts::LN_2)?;
        let counted = target.f_ne(PADDING)?.f_sum(Kind::Float)?;
        let right = logits.f_argmax(1, false)?.f_eq_tensor(&target)?.f_sum(Kind::Float)?;
        Ok(Losses { total, parts: vec![("bits", bits), ("accuracy", right.f_div(&counted)?)] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::causal::Steps;
    use crate::process::NoNoise;
    use tch::Device;

    /// Gives the input's token the logit 1, all others 0.
    #[derive(Debug)]
    struct Echo;

    impl Causal for Echo {
        fn vocab(&self) -> i64 {
            256
        }
        fn logits(&self, tokens: &Tensor, _: &Cond, _: Mode) -> Result<Tensor> {
            Ok(tokens.one_hot(256).to_kind(Kind::Float))
        }
        fn start_token(&self) -> i64 {
            128
        }
        fn begin(&self, _: i64, _: &Cond) -> Result<Box<dyn Steps + '_>> {
            Err(Error::run("not needed"))
        }
    }

    impl Network for Echo {
        fn forward(&self, x: &Tensor, _: &Tensor, cond: &Cond, mode: Mode) -> Result<Tensor> {
            self.logits(x, cond, mode)
        }
        fn sample_shape(&self) -> &[i64] {
            &[1, 4]
        }
        fn causal(&self) -> Option<&dyn Causal> {
            Some(self)
        }
    }

    fn batch(tokens: &[i64], frames: Option<i64>) -> Batch {
        Batch {
            x: Tensor::from_slice(tokens).reshape([1, -1]),
            class: None,
            augment: None,
            mel: None,
            frames: frames.map(|n| Tensor::from_slice(&[n])),
            draw_seed: 0,
            mode: Mode::Train,
        }
    }

    #[test]
    fn tokens_are_predicted_from_those_before_them() {
        let (e, rest) = (1f64.exp(), 255.0);
        let (hit, miss) = ((e / (e + rest)).ln(), (1.0 / (e + rest)).ln());
        let objective = Autoregressive::default();
        // The start token, a repetition, a change.
        let losses = objective.loss(&Echo, &NoNoise, &batch(&[128, 128, 5, 6], None)).unwrap();
        let want = -(2.0 * hit + 2.0 * miss) / 4.0;
        assert!((losses.total.double_value(&[]) - want).abs() < 1e-5);
        assert!((losses.parts[0].1.double_value(&[]) - want / 2f64.ln()).abs() < 1e-5);
        assert_eq!(losses.parts[1].1.double_value(&[]), 0.5);
        let padded = objective.loss(&Echo, &NoNoise, &batch(&[128, 128, 5, 6], Some(2))).unwrap();
        assert!((padded.total.double_value(&[]) + hit).abs() < 1e-5);
        assert_eq!(padded.parts[1].1.double_value(&[]), 1.0);
        let nats = Autoregressive::nats(&Echo, &batch(&[128, 128, 5, 6], None).x, &Cond::default()).unwrap();
        for (got, want) in Vec::<f32>::try_from(nats.view(-1)).unwrap().iter().zip([hit, hit, miss, miss]) {
            assert!((f64::from(*got) + want).abs() < 1e-5);
        }
    }

    #[test]
    fn what_cannot_be_trained_so_is_refused() {
        let objective = Autoregressive::default();
        let stereo = Tensor::zeros([1, 2, 4], (Kind::Float, Device::Cpu));
        assert!(objective.tokens(&stereo, None).unwrap_err().to_string().contains("one channel"));
        let six = Autoregressive { quant: Quantizer { bits: 6, ..Quantizer::default() } };
        let waves = Batch { x: Tensor::zeros([1, 1, 4], (Kind::Float, Device::Cpu)), ..batch(&[1, 2], None) };
        let error = six.loss(&Echo, &NoNoise, &waves).unwrap_err();
        assert!(error.to_string().contains("256 values"), "{error}");
    }
}

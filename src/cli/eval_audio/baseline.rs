//! Linear predictors of two sets of sounds.

use serde::Serialize;
use tch::Tensor;

use crate::data::audio::{Clips, stack};
use crate::data::quantize::Quantizer;
use crate::error::Result;
use crate::metric::audio::predictor::{Bits, Domain, Fit};

/// What the predictors cost.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Baseline {
    /// Order.
    pub order: usize,
    /// Bits per sample of the better one.
    pub bits: f64,
    /// Of the predictor of codes.
    pub bits_codes: f64,
    /// Of the predictor of amplitudes.
    pub bits_amplitude: f64,
    /// Samples that were counted.
    pub samples: f64,
    /// Sounds it was fitted to.
    pub fitted_to: usize,
    /// The quantiser.
    pub quantizer: Quantizer,
}

/// Fits predictors of `order` to `train` and measures them on `test`.
pub fn baseline(
    train: &Clips,
    test: &Clips,
    quantizer: Quantizer,
    order: usize,
    batch: usize,
) -> Result<Baseline> {
    let mut fits =
        [Fit::new(quantizer, Domain::Codes, order)?, Fit::new(quantizer, Domain::Amplitude, order)?];
    each(train, quantizer, batch, &mut |codes, frames| {
        fits.iter_mut().try_for_each(|fit| fit.add(codes, Some(frames)))
    })?;
    let [codes, amplitude] = fits;
    let fitted = [codes.finish()?, amplitude.finish()?];
    let mut sums = [Bits::default(); 2];
    each(test, quantizer, batch, &mut |codes, frames| {
        for (sum, predictor) in sums.iter_mut().zip(&fitted) {
            let one = predictor.bits(codes, Some(frames), 0)?;
            (sum.total, sum.samples) = (sum.total + one.total, sum.samples + one.samples);
        }
        Ok(())
    })?;
    let [codes, amplitude] = sums.map(|sum| sum.mean());
    Ok(Baseline {
        order,
        bits: codes.min(amplitude),
        bits_codes: codes,
        bits_amplitude: amplitude,
        samples: sums[0].samples,
        fitted_to: train.len(),
        quantizer,
    })
}

/// Calls `f` with codes `[B, T]` and valid samples `[B]` of all clips.
fn each(
    clips: &Clips,
    quantizer: Quantizer,
    batch: usize,
    f: &mut dyn FnMut(&Tensor, &Tensor) -> Result<()>,
) -> Result<()> {
    for start in (0..clips.len()).step_by(batch) {
        let part =
            (start..(start + batch).min(clips.len())).map(|i| clips.get(i)).collect::<Result<Vec<_>>>()?;
        let (wave, frames, _) = stack(&part, 1)?;
        f(&quantizer.encode_valid(&wave.f_squeeze_dim(1)?, Some(&frames))?, &frames)?;
    }
    Ok(())
}

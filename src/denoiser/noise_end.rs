//! A model of the noise at the end of a process where there is nothing but noise.
//!
//! There `eps = x/sigma` whatever the data is, so a model that predicts it (or the score) cannot say what
//! the data is. It is asked a little closer to the data instead, at a half log-SNR below the start of the
//! usual variance-preserving processes.

use tch::Tensor;

use super::{Denoiser, Prediction, convert};
use crate::error::Result;
use crate::net::Cond;
use crate::process::{At, Point, Process};

/// Where the model is asked instead.
const LAMBDA: f64 = -7.0;

/// A model of the noise that can be asked at `alpha = 0` too. It predicts v, which is defined everywhere.
pub struct NoiseEnd<'a> {
    inner: &'a dyn Denoiser,
}

impl<'a> NoiseEnd<'a> {
    /// Wraps `inner`, whatever it predicts.
    pub fn new(inner: &'a dyn Denoiser) -> Self {
        NoiseEnd { inner }
    }
}

impl std::fmt::Debug for NoiseEnd<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NoiseEnd").finish_non_exhaustive()
    }
}

impl Denoiser for NoiseEnd<'_> {
    fn prediction(&self) -> Prediction {
        Prediction::V
    }

    fn process(&self) -> &dyn Process {
        self.inner.process()
    }

    fn predict(&self, x: &Tensor, at: &At, cond: &Cond) -> Result<Tensor> {
        let from = self.inner.prediction();
        if !at.points().iter().any(Point::is_pure_noise) {
            return convert(&self.inner.predict(x, at, cond)?, x, at, from, Prediction::V);
        }
        let near = Point::at_lambda(self.process(), LAMBDA)?;
        let moved: Vec<Point> =
            at.points().iter().map(|p| if p.is_pure_noise() { near } else { *p }).collect();
        let moved = At::each(moved);
        let x0 = convert(&self.inner.predict(x, &moved, cond)?, x, &moved, from, Prediction::X0)?;
        convert(&x0, x, at, Prediction::X0, Prediction::V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoiser::{DenoiserExt, Mixture};
    use crate::process::Flow;

    #[test]
    fn the_data_is_seen_from_pure_noise() {
        let data = [(0.3, -1.0, 0.2), (0.7, 0.5, 0.35)];
        let model = |p| Mixture::one_dimensional(Box::new(Flow), p, &data).unwrap();
        let x = Tensor::from_slice(&[0.4, -1.1]).reshape([2, 1]);
        let at = At::each(vec![Point::new(&Flow, 1.0), Point::new(&Flow, 0.6)]);
        for form in [Prediction::X0, Prediction::Eps, Prediction::Velocity] {
            let want = model(Prediction::V).predict_as(form, &x, &at, &Cond::default()).unwrap();
            let eps = model(Prediction::Eps);
            let got = NoiseEnd::new(&eps).predict_as(form, &x, &at, &Cond::default()).unwrap();
            let off = (got - want).abs();
            // One sample stands at the end, where the mean of the data is seen to about 1e-3.
            assert!(off.double_value(&[0, 0]) < 2e-3 && off.double_value(&[1, 0]) < 1e-12);
        }
    }
}

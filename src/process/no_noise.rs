//! No noise: what autoregressive models and classifiers are trained on.

use super::{Family, Process, Span};
use crate::error::{Error, Result};

/// `x_t = x_0` at the only time there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoNoise;

impl Process for NoNoise {
    fn span(&self) -> Span {
        Span { min: 0.0, max: 0.0 }
    }
    fn alpha(&self, _t: f64) -> f64 {
        1.0
    }
    fn sigma(&self, _t: f64) -> f64 {
        0.0
    }
    fn dalpha(&self, _t: f64) -> f64 {
        0.0
    }
    fn dsigma(&self, _t: f64) -> f64 {
        0.0
    }
    fn lambda(&self, _t: f64) -> f64 {
        f64::INFINITY
    }
    fn t_of_lambda(&self, _lambda: f64) -> Result<f64> {
        Err(Error::usage("a process without noise has no noise levels").at("process.type = \"none\"").hint(
            "name a process such as vp, edm or flow; `none` is for autoregressive models and classifiers",
        ))
    }
    fn family(&self) -> Family {
        Family::NoiseLevel
    }
}

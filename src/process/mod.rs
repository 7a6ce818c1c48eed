//! What noise does to data: `x_t = alpha(t) x_0 + sigma(t) eps`, with t growing from data to noise.
//!
//! Every process of this library is Gaussian and scalar, so four functions of time describe it whole:
//! `alpha`, `sigma` and their derivatives. Everything else ([`Point`]) follows from them:
//! `lambda = ln(alpha/sigma)` (half log-SNR), `rho = sigma/alpha`, the drift `f = alpha'/alpha` and
//! the squared diffusion `g2 = 2 sigma (sigma' - f sigma)` of `dx = f x dt + g dw`
//! (Song et al. 2021, "Score-based generative modeling through SDEs"; Kingma et al. 2021,
//! "Variational diffusion models"). Times and coefficients are f64 on the host.

use std::fmt::Debug;

use crate::error::Result;

mod combine;
mod discrete;
mod edm;
mod flow;
mod no_noise;
mod spec;
mod subvp;
mod ve;
mod vp;

pub use combine::{combine, scale};
pub use discrete::{BetaSchedule, Discrete, alpha_bar, from_betas, without_terminal_signal};
pub use edm::Edm;
pub use flow::{Flow, TrigFlow};
pub use no_noise::NoNoise;
pub use spec::{ProcessName, ProcessSpec};
pub use subvp::SubVp;
pub use ve::Ve;
pub use vp::Vp;

/// The times on which a process is sampled: from `max` (noise) down to `min` (data).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Where sampling ends.
    pub min: f64,
    /// Where sampling starts.
    pub max: f64,
}

/// What kind of process it is, as far as the choice of defaults (grids, start) is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Signal and noise trade places and the process ends near N(0, I): VP, sub-VP, DDPM tables.
    VariancePreserving,
    /// The signal stays and the noise grows over it, in any time: VE.
    VarianceExploding,
    /// The signal stays and time is the noise level itself: EDM.
    NoiseLevel,
    /// The signal is gone altogether at the end: flows.
    Flow,
}

/// A Gaussian process `x_t = alpha(t) x_0 + sigma(t) eps`.
pub trait Process: Debug + Send + Sync {
    /// The times from which and to which it is usually sampled.
    fn span(&self) -> Span;
    /// Signal coefficient.
    fn alpha(&self, t: f64) -> f64;
    /// Standard deviation of the noise, accurate to f64 also where it is small.
    fn sigma(&self, t: f64) -> f64;
    /// Time derivative of `alpha`.
    fn dalpha(&self, t: f64) -> f64;
    /// Time derivative of `sigma`.
    fn dsigma(&self, t: f64) -> f64;
    /// Half log-SNR `ln(alpha/sigma)`, strictly decreasing in t.
    fn lambda(&self, t: f64) -> f64;
    /// The time at which the half log-SNR is `lambda`.
    ///
    /// # Errors
    /// Where no time of the process has this `lambda`.
    fn t_of_lambda(&self, lambda: f64) -> Result<f64>;
    /// What kind of process it is.
    fn family(&self) -> Family;
    /// Number of entries, where the process is a table.
    fn table_len(&self) -> Option<usize> {
        None
    }
    /// Standard deviation from which a sample at time `t` near the end is drawn: that of the noise,
    /// or 1 where the process keeps the variance of unit data.
    fn prior_std(&self, t: f64) -> f64 {
        match self.family() {
            Family::VariancePreserving => 1.0,
            _ => self.sigma(t),
        }
    }
}

/// A process at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Time.
    pub t: f64,
    /// Signal coefficient.
    pub alpha: f64,
    /// Standard deviation of the noise; 0 at the very end of a run that ends on clean data.
    pub sigma: f64,
    /// Time derivative of `alpha`.
    pub dalpha: f64,
    /// Time derivative of `sigma`.
    pub dsigma: f64,
    /// Half log-SNR; `+inf` where `sigma` is 0, `-inf` where `alpha` is 0.
    pub lambda: f64,
}

impl Point {
    /// The point of `process` at time `t`.
    pub fn new(process: &dyn Process, t: f64) -> Self {
        Point {
            t,
            alpha: process.alpha(t),
            sigma: process.sigma(t),
            dalpha: process.dalpha(t),
            dsigma: process.dsigma(t),
            lambda: process.lambda(t),
        }
    }

    /// The point of `process` with half log-SNR `lambda`.
    ///
    /// # Errors
    /// Where no time of the process has this `lambda`.
    pub fn at_lambda(process: &dyn Process, lambda: f64) -> Result<Self> {
        Ok(Point::new(process, process.t_of_lambda(lambda)?))
    }

    /// Clean data, `x = x_0`: where a run ends that goes all the way. No model is asked here.
    #[must_use]
    pub fn clean() -> Self {
        Point { t: 0.0, alpha: 1.0, sigma: 0.0, dalpha: 0.0, dsigma: 0.0, lambda: f64::INFINITY }
    }

    /// Whether there is no noise left.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.sigma == 0.0
    }

    /// Whether there is no signal left.
    #[must_use]
    pub fn is_pure_noise(&self) -> bool {
        self.alpha == 0.0
    }

    /// Noise-to-signal ratio `sigma/alpha = exp(-lambda)`, the noise level of EDM.
    #[must_use]
    pub fn rho(&self) -> f64 {
        self.sigma / self.alpha
    }

    /// Drift coefficient `f` of `dx = f x dt + g dw`.
    #[must_use]
    pub fn f(&self) -> f64 {
        self.dalpha / self.alpha
    }

    /// Squared diffusion coefficient of `dx = f x dt + g dw`.
    #[must_use]
    pub fn g2(&self) -> f64 {
        2.0 * self.sigma * (self.dsigma - self.f() * self.sigma)
    }

    /// `alpha sigma' - alpha' sigma = -alpha sigma lambda'`, positive inside every process.
    #[must_use]
    pub fn det(&self) -> f64 {
        self.alpha * self.dsigma - self.dalpha * self.sigma
    }

    /// Time derivative of `rho = sigma/alpha`.
    #[must_use]
    pub fn drho(&self) -> f64 {
        self.det() / (self.alpha * self.alpha)
    }
}

/// The points at which a batch stands: one for all samples, or one for each (adaptive solvers).
#[derive(Debug, Clone)]
pub struct At(Vec<Point>);

impl At {
    /// All samples of the batch stand at the same point.
    #[must_use]
    pub fn all(point: Point) -> Self {
        At(vec![point])
    }

    /// Sample i stands at `points[i]`.
    #[must_use]
    pub fn each(points: Vec<Point>) -> Self {
        At(points)
    }

    /// One point, or as many as there are samples.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.0
    }

    /// A coefficient of the point for every sample.
    pub fn coef(&self, of: impl Fn(&Point) -> f64) -> Coef {
        Coef(self.0.iter().map(of).collect())
    }
}

impl From<Point> for At {
    fn from(point: Point) -> Self {
        At::all(point)
    }
}

/// f64 factors of a batch: one for all samples, or one for each.
#[derive(Debug, Clone, PartialEq)]
pub struct Coef(pub Vec<f64>);

impl From<f64> for Coef {
    fn from(value: f64) -> Self {
        Coef(vec![value])
    }
}

#[cfg(test)]
mod tests;

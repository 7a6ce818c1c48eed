//! Options of a state-space layer.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Structure of A.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SsmMode {
    /// Diagonal minus low rank, `Lambda - P P^*` (S4).
    #[default]
    Dplr,
    /// Diagonal (S4D).
    S4d,
}

/// How the continuous system becomes a recurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Discretisation {
    /// The input is constant between samples.
    Zoh,
    /// Trapezoidal rule.
    Bilinear,
}

/// How the step size is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DtTransform {
    /// `dt = exp(v)`.
    Exp,
    /// `dt = log(1 + exp(v))`.
    #[default]
    Softplus,
}

/// How the negated real part of A is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RealTransform {
    /// `exp(v)`.
    #[default]
    Exp,
    /// `max(v, 0) + 1e-4`.
    Relu,
    /// `log(1 + exp(v))`.
    Softplus,
    /// `1/(1 + exp(-v))`.
    Sigmoid,
    /// `v` itself.
    None,
}

/// Options of a layer. Defaults are those of SaShiMi's published configurations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S4Config {
    /// Number of features; set by the network that holds the layer.
    #[serde(skip)]
    pub d_model: i64,
    /// Size of the full state, twice the number of stored complex values.
    pub d_state: i64,
    /// Structure of A.
    pub mode: SsmMode,
    /// First A, B and P: `legs`, `legt`, `fout` (HiPPO); `lin`, `inv`, `inv2`, `quad`, `real`, `rand` (with P = 0,
    /// also spelled `diag-lin` and so on); `dplr-lin` and so on (with a random P); `hippo`, `diag`, `all`, which
    /// divide the copies among several.
    pub init: String,
    /// How the system is made discrete; by default `bilinear` for DPLR and `zoh` for S4D.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disc: Option<Discretisation>,
    /// Number of independent copies of A, B and P, which divides `d_model`; 0 for one per feature.
    pub n_ssm: i64,
    /// Rank of the correction of DPLR.
    pub rank: i64,
    /// Least first step size.
    pub dt_min: f64,
    /// Largest first step size.
    pub dt_max: f64,
    /// How the step size is stored.
    pub dt_transform: DtTransform,
    /// How the negated real part of A is stored.
    pub real_transform: RealTransform,
    /// A second kernel runs backwards.
    pub bidirectional: bool,
    /// The imaginary part of a HiPPO B is cut to `[-b_clip, b_clip]`; 0 leaves it.
    pub b_clip: f64,
    /// Learning rate of A, B, P and dt before the schedule; 0 takes that of the rest.
    pub lr: f64,
}

impl Default for S4Config {
    fn default() -> Self {
        S4Config {
            d_model: 64,
            d_state: 64,
            mode: SsmMode::Dplr,
            init: "legs".to_owned(),
            disc: None,
            n_ssm: 1,
            rank: 1,
            dt_min: 1e-3,
            dt_max: 1e-1,
            dt_transform: DtTransform::Softplus,
            real_transform: RealTransform::Exp,
            bidirectional: false,
            b_clip: 2.0,
            lr: 1e-3,
        }
    }
}

impl S4Config {
    /// The same for another number of features.
    #[must_use]
    pub fn with_width(&self, d_model: i64) -> Self {
        S4Config { d_model, ..self.clone() }
    }

    /// Number of stored complex values of a state.
    #[must_use]
    pub fn half(&self) -> i64 {
        self.d_state / 2
    }

    /// Number of copies of A, B and P.
    #[must_use]
    pub fn copies(&self) -> i64 {
        if self.n_ssm == 0 { self.d_model } else { self.n_ssm }
    }

    /// Number of kernels per feature.
    #[must_use]
    pub fn channels(&self) -> i64 {
        if self.bidirectional { 2 } else { 1 }
    }

    /// The discretisation in use.
    #[must_use]
    pub fn discretisation(&self) -> Discretisation {
        self.disc.unwrap_or(match self.mode {
            SsmMode::Dplr => Discretisation::Bilinear,
            SsmMode::S4d => Discretisation::Zoh,
        })
    }

    /// Checks that the options make a layer.
    ///
    /// # Errors
    /// A model error that names the first option that does not fit.
    pub fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::model("the state-space layer is not defined").why(why));
        if self.d_model < 1 || self.d_model > 1 << 20 {
            return wrong(format!("it cannot have {} features", self.d_model));
        }
        if self.d_state < 2 || self.d_state % 2 == 1 || self.d_state > 4096 {
            return wrong(format!("d_state = {} is not an even number from 2 to 4096", self.d_state));
        }
        if self.n_ssm < 0 || self.d_model % self.copies() != 0 {
            return wrong(format!("n_ssm = {} does not divide {} features", self.n_ssm, self.d_model));
        }
        if !(1..=16).contains(&self.rank) {
            return wrong(format!("rank = {} is not from 1 to 16", self.rank));
        }
        if !(self.dt_min > 0.0 && self.dt_min <= self.dt_max && self.dt_max.is_finite()) {
            return wrong(format!("dt_min = {}, dt_max = {}", self.dt_min, self.dt_max));
        }
        if !(self.b_clip >= 0.0 && self.lr >= 0.0 && self.lr.is_finite()) {
            return wrong(format!("b_clip = {}, lr = {}", self.b_clip, self.lr));
        }
        Ok(())
    }
}

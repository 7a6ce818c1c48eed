//! The table `[objective]` of a recipe.

use serde::{Deserialize, Serialize};

use super::Objective;
use super::autoregressive::Autoregressive;
use super::classifier::Classifier;
use super::denoising::{Denoising, Distance, Reduce, Weighting};
use super::schedule::{TimeSampling, p_mean, p_std};
use crate::denoiser::Prediction;
use crate::denoiser::precond::{Precond, TimeInput};
use crate::error::{Error, Result};

/// An objective by its type and options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ObjectiveSpec {
    /// The network predicts the noise (Ho et al. 2020).
    Eps(Plain),
    /// The network predicts the clean data.
    X0(Plain),
    /// The network predicts `v = alpha eps - sigma x_0` (Salimans and Ho 2022).
    V(Plain),
    /// Denoising score matching (Song et al. 2021): the network's output is `-sigma` times the score, or
    /// (`raw`) the score itself; with `weighting = { type = "likelihood" }` the bound on the likelihood.
    Score(Plain),
    /// Flow matching (Lipman et al. 2023): the network predicts the velocity `alpha' x_0 + sigma' eps`.
    Flow(Plain),
    /// EDM (Karras et al. 2022): preconditioned denoising at log-normal noise levels.
    Edm(Edm),
    /// Denoising within any scalings: networks of other projects, to be sampled or trained further.
    Denoising(Scaled),
    /// Cross-entropy of a classifier.
    Classifier(Classifier),
    /// Maximum likelihood of sequences of tokens, each from those before it.
    Autoregressive(Autoregressive),
}

/// Options of a network that sees `x_t` itself; absent ones have the defaults of the objective.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plain {
    /// How the network is told the time: 999 t, or 1000 t for a flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeInput>,
    /// Distribution of training times: uniform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<TimeSampling>,
    /// Smallest training time: 1e-5, or 0 for a flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub t_min: Option<f64>,
    /// Largest training time: the end of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub t_max: Option<f64>,
    /// Weight of a noise level: uniform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weighting: Option<Weighting>,
    /// Reduction over a sample: mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduce: Option<Reduce>,
    /// What is reduced: squared errors (`mse`), or absolute ones (`l1`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Distance>,
    /// Probability of leaving the class out.
    pub class_dropout: f64,
    /// Score: the network's output is the score itself (it divides by sigma inside).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
}

/// Options of EDM's objective.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edm {
    /// Mean of `ln rho`.
    #[serde(alias = "P_mean")]
    pub p_mean: f64,
    /// Standard deviation of `ln rho`.
    #[serde(alias = "P_std")]
    pub p_std: f64,
    /// Standard deviation of the data.
    pub sigma_data: f64,
    /// Probability of leaving the class out.
    pub class_dropout: f64,
}

impl Default for Edm {
    fn default() -> Self {
        Edm { p_mean: p_mean(), p_std: p_std(), sigma_data: 0.5, class_dropout: 0.0 }
    }
}

/// A network within given scalings. It is trained with squared errors of its own output, at log-normal noise
/// levels (uniform times for a plain network).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaled {
    /// The scalings around the network.
    pub precond: Precond,
    /// Distribution of training times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<TimeSampling>,
    /// Probability of leaving the class out.
    #[serde(default)]
    pub class_dropout: f64,
}

impl From<Precond> for ObjectiveSpec {
    fn from(precond: Precond) -> Self {
        ObjectiveSpec::Denoising(Scaled { precond, sampling: None, class_dropout: 0.0 })
    }
}

impl ObjectiveSpec {
    /// The objective.
    ///
    /// # Errors
    /// Where an option is out of its range.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        if let ObjectiveSpec::Eps(plain)
        | ObjectiveSpec::X0(plain)
        | ObjectiveSpec::V(plain)
        | ObjectiveSpec::Flow(plain) = self
            && plain.raw
        {
            return Err(Error::usage("objective.raw = true").why("only the score has a raw form"));
        }
        Ok(match (self, self.denoising()) {
            (_, Some(denoising)) => {
                check(&denoising)?;
                Box::new(denoising)
            }
            (ObjectiveSpec::Classifier(classifier), _) => Box::new(*classifier),
            (ObjectiveSpec::Autoregressive(autoregressive), _) => Box::new(autoregressive.clone()),
            (_, None) => return Err(Error::usage("the objective trains no denoiser")),
        })
    }

    /// The scalings and time units of the model trained so, which sampling must use, too; none for a
    /// classifier.
    #[must_use]
    pub fn precond(&self) -> Option<Precond> {
        self.denoising().map(|d| d.precond)
    }

    fn denoising(&self) -> Option<Denoising> {
        let (prediction, plain) = match self {
            ObjectiveSpec::Score(plain) if plain.raw => (Prediction::Score, plain),
            ObjectiveSpec::Eps(plain) | ObjectiveSpec::Score(plain) => (Prediction::Eps, plain),
            ObjectiveSpec::X0(plain) => (Prediction::X0, plain),
            ObjectiveSpec::V(plain) => (Prediction::V, plain),
            ObjectiveSpec::Flow(plain) => (Prediction::Velocity, plain),
            ObjectiveSpec::Edm(edm) => return Some(edm.denoising()),
            ObjectiveSpec::Denoising(scaled) => return Some(scaled.denoising()),
            ObjectiveSpec::Classifier(_) | ObjectiveSpec::Autoregressive(_) => return None,
        };
        let flow = prediction == Prediction::Velocity;
        let scale = if flow { 1000.0 } else { 999.0 };
        let time = plain.time.unwrap_or(TimeInput::Linear { scale, shift: 0.0 });
        Some(Denoising {
            precond: Precond::Plain { prediction, time, factor: 1.0 },
            sampling: plain.sampling.unwrap_or(TimeSampling::Uniform { stratified: false }),
            t_min: plain.t_min.unwrap_or(if flow { 0.0 } else { 1e-5 }),
            t_max: plain.t_max,
            weighting: plain.weighting.unwrap_or(Weighting::Uniform),
            reduce: plain.reduce.unwrap_or(Reduce::Mean),
            distance: plain.loss.unwrap_or_default(),
            class_dropout: plain.class_dropout,
        })
    }
}

impl Edm {
    fn denoising(&self) -> Denoising {
        Denoising {
            precond: Precond::Edm { sigma_data: self.sigma_data },
            sampling: TimeSampling::LogNormal { p_mean: self.p_mean, p_std: self.p_std },
            t_min: 0.0,
            t_max: None,
            weighting: Weighting::Uniform,
            reduce: Reduce::Mean,
            distance: Distance::Mse,
            class_dropout: self.class_dropout,
        }
    }
}

impl Scaled {
    fn denoising(&self) -> Denoising {
        let plain = matches!(self.precond, Precond::Plain { .. });
        let usual = if plain {
            TimeSampling::Uniform { stratified: false }
        } else {
            TimeSampling::LogNormal { p_mean: p_mean(), p_std: p_std() }
        };
        Denoising {
            precond: self.precond,
            sampling: self.sampling.unwrap_or(usual),
            t_min: if plain && self.precond.prediction() != Prediction::Velocity { 1e-5 } else { 0.0 },
            t_max: None,
            weighting: Weighting::Uniform,
            reduce: Reduce::Mean,
            distance: Distance::Mse,
            class_dropout: self.class_dropout,
        }
    }
}

fn check(d: &Denoising) -> Result<()> {
    let wrong = |key: &str, value: f64, range: &str| {
        Err(Error::usage(format!("objective.{key} = {value}")).why(format!("it must be {range}")))
    };
    if !(0.0..=1.0).contains(&d.class_dropout) {
        return wrong("class_dropout", d.class_dropout, "in [0, 1]");
    }
    if d.distance == Distance::L1 && (d.reduce == Reduce::HalfSum || d.weighting == Weighting::Likelihood) {
        return Err(Error::usage("objective.loss = \"l1\"")
            .why("half sums and likelihood weights are defined for squared errors"));
    }
    if let Precond::Edm { sigma_data } = d.precond
        && !(sigma_data > 0.0 && sigma_data.is_finite())
    {
        return wrong("sigma_data", sigma_data, "positive");
    }
    match d.sampling {
        TimeSampling::LogitNormal { std, .. } if std <= 0.0 => wrong("sampling.std", std, "positive"),
        TimeSampling::Skewed { p_std, .. } | TimeSampling::LogNormal { p_std, .. } if p_std <= 0.0 => {
            wrong("p_std", p_std, "positive")
        }
        TimeSampling::Discrete { n: 0 } => wrong("sampling.n", 0.0, "positive"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_depend_on_the_objective() {
        let flow: ObjectiveSpec =
            toml::from_str("type = \"flow\"\nsampling = { type = \"skewed\" }").unwrap();
        let d = flow.denoising().unwrap();
        assert_eq!(d.sampling, TimeSampling::Skewed { p_mean: -1.2, p_std: 1.2 });
        assert_eq!((d.t_min, d.precond.prediction()), (0.0, Prediction::Velocity));
        let score: ObjectiveSpec = toml::from_str(
            "type = \"score\"\nweighting = { type = \"likelihood\" }\ntime = { type = \"log-sigma\" }",
        )
        .unwrap();
        let d = score.denoising().unwrap();
        assert_eq!((d.t_min, d.weighting), (1e-5, Weighting::Likelihood));
        let raw: ObjectiveSpec = toml::from_str("type = \"score\"\nraw = true").unwrap();
        assert_eq!(raw.denoising().unwrap().precond.prediction(), Prediction::Score);
        let raw: ObjectiveSpec = toml::from_str("type = \"v\"\nraw = true").unwrap();
        assert!(raw.build().is_err());
        let edm: ObjectiveSpec = toml::from_str("type = \"edm\"\nsigma_data = 0.75\nP_mean = -0.8").unwrap();
        assert_eq!(edm.precond(), Some(Precond::Edm { sigma_data: 0.75 }));
        let scaled = ObjectiveSpec::from(Precond::Ve);
        assert_eq!(scaled.precond(), Some(Precond::Ve));
        for spec in [flow, score, edm, scaled, ObjectiveSpec::Classifier(Classifier::default())] {
            assert!(spec.build().is_ok());
            assert_eq!(toml::from_str::<ObjectiveSpec>(&toml::to_string(&spec).unwrap()).unwrap(), spec);
        }
    }

    #[test]
    fn wrong_options_are_named() {
        assert!(toml::from_str::<ObjectiveSpec>("type = \"edm\"\nsigma = 1").is_err());
        let spec: ObjectiveSpec = toml::from_str("type = \"eps\"\nclass_dropout = 2").unwrap();
        let error = spec.build().unwrap_err();
        assert_eq!(error.to_string(), "objective.class_dropout = 2: it must be in [0, 1]");
        let spec = |rest: &str| {
            toml::from_str::<ObjectiveSpec>(&format!("type = \"eps\"\nloss = \"l1\"\n{rest}")).unwrap()
        };
        assert_eq!(spec("").denoising().unwrap().distance, Distance::L1);
        assert!(spec("").build().is_ok());
        assert!(spec("reduce = \"half-sum\"").build().is_err());
        assert!(spec("weighting = { type = \"likelihood\" }").build().is_err());
    }
}

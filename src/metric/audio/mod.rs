//! Evaluation of sound.
//!
//! | module | what |
//! |---|---|
//! | [`evaluate`] | one pass, any set of metrics, one report |
//! | [`scores`] | Inception Score (standard, and as published for SC09), modified IS, AM score |
//! | [`ndb`] | number of statistically different bins |
//! | [`fad`] | Frechet audio distance on frames of embeddings, per file, and at infinitely many frames |
//! | [`reject`] | which shares of samples, sorted by likelihood, are best put aside |
//! | [`features`] | waveforms to embeddings and class probabilities |
//! | [`spectral`] | multi-resolution STFT distance, SI-SDR, log-spectral distance |
//! | [`predictor`] | linear predictors in bits per sample: the baseline of likelihoods |

pub mod evaluate;
pub mod fad;
pub mod features;
pub mod ndb;
pub mod predictor;
pub mod reject;
pub mod scores;
pub mod spectral;

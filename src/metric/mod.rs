//! Evaluation: how far generated images are from real ones, under named protocols.
//!
//! | module | what |
//! |---|---|
//! | [`evaluate`], [`collect`], [`cache`], [`compute`], [`settings`] | one pass over the images, any set of metrics, one report |
//! | [`features`], [`inception`], [`transformer`], [`pixel8`], [`torchscript`], [`digits`] | images to features |
//! | [`resize`], [`pil`] | the three incompatible resizing protocols of FID |
//! | [`frechet`], [`frechet_features`] | streaming moments and the Frechet distance (FID, sFID) |
//! | [`audio`] | sound: scores of classifiers, Frechet audio distance, spectral distances, linear predictors |
//! | [`bootstrap`] | intervals |
//! | [`download`] | published weight files |
//! | [`inception_score`], [`kid`], [`mmd`], [`prdc`], [`nn_two_sample`], [`extra`] | the metrics |
//! | [`stats_file`], [`merge`] | reference statistics on disk; parts of them |
//! | [`suite`] | the conventions of other tools, by name |
//! | [`text`] | repetition, variety, Zipf's law, MAUVE |
//! | [`numpy_rng`], [`distance`], [`kmeans`] | numpy's shuffles; blocked distances; clusters |

pub mod audio;
pub mod baseline;
pub mod between;
pub mod bootstrap;
pub mod cache;
pub mod collect;
pub mod compute;
pub mod digits;
pub mod distance;
pub mod download;
pub mod evaluate;
pub mod extra;
pub mod features;
pub mod frechet;
pub mod frechet_features;
pub mod inception;
pub mod inception_score;
pub mod inception_weights;
pub mod kid;
pub mod kmeans;
pub mod merge;
pub mod mmd;
pub mod nn_two_sample;
pub mod numpy_rng;
pub mod pil;
pub mod pixel8;
pub mod prdc;
pub mod resize;
pub mod settings;
pub mod stats_file;
pub mod suite;
pub mod text;
pub mod torchscript;
pub mod transformer;

//! Evaluation: how far generated images are from real ones, under named protocols.
//!
//! | module | what |
//! |---|---|
//! | [`evaluate`], [`collect`], [`settings`] | one pass over the images, any set of metrics, one report |
//! | [`features`], [`inception`], [`pixel8`], [`torchscript`], [`digits`] | images to features |
//! | [`resize`] | the three incompatible resizing protocols of FID |
//! | [`frechet`] | streaming moments and the Frechet distance (FID, sFID) |
//! | [`inception_score`], [`kid`], [`mmd`], [`prdc`], [`nn_two_sample`], [`extra`] | the metrics |
//! | [`stats_file`] | reference statistics on disk |
//! | [`numpy_rng`], [`distance`] | numpy's shuffles; blocked distances |

pub mod baseline;
pub mod collect;
pub mod digits;
pub mod distance;
pub mod evaluate;
pub mod extra;
pub mod features;
pub mod frechet;
pub mod inception;
pub mod inception_score;
pub mod inception_weights;
pub mod kid;
pub mod mmd;
pub mod nn_two_sample;
pub mod numpy_rng;
pub mod pixel8;
pub mod prdc;
pub mod resize;
pub mod settings;
pub mod stats_file;
pub mod torchscript;

//! `gen`: train, sample and evaluate generative models driven by stochastic dynamics.
//!
//! The map of the house, from the ground up; a room may use those above it in this list only
//! (`tests/arch.rs` holds the exact table):
//!
//! | room | what lives there |
//! |---|---|
//! | [`error`], [`math`] | the error type; plain f64 mathematics, no tensors |
//! | [`torch`], [`io`] | libtorch itself (devices, threads, random generators, the C++ shim); file formats |
//! | [`process`], [`noise`], [`optim`] | what noise does to data; random streams; optimisers, EMA, schedules |
//! | [`net`] | networks and their layers |
//! | [`denoiser`], [`decode`] | a network seen as a model of a process; drawing sequences of tokens |
//! | [`solver`], [`objective`], [`data`], [`metric`] | samplers; losses; datasets; evaluation |
//! | [`recipe`], [`model`], [`train`] | recipes; opening models; the training loop |
//! | [`cli`] | one file per subcommand; the only place that prints |

pub mod cli;
pub mod data;
pub mod decode;
pub mod denoiser;
pub mod error;
pub mod io;
pub mod math;
pub mod metric;
pub mod model;
pub mod net;
pub mod noise;
pub mod objective;
pub mod optim;
pub mod process;
pub mod recipe;
pub mod solver;
pub mod torch;
pub mod train;

//! The training loop, its run folder, checkpoints and logs.

pub mod curve;
pub mod folder;

//! The training loop, its run folder, checkpoints and logs.

pub mod checkpoint;
pub mod curve;
pub mod folder;
pub mod log;
mod outputs;
mod preview;
pub mod resume;
mod sums;
mod tokens;
pub mod trainer;
mod validate;

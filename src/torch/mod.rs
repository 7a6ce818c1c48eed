//! Everything about libtorch itself: devices, threads, modes, random generators, the C++ shim.

pub mod device;
pub mod interrupt;
pub mod runtime;
pub mod shim;
pub mod spectrum;
mod umbrella;

/// The release of libtorch this binary is made for.
pub const LIBTORCH: &str = "2.11.0";

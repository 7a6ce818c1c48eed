//! Everything about libtorch itself: devices, threads, modes, random generators, the C++ shim.

pub mod shim;

//! Plain f64 mathematics without tensors.

pub mod rng;

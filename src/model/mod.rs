//! Opening anything a user may point at, and sampling it.

pub mod seeds;

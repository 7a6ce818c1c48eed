//! Opening anything a user may point at, and sampling it.

pub mod archive;
pub mod card;
pub mod export;
pub mod kind;
pub mod open;
pub mod raw;
pub mod sampler;
pub mod seeds;

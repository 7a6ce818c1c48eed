//! Opening anything a user may point at, and sampling it.

pub mod card;
pub mod diffusers;
pub mod kind;
pub mod open;
pub mod sampler;
pub mod scheduler;
pub mod seeds;

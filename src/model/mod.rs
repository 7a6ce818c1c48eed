//! Opening anything a user may point at, and sampling it.

pub mod card;
mod dit;
mod edm;
pub mod foreign;
pub mod kind;
pub mod open;
pub mod sampler;
mod score_sde;
pub mod seeds;
pub mod source;

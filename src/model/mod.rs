//! Opening anything a user may point at, sampling it, and writing it in other forms.

pub mod archive;
pub mod card;
pub mod convert;
pub mod diffusers;
mod diffusers_out;
mod diffwave;
mod diffwave_lmnt;
mod diffwave_sashimi;
mod dit;
mod dit_folder;
mod edm;
pub mod export;
pub mod foreign;
pub mod kind;
pub mod load;
pub mod open;
pub mod raw;
pub mod sampler;
pub mod scheduler;
mod score_sde;
pub mod seeds;
pub mod source;
pub mod tokens;

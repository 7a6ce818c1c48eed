//! To come.

pub mod load;

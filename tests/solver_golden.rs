//! Known results of every solver: exact scores in one dimension, where each method's answer was computed
//! independently in double precision, and identities that hold to rounding.

#![allow(clippy::unwrap_used, missing_docs)]

mod solver {
    pub mod identities;
    pub mod kin;
    pub mod models;
    pub mod settings;
    pub mod tables;
}

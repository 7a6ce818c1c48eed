//! State-space layers: S4 (Gu et al. 2022, "Efficiently modeling long sequences with structured state spaces")
//! with the Hurwitz form of SaShiMi (Goel et al. 2022), and its diagonal form S4D (Gu et al. 2022, "On the
//! parameterization and initialization of diagonal state space models").
//!
//! `x'(t) = A x + B u`, `y = C x + D u` for each feature, with a complex spectrum in conjugate pairs of which one
//! half is stored; every output has a factor `2 Re`. In training a layer is a long convolution, in generation a
//! recurrence of the same weights.

mod config;
mod convolve;
mod discrete;
mod first;
mod kernel;
mod layer;

pub use config::{Discretisation, DtTransform, RealTransform, S4Config, SsmMode};
pub use discrete::Discrete;
pub use kernel::cauchy;
pub use layer::S4;

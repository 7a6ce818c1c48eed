//! Decoding: drawing sequences of tokens from a causal network, one token after another.

pub mod choose;
pub mod explain;
pub mod generate;
pub mod mirostat;
pub mod penalty;
pub mod spec;
pub mod stage;
pub mod text;

pub use choose::Chooser;
pub use explain::{Candidate, Explained, explain};
pub use generate::{Generated, generate};
pub use mirostat::Mirostat;
pub use penalty::Penalties;
pub use spec::{Order, SamplerSpec};
pub use stage::Stage;
pub use text::{Continuation, Finish, TextSettings, continue_texts};

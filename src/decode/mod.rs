//! Decoding: drawing sequences of tokens from a causal network, one token after another.

pub mod beam;
pub mod choose;
pub mod contrastive;
pub mod explain;
pub mod generate;
pub mod mirostat;
pub mod penalty;
pub mod spec;
pub mod speculative;
pub mod stage;
pub mod text;

pub use beam::{Beam, Beams, EarlyStopping, search_beams};
pub use choose::Chooser;
pub use contrastive::{Contrastive, search_contrastive};
pub use explain::{Candidate, Explained, explain};
pub use generate::{Generated, generate};
pub use mirostat::Mirostat;
pub use penalty::Penalties;
pub use spec::{Order, SamplerSpec};
pub use speculative::{Tally, speculate};
pub use stage::Stage;
pub use text::{Continuation, Finish, TextSettings, continue_texts};

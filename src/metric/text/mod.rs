//! Metrics of text: likelihood, repetition, variety, Zipf's law, and MAUVE on features.

pub mod embed;
pub mod likelihood;
pub mod mauve;
pub mod ngrams;
pub mod nll;

pub use embed::last_hidden;
pub use likelihood::{Likelihood, likelihood};
pub use mauve::{Mauve, mauve};
pub use ngrams::{TextStats, text_stats};
pub use nll::{Passage, Plan, Score, score};

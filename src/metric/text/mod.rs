//! Metrics of text: repetition, variety, Zipf's law, and MAUVE on features.

pub mod mauve;
pub mod ngrams;

pub use mauve::{Mauve, mauve};
pub use ngrams::{TextStats, text_stats};

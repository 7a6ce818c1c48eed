//! Datasets of sound.
//!
//! [`clips::Clips`] opens a folder, a zip archive or a list of WAV and FLAC files, divides it into parts, and gives
//! clips of one length and rate. What it does to files (resampling, mixing to one channel) it says in its notes.

pub mod clips;
pub mod layout;
pub mod order;
pub mod spec;
pub mod stats;
pub mod synthetic;

pub use clips::{Clip, Clips, stack};
pub use spec::{AudioSpec, Layout, Part, Resampling, Window};
pub use stats::SoundStats;

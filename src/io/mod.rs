//! File formats, read by content and written atomically.
//!
//! | module | format |
//! |---|---|
//! | [`atomic`] | whole files and folders that are there completely or not at all |
//! | [`bytes`] | memory maps, raw bytes to tensors and back |
//! | [`safetensors`] | named tensors with metadata |
//! | [`hub`] | weights of Hugging Face folders, in one file or several |
//! | [`npy`], [`npz`] | numpy arrays and archives of them, streamed |
//! | [`pickle`], [`pth`] | PyTorch checkpoints, read without executing anything |
//! | [`picture`], [`png`], [`sheet`] | 8-bit pictures, PNG files, contact sheets |
//! | [`sound`], [`wav`], [`plot`] | sound: WAV and FLAC in, WAV out; its pictures |
//! | [`tfevents`] | TensorBoard event files |

pub mod atomic;
#[allow(unsafe_code)]
pub mod bytes;
mod flac;
pub mod hub;
pub mod npy;
mod npy_array;
pub mod npz;
pub mod pickle;
mod pickle_machine;
pub mod picture;
pub mod plot;
mod plot_font;
pub mod png;
pub mod pth;
mod pth_container;
mod pth_tensor;
mod pth_walk;
pub mod safetensors;
pub mod sheet;
pub mod sound;
pub mod tfevents;
pub mod wav;
mod wav_header;

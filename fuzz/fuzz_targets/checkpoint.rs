#![no_main]
//! PyTorch checkpoints, both containers.

mod file;

use genlib::io::pth::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| file::with(data, |path| {
    if let Ok(file) = Checkpoint::open(path) {
        file.names().iter().for_each(|n| drop(file.tensor(n)));
    }
}));

#![no_main]
//! safetensors files.

mod file;

use genlib::io::safetensors::File;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| file::with(data, |path| {
    if let Ok(file) = File::open(path) {
        file.entries().keys().for_each(|n| drop(file.tensor(n)));
    }
}));

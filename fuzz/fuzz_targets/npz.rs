#![no_main]
//! numpy archives.

mod file;

use genlib::io::npz::Npz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| file::with(data, |path| {
    if let Ok(mut file) = Npz::open(path) {
        for name in file.names().to_vec() {
            drop(file.array(&name));
            drop(file.bytes(&name));
            drop(file.rows(&name, 2, |_, _| Ok(())));
        }
    }
}));

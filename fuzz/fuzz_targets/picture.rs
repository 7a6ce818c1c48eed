#![no_main]
//! Image files.

use genlib::io::picture::Picture;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Picture::dimensions(data);
    let _ = Picture::decode(data);
});

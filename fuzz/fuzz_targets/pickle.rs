#![no_main]
//! The restricted pickle machine on bytes.

use genlib::io::pickle::Pickle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Pickle::read(data);
});

#![no_main]
//! Whole data sets: zip archives of images with labels, and whatever else `--data` takes.

mod file;

use genlib::data::{DataOptions, open};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| file::with(data, |path| {
    if let Ok(set) = open(path, &DataOptions { any_size: true, ..DataOptions::default() }) {
        (0..set.len().min(4)).for_each(|i| drop(set.get(i)));
    }
}));

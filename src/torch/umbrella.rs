//! An empty `libtorch.so` for compiled packages.
//!
//! AOTInductor links its code with `libtorch.so`, an empty library that pulls in all others, CUDA included, and
//! so cannot be loaded on a machine without CUDA. All that the code needs is in this process already; an empty
//! library of that name, kept in this binary, satisfies the loader.

#![allow(unsafe_code)]

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::device::loaded_library;
use crate::error::{Error, Result};

/// Made by build.rs.
const EMPTY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libtorch.so"));

/// Makes `libtorch.so` known to the loader, once.
///
/// # Errors
/// Where the system has no place for it.
pub fn provide() -> Result<()> {
    static DONE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        if loaded_library("libtorch.so").is_some() {
            return Ok(());
        }
        // SAFETY: a constant name; the descriptor is owned by `file` from here on.
        let mut file = unsafe {
            let descriptor = libc::memfd_create(c"libtorch.so".as_ptr(), libc::MFD_CLOEXEC);
            if descriptor < 0 {
                return Err(std::io::Error::last_os_error().to_string());
            }
            std::fs::File::from_raw_fd(descriptor)
        };
        file.write_all(EMPTY).map_err(|e| e.to_string())?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: the library is empty: nothing runs on loading it. It is never closed.
        let library =
            unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|e| e.to_string())?;
        std::mem::forget(library);
        Ok(())
    });
    done.clone().map_err(|why| Error::run("cannot prepare for compiled packages").why(why))
}

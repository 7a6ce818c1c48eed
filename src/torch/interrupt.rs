//! Ctrl-C and SIGTERM: the first asks the run to save its state and stop, the second ends it at once.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicI32, Ordering};

use crate::error::{Error, Kind, Result};

static SIGNAL: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(signal: libc::c_int) {
    if SIGNAL.swap(signal, Ordering::SeqCst) != 0 {
        // SAFETY: `_exit` is safe in a signal handler.
        unsafe { libc::_exit(128 + signal) }
    }
}

/// Installs the handlers.
pub fn install() {
    // SAFETY: a zeroed sigaction with a handler that only touches an atomic and calls `_exit`.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGINT, &raw const action, std::ptr::null_mut());
        libc::sigaction(libc::SIGTERM, &raw const action, std::ptr::null_mut());
    }
}

/// The signal that asked this process to stop.
#[must_use]
pub fn requested() -> Option<i32> {
    match SIGNAL.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(signal),
    }
}

/// The error to stop with, once `saved` says what is safe.
///
/// # Errors
/// Where a signal asked this process to stop.
pub fn check(saved: &str) -> Result<()> {
    match requested() {
        None => Ok(()),
        Some(signal) => Err(Error::new(Kind::Interrupted(signal), "interrupted").why(saved.to_owned())),
    }
}

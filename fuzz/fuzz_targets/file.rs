//! Bytes as a file: the readers map files.

use std::path::Path;

/// Calls `body` with the path of a file that holds `data`.
pub fn with(data: &[u8], body: impl FnOnce(&Path)) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let path = folder.path().join("x");
    if std::fs::write(&path, data).is_ok() {
        body(&path);
    }
}

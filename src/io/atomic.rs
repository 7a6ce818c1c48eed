//! Files and folders that are there completely or not at all.
//!
//! Everything is written to a temporary sibling (`NAME.tmp-PID-N`), flushed to the disk, renamed over the
//! target, and the parent folder is flushed so that the rename survives a power cut.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

static COUNTER: AtomicU64 = AtomicU64::new(0);

fn temporary_sibling(target: &Path) -> Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| {
        Error::usage("cannot write").at(target.display()).why("the path does not end in a name")
    })?;
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut temporary = name.to_os_string();
    temporary.push(format!(".tmp-{}-{n}", std::process::id()));
    Ok(target.with_file_name(temporary))
}

fn sync_parent(target: &Path) -> std::io::Result<()> {
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

/// Writes `path` through `fill`: the old file stays until the new one is complete and on the disk.
///
/// The parent folder must exist. On any error the temporary file is removed.
///
/// # Errors
/// What `fill` fails with, or a write error that names `path`.
pub fn write(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let failed = |source: std::io::Error| Error::write(path, &source);
    let temporary = temporary_sibling(path)?;
    let attempt = || -> Result<()> {
        let mut out = BufWriter::with_capacity(1 << 18, File::create(&temporary).map_err(failed)?);
        fill(&mut out)?;
        out.flush().map_err(failed)?;
        out.get_ref().sync_all().map_err(failed)?;
        fs::rename(&temporary, path).map_err(failed)?;
        sync_parent(path).map_err(failed)
    };
    let result = attempt();
    if result.is_err() {
        // The first error is the one to report; a leftover file is harmless.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Writes `path` through `fill`, which gets the name of a temporary file to make: for libraries that want a
/// path.
///
/// # Errors
/// What `fill` fails with, or a write error that names `path`.
pub fn write_file(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let failed = |source: std::io::Error| Error::write(path, &source);
    let temporary = temporary_sibling(path)?;
    let attempt = || -> Result<()> {
        File::create(&temporary).map_err(failed)?;
        fill(&temporary)?;
        File::open(&temporary).and_then(|f| f.sync_all()).map_err(failed)?;
        fs::rename(&temporary, path).map_err(failed)?;
        sync_parent(path).map_err(failed)
    };
    let result = attempt();
    if result.is_err() {
        // The first error is the one to report; a leftover file is harmless.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Fails if `path` could not be written, before the work whose result goes there; nothing is left behind.
///
/// # Errors
/// A write error that names `path`.
pub fn check(path: &Path) -> Result<()> {
    let failed = |source: std::io::Error| Error::write(path, &source);
    if path.is_dir() {
        return Err(failed(std::io::ErrorKind::IsADirectory.into()));
    }
    let temporary = temporary_sibling(path)?;
    File::create(&temporary).map_err(failed)?;
    fs::remove_file(&temporary).map_err(failed)
}

/// Writes `bytes` as the whole content of `path`.
///
/// # Errors
/// A write error that names `path`.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, |out| out.write_all(bytes).map_err(|e| Error::write(path, &e)))
}

/// Makes the folder `path` through `fill`, which gets the temporary folder to write into.
///
/// Every file in it is flushed to the disk before the rename. An existing folder of that name is replaced.
///
/// # Errors
/// What `fill` fails with, or a write error that names `path`.
pub fn write_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let failed = |source: std::io::Error| Error::write(path, &source);
    let temporary = temporary_sibling(path)?;
    let attempt = || -> Result<()> {
        fs::create_dir(&temporary).map_err(failed)?;
        fill(&temporary)?;
        sync_tree(&temporary).map_err(failed)?;
        if path.exists() {
            // Only an empty folder can be renamed over, so the old one moves aside first.
            let old = temporary_sibling(path)?;
            fs::rename(path, &old).map_err(failed)?;
            fs::rename(&temporary, path).map_err(failed)?;
            sync_parent(path).map_err(failed)?;
            fs::remove_dir_all(&old).map_err(failed)?;
        } else {
            fs::rename(&temporary, path).map_err(failed)?;
        }
        sync_parent(path).map_err(failed)
    };
    let result = attempt();
    if result.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    result
}

fn sync_tree(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_bytes(&path, b"old").unwrap();
        let failed = write(&path, |out| {
            out.write_all(b"half").unwrap();
            Err(Error::run("stopped"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "stopped");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        write_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_folder_replaces_the_old_one_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        for content in ["one", "two"] {
            write_folder(&path, |t| {
                fs::create_dir(t.join("sub")).unwrap();
                write_bytes(&t.join("sub/x"), content.as_bytes())
            })
            .unwrap();
            assert_eq!(fs::read_to_string(path.join("sub/x")).unwrap(), content);
        }
        assert!(write_folder(&path, |_| Err(Error::run("no"))).is_err());
        assert_eq!(fs::read_to_string(path.join("sub/x")).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_parent_names_the_path() {
        let error = write_bytes(Path::new("/nonexistent/folder/x"), b"").unwrap_err();
        assert_eq!(error.to_string(), "cannot write (/nonexistent/folder/x): no such file or directory");
        assert_eq!(error.kind(), crate::error::Kind::Run);
    }
}

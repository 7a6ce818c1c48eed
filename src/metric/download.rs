//! Published weight files: where they lie on this machine, and fetching them from their usual public address.
//!
//! The transfer itself is left to `curl` or `wget`, which know about proxies and certificates. A file takes its place
//! only after its hash was checked.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::inception_weights::sha256_of;
use crate::error::{Error, Result};

/// A file that is published somewhere.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub address: &'static str,
    /// First digits of its SHA-256.
    pub sha256: &'static str,
}

/// The Inception network of FID in the layout of pytorch-fid.
pub const INCEPTION: Published = Published {
    name: "pt_inception-2015-12-05-6726825d.pth",
    address: "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/\
              pt_inception-2015-12-05-6726825d.pth",
    sha256: super::inception_weights::PUBLISHED,
};

/// The folder where weights are kept: `gen/weights` below `XDG_CACHE_HOME` or `~/.cache`.
#[must_use]
pub fn folder() -> PathBuf {
    let given = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = given("XDG_CACHE_HOME")
        .or_else(|| Some(given("HOME")?.join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    base.join("gen").join("weights")
}

/// Fetches `file` into `folder` unless it is there; gives its place.
///
/// # Errors
/// Where neither curl nor wget is there, the transfer fails, or the hash is another one: the error names file,
/// address, and where to put the file.
pub fn fetch(file: &Published, folder: &Path) -> Result<PathBuf> {
    let place = folder.join(file.name);
    if place.is_file() {
        return Ok(place);
    }
    let fail = |why: String| {
        Error::run(format!("cannot download {}", file.name)).at(file.address).why(why).hint(format!(
            "get it on a machine with a network and put it at {}, or name it with --weights",
            place.display()
        ))
    };
    std::fs::create_dir_all(folder).map_err(|e| fail(format!("{}: {e}", folder.display()).to_lowercase()))?;
    // One name per process, so that two of them do not write into each other's file.
    let part = folder.join(format!(".{}.{}.part", file.name, std::process::id()));
    let outcome = transfer(file.address, &part).map_err(&fail).and_then(|()| {
        let sha256 = sha256_of(&part)?;
        if !sha256.starts_with(file.sha256) {
            let has = &sha256[..8];
            return Err(fail(format!("its SHA-256 starts with {has}, {} is expected", file.sha256)));
        }
        std::fs::rename(&part, &place).map_err(|e| fail(e.to_string().to_lowercase()))
    });
    if outcome.is_err() {
        // What was left half done is of no use; that there may be nothing is fine.
        let _ = std::fs::remove_file(&part);
    }
    outcome.map(|()| place)
}

/// Writes what is at `address` to `part`.
fn transfer(address: &str, part: &Path) -> std::result::Result<(), String> {
    let tools: [(&str, &[&str]); 2] = [
        (
            "curl",
            &["--fail", "--location", "--silent", "--show-error", "--connect-timeout", "20", "--output"],
        ),
        ("wget", &["--quiet", "--timeout=20", "--tries=2", "--output-document"]),
    ];
    for (tool, options) in tools {
        let run = Command::new(tool).args(options).arg(part).arg(address).stdin(Stdio::null()).output();
        let output = match run {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(format!("{tool}: {e}").to_lowercase()),
            Ok(output) => output,
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it gives no reason").trim();
        return Err(format!("{tool}: {}", line.trim_start_matches(&format!("{tool}: "))));
    }
    Err("neither curl nor wget is there".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(address: String, sha256: &'static str) -> Published {
        Published { name: "abc.pth", address: Box::leak(address.into_boxed_str()), sha256 }
    }

    fn has_curl() -> bool {
        Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success())
    }

    #[test]
    fn files_that_are_there_are_not_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let file = published("https://example.invalid/abc.pth".into(), "00");
        std::fs::write(dir.path().join("abc.pth"), b"x").unwrap();
        assert_eq!(fetch(&file, dir.path()).unwrap(), dir.path().join("abc.pth"));
    }

    #[test]
    fn failures_name_file_address_and_place() {
        let dir = tempfile::tempdir().unwrap();
        // Nothing listens on port 1.
        let file = published("http://127.0.0.1:1/abc.pth".into(), "00");
        let error = fetch(&file, dir.path()).unwrap_err();
        assert_eq!(error.kind().exit_code(), 1);
        let text = error.to_string();
        assert!(text.contains("abc.pth") && text.contains("127.0.0.1:1"), "{text}");
        assert!(error.hint_text().unwrap().contains(&dir.path().join("abc.pth").display().to_string()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn hashes_are_checked() {
        if !has_curl() {
            return; // wget reads no file:// addresses.
        }
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::write(&source, b"abc").unwrap();
        let address = format!("file://{}", source.display());
        let place = dir.path().join("weights");
        let error = fetch(&published(address.clone(), "00000000"), &place).unwrap_err().to_string();
        assert!(error.contains("starts with ba7816bf, 00000000 is expected"), "{error}");
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
        let got = fetch(&published(address, "ba7816bf"), &place).unwrap();
        assert_eq!(std::fs::read(got).unwrap(), b"abc");
    }
}

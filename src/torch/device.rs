//! Which device to compute on, and loading CUDA at run time.
//!
//! The binary links `libtorch_cpu` and `libc10` only, so it starts on every machine. `libtorch_cuda.so`
//! is opened before the first question about CUDA (libtorch remembers the first answer), and only if
//! the device may be CUDA.

#![allow(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Device};

use crate::error::{Error, Result};

/// The device a user asks for: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// CUDA where there is a device, else the CPU.
    #[default]
    Auto,
    /// The CPU; CUDA is not even looked for.
    Cpu,
    /// A CUDA device by number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" | "gpu" => Ok(DeviceChoice::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// What became of loading `libtorch_cuda.so`.
#[derive(Debug, Clone)]
pub enum CudaLibrary {
    /// Loaded from this path.
    Loaded(PathBuf),
    /// Not beside the libtorch in use; the folders that were looked into.
    Missing(Vec<PathBuf>),
    /// Found but refused by the loader: its path and the loader's reason.
    Refused(PathBuf, String),
}

/// Opens `libtorch_cuda.so` once and for all.
pub fn load_cuda() -> &'static CudaLibrary {
    static LOADED: OnceLock<CudaLibrary> = OnceLock::new();
    LOADED.get_or_init(|| {
        let folders = library_folders();
        let mut refused = None;
        for path in folders.iter().map(|folder| folder.join("libtorch_cuda.so")).filter(|path| path.exists())
        {
            // SAFETY: opening libtorch_cuda runs its static initialisers, which register CUDA with the
            // libtorch_cpu that is loaded already; it is never closed.
            match unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(library) => {
                    std::mem::forget(library);
                    return CudaLibrary::Loaded(path);
                }
                Err(error) => {
                    let reason = std::error::Error::source(&error)
                        .map_or_else(|| error.to_string(), ToString::to_string);
                    refused.get_or_insert(CudaLibrary::Refused(path, reason));
                }
            }
        }
        refused.unwrap_or(CudaLibrary::Missing(folders))
    })
}

/// Where the libraries of libtorch may lie, the likeliest first.
#[must_use]
pub fn library_folders() -> Vec<PathBuf> {
    let named = std::env::var_os("GEN_LIBTORCH").map(|root| Path::new(&root).join("lib"));
    let loaded = loaded_library("libtorch_cpu.so").and_then(|path| path.parent().map(Path::to_path_buf));
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.join("lib")));
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in [named, loaded, beside].into_iter().flatten() {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// The file that a library of this process was loaded from.
#[must_use]
pub fn loaded_library(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .find(|path| Path::new(path).file_name().is_some_and(|file| file.to_string_lossy() == name))?;
    Some(PathBuf::from(path))
}

/// Whether the NVIDIA driver is there at all; asks the file system, not the driver.
#[must_use]
pub fn has_driver() -> bool {
    ["/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists())
}

impl DeviceChoice {
    /// The device to compute on.
    ///
    /// # Errors
    /// Where CUDA is asked for by name and cannot be used; the error says which part is missing.
    pub fn resolve(self) -> Result<Device> {
        match self {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Auto => {
                let usable = has_driver()
                    && matches!(load_cuda(), CudaLibrary::Loaded(_))
                    && Cuda::is_available()
                    && Cuda::device_count() > 0;
                Ok(if usable { Device::Cuda(0) } else { Device::Cpu })
            }
            DeviceChoice::Cuda(index) => cuda(index),
        }
    }
}

fn cuda(index: usize) -> Result<Device> {
    let place = format!("--device cuda:{index}");
    match load_cuda() {
        CudaLibrary::Missing(folders) => {
            let looked: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
            return Err(Error::device("CUDA cannot be used")
                .at(place)
                .why(format!("no libtorch_cuda.so in {}", looked.join(", ")))
                .hint("this libtorch is CPU-only; set GEN_LIBTORCH to one with CUDA, or use --device cpu"));
        }
        CudaLibrary::Refused(path, reason) => {
            return Err(Error::device("CUDA cannot be used")
                .at(place)
                .why(format!("{} does not load: {reason}", path.display()))
                .hint("run `make setup CUDA=1` to get the CUDA libraries, or use --device cpu"));
        }
        CudaLibrary::Loaded(_) => {}
    }
    if !Cuda::is_available() {
        let why =
            if has_driver() { "the NVIDIA driver is there but offers no device" } else { "no NVIDIA driver" };
        return Err(Error::device("CUDA cannot be used")
            .at(place)
            .why(why)
            .hint("check `nvidia-smi`, or use --device cpu"));
    }
    let count = Cuda::device_count();
    if i64::try_from(index).map_or(true, |index| index >= count) {
        return Err(Error::device("no such device")
            .at(place)
            .why(format!("this machine has {count}"))
            .hint("`gen doctor` lists the devices"));
    }
    Ok(Device::Cuda(index))
}

/// The name of a device as users write it.
#[must_use]
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_parse_and_print() {
        for text in ["auto", "cpu", "cuda:3"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert!("cuda:x".parse::<DeviceChoice>().is_err());
        assert!("tpu".parse::<DeviceChoice>().is_err());
    }

    #[test]
    fn the_loaded_libtorch_is_found() {
        let path = loaded_library("libtorch_cpu.so").unwrap();
        assert!(path.exists());
        assert!(library_folders().contains(&path.parent().unwrap().to_path_buf()));
    }
}

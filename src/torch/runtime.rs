//! Setting libtorch up once per process: threads, determinism, the device.

use tch::{Device, Kind};

use super::device::DeviceChoice;
use super::shim;
use crate::error::Result;

/// What the whole process computes with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Runtime {
    /// The device asked for.
    pub device: DeviceChoice,
    /// Threads of one operation; all cores if not given.
    pub threads: Option<usize>,
    /// Deterministic algorithms, TF32 off.
    pub deterministic: bool,
}

impl Runtime {
    /// Sets libtorch up and gives the device. Call it once, before any other work.
    ///
    /// # Errors
    /// Where the device cannot be used.
    pub fn start(self) -> Result<Device> {
        if self.deterministic {
            // cuBLAS reads this when it is first used.
            set_env("CUBLAS_WORKSPACE_CONFIG", ":4096:8");
        }
        keep_memory();
        let threads = self.threads.unwrap_or_else(available_threads);
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        // A second call in one process would fail; operations that run beside each other are ours to start.
        static INTEROP: std::sync::Once = std::sync::Once::new();
        INTEROP.call_once(|| tch::set_num_interop_threads(1));
        let device = self.device.resolve()?;
        shim::set_deterministic(self.deterministic)?;
        shim::set_tf32(!self.deterministic)?;
        Ok(device)
    }
}

/// The cores this process may run on.
#[must_use]
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Has the C library keep what is freed for the next tensor. By default it gives every block above 32 MiB back to the
/// system at once, which then clears the pages of the next one: 40 % of the time of a training step on long clips.
#[allow(unsafe_code)]
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets three numbers of the allocator, which takes them at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

#[allow(unsafe_code)]
fn set_env(key: &str, value: &str) {
    // SAFETY: called at the start of the program, before any other thread exists.
    unsafe { std::env::set_var(key, value) }
}

/// The number format of a computation.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16 in matrix products and convolutions; everything else in 32 bits.
    Bf16,
    /// float16 in matrix products and convolutions; everything else in 32 bits.
    F16,
    /// 64-bit floats.
    F64,
}

/// How images and the weights of convolutions lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum MemoryFormat {
    /// Channels-last where it is the faster one: on the CPU, and on CUDA in 16 bits.
    #[default]
    Auto,
    /// Channel after channel.
    Contiguous,
    /// Pixel after pixel.
    ChannelsLast,
}

impl MemoryFormat {
    /// Whether images are kept channels-last in `dtype` on `device`.
    #[must_use]
    pub fn channels_last(self, dtype: Dtype, device: Device) -> bool {
        match self {
            MemoryFormat::Auto => device == Device::Cpu || dtype.autocast().is_some(),
            MemoryFormat::Contiguous => false,
            MemoryFormat::ChannelsLast => true,
        }
    }
}

impl Dtype {
    /// The dtype of weights and states.
    #[must_use]
    pub fn storage(self) -> Kind {
        match self {
            Dtype::F64 => Kind::Double,
            Dtype::F32 | Dtype::Bf16 | Dtype::F16 => Kind::Float,
        }
    }

    /// The dtype that autocast computes in, if it is needed at all.
    #[must_use]
    pub fn autocast(self) -> Option<Kind> {
        match self {
            Dtype::Bf16 => Some(Kind::BFloat16),
            Dtype::F16 => Some(Kind::Half),
            Dtype::F32 | Dtype::F64 => None,
        }
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
            Dtype::F64 => "f64",
        }
    }
}

//! `gen doctor`: what this machine can do, and why CUDA is or is not used.

use clap::Args;
use serde_json::{Value, json};
use tch::{Cuda, Device, Kind, Tensor};

use super::Globals;
use super::ui::Ui;
use crate::error::Result;
use crate::torch::device::{CudaLibrary, has_driver, load_cuda, loaded_library};
use crate::torch::{LIBTORCH, runtime};

/// Say what this machine can do, and why CUDA is or is not used
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gen doctor\n  gen doctor --json | jq .cuda")]
pub struct DoctorArgs {}

/// Runs the command.
pub fn run(_args: &DoctorArgs, globals: &Globals, ui: Ui) -> anyhow::Result<()> {
    let version = libtorch_version();
    let library = loaded_library("libtorch_cpu.so");
    let (cuda_state, cuda_hint, devices) = cuda();
    let threads = globals.threads.map_or_else(runtime::available_threads, |n| n as usize);
    let bf16 = cpu_bf16();
    let chosen = globals.device.resolve();

    ui.line(format!("gen         {} ({})", env!("CARGO_PKG_VERSION"), env!("GEN_COMMIT")))?;
    ui.line(format!(
        "libtorch    {} ({})",
        version.as_deref().unwrap_or("of unknown version"),
        library.as_ref().map_or_else(|| "not found in this process".to_owned(), |p| p.display().to_string())
    ))?;
    if let Some(version) = &version
        && !version.starts_with(LIBTORCH)
    {
        ui.warn(format!("this gen is made for libtorch {LIBTORCH}, the one loaded is {version}"));
    }
    ui.line(format!("CPU         {threads} threads, {}", cpu_model()))?;
    ui.line(format!("bf16        {bf16}"))?;
    ui.line(format!("memory      {:.1} GiB", memory_gib()))?;
    ui.line(format!("CUDA        {cuda_state}"))?;
    for device in &devices {
        ui.line(format!("            {device}"))?;
    }
    if let Some(hint) = &cuda_hint {
        ui.line(format!("            {hint}"))?;
    }
    match &chosen {
        Ok(device) => ui.line(format!("--device {} computes on {}", globals.device, name(*device)))?,
        Err(error) => ui.line(format!("--device {} fails: {error}", globals.device))?,
    }
    ui.line(format!("arithmetic  {}", if arithmetic()? { "right" } else { "WRONG: 2x2 product differs" }))?;

    ui.result(&json!({
        "gen": env!("CARGO_PKG_VERSION"), "commit": env!("GEN_COMMIT"),
        "libtorch": version, "libtorch_path": library.map(|p| p.display().to_string()),
        "threads": threads, "cpu": cpu_model(), "bf16": bf16, "memory_gib": memory_gib(),
        "cuda": {"state": cuda_state, "hint": cuda_hint, "devices": devices},
        "device": chosen.as_ref().ok().map(|d| name(*d)),
        "error": chosen.as_ref().err().map_or(Value::Null, |e| json!(e.to_string())),
    }))?;
    Ok(chosen.map(|_| ())?)
}

fn name(device: Device) -> String {
    crate::torch::device::device_name(device)
}

/// The version of the libtorch in use: a wheel says it in `version.py`, a libtorch zip in `build-version`.
fn libtorch_version() -> Option<String> {
    let root = loaded_library("libtorch_cpu.so")?.parent()?.parent()?.to_path_buf();
    if let Ok(text) = std::fs::read_to_string(root.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let text = std::fs::read_to_string(root.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    Some(line.split(['\'', '"']).nth(1)?.to_owned())
}

fn cuda() -> (String, Option<String>, Vec<String>) {
    match load_cuda() {
        CudaLibrary::Missing(_) => (
            "not in this libtorch (no libtorch_cuda.so)".to_owned(),
            Some("set GEN_LIBTORCH to a libtorch with CUDA to use a GPU".to_owned()),
            vec![],
        ),
        CudaLibrary::Refused(_, reason) => (
            format!("libtorch_cuda.so does not load: {reason}"),
            Some("`make setup CUDA=1` gets the CUDA libraries; without a GPU they are not needed".to_owned()),
            vec![],
        ),
        CudaLibrary::Loaded(path) => {
            let loaded = format!("loaded ({})", path.display());
            if !has_driver() {
                return (format!("{loaded}, no NVIDIA driver"), None, vec![]);
            }
            if !Cuda::is_available() {
                let hint = "check `nvidia-smi`; the driver may be older than CUDA 13 needs (580)".to_owned();
                return (format!("{loaded}, the driver offers no device"), Some(hint), vec![]);
            }
            let devices = (0..Cuda::device_count()).map(|i| format!("cuda:{i}")).collect();
            (
                format!("{loaded}, cuDNN {}", if Cuda::cudnn_is_available() { "yes" } else { "no" }),
                None,
                devices,
            )
        }
    }
}

fn cpu_model() -> String {
    cpuinfo("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn cpuinfo(key: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn cpu_bf16() -> &'static str {
    let flags = cpuinfo("flags").unwrap_or_default();
    let has = |flag: &str| flags.split(' ').any(|f| f == flag);
    if has("amx_bf16") {
        "fast on this CPU (AMX): `--dtype bf16` is about twice as fast as f32"
    } else if has("avx512_bf16") {
        "supported by this CPU (AVX-512 BF16)"
    } else {
        "emulated on this CPU: f32 is faster"
    }
}

fn memory_gib() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find(|l| l.starts_with("MemTotal"))
        .and_then(|l| l.split_whitespace().nth(1)?.parse().ok());
    kib.unwrap_or(0.0) / 1024.0 / 1024.0
}

fn arithmetic() -> Result<bool> {
    let a = Tensor::f_from_slice(&[1f32, 2.0, 3.0, 4.0])?.f_reshape([2, 2])?;
    let product = a.f_matmul(&a)?.f_to_kind(Kind::Double)?;
    let want = Tensor::f_from_slice(&[7f64, 10.0, 15.0, 22.0])?.f_reshape([2, 2])?;
    Ok(product.f_equal(&want)?)
}

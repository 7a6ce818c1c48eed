//! TorchScript modules and AOTInductor packages, and export of networks as TorchScript.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::{check, pointers};
use crate::error::{Error, Result};
use crate::torch::umbrella;

#[repr(C)]
struct CModule {
    _opaque: [u8; 0],
}

#[repr(C)]
struct CPackage {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn gen_last_text() -> *const c_char;
    fn gen_module_load(path: *const c_char, cuda_index: c_int, out: *mut *mut CModule) -> c_int;
    fn gen_module_free(module: *mut CModule);
    fn gen_module_to(module: *mut CModule, dtype: c_int) -> c_int;
    fn gen_module_describe(module: *mut CModule, method: *const c_char) -> c_int;
    fn gen_module_run(
        module: *mut CModule,
        method: *const c_char,
        n: usize,
        inputs: *const *mut C_tensor,
        out: *mut *mut C_tensor,
    ) -> c_int;
    fn gen_package_load(path: *const c_char, device_index: c_int, out: *mut *mut CPackage) -> c_int;
    fn gen_package_free(package: *mut CPackage);
    fn gen_package_metadata(path: *const c_char) -> c_int;
    fn gen_package_run(
        package: *mut CPackage,
        n: usize,
        inputs: *const *mut C_tensor,
        out: *mut *mut C_tensor,
    ) -> c_int;
    fn gen_trace_begin(
        n: usize,
        names: *const *const c_char,
        tensors: *const *mut C_tensor,
        trained: *const c_int,
        inputs_n: usize,
        input_names: *const *const c_char,
        inputs: *const *mut C_tensor,
        out: *mut *mut CModule,
    ) -> c_int;
    fn gen_trace_end(module: *mut CModule, output: *mut C_tensor, path: *const c_char) -> c_int;
    fn gen_trace_abandon();
    fn gen_is_tracing() -> c_int;
}

fn c_text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::usage("a name holds a zero byte"))
}

fn c_path(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::usage("a path holds a zero byte"))
}

/// The JSON text that the last describing call left.
fn last_json<T: serde::de::DeserializeOwned>() -> Result<T> {
    // SAFETY: the shim returns a pointer to a thread-local string that lives until its next call.
    let text = unsafe { CStr::from_ptr(gen_last_text()) }.to_string_lossy();
    serde_json::from_str(&text)
        .map_err(|e| Error::model("unreadable description of a module").why(e.to_string()))
}

fn cuda_index(device: Device) -> c_int {
    match device {
        Device::Cuda(index) => c_int::try_from(index).unwrap_or(0),
        _ => -1,
    }
}

/// An argument of a method.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// Its type as TorchScript writes it: `Tensor`, `Optional[Tensor]`, `float`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it may be left out.
    pub optional: bool,
}

/// What a module is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Description {
    /// Names of its methods.
    pub methods: Vec<String>,
    /// Scalars in parameters.
    pub parameters: i64,
    /// Scalars in buffers.
    pub buffers: i64,
    /// Arguments of the method asked for; empty if there is no such method.
    pub arguments: Vec<Argument>,
}

/// A TorchScript module: code and weights. Running one runs the code of the file.
#[derive(Debug)]
pub struct ScriptModule(*mut CModule);

// SAFETY: the module is owned by one value.
unsafe impl Send for ScriptModule {}

impl ScriptModule {
    /// Loads the module at `path` onto `device`, in inference mode.
    ///
    /// # Errors
    /// Where it is missing, no TorchScript, or the device cannot be used.
    pub fn load(path: &Path, device: Device) -> Result<Self> {
        let text = c_path(path)?;
        let mut out = std::ptr::null_mut();
        // SAFETY: a valid text and a place for the pointer.
        check(unsafe { gen_module_load(text.as_ptr(), cuda_index(device), &raw mut out) })?;
        Ok(ScriptModule(out))
    }

    /// Casts its floating parameters and buffers. Tensors recorded as constants do not follow.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn cast(&mut self, kind: Kind) -> Result<()> {
        // ScalarType of c10.
        let dtype = match kind {
            Kind::Half => 5,
            Kind::Float => 6,
            Kind::Double => 7,
            Kind::BFloat16 => 15,
            other => return Err(Error::usage(format!("a module cannot be cast to {other:?}"))),
        };
        // SAFETY: a live module.
        check(unsafe { gen_module_to(self.0, dtype) })
    }

    /// Its methods, sizes, and the arguments of `method`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn describe(&self, method: &str) -> Result<Description> {
        let method = c_text(method)?;
        // SAFETY: a live module and a valid text.
        check(unsafe { gen_module_describe(self.0, method.as_ptr()) })?;
        last_json()
    }

    /// Calls `method` with tensors; gives the first tensor of what it returns (a tensor, the head of a tuple
    /// or list, the entry `sample` of a dictionary).
    ///
    /// # Errors
    /// Where the method is missing, the arguments do not fit, or it fails.
    pub fn run(&self, method: &str, inputs: &[Tensor]) -> Result<Tensor> {
        let method = c_text(method)?;
        let list = pointers(inputs);
        let mut out = std::ptr::null_mut();
        // SAFETY: a live module, a list of `n` live tensors and a place for the result.
        check(unsafe { gen_module_run(self.0, method.as_ptr(), list.len(), list.as_ptr(), &raw mut out) })?;
        // SAFETY: `out` is a new tensor owned by nobody else.
        Ok(unsafe { Tensor::from_ptr(out) })
    }
}

impl Drop for ScriptModule {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the shim and is freed once.
        unsafe { gen_module_free(self.0) }
    }
}

/// An AOTInductor package (`.pt2`): machine code of a compiled model with its weights. Loading one runs
/// the code of the file.
#[derive(Debug)]
pub struct Package(*mut CPackage);

// SAFETY: the package is owned by one value.
unsafe impl Send for Package {}

impl Package {
    /// Loads the package at `path` for `device`.
    ///
    /// # Errors
    /// Where it is missing or damaged, or was compiled for another device.
    pub fn load(path: &Path, device: Device) -> Result<Self> {
        umbrella::provide()?;
        let text = c_path(path)?;
        let mut out = std::ptr::null_mut();
        // SAFETY: a valid text and a place for the pointer.
        check(unsafe { gen_package_load(text.as_ptr(), cuda_index(device), &raw mut out) })?;
        Ok(Package(out))
    }

    /// What the package says of itself (device, versions), without loading its code.
    ///
    /// # Errors
    /// Where it is missing or damaged.
    pub fn metadata(path: &Path) -> Result<std::collections::BTreeMap<String, String>> {
        let text = c_path(path)?;
        // SAFETY: a valid text.
        check(unsafe { gen_package_metadata(text.as_ptr()) })?;
        last_json()
    }

    /// Runs the model; gives its first output.
    ///
    /// # Errors
    /// Where the inputs do not fit what it was compiled for.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Tensor> {
        let list = pointers(inputs);
        let mut out = std::ptr::null_mut();
        // SAFETY: a live package, a list of `n` live tensors and a place for the result.
        check(unsafe { gen_package_run(self.0, list.len(), list.as_ptr(), &raw mut out) })?;
        // SAFETY: `out` is a new tensor owned by nobody else.
        Ok(unsafe { Tensor::from_ptr(out) })
    }
}

impl Drop for Package {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the shim and is freed once.
        unsafe { gen_package_free(self.0) }
    }
}

/// Whether this thread records what it computes: then only operations of libtorch's own may be used.
#[must_use]
pub fn is_tracing() -> bool {
    // SAFETY: reads a thread-local state.
    unsafe { gen_is_tracing() != 0 }
}

/// A named tensor of a module to write; `trained` ones become parameters, the others buffers.
#[derive(Debug)]
pub struct Slot {
    /// Its dotted name.
    pub name: String,
    /// The tensor that the network computes with.
    pub tensor: Tensor,
    /// Whether it is a parameter.
    pub trained: bool,
}

/// Writes a TorchScript module to `path` whose `forward` does what `body` does with `inputs` (named
/// tensors), and whose parameters are `slots`.
///
/// # Errors
/// Where `body` fails, its output does not depend on the inputs, or the file cannot be written.
pub fn write_traced(
    path: &Path,
    slots: &[Slot],
    inputs: &[(&str, Tensor)],
    body: impl FnOnce() -> Result<Tensor>,
) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    let names = slots.iter().map(|s| c_text(&s.name)).collect::<Result<Vec<_>>>()?;
    let name_list: Vec<*const c_char> = names.iter().map(|n| n.as_ptr()).collect();
    let tensors: Vec<*mut C_tensor> = slots.iter().map(|s| s.tensor.as_ptr().cast_mut()).collect();
    let trained: Vec<c_int> = slots.iter().map(|s| c_int::from(s.trained)).collect();
    let input_names = inputs.iter().map(|(n, _)| c_text(n)).collect::<Result<Vec<_>>>()?;
    let input_list: Vec<*const c_char> = input_names.iter().map(|n| n.as_ptr()).collect();
    let input_tensors: Vec<*mut C_tensor> = inputs.iter().map(|(_, t)| t.as_ptr().cast_mut()).collect();
    let mut out = std::ptr::null_mut();
    // SAFETY: lists of equal length of live texts and tensors, and a place for the module.
    check(unsafe {
        gen_trace_begin(
            slots.len(),
            name_list.as_ptr(),
            tensors.as_ptr(),
            trained.as_ptr(),
            inputs.len(),
            input_list.as_ptr(),
            input_tensors.as_ptr(),
            &raw mut out,
        )
    })?;
    let module = ScriptModule(out);
    let output = match body() {
        Ok(output) => output,
        Err(error) => {
            // SAFETY: ends the recording of this thread.
            unsafe { gen_trace_abandon() };
            return Err(error);
        }
    };
    let path = c_path(path)?;
    // SAFETY: a live module and tensor and a valid text.
    check(unsafe { gen_trace_end(module.0, output.as_ptr().cast_mut(), path.as_ptr()) })
}

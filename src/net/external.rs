//! Networks that come as code with their weights: TorchScript modules and AOTInductor packages.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::layers::embed::checked_class;
use super::{Cond, Mode, Network};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::net::store::Path;
use crate::torch::shim::module::{Argument, Package, ScriptModule};

/// What a file of code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// A TorchScript module.
    TorchScript,
    /// An AOTInductor package.
    Package,
}

/// An argument of a module's method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Input {
    /// The noisy sample.
    X,
    /// The time, `[B]`.
    T,
    /// The class, `[B]` i64.
    Class,
}

/// A module and how it is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalConfig {
    /// The file.
    pub file: PathBuf,
    /// What it is.
    pub code: Code,
    /// The method that is the network.
    #[serde(default = "forward")]
    pub method: String,
    /// What is handed over, in order; by default `x`, `t`, and the class of a class-conditional model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Vec<Input>>,
    /// The time is an integer tensor (an index into an embedding table).
    #[serde(default)]
    pub integer_time: bool,
}

/// The usual method.
#[must_use]
pub fn forward() -> String {
    "forward".to_owned()
}

#[derive(Debug)]
enum Loaded {
    Script(ScriptModule),
    Package(Package),
}

/// The network of a module.
#[derive(Debug)]
pub struct External {
    config: ExternalConfig,
    inputs: Vec<Input>,
    loaded: Loaded,
    shape: Vec<i64>,
    classes: i64,
}

impl External {
    /// Loads the module for samples of `shape` and `classes` classes (0 for none) onto the device of `p`. It
    /// keeps its parameters to itself. This runs the file's code.
    ///
    /// # Errors
    /// Where it cannot be loaded, lacks the method, or takes other arguments.
    pub fn new(p: &Path, config: &ExternalConfig, shape: &[i64], classes: i64) -> Result<Self> {
        let place = |e: Error| e.kinded(ErrorKind::Model).at(config.file.display());
        let (device, kind) = (p.store().device(), p.store().kind());
        let usual =
            if classes > 0 { vec![Input::X, Input::T, Input::Class] } else { vec![Input::X, Input::T] };
        let inputs = config.inputs.clone().unwrap_or(usual);
        let loaded = match config.code {
            Code::TorchScript => {
                let mut module = ScriptModule::load(&config.file, device).map_err(place)?;
                check_arguments(&module, config, &inputs).map_err(place)?;
                if kind != Kind::Float {
                    module.cast(kind).map_err(place)?;
                }
                Loaded::Script(module)
            }
            Code::Package => Loaded::Package(load_package(config, device)?),
        };
        Ok(External { config: config.clone(), inputs, loaded, shape: shape.to_vec(), classes })
    }
}

fn load_package(config: &ExternalConfig, device: Device) -> Result<Package> {
    Package::load(&config.file, device).map_err(|e| {
        let made = Package::metadata(&config.file).ok().and_then(|m| m.get("AOTI_DEVICE_KEY").cloned());
        let error = e.kinded(ErrorKind::Model).at(config.file.display());
        match made {
            Some(made) => error.hint(format!(
                "the package was compiled for `{made}`; it runs only there, with the libtorch and processor it was compiled for"
            )),
            None => error.hint("a package is made by torch._inductor.aoti_compile_and_package"),
        }
    })
}

/// Whether the method exists and takes as many tensors as it will be given.
fn check_arguments(module: &ScriptModule, config: &ExternalConfig, inputs: &[Input]) -> Result<()> {
    let about = module.describe(&config.method)?;
    if !about.methods.contains(&config.method) {
        return Err(Error::model(format!("no method `{}`", config.method))
            .why(format!("the module has {}", list(about.methods.iter().map(String::as_str))))
            .hint("name it by `method` in the model's JSON file"));
    }
    let needed = about.arguments.iter().filter(|a| !a.optional).count();
    let takes = |a: &Argument| a.kind.contains("Tensor");
    let fits = (needed..=about.arguments.len()).contains(&inputs.len())
        && about.arguments.iter().take(inputs.len()).all(takes);
    if fits {
        return Ok(());
    }
    let has = about.arguments.iter().map(|a| format!("{}: {}", a.name, a.kind)).collect::<Vec<_>>();
    let given = inputs.iter().map(|i| format!("{i:?}").to_lowercase()).collect::<Vec<_>>();
    Err(Error::model(format!("`{}` takes other arguments", config.method))
        .why(format!("it takes ({}), gen would give ({})", has.join(", "), given.join(", ")))
        .hint("say what it takes by `inputs` in the model's JSON file, such as [\"x\", \"t\", \"class\"], and --classes"))
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

impl Network for External {
    fn forward(&self, x: &Tensor, t: &Tensor, cond: &Cond, _mode: Mode) -> Result<Tensor> {
        let batch = x.size().first().copied().unwrap_or(0);
        let class = checked_class(cond.class.as_ref(), self.classes, batch)?;
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            inputs.push(match input {
                Input::X => x.f_contiguous()?,
                Input::T if self.config.integer_time => t.f_round()?.f_to_kind(Kind::Int64)?,
                Input::T => t.shallow_clone(),
                Input::Class => match &class {
                    Some(class) => class.shallow_clone(),
                    None => Tensor::f_full([batch], -1, (Kind::Int64, x.device()))?,
                },
            });
        }
        let out = match &self.loaded {
            Loaded::Script(module) => module.run(&self.config.method, &inputs),
            Loaded::Package(package) => package.run(&inputs),
        };
        let out = out.map_err(|e| e.kinded(ErrorKind::Model).at(self.config.file.display()))?;
        // Learned variances come as further channels and are not used.
        let size = out.size();
        if size.len() == x.dim()
            && size.len() > 1
            && size[1] == 2 * self.shape[0]
            && size[2..] == self.shape[1..]
        {
            return Ok(out.f_narrow(1, 0, self.shape[0])?);
        }
        if out.size() != x.size() {
            return Err(Error::model("the module is no denoising network")
                .at(self.config.file.display())
                .why(format!("it returns shape {size:?} for {:?}", x.size())));
        }
        Ok(out)
    }

    fn sample_shape(&self) -> &[i64] {
        &self.shape
    }

    fn classes(&self) -> i64 {
        self.classes
    }
}

//! Features of a TorchScript module, called as a black box.
//!
//! Two conventions: that of NVIDIA's `inception-2015-12-05.pt`, `forward(img, return_features, use_fp16,
//! no_output_bias)`, which resizes and scales 0..255 images itself; and a plain `forward(img)` from `N x 3 x H x
//! W` f32 values 0..255 to `N x d`.
//!
//! NVIDIA's file serves all protocols of FID: it leaves images of 299 x 299 pixels as they are, so that those of
//! the other protocols are resized before it, and moved to the scale that its `(x - 128) / 128` undoes.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use tch::{CModule, Device, IValue, Kind, Tensor};

use super::features::{Extractor, Features, Wanted, check_images, to_rgb};
use super::inception::{NAME, SIDE};
use super::inception_weights::sha256_of;
use super::resize::Protocol;
use crate::error::{Error, Result};

/// How the module wants to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Convention {
    Nvidia,
    Plain,
}

/// SHA-256 of NVIDIA's `inception-2015-12-05.pt`.
pub const NVIDIA: &str = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4";

/// The extractor around a module.
pub struct ScriptExtractor {
    module: CModule,
    path: PathBuf,
    sha256: String,
    device: Device,
    convention: Cell<Option<Convention>>,
    /// For the Inception network of FID: how images are resized.
    protocol: Option<Protocol>,
}

impl std::fmt::Debug for ScriptExtractor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScriptExtractor").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ScriptExtractor {
    /// Loads the module at `path` onto `device`.
    ///
    /// # Errors
    /// A model error where it is missing or no TorchScript.
    pub fn open(path: &Path, device: Device) -> Result<Self> {
        let sha256 = sha256_of(path).map_err(|e| e.kinded(crate::error::Kind::Model))?;
        let module = CModule::load_on_device(path, device).map_err(|e| {
            let text = Error::from(e).to_string();
            let error = Error::model("not a TorchScript module").at(path.display());
            if text.contains("constants.pkl") {
                error.why("it holds weights only").hint("Inception weights go with --weights")
            } else {
                error.why(text).hint("such a module is made by torch.jit.save")
            }
        })?;
        let convention = Cell::new(None);
        Ok(ScriptExtractor { module, path: path.to_owned(), sha256, device, convention, protocol: None })
    }

    /// Loads NVIDIA's file of the Inception network of FID. Another file than the published one is refused
    /// unless `allow_unverified`.
    ///
    /// # Errors
    /// As [`ScriptExtractor::open`].
    pub fn inception(
        path: &Path,
        protocol: Protocol,
        device: Device,
        allow_unverified: bool,
    ) -> Result<Self> {
        let mut script = Self::open(path, device)?;
        if script.sha256 != NVIDIA && !allow_unverified {
            return Err(super::inception_weights::not_published(path, &script.sha256, &NVIDIA[..8]));
        }
        script.protocol = Some(protocol);
        script.convention = Cell::new(Some(Convention::Nvidia));
        Ok(script)
    }

    /// Whether the file at `path` is a TorchScript module, by what is in the archive.
    #[must_use]
    pub fn is_module(path: &Path) -> bool {
        let archive = std::fs::File::open(path).ok().and_then(|file| zip::ZipArchive::new(file).ok());
        archive.is_some_and(|a| {
            a.file_names().filter_map(std::result::Result::ok).any(|n| n.ends_with("/constants.pkl"))
        })
    }

    fn call(&self, x: &Tensor, convention: Convention, features: bool) -> Result<Tensor> {
        if convention == Convention::Plain {
            return Ok(self.module.forward_ts(&[x])?);
        }
        let arguments = [
            IValue::Tensor(x.shallow_clone()),
            IValue::Bool(features),
            IValue::Bool(false),
            IValue::Bool(!features),
        ];
        match self.module.forward_is(&arguments)? {
            IValue::Tensor(out) => Ok(out),
            other => Err(Error::model("module").why(format!("it returns {other:?}, a tensor is needed"))),
        }
    }
}

impl Extractor for ScriptExtractor {
    fn name(&self) -> String {
        if self.protocol.is_some() {
            return NAME.to_owned();
        }
        format!("torchscript:{}", self.path.file_name().unwrap_or_default().to_string_lossy())
    }

    fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    fn weights_sha256(&self) -> Option<String> {
        Some(self.sha256.clone())
    }

    fn channels(&self) -> Option<usize> {
        Some(3)
    }

    fn any_size(&self) -> bool {
        matches!(self.protocol, Some(Protocol::Pytorch | Protocol::Clean))
    }

    fn can(&self) -> Wanted {
        Wanted { logits: self.convention.get() != Some(Convention::Plain), spatial: false }
    }

    fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        check_images(images)?;
        let x = to_rgb(&images.f_to_device(self.device)?)?;
        Ok(match self.protocol {
            None | Some(Protocol::Tf) => x.f_to_kind(Kind::Float)?,
            Some(Protocol::Clean) => Protocol::Clean.resize(&x, SIDE, SIDE)?,
            // (x' - 128) / 128 = 2 x / 255 - 1.
            Some(Protocol::Pytorch) => {
                Protocol::Pytorch.resize(&x, SIDE, SIDE)?.f_mul_scalar(256.0 / 255.0)?
            }
        })
    }

    fn forward(&self, x: &Tensor, wanted: Wanted) -> Result<Features> {
        let n = x.size().first().copied().unwrap_or(0);
        let _no_grad = tch::no_grad_guard();
        let place = |e: Error| e.kinded(crate::error::Kind::Model).at(self.path.display());
        let pool = match self.convention.get() {
            Some(convention) => self.call(x, convention, true).map_err(place)?,
            // A module with one argument refuses four.
            None => match self.call(x, Convention::Nvidia, true) {
                Ok(out) => {
                    self.convention.set(Some(Convention::Nvidia));
                    out
                }
                Err(_) => {
                    let out = self.call(x, Convention::Plain, true).map_err(place)?;
                    self.convention.set(Some(Convention::Plain));
                    out
                }
            },
        };
        if pool.size().len() != 2 || pool.size()[0] != n {
            return Err(Error::model("module")
                .at(self.path.display())
                .why(format!("it returns shape {:?} for {n} images, {n} x d is needed", pool.size())));
        }
        let logits = if wanted.logits {
            if self.convention.get() != Some(Convention::Nvidia) {
                return Err(Error::usage("the inception score needs class probabilities")
                    .at(self.path.display())
                    .why("a plain module gives features only"));
            }
            // It returns probabilities; their logarithm is the logits up to a constant.
            Some(self.call(x, Convention::Nvidia, false).map_err(place)?.f_log()?)
        } else {
            None
        };
        Ok(Features { pool: pool.f_to_kind(Kind::Float)?, logits, spatial: None })
    }
}

//! `--features` of sounds.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use tch::Device;

use crate::error::{Error, Kind, Result};
use crate::io::safetensors;
use crate::metric::audio::features::SoundExtractor;
use crate::metric::inception_weights::sha256_of;
use crate::model::card::ModelCard;
use crate::model::open::weights_of;
use crate::net::mel_cnn::MelCnn;
use crate::net::spec::NetSpec;
use crate::net::store::Store;
use crate::torch::shim;

/// Where the classifier of the shipped spoken digits lies, in a checkout.
const WEIGHTS: &str = "models/spoken-digits-features";

/// How sounds become features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SoundChoice {
    /// A classifier that gen trained: the shipped one of spoken digits, or another.
    MelCnn(Option<PathBuf>),
    /// The classifier of SC09.
    ResNext(PathBuf),
    /// A TorchScript module.
    TorchScript(PathBuf),
}

impl FromStr for SoundChoice {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Ok(match text.split_once(':') {
            None if text == "spoken-digits" => SoundChoice::MelCnn(None),
            Some(("spoken-digits" | "mel-cnn", path)) if !path.is_empty() => {
                SoundChoice::MelCnn(Some(path.into()))
            }
            Some(("resnext", path)) if !path.is_empty() => SoundChoice::ResNext(path.into()),
            Some(("torchscript", path)) if !path.is_empty() => SoundChoice::TorchScript(path.into()),
            _ => {
                return Err(
                    "expected spoken-digits, mel-cnn:PATH, resnext:FILE or torchscript:FILE".to_owned()
                );
            }
        })
    }
}

impl SoundChoice {
    /// The extractor on `device`.
    ///
    /// # Errors
    /// Where weights are missing or do not fit.
    pub fn open(&self, device: Device) -> Result<SoundExtractor> {
        // Features must not depend on the GPU's rounding of matrix products.
        shim::set_tf32(false)?;
        match self {
            SoundChoice::MelCnn(path) => mel_cnn(path.as_deref().unwrap_or(Path::new(WEIGHTS)), device),
            SoundChoice::ResNext(path) => SoundExtractor::resnext(path, device),
            SoundChoice::TorchScript(path) => SoundExtractor::torchscript(path, device),
        }
    }
}

/// The classifier at `path`, a snapshot or run folder of `gen train`.
fn mel_cnn(path: &Path, device: Device) -> Result<SoundExtractor> {
    let missing =
        |e: Error| e.kinded(Kind::Model).hint("train it with `gen train models/spoken-digits-features`");
    let path = if path.is_dir() { weights_of(path, None).map_err(missing)? } else { path.to_owned() };
    let file = safetensors::File::open(&path).map_err(missing)?;
    let card = ModelCard::of(&file)?;
    let NetSpec::MelCnn(config) = &card.model else {
        return Err(Error::model("not a classifier of sounds")
            .at(path.display())
            .hint("it must be one of `gen train models/spoken-digits-features`"));
    };
    let store = Store::empty(device, tch::Kind::Float);
    let net = MelCnn::new(&store.root(), config, &card.shape, card.classes)?;
    store.load(&file.tensors()?, &path.display().to_string())?;
    store.set_requires_grad(false)?;
    let length = card.shape.last().and_then(|n| usize::try_from(*n).ok()).unwrap_or(0);
    Ok(SoundExtractor::mel_cnn("spoken-digits", net, store, length, sha256_of(&path)?))
}

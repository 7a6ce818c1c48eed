//! `--features` and what belongs to it: how images become features.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use tch::Device;

use crate::error::{Error, Kind, Result};
use crate::io::safetensors;
use crate::metric::digits::Digits;
use crate::metric::download;
use crate::metric::features::Extractor;
use crate::metric::inception::{InceptionExtractor, Layer};
use crate::metric::inception_weights::sha256_of;
use crate::metric::pixel8::Pixel8;
use crate::metric::resize::Protocol;
use crate::metric::suite::Conventions;
use crate::metric::torchscript::ScriptExtractor;
use crate::metric::transformer::{Family, Resizing, TransformerExtractor};
use crate::model::card::ModelCard;
use crate::model::open::weights_of;
use crate::net::digit_cnn::DigitCnn;
use crate::net::spec::NetSpec;
use crate::net::store::Store;
use crate::torch::shim;

/// Where the classifier of the shipped digits lies, in a checkout.
const DIGITS_WEIGHTS: &str = "models/digits-features";

/// How images become features; shared with `gen ref-stats`.
#[derive(Debug, Clone, Args)]
pub struct FeatureArgs {
    /// inception [default], dinov2:PATH, clip:PATH, pixel8 (no weights), digits, or torchscript:FILE
    #[arg(long, value_name = "NAME", alias = "extractor")]
    pub features: Option<FeatureChoice>,
    /// Weights of the features' network: .pth or .safetensors; for Inception also NVIDIA's .pt
    #[arg(long, env = "GEN_INCEPTION", value_name = "FILE", alias = "inception")]
    pub weights: Option<PathBuf>,
    /// Fetch the Inception weights from their public address if they are not on this machine
    #[arg(long)]
    pub download: bool,
    /// Use Inception weights whose hash is not that of the published file
    #[arg(long, hide_short_help = true)]
    pub allow_unverified_weights: bool,
    /// Resize of FID: tf (original, EDM, ADM, torch-fidelity), pytorch (pytorch-fid), clean (clean-fid) [default: tf]
    #[arg(long, value_enum, value_name = "NAME")]
    pub protocol: Option<Protocol>,
    /// Inception's layer by its width: 64, 192, 768 or 2048 (FID's)
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = layer_width, hide_short_help = true)]
    pub dims: i64,
    /// Resize of DINOv2: pil8 (dgm-eval), torch (edm2), tf (torch-fidelity)
    #[arg(long, value_enum, default_value_t, value_name = "NAME", hide_short_help = true)]
    pub resize: Resizing,
    /// Images in one call of the network
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Threads that decode images
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256), hide_short_help = true)]
    pub workers: u32,
}

fn layer_width(text: &str) -> std::result::Result<i64, String> {
    let width = text.parse().ok().filter(|&w| Layer::of_width(w).is_some());
    width.ok_or_else(|| "expected 64, 192, 768 or 2048".to_owned())
}

/// `--features`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeatureChoice {
    /// The Inception network of FID.
    Inception,
    /// Mean colours on an 8 x 8 grid.
    Pixel8,
    /// The classifier of the shipped digits.
    Digits,
    /// A TorchScript module.
    TorchScript(PathBuf),
    /// A vision transformer.
    Transformer(Family, PathBuf),
}

impl FromStr for FeatureChoice {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = "expected inception, dinov2:PATH, clip:PATH, pixel8, digits or torchscript:FILE";
        Ok(match text.split_once(':') {
            None if text == "inception" => FeatureChoice::Inception,
            None if text == "pixel8" => FeatureChoice::Pixel8,
            None if text == "digits" => FeatureChoice::Digits,
            Some(("torchscript", path)) if !path.is_empty() => FeatureChoice::TorchScript(path.into()),
            Some(("dinov2", path)) if !path.is_empty() => {
                FeatureChoice::Transformer(Family::Dinov2, path.into())
            }
            Some(("clip", path)) if !path.is_empty() => FeatureChoice::Transformer(Family::Clip, path.into()),
            _ => return Err(expected.to_owned()),
        })
    }
}

impl FeatureArgs {
    /// The extractor on `device`; `conventions` say what holds where no flag is given.
    ///
    /// # Errors
    /// Where weights are missing or do not fit.
    pub fn open(&self, conventions: &Conventions, device: Device) -> Result<Box<dyn Extractor>> {
        // Features must not depend on the GPU's rounding of matrix products.
        shim::set_tf32(false)?;
        let choice = match &self.features {
            Some(choice) => choice.clone(),
            None if conventions.dinov2 => {
                return Err(Error::usage("this suite measures features of DINOv2").at("--features").hint(
                    "name the network: --features dinov2:PATH, a folder such as facebook/dinov2-large or a \
                     dinov2_vitl14_pretrain.pth",
                ));
            }
            None => FeatureChoice::Inception,
        };
        if choice != FeatureChoice::Inception && self.dims != 2048 {
            return Err(Error::usage("layers can be chosen of the Inception network only").at("--dims"));
        }
        Ok(match &choice {
            FeatureChoice::Pixel8 => Box::new(Pixel8),
            FeatureChoice::TorchScript(path) => Box::new(ScriptExtractor::open(path, device)?),
            FeatureChoice::Transformer(family, path) => {
                Box::new(TransformerExtractor::open(path, *family, self.resize, device)?)
            }
            FeatureChoice::Digits => {
                let path = self.weights.as_deref().unwrap_or(Path::new(DIGITS_WEIGHTS));
                Box::new(digits(path, device)?)
            }
            FeatureChoice::Inception => {
                self.inception(self.protocol.unwrap_or(conventions.protocol), device)?
            }
        })
    }

    fn inception(&self, protocol: Protocol, device: Device) -> Result<Box<dyn Extractor>> {
        let path = self.inception_weights()?;
        let any = self.allow_unverified_weights;
        if ScriptExtractor::is_module(&path) {
            if self.dims != 2048 {
                return Err(Error::usage("a TorchScript module has one layer of features").at("--dims"));
            }
            return Ok(Box::new(ScriptExtractor::inception(&path, protocol, device, any)?));
        }
        let opened = InceptionExtractor::open(&path, protocol, device, any);
        let hint = "Inception weights are pt_inception-2015-12-05-6726825d.pth or a safetensors file of it";
        let layer = Layer::of_width(self.dims).unwrap_or_default();
        Ok(Box::new(opened.map_err(|e| e.kinded(Kind::Model).hint(hint))?.with_layer(layer)))
    }

    /// The file named, the one in the cache, or a download.
    fn inception_weights(&self) -> Result<PathBuf> {
        if let Some(path) = &self.weights {
            return Ok(path.clone());
        }
        let folder = download::folder();
        let place = folder.join(download::INCEPTION.name);
        if place.is_file() {
            return Ok(place);
        }
        if self.download {
            return download::fetch(&download::INCEPTION, &folder);
        }
        Err(Error::usage("no Inception weights are given").at("--weights").hint(
            "--download fetches pt_inception-2015-12-05-6726825d.pth (release of mseitzer/pytorch-fid) to the cache \
             folder; or name the file with --weights; --features pixel8 needs no weights",
        ))
    }
}

/// The classifier at `path`, a snapshot or run folder of `gen train`.
fn digits(path: &Path, device: Device) -> Result<Digits> {
    let missing = |e: Error| e.kinded(Kind::Model).hint("train it with `gen train models/digits-features`");
    let path = if path.is_dir() { weights_of(path, None).map_err(missing)? } else { path.to_owned() };
    let file = safetensors::File::open(&path).map_err(missing)?;
    let card = ModelCard::of(&file)?;
    let NetSpec::DigitCnn(config) = &card.model else {
        return Err(Error::model("not a classifier of digits")
            .at(path.display())
            .hint("leave --weights out, or train one with `gen train models/digits-features`"));
    };
    let store = Store::empty(device, tch::Kind::Float);
    let net = DigitCnn::new(&store.root(), config, &card.shape, card.classes)?;
    store.load(&file.tensors()?, &path.display().to_string())?;
    store.set_requires_grad(false)?;
    let shape = <[i64; 3]>::try_from(card.shape.as_slice())
        .map_err(|_| Error::model("not a classifier of images").at(path.display()))?;
    let classifier = move |x: &tch::Tensor| {
        // The store keeps the weights alive.
        let _ = &store;
        net.features(x)
    };
    Ok(Digits::new(Box::new(classifier), shape, device, Some(sha256_of(&path)?)))
}

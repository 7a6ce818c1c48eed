//! Features of vision transformers: FD-DINOv2 (Stein et al. 2023, "Exposing flaws of generative model evaluation
//! metrics") and CLIP-FID (Kynkaanniemi et al. 2022).
//!
//! DINOv2: the picture is resized to 224 x 224 whatever its shape, and normalised by ImageNet's mean and deviation;
//! the feature is the class token after the last norm. CLIP: the shorter side becomes 224, the centre is cut out, and
//! normalised by CLIP's own values; the feature is the image embedding after the projection, not of unit length.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::features::{Extractor, Features, Wanted, check_images, to_rgb};
use super::inception_weights::sha256_of;
use super::pil::bicubic_u8;
use super::resize::tf_bilinear;
use crate::error::{Error, Result};
use crate::net::store::Store;
use crate::net::vit::Vit;
use crate::net::vit_config::{PositionRule, VitConfig};
use crate::net::vit_weights::{self, OpenVit};

/// Side of the network's input.
pub const SIDE: i64 = 224;

/// How images are resized for DINOv2: the tools differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Resizing {
    /// PIL's bicubic on 8-bit pictures, rounded: dgm-eval, edm2 with `pil`.
    #[default]
    Pil8,
    /// Antialiased bicubic in f32: edm2.
    Torch,
    /// TensorFlow 1 bilinear: torch-fidelity.
    Tf,
}

/// Which network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// DINOv2.
    Dinov2,
    /// CLIP.
    Clip,
}

impl Family {
    fn normalisation(self) -> ([f64; 3], [f64; 3]) {
        match self {
            Family::Dinov2 => ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            Family::Clip => {
                ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11])
            }
        }
    }
}

/// The extractor around a network.
#[derive(Debug)]
pub struct TransformerExtractor {
    net: Vit,
    store: Store,
    family: Family,
    resizing: Resizing,
    name: String,
    sha256: String,
}

impl TransformerExtractor {
    /// Opens the network at `path` (see [`vit_weights::open`]), which must be of `family`.
    ///
    /// # Errors
    /// A model error as there, or where it is of the other family.
    pub fn open(path: &Path, family: Family, resizing: Resizing, device: Device) -> Result<Self> {
        Self::with_positions(path, family, resizing, device, None)
    }

    /// As [`TransformerExtractor::open`] with another rule for the table of positions.
    ///
    /// # Errors
    /// As there.
    pub fn with_positions(
        path: &Path,
        family: Family,
        resizing: Resizing,
        device: Device,
        positions: Option<PositionRule>,
    ) -> Result<Self> {
        let change = |config: &mut VitConfig| config.positions = positions.unwrap_or(config.positions);
        let OpenVit { net, store, file, kind } = vit_weights::open(path, device, change)?;
        let (is, name) =
            if kind.starts_with("clip") { (Family::Clip, "clip") } else { (Family::Dinov2, "dinov2") };
        if is != family {
            return Err(Error::model(format!("a network of type `{kind}`"))
                .at(path.display())
                .hint(format!("name it with --features {name}:PATH")));
        }
        let config = net.config();
        let registers = if config.registers > 0 { "-registers" } else { "" };
        let width = config.projection.unwrap_or(config.width);
        let name = format!("{name}-{}x{}-p{}-{width}{registers}", config.depth, config.width, config.patch);
        Ok(TransformerExtractor { net, store, family, resizing, name, sha256: sha256_of(&file)? })
    }

    /// Pictures of [`SIDE`] x [`SIDE`], of 0 to 255 in f32.
    fn resized(&self, images: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = images.size4()?;
        if self.family == Family::Clip {
            let (height, width) = shorter_to(h, w, SIDE);
            let picture = bicubic_u8(images, height, width)?;
            let (top, left) = (half_even(height - SIDE), half_even(width - SIDE));
            return Ok(picture.f_narrow(2, top, SIDE)?.f_narrow(3, left, SIDE)?.f_to_kind(Kind::Float)?);
        }
        let float = || images.f_to_kind(Kind::Float);
        Ok(match self.resizing {
            Resizing::Pil8 => bicubic_u8(images, SIDE, SIDE)?.f_to_kind(Kind::Float)?,
            Resizing::Torch if (h, w) == (SIDE, SIDE) => float()?,
            Resizing::Torch => float()?.f_internal_upsample_bicubic2d_aa([SIDE, SIDE], false, None, None)?,
            Resizing::Tf => tf_bilinear(&float()?, SIDE, SIDE)?,
        })
    }
}

/// Height and width with the shorter side `side`, the other rounded down.
fn shorter_to(h: i64, w: i64, side: i64) -> (i64, i64) {
    // The quotient is taken in floating point by the tools; whole numbers give the same.
    if h <= w { (side, side * w / h) } else { (side * h / w, side) }
}

/// `round(n / 2)` with halves to the even number.
fn half_even(n: i64) -> i64 {
    let half = n / 2;
    if n % 2 != 0 && half % 2 != 0 { half + 1 } else { half }
}

impl Extractor for TransformerExtractor {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn resize(&self) -> Option<String> {
        let text = match (self.family, self.resizing) {
            (Family::Clip, _) => "pil8, shorter side to 224, centre",
            (_, Resizing::Pil8) => "pil8 to 224 x 224",
            (_, Resizing::Torch) => "torch to 224 x 224",
            (_, Resizing::Tf) => "tf to 224 x 224",
        };
        Some(text.to_owned())
    }

    fn weights_sha256(&self) -> Option<String> {
        Some(self.sha256.clone())
    }

    fn channels(&self) -> Option<usize> {
        Some(3)
    }

    fn any_size(&self) -> bool {
        true
    }

    fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        check_images(images)?;
        let x = self.resized(&to_rgb(images)?)?.f_to_device(self.store.device())?;
        let (mean, std) = self.family.normalisation();
        let row = |v: [f64; 3], scale: f64| -> Result<Tensor> {
            let v = Tensor::f_from_slice(&v.map(|v| v * scale))?.f_view([1, 3, 1, 1])?;
            Ok(v.f_to_kind(Kind::Float)?.f_to_device(x.device())?)
        };
        Ok(x.f_sub(&row(mean, 255.0)?)?.f_div(&row(std, 255.0)?)?)
    }

    fn forward(&self, input: &Tensor, _: Wanted) -> Result<Features> {
        let _no_grad = tch::no_grad_guard();
        Ok(Features { pool: self.net.forward(input)?, logits: None, spatial: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_tools() {
        assert_eq!(shorter_to(300, 210, 224), (320, 224));
        assert_eq!(shorter_to(48, 64, 224), (224, 298));
        assert_eq!([0, 1, 2, 3, 5, 74, 75, 77].map(half_even), [0, 0, 1, 2, 2, 37, 38, 38]);
    }
}

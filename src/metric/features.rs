//! Feature extractors: 8-bit images in, one row of numbers per image out.

use std::fmt::Debug;

use tch::{Kind, Tensor};

use super::resize::Protocol;
use crate::error::{Error, Result};

/// What a pass over images should give beside the features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Class logits without the output bias.
    pub logits: bool,
    /// Spatial features (sFID).
    pub spatial: bool,
}

/// What a pass gave, one row per image, f32.
#[derive(Debug)]
pub struct Features {
    /// Features `[N, d]`.
    pub pool: Tensor,
    /// Class logits `[N, C]`, up to a constant per row.
    pub logits: Option<Tensor>,
    /// Spatial features `[N, s]`.
    pub spatial: Option<Tensor>,
}

/// Turns images into features, in two steps: each image is brought to the network's input for itself, then inputs
/// go through the network in batches.
pub trait Extractor: Debug {
    /// Name, as it goes into reports and statistics files.
    fn name(&self) -> String;
    /// Resizing protocol, where the extractor has one.
    fn protocol(&self) -> Option<Protocol> {
        None
    }
    /// How images are resized, where it is a choice but no [`Protocol`].
    fn resize(&self) -> Option<String> {
        None
    }
    /// SHA-256 of the weight file, where there is one.
    fn weights_sha256(&self) -> Option<String> {
        None
    }
    /// Channels it must be given; nothing where it takes images as they are.
    fn channels(&self) -> Option<usize> {
        None
    }
    /// Whether inputs made of images of different sizes can share a batch.
    fn any_size(&self) -> bool {
        false
    }
    /// What it can give beside the features.
    fn can(&self) -> Wanted {
        Wanted::default()
    }
    /// The network's input for `images`, u8 `[N, C, H, W]`.
    ///
    /// # Errors
    /// Where the images have a wrong shape or type, or libtorch fails.
    fn prepare(&self, images: &Tensor) -> Result<Tensor>;
    /// Features of what [`Extractor::prepare`] made.
    ///
    /// # Errors
    /// Where libtorch fails.
    fn forward(&self, input: &Tensor, wanted: Wanted) -> Result<Features>;
    /// Features of `images`, u8 `[N, C, H, W]`.
    ///
    /// # Errors
    /// As the two steps.
    fn extract(&self, images: &Tensor, wanted: Wanted) -> Result<Features> {
        self.forward(&self.prepare(images)?, wanted)
    }
}

/// Checks that images are bytes `[N, C, H, W]`: every protocol is defined on quantised images.
///
/// # Errors
/// Where they are not.
pub fn check_images(images: &Tensor) -> Result<(i64, i64, i64, i64)> {
    let size = images.size4().map_err(|_| {
        Error::data("images").why(format!("shape {:?}, N x C x H x W is needed", images.size()))
    })?;
    if images.f_kind()? != Kind::Uint8 {
        return Err(Error::data("images").why(format!(
            "{:?} values; metrics are defined on images of 8 bits, so quantise first",
            images.f_kind()?
        )));
    }
    Ok(size)
}

/// RGB images of RGB or grey ones.
///
/// # Errors
/// Where there are neither 1 nor 3 channels.
pub fn to_rgb(images: &Tensor) -> Result<Tensor> {
    match images.size4()? {
        (_, 3, _, _) => Ok(images.shallow_clone()),
        (n, 1, h, w) => Ok(images.f_expand([n, 3, h, w], false)?),
        (_, c, _, _) => Err(Error::data("images").why(format!("{c} channels, 1 or 3 are needed"))),
    }
}

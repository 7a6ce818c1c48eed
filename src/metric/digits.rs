//! Features of a small classifier of handwritten digits: FID and Inception Score for the shipped 8 x 8 digits.
//!
//! The classifier itself is a network like any other; this module only knows how to ask it. Its penultimate
//! activations are the features, its outputs the logits.

use tch::{Device, Tensor};

use super::features::{Extractor, Features, Wanted, check_images};
use crate::data::loader::normalize;
use crate::error::{Error, Result};

/// Penultimate activations `[N, d]` and logits `[N, K]` of images `[N, C, H, W]` f32 in [-1, 1].
pub type Classifier = dyn Fn(&Tensor) -> Result<(Tensor, Tensor)>;

/// The extractor around a classifier.
pub struct Digits {
    classifier: Box<Classifier>,
    weights_sha256: Option<String>,
    shape: [i64; 3],
    device: Device,
}

impl Digits {
    /// An extractor that asks `classifier`, which takes images of `shape` (channels, height, width) on `device`.
    #[must_use]
    pub fn new(
        classifier: Box<Classifier>,
        shape: [i64; 3],
        device: Device,
        weights_sha256: Option<String>,
    ) -> Self {
        Digits { classifier, weights_sha256, shape, device }
    }
}

impl std::fmt::Debug for Digits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digits").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl Extractor for Digits {
    fn name(&self) -> String {
        "digits".to_owned()
    }

    fn weights_sha256(&self) -> Option<String> {
        self.weights_sha256.clone()
    }

    fn channels(&self) -> Option<usize> {
        usize::try_from(self.shape[0]).ok()
    }

    fn can(&self) -> Wanted {
        Wanted { logits: true, spatial: false }
    }

    fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        let (_, c, h, w) = check_images(images)?;
        if [c, h, w] != self.shape {
            return Err(Error::data("images").why(format!(
                "shape {:?}, the classifier takes {:?}",
                [c, h, w],
                self.shape
            )));
        }
        normalize(&images.f_to_device(self.device)?)
    }

    fn forward(&self, input: &Tensor, wanted: Wanted) -> Result<Features> {
        let _no_grad = tch::no_grad_guard();
        let (pool, logits) = (self.classifier)(input)?;
        Ok(Features { pool, logits: wanted.logits.then_some(logits), spatial: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::bytes::tensor_to_f64;

    #[test]
    fn the_classifier_sees_images_from_minus_one_to_one() {
        let classifier = |x: &Tensor| -> Result<(Tensor, Tensor)> {
            Ok((x.f_flatten(1, -1)?, x.f_flatten(1, -1)?.f_narrow(1, 0, 2)?))
        };
        let digits = Digits::new(Box::new(classifier), [1, 1, 3], Device::Cpu, None);
        let images = Tensor::from_slice(&[0u8, 51, 255]).view([1, 1, 1, 3]);
        let f = digits.extract(&images, digits.can()).unwrap();
        for (got, want) in tensor_to_f64(&f.pool).unwrap().iter().zip([-1.0, -0.6, 1.0]) {
            assert!((got - want).abs() < 1e-6);
        }
        assert_eq!(f.logits.unwrap().size(), [1, 2]);
        assert!(digits.extract(&images.view([1, 1, 3, 1]), Wanted::default()).is_err());
    }
}

//! Augmentation of training images on the device: plain flips, and EDM's conditioned pipe.
//!
//! The pipe (Karras et al. 2022, appendix F.2 and Table 6) applies random geometric transformations and tells
//! the network which, as nine numbers that are zero for an unchanged image; at sampling they are all zero, so
//! the augmentation does not leak. Warping follows "Training generative adversarial networks with limited
//! data" (Karras et al. 2020, appendix B): reflection padding, 2x upsampling with the sym6 wavelet, bilinear
//! lookup, 2x downsampling with the same filter. Parameters are drawn on the host, so nothing waits for the
//! device; the filter is orthonormal, so an image whose transformation is the identity stays as it is.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::error::{Error, Result};
use crate::math::rng::SplitMix64;

mod warp;

use warp::{Affine, warped};

/// Number of augmentation parameters: x-flip, y-flip, scale, rotation (cos - 1, sin), anisotropy (cos, sin),
/// translation (x, y).
pub const LABELS: i64 = 9;

/// Strengths of EDM's pipe: a transformation happens with probability `p` times its own multiplier.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentSpec {
    /// Base probability.
    pub p: f64,
    /// Mirror left to right (then with probability 1/2).
    pub xflip: f64,
    /// Mirror top to bottom (then with probability 1/2).
    pub yflip: f64,
    /// Scale by `2^(0.2 N(0, 1))`.
    pub scale: f64,
    /// Rotate by a uniform angle.
    pub rotate_frac: f64,
    /// Scale by `2^(0.2 N(0, 1))` along an axis and by its inverse across; in one of two cases the axis has a
    /// uniform direction, else it is that of x.
    pub aniso: f64,
    /// Translate by `N(0, 1)/8` of the side.
    pub translate_frac: f64,
}

impl Default for AugmentSpec {
    /// EDM's settings for CIFAR-10: x-flips always, everything else with probability 0.12.
    fn default() -> Self {
        AugmentSpec {
            p: 0.12,
            xflip: 1e8,
            yflip: 1.0,
            scale: 1.0,
            rotate_frac: 1.0,
            aniso: 1.0,
            translate_frac: 1.0,
        }
    }
}

/// What happens to one image.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Transform {
    xflip: bool,
    yflip: bool,
    /// log2 of the scale over 0.2.
    scale: f64,
    angle: f64,
    /// log2 of the stretch over 0.2, and its direction.
    aniso: (f64, f64),
    /// In eighths of the sides.
    shift: (f64, f64),
}

impl Transform {
    fn draw(spec: &AugmentSpec, rng: &mut SplitMix64) -> Self {
        use std::f64::consts::PI;
        let happens = |rng: &mut SplitMix64, strength: f64| rng.uniform() < strength * spec.p;
        let mut out = Transform::default();
        // Every image takes the same number of draws, whatever happens to it.
        let (x, y) = (rng.uniform() < 0.5, rng.uniform() < 0.5);
        out.xflip = happens(rng, spec.xflip) && x;
        out.yflip = happens(rng, spec.yflip) && y;
        let scale = rng.normal();
        if happens(rng, spec.scale) {
            out.scale = scale;
        }
        let angle = PI * (2.0 * rng.uniform() - 1.0);
        if happens(rng, spec.rotate_frac) {
            out.angle = angle;
        }
        let (stretch, axis, turned) = (rng.normal(), PI * (2.0 * rng.uniform() - 1.0), rng.uniform() < 0.5);
        if happens(rng, spec.aniso) {
            out.aniso = (stretch, if turned { axis } else { 0.0 });
        }
        let shift = (rng.normal(), rng.normal());
        if happens(rng, spec.translate_frac) {
            out.shift = shift;
        }
        out
    }

    #[allow(clippy::cast_possible_truncation)]
    fn labels(&self) -> [f32; 9] {
        let (stretch, axis) = self.aniso;
        [
            f64::from(u8::from(self.xflip)),
            f64::from(u8::from(self.yflip)),
            self.scale,
            self.angle.cos() - 1.0,
            self.angle.sin(),
            stretch * axis.cos(),
            stretch * axis.sin(),
            self.shift.0,
            self.shift.1,
        ]
        .map(|v| v as f32)
    }

    fn warps(&self) -> bool {
        Transform { xflip: false, yflip: false, ..*self } != Transform::default()
    }

    /// From centred pixel coordinates of the result to those of the image.
    fn inverse(&self, height: f64, width: f64) -> Affine {
        let (stretch, axis) = self.aniso;
        let scale = (-0.2 * self.scale).exp2();
        let squeeze = (-0.2 * stretch).exp2();
        // The image is scaled, then rotated, then stretched, then moved: undone from the last on.
        Affine::scale(scale, scale)
            .after(Affine::rotate(-self.angle))
            .after(Affine::rotate(axis))
            .after(Affine::scale(squeeze, squeeze.recip()))
            .after(Affine::rotate(-axis))
            .after(Affine::shift(-self.shift.0 * width / 8.0, -self.shift.1 * height / 8.0))
    }
}

impl AugmentSpec {
    /// `x` `[B, C, H, W]`, transformed, and the parameters `[B, 9]` f32; the same for the same `seed`.
    ///
    /// # Errors
    /// Where `x` is no batch of images of 2x2 pixels or more, or libtorch fails.
    pub fn apply(&self, x: &Tensor, seed: u64) -> Result<(Tensor, Tensor)> {
        let &[batch, _, height, width] = x.size().as_slice() else {
            return Err(Error::usage("augmentation needs images").why(format!("got shape {:?}", x.size())));
        };
        if height < 2 || width < 2 {
            return Err(Error::usage("augmentation needs images of 2x2 pixels or more"));
        }
        let mut rng = SplitMix64::new(seed);
        let all: Vec<Transform> = (0..batch).map(|_| Transform::draw(self, &mut rng)).collect();
        let labels: Vec<f32> = all.iter().flat_map(Transform::labels).collect();
        let labels = Tensor::f_from_slice(&labels)?.f_view([batch, LABELS])?.f_to_device(x.device())?;
        Ok((transformed(x, &all)?, labels))
    }
}

/// `x` `[B, C, H, W]` with every image mirrored left to right with probability 1/2.
///
/// # Errors
/// Where `x` is no batch of images, or libtorch fails.
pub fn flip(x: &Tensor, seed: u64) -> Result<Tensor> {
    let mut rng = SplitMix64::new(seed);
    let flips: Vec<bool> = (0..x.size().first().copied().unwrap_or(0)).map(|_| rng.uniform() < 0.5).collect();
    flipped(x, &flips, 3)
}

fn flipped(x: &Tensor, flips: &[bool], dim: i64) -> Result<Tensor> {
    if !flips.contains(&true) {
        return Ok(x.shallow_clone());
    }
    let flips = Tensor::f_from_slice(flips)?.f_view([-1, 1, 1, 1])?.f_to_device(x.device())?;
    Ok(x.f_flip([dim])?.f_where_self(&flips, x)?)
}

fn transformed(x: &Tensor, all: &[Transform]) -> Result<Tensor> {
    let x = flipped(x, &all.iter().map(|t| t.xflip).collect::<Vec<_>>(), 3)?;
    let x = flipped(&x, &all.iter().map(|t| t.yflip).collect::<Vec<_>>(), 2)?;
    if !all.iter().any(Transform::warps) {
        return Ok(x);
    }
    #[allow(clippy::cast_precision_loss)]
    let inverse = |t: &Transform| t.inverse(x.size()[2] as f64, x.size()[3] as f64);
    warped(&x, &all.iter().map(inverse).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::shim::Generator;
    use tch::{Device, Kind};

    fn noise(shape: &[i64]) -> Tensor {
        Generator::new(3).unwrap().normal(shape, Kind::Double).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    /// A smooth picture, sampled at centred coordinates mapped by `inverse`.
    fn picture(side: i64, inverse: &Affine) -> Tensor {
        let value = |x: f64, y: f64| {
            let blob =
                |cx: f64, cy: f64, s: f64| (-((x - cx).powi(2) + (y - cy).powi(2)) / (2.0 * s * s)).exp();
            blob(3.0, -2.0, 4.0) - 0.7 * blob(-4.0, 3.0, 3.0)
        };
        let centre = |i: i64| i as f64 + 0.5 - side as f64 / 2.0;
        let values: Vec<f64> = (0..side * side)
            .map(|k| inverse.at(centre(k % side), centre(k / side)))
            .map(|(x, y)| value(x, y))
            .collect();
        Tensor::from_slice(&values).reshape([1, 1, side, side])
    }

    #[test]
    fn the_identity_leaves_images_as_they_are() {
        let x = noise(&[2, 3, 16, 16]);
        let turned = Transform { angle: 0.7, ..Transform::default() };
        let y = transformed(&x, &[Transform::default(), turned]).unwrap();
        assert!(gap(&y.get(0), &x.get(0)) < 1e-4, "{}", gap(&y.get(0), &x.get(0)));
        assert!(gap(&y.get(1), &x.get(1)) > 0.1);
    }

    #[test]
    fn smooth_pictures_move_as_their_coordinates() {
        let side = 32;
        let identity = Affine::shift(0.0, 0.0);
        let x = picture(side, &identity);
        for t in [
            Transform { scale: 1.5, ..Transform::default() },
            Transform { angle: 0.6, ..Transform::default() },
            Transform { aniso: (1.2, 0.9), ..Transform::default() },
            Transform { shift: (0.6, -0.9), ..Transform::default() },
            Transform {
                scale: -0.8,
                angle: -2.0,
                aniso: (-1.0, 2.0),
                shift: (0.3, 0.4),
                ..Transform::default()
            },
        ] {
            let want = picture(side, &t.inverse(32.0, 32.0));
            let got = transformed(&x, &[t]).unwrap();
            assert_eq!(got.size(), [1, 1, side, side]);
            let inner = |z: &Tensor| z.narrow(2, 9, 14).narrow(3, 9, 14);
            // Bilinear lookup at half-pixel spacing errs by 1/32 of the second derivatives: below 0.01 here.
            assert!(gap(&inner(&got), &inner(&want)) < 0.01, "{t:?} {}", gap(&inner(&got), &inner(&want)));
            assert!(gap(&inner(&x), &inner(&want)) > 0.1, "{t:?}");
        }
    }

    #[test]
    fn shifts_by_whole_pixels_reflect_at_the_border() {
        let x = noise(&[1, 2, 16, 16]);
        // Two pixels right and three up.
        let t = Transform { shift: (1.0, -1.5), ..Transform::default() };
        let got = transformed(&x, &[t]).unwrap();
        let padded = x.pad([2, 0, 0, 3], "reflect", None);
        let want = padded.narrow(2, 3, 16).narrow(3, 0, 16);
        assert!(gap(&got, &want) < 1e-4, "{}", gap(&got, &want));
    }

    #[test]
    fn labels_say_what_happened() {
        let t = Transform {
            xflip: true,
            yflip: false,
            scale: 0.5,
            angle: 1.0,
            aniso: (2.0, 0.3),
            shift: (0.1, -0.2),
        };
        let want =
            [1.0, 0.0, 0.5, 1f64.cos() - 1.0, 1f64.sin(), 2.0 * 0.3f64.cos(), 2.0 * 0.3f64.sin(), 0.1, -0.2];
        for (got, want) in t.labels().iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-6);
        }
        assert_eq!(Transform::default().labels(), [0.0; 9]);
    }

    #[test]
    fn each_transformation_has_its_probability() {
        let spec = AugmentSpec::default();
        let x = Tensor::zeros([4000, 1, 2, 2], (Kind::Float, Device::Cpu));
        let mut rng = SplitMix64::new(1);
        let all: Vec<Transform> = (0..4000).map(|_| Transform::draw(&spec, &mut rng)).collect();
        let share = |f: &dyn Fn(&Transform) -> bool| all.iter().filter(|t| f(t)).count() as f64 / 4000.0;
        // Four standard errors: 0.032 at one half, 0.021 at 0.12.
        assert!((share(&|t| t.xflip) - 0.5).abs() < 0.032);
        assert!((share(&|t| t.yflip) - 0.06).abs() < 0.016);
        for f in [
            &(|t: &Transform| t.scale != 0.0) as &dyn Fn(&Transform) -> bool,
            &|t| t.angle != 0.0,
            &|t| t.aniso.0 != 0.0,
            &|t| t.shift != (0.0, 0.0),
        ] {
            assert!((share(f) - 0.12).abs() < 0.021);
        }
        let (_, labels) = spec.apply(&x.narrow(0, 0, 8), 5).unwrap();
        assert_eq!((labels.size(), labels.kind()), (vec![8, 9], Kind::Float));
    }

    #[test]
    fn flips_are_half_of_the_images_and_follow_the_seed() {
        let x = noise(&[64, 1, 4, 4]);
        let y = flip(&x, 9).unwrap();
        let mirrored = x.flip([3]);
        let same = (0..64).filter(|&i| y.get(i).equal(&x.get(i))).count();
        let turned = (0..64).filter(|&i| y.get(i).equal(&mirrored.get(i))).count();
        assert_eq!(same + turned, 64);
        assert!((16..48).contains(&same), "{same}");
        assert!(flip(&x, 9).unwrap().equal(&y) && !flip(&x, 10).unwrap().equal(&y));
        let spec = AugmentSpec::default();
        let (a, b) = (spec.apply(&x, 4).unwrap(), spec.apply(&x, 4).unwrap());
        assert!(a.0.equal(&b.0) && a.1.equal(&b.1));
    }
}

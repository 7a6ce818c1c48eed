//! 8-bit pictures in memory, decoded as the evaluation literature decodes them.
//!
//! Grey stays grey, palettes become RGB, alpha is dropped and not blended (PIL's `convert("RGB")`), more than
//! 8 bits per channel is an error: a metric on silently rounded images would not be comparable.

use std::io::Cursor;

use image::{DynamicImage, ImageReader};
use tch::{Kind, Tensor};

use super::bytes::{tensor_from_bytes, tensor_to_bytes};
use crate::error::{Error, Result};

/// A grey or RGB picture of 8 bits per channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Pixels row by row, channels innermost (HWC).
    pub data: Vec<u8>,
    /// Whether the file had an alpha channel, which was dropped.
    pub alpha_dropped: bool,
}

/// What to do about a file that is no image.
const BAD_FILE: &str = "write that image again, or take it out";

impl Picture {
    /// A picture of `data` in HWC order.
    ///
    /// # Errors
    /// Where the sizes do not fit, or channels are neither 1 nor 3.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Result<Self> {
        if !matches!(channels, 1 | 3) || width * height * channels != data.len() {
            return Err(Error::run(format!(
                "picture of {width}x{height} pixels and {channels} channels does not fit {} bytes",
                data.len()
            )));
        }
        Ok(Picture { width, height, channels, data, alpha_dropped: false })
    }

    /// Decodes an image file of any supported format, by content.
    ///
    /// # Errors
    /// A data error that says why it cannot be decoded.
    pub fn decode(file: &[u8]) -> Result<Self> {
        let bad = |why: String| Error::data("cannot decode image").why(why).hint(BAD_FILE);
        let reader = ImageReader::new(Cursor::new(file)).with_guessed_format();
        let decoded = reader
            .map_err(|e| e.to_string())
            .and_then(|r| r.decode().map_err(|e| e.to_string()))
            .map_err(|e| bad(e.to_lowercase()))?;
        let (width, height) = (decoded.width() as usize, decoded.height() as usize);
        let alpha_dropped = decoded.color().has_alpha();
        let (channels, data) = match decoded {
            DynamicImage::ImageLuma8(grey) => (1, grey.into_raw()),
            DynamicImage::ImageLumaA8(both) => (1, both.into_raw().into_iter().step_by(2).collect()),
            DynamicImage::ImageRgb8(rgb) => (3, rgb.into_raw()),
            DynamicImage::ImageRgba8(all) => {
                (3, all.into_raw().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect())
            }
            other => {
                return Err(bad(format!("it has {:?} pixels, 8 bits per channel are needed", other.color())));
            }
        };
        Ok(Picture { width, height, channels, data, alpha_dropped })
    }

    /// Width and height of an image file, from its header alone.
    ///
    /// # Errors
    /// As [`Picture::decode`].
    pub fn dimensions(file: &[u8]) -> Result<(usize, usize)> {
        let reader = ImageReader::new(Cursor::new(file)).with_guessed_format();
        let size = reader
            .map_err(|e| e.to_string())
            .and_then(|r| r.into_dimensions().map_err(|e| e.to_string()))
            .map_err(|e| Error::data("cannot decode image").why(e.to_lowercase()).hint(BAD_FILE))?;
        Ok((size.0 as usize, size.1 as usize))
    }

    /// The same picture with `channels` (1 to 3 repeats the channel, 3 to 1 is refused).
    ///
    /// # Errors
    /// Where colour would have to be thrown away.
    pub fn with_channels(self, channels: usize) -> Result<Self> {
        match (self.channels, channels) {
            (have, want) if have == want => Ok(self),
            (1, 3) => {
                let data = self.data.iter().flat_map(|&v| [v, v, v]).collect();
                Ok(Picture { channels: 3, data, ..self })
            }
            (have, want) => Err(Error::data(format!("image has {have} channels"))
                .why(format!("{want} are wanted"))
                .hint("ask for 3 channels: grey images are then repeated")),
        }
    }

    /// The pixels in CHW order.
    #[must_use]
    pub fn to_chw(&self) -> Vec<u8> {
        if self.channels == 1 {
            return self.data.clone();
        }
        (0..self.channels).flat_map(|c| self.data.iter().skip(c).step_by(self.channels).copied()).collect()
    }

    /// The picture of a u8 tensor `[C, H, W]`, C = 1 or 3.
    ///
    /// # Errors
    /// Where shape or type differ.
    pub fn from_tensor(image: &Tensor) -> Result<Self> {
        let (channels, height, width) = image.size3()?;
        if image.f_kind()? != Kind::Uint8 {
            return Err(Error::run("picture from a tensor that is not unsigned bytes"));
        }
        let data = tensor_to_bytes(&image.f_permute([1, 2, 0])?)?;
        let size = |v: i64| usize::try_from(v).unwrap_or(0);
        Picture::new(size(width), size(height), size(channels), data)
    }

    /// A u8 tensor `[C, H, W]`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let size = |v: usize| i64::try_from(v).unwrap_or(i64::MAX);
        let shape = [self.channels, self.height, self.width].map(size);
        tensor_from_bytes(&self.to_chw(), &shape, Kind::Uint8)
    }

    /// The largest centred square, resized to `side` x `side` with a Lanczos window of 3 lobes (antialiased).
    ///
    /// # Errors
    /// Never, unless the picture is inconsistent.
    pub fn center_crop(&self, side: usize) -> Result<Self> {
        use image::imageops::{FilterType, resize};
        use image::{GrayImage, ImageBuffer, Rgb, RgbImage};
        let square = self.width.min(self.height);
        let (x0, y0) = ((self.width - square) / 2, (self.height - square) / 2);
        let row = square * self.channels;
        let mut data = Vec::with_capacity(square * row);
        for y in y0..y0 + square {
            let start = (y * self.width + x0) * self.channels;
            data.extend_from_slice(&self.data[start..start + row]);
        }
        if square != side {
            let u = |v: usize| u32::try_from(v).unwrap_or(u32::MAX);
            let broken = || Error::run("picture is inconsistent");
            data = if self.channels == 1 {
                let from = GrayImage::from_raw(u(square), u(square), data).ok_or_else(broken)?;
                resize(&from, u(side), u(side), FilterType::Lanczos3).into_raw()
            } else {
                let from: RgbImage =
                    ImageBuffer::<Rgb<u8>, _>::from_raw(u(square), u(square), data).ok_or_else(broken)?;
                resize(&from, u(side), u(side), FilterType::Lanczos3).into_raw()
            };
        }
        Ok(Picture { width: side, height: side, data, ..self.clone() })
    }
}

/// 8-bit values of images in [-1, 1]: `clamp(round(127.5 x + 127.5), 0, 255)`.
///
/// # Errors
/// Where libtorch fails.
pub fn quantize(images: &Tensor) -> Result<Tensor> {
    let scaled = images.f_to_kind(Kind::Float)?.f_mul_scalar(127.5)?.f_add_scalar(127.5)?;
    Ok(scaled.f_round()?.f_clamp(0.0, 255.0)?.f_to_kind(Kind::Uint8)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(color: png::ColorType, depth: png::BitDepth, data: &[u8], side: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, side, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == png::ColorType::Indexed {
            encoder.set_palette(vec![1, 2, 3, 250, 251, 252]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        out
    }

    #[test]
    fn colour_types_follow_the_rules_of_evaluation() {
        use png::{BitDepth, ColorType};
        let p =
            Picture::decode(&png(ColorType::Rgba, BitDepth::Eight, &[9, 8, 7, 0, 6, 5, 4, 255], 2)).unwrap();
        assert_eq!((p.channels, p.alpha_dropped), (3, true));
        assert_eq!(p.data, [9, 8, 7, 6, 5, 4]);
        let p = Picture::decode(&png(ColorType::GrayscaleAlpha, BitDepth::Eight, &[9, 0, 8, 7], 2)).unwrap();
        assert_eq!((p.channels, p.data), (1, vec![9, 8]));
        let p = Picture::decode(&png(ColorType::Indexed, BitDepth::One, &[0b0100_0000], 2)).unwrap();
        assert_eq!(p.data, [1, 2, 3, 250, 251, 252]);
        let p = Picture::decode(&png(ColorType::Grayscale, BitDepth::One, &[0b0100_0000], 2)).unwrap();
        assert_eq!((p.channels, p.data), (1, vec![0, 255]));
        let deep = png(ColorType::Grayscale, BitDepth::Sixteen, &[1, 2, 3, 4], 2);
        assert!(Picture::decode(&deep).unwrap_err().to_string().contains("8 bits per channel are needed"));
        assert!(Picture::decode(b"not an image").is_err());
    }

    #[test]
    fn layouts_and_channels() {
        let p = Picture::new(2, 1, 3, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(p.to_chw(), [1, 4, 2, 5, 3, 6]);
        let t = p.to_tensor().unwrap();
        assert_eq!(t.size(), [3, 1, 2]);
        assert_eq!(Picture::from_tensor(&t).unwrap(), p);
        let grey = Picture::new(2, 1, 1, vec![7, 9]).unwrap();
        assert_eq!(grey.with_channels(3).unwrap().data, [7, 7, 7, 9, 9, 9]);
        assert!(p.with_channels(1).is_err());
        assert!(Picture::new(2, 2, 3, vec![0; 5]).is_err());
    }

    #[test]
    fn crops_are_centred_and_constant_images_stay_constant() {
        let wide: Vec<u8> = (0..3).flat_map(|_| [0, 10, 20, 30, 40]).collect();
        let p = Picture::new(5, 3, 1, wide).unwrap().center_crop(3).unwrap();
        assert_eq!(p.data, [10, 20, 30, 10, 20, 30, 10, 20, 30]);
        let flat = Picture::new(64, 40, 3, vec![77; 64 * 40 * 3]).unwrap().center_crop(16).unwrap();
        assert_eq!((flat.width, flat.height), (16, 16));
        assert!(flat.data.iter().all(|&v| v == 77));
    }

    #[test]
    fn quantisation_is_the_house_rule() {
        let x = Tensor::from_slice(&[-2f32, -1.0, -0.5, 0.0, 0.999, 1.0, 3.0]);
        let q = Vec::<i64>::try_from(&quantize(&x).unwrap().to_kind(Kind::Int64)).unwrap();
        assert_eq!(q, [0, 0, 64, 128, 255, 255, 255]);
    }
}

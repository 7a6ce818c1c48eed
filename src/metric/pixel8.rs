//! Features without weights: mean colours on an 8 x 8 grid.
//!
//! The image is cut into 8 x 8 equal blocks; a feature is the mean of a block in one channel over 255, in the
//! order (block row, block column, channel): 192 numbers for RGB, 64 for grey. Good for testing a pipeline and
//! for small images; nearly blind to blur.

use tch::{Kind, Tensor};

use super::features::{Extractor, Features, Wanted, check_images};
use crate::error::{Error, Result};

/// The extractor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pixel8;

impl Extractor for Pixel8 {
    fn name(&self) -> String {
        "pixel8".to_owned()
    }

    fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = check_images(images)?;
        if h % 8 != 0 || w % 8 != 0 || h == 0 || w == 0 {
            return Err(Error::data("images").why(format!("{w} x {h} pixels; pixel8 needs multiples of 8")));
        }
        Ok(images.shallow_clone())
    }

    fn forward(&self, images: &Tensor, _: Wanted) -> Result<Features> {
        let (n, c, h, w) = images.size4()?;
        let grid = images.f_to_kind(Kind::Double)?.f_view([n, c, 8, h / 8, 8, w / 8])?;
        let means = grid.f_mean_dim([3i64, 5].as_slice(), false, Kind::Double)?.f_div_scalar_(255.0)?;
        let pool = means.f_permute([0, 2, 3, 1])?.f_reshape([n, -1])?;
        // Block means have few bits; f64 keeps them exact for distances that hang on ties.
        Ok(Features { pool, logits: None, spatial: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::bytes::tensor_to_f64;

    #[test]
    fn blocks_in_row_column_channel_order() {
        let x =
            Tensor::arange(2 * 16 * 16, (Kind::Int64, tch::Device::Cpu)).view([1, 2, 16, 16]).remainder(251);
        let f = Pixel8.extract(&x.to_kind(Kind::Uint8), Wanted::default()).unwrap();
        let got = tensor_to_f64(&f.pool).unwrap();
        assert_eq!(got.len(), 128);
        // Block (0, 1) of channel 0: pixels 2, 3, 18, 19.
        assert!((got[2] - 10.5 / 255.0).abs() < 1e-15);
        // Block (0, 0) of channel 1: pixels 256, 257, 272, 273, modulo 251.
        assert!((got[1] - (5.0 + 6.0 + 21.0 + 22.0) / 4.0 / 255.0).abs() < 1e-15);
        assert!(Pixel8.extract(&x, Wanted::default()).is_err());
        assert!(Pixel8.extract(&x.to_kind(Kind::Uint8).narrow(2, 0, 9), Wanted::default()).is_err());
    }
}

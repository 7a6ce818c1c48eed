//! Contact sheets: many images as one picture.

use tch::{Kind, Tensor};

use super::bytes::tensor_to_bytes;
use super::picture::Picture;
use crate::error::{Error, Result};

/// How a contact sheet is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Images per row; 0 chooses a nearly square sheet.
    pub columns: usize,
    /// Pixels between images and around them.
    pub padding: usize,
    /// Every pixel becomes a square of this many; 0 chooses a factor that makes images at least 64 pixels wide.
    pub scale: usize,
    /// Grey level of the padding.
    pub background: u8,
}

impl Default for Layout {
    fn default() -> Self {
        Layout { columns: 0, padding: 2, scale: 0, background: 255 }
    }
}

/// The contact sheet of `images`, u8 `[N, C, H, W]` with C = 1 or 3, filled row by row.
///
/// # Errors
/// Where there are no images, or shape or type differ.
pub fn contact_sheet(images: &Tensor, layout: &Layout) -> Result<Picture> {
    let size: Vec<usize> = images.size().iter().map(|&v| usize::try_from(v).unwrap_or(0)).collect();
    let &[n, channels, height, width] = size.as_slice() else {
        return Err(Error::run(format!("contact sheet of a tensor of shape {size:?}")));
    };
    if n == 0 || height == 0 || width == 0 || images.f_kind()? != Kind::Uint8 {
        return Err(Error::run("contact sheet needs at least one image of unsigned bytes"));
    }
    // ceil(sqrt(n)) in integers.
    let square = (1..=n).find(|c| c * c >= n).unwrap_or(n);
    let columns = if layout.columns == 0 { square } else { layout.columns.min(n) };
    let rows = n.div_ceil(columns);
    let scale = if layout.scale == 0 { 64usize.div_ceil(width).max(1) } else { layout.scale };
    let pad = layout.padding;
    let (cell_w, cell_h) = (width * scale + pad, height * scale + pad);
    let (sheet_w, sheet_h) = (columns * cell_w + pad, rows * cell_h + pad);

    let pixels = tensor_to_bytes(&images.f_permute([0, 2, 3, 1])?)?;
    let mut sheet = vec![layout.background; sheet_w * sheet_h * channels];
    let mut line = Vec::with_capacity(width * scale * channels);
    for (i, image) in pixels.chunks_exact(height * width * channels).enumerate() {
        let (x0, y0) = (pad + i % columns * cell_w, pad + i / columns * cell_h);
        for (y, row) in image.chunks_exact(width * channels).enumerate() {
            line.clear();
            for pixel in row.chunks_exact(channels) {
                for _ in 0..scale {
                    line.extend_from_slice(pixel);
                }
            }
            for dy in 0..scale {
                let start = ((y0 + y * scale + dy) * sheet_w + x0) * channels;
                sheet[start..start + line.len()].copy_from_slice(&line);
            }
        }
    }
    Picture::new(sheet_w, sheet_h, channels, sheet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_where_they_belong() {
        let images = Tensor::from_slice(&[1u8, 2, 3, 4, 5, 6]).view([3, 1, 1, 2]);
        let layout = Layout { columns: 2, padding: 1, scale: 2, background: 0 };
        let sheet = contact_sheet(&images, &layout).unwrap();
        assert_eq!((sheet.width, sheet.height), (11, 7));
        #[rustfmt::skip]
        let want = [
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 1, 1, 2, 2, 0, 3, 3, 4, 4, 0,
            0, 1, 1, 2, 2, 0, 3, 3, 4, 4, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 5, 5, 6, 6, 0, 0, 0, 0, 0, 0,
            0, 5, 5, 6, 6, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(sheet.data, want);
    }

    #[test]
    fn small_images_are_enlarged_and_colours_kept() {
        let images = Tensor::from_slice(&[10u8, 20, 30]).view([1, 3, 1, 1]).expand([5, 3, 8, 8], false);
        let sheet = contact_sheet(&images, &Layout::default()).unwrap();
        assert_eq!((sheet.width, sheet.height, sheet.channels), (3 * 66 + 2, 2 * 66 + 2, 3));
        let at = (2 * sheet.width + 2) * 3;
        assert_eq!(sheet.data[at..at + 3], [10, 20, 30]);
        assert!(contact_sheet(&images.to_kind(Kind::Float), &Layout::default()).is_err());
    }
}

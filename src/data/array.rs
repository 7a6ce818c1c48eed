//! Images that lie one after another in memory or in a mapped file.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::{DataOptions, Dataset, Item};
use crate::error::{Error, Result};
use crate::io::bytes::Bytes;
use crate::io::npy::{Array, Dtype};
use crate::io::npz::Npz;

/// How the values of one image are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Channel planes one after another.
    Chw,
    /// Channels innermost.
    Hwc,
}

/// A dataset over raw bytes.
#[derive(Debug)]
pub struct ArrayDataset {
    data: Bytes,
    layout: Layout,
    len: usize,
    /// Of the stored images.
    stored: [usize; 3],
    /// Channels given out: those stored, or 3 of 1.
    channels: usize,
    labels: Option<Vec<i64>>,
    classes: usize,
}

impl ArrayDataset {
    /// A dataset of images of `shape` (channels, height, width) in `data`.
    ///
    /// # Errors
    /// Where the sizes do not fit each other, there is no image, or a label is negative.
    pub fn new(
        data: impl Into<Bytes>,
        layout: Layout,
        shape: [usize; 3],
        labels: Option<Vec<i64>>,
    ) -> Result<Self> {
        let data = data.into();
        let size = shape.iter().product::<usize>();
        if size == 0 || data.is_empty() || data.len() % size != 0 {
            return Err(Error::data("no images").why(format!("{} bytes of images {shape:?}", data.len())));
        }
        let len = data.len() / size;
        let mut classes = 0;
        if let Some(labels) = &labels {
            if labels.len() != len {
                return Err(Error::data("labels").why(format!("{} labels for {len} images", labels.len())));
            }
            let top = labels.iter().copied().max().unwrap_or(0);
            if labels.iter().any(|&v| v < 0) || top > 1 << 24 {
                return Err(Error::data("labels").why("they are not class indices from 0 up"));
            }
            classes = usize::try_from(top + 1).unwrap_or(0);
        }
        Ok(ArrayDataset { data, layout, len, stored: shape, channels: shape[0], labels, classes })
    }

    /// The images of an array `[N, H, W, C]`, `[N, C, H, W]` or `[N, H, W]` of bytes.
    ///
    /// # Errors
    /// Where the shape is none of these.
    pub fn from_shape(data: Bytes, shape: &[usize], labels: Option<Vec<i64>>) -> Result<Self> {
        match *shape {
            [_, h, w, c @ (1 | 3)] => Self::new(data, Layout::Hwc, [c, h, w], labels),
            [_, c @ (1 | 3), h, w] => Self::new(data, Layout::Chw, [c, h, w], labels),
            [_, h, w] => Self::new(data, Layout::Chw, [1, h, w], labels),
            _ => Err(Error::data("images")
                .why(format!(
                    "shape {shape:?} is neither N x H x W x C nor N x C x H x W with 1 or 3 channels"
                ))
                .hint("save images as unsigned bytes in the order N x H x W x C")),
        }
    }

    /// Opens a `.npz`: images in `arr_0` (or `images`, `x`), labels in `arr_1` (or `labels`, `y`).
    ///
    /// # Errors
    /// Where there are no images of bytes in it.
    pub fn npz(path: &Path) -> Result<Self> {
        let mut npz = Npz::open(path)?;
        let find = |keys: &[&str]| keys.iter().find(|k| npz.has(k)).map(|k| (*k).to_owned());
        let images = find(&["arr_0", "images", "x"]).ok_or_else(|| {
            Error::data("no images")
                .at(path.display())
                .why(format!(
                    "it holds {}, images are looked for in `arr_0`, `images` and `x`",
                    npz.names().join(", ")
                ))
                .hint("save images as `arr_0`, unsigned bytes in the order N x H x W x C")
        })?;
        let labels = find(&["arr_1", "labels", "y"]);
        let (header, data) = npz
            .bytes(&images)
            .map_err(|e| e.hint("save images as unsigned bytes 0 to 255 in the order N x H x W x C"))?;
        let labels =
            labels.map(|key| npz.array(&key)?.to_i64().map_err(|e| e.at(path.display()))).transpose()?;
        Self::from_shape(data, &header.shape, labels).map_err(|e| e.at(path.display()))
    }

    /// Opens a `.npy` of images.
    ///
    /// # Errors
    /// As [`ArrayDataset::npz`].
    pub fn npy(path: &Path) -> Result<Self> {
        let file = Bytes::map(path)?;
        let array = Array::read(&mut &*file).map_err(|e| e.at(path.display()))?;
        if array.dtype != Dtype::U8 {
            return Err(Error::data("images").at(path.display()).why("they are not unsigned bytes"));
        }
        Self::from_shape(array.data.into(), &array.shape, None).map_err(|e| e.at(path.display()))
    }

    /// Applies the options that concern arrays: labels, channels, square images.
    ///
    /// # Errors
    /// Where the images cannot be had so.
    pub fn with_options(mut self, options: &DataOptions, place: &Path) -> Result<Self> {
        match (options.classes, &self.labels) {
            (Some(false), _) => (self.labels, self.classes) = (None, 0),
            (Some(true), None) => return Err(no_labels(place)),
            _ => {}
        }
        match options.channels {
            Some(3) if self.stored[0] == 1 => self.channels = 3,
            Some(wanted) if wanted != self.stored[0] => {
                return Err(Error::data(format!("images have {} channels", self.stored[0]))
                    .at(place.display())
                    .why(format!("{wanted} are wanted"))
                    .hint("only grey images become three equal channels; change data.channels"));
            }
            _ => {}
        }
        let [_, h, w] = self.stored;
        if !options.any_size && h != w {
            return Err(Error::data("images are not square")
                .at(place.display())
                .why(format!("{w} x {h} pixels")));
        }
        if let Some(side) = options.resolution
            && side != h
        {
            return Err(Error::data(format!("images have {h} pixels a side"))
                .at(place.display())
                .why(format!("{side} are wanted"))
                .hint("only image files are resized; convert the array to a folder or zip first"));
        }
        Ok(self)
    }
}

pub(super) fn no_labels(place: &Path) -> Error {
    Error::data("no labels")
        .at(place.display())
        .why("classes are asked for and the data has none")
        .hint("label images by a dataset.json or by class sub-folders, or set data.classes = false")
}

impl Dataset for ArrayDataset {
    fn stamp(&self) -> Option<String> {
        let about = format!("{:?} {:?} {}", self.layout, self.stored, self.channels);
        Some(format!("{:x}", Sha256::new().chain_update(about).chain_update(&*self.data).finalize()))
    }

    fn len(&self) -> usize {
        self.len
    }

    fn shape(&self) -> [usize; 3] {
        [self.channels, self.stored[1], self.stored[2]]
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn get(&self, i: usize) -> Result<Item> {
        let size = self.stored.iter().product::<usize>();
        let image = i.checked_mul(size).and_then(|at| self.data.get(at..at.checked_add(size)?));
        let image = image.ok_or_else(|| Error::run(format!("image {i} of {}", self.len)))?;
        let channels = self.stored[0];
        let image = match self.layout {
            Layout::Hwc if channels > 1 => {
                (0..channels).flat_map(|c| image.iter().skip(c).step_by(channels).copied()).collect()
            }
            _ if self.channels != channels => image.repeat(self.channels),
            _ => image.to_vec(),
        };
        Ok(Item { image, shape: self.shape(), label: self.label(i) })
    }

    fn label(&self, i: usize) -> Option<i64> {
        self.labels.as_ref().and_then(|l| l.get(i).copied())
    }

    fn dense(&self) -> Option<&[u8]> {
        let planes = self.layout == Layout::Chw || self.stored[0] == 1;
        (self.data.in_memory() && planes && self.channels == self.stored[0]).then_some(&*self.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_give_the_same_image() {
        let hwc = ArrayDataset::from_shape(vec![1, 2, 3, 4, 5, 6].into(), &[1, 1, 2, 3], None).unwrap();
        let chw = ArrayDataset::from_shape(vec![1, 4, 2, 5, 3, 6].into(), &[1, 3, 1, 2], None).unwrap();
        assert_eq!(hwc.get(0).unwrap(), chw.get(0).unwrap());
        assert!(hwc.dense().is_none() && chw.dense().is_some());
        assert!(hwc.get(1).is_err());
        let grey = ArrayDataset::from_shape(vec![7, 9].into(), &[1, 1, 2], None).unwrap();
        let options = DataOptions { channels: Some(3), any_size: true, ..DataOptions::default() };
        let rgb = grey.with_options(&options, Path::new("x")).unwrap();
        assert_eq!(rgb.get(0).unwrap().image, [7, 9, 7, 9, 7, 9]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let d = |labels| ArrayDataset::new(vec![0u8; 8], Layout::Chw, [1, 2, 2], labels);
        assert_eq!(d(Some(vec![0, 4])).unwrap().classes(), 5);
        assert!(d(Some(vec![0])).is_err() && d(Some(vec![0, -1])).is_err());
        assert!(ArrayDataset::new(vec![0u8; 7], Layout::Chw, [1, 2, 2], None).is_err());
        assert!(ArrayDataset::new(Vec::new(), Layout::Chw, [1, 2, 2], None).is_err());
        assert!(ArrayDataset::from_shape(vec![0; 8].into(), &[2, 4], None).is_err());
        let options = DataOptions { classes: Some(true), ..DataOptions::default() };
        assert!(d(None).unwrap().with_options(&options, Path::new("x")).is_err());
    }
}

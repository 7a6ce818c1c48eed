//! IDX files (MNIST and its kin), plain or gzipped: `00 00 08 03`, sizes as big-endian u32, then bytes.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::Split;
use super::array::{ArrayDataset, Layout};
use crate::error::{Error, Result};
use crate::io::bytes::Bytes;

/// First bytes of a file of images (3 dimensions of unsigned bytes).
pub(super) const IMAGES: [u8; 4] = [0, 0, 8, 3];
const LABELS: [u8; 4] = [0, 0, 8, 1];

fn stem(split: Split) -> &'static str {
    if split == Split::Test { "t10k" } else { "train" }
}

fn beside(folder: &Path, stem: &str, what: &str) -> Option<PathBuf> {
    ["-ubyte", "-ubyte.gz", ".ubyte", ".ubyte.gz"]
        .iter()
        .map(|end| folder.join(format!("{stem}-{what}{end}")))
        .find(|path| path.is_file())
}

/// Whether `folder` holds such files.
pub(super) fn matches(folder: &Path) -> bool {
    ["train", "t10k"].iter().any(|s| beside(folder, s, "images-idx3").is_some())
}

/// Reads the images of `split` in `folder` (`all` reads the training part), with their labels.
///
/// # Errors
/// Where a file is missing or damaged.
pub fn open_folder(folder: &Path, split: Split) -> Result<ArrayDataset> {
    let stem = stem(split);
    let images = beside(folder, stem, "images-idx3").ok_or_else(|| {
        Error::data("no images").at(folder.display()).why(format!("there is no {stem}-images-idx3-ubyte"))
    })?;
    open(&images)
}

/// Reads one file of images, and the labels from the file that lies beside it.
///
/// # Errors
/// Where it is damaged, or the labels do not fit.
pub fn open(path: &Path) -> Result<ArrayDataset> {
    let (sizes, images) = read(path, IMAGES, 3)?;
    let name = path.file_name().map(|n| n.to_string_lossy().replace("images-idx3", "labels-idx1"));
    let labels = name.map(|n| path.with_file_name(n)).filter(|p| p != path && p.is_file());
    let labels = labels.map(|p| read(&p, LABELS, 1)).transpose()?;
    let labels = labels.map(|(_, bytes)| bytes.into_iter().map(i64::from).collect());
    ArrayDataset::new(images, Layout::Chw, [1, sizes[1], sizes[2]], labels).map_err(|e| e.at(path.display()))
}

fn read(path: &Path, magic: [u8; 4], dims: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let file = Bytes::map(path)?;
    let mut data = Vec::new();
    if file.starts_with(&[0x1f, 0x8b]) {
        // No such file is near a gigabyte; a longer one is a bomb.
        let got = GzDecoder::new(&*file).take(1 << 30).read_to_end(&mut data);
        got.map_err(|e| Error::read(path, &e))?;
    } else {
        data.extend_from_slice(&file);
    }
    let bad = |why: String| Error::data("not an IDX file of bytes").at(path.display()).why(why);
    let head = 4 + 4 * dims;
    if !data.starts_with(&magic) || data.len() < head {
        return Err(bad(format!("it does not start with {magic:?}")));
    }
    let sizes: Vec<usize> = data[4..head]
        .chunks_exact(4)
        .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
        .collect();
    let want = sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let values = data.split_off(head);
    if want != Some(values.len()) {
        return Err(bad(format!("its sizes are {sizes:?}, {} bytes are there", values.len())));
    }
    Ok((sizes, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;
    use std::io::Write;

    #[test]
    fn images_and_labels_plain_and_gzipped() {
        let dir = tempfile::tempdir().unwrap();
        let images = [&IMAGES[..], &[0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2], &[1, 2, 3, 4, 5, 6, 7, 8]].concat();
        let labels = [&LABELS[..], &[0, 0, 0, 2], &[3, 9]].concat();
        let path = dir.path().join("train-images-idx3-ubyte");
        std::fs::write(&path, &images).unwrap();
        std::fs::write(dir.path().join("train-labels-idx1-ubyte"), &labels).unwrap();
        assert!(matches(dir.path()));
        let set = open_folder(dir.path(), Split::Train).unwrap();
        assert_eq!((set.len(), set.shape(), set.label(1)), (2, [1, 2, 2], Some(9)));
        assert_eq!(set.get(1).unwrap().image, [5, 6, 7, 8]);
        assert!(open_folder(dir.path(), Split::Test).is_err());

        let gz = dir.path().join("t10k-images-idx3-ubyte.gz");
        let mut out =
            flate2::write::GzEncoder::new(std::fs::File::create(&gz).unwrap(), flate2::Compression::fast());
        out.write_all(&images).unwrap();
        out.finish().unwrap();
        assert_eq!(open_folder(dir.path(), Split::Test).unwrap().label(0), None);
        std::fs::write(&path, &images[..20]).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("4 bytes are there"));
    }
}

//! The binary batches of CIFAR-10 (`cifar-10-batches-bin`): a label byte and 3 x 32 x 32 bytes per image.

use std::path::{Path, PathBuf};

use super::Split;
use super::array::{ArrayDataset, Layout};
use crate::error::{Error, Result};
use crate::io::bytes::Bytes;

const IMAGE: usize = 3 * 32 * 32;

/// The folder with the batches, if `folder` is it or holds it.
pub(super) fn find(folder: &Path) -> Option<PathBuf> {
    [folder.to_owned(), folder.join("cifar-10-batches-bin")]
        .into_iter()
        .find(|f| f.join("data_batch_1.bin").is_file() || f.join("test_batch.bin").is_file())
}

/// Reads the batches in `folder`: `train` is the five data batches, `test` the test batch, `all` both.
///
/// # Errors
/// Where a batch is missing or has a wrong size.
pub fn open(folder: &Path, split: Split) -> Result<ArrayDataset> {
    let train: Vec<String> = (1..=5).map(|i| format!("data_batch_{i}.bin")).collect();
    let test = vec!["test_batch.bin".to_owned()];
    let files = match split {
        Split::Train => train,
        Split::Test => test,
        Split::All => [train, test].concat(),
    };
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for name in files {
        let path = folder.join(name);
        let batch = Bytes::map(&path)?;
        if batch.is_empty() || batch.len() % (IMAGE + 1) != 0 {
            return Err(Error::data("damaged batch of CIFAR-10").at(path.display()).why(format!(
                "{} bytes are not a whole number of images of {}",
                batch.len(),
                IMAGE + 1
            )));
        }
        for record in batch.chunks_exact(IMAGE + 1) {
            labels.push(i64::from(record[0]));
            images.extend_from_slice(&record[1..]);
        }
    }
    ArrayDataset::new(images, Layout::Chw, [3, 32, 32], Some(labels)).map_err(|e| e.at(folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;

    #[test]
    fn batches_in_order_with_labels() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cifar-10-batches-bin");
        std::fs::create_dir(&folder).unwrap();
        for i in 1..=5u8 {
            let mut bytes = vec![i];
            bytes.extend([i * 10; IMAGE]);
            std::fs::write(folder.join(format!("data_batch_{i}.bin")), bytes).unwrap();
        }
        let found = find(dir.path()).unwrap();
        let train = open(&found, Split::Train).unwrap();
        assert_eq!((train.len(), train.classes(), train.label(3)), (5, 6, Some(4)));
        assert_eq!(train.get(4).unwrap().image, [50; IMAGE]);
        assert!(open(&found, Split::Test).unwrap_err().to_string().contains("test_batch.bin"));
        std::fs::write(folder.join("test_batch.bin"), [0; 100]).unwrap();
        assert!(open(&found, Split::Test).unwrap_err().to_string().contains("3073"));
    }
}

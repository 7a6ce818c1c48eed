//! What kind of data a path holds, by its content.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use flate2::read::GzDecoder;

use super::array::ArrayDataset;
use super::files::ImageFiles;
use super::subset::{Subset, split_indices};
use super::{DataOptions, Dataset, Split, cifar, digits, idx};
use crate::error::{Error, Result};
use crate::io::bytes::Bytes;
use crate::io::npz::Npz;

/// Opens the data at `path`, whatever kind it is.
///
/// # Errors
/// Where nothing is there, nothing is recognised, or the data does not fit `options`; the error names the
/// offending file.
pub fn open(path: &Path, options: &DataOptions) -> Result<Box<dyn Dataset>> {
    let meta = std::fs::metadata(path).map_err(|e| Error::read(path, &e))?;
    if meta.is_dir() { folder(path, options) } else { file(path, options) }
}

fn folder(path: &Path, options: &DataOptions) -> Result<Box<dyn Dataset>> {
    if let Some(batches) = cifar::find(path) {
        return Ok(Box::new(cifar::open(&batches, options.split)?.with_options(options, path)?));
    }
    if idx::matches(path) {
        return Ok(Box::new(idx::open_folder(path, options.split)?.with_options(options, path)?));
    }
    for name in ["digits.csv.gz", "digits.csv"] {
        let table = path.join(name);
        if table.is_file() {
            return file(&table, options);
        }
    }
    divided(ImageFiles::folder(path, options)?, None, options)
}

fn file(path: &Path, options: &DataOptions) -> Result<Box<dyn Dataset>> {
    let bytes = Bytes::map(path)?;
    if bytes.starts_with(b"PK") {
        if !Npz::open(path)?.names().is_empty() {
            return divided(ArrayDataset::npz(path)?.with_options(options, path)?, None, options);
        }
        return divided(ImageFiles::zip(path, options)?, None, options);
    }
    if bytes.starts_with(b"\x93NUMPY") {
        return divided(ArrayDataset::npy(path)?.with_options(options, path)?, None, options);
    }
    let mut head = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let got = GzDecoder::new(&*bytes).take(4096).read_to_end(&mut head);
        got.map_err(|e| Error::read(path, &e))?;
    } else {
        head.extend_from_slice(&bytes[..bytes.len().min(4096)]);
    }
    if head.starts_with(&idx::IMAGES) {
        return divided(idx::open(path)?.with_options(options, path)?, None, options);
    }
    if std::str::from_utf8(&head).is_ok_and(digits::matches) {
        let table = digits::open(path)?.with_options(options, path)?;
        return divided(table, Some(digits::HELD_OUT), options);
    }
    Err(Error::data("not a dataset").at(path.display()).why("its content is of no kind that is known").hint(
        "give a folder or zip of images, an npz or npy of unsigned bytes, CIFAR-10 binary batches, IDX files \
         or the table of digits",
    ))
}

/// Takes the part that `options` asks for of a source without a split of its own.
fn divided(
    whole: impl Dataset + 'static,
    held_out: Option<usize>,
    options: &DataOptions,
) -> Result<Box<dyn Dataset>> {
    if options.split == Split::All {
        return Ok(Box::new(whole));
    }
    let n = whole.len();
    let held_out = options.held_out.or(held_out).unwrap_or(n / 10);
    let indices = split_indices(n, held_out, options.split, options.split_order)?;
    Ok(Box::new(Subset::new(Arc::new(whole), indices)?))
}

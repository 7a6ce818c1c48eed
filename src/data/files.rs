//! Image files in a folder or in a zip archive, with optional labels.
//!
//! Files are taken by extension, recursively, in bytewise order of their relative path; hidden files and
//! `__MACOSX` are passed over. Labels come from `dataset.json` (`{"labels": [["00000/img.png", 6], ...]}`), or
//! from class sub-folders: every image lies in `CLASS/NAME`, and the folders are not mere numbers of five or
//! more digits (which only split a large set).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use zip::ZipArchive;

use super::{DataOptions, Dataset, Item};
use crate::error::{Error, Result, io_reason};
use crate::io::bytes::Bytes;
use crate::io::picture::Picture;

const EXTENSIONS: [&str; 9] = ["png", "jpg", "jpeg", "bmp", "webp", "tif", "tiff", "ppm", "pgm"];
/// Largest file that is read as an image: an archive may claim any size.
const MAX_FILE: u64 = 1 << 30;

/// Where files come from.
#[derive(Debug)]
pub(super) enum Store {
    Folder(PathBuf),
    Zip { path: PathBuf, archive: ZipArchive<Cursor<Bytes>> },
}

impl Store {
    /// A folder, or a zip archive.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Store::Folder(path.to_owned()));
        }
        let archive = ZipArchive::new(Cursor::new(Bytes::map(path)?)).map_err(|e| {
            Error::data("not a readable zip archive").at(path.display()).why(e.to_string().to_lowercase())
        })?;
        Ok(Store::Zip { path: path.to_owned(), archive })
    }

    pub(super) fn place(&self, name: &str) -> String {
        match self {
            Store::Folder(root) => root.join(name).display().to_string(),
            Store::Zip { path, .. } => format!("{}: {name}", path.display()),
        }
    }

    pub(super) fn root(&self) -> &Path {
        match self {
            Store::Folder(root) => root,
            Store::Zip { path, .. } => path,
        }
    }

    pub(super) fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        match self {
            Store::Folder(root) => collect(root, "", 0, &mut names)?,
            Store::Zip { archive, .. } => {
                names.extend(archive.file_names().filter_map(|n| Some(n.ok()?.into_owned())));
            }
        }
        names.retain(|n| !n.ends_with('/') && !n.split('/').any(|p| p.starts_with('.') || p == "__MACOSX"));
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        match self {
            Store::Folder(root) => {
                let path = root.join(name);
                std::fs::read(&path).map_err(|e| Error::read(&path, &e))
            }
            Store::Zip { archive, .. } => {
                let place = self.place(name);
                let bad = |why: String| Error::data("cannot read").at(&place).why(why.to_lowercase());
                // Cheap: the directory is shared, the bytes are mapped.
                let mut archive = archive.clone();
                let member = archive.by_name(name).map_err(|e| bad(e.to_string()))?;
                let mut out = Vec::new();
                member.take(MAX_FILE).read_to_end(&mut out).map_err(|e| bad(io_reason(&e)))?;
                Ok(out)
            }
        }
    }
}

fn collect(root: &Path, below: &str, depth: usize, names: &mut Vec<String>) -> Result<()> {
    let folder = root.join(below);
    let failed = |e: std::io::Error| Error::read(&folder, &e);
    if depth > 32 {
        return Err(Error::data("folders are nested too deep").at(folder.display()));
    }
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue; // A name that is not UTF-8 cannot be listed in a manifest.
        };
        if name.starts_with('.') {
            continue;
        }
        let relative = if below.is_empty() { name } else { format!("{below}/{name}") };
        // Follows links, as data folders are often made of them.
        if std::fs::metadata(entry.path()).map_err(|e| Error::read(&entry.path(), &e))?.is_dir() {
            collect(root, &relative, depth + 1, names)?;
        } else {
            names.push(relative);
        }
    }
    Ok(())
}

pub(super) fn extension(name: &str) -> String {
    name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase()).unwrap_or_default()
}

/// A dataset of image files.
#[derive(Debug)]
pub struct ImageFiles {
    store: Store,
    names: Vec<String>,
    labels: Option<Vec<i64>>,
    classes: usize,
    shape: [usize; 3],
    any_size: bool,
    crop: Option<usize>,
    alpha: AtomicBool,
}

impl ImageFiles {
    /// The image files below `folder`.
    ///
    /// # Errors
    /// Where there are none, one is not readable, or sizes do not fit (`options`); the first offender is named.
    pub fn folder(folder: &Path, options: &DataOptions) -> Result<Self> {
        Self::new(Store::Folder(folder.to_owned()), options)
    }

    /// The image files in the zip archive `path`.
    ///
    /// # Errors
    /// As [`ImageFiles::folder`], or where it is no zip archive.
    pub fn zip(path: &Path, options: &DataOptions) -> Result<Self> {
        Self::new(Store::open(path)?, options)
    }

    fn new(store: Store, options: &DataOptions) -> Result<Self> {
        let all = store.names()?;
        let json = all.iter().find(|n| *n == "dataset.json" || n.ends_with("/dataset.json")).cloned();
        let names: Vec<String> =
            all.into_iter().filter(|n| EXTENSIONS.contains(&extension(n).as_str())).collect();
        let Some(first) = names.first() else {
            return Err(Error::data("no images")
                .at(store.root().display())
                .hint(format!("files are taken by extension: {}", EXTENSIONS.join(", "))));
        };
        let first = decode(&store, first, options.channels)?;
        let [channels, height, width] = [first.channels, first.height, first.width];
        let crop = options.resize.map(|_| options.resolution.unwrap_or(height.min(width)));
        let shape = crop.map_or([channels, height, width], |side| [channels, side, side]);

        let labels = match options.classes {
            Some(false) => None,
            _ => labels(&store, json.as_deref(), &names)?,
        };
        if options.classes == Some(true) && labels.is_none() {
            return Err(super::array::no_labels(store.root()));
        }
        let classes = labels.iter().flatten().max().map_or(0, |&top| usize::try_from(top + 1).unwrap_or(0));
        let any_size = options.any_size;
        let files = ImageFiles {
            store,
            names,
            labels,
            classes,
            shape,
            any_size,
            crop,
            alpha: AtomicBool::new(false),
        };
        if !any_size && crop.is_none() {
            files.check_sizes(options.resolution)?;
        }
        Ok(files)
    }

    /// Reads every header; the first file (in order) that does not fit is the error.
    fn check_sizes(&self, resolution: Option<usize>) -> Result<()> {
        let [_, height, width] = self.shape;
        let hint = "resize while reading: data.resize = \"center-crop\" with data.resolution";
        let refuse = |name: &str, what: &str, why: String| {
            Err(Error::data(what.to_owned()).at(self.store.place(name)).why(why).hint(hint))
        };
        if width != height {
            return refuse(&self.names[0], "image is not square", format!("{width} x {height} pixels"));
        }
        if let Some(side) = resolution.filter(|&side| side != height) {
            let why = format!("{width} x {height} pixels, {side} x {side} wanted");
            return refuse(&self.names[0], "image has another size", why);
        }
        let offender = self.names.par_iter().find_map_first(|name| match self.size_of(name) {
            Ok(size) if size == (width, height) => None,
            other => Some((name, other)),
        });
        match offender {
            None => Ok(()),
            Some((_, Err(error))) => Err(error),
            Some((name, Ok((w, h)))) => refuse(
                name,
                "images have different sizes",
                format!("{w} x {h} pixels, the first has {width} x {height}"),
            ),
        }
    }

    fn size_of(&self, name: &str) -> Result<(usize, usize)> {
        Picture::dimensions(&self.store.read(name)?).map_err(|e| e.at(self.store.place(name)))
    }
}

fn decode(store: &Store, name: &str, channels: Option<usize>) -> Result<Picture> {
    let picture = Picture::decode(&store.read(name)?).map_err(|e| e.at(store.place(name)))?;
    match channels {
        Some(channels) => picture.with_channels(channels).map_err(|e| e.at(store.place(name))),
        None => Ok(picture),
    }
}

fn labels(store: &Store, json: Option<&str>, names: &[String]) -> Result<Option<Vec<i64>>> {
    if let Some(json) = json {
        let place = store.place(json);
        let bad = |why: String| Error::data("bad labels").at(&place).why(why);
        let text = store.read(json)?;
        let parsed: serde_json::Value = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        let Some(list) = parsed.get("labels").and_then(|l| l.as_array()) else {
            return Ok(None); // `"labels": null` says that there are none.
        };
        let mut by_name = BTreeMap::new();
        for entry in list {
            let pair = entry.as_array().and_then(|p| Some((p.first()?.as_str()?, p.get(1)?.as_i64()?)));
            let (name, label) = pair
                .filter(|(_, label)| (0..1 << 24).contains(label))
                .ok_or_else(|| bad(format!("`{entry}` is not a file name and a class index")))?;
            by_name.insert(name.replace('\\', "/"), label);
        }
        // Names are relative to the json file.
        let base = json.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let label_of = |name: &String| {
            let short = name.strip_prefix(&base).unwrap_or(name);
            by_name.get(short).copied().ok_or_else(|| bad(format!("`{short}` has no label")))
        };
        return names.iter().map(label_of).collect::<Result<Vec<_>>>().map(Some);
    }
    let folders: Option<Vec<&str>> = names
        .iter()
        .map(|name| name.split_once('/').filter(|(_, rest)| !rest.contains('/')).map(|(folder, _)| folder))
        .collect();
    let Some(folders) = folders else { return Ok(None) };
    let classes: BTreeSet<&str> = folders.iter().copied().collect();
    if classes.iter().all(|c| c.len() >= 5 && c.bytes().all(|b| b.is_ascii_digit())) {
        return Ok(None);
    }
    let index: BTreeMap<&str, i64> = classes.into_iter().zip(0..).collect();
    Ok(Some(folders.iter().map(|f| index[f]).collect()))
}

impl Dataset for ImageFiles {
    fn stamp(&self) -> Option<String> {
        let mut hash = Sha256::new();
        let mut add = |path: &Path| {
            let about = std::fs::metadata(path).ok()?;
            let time = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            hash.update(about.len().to_le_bytes());
            hash.update(time.as_nanos().to_le_bytes());
            Some(())
        };
        match &self.store {
            Store::Zip { path, .. } => add(path)?,
            Store::Folder(root) => self.names.iter().try_for_each(|name| add(&root.join(name)))?,
        }
        Some(format!("{:x} {:?}", hash.finalize(), self.crop))
    }

    fn len(&self) -> usize {
        self.names.len()
    }

    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn get(&self, i: usize) -> Result<Item> {
        let name = self.names.get(i).ok_or_else(|| Error::run(format!("image {i} of {}", self.len())))?;
        let mut picture = decode(&self.store, name, Some(self.shape[0]))?;
        if picture.alpha_dropped {
            self.alpha.store(true, Ordering::Relaxed);
        }
        if let Some(side) = self.crop {
            picture = picture.center_crop(side).map_err(|e| e.at(self.store.place(name)))?;
        }
        let shape = [picture.channels, picture.height, picture.width];
        if !self.any_size && shape != self.shape {
            return Err(Error::data("image changed its size").at(self.store.place(name)));
        }
        Ok(Item { image: picture.to_chw(), shape, label: self.label(i) })
    }

    fn label(&self, i: usize) -> Option<i64> {
        self.labels.as_ref().and_then(|l| l.get(i).copied())
    }

    fn name(&self, i: usize) -> String {
        self.names.get(i).cloned().unwrap_or_default()
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let jpeg = self.names.iter().filter(|n| matches!(extension(n).as_str(), "jpg" | "jpeg")).count();
        let root = self.store.root().display();
        if jpeg > 0 {
            notes.push(format!(
                "{root}: {jpeg} of {} images are JPEG; compression alone moves FID",
                self.len()
            ));
        }
        if self.alpha.load(Ordering::Relaxed) {
            notes.push(format!("{root}: images with an alpha channel; alpha was dropped, not blended"));
        }
        notes
    }
}

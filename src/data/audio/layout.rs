//! Which files a dataset has, their classes, and the part each is in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::order::{boundaries, natural};
use super::spec::{AudioSpec, Layout, Part};
use crate::data::files::{Store, extension};
use crate::error::{Error, Result};

/// Files are taken by these.
const EXTENSIONS: [&str; 3] = ["wav", "wave", "flac"];
/// The classes of SC09, in the order of their numbers.
pub const DIGITS: [&str; 10] =
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
const LISTS: [(&str, Part); 2] =
    [("validation_list.txt", Part::Validation), ("testing_list.txt", Part::Test)];

/// One file of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name within the store.
    pub file: String,
    /// Class, before classes have numbers.
    class: Option<String>,
    /// Number of its class.
    pub label: Option<i64>,
    /// The part it is in.
    pub part: Part,
}

/// All files of a dataset, in natural order, with the names of the classes.
#[derive(Debug)]
pub struct Files {
    /// Where they are.
    pub(super) store: Store,
    /// The files.
    pub entries: Vec<Entry>,
    /// Names of the classes; none where there are none.
    pub classes: Vec<String>,
    /// Whether lists or folders say which file is in which part; otherwise their order does.
    pub parts_named: bool,
}

/// Finds the files at `path`.
///
/// # Errors
/// Where there are none, or the place is not arranged as `spec` says.
pub fn find(path: &Path, spec: &AudioSpec) -> Result<Files> {
    std::fs::metadata(path).map_err(|e| Error::read(path, &e))?;
    let zip = path.is_file() && extension(&path.to_string_lossy()) == "zip";
    let mut files = if path.is_dir() || zip {
        if spec.layout == Layout::List {
            return Err(Error::data("not a list of files")
                .at(path.display())
                .why("it is a folder or an archive")
                .hint("a list is a text file; data.audio.layout = \"folder\" takes all files of a folder"));
        }
        let files = below(Store::open(path)?, spec)?;
        match only_archive(path).filter(|_| files.entries.is_empty()) {
            Some(archive) => return find(&archive, spec),
            None => files,
        }
    } else if EXTENSIONS.contains(&extension(&path.to_string_lossy()).as_str()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let entry = Entry { file: name, class: None, label: None, part: Part::All };
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        Files { store: Store::Folder(folder), entries: vec![entry], classes: Vec::new(), parts_named: false }
    } else {
        list(path)?
    };
    if files.entries.is_empty() {
        return Err(Error::data("no sound files")
            .at(path.display())
            .hint(format!("files are taken by extension: {}", EXTENSIONS.join(", "))));
    }
    number(&mut files, spec, path)?;
    files.parts_named = files.entries.iter().any(|entry| entry.part != Part::All);
    if !files.parts_named {
        divide(&mut files, spec.ends);
    }
    Ok(files)
}

/// The zip archive of a folder that holds one.
fn only_archive(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut zips =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| extension(&p.to_string_lossy()) == "zip");
    let first = zips.next()?;
    zips.next().is_none().then_some(first)
}

/// A part by the name of its folder.
fn part_of(folder: &str) -> Option<Part> {
    match folder.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Part::Train),
        "validation" | "valid" | "val" | "dev" => Some(Part::Validation),
        "test" | "testing" | "eval" => Some(Part::Test),
        _ => None,
    }
}

fn below(store: Store, spec: &AudioSpec) -> Result<Files> {
    let all = store.names()?;
    let sound = |name: &String| EXTENSIONS.contains(&extension(name).as_str());
    let found = |list: &str| all.iter().find(|n| *n == list || n.ends_with(&format!("/{list}")));
    let named = matches!(spec.layout, Layout::Auto | Layout::Sc09);
    let base = LISTS.iter().find_map(|(list, _)| found(list).map(|n| n[..n.len() - list.len()].to_owned()));
    let base = base.filter(|_| named).unwrap_or_default();
    let mut names: Vec<String> = all.iter().filter(|n| sound(n) && n.starts_with(&base)).cloned().collect();
    names.sort_by(|a, b| natural(a, b));
    // `_background_noise_` and the like are no classes.
    names.retain(|name| !name[base.len()..].starts_with('_') || spec.layout == Layout::Folder);

    let first = |name: &str| name.split_once('/').map(|(folder, _)| folder.to_owned());
    let folders = names.iter().all(|name| first(name).as_deref().and_then(part_of).is_some());
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        let (part, inner) = match name.split_once('/') {
            Some((folder, inner)) if folders => (part_of(folder).unwrap_or_default(), inner),
            _ => (Part::All, &name[base.len()..]),
        };
        let class = first(inner);
        entries.push(Entry { class, label: None, part, file: name });
    }
    if spec.layout == Layout::Sc09 {
        entries.retain(|entry| entry.class.as_deref().is_some_and(|class| DIGITS.contains(&class)));
    }
    if named && (spec.layout == Layout::Sc09 || !base.is_empty() || found(LISTS[0].0).is_some()) {
        by_lists(&store, &base, &all, &mut entries)?;
    }
    Ok(Files { store, entries, classes: Vec::new(), parts_named: false })
}

/// In a list: that part; in none: training.
fn by_lists(store: &Store, base: &str, all: &[String], entries: &mut [Entry]) -> Result<()> {
    entries.iter_mut().for_each(|entry| entry.part = Part::Train);
    for (list, part) in LISTS {
        let name = format!("{base}{list}");
        if !all.contains(&name) {
            return Err(Error::data(format!("no {list}"))
                .at(store.root().display())
                .why("validation_list.txt and testing_list.txt say which files are held out")
                .hint("data.audio.layout = \"folder\" divides files by their order instead"));
        }
        let text = store.read(&name)?;
        let text = String::from_utf8_lossy(&text);
        let lines: BTreeSet<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let mut met = 0;
        for entry in entries.iter_mut().filter(|entry| lines.contains(&entry.file[base.len()..])) {
            (entry.part, met) = (part, met + 1);
        }
        if met == 0 && !lines.is_empty() {
            return Err(Error::data("none of the listed files is there")
                .at(store.place(&name))
                .why(format!("the first is `{}`", lines.first().copied().unwrap_or_default()))
                .hint("names in the list are relative to its folder, such as two/abc_nohash_0.wav"));
        }
    }
    Ok(())
}

/// The files that a text file names; relative names are relative to its folder.
fn list(path: &Path) -> Result<Files> {
    let bytes = std::fs::read(path).map_err(|e| Error::read(path, &e))?;
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(Error::data("not a dataset of sound")
            .at(path.display())
            .why("it is neither a folder, an archive, a sound file nor a list of files"));
    };
    let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (file, class) = match line.split_once('\t') {
            Some((file, class)) => (file.trim(), Some(class.trim().to_owned())),
            None => (line.trim(), None),
        };
        if !EXTENSIONS.contains(&extension(file).as_str()) {
            return Err(Error::data("not a list of sound files")
                .at(path.display())
                .why(format!("line {} is `{}`", number + 1, shortened(file)))
                .hint(format!("each line names a file ({})", EXTENSIONS.join(", "))));
        }
        entries.push(Entry { file: file.to_owned(), class, label: None, part: Part::All });
    }
    Ok(Files { store: Store::Folder(folder), entries, classes: Vec::new(), parts_named: false })
}

fn shortened(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    if start.len() < text.len() { format!("{start}...") } else { start }
}

/// Gives classes their numbers: digits by value, others in natural order.
fn number(files: &mut Files, spec: &AudioSpec, path: &Path) -> Result<()> {
    let all = files.entries.iter().all(|entry| entry.class.is_some());
    if spec.classes == Some(true) && !all {
        return Err(Error::data("no classes")
            .at(path.display())
            .why("not every file lies in a folder of its class")
            .hint("arrange files as CLASS/NAME.wav, or give a list with a class after a tab"));
    }
    if !all || spec.classes == Some(false) {
        return Ok(());
    }
    let found: BTreeSet<&str> = files.entries.iter().filter_map(|entry| entry.class.as_deref()).collect();
    let mut classes: Vec<String> = if found.iter().all(|class| DIGITS.contains(class)) {
        DIGITS.iter().map(|d| (*d).to_owned()).collect()
    } else {
        found.iter().map(|c| (*c).to_owned()).collect()
    };
    if classes.len() != 10 || !found.iter().all(|class| DIGITS.contains(class)) {
        classes.sort_by(|a, b| natural(a, b));
    }
    for entry in &mut files.entries {
        let at = classes.iter().position(|class| Some(class) == entry.class.as_ref());
        entry.label = at.and_then(|i| i64::try_from(i).ok());
    }
    files.classes = classes;
    Ok(())
}

/// Divides files in their order, each class for itself.
fn divide(files: &mut Files, ends: [f64; 2]) {
    let labels: BTreeSet<Option<i64>> = files.entries.iter().map(|entry| entry.label).collect();
    for label in labels {
        let mut own: Vec<&mut Entry> =
            files.entries.iter_mut().filter(|entry| entry.label == label).collect();
        let [train, validation] = boundaries(own.len(), ends);
        for (i, entry) in own.iter_mut().enumerate() {
            entry.part = if i < train {
                Part::Train
            } else if i < validation {
                Part::Validation
            } else {
                Part::Test
            };
        }
    }
}

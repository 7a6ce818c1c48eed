//! The rules of the house: who may depend on whom, who may print, where `unsafe` may live.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms it may use.
const TABLE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("math", &["error"]),
    ("torch", &["error", "math"]),
    ("io", &["error", "math", "torch"]),
    ("process", &["error", "math", "torch"]),
    ("noise", &["error", "math", "torch"]),
    ("optim", &["error", "math", "torch", "io"]),
    ("net", &["error", "math", "torch", "io", "optim"]),
    ("denoiser", &["error", "math", "torch", "process", "net"]),
    ("solver", &["error", "math", "torch", "process", "noise", "net", "denoiser"]),
    ("decode", &["error", "math", "torch", "noise", "net"]),
    ("data", &["error", "math", "torch", "io"]),
    ("objective", &["error", "math", "torch", "process", "net", "denoiser", "data"]),
    ("metric", &["error", "math", "torch", "io", "net", "data"]),
    (
        "recipe",
        &[
            "error",
            "math",
            "torch",
            "io",
            "process",
            "noise",
            "optim",
            "net",
            "denoiser",
            "solver",
            "objective",
            "data",
        ],
    ),
    (
        "model",
        &[
            "error",
            "math",
            "torch",
            "io",
            "process",
            "noise",
            "optim",
            "net",
            "denoiser",
            "solver",
            "objective",
            "data",
            "recipe",
            "decode",
        ],
    ),
    (
        "train",
        &[
            "error",
            "math",
            "torch",
            "io",
            "process",
            "noise",
            "optim",
            "net",
            "denoiser",
            "solver",
            "objective",
            "data",
            "metric",
            "recipe",
            "model",
            "decode",
        ],
    ),
];

/// Every source file as (path below src, text without comments and without its tests).
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_path_buf(), text));
            }
        }
    }
    assert!(found.len() > 20, "the walk over src found {} files", found.len());
    found.sort();
    found
}

fn room(path: &Path) -> String {
    path.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// The lines of a file that are code, with their numbers, up to its test module.
fn code(text: &str) -> Vec<(usize, &str)> {
    let tests = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..tests]
        .lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .collect()
}

fn is_test_file(path: &Path) -> bool {
    path.file_name().is_some_and(|f| f == "tests.rs") || path.iter().any(|part| part == "tests")
}

#[test]
fn dependencies_point_down() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        TABLE.iter().map(|(room, uses)| (*room, uses.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let from = room(&path);
        if ["lib", "main", "cli"].contains(&from.as_str()) || is_test_file(&path) {
            continue;
        }
        let uses = allowed.get(from.as_str()).unwrap_or_else(|| panic!("room `{from}` is not in the table"));
        for (line, code) in code(&text) {
            for part in code.split("crate::").skip(1) {
                let to: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !to.is_empty() && to != from && !uses.contains(to.as_str()) {
                    wrong.push(format!("src/{}:{line}: {from} uses {to}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_command_line_prints() {
    let mut wrong = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| room(path) != "cli") {
        for (line, code) in code(&text) {
            if ["println!", "eprintln!", "print!(", "eprint!(", "dbg!("].iter().any(|p| code.contains(p)) {
                wrong.push(format!("src/{}:{line}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_lives_in_torch_and_io() {
    let mut wrong = Vec::new();
    for (path, text) in sources().into_iter().filter(|(p, _)| !["torch", "io"].contains(&room(p).as_str())) {
        for (line, code) in code(&text) {
            if code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe") {
                wrong.push(format!("src/{}:{line}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unwrap_has_a_reason() {
    let mut wrong = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !is_test_file(path)) {
        let lines: Vec<&str> = text.lines().collect();
        for (line, code) in code(&text) {
            if code.contains(".unwrap()") || code.contains(".expect(") {
                let near = lines[line.saturating_sub(4)..line].join("\n");
                if !near.contains("unwrap:") {
                    wrong.push(format!("src/{}:{line}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_of_readable_size() {
    let long: Vec<String> = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > 700)
        .map(|(path, lines)| format!("src/{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn main_is_small() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs")).unwrap();
    assert!(text.lines().count() <= 40);
}

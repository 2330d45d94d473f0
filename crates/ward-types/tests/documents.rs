//! What the documents say is tested, is: each test that they name exists.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// The names of all functions under a directory.
fn functions(directory: &Path, names: &mut HashSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let of = |line: &str| {
                let rest = line.split_once("fn ")?.1;
                Some(rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()?.to_owned())
            };
            names.extend(text.lines().filter_map(of));
        }
    }
}

/// What stands between backticks and reads like the name of a test, with or without its crate.
fn named(document: &str) -> Vec<String> {
    let quoted = document.split('`').skip(1).step_by(2);
    let names = quoted.map(|text| text.rsplit("::").next().unwrap_or_default());
    let is_name = |name: &&str| {
        name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_…".contains(c))
    };
    names.filter(is_name).map(str::to_owned).collect()
}

#[test]
fn every_test_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut there = HashSet::new();
    functions(&root.join("crates"), &mut there);
    for document in ["SPECIFICATION.md", "docs/rules.md"] {
        let names = named(&fs::read_to_string(root.join(document)).unwrap());
        assert!(names.len() > 30, "{document} names {} tests", names.len());
        let exists = |name: &str| match name.strip_suffix('…') {
            Some(start) => there.iter().any(|known| known.starts_with(start)),
            None => there.contains(name),
        };
        let missing: Vec<_> = names.into_iter().filter(|name| !exists(name)).collect();
        assert!(missing.is_empty(), "{document} names tests that are not there: {missing:#?}");
    }
}

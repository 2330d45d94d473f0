//! What the documents say is tested, is: each test that they name exists.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// The names of all tests under a directory.
fn tests(directory: &Path, names: &mut HashSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                // In a list for a macro that makes a test of each, perhaps with a number for it.
                let listed = line.trim_end_matches(',');
                let listed = listed.trim_end_matches(|c: char| c.is_ascii_digit() || c == '(' || c == ')');
                if listed.contains('_') && listed.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                    names.insert(listed.to_owned());
                }
                let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
                if let Some(rest) = function {
                    let name = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
                    names.extend(name.filter(|_| is_test).map(str::to_owned));
                    is_test = false;
                }
            }
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
    for place in ["crates", "tools"] {
        tests(&root.join(place), &mut there);
    }
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

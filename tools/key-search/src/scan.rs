//! Files, read whole, one by one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;
use ward_secret::Kek;

use crate::Failure;
use crate::patterns::Patterns;

/// A key in a file.
pub(crate) struct Finding {
    /// Which pattern.
    pub(crate) pattern: usize,
    /// Where.
    pub(crate) file: PathBuf,
}

/// What was searched and found.
#[derive(Default)]
pub(crate) struct Total {
    /// Files read.
    pub(crate) files: u64,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// Keys found.
    pub(crate) findings: Vec<Finding>,
}

/// Searches all regular files below `path`. Does not follow links.
pub(crate) fn directory(path: &Path, searcher: &AhoCorasick, total: &mut Total) -> Result<(), Failure> {
    let at = |error: io::Error| format!("{}: {error}", path.display());
    let kind = fs::symlink_metadata(path).map_err(at)?.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(path).map_err(at)? {
            directory(&entry.map_err(at)?.path(), searcher, total)?;
        }
    } else if kind.is_file() {
        let file = File::open(path).map_err(at)?;
        total.files += 1;
        total.bytes += file.metadata().map_err(at)?.len();
        for found in searcher.stream_find_iter(file) {
            let pattern = found.map_err(at)?.pattern().as_usize();
            total.findings.push(Finding { pattern, file: path.to_owned() });
        }
    }
    Ok(())
}

/// Hides a key of its own in each form in files of its own, and fails unless all are found.
pub(crate) fn control() -> Result<(), Failure> {
    let key = Kek::generate()?;
    let mut patterns = Patterns::default();
    patterns.add("control", key.expose());
    let place = tempfile::tempdir()?;
    let forms: [Vec<u8>; 3] = [key.expose().to_vec(), hex_of(&key), base64_of(&key)];
    for (number, form) in forms.iter().enumerate() {
        // Across the border of a read buffer, as keys in large files may lie.
        let mut content = vec![b'.'; 64 * 1024 - 7];
        content.extend_from_slice(form);
        fs::write(place.path().join(number.to_string()), content)?;
    }
    let mut total = Total::default();
    directory(place.path(), &patterns.searcher()?, &mut total)?;
    match total.findings.len() {
        3 => Ok(()),
        other => Err(format!("the search itself does not work: it found {other} of 3 keys that it hid").into()),
    }
}

fn hex_of(key: &Kek) -> Vec<u8> {
    format!("key={}\n", hex::encode(key.expose())).into_bytes()
}

fn base64_of(key: &Kek) -> Vec<u8> {
    use base64::Engine as _;
    let mut content = b"k:".to_vec();
    content.extend_from_slice(key.expose());
    base64::engine::general_purpose::STANDARD.encode(content).into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn finds_what_it_hid() {
        control().unwrap();
    }

    #[test]
    fn finds_a_half_of_a_long_key_and_nothing_in_clean_files() {
        let place = tempfile::tempdir().unwrap();
        let key: Vec<u8> = (0..64).collect();
        let mut patterns = Patterns::default();
        patterns.add("long", &key);
        fs::create_dir(place.path().join("deep")).unwrap();
        fs::write(place.path().join("deep/clean"), vec![7; 100_000]).unwrap();
        let mut total = Total::default();
        directory(place.path(), &patterns.searcher().unwrap(), &mut total).unwrap();
        assert_eq!((total.files, total.bytes, total.findings.len()), (1, 100_000, 0));
        fs::write(place.path().join("deep/leak"), &key[32..]).unwrap();
        let mut total = Total::default();
        directory(place.path(), &patterns.searcher().unwrap(), &mut total).unwrap();
        assert_eq!(total.findings.len(), 1);
        assert!(patterns.name(total.findings[0].pattern).starts_with("long"));
    }
}

//! The OASIS test cases' messages through the codec.
//!
//! `KMIP_VECTORS` names a directory; every XML file below it is read. Not set, nothing is tested, and that is said.
#![allow(clippy::unwrap_used)]

#[path = "vectors/xml.rs"]
mod xml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kmip::message::{RequestMessage, ResponseMessage};
use kmip::operation::{RequestPayload, ResponsePayload};
use kmip::ttlv::{Limits, encode};

#[derive(Default)]
struct Tally {
    messages: usize,
    items: usize,
    other_operations: BTreeMap<String, usize>,
    failures: Vec<String>,
}

#[test]
fn every_message_is_read_and_written_alike() {
    let Some(directory) = std::env::var_os("KMIP_VECTORS").map(PathBuf::from) else {
        eprintln!("KMIP_VECTORS is not set: the OASIS messages were not read");
        return;
    };
    let mut files = Vec::new();
    find(&directory, &mut files);
    assert!(!files.is_empty(), "there are no XML files below {}", directory.display());
    let mut tally = Tally::default();
    for file in &files {
        for (number, message) in xml::messages(&std::fs::read_to_string(file).unwrap()).into_iter().enumerate() {
            if let Err(error) = check(&message, &mut tally) {
                tally.failures.push(format!("{}, message {number}: {error}", file.display()));
            }
        }
    }
    eprintln!(
        "{} files, {} messages, {} batch items; not modelled: {:?}",
        files.len(),
        tally.messages,
        tally.items,
        tally.other_operations
    );
    assert!(tally.failures.is_empty(), "{} failures:\n{}", tally.failures.len(), tally.failures.join("\n"));
    assert!(tally.items > 100);
}

fn find(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "xml") {
            files.push(path);
        }
    }
    files.sort();
}

fn check(message: &xml::Message, tally: &mut Tally) -> Result<(), String> {
    tally.messages += 1;
    let limits = Limits::default();
    let bytes = encode(&xml::item(&message.element, None)).map_err(|error| error.to_string())?;
    let mut other = |operation: kmip::names::Operation| {
        *tally.other_operations.entry(operation.to_string()).or_default() += 1;
    };
    let again = if message.is_request {
        let request = RequestMessage::decode(&bytes, &limits).map_err(|error| error.to_string())?;
        tally.items += request.items.len();
        for item in &request.items {
            match &item.payload {
                RequestPayload::Malformed(operation, error) => return Err(format!("{operation}: {error}")),
                RequestPayload::Other(operation, _) => other(*operation),
                _ => {}
            }
        }
        request.encode()
    } else {
        let response = ResponseMessage::decode(&bytes, &limits).map_err(|error| error.to_string())?;
        tally.items += response.items.len();
        for item in &response.items {
            if let Some(ResponsePayload::Other(operation, _)) = &item.payload {
                other(*operation);
            }
        }
        response.encode()
    };
    let again = again.map_err(|error| error.to_string())?;
    if *again != *bytes {
        return Err("it is written otherwise than it was read".into());
    }
    Ok(())
}

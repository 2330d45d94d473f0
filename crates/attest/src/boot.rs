//! What was booted: the images that the firmware ran, and what the loader measured of kernel, initrd and command line.
//!
//! The digests are proven by the quote. Names and paths beside them are for people: no digest covers them, unless it is
//! said that one does.

use serde::{Deserialize, Serialize};

use crate::hash::Digest;
use crate::log::{Content, EventType, Tagged, VerifiedEvent, VerifiedLog, text};

/// An image that the firmware, or a loader by way of it, ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootImage {
    /// The event's place in the log.
    pub event: usize,
    /// Its PCR.
    pub pcr: u8,
    /// Whether it is an application, such as a loader or a kernel, and not a driver.
    pub application: bool,
    /// Its digest, as Authenticode makes it: without its signatures.
    pub digest: Digest,
    /// The file that it is said to have come from.
    pub path: Option<String>,
}

/// What a loader measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Measured {
    /// A section of a unified kernel image, by systemd's stub, into PCR 11. Its name is proven.
    Section {
        /// Its name: `.linux`, `.initrd`, `.cmdline` and so on.
        name: String,
        /// Digest of its content.
        digest: Digest,
    },
    /// The initrd that Linux's EFI stub loaded, into PCR 9.
    Initrd {
        /// Its digest.
        digest: Digest,
    },
    /// The command line that Linux's EFI stub was started with, into PCR 9.
    LoadOptions {
        /// Digest of the load options, UTF-16.
        digest: Digest,
    },
    /// A line that GRUB ran, or a command line that it or systemd's stub passed on. The text is proven.
    Line {
        /// Its PCR.
        pcr: u8,
        /// What stands before the text: `grub_cmd`, `kernel_cmdline`; empty for systemd's.
        about: String,
        /// The text.
        text: String,
        /// Its digest.
        digest: Digest,
    },
    /// Anything else, such as the files that GRUB read.
    Other {
        /// Its PCR.
        pcr: u8,
        /// What it is said to be.
        says: String,
        /// Its digest.
        digest: Digest,
    },
}

/// What was booted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootChain {
    /// The images, in the order in which they ran. Complete if PCRs 2 and 4 were quoted.
    pub images: Vec<BootImage>,
    /// What loaders measured, in order. Complete for the PCRs from 8 that were quoted.
    pub measured: Vec<Measured>,
}

/// LOAD_OPTIONS_EVENT_TAG_ID of Linux's EFI stub.
const LOAD_OPTIONS_TAG: u32 = 0x8f3b_22ed;
/// INITRD_EVENT_TAG_ID of Linux's EFI stub.
const INITRD_TAG: u32 = 0x8f3b_22ec;
/// The PCR of systemd's stub for the sections of a unified kernel image.
const SECTIONS_PCR: u8 = 11;
/// The PCRs of loaders and operating systems.
const LOADER_PCRS: std::ops::RangeInclusive<u8> = 8..=16;

impl BootChain {
    /// Reads it out of a log that a quote proved.
    pub fn of(log: &VerifiedLog) -> Self {
        let mut chain = Self::default();
        let mut section = None;
        for event in log.events() {
            if let Content::Image(image) = event.content() {
                chain.images.push(BootImage {
                    event: event.number(),
                    pcr: event.pcr(),
                    application: event.event_type() == EventType::EFI_BOOT_SERVICES_APPLICATION,
                    digest: event.digest().clone(),
                    path: image.path.clone(),
                });
            } else if event.pcr() == SECTIONS_PCR {
                let name = section_name(event);
                match section.take() {
                    Some(name) => chain.measured.push(Measured::Section { name, digest: event.digest().clone() }),
                    None if name.is_some() => section = name,
                    None => chain.measured.push(measured(event)),
                }
            } else if LOADER_PCRS.contains(&event.pcr()) {
                chain.measured.push(measured(event));
            }
        }
        chain
    }
}

/// systemd's stub measures a section by two events: first its name with a NUL, then its content.
fn section_name(event: &VerifiedEvent) -> Option<String> {
    let Content::Text(name) = event.content() else { return None };
    let measured = event.digest().alg().digest(&[name.as_bytes(), b"\0"]);
    (name.starts_with('.') && measured == *event.digest()).then(|| name.clone())
}

fn measured(event: &VerifiedEvent) -> Measured {
    let (pcr, digest) = (event.pcr(), event.digest().clone());
    match (event.event_type(), event.content()) {
        (EventType::EVENT_TAG, Content::Tagged(Tagged { id: LOAD_OPTIONS_TAG, .. })) => {
            Measured::LoadOptions { digest }
        }
        (EventType::EVENT_TAG, Content::Tagged(Tagged { id: INITRD_TAG, .. })) => Measured::Initrd { digest },
        (EventType::IPL, _) => line(event)
            .map(|(about, text)| Measured::Line { pcr, about, text, digest: digest.clone() })
            .unwrap_or_else(|| Measured::Other { pcr, says: event.content().to_string(), digest }),
        _ => Measured::Other { pcr, says: event.content().to_string(), digest },
    }
}

/// GRUB logs `about: text` and measures the text; systemd's stub logs and measures the text, as UTF-16.
fn line(event: &VerifiedEvent) -> Option<(String, String)> {
    let is_of = |bytes: &[u8]| event.digest().alg().digest(&[bytes]) == *event.digest();
    let data = event.data();
    if is_of(data) {
        return Some((String::new(), text(data)?));
    }
    let data = data.strip_suffix(b"\0").unwrap_or(data);
    let colon = data.windows(2).position(|two| two == b": ")?;
    let (about, line) = (&data[..colon], &data[colon + 2..]);
    is_of(line).then(|| Some((text(about)?, text(line)?))).flatten()
}

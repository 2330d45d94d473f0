//! The state of UEFI Secure Boot, as the firmware measured it into PCR 7.
//!
//! *TCG PC Client Platform Firmware Profile* 1.06, section 3.3.4.8 (PCR 7); UEFI 2.10, section 32.
//!
//! Every digest in PCR 7 is of its event's data, so all that stands here is proven by the quote, but for one thing:
//! that the firmware which measured it is itself good. PCR 0 is for that.

use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::hash::{Digest, HashAlg};
use crate::log::{Content, EventType, UefiVariable, VerifiedEvent, VerifiedLog};
use crate::tpm::{Endian, Reader};

/// The PCR of Secure Boot.
pub const SECURE_BOOT_PCR: u8 = 7;

/// EFI_CERT_X509_GUID, a5c059a1-94e4-4aa7-87b5-ab155c2bf072.
const CERT_X509: [u8; 16] =
    [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];

/// Why the state of Secure Boot can't be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecureBootError {
    /// PCR 7 was not quoted.
    #[error("the state of Secure Boot is not known: PCR 7 was not quoted")]
    NotQuoted,
    /// A variable was not measured.
    #[error(
        "the state of Secure Boot is not known: the firmware did not measure the variable {0} before the separator"
    )]
    Missing(&'static str),
    /// A variable was measured twice, or too late.
    #[error("event {event} measures the variable {name} {problem}: the state of Secure Boot is ambiguous")]
    Ambiguous {
        /// Which event, by its place in the log.
        event: usize,
        /// The variable.
        name: String,
        /// "a second time" or "behind the separator".
        problem: &'static str,
    },
    /// A variable has no value that it may have.
    #[error("event {event}: the variable {name} has {len} bytes, or another value than 0 and 1")]
    Value {
        /// Which event, by its place in the log.
        event: usize,
        /// The variable.
        name: String,
        /// Length of its data in bytes.
        len: usize,
    },
    /// The firmware says something in PCR 7 that nobody knows.
    #[error("event {event} in PCR 7 says {text:?}, which can't be judged")]
    UnknownAction {
        /// Which event, by its place in the log.
        event: usize,
        /// What it says.
        text: String,
    },
    /// It is off.
    #[error("Secure Boot is off")]
    Off,
    /// There is no platform key.
    #[error("Secure Boot has no platform key (PK): whoever is at the machine can set its keys")]
    NoPlatformKey,
    /// The firmware can be debugged.
    #[error("the firmware is in debug mode: what it enforces can be switched off")]
    Debug,
    /// Nothing was checked.
    #[error(
        "Secure Boot is on, but no image was checked by it before the operating system: what was booted did not come \
             by way of it"
    )]
    NothingChecked,
}

/// A variable with keys or hashes: PK, KEK, db, dbx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDatabase {
    /// Digest of its data.
    pub digest: Digest,
    /// Its length in bytes; 0 if the variable is empty or not there.
    pub len: usize,
    /// Subjects of the certificates in it.
    pub certificates: Vec<String>,
    /// How many entries it has that are no certificates: hashes, mostly.
    pub others: usize,
}

/// What a boot image, a driver or a loader's own list was accepted by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// The variable that has the entry: `db`, or one of the loader's own, such as `MokList`.
    pub variable: String,
    /// Digest of the event.
    pub digest: Digest,
    /// Subject of the certificate, if the entry is one.
    pub certificate: Option<String>,
    /// Whether it was used after the firmware was done: by what was booted.
    pub after_firmware: bool,
}

/// The state of Secure Boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecureBoot {
    /// The variable SecureBoot: whether images are checked.
    pub on: bool,
    /// The platform key.
    pub pk: KeyDatabase,
    /// The key exchange keys.
    pub kek: KeyDatabase,
    /// What is allowed.
    pub db: KeyDatabase,
    /// What is forbidden.
    pub dbx: KeyDatabase,
    /// What images were accepted by.
    pub authorities: Vec<Authority>,
    /// The firmware says that it can be debugged.
    pub debug: bool,
    /// The firmware says that devices were not kept from writing to memory.
    pub dma_protection_off: bool,
}

impl SecureBoot {
    /// Reads it out of a log that a quote proved.
    ///
    /// # Errors
    /// [`SecureBootError`] if PCR 7 was not quoted, or if what is in it is incomplete, ambiguous or unknown.
    pub fn of(log: &VerifiedLog) -> Result<Self, SecureBootError> {
        if !log.values().mask().contains(SECURE_BOOT_PCR) {
            return Err(SecureBootError::NotQuoted);
        }
        let mut found = Found::default();
        let mut after_firmware = false;
        for event in log.of_pcr(SECURE_BOOT_PCR) {
            match (event.event_type(), event.content()) {
                (EventType::SEPARATOR, _) => after_firmware = true,
                (EventType::EFI_VARIABLE_DRIVER_CONFIG, Content::Variable(variable)) => {
                    found.take(event, variable, after_firmware)?;
                }
                (EventType::EFI_VARIABLE_AUTHORITY, Content::Variable(variable)) => {
                    found.authorities.push(authority(event, variable, after_firmware));
                }
                (EventType::EFI_ACTION | EventType::ACTION, _) => found.act(event)?,
                // What SPDM says of devices is no part of Secure Boot.
                _ => {}
            }
        }
        found.finish(log.values().bank())
    }

    /// Checks that images were checked, with keys that are the owner's.
    ///
    /// # Errors
    /// [`SecureBootError`] says what is missing.
    pub fn enforced(&self) -> Result<(), SecureBootError> {
        if !self.on {
            return Err(SecureBootError::Off);
        }
        if self.pk.len == 0 {
            return Err(SecureBootError::NoPlatformKey);
        }
        if self.debug {
            return Err(SecureBootError::Debug);
        }
        // Firmware may have ways to start a kernel past it: QEMU's `-kernel` is one.
        if !self.authorities.iter().any(|authority| authority.after_firmware && authority.variable == "db") {
            return Err(SecureBootError::NothingChecked);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Found<'a> {
    on: Option<bool>,
    databases: [Option<&'a [u8]>; 4],
    authorities: Vec<Authority>,
    debug: bool,
    dma_protection_off: bool,
}

const DATABASES: [(&str, [u8; 16]); 4] = [
    ("PK", UefiVariable::GLOBAL),
    ("KEK", UefiVariable::GLOBAL),
    ("db", UefiVariable::SECURITY_DATABASE),
    ("dbx", UefiVariable::SECURITY_DATABASE),
];

impl<'a> Found<'a> {
    fn take(
        &mut self,
        event: &VerifiedEvent,
        variable: &'a UefiVariable,
        after_firmware: bool,
    ) -> Result<(), SecureBootError> {
        let ambiguous =
            |problem| Err(SecureBootError::Ambiguous { event: event.number(), name: variable.name.clone(), problem });
        if after_firmware {
            return ambiguous("behind the separator");
        }
        if variable.guid == UefiVariable::GLOBAL && variable.name == "SecureBoot" {
            let on = match variable.data.as_slice() {
                [0] => false,
                [1] => true,
                other => {
                    let (event, name) = (event.number(), variable.name.clone());
                    return Err(SecureBootError::Value { event, name, len: other.len() });
                }
            };
            return if self.on.replace(on).is_some() { ambiguous("a second time") } else { Ok(()) };
        }
        let at = DATABASES.iter().position(|(name, guid)| *name == variable.name && *guid == variable.guid);
        match at {
            Some(at) if self.databases[at].replace(&variable.data).is_some() => ambiguous("a second time"),
            // Firmware may measure more variables, such as AuditMode: SecureBoot says what comes of them all.
            _ => Ok(()),
        }
    }

    /// Section 3.3.4.8: the two things that firmware may say.
    fn act(&mut self, event: &VerifiedEvent) -> Result<(), SecureBootError> {
        match event.data() {
            b"UEFI Debug Mode" | b"UEFI Debug Mode\0" => self.debug = true,
            b"DMA Protection Disabled" | b"DMA Protection Disabled\0" => self.dma_protection_off = true,
            _ => {
                let text = event.content().to_string();
                return Err(SecureBootError::UnknownAction { event: event.number(), text });
            }
        }
        Ok(())
    }

    fn finish(self, bank: HashAlg) -> Result<SecureBoot, SecureBootError> {
        let database = |at: usize| {
            let data = self.databases[at].ok_or(SecureBootError::Missing(DATABASES[at].0))?;
            Ok(describe(bank, data))
        };
        Ok(SecureBoot {
            on: self.on.ok_or(SecureBootError::Missing("SecureBoot"))?,
            pk: database(0)?,
            kek: database(1)?,
            db: database(2)?,
            dbx: database(3)?,
            authorities: self.authorities,
            debug: self.debug,
            dma_protection_off: self.dma_protection_off,
        })
    }
}

fn authority(event: &VerifiedEvent, variable: &UefiVariable, after_firmware: bool) -> Authority {
    // EFI_SIGNATURE_DATA: the owner's GUID, then the entry.
    let certificate = variable.data.get(16..).and_then(subject);
    Authority { variable: variable.name.clone(), digest: event.digest().clone(), certificate, after_firmware }
}

/// What is in a list of EFI_SIGNATURE_LIST (UEFI 2.10, section 32.4.1). This is for showing: where a list is not
/// well-formed, it stops.
fn describe(bank: HashAlg, data: &[u8]) -> KeyDatabase {
    let mut database =
        KeyDatabase { digest: bank.digest(&[data]), len: data.len(), certificates: Vec::new(), others: 0 };
    let mut rest = data;
    while let Some((kind, entries, next)) = read_list(rest) {
        rest = next;
        for entry in entries {
            match entry.get(16..).filter(|_| kind == CERT_X509).and_then(subject) {
                Some(subject) => database.certificates.push(subject),
                None => database.others += 1,
            }
        }
    }
    database
}

type SignatureList<'a> = ([u8; 16], std::slice::ChunksExact<'a, u8>, &'a [u8]);

fn read_list(bytes: &[u8]) -> Option<SignatureList<'_>> {
    const HEADER: usize = 16 + 4 + 4 + 4;
    let mut reader = Reader::new("EFI_SIGNATURE_LIST", Endian::Little, bytes);
    let kind = reader.array("SignatureType").ok()?;
    let mut size = || usize::try_from(reader.u32("size").ok()?).ok();
    let (list, header, entry) = (size()?, size()?, size()?);
    let (list, rest) = bytes.split_at_checked(list)?;
    let entries = list.get(HEADER.checked_add(header)?..)?;
    (entry > 0).then(|| (kind, entries.chunks_exact(entry), rest))
}

fn subject(der: &[u8]) -> Option<String> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate.subject().to_string())
}

//! A native provider's backup: a PKCS#12 file that says in the open whose it is, and holds every version of its key under
//! a password. `docs/native-format.md` says how to open it without Ward.

use serde::{Deserialize, Serialize};
use ward_secret::{Kdk, SecretError, Zeroizing};
use ward_types::{Code, KdkId, Problem, ProviderName};

use super::pkcs12::{Bag, Container, OpenError, SealedBags, write};

/// The name of the bag in the open.
const ABOUT: &str = "ward native key provider";

/// What a backup says in the open. Believed only once the password has opened the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// The version of the format; 1.
    pub(crate) format: u32,
    pub(crate) provider: ProviderName,
    pub(crate) key_id: KdkId,
    /// The versions of the key that are in it.
    pub(crate) versions: Vec<u32>,
    pub(crate) tpm_required: bool,
    /// When it was made.
    pub(crate) created: String,
    /// SHA-256 of the sealed part, so that damage can be told from a wrong password.
    sealed_sha256: String,
}

/// A provider with its key, to be backed up or restored.
pub(crate) struct Backup {
    pub(crate) provider: ProviderName,
    pub(crate) key_id: KdkId,
    pub(crate) tpm_required: bool,
    /// The key's versions, from the first on.
    pub(crate) versions: Vec<(u32, Kdk)>,
}

const FORMAT: u32 = 1;

impl Backup {
    /// The file.
    pub(crate) fn write(&self, password: &str, created: String) -> Result<Vec<u8>, Problem> {
        let what = format!("cannot back up key provider `{}`", self.provider);
        let failed = |error: &dyn std::error::Error| Problem::internal(&what, error);
        let name = |version: u32| format!("{} {} v{version}", self.provider, self.key_id);
        let bags: Vec<_> = self
            .versions
            .iter()
            .map(|(version, kdk)| Bag { name: name(*version), content: Zeroizing::new(kdk.expose().to_vec()) })
            .collect();
        let sealed = SealedBags::seal(password, &bags).map_err(|error| failed(&error))?;
        let about = About {
            format: FORMAT,
            provider: self.provider.clone(),
            key_id: self.key_id,
            versions: self.versions.iter().map(|(version, _)| *version).collect(),
            tpm_required: self.tpm_required,
            created,
            sealed_sha256: hex::encode(sealed.digest()),
        };
        let about = serde_json::to_vec(&about).map_err(|error| failed(&error))?;
        let about = Bag { name: ABOUT.to_owned(), content: Zeroizing::new(about) };
        write(password, about, &sealed).map_err(|error| failed(&error))
    }

    /// Reads a file, which must be a backup of the provider of that name.
    pub(crate) fn read(what: &str, file: &[u8], password: &str, name: &ProviderName) -> Result<(Self, About), Problem> {
        let container = Container::read(file).map_err(|_| damaged(what, "it is cut short, or no backup of Ward"))?;
        let about: About = serde_json::from_slice(&container.open.content)
            .map_err(|_| damaged(what, "it does not say whose backup it is"))?;
        if about.format != FORMAT {
            let why = format!("the backup is of format {}, this controller knows {FORMAT}", about.format);
            return Err(Problem::new(Code::BackupInvalid, what, why, "use the version of Ward that made it"));
        }
        if hex::encode(container.sealed.digest()) != about.sealed_sha256 {
            return Err(damaged(what, "its keys are not as they were written"));
        }
        if about.provider != *name {
            return Err(Problem::new(
                Code::BackupOther,
                what,
                format!("it is the backup of key provider `{}`, not of `{name}`", about.provider),
                format!(
                    "take the backup of `{name}`, or restore this one under its own name: the name is its identity"
                ),
            ));
        }
        let bags = container.open(password).map_err(|error| match error {
            OpenError::Damaged => damaged(what, "its checksum is wrong"),
            OpenError::Password => Problem::new(
                Code::BackupPassword,
                what,
                "the password does not open the backup",
                "give the password under which it was made",
            ),
        })?;
        if bags.len() != about.versions.len() {
            return Err(damaged(what, "it does not hold the keys that it should"));
        }
        let mut versions = Vec::new();
        for (version, mut bag) in about.versions.iter().zip(bags) {
            let kdk = Kdk::take(&mut bag.content).map_err(|error| match error {
                SecretError::Length { .. } => damaged(what, "a key in it is not of 256 bits"),
                error => Problem::internal(what, error),
            })?;
            versions.push((*version, kdk));
        }
        let backup =
            Self { provider: about.provider.clone(), key_id: about.key_id, tpm_required: about.tpm_required, versions };
        Ok((backup, about))
    }
}

fn damaged(what: &str, why: &str) -> Problem {
    Problem::new(
        Code::BackupInvalid,
        what,
        format!("the backup is damaged: {why}"),
        "take another copy of the backup, or an earlier one",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn backup() -> Backup {
        let versions = [1u8, 2].map(|n| (u32::from(n), Kdk::take(&mut [n; 32]).unwrap())).into();
        Backup { provider: "n1".parse().unwrap(), key_id: KdkId::new(), tpm_required: true, versions }
    }

    fn code(file: &[u8], password: &str, name: &str) -> Code {
        Backup::read("cannot restore", file, password, &name.parse().unwrap()).err().unwrap().code
    }

    #[test]
    fn what_was_written_comes_back() {
        let backup = backup();
        let file = backup.write("secret", "now".to_owned()).unwrap();
        let (read, about) = Backup::read("", &file, "secret", &backup.provider).unwrap();
        assert_eq!((read.key_id, read.tpm_required, about.versions), (backup.key_id, true, vec![1, 2]));
        for ((version, kdk), (read_version, read_kdk)) in backup.versions.iter().zip(&read.versions) {
            assert_eq!(version, read_version);
            assert!(kdk.same(read_kdk));
        }
    }

    #[test]
    fn each_reason_why_not_is_told_apart() {
        let file = backup().write("secret", "now".to_owned()).unwrap();
        assert_eq!(code(&file, "secreT", "n1"), Code::BackupPassword);
        assert_eq!(code(&file, "", "n1"), Code::BackupPassword);
        assert_eq!(code(&file, "secret", "n2"), Code::BackupOther);
        assert_eq!(code(&file[..file.len() - 1], "secret", "n1"), Code::BackupInvalid);
        assert_eq!(code(b"PKCS#12", "secret", "n1"), Code::BackupInvalid);
    }

    /// A flipped bit anywhere: never accepted, and never taken for a wrong password.
    #[test]
    fn damage_is_never_taken_for_a_wrong_password() {
        let file = backup().write("secret", "now".to_owned()).unwrap();
        for at in (0..file.len()).step_by(7).chain(file.len() - 60..file.len()) {
            let mut altered = file.clone();
            altered[at] ^= 0x10;
            let got = code(&altered, "secret", "n1");
            assert!(matches!(got, Code::BackupInvalid | Code::BackupOther), "byte {at}: {got}");
        }
    }
}

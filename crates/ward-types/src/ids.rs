//! IDs, one type for each kind of object.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;
use uuid::Uuid;

/// A text that is no ID.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a UUID")]
pub struct IdError(String);

macro_rules! uuid_id {
    ($($(#[$meta:meta])* $name:ident)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new ID; later ones sort after earlier ones.
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The ID with this value.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The value.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// Its 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::parse_str(text).map(Self).map_err(|_| IdError(text.to_owned()))
            }
        }
    )*};
}

uuid_id! {
    /// A cluster: hosts that share datastores and keys.
    ClusterId
    /// A host, as the controller enrolled it.
    HostId
    /// A VM for its whole life (vSphere: instance UUID).
    VmId
    /// A datastore: a directory that the hosts of a cluster share.
    DatastoreId
    /// A task of the controller, and the job on a host that does its work.
    TaskId
    /// A token: of a login or of an enrolment.
    TokenId
    /// A user of the controller.
    UserId
    /// A group of users.
    GroupId
    /// A permission: a role for a user or group on an object.
    PermissionId
    /// The key of a native provider, in all its versions.
    KdkId
}

/// A disk of one VM: 0 is the first. It keeps its number when others are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct DiskId(pub u16);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk-{}", self.0)
    }
}

impl FromStr for DiskId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix("disk-").unwrap_or(text);
        digits.parse().map(Self).map_err(|_| IdError(text.to_owned()))
    }
}

/// A volume of one VM, by which its file and its token name it: a disk by its number, the store of the UEFI variables as
/// `"nvram"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VolumeId {
    /// The store of the UEFI variables.
    Nvram,
    /// A disk.
    Disk(DiskId),
}

const NVRAM: &str = "nvram";

impl From<DiskId> for VolumeId {
    fn from(disk: DiskId) -> Self {
        Self::Disk(disk)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nvram => f.write_str(NVRAM),
            Self::Disk(disk) => disk.fmt(f),
        }
    }
}

impl Serialize for VolumeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nvram => NVRAM.serialize(serializer),
            Self::Disk(disk) => disk.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for VolumeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Disk(DiskId),
            Word(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Disk(disk) => Ok(Self::Disk(disk)),
            Raw::Word(word) if word == NVRAM => Ok(Self::Nvram),
            Raw::Word(word) => Err(serde::de::Error::custom(format!("`{word}` is no volume of a VM"))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_volume_is_a_number_or_a_word() {
        for (volume, json, text) in
            [(VolumeId::Nvram, "\"nvram\"", "nvram"), (VolumeId::Disk(DiskId(3)), "3", "disk-3")]
        {
            assert_eq!(serde_json::to_string(&volume).unwrap(), json);
            assert_eq!(serde_json::from_str::<VolumeId>(json).unwrap(), volume);
            assert_eq!(volume.to_string(), text);
        }
        for bad in ["\"disk-0\"", "-1", "70000", "null", "\"\""] {
            assert!(serde_json::from_str::<VolumeId>(bad).is_err(), "{bad}");
        }
    }
}

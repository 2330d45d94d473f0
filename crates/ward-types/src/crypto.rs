//! What can be asked of a component, and what a request comes to.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{DiskId, KeyId, KeyRef, ProviderName};

/// A part of a VM that is encrypted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// The VM home: all that is no disk.
    Home,
    /// One disk.
    Disk(DiskId),
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.write_str("the VM home"),
            Self::Disk(disk) => disk.fmt(f),
        }
    }
}

/// From where a user wants a KEK.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub struct KeyWish {
    /// The provider; none means the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderName>,
    /// A key that exists already; none means a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
}

/// What a user asks of a component (vSphere: `CryptoSpec`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum CryptoSpec {
    /// Encrypt it, under a new DEK.
    Encrypt(KeyWish),
    /// Decrypt it.
    Decrypt,
    /// Put a new KEK in the place of the old one, of whatever provider. The data and their DEK stay, so an old copy of a
    /// header still opens with the old KEK.
    ShallowRecrypt(KeyWish),
    /// Encrypt it anew, under a new DEK and a new KEK.
    DeepRecrypt(KeyWish),
    /// Leave it as it is.
    #[default]
    NoOp,
    /// Leave it as it is, and have the key under which it is given to hosts.
    Register,
}

impl CryptoSpec {
    /// The KEK that is wanted, where one is.
    #[must_use]
    pub const fn wish(&self) -> Option<&KeyWish> {
        match self {
            Self::Encrypt(wish) | Self::ShallowRecrypt(wish) | Self::DeepRecrypt(wish) => Some(wish),
            Self::Decrypt | Self::NoOp | Self::Register => None,
        }
    }
}

/// As it comes: of a tagged enum Serde would let pass what no variant has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSpec {
    op: Asked,
    provider: Option<ProviderName>,
    key_id: Option<KeyId>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Asked {
    Encrypt,
    Decrypt,
    ShallowRecrypt,
    DeepRecrypt,
    NoOp,
    Register,
}

impl<'de> Deserialize<'de> for CryptoSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RawSpec { op, provider, key_id } = RawSpec::deserialize(deserializer)?;
        let wish = KeyWish { provider, key_id };
        let without = |spec| match &wish {
            KeyWish { provider: None, key_id: None } => Ok(spec),
            _ => Err(D::Error::custom("only what encrypts and recrypts takes a key")),
        };
        match op {
            Asked::Decrypt => without(Self::Decrypt),
            Asked::NoOp => without(Self::NoOp),
            Asked::Register => without(Self::Register),
            Asked::Encrypt => Ok(Self::Encrypt(wish)),
            Asked::ShallowRecrypt => Ok(Self::ShallowRecrypt(wish)),
            Asked::DeepRecrypt => Ok(Self::DeepRecrypt(wish)),
        }
    }
}

/// What is asked of a VM, component by component. What isn't named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CryptoRequest {
    /// Of the VM home.
    #[serde(default)]
    pub home: CryptoSpec,
    /// Of the disks, by number.
    #[serde(default)]
    pub disks: BTreeMap<DiskId, CryptoSpec>,
}

impl CryptoRequest {
    /// The same of several components.
    #[must_use]
    pub fn of(components: impl IntoIterator<Item = Component>, spec: &CryptoSpec) -> Self {
        let mut request = Self::default();
        for component in components {
            match component {
                Component::Home => request.home = spec.clone(),
                Component::Disk(disk) => {
                    request.disks.insert(disk, spec.clone());
                }
            }
        }
        request
    }

    /// What is asked of each component that is named.
    pub fn specs(&self) -> impl Iterator<Item = (Component, &CryptoSpec)> {
        let disks = self.disks.iter().map(|(disk, spec)| (Component::Disk(*disk), spec));
        std::iter::once((Component::Home, &self.home)).chain(disks)
    }

    /// The KEKs that are wanted.
    pub fn wishes(&self) -> impl Iterator<Item = &KeyWish> {
        self.specs().filter_map(|(_, spec)| spec.wish())
    }
}

/// One thing that a host does to one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CryptoStep {
    /// To what.
    pub component: Component,
    /// What.
    #[serde(flatten)]
    pub action: StepAction,
}

/// What a host does to a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum StepAction {
    /// Encrypt under this KEK.
    Encrypt {
        /// The KEK.
        key: KeyRef,
    },
    /// Decrypt; the component itself says with which KEK.
    Decrypt,
    /// Put this KEK in the place of the one that there is; the DEK stays.
    ShallowRecrypt {
        /// The KEK.
        key: KeyRef,
    },
    /// Encrypt anew, under a new DEK and this KEK.
    DeepRecrypt {
        /// The KEK.
        key: KeyRef,
    },
}

impl StepAction {
    /// The KEK under which the component is afterwards; none where it is plain.
    #[must_use]
    pub const fn key(&self) -> Option<&KeyRef> {
        match self {
            Self::Encrypt { key } | Self::ShallowRecrypt { key } | Self::DeepRecrypt { key } => Some(key),
            Self::Decrypt => None,
        }
    }

    /// Whether it can be done while the VM runs: its disks' content is not touched.
    #[must_use]
    pub const fn is_online(&self) -> bool {
        matches!(self, Self::ShallowRecrypt { .. })
    }
}

/// The steps that a request comes to, in the order in which the composition rules hold at every point: the home is
/// encrypted before a disk is, and decrypted after all disks are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct CryptoPlan {
    steps: Vec<CryptoStep>,
}

impl CryptoPlan {
    /// Puts steps in order.
    #[must_use]
    pub fn new(mut steps: Vec<CryptoStep>) -> Self {
        steps.sort_by_key(|step| match (&step.action, step.component) {
            (StepAction::Decrypt, Component::Disk(disk)) => (0, disk.0),
            (StepAction::Decrypt, Component::Home) => (1, 0),
            (_, Component::Home) => (2, 0),
            (_, Component::Disk(disk)) => (3, disk.0),
        });
        Self { steps }
    }

    /// The steps in order.
    #[must_use]
    pub fn steps(&self) -> &[CryptoStep] {
        &self.steps
    }

    /// Whether all of it can be done while the VM runs.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.steps.iter().all(|step| step.action.is_online())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_request_is_plain_in_json() {
        let json =
            r#"{"home":{"op":"encrypt","provider":"p"},"disks":{"0":{"op":"shallow-recrypt"},"1":{"op":"decrypt"}}}"#;
        let request: CryptoRequest = serde_json::from_str(json).unwrap();
        let wish = KeyWish { provider: Some("p".parse().unwrap()), key_id: None };
        assert_eq!(request.home, CryptoSpec::Encrypt(wish));
        assert_eq!(request.disks[&DiskId(0)], CryptoSpec::ShallowRecrypt(KeyWish::default()));
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert_eq!(serde_json::from_str::<CryptoRequest>("{}").unwrap(), CryptoRequest::default());
    }

    #[test]
    fn what_a_request_does_not_know_is_refused() {
        for bad in [
            r#"{"homes":{"op":"decrypt"}}"#,
            r#"{"home":{"op":"decrypt","deep":true}}"#,
            r#"{"home":{"op":"encrypt","key":"1"}}"#,
            r#"{"home":{"op":"decrypt","provider":"p"}}"#,
            r#"{"home":{"op":"no-op","key_id":"1"}}"#,
            r#"{"home":{"op":"erase"}}"#,
            r#"{"home":{}}"#,
        ] {
            assert!(serde_json::from_str::<CryptoRequest>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_new_kek_alone_goes_while_the_vm_runs() {
        let key = || KeyRef::standard("p".parse().unwrap(), KeyId::try_from("1".to_owned()).unwrap());
        let shallow = CryptoStep { component: Component::Home, action: StepAction::ShallowRecrypt { key: key() } };
        assert!(CryptoPlan::new(vec![shallow.clone()]).is_online());
        for action in [StepAction::Decrypt, StepAction::Encrypt { key: key() }, StepAction::DeepRecrypt { key: key() }]
        {
            let step = CryptoStep { component: Component::Disk(DiskId(0)), action };
            assert!(!CryptoPlan::new(vec![shallow.clone(), step]).is_online());
        }
    }

    #[test]
    fn disks_are_decrypted_before_the_home_and_encrypted_after_it() {
        let key = KeyRef::standard("p".parse().unwrap(), KeyId::try_from("1".to_owned()).unwrap());
        let step = |component, action| CryptoStep { component, action };
        let encrypt = || StepAction::Encrypt { key: key.clone() };
        let disk = |n| Component::Disk(DiskId(n));
        let plan = CryptoPlan::new(vec![
            step(disk(1), encrypt()),
            step(Component::Home, StepAction::Decrypt),
            step(disk(0), StepAction::Decrypt),
            step(Component::Home, encrypt()),
        ]);
        let order: Vec<_> = plan.steps().iter().map(|step| (step.component, &step.action)).collect();
        assert_eq!(
            order,
            [
                (disk(0), &StepAction::Decrypt),
                (Component::Home, &StepAction::Decrypt),
                (Component::Home, &encrypt()),
                (disk(1), &encrypt()),
            ]
        );
    }
}

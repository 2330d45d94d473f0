//! What can be asked of a component, and what a request comes to.

use std::fmt;

use serde::{Deserialize, Serialize};
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

/// What a user asks of a component (vSphere: `CryptoSpec`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum CryptoSpec {
    /// Encrypt it: with a new key of the default provider unless said otherwise.
    Encrypt {
        /// The provider; none means the default one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider: Option<ProviderName>,
        /// A key that exists already; none means a new one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_id: Option<KeyId>,
    },
    /// Decrypt it.
    Decrypt,
    /// Leave it as it is.
    #[default]
    NoOp,
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
            (StepAction::Encrypt { .. }, Component::Home) => (2, 0),
            (StepAction::Encrypt { .. }, Component::Disk(disk)) => (3, disk.0),
        });
        Self { steps }
    }

    /// The steps in order.
    #[must_use]
    pub fn steps(&self) -> &[CryptoStep] {
        &self.steps
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

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

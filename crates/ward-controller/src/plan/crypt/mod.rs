//! Encrypting, decrypting and recrypting: what is asked of each component comes to one plan for the whole VM.
//!
//! The rules and their tests stand in `docs/rules.md`.

mod whole;

#[cfg(test)]
pub(in crate::plan) mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use ward_types::{
    Code, Component, CryptoPlan, CryptoRequest, CryptoSpec, CryptoStep, DiskConfig, HomeCrypto, KeyRef, KeyWish, Name,
    Problem, ProviderName, StepAction, TaskKind, VmConfig,
};

use super::{ProviderFacts, VmFacts, cannot, idle, off};
use crate::native::not_backed_up;

pub(crate) use whole::{Selection, Verb, whole};

/// Where the KEK comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyChoice {
    /// The provider makes one.
    New(ProviderName),
    /// It exists.
    Existing(KeyRef),
}

impl KeyChoice {
    /// Whose key it is.
    pub(crate) const fn provider(&self) -> &ProviderName {
        match self {
            Self::New(provider) => provider,
            Self::Existing(key) => &key.provider,
        }
    }
}

/// What a request comes to, but for the keys themselves, which are had only when the task runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CryptPlan {
    /// The KEKs that it takes: one for all that is asked of the same provider, however many components that is.
    pub(crate) keys: Vec<KeyChoice>,
    /// What is done to which component.
    pub(crate) steps: Vec<PlannedStep>,
    /// The keys, of components that stay as they are, that hosts are to have.
    #[serde(default)]
    pub(crate) registers: Vec<KeyRef>,
}

/// What is done to one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedStep {
    pub(crate) component: Component,
    pub(crate) action: PlannedAction,
}

impl From<(Component, PlannedAction)> for PlannedStep {
    fn from((component, action): (Component, PlannedAction)) -> Self {
        Self { component, action }
    }
}

/// As [`StepAction`], with the place of the key among the plan's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PlannedAction {
    Encrypt(usize),
    Decrypt,
    ShallowRecrypt(usize),
    DeepRecrypt(usize),
}

impl CryptPlan {
    /// The steps in order, now that the keys are known; none where one is missing.
    pub(crate) fn steps(&self, keys: &[KeyRef]) -> Option<CryptoPlan> {
        let step = |PlannedStep { component, action }: &PlannedStep| {
            let key = |n: &usize| keys.get(*n).cloned();
            let action = match action {
                PlannedAction::Encrypt(n) => StepAction::Encrypt { key: key(n)? },
                PlannedAction::Decrypt => StepAction::Decrypt,
                PlannedAction::ShallowRecrypt(n) => StepAction::ShallowRecrypt { key: key(n)? },
                PlannedAction::DeepRecrypt(n) => StepAction::DeepRecrypt { key: key(n)? },
            };
            Some(CryptoStep { component: *component, action })
        };
        self.steps.iter().map(step).collect::<Option<_>>().map(CryptoPlan::new)
    }

    /// The key under which a component is afterwards, if it is encrypted then.
    pub(crate) fn key_of<'k>(&self, component: Component, keys: &'k [KeyRef]) -> Option<&'k KeyRef> {
        let step = self.steps.iter().find(|step| step.component == component)?;
        match step.action {
            PlannedAction::Encrypt(n) | PlannedAction::ShallowRecrypt(n) | PlannedAction::DeepRecrypt(n) => keys.get(n),
            PlannedAction::Decrypt => None,
        }
    }

    /// The place of a key among those that the plan takes.
    fn key(&mut self, choice: KeyChoice) -> usize {
        self.keys.iter().position(|known| *known == choice).unwrap_or_else(|| {
            self.keys.push(choice);
            self.keys.len() - 1
        })
    }
}

/// What a request is, as its task and its problems say it.
pub(crate) fn kind(request: &CryptoRequest) -> TaskKind {
    let kind = |spec: &CryptoSpec| match spec {
        CryptoSpec::Encrypt(_) => Some(TaskKind::VmEncrypt),
        CryptoSpec::Decrypt => Some(TaskKind::VmDecrypt),
        CryptoSpec::ShallowRecrypt(_) | CryptoSpec::DeepRecrypt(_) => Some(TaskKind::VmRecrypt),
        CryptoSpec::NoOp | CryptoSpec::Register => None,
    };
    let mut kinds = request.specs().filter_map(|(_, spec)| kind(spec));
    match kinds.next() {
        Some(first) if kinds.all(|other| other == first) => first,
        _ => TaskKind::VmReconfigure,
    }
}

/// Plans what is asked of a VM, component by component.
pub(crate) fn crypt(
    vm: VmFacts<'_>,
    request: &CryptoRequest,
    providers: &[ProviderFacts],
) -> Result<CryptPlan, Problem> {
    crypt_as(kind(request), vm, request, providers)
}

/// The same as part of another task.
pub(super) fn crypt_as(
    kind: TaskKind,
    vm: VmFacts<'_>,
    request: &CryptoRequest,
    providers: &[ProviderFacts],
) -> Result<CryptPlan, Problem> {
    let is_online =
        |spec: &CryptoSpec| matches!(spec, CryptoSpec::NoOp | CryptoSpec::Register | CryptoSpec::ShallowRecrypt(_));
    // A shallow recrypt touches nothing that a running VM uses.
    let online = request.specs().all(|(_, spec)| is_online(spec));
    let config = if online { idle(kind, vm)? } else { off(kind, vm)? };
    let mut planner = Planner { kind, vm: vm.name, providers, plan: CryptPlan::default() };
    let before = keys(config);
    let mut encrypted: BTreeMap<_, _> = before.iter().map(|(component, key)| (*component, key.is_some())).collect();
    for (component, spec) in request.specs() {
        let key = before.get(&component).ok_or_else(|| planner.no_such(component))?;
        if let Some(action) = planner.action(component, key.as_ref(), spec)? {
            planner.plan.steps.push(PlannedStep { component, action });
            encrypted.insert(component, action != PlannedAction::Decrypt);
        }
    }
    if planner.plan.steps.is_empty() && planner.plan.registers.is_empty() {
        return Err(planner.refuse(
            Code::RequestInvalid,
            "nothing is asked of any component".to_owned(),
            "say what is to be done with the home or with which disk".to_owned(),
        ));
    }
    planner.check_composition(&encrypted)?;
    if config.tpm.is_some() && encrypted.get(&Component::Home) == Some(&false) {
        return Err(planner.refuse(
            Code::Composition,
            "it has a vTPM, which keeps its home encrypted".to_owned(),
            format!("remove the vTPM first with `ward vm tpm rm {}`, or decrypt disks only, with `--disk`", vm.name),
        ));
    }
    Ok(planner.plan)
}

/// Every component with the key that it is encrypted under.
pub(crate) fn keys(config: &VmConfig) -> BTreeMap<Component, Option<KeyRef>> {
    let home = match &config.home {
        HomeCrypto::Plain => None,
        HomeCrypto::Encrypted { key, .. } => Some(key.clone()),
    };
    let disk = |disk: &DiskConfig| (Component::Disk(disk.id), disk.key().cloned());
    std::iter::once((Component::Home, home)).chain(config.disks.iter().map(disk)).collect()
}

/// The key that a wish names, if it names one that there may be.
pub(crate) fn named_key(KeyWish { provider, key_id }: &KeyWish, providers: &[ProviderFacts]) -> Option<KeyRef> {
    let facts = providers.iter().find(|facts| match provider {
        Some(name) => facts.name == *name,
        None => facts.is_default,
    });
    let facts = facts.filter(|facts| facts.native.is_none())?;
    Some(KeyRef::standard(facts.name.clone(), key_id.clone()?))
}

struct Planner<'a> {
    kind: TaskKind,
    vm: &'a Name,
    providers: &'a [ProviderFacts],
    plan: CryptPlan,
}

impl Planner<'_> {
    fn action(
        &mut self,
        component: Component,
        now: Option<&KeyRef>,
        spec: &CryptoSpec,
    ) -> Result<Option<PlannedAction>, Problem> {
        Ok(match (spec, now) {
            (CryptoSpec::NoOp, _) => None,
            (CryptoSpec::Register, Some(key)) => {
                if !self.plan.registers.contains(key) {
                    self.plan.registers.push(key.clone());
                }
                None
            }
            (CryptoSpec::Encrypt(wish), None) => Some(PlannedAction::Encrypt(self.choose(wish)?)),
            (CryptoSpec::Decrypt, Some(_)) => Some(PlannedAction::Decrypt),
            (CryptoSpec::ShallowRecrypt(wish), Some(now)) => {
                Some(PlannedAction::ShallowRecrypt(self.choose_other(component, wish, now)?))
            }
            (CryptoSpec::DeepRecrypt(wish), Some(now)) => {
                Some(PlannedAction::DeepRecrypt(self.choose_other(component, wish, now)?))
            }
            (CryptoSpec::Encrypt(_), Some(now)) => {
                return Err(self.refuse(
                    Code::AlreadyEncrypted,
                    format!("{component} is encrypted already, under key {now}"),
                    "leave it out; `ward vm recrypt` gives it another key".to_owned(),
                ));
            }
            (_, None) => {
                return Err(self.refuse(
                    Code::NotEncrypted,
                    format!("{component} is not encrypted"),
                    "leave it out; `ward vm encrypt` encrypts it".to_owned(),
                ));
            }
        })
    }

    /// A disk is encrypted in an encrypted home only.
    fn check_composition(&self, encrypted: &BTreeMap<Component, bool>) -> Result<(), Problem> {
        let parts: Vec<_> = encrypted.iter().filter(|(_, is)| **is).map(|(component, _)| *component).collect();
        let disks: Vec<_> = parts.iter().map(ToString::to_string).collect();
        if parts.is_empty() || parts.contains(&Component::Home) {
            return Ok(());
        }
        let decrypts = self.plan.steps.iter().any(|step| step.component == Component::Home);
        let disks = disks.join(", ");
        let remedy = if decrypts {
            format!("decrypt all disks too: leave out `--home` and `--disk` to decrypt everything of `{}`", self.vm)
        } else {
            "encrypt the VM home too, with `--home`".to_owned()
        };
        Err(self.refuse(Code::Composition, format!("{disks} would be encrypted in a VM home that is not"), remedy))
    }

    fn choose_other(&mut self, component: Component, wish: &KeyWish, now: &KeyRef) -> Result<usize, Problem> {
        let place = self.choose(wish)?;
        if self.plan.keys.get(place).is_some_and(|choice| matches!(choice, KeyChoice::Existing(key) if key == now)) {
            return Err(self.refuse(
                Code::KeyUnchanged,
                format!("{component} is under key {now} already"),
                "leave `--key-id` out to have a new key made, or name another one".to_owned(),
            ));
        }
        Ok(place)
    }

    fn choose(&mut self, KeyWish { provider, key_id }: &KeyWish) -> Result<usize, Problem> {
        let provider = self.provider(provider.as_ref())?;
        self.check_native(&provider, key_id.is_some())?;
        Ok(self.plan.key(match key_id {
            None => KeyChoice::New(provider),
            Some(id) => KeyChoice::Existing(KeyRef::standard(provider, id.clone())),
        }))
    }

    /// Whether a provider may encrypt whose keys have no IDs.
    fn check_native(&self, provider: &ProviderName, key_is_named: bool) -> Result<(), Problem> {
        let found = self.providers.iter().find(|facts| facts.name == *provider);
        let Some(native) = found.and_then(|facts| facts.native) else { return Ok(()) };
        if key_is_named {
            return Err(self.refuse(
                Code::RequestInvalid,
                format!("the keys of provider `{provider}` have no IDs: it makes one for each VM"),
                "leave `--key-id` out".to_owned(),
            ));
        }
        if !native.serves {
            return Err(self.refuse(
                Code::ProviderNone,
                format!("key provider `{provider}` does not serve the hosts of its cluster"),
                "name another provider with `--provider`".to_owned(),
            ));
        }
        if !native.backed_up {
            return Err(not_backed_up(cannot(self.kind, self.vm), provider));
        }
        Ok(())
    }

    fn provider(&self, asked: Option<&ProviderName>) -> Result<ProviderName, Problem> {
        let add = "add one with `ward provider add standard NAME --server HOST:PORT --ca FILE --cert FILE --key FILE`";
        match asked {
            Some(name) if self.providers.iter().any(|provider| &provider.name == name) => Ok(name.clone()),
            Some(name) => Err(self.refuse(
                Code::NotFound,
                format!("there is no key provider `{name}`"),
                "`ward provider ls` lists them".to_owned(),
            )),
            None => match self.providers.iter().find(|provider| provider.is_default) {
                Some(provider) => Ok(provider.name.clone()),
                None if self.providers.is_empty() => Err(self.refuse(
                    Code::ProviderNone,
                    "there is no key provider to take a key from".to_owned(),
                    add.to_owned(),
                )),
                None => Err(self.refuse(
                    Code::ProviderNone,
                    "no key provider is the default one".to_owned(),
                    "name one with `--provider`, or make one the default with `ward provider default NAME`".to_owned(),
                )),
            },
        }
    }

    fn no_such(&self, component: Component) -> Problem {
        let remedy = format!("`ward vm show {}` lists its disks", self.vm);
        self.refuse(Code::NotFound, format!("it has no {component}"), remedy)
    }

    fn refuse(&self, code: Code, why: String, remedy: String) -> Problem {
        Problem::new(code, cannot(self.kind, self.vm), why, remedy)
    }
}

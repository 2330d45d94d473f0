//! Trusted key providers, as a host has to do with them: it proves to the trust authority what it booted, and gets KEKs
//! for that. The controller carries the signed description of the authority's services here, and nothing else.
//!
//! ```text
//! evidence    the TPM: keys, credential, quote
//! authority   the dialogue with one trust authority, and how the host stands with it
//! ```
//!
//! KEKs are in memory only, and only as long as the token holds for which they were given.

mod authority;
mod evidence;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use attest::token::TokenPublicKey;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use ward_rpc::api::host::DescribedProvider;
use ward_trust::client::Identity;
use ward_trust::key_provider::WrappedKek;
use ward_trust::services::Services;
use ward_trust::signed::Signed;
use ward_types::{Code, KeyLocator, KeyRef, Problem, ProviderName, TrustStatus};

use self::authority::{Attester, Authority, Given, Wanted, is_away, is_refused};
use self::evidence::Machine;
use crate::config::{Config, TpmConfig};
use crate::fault::{Fault, Result};
use crate::files::{self, Moments};
use crate::keys::SharedKeys;

const FILE: &str = "trust.json";
const MAX_FILE: u64 = 16 << 20;
const MOMENTS: Moments = Moments { written: "trust.written", renamed: "trust.renamed" };

/// How often it is looked whether tokens are good for long.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long to wait after a refusal, and between two looks whether a token is still taken.
const AGAIN: Duration = TrustStatus::AGAIN;

/// The endorsement key of the TPM at `tcti`: its TPM2B_PUBLIC.
///
/// # Errors
/// [`Code::HostUnfit`] where there is no TPM that answers.
pub fn endorsement_key(tcti: &str) -> std::result::Result<Vec<u8>, Problem> {
    let config = TpmConfig { tcti: tcti.to_owned(), pcrs: Vec::new(), event_log: PathBuf::new() };
    let keys = Machine::new(&config).and_then(|machine| machine.keys());
    keys.map(|keys| keys.ek).map_err(|fault| fault.problem("cannot read the endorsement key"))
}

/// What this host has to do with trust authorities.
pub(crate) struct Trust {
    path: PathBuf,
    attester: Arc<Attester>,
    keys: SharedKeys,
    state: Mutex<State>,
    /// One change at a time.
    changing: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Whose descriptions are gone by.
    signer: Option<TokenPublicKey>,
    providers: BTreeMap<ProviderName, Arc<Authority>>,
}

/// What is kept over a restart: nothing secret.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    signer: Option<TokenPublicKey>,
    providers: Vec<(ProviderName, Signed)>,
}

impl Trust {
    /// Goes on with what was known before the agent was started.
    pub(crate) fn open(config: &Config, keys: SharedKeys) -> Result<Self> {
        let path = config.state_dir.join(FILE);
        let identity = Identity::generate().map_err(|error| Fault::internal(error.to_string()))?;
        let machine = config.tpm.as_ref().map(Machine::new).transpose()?.map(Arc::new);
        let attester = Arc::new(Attester { machine, identity });
        let mut state = State { signer: given_signer(config.trust_key.as_deref())?, ..State::default() };
        if let Some(bytes) = files::read_small(&path, MAX_FILE)? {
            let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| {
                let why = format!("{} makes no sense: {error}", path.display());
                Fault::unfit(why, "remove it; the controller hands the description over again")
            })?;
            state.signer = state.signer.or(kept.signer);
            for (provider, signed) in kept.providers {
                match check(state.signer.as_ref(), &provider, &signed) {
                    Ok(services) => state.put(provider, signed, services, &attester),
                    // Another key was given since.
                    Err(fault) => tracing::warn!(%provider, why = fault.why, "a description is not gone by"),
                }
            }
        }
        Ok(Self { path, attester, keys, state: Mutex::new(state), changing: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the descriptions of all trusted providers that this host is to have: what is not among them goes.
    pub(crate) fn take(&self, described: Vec<DescribedProvider>) -> Result<()> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = State { signer: self.lock().signer.clone(), providers: BTreeMap::new() };
        for DescribedProvider { provider, description } in described {
            let signed = Signed::parse(&description).map_err(|error| refused(&provider, error.to_string()))?;
            // The first one that is seen: whoever could forge that could have enrolled the host elsewhere too.
            let signer = new.signer.get_or_insert_with(|| signed.signer().clone());
            let services = check(Some(signer), &provider, &signed)?;
            let known = self.lock().providers.get(&provider).cloned();
            match known {
                Some(known) if known.signed == signed => {
                    new.providers.insert(provider, known);
                    continue;
                }
                Some(known) if known.services.name == services.name && known.services.serial >= services.serial => {
                    let why = "it is no newer than the one that the host goes by, and is another";
                    return Err(refused(&provider, why.to_owned()));
                }
                _ => new.put(provider, signed, services, &self.attester),
            }
        }
        if new.providers.is_empty() && self.lock().providers.is_empty() {
            return Ok(());
        }
        let kept = Kept {
            signer: new.signer.clone(),
            providers: new.providers.iter().map(|(name, it)| (name.clone(), it.signed.clone())).collect(),
        };
        let json = serde_json::to_vec_pretty(&kept).map_err(|error| Fault::internal(error.to_string()))?;
        files::write_atomically(&self.path, &json, MOMENTS)?;
        let old = std::mem::replace(&mut *self.lock(), new);
        for provider in old.providers.keys() {
            if !self.lock().providers.contains_key(provider) {
                self.keys.lock().drop_trusted(provider);
            }
        }
        Ok(())
    }

    /// How the host stands.
    pub(crate) fn status(&self) -> Vec<TrustStatus> {
        let state = self.lock();
        let status = |(provider, authority): (&ProviderName, &Arc<Authority>)| {
            let verdict = authority.verdict();
            TrustStatus {
                provider: provider.clone(),
                applied: authority.signed.digest(),
                attested: verdict.attested,
                expires: verdict.expires,
                looked: verdict.looked,
                trouble: verdict.trouble,
                unreached: verdict.unreached,
            }
        };
        state.providers.iter().map(status).collect()
    }

    fn authority(&self, provider: &ProviderName) -> std::result::Result<Arc<Authority>, Problem> {
        self.lock().providers.get(provider).cloned().ok_or_else(|| {
            Problem::new(
                Code::ProviderNone,
                format!("this host gets no key of provider `{provider}`"),
                "it was not told of that trusted key provider",
                "see `ward trust status`; `ward trust remediate` has it told again",
            )
        })
    }

    /// Makes sure that KEKs are in the cache.
    pub(crate) async fn obtain(&self, keys: &[KeyRef]) -> std::result::Result<(), Problem> {
        for key in keys {
            let KeyLocator::Trusted { wrapped } = &key.key else { continue };
            let authority = self.authority(&key.provider)?;
            if self.keys.lock().has_trusted(key, authority.verdict().margin()) {
                continue;
            }
            let wrapped: WrappedKek = wrapped.as_str().parse().map_err(|error| {
                let what = format!("this host can't get the key {key}");
                let remedy = "restore vm.toml and the disk's token from a backup";
                Problem::new(Code::KeyTampered, what, format!("{error}"), remedy)
            })?;
            if *wrapped.provider() != key.provider {
                let what = format!("this host can't get the key {key}");
                let why = format!("it was wrapped by key provider `{}`", wrapped.provider());
                return Err(Problem::new(Code::KeyTampered, what, why, "restore vm.toml from a backup"));
            }
            match self.noting(&authority, authority.kek(&Wanted::Unwrapped(wrapped)).await) {
                Ok((Given { kek, .. }, until)) => self.keys.lock().insert_trusted(key.clone(), kek, deadline(until)),
                // What is there is good to its end.
                Err(_) if self.keys.lock().has_trusted(key, Duration::ZERO) => {}
                Err(problem) => return Err(problem),
            }
        }
        Ok(())
    }

    /// Has a new KEK made; it is in the cache then.
    pub(crate) async fn make(&self, provider: &ProviderName) -> std::result::Result<KeyRef, Problem> {
        let what = format!("cannot make a key of provider `{provider}`");
        let authority = self.authority(provider)?;
        let made = authority.kek(&Wanted::New(provider.clone())).await;
        let (Given { kek, wrapped }, until) = self.noting(&authority, made)?;
        let wrapped = wrapped.ok_or_else(|| Problem::internal(&what, "it came without its reference"))?;
        let key = KeyRef::trusted(provider.clone(), wrapped.to_key().map_err(|error| Problem::internal(what, error))?);
        self.keys.lock().insert_trusted(key.clone(), kek, deadline(until));
        Ok(key)
    }

    /// A host that is no longer attested keeps no KEK of any provider of that trust authority.
    fn noting<T>(
        &self,
        authority: &Arc<Authority>,
        answer: std::result::Result<T, Problem>,
    ) -> std::result::Result<T, Problem> {
        if let Err(problem) = &answer
            && is_about_the_host(problem)
        {
            let state = self.lock();
            for (provider, _) in state.providers.iter().filter(|(_, other)| Arc::ptr_eq(other, authority)) {
                self.keys.lock().drop_trusted(provider);
            }
        }
        answer
    }

    /// The trust authorities, each once.
    fn authorities(&self) -> Vec<Arc<Authority>> {
        let mut all: Vec<Arc<Authority>> = Vec::new();
        for authority in self.lock().providers.values() {
            if !all.iter().any(|known| Arc::ptr_eq(known, authority)) {
                all.push(Arc::clone(authority));
            }
        }
        all
    }

    /// Has the host attested anew, whatever tokens it holds.
    pub(crate) async fn attest_anew(&self) {
        let authorities = self.authorities();
        authorities.iter().for_each(|authority| authority.forget());
        for authority in authorities {
            // How it ended is in the status.
            let _ = self.noting(&authority, authority.token().await);
            self.look(&authority).await;
        }
    }

    /// Looks whether keys would be given. A host whose token is refused keeps nothing that it got for it; it may get another.
    async fn look(&self, authority: &Arc<Authority>) {
        let refused =
            self.noting(authority, authority.look_for_keys().await).is_err_and(|problem| is_refused(&problem));
        if refused && self.noting(authority, authority.token().await).is_ok() {
            let _ = self.noting(authority, authority.look_for_keys().await);
        }
    }

    /// Keeps the host attested until `shutdown`, so that whoever needs a key need not wait for that; and shows its token
    /// now and then, so that one that is denied is of no more use to what it got for it.
    pub(crate) async fn keep_attested(self: Arc<Self>, shutdown: CancellationToken) {
        let mut not_before: BTreeMap<String, Instant> = BTreeMap::new();
        let mut look_at = Instant::now();
        loop {
            let round = async {
                let look = Instant::now() >= look_at;
                if look {
                    look_at = Instant::now() + AGAIN;
                }
                for authority in self.authorities() {
                    if look || authority.verdict().unreached.is_some_and(|problem| is_away(&problem)) {
                        self.look(&authority).await;
                    }
                    let digest = authority.signed.digest();
                    if not_before.get(&digest).is_some_and(|at| Instant::now() < *at) {
                        continue;
                    }
                    let answer = authority.token().await;
                    if self.noting(&authority, answer).is_err() {
                        not_before.insert(digest, Instant::now() + AGAIN);
                    } else {
                        not_before.remove(&digest);
                    }
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = round => {}
            }
            self.keys.lock().forget_expired();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

impl State {
    /// Providers of one description share what is known of their authority.
    fn put(&mut self, provider: ProviderName, signed: Signed, services: Services, attester: &Arc<Attester>) {
        let same = self.providers.values().find(|known| known.signed == signed).cloned();
        let authority = same.unwrap_or_else(|| Arc::new(Authority::new(signed, services, Arc::clone(attester))));
        self.providers.insert(provider, authority);
    }
}

/// Whether a refusal says that the host is not what it should be.
fn is_about_the_host(problem: &Problem) -> bool {
    matches!(
        problem.code,
        Code::AttestationFailed
            | Code::TokenRefused
            | Code::EnrolmentRefused
            | Code::HostNotEnrolled
            | Code::HostNotAdmitted
            | Code::HostUnfit
    )
}

fn deadline(until: Timestamp) -> Instant {
    let now = Timestamp::now();
    Instant::now() + if until > now { until.duration_since(now).unsigned_abs() } else { Duration::ZERO }
}

fn refused(provider: &ProviderName, why: String) -> Fault {
    let why = format!("the description for key provider `{provider}`: {why}");
    Fault::new(
        Code::DescriptionRefused,
        why,
        "have the trust administrators describe the services: `ward trust describe`",
    )
}

fn check(signer: Option<&TokenPublicKey>, provider: &ProviderName, signed: &Signed) -> Result<Services> {
    let signer = signer.ok_or_else(|| refused(provider, "nobody's signature is trusted".to_owned()))?;
    let services: Services = signed.open(signer).map_err(|error| refused(provider, error.to_string()))?;
    if services.version != 1 {
        return Err(refused(provider, format!("it is of version {}, which is not known here", services.version)));
    }
    if services.providers.contains(provider) {
        return Ok(services);
    }
    Err(refused(provider, "it does not name that provider".to_owned()))
}

/// The trust administrators' public key, where the operator has given it to the agent.
fn given_signer(path: Option<&Path>) -> Result<Option<TokenPublicKey>> {
    let Some(path) = path else { return Ok(None) };
    let bad = |why: String| {
        let why = format!("the trust administrators' key in {}: {why}", path.display());
        Fault::unfit(why, "take it from `ward trust admin-key`")
    };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let key = serde_json::from_value(serde_json::Value::String(text.trim().to_owned()));
    key.map(Some).map_err(|error| bad(error.to_string()))
}

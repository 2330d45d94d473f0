//! The dialogue with one trust authority: to be attested, and to get keys for that. Its instances are tried in turn.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use attest::label::Label;
use attest::quote::{Nonce, QuoteRequest};
use attest::tpm::Public;
use jiff::Timestamp;
use ward_secret::Kek;
use ward_trust::api::{Ask, Attest, Enrol, EnrolAnswer, Health, Question, Token};
use ward_trust::client::{Client, Identity};
use ward_trust::key_provider::WrappedKek;
use ward_trust::services::{ServiceAddress, Services};
use ward_trust::signed::Signed;
use ward_types::{Code, Problem, ProviderName};

use super::evidence::{Machine, MachineKeys};
use crate::fault::Fault;

/// A token that is good for less than that is none: what it is for takes time, and clocks differ.
const LEAST: Duration = Duration::from_secs(3);

/// See [`Verdict::margin`].
const MARGIN: Duration = Duration::from_secs(60);

/// What this host needs to be attested.
pub(crate) struct Attester {
    /// The TPM; none where the host was given none.
    pub(crate) machine: Option<Arc<Machine>>,
    /// The TLS certificate that tokens are bound to.
    pub(crate) identity: Identity,
}

/// A trust authority that this host was told of.
pub(crate) struct Authority {
    pub(crate) signed: Signed,
    pub(crate) services: Services,
    attester: Arc<Attester>,
    /// Held by who is attested just now: others who need a token wait for that one.
    turn: tokio::sync::Mutex<()>,
    verdict: Mutex<Verdict>,
}

/// How the host stands.
#[derive(Clone, Default)]
pub(crate) struct Verdict {
    token: Option<String>,
    pub(crate) attested: Option<Timestamp>,
    pub(crate) expires: Option<Timestamp>,
    /// When it was tried last.
    pub(crate) looked: Option<Timestamp>,
    pub(crate) trouble: Option<Problem>,
    /// Why no key provider service gives it keys: none is reached, or none takes the token.
    pub(crate) unreached: Option<Problem>,
}

impl Verdict {
    /// For how long a token, and what was got for it, must still be good to be usable: for a minute, or for a third of its
    /// time where that is less. No other one is asked for before.
    pub(crate) fn margin(&self) -> Duration {
        margin(self.attested, self.expires)
    }
}

fn margin(attested: Option<Timestamp>, expires: Option<Timestamp>) -> Duration {
    let life = attested.zip(expires).map(|(from, until)| until.duration_since(from).unsigned_abs());
    life.map_or(MARGIN, |life| MARGIN.min(life / 3))
}

impl Authority {
    pub(crate) fn new(signed: Signed, services: Services, attester: Arc<Attester>) -> Self {
        Self { signed, services, attester, turn: tokio::sync::Mutex::default(), verdict: Mutex::default() }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, change: impl FnOnce(&mut Verdict)) {
        change(&mut self.verdict.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Forgets the token, so that the next who needs one has the host attested.
    pub(crate) fn forget(&self) {
        self.set(|verdict| {
            verdict.token = None;
            verdict.expires = None;
        });
    }

    /// A usable token: the one that is there, or a new one.
    pub(crate) async fn token(&self) -> Result<(String, Timestamp), Problem> {
        let _turn = self.turn.lock().await;
        let verdict = self.verdict();
        let margin = verdict.margin().max(LEAST);
        if let (Some(token), Some(expires)) = (verdict.token, verdict.expires)
            && Timestamp::now() + margin < expires
        {
            return Ok((token, expires));
        }
        let answer = self.attest().await;
        let now = Timestamp::now();
        match answer {
            Ok(Token { token, expires, .. }) => {
                self.set(|verdict| {
                    *verdict = Verdict {
                        token: Some(token.clone()),
                        attested: Some(now),
                        expires: Some(expires),
                        looked: Some(now),
                        trouble: None,
                        unreached: verdict.unreached.take(),
                    };
                });
                Ok((token, expires))
            }
            Err(problem) => {
                self.set(|verdict| {
                    verdict.looked = Some(now);
                    verdict.trouble = Some(problem.clone());
                    // A service that is away takes nothing back; a refusal does.
                    if !is_away(&problem) {
                        verdict.token = None;
                        verdict.expires = None;
                    }
                });
                Err(problem)
            }
        }
    }

    fn last_token(&self) -> Option<(String, Timestamp)> {
        let Verdict { token, expires, .. } = self.verdict();
        token.zip(expires).filter(|(_, expires)| Timestamp::now() + LEAST < *expires)
    }

    async fn attest(&self) -> Result<Token, Problem> {
        let what = "this host can't be attested";
        let machine = self.attester.machine.clone().ok_or_else(|| {
            let remedy = "run its agent with `--tpm`, if the machine has one";
            Problem::new(Code::HostUnfit, what, "its agent was given no TPM 2.0", remedy)
        })?;
        let keys = blocking(what, &machine, Machine::keys).await?;
        let mut last = None;
        for address in &self.services.attestation {
            let client = match self.client(address).await {
                Ok(client) => client,
                Err(problem) => {
                    last = Some(problem);
                    continue;
                }
            };
            let (policy, identity) = (&self.services.policy, &self.attester.identity);
            let dialogue = Dialogue { client: &client, policy, machine: &machine, keys: &keys, identity };
            match dialogue.attest().await {
                Err(problem) if is_away(&problem) => last = Some(problem),
                answer => return answer,
            }
        }
        Err(last.unwrap_or_else(|| none_described(what)))
    }

    /// A KEK, and until when it may be kept.
    pub(crate) async fn kek(&self, wanted: &Wanted) -> Result<(Given, Timestamp), Problem> {
        for last_try in [false, true] {
            let (token, expires) = match self.token().await {
                // While nobody answers, one counts to its end.
                Err(problem) if is_away(&problem) => self.last_token().ok_or(problem)?,
                answer => answer?,
            };
            match self.ask(&token, wanted).await {
                // Whoever refuses it may have been told to deny all that are so old.
                Err(problem) if is_refused(&problem) && !last_try => self.forget(),
                answer => return answer.map(|given| (given, expires)),
            }
        }
        Err(none_described("this host gets no key"))
    }

    async fn ask(&self, token: &str, wanted: &Wanted) -> Result<Given, Problem> {
        let mut away = none_described("this host gets no key");
        for address in &self.services.key_providers {
            let answer = match self.client(address).await {
                Ok(client) => wanted.ask(&client, token).await,
                Err(problem) => Err(problem),
            };
            match answer {
                Err(problem) if is_away(&problem) || has_no_key_server(&problem) => away = problem,
                answer => return answer,
            }
        }
        Err(away)
    }

    /// Looks whether an instance of the key provider service answers, and takes the token that is there. One that is refused is
    /// forgotten.
    pub(crate) async fn look_for_keys(&self) -> Result<(), Problem> {
        let token = self.last_token().map(|(token, _)| token);
        let mut last = Err(none_described("this host gets no key"));
        for address in &self.services.key_providers {
            let answer = match (self.client(address).await, &token) {
                (Ok(client), Some(token)) => client.show_token(token).await,
                (Ok(client), None) => client.call(Health {}).await.map(drop),
                (Err(problem), _) => Err(problem),
            };
            match answer {
                Err(problem) if is_away(&problem) => last = Err(problem),
                answer => {
                    last = answer;
                    break;
                }
            }
        }
        if last.as_ref().is_err_and(is_refused) {
            self.forget();
        }
        self.set(|verdict| verdict.unreached = last.clone().err());
        last
    }

    async fn client(&self, service: &ServiceAddress) -> Result<Client, Problem> {
        Client::of(&self.attester.identity, service).await
    }
}

/// What is asked of the key provider service.
pub(crate) enum Wanted {
    /// A new KEK.
    New(ProviderName),
    /// One that was wrapped.
    Unwrapped(WrappedKek),
}

/// What it gives.
pub(crate) struct Given {
    pub(crate) kek: Kek,
    /// Only of a new one.
    pub(crate) wrapped: Option<WrappedKek>,
}

impl Wanted {
    async fn ask(&self, client: &Client, token: &str) -> Result<Given, Problem> {
        match self {
            Self::New(provider) => {
                let (kek, wrapped) = client.make_kek(token, provider).await?;
                Ok(Given { kek, wrapped: Some(wrapped) })
            }
            Self::Unwrapped(wrapped) => Ok(Given { kek: client.unwrap_kek(token, wrapped).await?, wrapped: None }),
        }
    }
}

/// Whether another instance may answer.
pub(super) fn is_away(problem: &Problem) -> bool {
    matches!(problem.code, Code::TrustUnreachable | Code::Internal | Code::Busy)
}

/// Whether the token was refused: another one may be taken.
pub(super) fn is_refused(problem: &Problem) -> bool {
    problem.code == Code::TokenRefused
}

/// Whether it is the instance's key server that fails: another instance may have another one, or be trusted by it.
fn has_no_key_server(problem: &Problem) -> bool {
    matches!(problem.code, Code::KeyServerUnreachable | Code::KeyServerTrust | Code::KeyServerRefused)
}

fn none_described(what: &str) -> Problem {
    let why = "the trust authority's description names no instance of the service";
    Problem::new(Code::TrustUnreachable, what, why, "have it described anew: `ward trust describe`")
}

/// The dialogue of a host with one instance of the attestation service, whose questions are its own.
struct Dialogue<'a> {
    client: &'a Client,
    policy: &'a Label,
    machine: &'a Arc<Machine>,
    keys: &'a MachineKeys,
    identity: &'a Identity,
}

impl Dialogue<'_> {
    /// A host that the service does not know, or knows by a certificate that is no longer trusted, enrols first.
    async fn attest(&self) -> Result<Token, Problem> {
        match self.attest_known().await {
            Err(problem) if matches!(problem.code, Code::HostNotEnrolled | Code::EnrolmentRefused) => {
                self.enrol().await?;
                self.attest_known().await
            }
            answer => answer,
        }
    }

    async fn attest_known(&self) -> Result<Token, Problem> {
        let what = "this host can't be attested";
        let ak = Public::from_tpm2b(&self.keys.ak).map_err(|error| Problem::internal(what, error))?.name();
        let ask = Ask { ak, policy: self.policy.clone() };
        let Question { question, nonce, bank, pcrs } = self.client.call(ask).await?;
        let nonce = Nonce::new(&nonce).map_err(|error| Problem::internal(what, error))?;
        let request = QuoteRequest::new(nonce, bank, pcrs).map_err(|error| Problem::internal(what, error))?;
        // To this agent's own certificate, and to none that anybody names to it.
        let request = request.bound_to(self.identity.thumbprint());
        let evidence = blocking(what, self.machine, move |machine| machine.evidence(&request)).await?;
        self.client.call(Attest { question, evidence }).await
    }

    async fn enrol(&self) -> Result<(), Problem> {
        let MachineKeys { ek, ek_certificate, ak } = self.keys.clone();
        let challenge = self.client.call(Enrol { ek, ek_certificate, ak }).await?;
        let (what, blob) = ("this host can't be enrolled", challenge.credential);
        let secret = blocking(what, self.machine, move |machine| machine.activate(&blob)).await?;
        let answer = EnrolAnswer { question: challenge.question, secret: secret.to_vec() };
        let enrolled = self.client.call(answer).await?;
        tracing::info!(host = %enrolled.host, admitted = enrolled.admitted, "enrolled by the trust authority");
        Ok(())
    }
}

/// TPMs are slow.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    machine: &Arc<Machine>,
    work: impl FnOnce(&Machine) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Problem> {
    let machine = Arc::clone(machine);
    let done = tokio::task::spawn_blocking(move || work(&machine)).await;
    done.map_err(|panic| Problem::internal(what, panic))?.map_err(|fault| fault.problem(what))
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;

    use super::*;

    #[test]
    fn a_token_is_usable_for_all_of_its_time_but_a_minute_or_a_third() {
        let from = Timestamp::UNIX_EPOCH;
        for (life, least) in [(86_400, 60), (600, 60), (180, 60), (179, 59), (30, 10), (3, 1)] {
            assert_eq!(margin(Some(from), Some(from + life.seconds())).as_secs(), least, "{life}");
        }
        assert_eq!(margin(None, None), MARGIN);
    }
}

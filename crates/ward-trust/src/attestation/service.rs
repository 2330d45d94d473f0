//! The requests of hosts.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use attest::ak::RestrictedAk;
use attest::appraisal::{Asked, Failure, appraise};
use attest::credential::{AkRecord, Challenge, ResidentAk};
use attest::ek::{EkProof, without_nv_padding};
use attest::label::Label;
use attest::quote::Nonce;
use attest::tpm::Public;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use jiff::Timestamp;
use uuid::Uuid;
use ward_rpc::{Answer, route};
use ward_types::{Code, Problem};
use zeroize::Zeroizing;

use super::KIND;
use super::config::Config;
use super::hosts::{self, Captured, Host};
use crate::Error;
use crate::api::{
    Ask, Attest, Describe, Description, Enrol, EnrolAnswer, EnrolChallenge, Enrolled, Health, Question, Token,
};
use crate::audit::AuditRow;
use crate::home::{Current, Home};
use crate::pending::Pending;
use crate::serve::{Peer, Server, internal};

/// How long a host may take to open a credential: TPMs are slow.
const ENROLMENT_TIME: Duration = Duration::from_secs(60);

/// The longest time that a policy may give a host to answer.
const ANSWER_TIME: Duration = Duration::from_secs(600);

/// How many hosts may be about to open a credential at once, and how many about to answer with a quote.
const ENROLLING: usize = 2000;
const ASKED: usize = 10_000;

/// The longest request, in bytes; and the longest one with an event log, in base64.
const MAX_REQUEST: usize = 64 << 10;
const MAX_EVIDENCE: usize = 2 << 20;

/// The longest certificate of a TPM, in bytes.
const MAX_CERTIFICATE: usize = 16 << 10;

/// The attestation service.
pub struct Service {
    home: Home,
    config: Current<Config>,
    enrolling: Mutex<Pending<Enrolling>>,
    asked: Mutex<Pending<AskedHost>>,
}

struct Enrolling {
    challenge: Challenge,
    ek_certificate: Option<Vec<u8>>,
}

struct AskedHost {
    ak: attest::tpm::Name,
    policy: Label,
    asked: Asked,
}

impl Service {
    /// Opens a state directory and listens.
    ///
    /// # Errors
    /// If the directory can't be used, or the address can't be listened on.
    pub async fn start(dir: &Path, listen: SocketAddr) -> Result<Server, Error> {
        let home = Home::open(dir, &KIND).await?;
        let service = Arc::new(Self {
            config: Current::of(&home).await?,
            home,
            enrolling: Mutex::new(Pending::new(ENROLMENT_TIME, ENROLLING)),
            asked: Mutex::new(Pending::new(ANSWER_TIME, ASKED)),
        });
        let mut router = Router::new();
        router = route(router, |it: Arc<Self>, _: Peer, _: Describe| async move { it.describe().await });
        router = route(router, |it: Arc<Self>, _: Peer, _: Health| async move { it.home.health().await });
        router = route(router, |it: Arc<Self>, peer, call: Enrol| async move { it.enrol(peer, call).await });
        router = route(router, |it: Arc<Self>, peer, call: EnrolAnswer| async move { it.confirm(peer, call).await });
        router = route(router, |it: Arc<Self>, peer, call: Ask| async move { it.ask(peer, call).await });
        router = router.layer(DefaultBodyLimit::max(MAX_REQUEST));
        let evidence =
            route(Router::new(), |it: Arc<Self>, peer, call: Attest| async move { it.attest(peer, call).await });
        let router = router.merge(evidence.layer(DefaultBodyLimit::max(MAX_EVIDENCE))).with_state(Arc::clone(&service));
        Server::bind(listen, &service.home, router).await
    }

    async fn describe(&self) -> Answer<Description> {
        let what = "the attestation service can't say what it is";
        let config = self.config.get(&self.home).await.map_err(|error| internal(what, &error))?;
        Ok(Description {
            issuer: config.settings.name.clone(),
            token_key: config.issuer.public_key().clone(),
            audience: config.settings.audience.clone(),
            certificate: self.home.certificate_pem().map_err(|error| internal(what, &error))?,
        })
    }

    async fn enrol(&self, peer: Peer, call: Enrol) -> Answer<EnrolChallenge> {
        let what = "the host can't be enrolled";
        let config = self.config.get(&self.home).await.map_err(|error| internal(what, &error))?;
        let refused = |why: &dyn ToString| {
            let remedy = "see that the host's agent makes its keys by the usual templates";
            Problem::new(Code::EnrolmentRefused, what, why.to_string(), remedy)
        };
        let now = Timestamp::now();
        let public = Public::from_tpm2b(&call.ek).map_err(|error| refused(&error))?;
        let certificate = call.ek_certificate.as_deref().map(without_nv_padding);
        if certificate.is_some_and(|certificate| certificate.len() > MAX_CERTIFICATE) {
            return Err(refused(&format!("its TPM's certificate is longer than {MAX_CERTIFICATE} bytes")));
        }
        let ek = config.trusted_ek(public, certificate, now)?;
        // What nobody has certified is not kept.
        let certificate = certificate.filter(|_| matches!(ek.proof(), EkProof::Certificate(_))).map(<[u8]>::to_vec);
        let ak = RestrictedAk::from_tpm2b(&call.ak).map_err(|error| refused(&error))?;
        let (challenge, credential) = Challenge::new(ek, ak).map_err(|error| refused(&error))?;
        let enrolling = Enrolling { challenge, ek_certificate: certificate };
        let question = lock(&self.enrolling).ask(peer.0, enrolling, now).ok_or_else(|| busy(what))?;
        Ok(EnrolChallenge { question, credential })
    }

    async fn confirm(&self, peer: Peer, call: EnrolAnswer) -> Answer<Enrolled> {
        let what = "the host can't be enrolled";
        let now = Timestamp::now();
        let secret = Zeroizing::new(call.secret);
        let enrolling = lock(&self.enrolling).take(peer.0, call.question, now).ok_or_else(|| unasked(what))?;
        let ek = enrolling.challenge.ek().clone();
        let ak = enrolling.challenge.confirm(&secret, now).map_err(|error| {
            Problem::new(Code::EnrolmentRefused, what, error.to_string(), "enrol again, with the keys of one TPM")
        })?;
        let config = self.config.get(&self.home).await.map_err(|error| internal(what, &error))?;
        let (label, admitted) = config.admission(&ek)?;
        let stored = hosts::enrol(&self.home, &ek, enrolling.ek_certificate.as_deref(), &ak, (&label, admitted)).await;
        let admitted = stored.map_err(|error| internal(what, &error))?;
        let result = if admitted { "ok" } else { "ok, waits to be let in" };
        self.record(&label, peer, Proven(true), ("enrol", &ek.name().to_string(), result)).await?;
        Ok(Enrolled { host: label, admitted })
    }

    async fn ask(&self, peer: Peer, call: Ask) -> Answer<Question> {
        let what = "the host can't be attested";
        self.host(&call.ak, what).await?;
        let config = self.config.get(&self.home).await.map_err(|error| internal(what, &error))?;
        let policy = config.policy(&call.policy)?;
        let nonce = Nonce::generate().map_err(|error| Problem::internal(what, error))?;
        let request = policy.request(nonce.clone(), peer.0).map_err(|error| Problem::internal(what, error))?;
        let now = Timestamp::now();
        let asked = Asked { nonce, at: now, certificate: peer.0 };
        let asked = AskedHost { ak: call.ak, policy: call.policy, asked };
        let question = lock(&self.asked).ask(peer.0, asked, now).ok_or_else(|| busy(what))?;
        let (bank, pcrs) = (request.bank(), request.pcrs());
        Ok(Question { question, nonce: request.nonce().as_bytes().to_vec(), bank, pcrs })
    }

    async fn attest(&self, peer: Peer, call: Attest) -> Answer<Token> {
        let what = "the host can't be attested";
        let now = Timestamp::now();
        let asked = lock(&self.asked).take(peer.0, call.question, now).ok_or_else(|| unasked(what))?;
        let host = self.host(&asked.ak, what).await?;
        let mut proven = Proven(false);
        let result = self.appraise(&host, &asked, call, now, &mut proven).await;
        let text = match &result {
            Ok(_) => "ok".to_owned(),
            Err(problem) => format!("{}: {}", problem.code, problem.why),
        };
        self.record(&host.label, peer, proven, ("attest", asked.policy.as_str(), &text)).await?;
        result
    }

    async fn appraise(
        &self,
        host: &Host,
        asked: &AskedHost,
        call: Attest,
        now: Timestamp,
        proven: &mut Proven,
    ) -> Answer<Token> {
        let what = "the host can't be attested";
        let config = self.config.get(&self.home).await.map_err(|error| internal(what, &error))?;
        let policy = config.policy(&asked.policy)?;
        // Trust in the EK is looked at anew: a CA may have been removed since.
        let ek = config.trusted_ek(host.ek_public.clone(), host.ek_certificate.as_deref(), now)?;
        let record = AkRecord { ek_proof: ek.proof().clone(), ..host.ak.clone() };
        let ak = ResidentAk::from_own_record(record).map_err(|error| Problem::internal(what, error))?;

        let verdict = appraise(&ak, &asked.asked, &call.evidence, policy, now);
        let request = policy.request(asked.asked.nonce.clone(), asked.asked.certificate);
        let request = request.map_err(|error| Problem::internal(what, error))?;
        let captured = Captured::new(&request, asked.asked.certificate, call.evidence);
        let good = verdict.outcome.is_ok();
        // Whoever knows the Name of a host's key can ask as that host. Only what its TPM has signed counts.
        *proven = Proven(verdict.report.is_quoted());
        if proven.0 {
            let noted = hosts::note(&self.home, host, &verdict.report, good, &captured).await;
            noted.map_err(|error| internal(what, &error))?;
        }

        let attested = verdict.outcome.map_err(|failures| refusal(host, &failures))?;
        let id: Label = Uuid::now_v7().to_string().parse().map_err(|error| Problem::internal(what, error))?;
        let token = config.issuer.issue(&attested, &host.label, &config.settings.audience, &id, now);
        let token = token.map_err(|error| Problem::internal(what, error))?;
        let expires = now + Duration::from_secs(config.settings.token_seconds);
        Ok(Token { token, expires, report: verdict.report })
    }

    async fn host(&self, ak: &attest::tpm::Name, what: &str) -> Answer<Host> {
        let host = hosts::by_ak(&self.home, ak).await.map_err(|error| internal(what, &error))?;
        let host = host.ok_or_else(|| {
            let why = format!("no host is enrolled with the attestation key {ak}");
            Problem::new(Code::HostNotEnrolled, what, why, "let the host enrol: its agent does so when it is told this")
        })?;
        if host.admitted {
            return Ok(host);
        }
        let remedy = format!("at the attestation service: `ward trust host admit {}`", host.label);
        let why = format!("host `{}` waits for an administrator of the trust authority to let it in", host.label);
        Err(Problem::new(Code::HostNotAdmitted, what, why, remedy))
    }

    async fn record(
        &self,
        host: &Label,
        peer: Peer,
        Proven(proven): Proven,
        (operation, object, result): (&'static str, &str, &str),
    ) -> Answer<()> {
        let row = AuditRow { host: host.as_str(), proven, certificate: peer.0, operation, object, result };
        self.home.audit(row).await.map_err(|error| internal("what was done can't be recorded", &error))
    }
}

/// Whether whoever asked has shown to be the host.
struct Proven(bool);

fn refusal(host: &Host, failures: &[Failure]) -> Problem {
    let why: Vec<_> = failures.iter().map(|failure| format!("[{}] {failure}", failure.code())).collect();
    Problem::new(
        Code::AttestationFailed,
        format!("host `{}` is not what the attestation policy asks for", host.label),
        why.join("; "),
        "if the change is wanted, import a base image of it at the attestation service (`ward trust base-image \
         capture`); if not, bring the host back to what it was and reboot it",
    )
}

fn busy(what: &str) -> Problem {
    Problem::new(Code::Busy, what, "too many hosts are being attested at once", "try again in a minute")
}

fn unasked(what: &str) -> Problem {
    Problem::new(
        Code::TokenRefused,
        what,
        "the answer is to no open question of this TLS session: it came too late, came a second time, or was another \
         host's to give",
        "ask for a new question and answer that",
    )
}

/// A panic while it was held leaves nothing half-done behind.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

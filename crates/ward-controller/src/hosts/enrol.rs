//! How a host joins, and says that it is back.

use axum::Router;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{Timestamp, ToSpan as _};
use ward_rpc::api::controller::{Enrol, Enrolled, Hello};
use ward_rpc::{Answer, EnrolmentToken, Peer, Role, route};
use ward_secret::Zeroizing;
use ward_types::{AuditOutcome, Code, EventKind, EventSubject, HostId, Object, PrivilegeSet, Problem, TokenId};

use super::watch_over;
use crate::authz::operations::AddHost;
use crate::authz::{Granted, Target as _};
use crate::controller::Shared;
use crate::password;
use crate::store::audit::{self, Draft};
use crate::store::host::{self, HostRow};
use crate::store::{StoreError, Tx, event};

/// What the controller answers to hosts.
pub(crate) fn router(controller: Shared) -> Router {
    let router = Router::new();
    let router = route(router, enrol);
    let router = route(router, hello);
    router.with_state(controller)
}

/// Makes a token with which one host can join a cluster.
pub(crate) async fn make_token(
    controller: &Shared,
    granted: &Granted<AddHost>,
    minutes: u32,
) -> Result<(Zeroizing<String>, Timestamp), Problem> {
    let failed = |why: String| Problem::internal("cannot make an enrolment token", why);
    let secret = password::random_secret().map_err(|error| failed(error.to_string()))?;
    let expires =
        Timestamp::now().checked_add(i64::from(minutes).minutes()).map_err(|error| failed(error.to_string()))?;
    let token = EnrolmentToken {
        id: TokenId::new(),
        secret: secret.to_string(),
        controller: controller.advertise_hosts.clone(),
        server_name: Role::Controller(controller.id).server_name(),
        ca: controller.authority.certificate().to_owned(),
    };
    let mut tx = controller.store.write().await?;
    let cluster = granted.on().id;
    host::add_enrolment(&mut tx, token.id, cluster, &password::digest_secret(&secret), expires.as_microsecond())
        .await?;
    let (object, name) = (granted.on().object(), granted.on().name());
    note(&mut tx, granted.user().as_str(), "host.add", (object, name), format!("made enrolment token {}", token.id))
        .await?;
    tx.commit().await?;
    let text = token.to_text().map_err(|error| failed(error.to_string()))?;
    Ok((text, expires))
}

/// Writes to the audit log what was done for a host to join.
async fn note(
    tx: &mut Tx,
    user: &str,
    operation: &str,
    (object, object_name): (Object, String),
    detail: String,
) -> Result<(), StoreError> {
    let (outcome, privileges) = (AuditOutcome::Done, PrivilegeSet::NONE);
    let draft = Draft { user, operation, outcome, object, object_name, privileges, keys: vec![], task: None, detail };
    audit::record(tx, draft).await
}

async fn enrol(controller: Shared, _: Peer, call: Enrol) -> Answer<Enrolled> {
    let what = format!("host `{}` cannot join", call.name);
    let secret = Zeroizing::new(call.secret);
    if URL_SAFE_NO_PAD.decode(secret.as_bytes()).is_err() || !is_address(&call.address) {
        return Err(Problem::new(
            Code::RequestInvalid,
            what,
            format!("its request makes no sense (address `{}`)", call.address),
            "give the host an address of the form HOST:PORT",
        ));
    }
    let mut tx = controller.store.write().await?;
    let Some(cluster) = host::use_enrolment(&mut tx, call.token, &password::digest_secret(&secret)).await? else {
        return Err(Problem::new(
            Code::EnrolmentRefused,
            what,
            "its token is wrong, was used before, or has expired",
            "make a new one with `ward host add`",
        ));
    };
    let id = HostId::new();
    let certificate = controller.authority.sign(&call.csr, Role::Host(id)).map_err(|error| {
        Problem::new(Code::RequestInvalid, what.clone(), error.to_string(), "use an agent of this version")
    })?;
    let row = HostRow { id, cluster, name: call.name, address: call.address };
    match host::add(&mut tx, &row).await {
        Err(error) if error.is_conflict() => {
            return Err(Problem::new(
                Code::Exists,
                what,
                "there is a host of that name already",
                "choose another name; the token is still good",
            ));
        }
        added => added?,
    }
    let subject = EventSubject { host: Some(id), ..EventSubject::default() };
    let message = format!("host `{}` at {} joined", row.name, row.address);
    event::record(&mut tx, EventKind::HostEnrolled, &subject, &message).await?;
    let by = format!("token {}", call.token);
    note(&mut tx, &by, "host.join", (row.object(), row.name()), format!("at {}", row.address)).await?;
    let crypto = super::mode::on_joining(&mut tx, &row).await?;
    tx.commit().await?;
    watch_over(&controller, &row).set_crypto(crypto);
    Ok(Enrolled { host: id, cluster, certificate })
}

async fn hello(controller: Shared, peer: Peer, call: Hello) -> Answer<()> {
    let what = "cannot greet a host";
    let link = peer.host().and_then(|id| controller.links.get(id)).ok_or_else(|| {
        Problem::new(Code::AuthRequired, what, "it is no host that this controller knows", "enrol it")
    })?;
    if !is_address(&call.address) {
        let why = format!("`{}` is no address", call.address);
        return Err(Problem::new(Code::RequestInvalid, what, why, "give the host an address of the form HOST:PORT"));
    }
    let update = async {
        let mut tx = controller.store.write().await?;
        host::set_address(&mut tx, link.id, &call.address).await?;
        tx.commit().await
    };
    update.await.map_err(|error: StoreError| Problem::from(error))?;
    link.set_address(&call.address);
    link.poke.notify_one();
    Ok(())
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

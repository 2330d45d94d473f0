//! How hosts join, and who is taken for one.

use ward_controller::api::types::{HostState, HostView};
use ward_rpc::api::controller::Hello;
use ward_rpc::{Authority, CallError, EnrolmentToken, Role};
use ward_types::{Code, EventKind, HostId};

use crate::support::host::{controller, enrol};
use crate::support::{Host, Ward, in_time};

const ADDRESS: &str = "127.0.0.1:1";

async fn token(ward: &Ward) -> EnrolmentToken {
    ward.token().await.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_once() {
    let ward = Ward::start().await;
    let token = token(&ward).await;
    assert_eq!(token.controller, ward.hosts_address.to_string());
    let (id, _) = enrol(&token, "h1", ADDRESS).await.unwrap();
    assert_eq!(enrol(&token, "h2", ADDRESS).await.unwrap_err().code, Code::EnrolmentRefused);
    let hosts: Vec<HostView> = ward.api.get("/hosts").await.unwrap();
    assert_eq!(hosts.iter().map(|host| (host.id, host.name.as_str())).collect::<Vec<_>>(), [(id, "h1")]);
    assert_eq!(ward.api.told(EventKind::HostEnrolled).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_use_a_token_at_once_one_joins() {
    let ward = Ward::start().await;
    let text = ward.token().await;
    let joining: Vec<_> = (0..6)
        .map(|number| {
            let token: EnrolmentToken = text.parse().unwrap();
            tokio::spawn(async move { enrol(&token, &format!("h{number}"), ADDRESS).await.map(drop) })
        })
        .collect();
    let mut joined = 0;
    for host in joining {
        match host.await.unwrap() {
            Ok(()) => joined += 1,
            Err(problem) => assert_eq!(problem.code, Code::EnrolmentRefused),
        }
    }
    assert_eq!(joined, 1);
    assert_eq!(ward.api.get::<Vec<HostView>>("/hosts").await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_wrong_or_has_expired_is_refused() {
    let ward = Ward::start().await;
    let good = token(&ward).await;
    let other = token(&ward).await;
    for wrong in [
        EnrolmentToken { secret: other.secret.clone(), ..copy(&good) },
        EnrolmentToken { id: ward_types::TokenId::new(), ..copy(&good) },
        EnrolmentToken { secret: String::new(), ..copy(&good) },
    ] {
        assert_eq!(enrol(&wrong, "h", ADDRESS).await.unwrap_err().code, Code::EnrolmentRefused);
    }
    let nonsense = EnrolmentToken { secret: "no base64!".into(), ..copy(&good) };
    assert_eq!(enrol(&nonsense, "h", ADDRESS).await.unwrap_err().code, Code::RequestInvalid);
    ward.sql(&format!("UPDATE enrolment SET expires = 1 WHERE id = '{}'", good.id)).await;
    assert_eq!(enrol(&good, "h", ADDRESS).await.unwrap_err().code, Code::EnrolmentRefused);
    enrol(&other, "h", ADDRESS).await.unwrap();
}

fn copy(token: &EnrolmentToken) -> EnrolmentToken {
    token.to_text().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_mended_leaves_the_token_good() {
    let ward = Ward::start().await;
    enrol(&token(&ward).await, "taken", ADDRESS).await.unwrap();
    let token = token(&ward).await;
    assert_eq!(enrol(&token, "taken", ADDRESS).await.unwrap_err().code, Code::Exists);
    for address in ["", "h", ":1", "h:0", "h:x", "h:70000"] {
        assert_eq!(enrol(&token, "h", address).await.unwrap_err().code, Code::RequestInvalid, "{address}");
    }
    enrol(&token, "h", ADDRESS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_host_is_greeted_as_one() {
    let ward = Ward::start().await;
    let token = token(&ward).await;
    let hello = || Hello { boot: uuid::Uuid::new_v4(), address: ADDRESS.to_owned() };
    let refused = |answer: Result<(), CallError>| match answer {
        Err(CallError::Refused(problem)) => problem.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(controller(&token, None).call(hello()).await), Code::AuthRequired);
    // A certificate of another CA does not come so far.
    let stranger = Authority::generate().unwrap().issue(Role::Host(HostId::new()), &[]).unwrap();
    let answer = in_time("an answer", controller(&token, Some(&stranger)).call(hello())).await;
    assert!(matches!(answer, Err(CallError::Unreachable { .. })), "{answer:?}");
    let host = Host::join(&token.to_text().unwrap(), "h", ward.storage.clone()).await.unwrap();
    host.hello().await.unwrap();
    let other = ward.token().await.parse().unwrap();
    let (_, credentials) = enrol(&other, "other", ADDRESS).await.unwrap();
    for address in ["h:0", "nowhere"] {
        let hello = Hello { boot: uuid::Uuid::new_v4(), address: address.to_owned() };
        assert_eq!(refused(controller(&other, Some(&credentials)).call(hello).await), Code::RequestInvalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_moves_is_found_where_it_says_that_it_is() {
    let ward = Ward::start().await;
    let host = ward.host("h").await;
    let other = ward.token().await.parse().unwrap();
    // It joins with an address where nobody is, and is the only one who may say that it is elsewhere.
    let (id, credentials) = enrol(&other, "moving", ADDRESS).await.unwrap();
    ward.api.host_event(EventKind::HostDisconnected, id, 1).await;
    let view: HostView = ward.api.get("/hosts/moving").await.unwrap();
    assert_eq!((view.state, view.address.as_str()), (HostState::Disconnected, ADDRESS));
    // Another host's address: who answers there shows another name.
    let hello = Hello { boot: uuid::Uuid::new_v4(), address: host.address.to_string() };
    controller(&other, Some(&credentials)).call(hello).await.unwrap();
    let view: HostView = ward.api.get("/hosts/moving").await.unwrap();
    assert_eq!(view.address, host.address.to_string());
    let view: HostView = ward.api.get(&format!("/hosts/{}", host.id)).await.unwrap();
    assert_eq!((view.state, view.name.as_str()), (HostState::Connected, "h"));
}

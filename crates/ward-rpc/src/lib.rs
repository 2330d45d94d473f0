//! The wire between controller and hosts.
//!
//! Both speak typed calls ([`Call`]) as JSON over HTTP over mutual TLS 1.3, each with a certificate of the controller's
//! own CA ([`Authority`]); who a peer is ([`Peer`]) is read from its certificate by the TLS layer and by nothing else.
//! The controller calls hosts ([`api::host`]); hosts call the controller only to enrol and to say that they are back
//! ([`api::controller`]). The trust authority's services are served and called in the same way, but know their peers
//! otherwise ([`serve_known`]). Keys travel in calls of their own ([`KeyPush`], [`NativePush`]) that are binary, so that no text
//! form of a key ever exists. Beside the CA for Ward's own processes there is one for what guests' verifiers see, the
//! endorsement keys of vTPMs ([`EkAuthority`]).

pub mod api;
mod call;
mod ek;
mod enrol;
mod framing;
mod keys;
mod native;
mod pki;
mod rest;
mod serve;
mod tls;

pub use call::{Call, CallError, Client, StreamAnswer};
pub use ek::{EkAuthority, EkError, certificate_from_file, certificate_pem, check_ek_certificate, request_pem};
pub use enrol::{EnrolmentToken, TokenError};
pub use keys::{KeyPush, PUSH_KEYS_PATH, PushError, PushReply};
pub use native::{NativeEntry, NativePush, PUSH_NATIVE_PATH};
pub use pki::{Authority, Ca, Credentials, Peer, PkiError, Request, Role};
pub use serve::{Answer, Limits, answer, problem_response, route, serve, serve_known};
pub use tls::{ServerKind, client_config, server_config};

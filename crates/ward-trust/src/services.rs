//! The description of a trust authority's services: what a controller imports, and a host goes by.

use attest::label::Label;
use serde::{Deserialize, Serialize};
use ward_types::ProviderName;

use crate::signed::Content;

/// Where the services are, how they are known, and what the hosts of a cluster are to meet. The trust administrators sign
/// it: the controller that hands it to the hosts can't make another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    /// The version of this form: 1.
    pub version: u32,
    /// Counts up: an older description does not replace a newer one.
    pub serial: i64,
    /// The trust authority's name.
    pub name: Label,
    /// The attestation policy that hosts are to meet.
    pub policy: Label,
    /// The instances of the attestation service, to be tried in turn.
    pub attestation: Vec<ServiceAddress>,
    /// The instances of the key provider service, to be tried in turn.
    pub key_providers: Vec<ServiceAddress>,
    /// The trusted key providers.
    pub providers: Vec<ProviderName>,
}

/// One instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAddress {
    /// HOST:PORT
    pub address: String,
    /// The very certificate that it shows, in PEM.
    pub certificate: String,
}

impl Content for Services {
    const PURPOSE: &'static str = "ward trust services v1";
}

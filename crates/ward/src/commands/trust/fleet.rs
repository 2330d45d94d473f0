//! What a controller says of hosts and services, and what it can put right.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use ward_controller::api::types::{AddTrusted, DescribeTrusted, ProviderView, TrustServiceView, TrustedHostView};
use ward_types::{Name, Problem, ProviderName};

use crate::client::Api;
use crate::commands::read_file;
use crate::output::{Output, table};

/// `ward provider add trusted`.
#[derive(Args)]
pub(crate) struct AddArguments {
    /// The provider's name, which is its identity: the one that it has at the trust authority.
    name: ProviderName,
    /// The signed description of the trust authority's services, from `ward trust describe`.
    #[arg(long, value_name = "FILE")]
    description: PathBuf,
    /// A cluster whose hosts are to be told of it; give it once for each. All, unless given.
    #[arg(long = "cluster", value_name = "NAME")]
    clusters: Vec<Name>,
    /// Make it the default provider; the first one is anyway.
    #[arg(long)]
    default: bool,
}

pub(crate) async fn add(api: &Api, arguments: AddArguments) -> Result<ProviderView, Problem> {
    let AddArguments { name, description, clusters, default } = arguments;
    let description = read_file(&format!("cannot add key provider `{name}`"), &description)?;
    api.post("/trusted-providers", &AddTrusted { name, description, clusters, default }).await
}

/// `ward trust import-description`.
#[derive(Args)]
pub(crate) struct ImportDescription {
    /// The trusted provider.
    name: ProviderName,
    /// The signed description. The same administrators must have signed it as the one before.
    file: PathBuf,
}

impl ImportDescription {
    pub(super) async fn run(self, output: Output) -> Result<(), Problem> {
        let Self { name, file } = self;
        let description = read_file(&format!("cannot import the description of key provider `{name}`"), &file)?;
        let path = format!("/trusted-providers/{name}/description");
        let provider: ProviderView = Api::open()?.put(&path, &DescribeTrusted { description }).await?;
        output.show(&provider, || format!("key provider {name}: described anew; its hosts are told"))
    }
}

#[derive(Serialize)]
struct Status {
    hosts: Vec<TrustedHostView>,
    services: Vec<TrustServiceView>,
}

pub(super) async fn status(output: Output) -> Result<(), Problem> {
    let api = Api::open()?;
    let status = Status { hosts: api.list("/trust/hosts").await?, services: api.list("/trust/services").await? };
    output.show(&status, || format!("{}\n\n{}", hosts(&status.hosts), services(&status.services)))
}

pub(super) async fn remediate(host: Option<String>, output: Output) -> Result<(), Problem> {
    let api = Api::open()?;
    let names = match host {
        Some(host) => vec![host],
        None => {
            let hosts = api.list::<TrustedHostView>("/trust/hosts").await?;
            hosts.into_iter().map(|view| view.host.to_string()).collect::<BTreeSet<_>>().into_iter().collect()
        }
    };
    let mut views: Vec<TrustedHostView> = Vec::new();
    for name in names {
        views.extend(api.post::<_, Vec<TrustedHostView>>(&format!("/hosts/{name}/remediate"), &()).await?);
    }
    output.show(&views, || hosts(&views))
}

fn time(time: Option<jiff::Timestamp>) -> String {
    time.map_or_else(String::new, |time| format!("{time:.0}"))
}

fn hosts(hosts: &[TrustedHostView]) -> String {
    let rows = hosts.iter().map(|host| {
        vec![
            host.host.to_string(),
            host.provider.to_string(),
            host.state.to_string(),
            host.age_seconds.map_or_else(String::new, |age| format!("{age} s ago")),
            time(host.expires),
            host.applied.clone().unwrap_or_default(),
            host.desired.clone().filter(|desired| host.applied.as_ref() != Some(desired)).unwrap_or_default(),
            host.trouble.as_ref().map_or_else(String::new, |problem| format!("{}: {}", problem.why, problem.remedy)),
        ]
    });
    table(&["host", "provider", "state", "looked", "counts until", "goes by", "should go by", "why not"], rows)
}

fn services(services: &[TrustServiceView]) -> String {
    let rows = services.iter().map(|service| {
        vec![
            service.service.clone(),
            service.address.clone(),
            service.state.to_string(),
            format!("{} s ago", service.age_seconds),
            time(Some(service.expires)),
            time(service.answered),
            service.applied.clone().unwrap_or_default(),
            service.trouble.as_ref().map_or_else(String::new, |problem| problem.why.clone()),
        ]
    });
    table(&["service", "address", "state", "looked", "counts until", "answered", "goes by", "why not"], rows)
}

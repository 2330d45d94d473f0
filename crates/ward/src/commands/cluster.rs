//! `ward cluster`.

use clap::Subcommand;
use ward_controller::api::types::{AddCluster, ClusterView};
use ward_types::{Name, Problem};

use super::host_crypto::SetCluster;
use crate::client::Api;
use crate::output::{Output, table};

/// What to do with clusters.
#[derive(Subcommand)]
pub(crate) enum Cluster {
    /// Add a cluster: hosts that share datastores and keys.
    #[command(
        after_help = "Example, a cluster with a first host:\n  ward cluster add lab\n  ward host add --cluster lab"
    )]
    Add {
        /// The cluster's name.
        name: Name,
    },
    /// Change how the hosts of a cluster are run: whether their keys outlive a restart.
    Set(SetCluster),
    /// List clusters, with their hosts and datastores.
    Ls,
}

impl Cluster {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        let clusters: Vec<ClusterView> = match self {
            Self::Add { name } => vec![api.post("/clusters", &AddCluster { name }).await?],
            Self::Set(set) => return set.run(&api, output).await,
            Self::Ls => api.list("/clusters").await?,
        };
        let names = |names: &[Name]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        output.show(&clusters, || {
            let rows = clusters.iter().map(|cluster| {
                let (hosts, datastores) = (names(&cluster.hosts), names(&cluster.datastores));
                vec![cluster.name.to_string(), hosts, datastores, cluster.vms.to_string()]
            });
            table(&["name", "hosts", "datastores", "vms"], rows)
        })
    }
}

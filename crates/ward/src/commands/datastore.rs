//! `ward datastore`.

use std::path::PathBuf;

use clap::Subcommand;
use ward_controller::api::types::{AddDatastore, DatastoreView};
use ward_types::{Name, Problem};

use super::absolute;
use crate::client::Api;
use crate::output::{Output, table};

/// What to do with datastores.
#[derive(Subcommand)]
pub(crate) enum Datastore {
    /// Make a directory known that all hosts of a cluster share.
    Add {
        /// The datastore's name.
        name: Name,
        /// The directory, the same on all hosts.
        directory: PathBuf,
        /// The cluster; `default` unless named.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// List datastores.
    Ls,
    /// Forget a datastore on which no VM of the inventory is, such as one that is gone for good. What is on it stays.
    Rm {
        /// Its name.
        name: Name,
    },
}

impl Datastore {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        let datastores: Vec<DatastoreView> = match self {
            Self::Add { name, directory, cluster } => {
                let directory = absolute(&directory)?;
                vec![api.post("/datastores", &AddDatastore { name, directory, cluster }).await?]
            }
            Self::Ls => api.list("/datastores").await?,
            Self::Rm { name } => {
                let () = api.delete(&format!("/datastores/{name}")).await?;
                return output.show(&(), || format!("datastore `{name}` is forgotten"));
            }
        };
        output.show(&datastores, || {
            let rows = datastores.iter().map(|datastore| {
                let directory = datastore.directory.display().to_string();
                vec![datastore.name.to_string(), datastore.cluster.to_string(), directory]
            });
            table(&["name", "cluster", "directory"], rows)
        })
    }
}

//! `ward policy`.

use clap::{Args, Subcommand};
use ward_controller::api::types::{AddPolicy, PolicyView};
use ward_types::{PolicyName, Problem, ProviderName};

use super::parse_days;
use crate::client::Api;
use crate::output::{Output, fields, print_text, table};

/// What to do with storage policies.
#[derive(Subcommand)]
pub(crate) enum Policy {
    /// List storage policies.
    Ls,
    /// Show a storage policy.
    Show {
        /// The policy's name.
        policy: PolicyName,
    },
    /// Make a storage policy.
    #[command(
        after_help = "Example:\n  ward policy create 'Finance' --provider kms-finance --rotate-after 90d\n  ward vm \
                            set-policy db-1 --home Finance --all-disks Finance"
    )]
    Create(Create),
    /// Make a storage policy as a copy of another one. This is how to change a built-in one.
    Clone(CloneOf),
    /// Remove a storage policy under which nothing is.
    Rm {
        /// The policy's name.
        policy: PolicyName,
    },
}

/// What a policy says.
#[derive(Args)]
pub(crate) struct Rules {
    /// Take keys from this provider instead of the default one.
    #[arg(long)]
    provider: Option<ProviderName>,
    /// Replace keys after so many days, such as 90d.
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    rotate_after: Option<u32>,
}

/// `ward policy create`.
#[derive(Args)]
pub(crate) struct Create {
    /// The policy's name.
    policy: PolicyName,
    /// What is under it is not encrypted.
    #[arg(long, conflicts_with_all = ["provider", "rotate_after"])]
    plain: bool,
    #[command(flatten)]
    rules: Rules,
}

/// `ward policy clone`.
#[derive(Args)]
pub(crate) struct CloneOf {
    /// The policy to copy.
    from: PolicyName,
    /// The copy's name.
    policy: PolicyName,
    #[command(flatten)]
    rules: Rules,
}

impl Policy {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        match self {
            Self::Ls => {
                let policies: Vec<PolicyView> = api.list("/policies").await?;
                output.show(&policies, || {
                    let row = |policy: &PolicyView| {
                        vec![
                            policy.name.to_string(),
                            if policy.encrypts { "yes" } else { "no" }.to_owned(),
                            policy.provider.as_ref().map_or_else(String::new, ToString::to_string),
                            policy.rotate_days.map_or_else(String::new, |days| format!("{days} days")),
                            policy.vms.len().to_string(),
                        ]
                    };
                    table(&["name", "encrypts", "provider", "keys replaced after", "vms"], policies.iter().map(row))
                })
            }
            Self::Show { policy } => one(&api.get(&format!("/policies/{policy}")).await?, output),
            Self::Create(Create { policy, plain, rules }) => add(&api, policy, None, Some(!plain), rules, output).await,
            Self::Clone(CloneOf { from, policy, rules }) => add(&api, policy, Some(from), None, rules, output).await,
            Self::Rm { policy } => {
                let () = api.delete(&format!("/policies/{policy}")).await?;
                match output {
                    Output::Table => print_text(&format!("storage policy {policy}: removed")),
                    Output::Json => output.show(&(), String::new),
                }
            }
        }
    }
}

async fn add(
    api: &Api,
    name: PolicyName,
    from: Option<PolicyName>,
    encrypts: Option<bool>,
    rules: Rules,
    output: Output,
) -> Result<(), Problem> {
    let body = AddPolicy { name, from, encrypts, provider: rules.provider, rotate_days: rules.rotate_after };
    one(&api.post("/policies", &body).await?, output)
}

fn one(policy: &PolicyView, output: Output) -> Result<(), Problem> {
    output.show(policy, || {
        fields(&[
            ("name", policy.name.to_string()),
            ("encrypts", if policy.encrypts { "yes" } else { "no" }.to_owned()),
            ("built in", if policy.built_in { "yes: clone it to change it" } else { "no" }.to_owned()),
            ("provider", policy.provider.as_ref().map_or_else(|| "the default one".to_owned(), ToString::to_string)),
            ("keys replaced", policy.rotate_days.map_or_else(String::new, |days| format!("after {days} days"))),
            ("VMs", policy.vms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        ])
    })
}

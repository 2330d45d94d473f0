//! `ward role` and `ward permission`.

use clap::Subcommand;
use ward_controller::api::types::{
    AddPermission, AddRole, Allowed, AllowedQuery, PermissionView, PrivilegeView, SetRole,
};
use ward_types::{PermissionId, Privilege, Problem, Role as RoleView, RoleKind, RoleName, Subject};

use super::done;
use crate::client::Api;
use crate::output::{Output, fields, table};

/// What to do with roles.
#[derive(Subcommand)]
pub(crate) enum Role {
    /// List roles.
    Ls,
    /// Show what a role allows.
    Show {
        /// The role's name.
        name: RoleName,
    },
    /// List all privileges, with what each allows.
    Privileges,
    /// Add a role.
    #[command(after_help = "Example, who may start and stop VMs and nothing else:\n  ward role add operator read \
                            vm.power vm.console\nA role without privileges shuts its holder out of the object that it \
                            is given on:\n  ward role add no-access")]
    Add {
        /// The role's name.
        name: RoleName,
        /// What it is to allow.
        privileges: Vec<Privilege>,
    },
    /// Change what a role allows, for all who have it.
    Set {
        /// The role's name.
        name: RoleName,
        /// What it is to allow from now on.
        #[arg(required = true)]
        privileges: Vec<Privilege>,
    },
    /// Remove a role that nobody has.
    Rm {
        /// The role's name.
        name: RoleName,
    },
}

/// What to do with permissions.
#[derive(Subcommand)]
pub(crate) enum Permission {
    /// List permissions: yours, and those on objects whose permissions you may manage.
    Ls,
    /// Give a user or group a role on an object and on all that is in it.
    #[command(after_help = "Of the objects on the way up from a VM to the root the nearest counts on which you have \
                            anything; there a user's own\npermission counts before those of its groups. A permission \
                            takes the place of the one that the subject has there.\n\nExamples:\n  ward permission add \
                            user/alice administrator --on cluster/default\n  ward permission add group/audit read-only \
                            --on root\n  ward permission add user/bob operator --on vm/web-1\n\n`ward role ls` lists \
                            the roles.")]
    Add {
        /// Who: user/NAME or group/NAME.
        subject: Subject,
        /// The role.
        role: RoleName,
        /// On what: `root`, cluster/NAME, datastore/NAME, host/NAME, vm/NAME or provider/NAME.
        #[arg(long, value_name = "OBJECT")]
        on: String,
        /// Only on the object itself, not on what is in it.
        #[arg(long)]
        no_propagation: bool,
    },
    /// Tell what you may do on an object.
    Check {
        /// `root`, cluster/NAME, datastore/NAME, host/NAME, vm/NAME or provider/NAME.
        #[arg(default_value = "root")]
        object: String,
    },
    /// Take a permission away.
    Rm {
        /// The permission's ID, as `ward permission ls` shows it.
        id: PermissionId,
    },
}

impl Role {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        let role: RoleView = match self {
            Self::Ls => {
                let roles: Vec<RoleView> = api.list("/roles").await?;
                return output.show(&roles, || {
                    let rows = roles.iter().map(|role| {
                        let count = role.privileges.iter().count().to_string();
                        vec![role.name.to_string(), kind(role).to_owned(), count]
                    });
                    table(&["name", "kind", "privileges"], rows)
                });
            }
            Self::Show { name } => {
                let roles: Vec<RoleView> = api.list("/roles").await?;
                let found = roles.into_iter().find(|role| role.name == name);
                found.ok_or_else(|| {
                    let what = format!("cannot show role `{name}`");
                    Problem::new(ward_types::Code::NotFound, what, "there is no such role", "`ward role ls` lists them")
                })?
            }
            Self::Privileges => {
                let privileges: Vec<PrivilegeView> = api.list("/privileges").await?;
                return output.show(&privileges, || {
                    let rows = privileges.iter().map(|view| vec![view.name.to_string(), view.allows.clone()]);
                    table(&["privilege", "allows"], rows)
                });
            }
            Self::Add { name, privileges } => {
                api.post("/roles", &AddRole { name, privileges: privileges.into() }).await?
            }
            Self::Set { name, privileges } => {
                api.put(&format!("/roles/{name}"), &SetRole { privileges: privileges.into() }).await?
            }
            Self::Rm { name } => {
                let () = api.delete(&format!("/roles/{name}")).await?;
                return done(output, &format!("role {name}: removed"));
            }
        };
        output.show(&role, || {
            let privileges = role.privileges.iter().map(|it| it.to_string()).collect::<Vec<_>>().join("\n");
            let kind = kind(&role).to_owned();
            fields(&[("name", role.name.to_string()), ("kind", kind), ("privileges", privileges)])
        })
    }
}

const fn kind(role: &RoleView) -> &'static str {
    match role.kind {
        RoleKind::BuiltIn => "built-in",
        RoleKind::Custom => "custom",
    }
}

impl Permission {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        let permissions: Vec<PermissionView> = match self {
            Self::Ls => api.list("/permissions").await?,
            Self::Add { subject, role, on, no_propagation } => {
                let body = AddPermission { subject, object: on, role, propagates: !no_propagation };
                vec![api.post("/permissions", &body).await?]
            }
            Self::Check { object } => {
                let allowed: Allowed = api.query("/session/privileges", &AllowedQuery { object }).await?;
                return output.show(&allowed, || {
                    let privileges = allowed.privileges.iter().map(|it| it.to_string()).collect::<Vec<_>>().join("\n");
                    let privileges = if privileges.is_empty() { "none".to_owned() } else { privileges };
                    fields(&[("object", allowed.object.clone()), ("you may", privileges)])
                });
            }
            Self::Rm { id } => {
                let () = api.delete(&format!("/permissions/{id}")).await?;
                return done(output, &format!("permission {id}: taken away"));
            }
        };
        output.show(&permissions, || {
            let rows = permissions.iter().map(|it| {
                let how = if it.propagates { "" } else { "not below" };
                vec![it.subject.to_string(), it.role.to_string(), it.object.clone(), how.to_owned(), it.id.to_string()]
            });
            table(&["who", "role", "on", "propagation", "id"], rows)
        })
    }
}

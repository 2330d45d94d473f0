//! `ward user`, `ward group`, `ward password`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ward_controller::api::types::{AddGroup, AddUser, ChangePassword, GroupView, NewPassword, UserView};
use ward_types::{Code, Name, Problem};

use super::{done, read_file};
use crate::client::Api;
use crate::output::{Output, fields, table};

/// What to do with users.
#[derive(Subcommand)]
pub(crate) enum User {
    /// Add a user. It may nothing until it is given a role.
    #[command(after_help = "Example, a user who sees everything and changes nothing:\n  ward user add alice\n  ward \
                            permission add user/alice read-only --on root")]
    Add {
        /// The user's name.
        name: Name,
        /// A file with the password; it is asked for unless given.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// List users.
    Ls,
    /// Show a user.
    Show {
        /// The user's name.
        name: Name,
    },
    /// Set a user's password, when it has forgotten it. All its sessions end. Your own: `ward password`.
    Password {
        /// The user's name.
        name: Name,
        /// A file with the new password; it is asked for unless given.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Keep a user from logging in, and end its sessions. Its permissions stay as they are.
    Disable {
        /// The user's name.
        name: Name,
    },
    /// Let a disabled user log in again.
    Enable {
        /// The user's name.
        name: Name,
    },
    /// Remove a user with its sessions and permissions.
    Rm {
        /// The user's name.
        name: Name,
    },
}

/// What to do with groups.
#[derive(Subcommand)]
pub(crate) enum Group {
    /// Add a group.
    #[command(
        after_help = "Example, a group who may do everything in one cluster but cryptography:\n  ward group add \
                            ops\n  ward group join ops alice\n  ward permission add group/ops \
                            no-crypto-administrator --on cluster/default"
    )]
    Add {
        /// The group's name.
        name: Name,
    },
    /// List groups, with their members.
    Ls,
    /// Make a user a member of a group.
    Join {
        /// The group's name.
        group: Name,
        /// The user's name.
        user: Name,
    },
    /// Take a user out of a group.
    Leave {
        /// The group's name.
        group: Name,
        /// The user's name.
        user: Name,
    },
    /// Remove a group with its permissions. Its members stay.
    Rm {
        /// The group's name.
        name: Name,
    },
}

/// Change your own password. Your other sessions end.
#[derive(Args)]
#[command(after_help = "Example, for a script:\n  ward password --current-file old --password-file new")]
pub(crate) struct Password {
    /// A file with the password as it is; it is asked for unless given.
    #[arg(long, value_name = "FILE")]
    current_file: Option<PathBuf>,
    /// A file with the new password; it is asked for unless given.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// A password from a file, or from whoever sits there.
pub(crate) fn ask_password(what: &str, file: Option<&Path>, prompt: &str) -> Result<String, Problem> {
    match file {
        Some(path) => Ok(read_file(what, path)?.trim_end_matches(['\r', '\n']).to_owned()),
        None => rpassword::prompt_password(format!("{prompt}: ")).map_err(|error| {
            let why = format!("the password can't be asked for: {error}");
            Problem::new(Code::RequestInvalid, what, why, "give it in a file; --help tells with which option")
        }),
    }
}

/// A new password; typed twice where it is typed.
fn new_password(what: &str, file: Option<&Path>, whose: &str) -> Result<String, Problem> {
    let password = ask_password(what, file, &format!("New password of {whose}"))?;
    if file.is_none() && ask_password(what, None, "Once more")? != password {
        return Err(Problem::new(Code::RequestInvalid, what, "the two are not the same", "try again"));
    }
    Ok(password)
}

impl Password {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let what = "cannot change the password";
        let api = Api::open()?;
        let current = ask_password(what, self.current_file.as_deref(), "Current password")?;
        let new = new_password(what, self.password_file.as_deref(), "yours")?;
        let () = api.post("/session/password", &ChangePassword { current, new }).await?;
        done(output, "password changed; your other sessions have ended")
    }
}

impl User {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        match self {
            Self::Add { name, password_file } => {
                let what = format!("cannot add user `{name}`");
                let password = new_password(&what, password_file.as_deref(), name.as_str())?;
                let user: UserView = api.post("/users", &AddUser { name, password }).await?;
                output.show(&user, || describe(&user))
            }
            Self::Ls => {
                let users: Vec<UserView> = api.list("/users").await?;
                output.show(&users, || {
                    let rows = users.iter().map(|user| {
                        let state = if user.disabled { "disabled" } else { "" };
                        vec![user.name.to_string(), names(&user.groups), state.to_owned()]
                    });
                    table(&["name", "groups", "state"], rows)
                })
            }
            Self::Show { name } => {
                let user: UserView = api.get(&format!("/users/{name}")).await?;
                output.show(&user, || describe(&user))
            }
            Self::Password { name, password_file } => {
                let what = format!("cannot set the password of user `{name}`");
                let password = new_password(&what, password_file.as_deref(), name.as_str())?;
                let () = api.post(&format!("/users/{name}/password"), &NewPassword { password }).await?;
                done(output, &format!("user {name}: password set; its sessions have ended"))
            }
            Self::Disable { name } => {
                let user: UserView = api.post(&format!("/users/{name}/disable"), &()).await?;
                output.show(&user, || describe(&user))
            }
            Self::Enable { name } => {
                let user: UserView = api.post(&format!("/users/{name}/enable"), &()).await?;
                output.show(&user, || describe(&user))
            }
            Self::Rm { name } => {
                let () = api.delete(&format!("/users/{name}")).await?;
                done(output, &format!("user {name}: removed"))
            }
        }
    }
}

impl Group {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        let show = |groups: &[GroupView]| {
            let rows = groups.iter().map(|group| vec![group.name.to_string(), names(&group.members)]);
            table(&["name", "members"], rows)
        };
        let group: GroupView = match self {
            Self::Add { name } => api.post("/groups", &AddGroup { name }).await?,
            Self::Join { group, user } => api.put(&format!("/groups/{group}/members/{user}"), &()).await?,
            Self::Leave { group, user } => api.delete(&format!("/groups/{group}/members/{user}")).await?,
            Self::Ls => {
                let groups: Vec<GroupView> = api.list("/groups").await?;
                return output.show(&groups, || show(&groups));
            }
            Self::Rm { name } => {
                let () = api.delete(&format!("/groups/{name}")).await?;
                return done(output, &format!("group {name}: removed"));
            }
        };
        output.show(&group, || show(std::slice::from_ref(&group)))
    }
}

fn names(names: &[Name]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn describe(user: &UserView) -> String {
    fields(&[
        ("name", user.name.to_string()),
        ("groups", names(&user.groups)),
        ("state", if user.disabled { "disabled" } else { "may log in" }.to_owned()),
        ("added", format!("{:.0}", user.created)),
    ])
}

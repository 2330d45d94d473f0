//! `ward session`.

use clap::Subcommand;
use ward_controller::api::types::SessionView;
use ward_types::{Problem, TokenId};

use super::done;
use crate::client::Api;
use crate::output::{Output, table};

/// What to do with sessions.
#[derive(Subcommand)]
pub(crate) enum Session {
    /// List sessions: yours, and everybody's if you manage users.
    Ls,
    /// End a session: whoever uses it must log in again.
    #[command(after_help = "To end all sessions of a user: `ward user disable NAME`, then `ward user enable NAME`.")]
    End {
        /// The session's ID, as `ward session ls` shows it.
        id: TokenId,
    },
}

impl Session {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        match self {
            Self::Ls => {
                let sessions: Vec<SessionView> = api.list("/sessions").await?;
                output.show(&sessions, || {
                    let rows = sessions.iter().map(|session| {
                        vec![
                            session.id.to_string(),
                            session.user.to_string(),
                            format!("{:.0}", session.created),
                            format!("{:.0}", session.expires),
                            if session.current { "this one" } else { "" }.to_owned(),
                        ]
                    });
                    table(&["id", "user", "begun", "good until", ""], rows)
                })
            }
            Self::End { id } => {
                let () = api.delete(&format!("/sessions/{id}")).await?;
                done(output, &format!("session {id}: ended"))
            }
        }
    }
}

//! `ward login` and `ward logout`.

use std::path::PathBuf;

use clap::Args;
use ward_controller::api::types::{self, Session, WhoAmI};
use ward_types::{Code, Problem};

use super::read_file;
use crate::client::{Api, ClientConfig};
use crate::output::Output;

/// Connect to a controller and log in.
#[derive(Args)]
#[command(
    after_help = "Example:\n  ward login https://controller.example.com:8443 --ca ca.pem\n\nThe file is `ca.pem` in the \
                        controller's state directory; with it the client knows the controller for sure.\nLater logins to \
                        the same controller need neither URL nor --ca."
)]
pub(crate) struct Login {
    /// The controller, https://HOST:PORT; the last one unless given.
    #[arg(requires = "ca")]
    url: Option<String>,
    /// The controller's CA certificate.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Who you are.
    #[arg(long, default_value = "admin")]
    user: String,
    /// A file with the password; it is asked for unless given.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl Login {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let what = "cannot log in";
        let (url, ca) = match (self.url, self.ca) {
            (Some(url), Some(ca)) => (url, read_file(what, &ca)?),
            (None, ca) => {
                let known = ClientConfig::load()?;
                (known.url, ca.map_or(Ok(known.ca), |ca| read_file(what, &ca))?)
            }
            (Some(_), None) => return Err(Problem::internal(what, "a URL without a CA was let through")),
        };
        let password = match &self.password_file {
            Some(path) => read_file(what, path)?.trim_end_matches(['\r', '\n']).to_owned(),
            None => rpassword::prompt_password(format!("Password of {}: ", self.user)).map_err(|error| {
                let why = format!("the password can't be asked for: {error}");
                Problem::new(Code::RequestInvalid, what, why, "give it in a file with --password-file")
            })?,
        };
        // It is the same controller's as long as its CA is.
        let audit_head = ClientConfig::load().ok().filter(|known| known.ca == ca).and_then(|known| known.audit_head);
        let config = ClientConfig { url, ca, user: self.user, token: None, audit_head };
        let user = log_in(config, password).await?;
        user.0.save()?;
        output.show(&user.1, || format!("logged in to {} as {}", user.0.url, user.1.user))
    }
}

/// Logs in; gives what is to be remembered.
pub(crate) async fn log_in(config: ClientConfig, password: String) -> Result<(ClientConfig, WhoAmI), Problem> {
    let body = types::Login { user: config.user.clone(), password };
    let session: Session = Api::new(&config)?.post("/session", &body).await?;
    let config = ClientConfig { token: Some(session.token), ..config };
    let who = Api::new(&config)?.get("/session").await?;
    Ok((config, who))
}

pub(crate) async fn log_out(output: Output) -> Result<(), Problem> {
    let config = ClientConfig::load()?;
    if config.token.is_some() {
        let () = Api::new(&config)?.delete("/session").await?;
    }
    let url = config.url.clone();
    ClientConfig { token: None, ..config }.save()?;
    output.note(&format!("logged out of {url}"))
}

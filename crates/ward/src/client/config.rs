//! What the client remembers between commands: which controller, and a token.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ward_types::{Code, Problem};

/// What the client remembers.
#[derive(Serialize, Deserialize)]
pub(crate) struct ClientConfig {
    /// The controller's address, `https://HOST:PORT`.
    pub(crate) url: String,
    /// Its CA certificate, PEM.
    pub(crate) ca: String,
    /// The user's name.
    pub(crate) user: String,
    /// The session's token; none after logging out.
    pub(crate) token: Option<String>,
    /// The head of the controller's audit log when it was verified last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) audit_head: Option<String>,
}

impl ClientConfig {
    /// Where it lies: `$WARD_CONFIG`, or `client.json` in the user's configuration directory.
    pub(crate) fn path() -> Result<PathBuf, Problem> {
        if let Some(path) = std::env::var_os("WARD_CONFIG") {
            return Ok(path.into());
        }
        let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
        let base = base.or_else(|| std::env::home_dir().map(|home| home.join(".config")));
        base.map(|base| base.join("ward/client.json")).ok_or_else(|| {
            Problem::new(
                Code::RequestInvalid,
                "cannot tell where the client's configuration lies",
                "there is no home directory",
                "set WARD_CONFIG to a file",
            )
        })
    }

    pub(crate) fn load() -> Result<Self, Problem> {
        Self::load_from(&Self::path()?)
    }

    pub(crate) fn load_from(path: &Path) -> Result<Self, Problem> {
        let what = "cannot tell which controller to ask";
        let text = fs::read(path).map_err(|error| {
            Problem::new(
                Code::AuthRequired,
                what,
                format!("{}: {error}", path.display()),
                "start a system on this machine with `ward up --detach`, or log in to one with `ward login URL --ca FILE`",
            )
        })?;
        serde_json::from_slice(&text).map_err(|error| {
            let why = format!("{} makes no sense: {error}", path.display());
            Problem::new(Code::RequestInvalid, what, why, "log in again with `ward login URL --ca FILE`")
        })
    }

    pub(crate) fn save(&self) -> Result<(), Problem> {
        self.save_to(&Self::path()?)
    }

    /// Replaces the file as a whole; nobody else may read it.
    pub(crate) fn save_to(&self, path: &Path) -> Result<(), Problem> {
        let failed = |why: String| {
            let remedy = "make the directory writable, or set WARD_CONFIG";
            Problem::new(Code::StorageIo, "cannot remember the login", why, remedy)
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(|error| failed(format!("{}: {error}", directory.display())))?;
        let json = serde_json::to_vec_pretty(self).map_err(|error| failed(error.to_string()))?;
        whole_file::replace(path, &json, whole_file::Readers::Owner).map_err(|error| failed(error.to_string()))
    }
}

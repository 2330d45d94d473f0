//! What an administrator of the service does, on its own machine. A running service notices.

use std::path::Path;

use attest::credential::ResidentAk;
use attest::ek::{CaInfo, TpmCas, check_ek};
use attest::image::{BaseImage, ImageId, Mode, Validity};
use attest::label::Label;
use attest::tpm::{Name, PcrMask, Public};

use super::KIND;
use super::config::{self, PolicySettings, Settings};
use super::hosts::{self, HostInfo};
use crate::Error;
use crate::api::Description;
use crate::audit::AuditEntry;
use crate::home::{Home, Load as _, next_serial, put};

/// In the table `meta`: the serial of the last description of the services that was signed.
const DESCRIPTION_SERIAL: &str = "description_serial";

/// The attestation service's configuration, open for reading and changing.
pub struct Admin {
    home: Home,
}

impl Admin {
    /// Opens a state directory.
    ///
    /// # Errors
    /// If it was not set up, or can't be used.
    pub async fn open(dir: &Path) -> Result<Self, Error> {
        Ok(Self { home: Home::open(dir, &KIND).await? })
    }

    /// What key providers and hosts need to know of the service.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn description(&self) -> Result<Description, Error> {
        let config = config::Config::load(&self.home).await?;
        Ok(Description {
            issuer: config.settings.name,
            token_key: config.issuer.public_key().clone(),
            audience: config.settings.audience,
            certificate: self.home.certificate_pem()?,
        })
    }

    /// The settings.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn settings(&self) -> Result<Settings, Error> {
        config::load_settings(&self.home).await
    }

    /// Changes the settings.
    ///
    /// # Errors
    /// If a token's lifetime is none that tokens may have, or the database can't be written.
    pub async fn set_settings(&self, settings: &Settings) -> Result<(), Error> {
        settings.check()?;
        let mut change = self.home.change().await?;
        config::put_settings(&mut change, settings).await?;
        change.commit().await
    }

    /// Trusts the CA of a TPM maker: a root, or one that a trusted CA issued. The certificate is in DER.
    ///
    /// # Errors
    /// If it is no CA's certificate, or what issued it is not trusted.
    pub async fn add_tpm_ca(&self, der: &[u8]) -> Result<CaInfo, Error> {
        let mut change = self.home.change().await?;
        let mut cas = config::load_cas(&self.home).await?;
        let added = cas.add_root(der).or_else(|not_root| match not_root {
            attest::ek::CaError::NotSelfIssued { .. } => cas.add_intermediate(der),
            other => Err(other),
        });
        let info = added.map_err(|error| Error::invalid("a TPM CA", error))?;
        sqlx::query("INSERT INTO tpm_ca (sha256, root, der) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(&info.sha256)
            .bind(info.root)
            .bind(der)
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        Ok(info)
    }

    /// The trusted CAs.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn tpm_cas(&self) -> Result<Vec<CaInfo>, Error> {
        Ok(config::load_cas(&self.home).await?.list())
    }

    /// Stops trusting a CA, named by the SHA-256 of its certificate. Its hosts are attested no longer.
    ///
    /// # Errors
    /// If there is none such, or one that it issued is still trusted.
    pub async fn remove_tpm_ca(&self, sha256: &str) -> Result<(), Error> {
        let mut change = self.home.change().await?;
        let all: Vec<(String, bool, Vec<u8>)> =
            sqlx::query_as("SELECT sha256, root, der FROM tpm_ca ORDER BY number").fetch_all(&self.home.pool).await?;
        if !all.iter().any(|(present, ..)| present == sha256) {
            return Err(Error::NotFound { what: "TPM CA", name: sha256.to_owned() });
        }
        let mut rest = TpmCas::new();
        for (_, root, der) in all.iter().filter(|(present, ..)| present != sha256) {
            let added = if *root { rest.add_root(der) } else { rest.add_intermediate(der) };
            added.map_err(|error| Error::InUse { what: "TPM CA", name: sha256.to_owned(), by: error.to_string() })?;
        }
        sqlx::query("DELETE FROM tpm_ca WHERE sha256 = ?").bind(sha256).execute(&mut *change).await?;
        change.commit().await
    }

    /// Trusts one endorsement key by itself. Its host is called `label`, and is let in, also where it was removed before.
    ///
    /// # Errors
    /// If the bytes are not an endorsement key's TPM2B_PUBLIC, or another one that is trusted has the label.
    pub async fn import_ek(&self, public: &[u8], label: &Label) -> Result<Name, Error> {
        let public = Public::from_tpm2b(public).map_err(|error| Error::invalid("an EK", error))?;
        check_ek(&public).map_err(|error| Error::invalid("an EK", error))?;
        let name = public.name();
        let mut change = self.home.change().await?;
        let query = sqlx::query_scalar("SELECT name FROM pinned_ek WHERE label = ?").bind(label.as_str());
        let taken: Option<String> = query.fetch_optional(&mut *change).await?;
        if taken.is_some_and(|taken| taken != name.to_string()) {
            return Err(Error::Exists { what: "host", name: label.to_string() });
        }
        config::pin(&mut change, &name, label).await?;
        let query = sqlx::query("DELETE FROM decision WHERE ek = ? AND NOT admitted").bind(name.to_string());
        query.execute(&mut *change).await?;
        change.commit().await?;
        Ok(name)
    }

    /// Stops trusting an endorsement key by itself.
    ///
    /// # Errors
    /// If it was not imported.
    pub async fn remove_ek(&self, name: &Name) -> Result<(), Error> {
        let name = name.to_string();
        let mut change = self.home.change().await?;
        let query = sqlx::query("DELETE FROM pinned_ek WHERE name = ?").bind(&name);
        let gone = query.execute(&mut *change).await?.rows_affected();
        change.commit_found(gone, "EK", &name).await
    }

    /// Makes a policy, or changes one.
    ///
    /// # Errors
    /// If it would prove nothing.
    pub async fn set_policy(&self, name: &Label, settings: &PolicySettings) -> Result<(), Error> {
        settings.check()?;
        let json = serde_json::to_string(settings).map_err(|error| Error::invalid("a policy", error))?;
        let mut change = self.home.change().await?;
        sqlx::query(
            "INSERT INTO policy (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(name.as_str())
        .bind(json)
        .execute(&mut *change)
        .await?;
        change.commit().await
    }

    /// The policies.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn policies(&self) -> Result<Vec<(Label, PolicySettings)>, Error> {
        config::load_policy_settings(&self.home).await
    }

    /// The endorsement keys that are trusted by themselves: Name and label.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn eks(&self) -> Result<Vec<(String, String)>, Error> {
        Ok(sqlx::query_as("SELECT name, label FROM pinned_ek ORDER BY label").fetch_all(&self.home.pool).await?)
    }

    /// Removes a policy.
    ///
    /// # Errors
    /// If there is none such.
    pub async fn remove_policy(&self, name: &Label) -> Result<(), Error> {
        let mut change = self.home.change().await?;
        let query = sqlx::query("DELETE FROM policy WHERE name = ?").bind(name.as_str());
        let gone = query.execute(&mut *change).await?.rows_affected();
        change.commit_found(gone, "policy", name.as_str()).await
    }

    /// Takes a base image in. One of that name and version is replaced.
    ///
    /// # Errors
    /// If the database can't be written.
    pub async fn import_image(&self, image: &BaseImage) -> Result<(), Error> {
        let json = serde_json::to_string(image).map_err(|error| Error::invalid("a base image", error))?;
        let query = "INSERT INTO base_image (name, version, value) VALUES (?, ?, ?) \
                     ON CONFLICT (name, version) DO UPDATE SET value = excluded.value";
        let mut change = self.home.change().await?;
        sqlx::query(query)
            .bind(image.id().name.as_str())
            .bind(image.id().version.as_str())
            .bind(json)
            .execute(&mut *change)
            .await?;
        change.commit().await
    }

    /// Makes a base image of what a host last proved to have booted, and takes it in. That the host is good is for the
    /// administrator to know.
    ///
    /// # Errors
    /// If the host has not proven anything yet, or not of those PCRs.
    pub async fn capture_image(
        &self,
        host: &Label,
        id: ImageId,
        pcrs: PcrMask,
        validity: Validity,
        mode: Mode,
    ) -> Result<BaseImage, Error> {
        let (ak, captured) = hosts::captured(&self.home, host).await?;
        let captured = captured.ok_or_else(|| {
            Error::invalid("the host's evidence", "there is none; let the host try to be attested first")
        })?;
        let ak = ResidentAk::from_own_record(ak).map_err(|error| Error::corrupt("an AK", error))?;
        let log = captured.verify(&ak)?;
        let image = BaseImage::capture(&log, id, pcrs, validity, mode);
        let image = image.map_err(|error| Error::invalid("a base image", error))?;
        self.import_image(&image).await?;
        Ok(image)
    }

    /// The base images.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn images(&self) -> Result<Vec<BaseImage>, Error> {
        config::load_images(&self.home).await
    }

    /// Removes a base image.
    ///
    /// # Errors
    /// If there is none such.
    pub async fn remove_image(&self, id: &ImageId) -> Result<(), Error> {
        let mut change = self.home.change().await?;
        let query = sqlx::query("DELETE FROM base_image WHERE name = ? AND version = ?")
            .bind(id.name.as_str())
            .bind(id.version.as_str());
        let gone = query.execute(&mut *change).await?.rows_affected();
        change.commit_found(gone, "base image", &id.to_string()).await
    }

    /// The enrolled hosts, with the last verdict on each.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn hosts(&self) -> Result<Vec<HostInfo>, Error> {
        hosts::list(&self.home).await
    }

    /// What administrators have said of hosts: the Names of their EKs, and whether they are let in.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn decisions(&self) -> Result<Vec<(String, bool)>, Error> {
        Ok(sqlx::query_as("SELECT ek, admitted FROM decision ORDER BY ek").fetch_all(&self.home.pool).await?)
    }

    /// Lets a host in.
    ///
    /// # Errors
    /// If there is none such.
    pub async fn admit_host(&self, label: &Label) -> Result<(), Error> {
        let mut change = self.home.change().await?;
        let query = "INSERT OR REPLACE INTO decision (ek, admitted) SELECT ek, TRUE FROM host WHERE label = ?";
        let let_in = sqlx::query(query).bind(label.as_str()).execute(&mut *change).await?.rows_affected();
        change.commit_found(let_in, "host", label.as_str()).await
    }

    /// Forgets a host, and keeps it out: its TPM's key is no longer trusted by itself, and where a CA vouches for it the
    /// host can enrol again, but waits to be let in.
    ///
    /// # Errors
    /// If there is none such.
    pub async fn remove_host(&self, label: &Label) -> Result<(), Error> {
        let mut change = self.home.change().await?;
        let mut gone = 0;
        for query in [
            "INSERT OR REPLACE INTO decision (ek, admitted) SELECT ek, FALSE FROM host WHERE label = ?",
            "DELETE FROM pinned_ek WHERE name IN (SELECT ek FROM host WHERE label = ?)",
            "DELETE FROM host WHERE label = ?",
        ] {
            gone = sqlx::query(query).bind(label.as_str()).execute(&mut *change).await?.rows_affected();
        }
        change.commit_found(gone, "host", label.as_str()).await
    }

    /// The serial of the description that is signed next.
    ///
    /// # Errors
    /// If the database can't be written.
    pub async fn next_description(&self) -> Result<i64, Error> {
        let mut change = self.home.change().await?;
        let serial = next_serial(self.home.number(DESCRIPTION_SERIAL).await?);
        put(&mut change, DESCRIPTION_SERIAL, &serial.to_be_bytes()).await?;
        change.commit_unshared().await?;
        Ok(serial)
    }

    /// The last `n` things that hosts asked for, oldest first.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn audit(&self, n: u32) -> Result<Vec<AuditEntry>, Error> {
        self.home.audit_tail(n).await
    }
}

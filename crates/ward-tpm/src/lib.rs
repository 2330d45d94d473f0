//! A machine's TPM 2.0: seals a key so that only this machine, booted as it is now, opens it. Hosts keep the keys of native
//! providers so, the controller its root key.
//!
//! The key is a sealed object under the storage key that the owner hierarchy's seed gives (ECC P-256, nothing of it is kept
//! in the TPM), with a policy over the PCRs that the operator chose. Sessions are salted, and what is secret in a command
//! or an answer is encrypted: who listens on the TPM's bus learns nothing.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, EccPoint, KeyedHashScheme, PcrSelectionList, PcrSelectionListBuilder, PcrSlot, Private, Public,
    PublicBuilder, PublicEccParametersBuilder, PublicKeyedHashParameters, SensitiveData, SymmetricDefinition,
    SymmetricDefinitionObject,
};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};
use tss_esapi::{Context, Error, TctiNameConf};
use ward_secret::{SealKey, SecretError};

type Result<T> = std::result::Result<T, TpmError>;

/// Why a TPM did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// What names the TPM.
    #[error("`{0}` names no way to a TPM (a TCTI)")]
    Tcti(String),
    /// What names the PCRs.
    #[error("{0} are no PCRs: they have the numbers 0 to 23")]
    Pcrs(String),
    /// The PCRs are not as they were.
    #[error(
        "the machine is not as it was when this was sealed: PCR {0} has changed (another firmware, boot loader or kernel, \
         or other settings of them)"
    )]
    Changed(String),
    /// The TPM did not seal this.
    #[error("another TPM sealed this, or it is damaged")]
    NotOurs,
    /// The TPM, or the way to it.
    #[error("cannot {doing}: {source}")]
    Tpm {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: Error,
    },
    /// No memory for a key.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// The TPM, and what it is to bind keys to.
pub struct Tpm {
    tcti: TctiNameConf,
    pcrs: Vec<u8>,
}

/// A key, sealed to a TPM. Not secret.
#[derive(Serialize, Deserialize)]
pub struct SealedKey {
    /// The PCRs (SHA-256) that it is bound to.
    pub pcrs: Vec<u8>,
    /// TPM2B_PUBLIC's content and TPM2B_PRIVATE's, hexadecimal.
    public: String,
    private: String,
}

impl Tpm {
    /// The TPM at `tcti` (`device:/dev/tpmrm0`, or `swtpm:host=HOST,port=PORT`), which must answer. What is sealed is bound
    /// to these PCRs of its SHA-256 bank.
    ///
    /// # Errors
    /// [`TpmError::Tcti`], [`TpmError::Pcrs`], [`TpmError::Tpm`].
    pub fn open(tcti: &str, pcrs: &[u8]) -> Result<Self> {
        let tcti = TctiNameConf::from_str(tcti).map_err(|_| TpmError::Tcti(tcti.to_owned()))?;
        let tpm = Self { tcti, pcrs: pcrs.to_vec() };
        selection(&tpm.pcrs)?;
        tpm.context()?;
        Ok(tpm)
    }

    /// Seals a key for this machine as it is now.
    ///
    /// # Errors
    /// [`TpmError::Tpm`].
    pub fn seal(&self, key: &SealKey) -> Result<SealedKey> {
        let mut context = self.context()?;
        let sealing = |context: &mut Context| -> std::result::Result<(Vec<u8>, Vec<u8>), Error> {
            let storage = storage_key(context)?;
            let trial = session(context, None, SessionType::Trial)?;
            let policy = PolicySession::try_from(trial)?;
            context.policy_pcr(policy, Digest::default(), selection_of(&self.pcrs)?)?;
            let digest = context.policy_get_digest(policy)?;
            let session = session(context, Some(storage), SessionType::Hmac)?;
            let (attributes, mask) = SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
            context.tr_sess_set_attributes(session, attributes, mask)?;
            let data = SensitiveData::try_from(key.expose().to_vec())?;
            let made = context.execute_with_session(Some(session), |context| {
                context.create(storage, sealed_object(digest)?, None, Some(data), None, None)
            })?;
            Ok((made.out_public.marshall()?, made.out_private.value().to_vec()))
        };
        let (public, private) = sealing(&mut context).map_err(|error| fault("seal keys", error))?;
        Ok(SealedKey { pcrs: self.pcrs.clone(), public: hex::encode(public), private: hex::encode(private) })
    }

    /// Opens what this machine sealed when it was as it is now.
    ///
    /// # Errors
    /// [`TpmError::Changed`], [`TpmError::NotOurs`], [`TpmError::Tpm`].
    pub fn unseal(&self, sealed: &SealedKey) -> Result<SealKey> {
        let public = hex::decode(&sealed.public).map_err(|_| TpmError::NotOurs)?;
        let private = hex::decode(&sealed.private).map_err(|_| TpmError::NotOurs)?;
        let mut context = self.context()?;
        let unsealing = |context: &mut Context| -> std::result::Result<SensitiveData, Error> {
            let storage = storage_key(context)?;
            let session = session(context, Some(storage), SessionType::Policy)?;
            let (attributes, mask) = SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
            context.tr_sess_set_attributes(session, attributes, mask)?;
            let (private, public) = (Private::try_from(private)?, Public::unmarshall(&public)?);
            let object = context.execute_with_nullauth_session(|context| context.load(storage, private, public))?;
            context.policy_pcr(PolicySession::try_from(session)?, Digest::default(), selection_of(&sealed.pcrs)?)?;
            context.execute_with_session(Some(session), |context| context.unseal(object.into()))
        };
        let data = unsealing(&mut context).map_err(|error| match kind(&error) {
            Some(Tss2ResponseCodeKind::PolicyFail) => TpmError::Changed(numbers(&sealed.pcrs)),
            Some(Tss2ResponseCodeKind::Integrity) => TpmError::NotOurs,
            _ => fault("unseal keys", error),
        })?;
        let mut bytes = ward_secret::Zeroizing::new(data.value().to_vec());
        Ok(SealKey::take(&mut bytes)?)
    }

    fn context(&self) -> Result<Context> {
        Context::new(self.tcti.clone()).map_err(|error| fault("speak to the TPM", error))
    }
}

fn fault(doing: &'static str, source: Error) -> TpmError {
    TpmError::Tpm { doing, source }
}

fn numbers(pcrs: &[u8]) -> String {
    pcrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn kind(error: &Error) -> Option<Tss2ResponseCodeKind> {
    match error {
        Error::Tss2Error(code) => code.kind(),
        Error::WrapperError(_) => None,
    }
}

fn selection(pcrs: &[u8]) -> Result<PcrSelectionList> {
    let refused = || TpmError::Pcrs(numbers(pcrs));
    if pcrs.iter().any(|pcr| *pcr > 23) {
        return Err(refused());
    }
    selection_of(pcrs).map_err(|_| refused())
}

fn selection_of(pcrs: &[u8]) -> std::result::Result<PcrSelectionList, Error> {
    let slots =
        pcrs.iter().map(|pcr| PcrSlot::try_from(1u32 << (pcr & 31))).collect::<std::result::Result<Vec<_>, _>>()?;
    PcrSelectionListBuilder::new().with_selection(HashingAlgorithm::Sha256, &slots).build()
}

/// The storage key of the TCG's profile for ECC P-256, made anew from the owner hierarchy's seed.
fn storage_key(context: &mut Context) -> std::result::Result<KeyHandle, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new_restricted_decryption_key(
        SymmetricDefinitionObject::AES_128_CFB,
        EccCurve::NistP256,
    )
    .build()?;
    let public = PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()?;
    let made = context.execute_with_nullauth_session(|context| {
        context.create_primary(Hierarchy::Owner, public, None, None, None, None)
    })?;
    Ok(made.key_handle)
}

/// An object that holds data, which the policy gives out and nothing else does.
fn sealed_object(policy: Digest) -> std::result::Result<Public, Error> {
    let attributes =
        ObjectAttributesBuilder::new().with_fixed_tpm(true).with_fixed_parent(true).with_no_da(true).build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}

/// A session; salted where there is a key for that.
fn session(
    context: &mut Context,
    salt: Option<KeyHandle>,
    session_type: SessionType,
) -> std::result::Result<AuthSession, Error> {
    let session = context.start_auth_session(
        salt,
        None,
        None,
        session_type,
        SymmetricDefinition::AES_128_CFB,
        HashingAlgorithm::Sha256,
    )?;
    session.ok_or(Error::WrapperError(tss_esapi::WrapperErrorKind::InvalidHandleState))
}

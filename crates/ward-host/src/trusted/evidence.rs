//! What this machine's TPM says of it, for the attestation service.
//!
//! Nothing is kept in the TPM or on disk: endorsement key and attestation key are made anew from the endorsement
//! hierarchy's seed whenever they are wanted, and are the same each time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr as _;

use attest::appraisal::Evidence;
use attest::credential::CredentialBlob;
use attest::hash::{Digest, HashAlg};
use attest::quote::{PcrValues, QuoteEvidence, QuoteRequest};
use tss_esapi::abstraction::{AsymmetricAlgorithmSelection, ek, pcr};
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{AuthHandle, KeyHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Data, Digest as TpmDigest, EccPoint, EccScheme, EncryptedSecret, HashScheme, IdObject, KeyDerivationFunctionScheme,
    Nonce, PcrSelectionList, PcrSelectionListBuilder, PcrSlot, Public, PublicBuilder, PublicEccParametersBuilder,
    SignatureScheme, SymmetricDefinition, SymmetricDefinitionObject,
};
use tss_esapi::traits::Marshall as _;
use tss_esapi::{Context, Error, TctiNameConf, WrapperErrorKind};
use ward_secret::Zeroizing;

use crate::config::TpmConfig;
use crate::fault::{Doing as _, Fault, Result};

/// The kind of endorsement key that every TPM 2.0 has (TCG EK Credential Profile, template L-1).
const EK: AsymmetricAlgorithmSelection = AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048);

/// The machine's TPM and event log.
pub(crate) struct Machine {
    tcti: TctiNameConf,
    event_log: PathBuf,
}

/// The keys by which the machine is known.
#[derive(Clone)]
pub(crate) struct MachineKeys {
    /// The endorsement key's TPM2B_PUBLIC.
    pub(crate) ek: Vec<u8>,
    /// Its certificate, if the TPM has one.
    pub(crate) ek_certificate: Option<Vec<u8>>,
    /// The attestation key's TPM2B_PUBLIC.
    pub(crate) ak: Vec<u8>,
}

type Tss<T> = std::result::Result<T, Error>;
/// PCRs and what they hold.
type Values = BTreeMap<u8, Vec<u8>>;

impl Machine {
    pub(crate) fn new(config: &TpmConfig) -> Result<Self> {
        let tcti = TctiNameConf::from_str(&config.tcti)
            .map_err(|_| Fault::invalid(format!("`{}` names no way to a TPM (a TCTI)", config.tcti)))?;
        Ok(Self { tcti, event_log: config.event_log.clone() })
    }

    /// The machine's keys.
    pub(crate) fn keys(&self) -> Result<MachineKeys> {
        let mut context = self.context()?;
        let (_, ek) = endorsement_key(&mut context).map_err(|error| fault("make the endorsement key", error))?;
        let (_, ak) = attestation_key(&mut context).map_err(|error| fault("make the attestation key", error))?;
        let sized = |public: &Public| public.marshall().and_then(|bytes| with_length(&bytes));
        Ok(MachineKeys {
            ek: sized(&ek).map_err(|error| fault("read the endorsement key", error))?,
            ak: sized(&ak).map_err(|error| fault("read the attestation key", error))?,
            // A TPM without one is known by its bare key, where the attestation service allows that.
            ek_certificate: ek::retrieve_ek_pubcert(&mut context, EK).ok(),
        })
    }

    /// TPM2_ActivateCredential.
    pub(crate) fn activate(&self, blob: &CredentialBlob) -> Result<Zeroizing<Vec<u8>>> {
        let mut context = self.context()?;
        let activating = |context: &mut Context| -> Tss<TpmDigest> {
            let (ek, _) = endorsement_key(context)?;
            let (ak, _) = attestation_key(context)?;
            let session = policy_session(context)?;
            context.execute_with_nullauth_session(|context| {
                let policy = PolicySession::try_from(session)?;
                let nothing = (Nonce::default(), TpmDigest::default(), Nonce::default());
                context.policy_secret(policy, AuthHandle::Endorsement, nothing.0, nothing.1, nothing.2, None)
            })?;
            let id_object = IdObject::try_from(without_length(&blob.id_object)?)?;
            let secret = EncryptedSecret::try_from(without_length(&blob.encrypted_secret)?)?;
            let sessions = (Some(AuthSession::Password), Some(session), None);
            context.execute_with_sessions(sessions, |context| context.activate_credential(ak, ek, id_object, secret))
        };
        let secret = activating(&mut context).map_err(|error| fault("open a credential", error))?;
        Ok(Zeroizing::new(secret.value().to_vec()))
    }

    /// The event log, and a quote of what it led to.
    pub(crate) fn evidence(&self, request: &QuoteRequest) -> Result<Evidence> {
        let event_log = std::fs::read(&self.event_log).doing("read the firmware's event log", &self.event_log)?;
        let bank = match request.bank() {
            HashAlg::Sha256 => HashingAlgorithm::Sha256,
            HashAlg::Sha384 => HashingAlgorithm::Sha384,
            HashAlg::Sha512 => HashingAlgorithm::Sha512,
            other => return Err(Fault::unfit(format!("a quote of bank {other} is asked for"), "ask for sha256")),
        };
        let slots: Vec<_> = request.pcrs().iter().filter_map(|pcr| PcrSlot::try_from(1_u32 << pcr).ok()).collect();
        let mut context = self.context()?;
        let quoting = |context: &mut Context| -> Tss<(Vec<u8>, Vec<u8>, Values)> {
            let (ak, _) = attestation_key(context)?;
            let data = Data::try_from(request.qualifying_data())?;
            let wanted = selection(bank, &slots)?;
            let (quoted, signature) = context
                .execute_with_nullauth_session(|context| context.quote(ak, data, SignatureScheme::Null, wanted))?;
            let read = pcr::read_all(context, selection(bank, &slots)?)?;
            let bank = read.pcr_bank(bank);
            let values = request.pcrs().iter().filter_map(|pcr| {
                let value = bank?.get_digest(PcrSlot::try_from(1_u32 << pcr).ok()?)?;
                Some((pcr, value.value().to_vec()))
            });
            Ok((quoted.marshall()?, signature.marshall()?, values.collect()))
        };
        let (message, signature, values) = quoting(&mut context).map_err(|error| fault("quote PCRs", error))?;
        let values = values.into_iter().map(|(pcr, value)| Some((pcr, Digest::new(request.bank(), &value)?)));
        let pcrs = values.collect::<Option<BTreeMap<_, _>>>().and_then(|values| PcrValues::new(values).ok());
        let pcrs = pcrs.ok_or_else(|| {
            let why = format!("the TPM has no {} bank of PCRs", request.bank());
            Fault::unfit(why, "enable the bank in the machine's firmware")
        })?;
        Ok(Evidence { quote: QuoteEvidence { message, signature, pcrs }, event_log })
    }

    fn context(&self) -> Result<Context> {
        Context::new(self.tcti.clone()).map_err(|error| fault("speak to the TPM", error))
    }
}

fn fault(doing: &str, error: Error) -> Fault {
    let why = format!("cannot {doing}: {error}");
    Fault::unfit(why, "check the TPM (`--tpm`), and that the agent's user may use it; the system's log may say more")
}

fn unfit() -> Error {
    Error::WrapperError(WrapperErrorKind::WrongParamSize)
}

/// A TPM2B of these bytes.
fn with_length(bytes: &[u8]) -> Tss<Vec<u8>> {
    let length = u16::try_from(bytes.len()).map_err(|_| unfit())?;
    Ok([&length.to_be_bytes(), bytes].concat())
}

/// The bytes of a TPM2B.
fn without_length(sized: &[u8]) -> Tss<Vec<u8>> {
    let (length, bytes) = sized.split_first_chunk::<2>().ok_or_else(unfit)?;
    if usize::from(u16::from_be_bytes(*length)) == bytes.len() { Ok(bytes.to_vec()) } else { Err(unfit()) }
}

fn selection(bank: HashingAlgorithm, slots: &[PcrSlot]) -> Tss<PcrSelectionList> {
    PcrSelectionListBuilder::new().with_selection(bank, slots).build()
}

fn endorsement_key(context: &mut Context) -> Tss<(KeyHandle, Public)> {
    primary(context, ek::create_ek_public_from_default_template_2(EK, None)?)
}

/// ECDSA on P-256 with SHA-256, restricted: it signs nothing but what the TPM itself says.
fn attestation_key(context: &mut Context) -> Tss<(KeyHandle, Public)> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(true)
        .with_is_decryption_key(false)
        .with_restricted(true)
        .build()?;
    let public = PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()?;
    primary(context, public)
}

fn primary(context: &mut Context, template: Public) -> Tss<(KeyHandle, Public)> {
    let made = context.execute_with_nullauth_session(|context| {
        context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
    })?;
    Ok((made.key_handle, made.out_public))
}

fn policy_session(context: &mut Context) -> Tss<AuthSession> {
    let session = context.start_auth_session(
        None,
        None,
        None,
        SessionType::Policy,
        SymmetricDefinition::AES_128_CFB,
        HashingAlgorithm::Sha256,
    )?;
    let session = session.ok_or(Error::WrapperError(WrapperErrorKind::InvalidHandleState))?;
    let (attributes, mask) = SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
    context.tr_sess_set_attributes(session, attributes, mask)?;
    Ok(session)
}

//! A vTPM's endorsement keys, and their certificates in its NV memory: TCG EK Credential Profile for TPM 2.0.
//!
//! The keys follow from the seed that a TPM has from its beginning, so none has to be kept: whoever wants to use one makes
//! it again from the same template.

use attest::ek::check_ek;
use attest::tpm::Public;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tss_esapi::abstraction::{AsymmetricAlgorithmSelection, ek};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::traits::Marshall as _;
pub(crate) use ward_rpc::api::host::EkRequest;
use ward_rpc::check_ek_certificate;
use ward_types::{Code, EkCertificate, Endorsement, TpmMake};

use super::commands::ENDORSEMENT;
use super::session::Session;
use crate::fault::{Fault, Result};

/// The NV indices of the certificates: section 2.2.1.4, of the templates L-1 and L-2.
const RSA_INDEX: u32 = 0x01C0_0002;
const ECC_INDEX: u32 = 0x01C0_000A;
/// TPM_PT_REVISION, _MANUFACTURER, _FIRMWARE_VERSION_1
const REVISION: u32 = 0x102;
const MANUFACTURER: u32 = 0x105;
const FIRMWARE: u32 = 0x10B;
/// What a TPM that is a program says for its model.
const MODEL: &str = "swtpm";
/// Certificates that somebody gives; none leaves that key's as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) rsa: Option<EkCertificate>,
    pub(crate) ecc: Option<EkCertificate>,
}

impl Given {
    /// Those that a vTPM has then. Each must be of its key.
    pub(super) fn put_into(&self, mut now: Endorsement) -> Result<Endorsement> {
        for (key, given, name) in [(&mut now.rsa, &self.rsa, "RSA"), (&mut now.ecc, &self.ecc, "ECC")] {
            if let Some(given) = given {
                key.certificate = given.clone();
            }
            check(&key.public, &key.certificate, name)?;
        }
        Ok(now)
    }
}

/// Makes sure that certificates are of the keys that are known, before anything is begun.
pub(crate) fn check_given(known: &Endorsement, given: &Given) -> Result<()> {
    given.put_into(known.clone()).map(drop)
}

fn check(public: &str, certificate: &EkCertificate, name: &str) -> Result<()> {
    check_ek_certificate(public, certificate).map_err(|error| {
        let why = format!("the certificate for the {name} key of the vTPM: {error}");
        Fault::new(Code::RequestInvalid, why, "give one that was made of the request that `ward vm tpm csr` writes")
    })
}

/// What certificates are to be made of.
pub(super) fn request(session: &mut Session) -> Result<EkRequest> {
    let make = TpmMake {
        manufacturer: format!("id:{:08X}", session.property(MANUFACTURER)?),
        model: MODEL.to_owned(),
        version: format!("id:{:08X}", session.property(FIRMWARE)?),
        revision: session.property(REVISION)?,
    };
    let mut public = |kind| -> Result<String> {
        let public = session.primary(ENDORSEMENT, &template(kind)?)?;
        let sound = Public::from_tpm2b(&public).map_err(|error| error.to_string());
        let sound = sound.and_then(|public| check_ek(&public).map_err(|error| error.to_string()));
        sound.map_err(|why| Fault::new(Code::VmmFailed, format!("swtpm's TPM makes no EK: {why}"), REINSTALL))?;
        Ok(STANDARD.encode(public))
    };
    let rsa = public(AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048))?;
    let ecc = public(AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256))?;
    Ok(EkRequest { make, rsa, ecc })
}

const REINSTALL: &str = "check swtpm's installation";

/// The TPMT_PUBLIC of the TCG's default template.
fn template(kind: AsymmetricAlgorithmSelection) -> Result<Vec<u8>> {
    let template = ek::create_ek_public_from_default_template_2(kind, None).and_then(|public| public.marshall());
    template.map_err(|error| Fault::internal(format!("no template of an EK: {error}")))
}

/// Writes the certificates, in the place of those that are there.
pub(super) fn write(session: &mut Session, endorsement: &Endorsement) -> Result<()> {
    for (index, key) in [(RSA_INDEX, &endorsement.rsa), (ECC_INDEX, &endorsement.ecc)] {
        let certificate = STANDARD.decode(&key.certificate.0);
        let certificate = certificate.map_err(|_| Fault::internal("a certificate was not checked"))?;
        session.put_certificate(index, &certificate)?;
    }
    Ok(())
}

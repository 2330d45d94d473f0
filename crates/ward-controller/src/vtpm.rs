//! vTPMs as the controller knows them: its CA for their endorsement keys, and what is shown of their certificates.

use kmip::certificate::CertificateInfo;
use ward_rpc::api::host::TpmChange;
use ward_rpc::{EkAuthority, EkError, certificate_from_file, certificate_pem, check_ek_certificate};
use ward_types::{Code, EkCertificate, Endorsement, EndorsementKey, Problem};

use crate::api::types::{CertifyTpm, EkKind, EkView, TpmCa, TpmView};
use crate::keys::identity::certificate_info;
use crate::store::vm::VmRow;

/// What there is to know of the CA.
pub(crate) fn ca(authority: &EkAuthority) -> Result<TpmCa, Problem> {
    let pem = authority.certificate().to_owned();
    let info = certificate_info(&pem).ok_or_else(|| Problem::internal("cannot show the CA of vTPMs", "it is none"))?;
    Ok(TpmCa { certificate: crate::api::providers::certificate(&info), pem })
}

/// What there is to know of a VM's vTPM.
pub(crate) fn view(vm: &VmRow) -> Result<TpmView, Problem> {
    let what = format!("cannot show the vTPM of VM `{}`", vm.name);
    let tpm = vm.config.as_ref().and_then(|config| config.tpm.as_ref());
    let tpm = tpm.ok_or_else(|| none(&what))?;
    let broken = |error: EkError| Problem::internal(&what, error);
    let mut keys = Vec::new();
    if let Some(Endorsement { make, rsa, ecc }) = &tpm.endorsement {
        for (kind, key) in [(EkKind::Rsa, rsa), (EkKind::Ecc, ecc)] {
            let pem = certificate_pem(&key.certificate).map_err(broken)?;
            let info: CertificateInfo =
                certificate_info(&pem).ok_or_else(|| Problem::internal(&what, "a certificate is none"))?;
            keys.push(EkView {
                key: kind,
                certificate: crate::api::providers::certificate(&info),
                pem,
                csr: ward_rpc::request_pem(&key.public, make, vm.id, &vm.name).map_err(broken)?,
            });
        }
    }
    Ok(TpmView { state: tpm.state.clone(), keys })
}

fn none(what: &str) -> Problem {
    Problem::new(Code::TpmNone, what, "it has no vTPM", "give it one with `ward vm tpm add`")
}

/// What becomes of a vTPM that gets certificates: those that are given, or the controller's own.
pub(crate) fn certified(authority: &EkAuthority, vm: &VmRow, asked: &CertifyTpm) -> Result<TpmChange, Problem> {
    let what = format!("cannot give the vTPM of VM `{}` certificates", vm.name);
    let tpm = vm.config.as_ref().and_then(|config| config.tpm.as_ref()).ok_or_else(|| none(&what))?;
    let invalid = |why: String| {
        let remedy = "give certificates that were made of the requests of `ward vm tpm csr`, or say `--own`";
        Problem::new(Code::RequestInvalid, &what, why, remedy)
    };
    if asked.own == (asked.rsa.is_some() || asked.ecc.is_some()) {
        return Err(invalid("either certificates are given, or the controller's own are asked for".to_owned()));
    }
    let Some(known) = &tpm.endorsement else {
        // What its keys are only its host can tell, which asks for the controller's certificates then.
        if asked.own {
            return Ok(TpmChange::Certify { rsa: None, ecc: None });
        }
        let why = "it was made before vTPMs had certificates, so that its keys are not known";
        return Err(Problem::new(Code::RequestInvalid, &what, why, "first say `--own`"));
    };
    let one = |name: &str, key: &EndorsementKey, given: &Option<String>| -> Result<Option<EkCertificate>, Problem> {
        if asked.own {
            let own = authority.certify_one(&key.public, &known.make, vm.id, &vm.name);
            return own.map(Some).map_err(|error| Problem::internal(&what, error));
        }
        let Some(given) = given else { return Ok(None) };
        let certificate = certificate_from_file(given.as_bytes());
        let certificate = certificate.map_err(|error| invalid(format!("the {name} certificate: {error}")))?;
        check_ek_certificate(&key.public, &certificate)
            .map_err(|error| invalid(format!("the {name} certificate: {error}")))?;
        Ok(Some(certificate))
    };
    Ok(TpmChange::Certify { rsa: one("RSA", &known.rsa, &asked.rsa)?, ecc: one("ECC", &known.ecc, &asked.ecc)? })
}

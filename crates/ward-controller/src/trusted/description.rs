//! Descriptions of trust authorities' services. Pure.

use ward_trust::services::Services;
use ward_trust::signed::Signed;
use ward_types::{Code, Problem, ProviderName};

const REMEDY: &str = "have the trust administrators describe the services anew: `ward trust describe`";

/// Reads a description. That the right administrators signed it, the hosts see to: each goes by the key that it was given,
/// or that it saw first.
pub(crate) fn open(what: &str, provider: &ProviderName, text: &str) -> Result<(Signed, Services), Problem> {
    let refused = |why: String| Problem::new(Code::DescriptionRefused, what, why, REMEDY);
    let signed = Signed::parse(text).map_err(|error| refused(format!("the description: {error}")))?;
    let services: Services =
        signed.open(&signed.signer().clone()).map_err(|error| refused(format!("the description: {error}")))?;
    if services.version != 1 {
        return Err(refused(format!("the description is of version {}, which is not known here", services.version)));
    }
    if services.attestation.is_empty() || services.key_providers.is_empty() {
        return Err(refused("the description names no instance of one of the services".to_owned()));
    }
    if services.providers.contains(provider) {
        return Ok((signed, services));
    }
    let names: Vec<_> = services.providers.iter().map(ToString::to_string).collect();
    let why = format!("the description names no key provider `{provider}`, but {}", names.join(", "));
    Err(refused(why))
}

/// Whether a description may take the place of the one that is there.
pub(crate) fn newer(what: &str, provider: &ProviderName, old: &str, new: (&Signed, &Services)) -> Result<(), Problem> {
    let (old_signed, old) = open(what, provider, old)?;
    let why = if old_signed.signer() != new.0.signer() {
        "it is signed by other administrators than the one that is there"
    } else if old.serial > new.1.serial {
        "it is older than the one that is there"
    } else if old.serial == new.1.serial && old_signed != *new.0 {
        "it has the serial of the one that is there, and is another"
    } else {
        return Ok(());
    };
    Err(Problem::new(Code::DescriptionRefused, what, why, REMEDY))
}

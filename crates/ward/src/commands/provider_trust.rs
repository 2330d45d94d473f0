//! `ward provider trust`: who trusts whom, both ways, step by step.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::Args;
use ward_controller::api::types::{
    CertificateSubject, CertificateView, KnownBy, NewIdentity, ProviderView, ShownServer, TrustServers,
};
use ward_types::{Code, Problem, ProviderName};

use super::provider::describe;
use super::read_file;
use crate::client::Api;
use crate::output::{Output, fields, print_text};

/// `ward provider trust`.
#[derive(Args)]
#[command(after_help = "\
Without an option it shows the certificates that the key servers show, and says what is missing.

The servers are known by a CA (--ca), or by certificates that you have compared with what the key server's administrator
gives (--accept). The controller is known to them by a certificate of its own, in one of three ways:
  ward provider trust kms --csr --out ward.csr     a request; have it signed, then: ward provider trust kms --cert ward.pem
  ward provider trust kms --self-signed --out ward.pem    let the servers trust it, then: ward provider trust kms --try
  ward provider trust kms --cert ward.pem --key ward.key
A new certificate is used from when it has worked at the servers on, and not before.")]
pub(crate) struct Trust {
    /// The provider's name.
    name: ProviderName,
    /// Know servers by the certificate with this SHA-256 fingerprint, which they must show just now.
    #[arg(long, value_name = "FINGERPRINT", group = "how")]
    accept: Option<String>,
    /// Know the servers by the certificates of these authorities, PEM.
    #[arg(long, value_name = "FILE", group = "how")]
    ca: Option<PathBuf>,
    /// Make a new key for the controller, and a request for a certificate.
    #[arg(long, group = "how")]
    csr: bool,
    /// Make a new key for the controller, and a certificate that it signs itself.
    #[arg(long, group = "how")]
    self_signed: bool,
    /// The controller's certificate, PEM: for the latest request, or with its key (`--key`).
    #[arg(long, value_name = "FILE", group = "how")]
    cert: Option<PathBuf>,
    /// Try the controller's new certificate again, and use it if it works.
    #[arg(long = "try", group = "how")]
    again: bool,
    /// The private key of the certificate, PEM. The controller keeps it sealed, and gives it to nobody.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// To whom the certificate is to be made out, such as CN=ward,OU=IT,O=Example,L=Berne,ST=BE,C=CH.
    #[arg(long, value_name = "NAME", value_parser = parse_subject)]
    subject: Option<CertificateSubject>,
    /// Write the request, or the controller's certificate, to this file.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Trust {
    pub(crate) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let name = &self.name;
        let what = format!("cannot set up the trust of key provider `{name}`");
        if self.subject.is_some() && !(self.csr || self.self_signed) {
            let why = "`--subject` is of use with `--csr` and `--self-signed` only";
            return Err(Problem::new(Code::RequestInvalid, what, why, "leave it out"));
        }
        let subject = self.subject.clone().unwrap_or_default();
        let identity = format!("/providers/{name}/identity");
        let provider: ProviderView = if let Some(fingerprint) = self.accept.clone() {
            api.put(&format!("/providers/{name}/trust"), &TrustServers::Fingerprint { fingerprint }).await?
        } else if let Some(ca) = &self.ca {
            let ca = read_file(&what, ca)?;
            api.put(&format!("/providers/{name}/trust"), &TrustServers::Ca { ca }).await?
        } else if self.csr {
            api.post(&identity, &NewIdentity::Request { subject }).await?
        } else if self.self_signed {
            api.post(&identity, &NewIdentity::SelfSigned { subject }).await?
        } else if let Some(certificate) = &self.cert {
            let certificate = read_file(&what, certificate)?;
            let new = match &self.key {
                Some(key) => NewIdentity::CertificateAndKey { certificate, key: read_file(&what, key)? },
                None => NewIdentity::Certificate { certificate },
            };
            api.post(&identity, &new).await?
        } else if self.again {
            api.post(&format!("{identity}/try"), &()).await?
        } else if self.out.is_none() {
            return guide(api, name, output).await;
        } else {
            api.get(&format!("/providers/{name}")).await?
        };
        let Some(pem) = self.to_hand_out(&provider) else {
            if self.out.is_some() {
                let why = "the controller has neither a request nor a certificate to write";
                let remedy = format!("make one: `ward provider trust {name} --csr`");
                return Err(Problem::new(Code::RequestInvalid, what, why, remedy));
            }
            return output.show(&provider, || describe(&provider));
        };
        if let Some(out) = &self.out {
            std::fs::write(out, pem).map_err(|error| {
                let why = format!("{}: {error}", out.display());
                Problem::new(Code::RequestInvalid, what, why, "name a file that can be written")
            })?;
        }
        output.show(&provider, || match &self.out {
            Some(out) => format!("written to {}\n{}", out.display(), next_steps(&provider)),
            None => format!("{}\n{}", pem.trim_end(), next_steps(&provider)),
        })
    }

    /// What the key server's side is to get: the request, or the certificate that is to be trusted.
    fn to_hand_out<'a>(&self, provider: &'a ProviderView) -> Option<&'a str> {
        if !(self.csr || self.self_signed || self.out.is_some()) {
            return None;
        }
        let pending = provider.pending.as_ref();
        let pending = pending.and_then(|pending| pending.pem.as_deref().or(pending.request.as_deref()));
        pending.or(provider.certificate_pem.as_deref())
    }
}

/// Shows what the servers show, lets a person accept it, and says what is missing.
async fn guide(api: &Api, name: &ProviderName, output: Output) -> Result<(), Problem> {
    let shown: Vec<ShownServer> = api.list(&format!("/providers/{name}/certificates")).await?;
    if output == Output::Json {
        return output.show(&shown, String::new);
    }
    let mut accepted = None;
    for server in &shown {
        print_text(&describe_shown(server))?;
        let Some(certificate) = server.certificates.first() else { continue };
        let known = server.server_trusted.problem().is_none();
        if known || accepted.as_ref() == Some(&certificate.fingerprint) || !std::io::stdin().is_terminal() {
            continue;
        }
        if asked(&format!("Is this the certificate of {}? Type yes to accept it: ", server.address)) {
            let fingerprint = certificate.fingerprint.clone();
            let trust = TrustServers::Fingerprint { fingerprint: fingerprint.clone() };
            let _: ProviderView = api.put(&format!("/providers/{name}/trust"), &trust).await?;
            accepted = Some(fingerprint);
        }
    }
    let provider: ProviderView = api.get(&format!("/providers/{name}")).await?;
    print_text(&next_steps(&provider))
}

fn asked(question: &str) -> bool {
    eprint!("{question}");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && answer.trim() == "yes"
}

fn describe_shown(server: &ShownServer) -> String {
    let problem = server.connection.problem().or(server.server_trusted.problem());
    let trusted = match problem {
        Some(problem) => format!("no: {}", problem.why),
        None => "yes".to_owned(),
    };
    let certificate = server.certificates.first();
    let said = |say: &dyn Fn(&CertificateView) -> String| certificate.map_or_else(String::new, say);
    fields(&[
        ("key server", server.address.to_string()),
        ("made out to", said(&|it| it.subject.clone())),
        ("for", said(&|it| it.names.join(", "))),
        ("by", said(&|it| it.issuer.clone())),
        ("valid", said(&|it| format!("{} to {} ({} days left)", it.not_before, it.not_after, it.days_left))),
        ("SHA-256", said(&|it| it.fingerprint.clone())),
        ("trusted", trusted),
    ]) + "\n"
}

/// What is missing until both sides trust each other.
fn next_steps(provider: &ProviderView) -> String {
    let name = &provider.name;
    let mut steps = Vec::new();
    if provider.servers.iter().any(|server| server.known == KnownBy::Nothing) {
        steps.push(format!(
            "compare the certificates with those at the key servers, and accept them: `ward provider trust {name} \
             --accept FINGERPRINT`; or give their CA: `--ca FILE`"
        ));
    }
    match &provider.pending {
        Some(pending) if pending.pem.is_none() => steps.push(format!(
            "have the request signed (`ward provider trust {name} --out FILE` writes it), and give the certificate: `ward \
             provider trust {name} --cert FILE`"
        )),
        Some(_) => steps.push(format!(
            "let the key servers trust the controller's new certificate (`ward provider trust {name} --out FILE` writes \
             it), then use it: `ward provider trust {name} --try`"
        )),
        None if provider.certificate.is_none() => steps.push(format!(
            "give the controller a certificate: `ward provider trust {name} --csr`, `--self-signed`, or `--cert FILE \
             --key FILE`"
        )),
        None => {}
    }
    for server in &provider.servers {
        if let (KnownBy::Ca | KnownBy::Fingerprint { .. }, Some(problem)) = (&server.known, server.problem())
            && (provider.certificate.is_some() || server.client_trusted.problem().is_none())
        {
            steps.push(format!("{}: {}; {}", server.address, problem.why, problem.remedy));
        }
    }
    if steps.is_empty() {
        return "both sides trust each other".to_owned();
    }
    let steps = steps.iter().map(|step| format!("  - {step}"));
    std::iter::once("next:".to_owned()).chain(steps).collect::<Vec<_>>().join("\n")
}

/// Reads a subject such as `CN=ward,O=Example`.
fn parse_subject(text: &str) -> Result<CertificateSubject, String> {
    let mut subject = CertificateSubject::default();
    for part in text.split(',') {
        let (field, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is not FIELD=VALUE"))?;
        let place = match field.trim().to_ascii_uppercase().as_str() {
            "CN" => &mut subject.common_name,
            "O" => &mut subject.organization,
            "OU" => &mut subject.organizational_unit,
            "L" => &mut subject.locality,
            "ST" => &mut subject.state,
            "C" => &mut subject.country,
            other => return Err(format!("`{other}` is none of CN, O, OU, L, ST, C")),
        };
        if place.replace(value.trim().to_owned()).is_some() {
            return Err(format!("`{field}` stands there twice"));
        }
    }
    Ok(subject)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn subjects() {
        let subject = parse_subject("CN=ward, O=Example Ltd,c=CH").unwrap();
        let text = |text: &str| Some(text.to_owned());
        let expected = CertificateSubject {
            common_name: text("ward"),
            organization: text("Example Ltd"),
            country: text("CH"),
            ..CertificateSubject::default()
        };
        assert_eq!(subject, expected);
        for wrong in ["", "ward", "CN=a,CN=b", "DC=example"] {
            assert!(parse_subject(wrong).is_err(), "{wrong}");
        }
    }
}

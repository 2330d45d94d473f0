//! Which host does the work.

use ward_rpc::api::host::HostParts;
use ward_types::{Code, Firmware, HostId, HostMode, Name, Problem, ProviderName, VmConfig};

use super::HostFacts;

/// What the work needs of a host.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs<'a> {
    /// This very host, because a user says so.
    pub(crate) asked: Option<&'a Name>,
    /// This host rather than another.
    pub(crate) rather: Option<HostId>,
    /// This one and no other: the VM runs there.
    pub(crate) only: Option<HostId>,
    /// Not this one: it was tried.
    pub(crate) not: Option<HostId>,
    /// A QEMU.
    pub(crate) qemu: bool,
    /// Memory for keys.
    pub(crate) keys: bool,
    /// A TPM 2.0: a key provider gives its key to no host without one.
    pub(crate) tpm: bool,
    /// What else VMs need.
    pub(crate) parts: HostParts,
    /// Keys of these trusted providers: it must be attested for each, and reach it.
    pub(crate) trusted: &'a [ProviderName],
}

/// Chooses a host: of those that can, the one that is preferred, else the one with the fewest VMs.
pub(crate) fn place(what: &str, hosts: &[HostFacts], needs: Needs<'_>) -> Result<HostId, Problem> {
    if let Some(asked) = needs.asked {
        let Some(host) = hosts.iter().find(|host| &host.name == asked) else {
            return Err(Problem::new(
                Code::NotFound,
                what,
                format!("the VM's cluster has no host `{asked}`"),
                "`ward host ls` lists the hosts",
            ));
        };
        return lacks(host, needs).map_or(Ok(host.id), |lack| Err(lack.problem(what)));
    }
    let among: Vec<_> = match needs.only {
        Some(only) => hosts.iter().filter(|host| host.id == only).cloned().collect(),
        None => hosts.to_vec(),
    };
    let hosts = among.as_slice();
    let mut able: Vec<_> =
        hosts.iter().filter(|host| Some(host.id) != needs.not && lacks(host, needs).is_none()).collect();
    able.sort_by_key(|host| (Some(host.id) != needs.rather, host.vms, host.name.clone()));
    if let Some(host) = able.first() {
        return Ok(host.id);
    }
    let reasons: Vec<_> = hosts.iter().filter_map(|host| lacks(host, needs)).collect();
    Err(match reasons.as_slice() {
        [] => Problem::new(
            Code::HostNone,
            what,
            "its cluster has no host that could do it",
            "add one: `ward host add` makes the token with which a host joins",
        ),
        [only] if hosts.len() == 1 => only.problem(what),
        several => Problem::new(
            Code::HostNone,
            what,
            format!(
                "no host of its cluster can do it: {}",
                several.iter().map(|lack| lack.why.as_str()).collect::<Vec<_>>().join("; ")
            ),
            several.first().map_or_else(String::new, |lack| lack.remedy.clone()),
        ),
    })
}

/// What a host lacks.
struct Lack {
    code: Code,
    why: String,
    remedy: String,
}

impl Lack {
    fn problem(&self, what: &str) -> Problem {
        Problem::new(self.code, what, self.why.clone(), self.remedy.clone())
    }
}

fn lacks(host: &HostFacts, needs: Needs<'_>) -> Option<Lack> {
    let name = &host.name;
    if !host.connected {
        return Some(Lack {
            code: Code::HostUnreachable,
            why: format!("host `{name}` does not answer"),
            remedy: format!("check that the agent of `{name}` runs and that the network reaches it"),
        });
    }
    if let Some(unfit) = host.unfit.as_ref().filter(|_| needs.keys) {
        return Some(Lack {
            code: Code::HostUnfit,
            why: format!("host `{name}` can't hold keys: {}", unfit.why),
            remedy: unfit.remedy.clone(),
        });
    }
    if needs.keys && !matches!(host.mode, HostMode::Prepared | HostMode::Safe) {
        let remedy = match host.mode {
            HostMode::PendingIncapable => {
                format!("restart the agent of `{name}`, then: `ward host encryption enable {name}`")
            }
            _ => format!("switch it on: `ward host encryption enable {name}`"),
        };
        let why = format!("the encryption mode of host `{name}` is `{}`, so that it gets no keys", host.mode);
        return Some(Lack { code: Code::HostMode, why, remedy });
    }
    if needs.tpm && !host.tpm {
        return Some(Lack {
            code: Code::HostUnfit,
            why: format!(
                "host `{name}` has no TPM 2.0, and the VM's key provider gives its key to no host without one"
            ),
            remedy: format!("run the agent of `{name}` with `--tpm`, if the machine has one"),
        });
    }
    if let Some(lack) = needs.trusted.iter().find_map(|provider| untrusted(host, provider)) {
        return Some(lack);
    }
    let unfit = |what: &str, package: &str| {
        Some(Lack {
            code: Code::HostUnfit,
            why: format!("host `{name}` has no {what}"),
            remedy: format!("install Debian's package `{package}` on `{name}`"),
        })
    };
    let (needed, there) = (needs.parts, host.parts);
    if needs.qemu && !host.qemu {
        unfit("QEMU", "qemu-system-x86")
    } else if needed.uefi && !there.uefi {
        unfit("UEFI firmware for VMs", "ovmf")
    } else if needed.secure_boot && !there.secure_boot {
        unfit("UEFI firmware that does Secure Boot", "ovmf")
    } else if needed.swtpm && !there.swtpm {
        unfit("swtpm, which vTPMs need", "swtpm")
    } else {
        None
    }
}

/// What a VM takes to run.
pub(crate) const fn parts(config: &VmConfig) -> HostParts {
    let (uefi, secure_boot) = match config.firmware {
        Firmware::Bios => (false, false),
        Firmware::Uefi { secure_boot, .. } => (true, secure_boot),
    };
    HostParts { uefi, secure_boot, swtpm: config.tpm.is_some() }
}

/// Why a host can't have keys of a trusted provider.
fn untrusted(host: &HostFacts, provider: &ProviderName) -> Option<Lack> {
    let name = &host.name;
    match host.trust.iter().find(|(known, _)| known == provider) {
        Some((_, None)) => None,
        Some((_, Some(problem))) => Some(Lack {
            code: problem.code,
            why: format!("host `{name}` gets no key of provider `{provider}`: {}", problem.why),
            remedy: problem.remedy.clone(),
        }),
        None => Some(Lack {
            code: Code::ProviderNone,
            why: format!("host `{name}` was not told of trusted key provider `{provider}`"),
            remedy: "`ward trust status` tells which hosts were; `ward trust remediate` tells them again".to_owned(),
        }),
    }
}

//! Host encryption mode: how it changes, and which hosts a cryptographic operation switches it on for.

use uuid::Uuid;
use ward_types::{Code, HostCrypto, HostId, HostMode, KeyRef, Name, Problem};

use super::{HostFacts, Needs, place};

/// A change of a host's encryption mode.
#[derive(Clone, Debug)]
pub(crate) enum ModeChange<'a> {
    /// It may have keys from now on.
    Prepare { attempt: Uuid },
    /// It has a host key.
    Enable { key: KeyRef },
    /// It is to get another host key, which is asked for under that name.
    Rekey { attempt: Uuid },
    /// The name under which a host key was asked for is of no use: a further try has another one.
    GiveUp { attempt: Uuid },
    /// It has another host key.
    ChangeKey { key: KeyRef },
    /// It is to have no keys any more. `boot` is the run of its agent, `vms` are the encrypted VMs that it runs.
    Disable { boot: Uuid, vms: &'a [Name] },
    /// Its agent has said how it is: the run, and how many keys it holds.
    Seen { boot: Uuid, holds: usize },
}

/// The mode after a change, or why it can't be.
pub(crate) fn change_mode(
    what: &str,
    host: &Name,
    now: &HostCrypto,
    change: ModeChange<'_>,
) -> Result<HostCrypto, Problem> {
    let refuse = |code, why: String, remedy: String| Err(Problem::new(code, what, why, remedy));
    let wrong = |remedy: String| {
        refuse(Code::HostMode, format!("the encryption mode of host `{host}` is `{}`", now.mode()), remedy)
    };
    let enable = || format!("switch it on first: `ward host encryption enable {host}`");
    let wait = || format!("restart its agent, or the machine; then: `ward host encryption enable {host}`");
    match (now, change) {
        (HostCrypto::Incapable, ModeChange::Prepare { attempt }) => Ok(HostCrypto::Prepared { attempt }),
        (HostCrypto::PendingIncapable { .. }, ModeChange::Prepare { .. } | ModeChange::Enable { .. }) => wrong(wait()),
        (_, ModeChange::Prepare { .. }) => wrong("nothing is to be done".to_owned()),
        (HostCrypto::Prepared { .. }, ModeChange::Enable { key }) => Ok(HostCrypto::Safe { key, rekey: None }),
        (HostCrypto::Safe { key: known, .. }, ModeChange::Enable { key }) if *known == key => Ok(now.clone()),
        (HostCrypto::Safe { key, .. }, ModeChange::Enable { .. }) => refuse(
            Code::Exists,
            format!("host `{host}` has another host key already: {key}"),
            format!("give it a new one with `ward host encryption rekey {host}`"),
        ),
        (HostCrypto::Incapable, ModeChange::Enable { .. }) => wrong(enable()),
        (HostCrypto::Safe { .. }, ModeChange::ChangeKey { key }) => Ok(HostCrypto::Safe { key, rekey: None }),
        (HostCrypto::Safe { rekey: Some(_), .. }, ModeChange::Rekey { .. }) => Ok(now.clone()),
        (HostCrypto::Safe { key, .. }, ModeChange::Rekey { attempt }) => {
            Ok(HostCrypto::Safe { key: key.clone(), rekey: Some(attempt) })
        }
        (HostCrypto::Prepared { .. }, ModeChange::GiveUp { attempt }) => Ok(HostCrypto::Prepared { attempt }),
        (HostCrypto::Safe { key, .. }, ModeChange::GiveUp { .. }) => {
            Ok(HostCrypto::Safe { key: key.clone(), rekey: None })
        }
        (HostCrypto::PendingIncapable { .. }, ModeChange::Rekey { .. } | ModeChange::ChangeKey { .. }) => wrong(wait()),
        (_, ModeChange::Rekey { .. } | ModeChange::ChangeKey { .. }) => wrong(enable()),
        (HostCrypto::Safe { .. }, ModeChange::Disable { vms, .. }) if !vms.is_empty() => {
            let names: Vec<_> = vms.iter().map(|vm| format!("`{vm}`")).collect();
            let why = format!("host `{host}` runs encrypted VMs: {}", names.join(", "));
            refuse(Code::InUse, why, "stop them, or start them on other hosts".to_owned())
        }
        (HostCrypto::Safe { key, .. }, ModeChange::Disable { boot, .. }) => {
            Ok(HostCrypto::PendingIncapable { key: key.clone(), boot })
        }
        (_, ModeChange::Disable { .. }) => wrong("it can be switched off where it is `safe`".to_owned()),
        (HostCrypto::PendingIncapable { boot: before, .. }, ModeChange::Seen { boot, holds: 0 }) if *before != boot => {
            Ok(HostCrypto::Incapable)
        }
        (_, ModeChange::Seen { .. } | ModeChange::GiveUp { .. }) => Ok(now.clone()),
    }
}

/// The hosts of a cluster for which somebody's cryptographic operation switches the mode on.
///
/// Where it is on for one of them, it is for all if the user may switch it on for all that are off; else those stay off.
/// Where it is on for none, it is for the host that will do the work, which the user must be allowed to; and for the others
/// too if it is for all.
pub(crate) fn on_demand(
    what: &str,
    hosts: &[HostFacts],
    may: &[HostId],
    needs: Needs<'_>,
) -> Result<Vec<HostId>, Problem> {
    let off: Vec<_> = hosts.iter().filter(|host| host.mode == HostMode::Incapable).collect();
    let all = || off.iter().map(|host| host.id).collect();
    let may_all = off.iter().all(|host| may.contains(&host.id));
    if hosts.iter().any(|host| matches!(host.mode, HostMode::Prepared | HostMode::Safe)) {
        return Ok(if may_all { all() } else { Vec::new() });
    }
    let switched = |host: &HostFacts| match host.mode {
        HostMode::Incapable => HostFacts { mode: HostMode::Prepared, ..host.clone() },
        _ => host.clone(),
    };
    let target = place(what, &hosts.iter().map(switched).collect::<Vec<_>>(), needs)?;
    if may_all {
        return Ok(all());
    }
    if may.contains(&target) {
        return Ok(vec![target]);
    }
    let allowed = hosts.iter().filter(|host| may.contains(&host.id)).map(switched).collect::<Vec<_>>();
    match place(what, &allowed, needs) {
        Ok(target) => Ok(vec![target]),
        Err(_) => Err(Problem::new(
            Code::AuthDenied,
            what,
            "no host of the cluster has its encryption mode on, and you lack the privilege crypto.register-host to \
             switch it on",
            "ask somebody who has it to switch it on: `ward host encryption enable HOST`",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use ward_rpc::api::host::HostParts;

    use super::*;

    fn key(id: u8) -> KeyRef {
        KeyRef::standard("kms".parse().unwrap(), id.to_string().try_into().unwrap())
    }

    fn uuid(n: u8) -> Uuid {
        Uuid::from_u128(n.into())
    }

    fn change(now: &HostCrypto, change: ModeChange<'_>) -> Result<HostCrypto, Code> {
        let changed = change_mode("cannot", &"h1".parse().unwrap(), now, change);
        changed.map_err(|problem| {
            assert!(!problem.why.is_empty() && !problem.remedy.is_empty(), "{problem:?}");
            problem.code
        })
    }

    #[test]
    fn each_change_of_each_mode() {
        let prepared = || HostCrypto::Prepared { attempt: uuid(1) };
        let safe = |id| HostCrypto::Safe { key: key(id), rekey: None };
        let rekeyed = |id, attempt| HostCrypto::Safe { key: key(id), rekey: Some(uuid(attempt)) };
        let pending = || HostCrypto::PendingIncapable { key: key(1), boot: uuid(1) };
        let (mode, vm) = (Err(Code::HostMode), ["web-1".parse().unwrap()]);
        let prepare = || ModeChange::Prepare { attempt: uuid(1) };
        let enable = |id| ModeChange::Enable { key: key(id) };
        let (wish, give_up) = (|n| ModeChange::Rekey { attempt: uuid(n) }, |n| ModeChange::GiveUp { attempt: uuid(n) });
        let rekey = |id| ModeChange::ChangeKey { key: key(id) };
        let disable = |vms| ModeChange::Disable { boot: uuid(1), vms };
        let seen = |boot, holds| ModeChange::Seen { boot: uuid(boot), holds };
        let none: &[Name] = &[];
        #[rustfmt::skip]
        let table = [
            (HostCrypto::Incapable, prepare(), Ok(prepared())),
            (HostCrypto::Incapable, enable(1), mode.clone()),
            (HostCrypto::Incapable, rekey(1), mode.clone()),
            (HostCrypto::Incapable, wish(1), mode.clone()),
            (HostCrypto::Incapable, give_up(1), Ok(HostCrypto::Incapable)),
            (HostCrypto::Incapable, disable(none), mode.clone()),
            (HostCrypto::Incapable, seen(2, 0), Ok(HostCrypto::Incapable)),
            (prepared(), prepare(), mode.clone()),
            (prepared(), enable(1), Ok(safe(1))),
            (prepared(), rekey(1), mode.clone()),
            (prepared(), wish(1), mode.clone()),
            (prepared(), give_up(2), Ok(HostCrypto::Prepared { attempt: uuid(2) })),
            (prepared(), disable(none), mode.clone()),
            (prepared(), seen(2, 0), Ok(prepared())),
            (safe(1), prepare(), mode.clone()),
            (safe(1), enable(1), Ok(safe(1))),
            (safe(1), enable(2), Err(Code::Exists)),
            (safe(1), rekey(2), Ok(safe(2))),
            (safe(1), wish(5), Ok(rekeyed(1, 5))),
            (rekeyed(1, 5), wish(6), Ok(rekeyed(1, 5))),
            (rekeyed(1, 5), rekey(2), Ok(safe(2))),
            (rekeyed(1, 5), give_up(6), Ok(safe(1))),
            (rekeyed(1, 5), disable(none), Ok(pending())),
            (safe(1), disable(none), Ok(pending())),
            (safe(1), disable(&vm), Err(Code::InUse)),
            (safe(1), seen(2, 0), Ok(safe(1))),
            (pending(), prepare(), mode.clone()),
            (pending(), enable(1), mode.clone()),
            (pending(), rekey(2), mode.clone()),
            (pending(), wish(1), mode.clone()),
            (pending(), give_up(1), Ok(pending())),
            (pending(), disable(none), mode.clone()),
            (pending(), seen(1, 0), Ok(pending())),
            (pending(), seen(2, 1), Ok(pending())),
            (pending(), seen(2, 0), Ok(HostCrypto::Incapable)),
        ];
        for (now, asked, expected) in table {
            let said = format!("{now:?} {asked:?}");
            assert_eq!(change(&now, asked), expected, "{said}");
        }
    }

    /// What a host does beside its mode, as the controller and its agent do it.
    #[derive(Clone, Debug)]
    enum Act {
        Prepare,
        Enable(u8),
        Rekey(u8),
        Disable,
        /// A VM's key is given to it, where its mode allows.
        Give,
        GiveNative,
        /// Its keys are taken away, as after a restart with sealed keys.
        Drop,
        /// It starts anew: with what its TPM kept, or with nothing.
        Restart(bool),
        /// The controller hears from it.
        Seen,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            Just(Act::Prepare),
            (0u8..3).prop_map(Act::Enable),
            (0u8..3).prop_map(Act::Rekey),
            Just(Act::Disable),
            Just(Act::Give),
            Just(Act::GiveNative),
            Just(Act::Drop),
            any::<bool>().prop_map(Act::Restart),
            Just(Act::Seen),
        ]
    }

    proptest! {
        #[test]
        fn no_sequence_leaves_keys_on_a_host_that_is_incapable(acts in prop::collection::vec(act(), 0..60)) {
            let (mut crypto, mut boot, mut holds) = (HostCrypto::Incapable, 0u8, 0usize);
            for act in acts {
                let asked = match act {
                    Act::Prepare => ModeChange::Prepare { attempt: uuid(9) },
                    Act::Enable(id) => ModeChange::Enable { key: key(id) },
                    Act::Rekey(id) => ModeChange::ChangeKey { key: key(id) },
                    Act::Disable => ModeChange::Disable { boot: uuid(boot), vms: &[] },
                    Act::Seen => ModeChange::Seen { boot: uuid(boot), holds },
                    Act::Give => { holds += usize::from(crypto.takes_keys()); continue }
                    Act::GiveNative => { holds += usize::from(crypto.takes_native_keys()); continue }
                    Act::Drop => { holds = 0; continue }
                    Act::Restart(sealed) => {
                        boot = boot.wrapping_add(1);
                        if !sealed { holds = 0; }
                        continue
                    }
                };
                let gives_key = matches!(asked, ModeChange::Enable { .. } | ModeChange::ChangeKey { .. });
                if let Ok(new) = change(&crypto, asked) {
                    // The host key is pushed before the mode changes.
                    holds += usize::from(gives_key);
                    crypto = new;
                }
                prop_assert!(crypto.mode() != HostMode::Incapable || holds == 0, "{crypto:?} holds {holds}");
                prop_assert_eq!(crypto.key().is_some(), matches!(crypto.mode(), HostMode::Safe | HostMode::PendingIncapable));
            }
        }
    }

    fn hosts(modes: &[HostMode]) -> Vec<HostFacts> {
        let host = |(n, &mode): (usize, &HostMode)| HostFacts {
            id: HostId::from_uuid(uuid(u8::try_from(n).unwrap())),
            name: format!("h{n}").parse().unwrap(),
            connected: true,
            unfit: None,
            qemu: true,
            tpm: false,
            trust: Vec::new(),
            vms: n,
            mode,
            parts: HostParts::default(),
        };
        modes.iter().enumerate().map(host).collect()
    }

    #[test]
    fn an_operation_switches_on_what_the_user_may() {
        use HostMode::{Incapable as Off, PendingIncapable as Pending, Prepared, Safe as On};
        let needs = Needs { keys: true, ..Needs::default() };
        let denied = Err(Code::AuthDenied);
        type Row<'a> = (&'a [HostMode], &'a [usize], Result<&'a [usize], Code>);
        #[rustfmt::skip]
        let table: &[Row<'_>] = &[
            // A and B are on, C is off.
            (&[On, On, Off], &[2], Ok(&[2])),
            (&[On, On, Off], &[], Ok(&[])),
            (&[On, Off, Off], &[1], Ok(&[])),
            (&[Prepared, Off], &[1], Ok(&[1])),
            (&[On, Pending], &[], Ok(&[])),
            (&[On, On], &[], Ok(&[])),
            // None is on: the one that does the work, or all.
            (&[Off, Off], &[0, 1], Ok(&[0, 1])),
            (&[Off, Off], &[0], Ok(&[0])),
            (&[Off, Off], &[1], Ok(&[1])),
            (&[Off, Off], &[], denied),
            (&[Pending, Off], &[1], Ok(&[1])),
            (&[Pending], &[0], Err(Code::HostMode)),
        ];
        for (modes, may, expected) in table {
            let hosts = hosts(modes);
            let may: Vec<_> = may.iter().map(|&n| hosts[n].id).collect();
            let on = on_demand("cannot encrypt", &hosts, &may, needs).map_err(|problem| problem.code);
            let expected = expected.map(|of| of.iter().map(|&n| hosts[n].id).collect::<Vec<_>>());
            assert_eq!(on, expected, "{modes:?} {may:?}");
        }
    }
}

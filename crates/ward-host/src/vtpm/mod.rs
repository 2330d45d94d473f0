//! A VM's TPM: swtpm, whose state lies in the VM home under a key of its own.
//!
//! The key reaches swtpm through a pipe that is its standard input, when the process was kept from dumping core; it is
//! on no command line, in no environment and in no file. All swtpms are confined ([`crate::isolate`]). Here swtpm is spoken to over its control channel, a socket that
//! it inherits, to make a state, to try a key, to put a state under another key, and to give it certificates. How it runs
//! beside a VM is in [`crate::vmm`].
//!
//! ```text
//! session       a swtpm that serves no VM
//! commands      the few commands of a TPM that this takes
//! endorsement   its endorsement keys, and their certificates
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};
use ward_secret::TpmKey;
use ward_types::{Code, Endorsement, FileName};

use crate::fault::{Doing, Fault, Result};
use crate::files;
use crate::home::codec::PART;
use crate::isolate::{Cell, FIRST_FD, Isolated, Part};

mod commands;
mod endorsement;
mod session;

pub(crate) use endorsement::{EkRequest, Given, check_given};
use session::Session;

/// What is run.
const PROGRAM: &str = "swtpm";
/// The file with the state that outlasts the power.
const STATE: &str = "tpm2-00.permall";

/// Makes sure that there is a swtpm.
pub(crate) fn check_installed() -> Result<()> {
    let missing =
        || Fault::unfit("this host has no swtpm, which vTPMs need", "install Debian's package `swtpm` on the host");
    files::in_path(Path::new(PROGRAM)).map(drop).ok_or_else(missing)
}

/// Makes sure that a vTPM's state is there. swtpm would make a new one where it is not, and so lose the guest's secrets
/// without a word.
pub(crate) fn check_there(state: &Path) -> Result<()> {
    if files::exists(state)? {
        check_directory(state)?;
    }
    if files::open_regular(&state.join(STATE), false)?.is_some() {
        return Ok(());
    }
    let why = format!("the state of the vTPM is gone: there is no {}", state.join(STATE).display());
    let remedy =
        "restore it from a backup; or remove the vTPM with `ward vm tpm rm`, with all that the guest kept in it";
    Err(Fault::new(Code::ImageMissing, why, remedy))
}

fn check_directory(state: &Path) -> Result<()> {
    if fs::symlink_metadata(state).doing("look at", state)?.is_dir() {
        return Ok(());
    }
    Err(Fault::home_invalid(format!("{} is no directory, as a vTPM's state is", state.display())))
}

/// Makes the state of a new TPM, with its endorsement keys' certificates, for which `certify` is asked. The directory must
/// not be there.
pub(crate) fn make<E: From<Fault>>(
    isolated: &Isolated,
    state: &Path,
    key: &TpmKey,
    certify: impl FnOnce(EkRequest) -> std::result::Result<Endorsement, E>,
) -> std::result::Result<Endorsement, E> {
    new_directory(state)?;
    let mut session = Session::open(isolated, state, key)?;
    session.init()?;
    session.startup()?;
    let request = endorsement::request(&mut session)?;
    // Whoever certifies may take long: swtpm waits.
    let endorsement = Given::default().put_into(certify(request)?)?;
    endorsement::write(&mut session, &endorsement)?;
    session.shutdown()?;
    session.end()?;
    sync(state)?;
    Ok(endorsement)
}

/// Makes sure that the key opens the state, which stays as it is.
pub(crate) fn check(isolated: &Isolated, state: &Path, key: &TpmKey) -> Result<()> {
    check_there(state)?;
    let mut session = Session::open(isolated, state, key)?;
    session.init()?;
    session.end()
}

/// Makes a copy of a state, under another key. The directory of the copy must not be there.
pub(crate) fn rewrite(isolated: &Isolated, from: (&Path, &TpmKey), to: (&Path, &TpmKey)) -> Result<()> {
    copy(isolated, from, to)?.end()?;
    sync(to.0)
}

/// The same, with other certificates of its endorsement keys. Where nothing is known of those, `certify` is asked.
pub(crate) fn certify<E: From<Fault>>(
    isolated: &Isolated,
    from: (&Path, &TpmKey),
    to: (&Path, &TpmKey),
    known: Option<&Endorsement>,
    given: &Given,
    certify: impl FnOnce(EkRequest) -> std::result::Result<Endorsement, E>,
) -> std::result::Result<Endorsement, E> {
    let mut session = copy(isolated, from, to)?;
    session.startup()?;
    let now = match known {
        Some(known) => known.clone(),
        None => certify(endorsement::request(&mut session)?)?,
    };
    let endorsement = given.put_into(now)?;
    endorsement::write(&mut session, &endorsement)?;
    session.shutdown()?;
    session.end()?;
    sync(to.0)?;
    Ok(endorsement)
}

fn copy(isolated: &Isolated, from: (&Path, &TpmKey), to: (&Path, &TpmKey)) -> Result<Session> {
    check_there(from.0)?;
    let mut old = Session::open(isolated, from.0, from.1)?;
    old.init()?;
    let content = old.state()?;
    old.end()?;
    new_directory(to.0)?;
    let mut new = Session::open(isolated, to.0, to.1)?;
    new.set_state(&content)?;
    // Only now it is written.
    new.init()?;
    Ok(new)
}

fn new_directory(state: &Path) -> Result<()> {
    files::remove_tree(state)?;
    files::make_private_dir(state)
}

fn sync(state: &Path) -> Result<()> {
    let path = state.join(STATE);
    File::open(&path).and_then(|file| file.sync_all()).doing("sync", &path)?;
    files::sync_dir(state)?;
    files::sync_parent(state)
}

/// The name of a state's directory until it is whole.
pub(crate) fn part(state: &FileName) -> String {
    format!("{state}{PART}")
}

/// Starts a swtpm and gives it its key. Its state must have been given to its user, who finds nothing in the VM home: so it
/// has that directory open, and goes by the descriptor. `set_up` says where it runs, and what becomes of its output.
pub(crate) fn spawn(
    isolated: &Isolated,
    state: &Path,
    sockets: Option<&Path>,
    key: &TpmKey,
    control: &str,
    set_up: impl FnOnce(&mut Command),
) -> Result<Child> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(state, flags, Mode::empty()).map_err(io::Error::from).doing("open", state)?;
    let mut command = isolated.command(Cell {
        part: Part::Tpm,
        program: Path::new(PROGRAM),
        sockets,
        read: Vec::new(),
        write: vec![state.to_owned()],
        descriptors: vec![directory],
    })?;
    let (pipe, mut key_end) = io::pipe().map_err(|error| Fault::internal(format!("no pipe: {error}")))?;
    command
        .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
        .arg(format!("dir=/proc/self/fd/{FIRST_FD},mode=0600"))
        .args(["--key", "fd=0,format=binary,mode=aes-256-cbc", "--ctrl", control])
        .stdin(Stdio::from(OwnedFd::from(pipe)));
    set_up(&mut command);
    let mut child = command
        .spawn()
        .map_err(|error| Fault::unfit(format!("swtpm does not start: {error}"), "check its installation"))?;
    // What it was given is not to stay open here.
    drop(command);
    // A pipe holds it whole, so that swtpm need not read yet; before that it has taken leave of cores.
    if let Err(error) = key_end.write_all(key.expose()) {
        let _ = child.kill();
        let _ = child.wait();
        return Err(failed(&error.to_string(), &mut child));
    }
    Ok(child)
}

fn failed(why: &str, child: &mut Child) -> Fault {
    let said = said(child);
    let why =
        if said.is_empty() { format!("swtpm fails: {why}") } else { format!("swtpm fails: {why}; it said: {said}") };
    Fault::new(Code::VmmFailed, why, "check its installation, and that the datastore can be written")
}

/// What it said before it ended, as one line.
fn said(child: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(8 << 10).read_to_end(&mut text);
    }
    files::one_line(&text)
}

/// Removes a state, if it is there.
pub(crate) fn remove(state: &Path) -> Result<()> {
    if !files::exists(state)? {
        return Ok(());
    }
    check_directory(state)?;
    files::remove_tree(state)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::net::UnixStream;

    use attest::ek::{TpmCas, verify_certificate, without_nv_padding};
    use attest::tpm::Public;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use ward_rpc::EkAuthority;
    use ward_types::VmId;

    use super::session::ANSWER_WITHIN;
    use super::*;
    use crate::isolate::testing::isolated;

    /// A new one, with certificates.
    fn make_in(state: &Path, key: &TpmKey, ca: &EkAuthority) -> Endorsement {
        make::<Fault>(&isolated(), state, key, |keys| Ok(endorsed(ca, keys))).unwrap()
    }

    fn endorsed(ca: &EkAuthority, keys: EkRequest) -> Endorsement {
        let (rsa, ecc) = ca.certify(&keys, VmId::new(), &"vm".parse().unwrap()).unwrap();
        let key = |public, certificate| ward_types::EndorsementKey { public, certificate };
        Endorsement { rsa: key(keys.rsa, rsa), ecc: key(keys.ecc, ecc), make: keys.make }
    }

    fn pem_body(pem: &str) -> String {
        pem.lines().filter(|line| !line.starts_with('-')).collect()
    }

    fn state(dir: &Path) -> Vec<u8> {
        fs::read(dir.join(STATE)).unwrap()
    }

    #[test]
    fn a_state_opens_under_its_key_and_is_put_under_another() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("tpm"), dir.path().join("tpm-2"));
        let (key, other) = (TpmKey::generate().unwrap(), TpmKey::generate().unwrap());
        make_in(&first, &key, &EkAuthority::generate().unwrap());
        check(&isolated(), &first, &key).unwrap();
        let fault = check(&isolated(), &first, &other).unwrap_err();
        assert_eq!(fault.code, Code::HomeTampered);
        assert!(fault.why.contains("HMAC"), "{}", fault.why);

        rewrite(&isolated(), (&first, &key), (&second, &other)).unwrap();
        check(&isolated(), &second, &other).unwrap();
        assert_eq!(check(&isolated(), &second, &key).unwrap_err().code, Code::HomeTampered);
        let open = |state: &Path, key: &TpmKey| {
            let mut session = Session::open(&isolated(), state, key).unwrap();
            session.init().unwrap();
            session.state().unwrap()
        };
        assert_eq!(open(&first, &key), open(&second, &other), "it is the same TPM");
        // Nothing of the state is plain in either file.
        let plain = open(&first, &key);
        for dir in [&first, &second] {
            let cipher = state(dir);
            assert!(!plain.chunks_exact(32).any(|piece| cipher.windows(32).any(|bytes| bytes == piece)));
        }

        let mut altered = state(&first);
        let middle = altered.len() / 2;
        altered[middle] ^= 1;
        fs::write(first.join(STATE), &altered).unwrap();
        assert_eq!(check(&isolated(), &first, &key).unwrap_err().code, Code::HomeTampered);
        fs::write(first.join(STATE), state(&second)).unwrap();
        assert_eq!(check(&isolated(), &first, &key).unwrap_err().code, Code::HomeTampered, "another VM's");
        fs::remove_file(first.join(STATE)).unwrap();
        assert_eq!(check(&isolated(), &first, &key).unwrap_err().code, Code::ImageMissing);
    }

    #[test]
    fn none_outlives_an_agent_that_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let (state, key) = (dir.path().join("tpm"), TpmKey::generate().unwrap());
        make_in(&state, &key, &EkAuthority::generate().unwrap());
        let mut session = Session::open(&isolated(), &state, &key).unwrap();
        session.init().unwrap();
        // What the kernel does with the agent's end.
        session.data = UnixStream::pair().unwrap().0;
        session.control = UnixStream::pair().unwrap().0;
        let deadline = std::time::Instant::now() + ANSWER_WITHIN;
        while session.child.try_wait().unwrap().is_none() {
            assert!(std::time::Instant::now() < deadline, "swtpm is still there");
            std::thread::yield_now();
        }
        check(&isolated(), &state, &key).unwrap();
    }

    #[test]
    fn that_the_guest_has_set_a_password_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (state, key) = (dir.path().join("tpm"), TpmKey::generate().unwrap());
        make_in(&state, &key, &EkAuthority::generate().unwrap());
        let mut session = Session::open(&isolated(), &state, &key).unwrap();
        session.init().unwrap();
        session.startup().unwrap();
        session.give_password(b"the guest's").unwrap();
        let fault = endorsement::request(&mut session).unwrap_err();
        assert!(fault.why.contains("password") && fault.remedy.contains("tpm2_changeauth"), "{}", fault.why);
    }

    #[test]
    fn a_state_is_a_directory_of_the_home_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (state, link, key) = (dir.path().join("tpm"), dir.path().join("link"), TpmKey::generate().unwrap());
        make_in(&state, &key, &EkAuthority::generate().unwrap());
        std::os::unix::fs::symlink(&state, &link).unwrap();
        check_there(&state).unwrap();
        for fault in [check_there(&link).unwrap_err(), remove(&link).unwrap_err()] {
            assert!(fault.code == Code::HomeInvalid && fault.why.contains("no directory"), "{}", fault.why);
        }
        assert!(state.exists());
    }

    #[test]
    fn two_new_ones_are_two() {
        let dir = tempfile::tempdir().unwrap();
        let (key, ca) = (TpmKey::generate().unwrap(), EkAuthority::generate().unwrap());
        let plain = ["a", "b"].map(|name| {
            let path = dir.path().join(name);
            make_in(&path, &key, &ca);
            let mut session = Session::open(&isolated(), &path, &key).unwrap();
            session.init().unwrap();
            session.state().unwrap()
        });
        assert_ne!(plain[0], plain[1]);
    }

    /// What is in its NV memory, and its keys as it makes them anew.
    fn found(state: &Path, key: &TpmKey) -> (EkRequest, [Vec<u8>; 2]) {
        let mut session = Session::open(&isolated(), state, key).unwrap();
        session.init().unwrap();
        session.startup().unwrap();
        let keys = endorsement::request(&mut session).unwrap();
        let certificates = [0x01C0_0002, 0x01C0_000A].map(|index| session.nv(index));
        session.shutdown().unwrap();
        session.end().unwrap();
        (keys, certificates)
    }

    #[test]
    fn certificates_are_of_its_keys_and_others_take_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("tpm"), dir.path().join("tpm-2"));
        let (key, other) = (TpmKey::generate().unwrap(), TpmKey::generate().unwrap());
        let (ca, second_ca) = (EkAuthority::generate().unwrap(), EkAuthority::generate().unwrap());
        let made = make_in(&first, &key, &ca);
        let (keys, [rsa, ecc]) = found(&first, &key);
        assert_eq!((&keys.rsa, &keys.ecc, &keys.make), (&made.rsa.public, &made.ecc.public, &made.make));
        let der = |certificate: &ward_types::EkCertificate| STANDARD.decode(&certificate.0).unwrap();
        assert_eq!((&rsa, &ecc), (&der(&made.rsa.certificate), &der(&made.ecc.certificate)));
        assert_eq!(without_nv_padding(&rsa), rsa);

        // Who trusts the CA believes the certificates, each of its own key only.
        let cas = |ca: &EkAuthority| {
            let mut cas = TpmCas::new();
            cas.add_root(&STANDARD.decode(pem_body(ca.certificate())).unwrap()).unwrap();
            cas
        };
        let ek = |public: &str| Public::from_tpm2b(&STANDARD.decode(public).unwrap()).unwrap();
        let now = jiff::Timestamp::now();
        for (certificate, public, another) in [(&rsa, &keys.rsa, &keys.ecc), (&ecc, &keys.ecc, &keys.rsa)] {
            let trusted = verify_certificate(&cas(&ca), certificate, ek(public), now).unwrap();
            let attest::ek::EkProof::Certificate(says) = trusted.proof() else { panic!() };
            assert_eq!(says.manufacturer.as_deref(), Some("id:49424D00"), "{says:?}");
            assert_eq!(says.model.as_deref(), Some("swtpm"));
            assert!(says.version.as_ref().unwrap().starts_with("id:") && says.specification.is_some(), "{says:?}");
            verify_certificate(&cas(&ca), certificate, ek(another), now).unwrap_err();
            verify_certificate(&cas(&second_ca), certificate, ek(public), now).unwrap_err();
        }

        // Another CA's for one key: the other key's stays. The guest's TPM is the same.
        let given = Given { rsa: Some(endorsed(&second_ca, keys.clone()).rsa.certificate), ecc: None };
        let known = |_| -> Result<Endorsement> { panic!("its keys are known") };
        let now = certify(&isolated(), (&first, &key), (&second, &other), Some(&made), &given, known).unwrap();
        assert_eq!(
            now,
            Endorsement {
                rsa: ward_types::EndorsementKey { certificate: given.rsa.clone().unwrap(), ..made.rsa.clone() },
                ..made.clone()
            }
        );
        assert_eq!(found(&second, &other), (keys.clone(), [der(&now.rsa.certificate), ecc.clone()]));
        // One that had none gets them.
        let third = dir.path().join("tpm-3");
        let asked = certify::<Fault>(&isolated(), (&second, &other), (&third, &key), None, &given, |keys| {
            Ok(endorsed(&ca, keys))
        });
        assert_eq!(asked.unwrap().rsa, now.rsa);
        // Keys of another kind than they are said to be, and what no vTPM says.
        let swapped = EkRequest { rsa: keys.ecc.clone(), ecc: keys.rsa.clone(), ..keys.clone() };
        let odd =
            EkRequest { make: ward_types::TpmMake { model: "hardware".into(), ..keys.make.clone() }, ..keys.clone() };
        for wrong in [swapped, odd] {
            ca.certify(&wrong, VmId::new(), &"vm".parse().unwrap()).unwrap_err();
        }
        // Of another key, or of none.
        let wrong = Given { rsa: Some(made.ecc.certificate.clone()), ecc: None };
        let junk = Given { rsa: None, ecc: Some(ward_types::EkCertificate("AAAA".into())) };
        for (given, name) in [(wrong, "RSA"), (junk, "ECC")] {
            let fault = check_given(&made, &given).unwrap_err();
            assert!(fault.code == Code::RequestInvalid && fault.why.contains(name), "{}", fault.why);
        }
    }
}

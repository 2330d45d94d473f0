//! Key servers beside one another, the trust in them, and what they are told of a key: by the command line, as an
//! administrator does it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use ward_controller::api::types::{Light, ProviderView, TaskView};
use ward_types::{Code, EventKind, TaskState};

use crate::support::{Access, MIB, PyKmip, System, decipher, disk, eventually, lossy, problem_of, run, set, text};

const SIZE: u64 = 4 * MIB;

impl System {
    fn plain(&self, vm: &str) -> Vec<u8> {
        let image = self.path(vm);
        let content = disk(&image, SIZE);
        self.import(vm, &[&image]);
        content
    }

    fn provider(&self, name: &str) -> ProviderView {
        self.get(&["provider", "show", name])
    }
}

/// An administrator who has no certificate yet, and a server whose authority signs what it is asked to.
#[test]
fn trust_is_set_up_step_by_step_with_pykmips_server() {
    let server = PyKmip::start();
    let Access { address, .. } = server.access();
    let system = System::start(1);
    let content = system.plain("vm");
    let added: ProviderView = system.get(&["provider", "add", "standard", "py", "--server", &address]);
    assert_eq!(added.status, Light::Red);

    // The server shows its certificate, and is known by it once that was compared.
    let shown: Value = system.get(&["provider", "trust", "py"]);
    let fingerprint =
        run("openssl", &["x509", "-noout", "-fingerprint", "-sha256", "-in", text(&server.path("server.pem"))]);
    let fingerprint = lossy(&fingerprint.stdout).trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
    assert!(shown.to_string().replace(':', "").to_lowercase().contains(&fingerprint), "{fingerprint}: {shown}");
    let wrong = format!("{:0<64}", "00");
    system.refused(&["provider", "trust", "py", "--accept", &wrong], Code::KeyServerTrust);
    let _: Value = system.get(&["provider", "trust", "py", "--accept", &fingerprint]);

    // The controller asks for a certificate; the latest request is the one that counts.
    let request = |name: &str| {
        let out = system.path(&format!("{name}.csr"));
        let _: Value =
            system.get(&["provider", "trust", "py", "--csr", "--subject", "CN=ward-controller", "--out", text(&out)]);
        server.sign(&out);
        out.with_extension("pem")
    };
    let (earlier, latest) = (request("earlier"), request("latest"));
    let refused = system.refused(&["provider", "trust", "py", "--cert", text(&earlier)], Code::RequestInvalid);
    assert!(refused.why.contains("latest request"), "{refused:?}");
    system.refused(&["vm", "encrypt", "vm", "--provider", "py"], Code::KeyServerTrust);
    let _: Value = system.get(&["provider", "trust", "py", "--cert", text(&latest)]);
    assert_eq!(system.provider("py").status, Light::Green);

    system.done(&["vm", "encrypt", "vm", "--provider", "py"]);
    let kek = server.access().kek(&system.key_id("vm"));
    assert!(decipher(&system.file("vm", "disk-0.luks"), &kek, content.len()) == content);
}

/// Read with a client that is not ours. At Ward's key server the controller speaks KMIP 2.1, where they are vendor
/// attributes.
#[test]
fn what_a_key_is_for_is_written_at_the_key_server() {
    let system = System::start(1);
    let _ = system.plain("vm");
    system.done(&["vm", "encrypt", "vm"]);
    let vm = system.vm("vm");
    let of_vm = attributes(&system.access(), &system.key_id("vm"));
    let expected = json!({
        "x-Vendor": "Ward",
        "x-Product": "Ward VM encryption",
        "x-Product_Version": env!("CARGO_PKG_VERSION"),
        "x-Component": "Virtual Machine",
        "x-Name": "vm",
        "x-Identifier": vm.id.to_string(),
    });
    assert_eq!(of_vm, expected);

    let host = system.host("host-1");
    let ward_types::KeyLocator::Standard { key_id } = host.host_key.unwrap().key else { panic!("no host key") };
    let of_host = attributes(&system.access(), key_id.as_str());
    // The machine's own UUID, or where its firmware tells none, the operating system's.
    let machine = ["/sys/class/dmi/id/product_uuid", "/etc/machine-id"];
    let machine =
        machine.into_iter().find_map(|file| uuid::Uuid::parse_str(fs::read_to_string(file).ok()?.trim()).ok());
    let expected = json!({
        "x-Vendor": "Ward",
        "x-Product": "Ward VM encryption",
        "x-Product_Version": env!("CARGO_PKG_VERSION"),
        "x-Component": "Host",
        "x-Name": "host-1",
        "x-Identifier": machine.unwrap_or(host.id.uuid()).to_string(),
    });
    assert_eq!(of_host, expected);
}

/// The same keys at three servers, which are processes; the one that is asked first is killed while VMs are encrypted.
#[test]
fn one_of_three_key_servers_is_killed_while_vms_are_encrypted() {
    const VMS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let system = System::start(2);
    for vm in VMS {
        let _ = system.plain(vm);
    }
    let others = [system.another_key_server(), system.another_key_server()];
    for (_, access) in &others {
        let _: Value = system.get(&["provider", "server", "add", "kms", &access.address]);
    }
    assert_eq!(system.provider("kms").servers.len(), 3);
    let tasks = VMS.map(|vm| system.ask_meanwhile(&["vm", "encrypt", vm]));
    eventually("the first key is made", || {
        system.events().iter().any(|event| event.kind == EventKind::KeyCreated).then_some(())
    });
    run("kill", &["-KILL", &system.pid("keyserver")]);
    for task in tasks {
        let output = task.wait_with_output().unwrap();
        assert!(output.status.success(), "{:?}", problem_of(&output.status, &output.stderr));
        let task: TaskView = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(task.info.state, TaskState::Succeeded, "{task:?}");
    }
    for vm in VMS {
        assert_eq!(system.files(vm), set(["disk-0.luks", "vm.toml"]));
    }
    let all = others[0].1.all();
    assert_eq!(all.len(), VMS.len(), "each VM has its key, and none was made twice: {all:?}");
}

/// Each cluster may have a provider of its own by default; one that is needed goes by force only.
#[test]
fn keys_come_from_the_clusters_default_and_a_provider_that_is_needed_goes_by_force_only() {
    let server = PyKmip::start();
    let Access { address, ca, cert, key } = server.access();
    let system = System::start(1);
    let _ = (system.plain("vm"), system.plain("other"));
    let files = ["--ca", text(&ca), "--cert", text(&cert), "--key", text(&key)];
    let _: Value = system.get(&[&["provider", "add", "standard", "py", "--server", &address][..], &files].concat());
    system.done(&["vm", "encrypt", "other"]);
    let _: Value = system.get(&["provider", "default", "py", "--cluster", "default"]);
    system.done(&["vm", "encrypt", "vm"]);
    assert_eq!(system.vm("vm").keys[0].provider.as_str(), "py");
    assert_eq!(system.vm("other").keys[0].provider.as_str(), "kms");
    assert_eq!(system.provider("py").vms.iter().map(|vm| vm.as_str()).collect::<Vec<_>>(), ["vm"]);

    let refused = system.refused(&["provider", "rm", "py"], Code::InUse);
    assert!(refused.why.contains("vm"), "{refused:?}");
    let _: Value = system.get(&["provider", "rm", "py", "--force", "py"]);
    system.events_of(EventKind::ProviderRemovedInUse);
    // Its host has the key: the VM goes on, and moves to the provider that is left.
    system.done(&["vm", "recrypt", "vm", "--provider", "kms"]);
    assert_eq!(system.vm("vm").keys[0].provider.as_str(), "kms");
}

fn attributes(access: &Access, key_id: &str) -> Value {
    let environment = std::env::var("WARD_PYKMIP_VENV").unwrap_or_else(|_| "../../.venv".to_owned());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join(environment).join("bin/python"))
        .args(["-W", "ignore"])
        .arg(root.join("tests/flows/attributes.py"))
        .arg(&access.address)
        .args([&access.ca, &access.cert, &access.key])
        .arg(key_id)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

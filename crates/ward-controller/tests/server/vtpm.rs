//! vTPMs as the controller has them made: where they can be, and what of them it certifies.

use http::Method;
use serde_json::{Value, json};
use ward_controller::api::types::{HostView, TaskView};
use ward_rpc::api::host::EkRequest;
use ward_types::{Code, Problem, TpmMake};

use crate::support::{Host, KeyServer, Ward, in_time};

fn disk() -> Value {
    json!({ "source": "blank", "size": 1 << 20, "format": "raw" })
}

/// A controller with a host, a VM with a vTPM, and one that could have one.
async fn with_vms() -> (Ward, KeyServer, Host) {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let host = ward.host("h").await;
    for (name, tpm) in [("safe", true), ("plain", false)] {
        let new = json!({ "name": name, "uefi": {}, "tpm": tpm, "disks": [disk()] });
        ward.api.done(Method::POST, "/vms", Some(new)).await;
    }
    (ward, server, host)
}

/// Why it is not done: refused at once, or by the task.
async fn not_done(ward: &Ward, path: &str, body: Value) -> Problem {
    match ward.api.post::<TaskView>(path, body).await {
        Ok(task) => ward.api.ended(&task.info).await.problem.unwrap_or_else(|| panic!("{path} was done")),
        Err(refusal) => refusal.0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_swtpm_is_not_begun_where_no_host_has_it() {
    let (ward, _server, host) = with_vms().await;
    host.change(|inside| inside.no_swtpm = true);
    in_time("the host's word of it", async {
        while ward.api.get::<HostView>("/hosts/h").await.unwrap().swtpm {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (path, body) in [
        ("/vms", json!({ "name": "new", "uefi": {}, "tpm": true, "disks": [disk()] })),
        ("/vms/plain/tpm", json!({})),
        ("/vms/safe/clone", json!({ "name": "copy", "tpm": "copy" })),
        ("/vms/safe/clone", json!({ "name": "other", "tpm": "replace" })),
        ("/vms/safe/recrypt", json!({ "deep": true })),
        ("/vms/safe/start", json!({})),
    ] {
        let problem = not_done(&ward, path, body).await;
        assert!(problem.code == Code::HostUnfit && problem.why.contains("swtpm"), "{path}: {problem:?}");
    }
    // What does not touch the state needs none.
    ward.api.done(Method::POST, "/vms/plain/start", Some(json!({}))).await;
    ward.api.done(Method::POST, "/vms/safe/recrypt", Some(json!({}))).await;
    ward.api.done(Method::DELETE, "/vms/safe/tpm", None).await;
}

/// A host that asks for certificates of what it likes, in work that makes no vTPM.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_certified_in_work_that_makes_no_vtpm() {
    let (ward, _server, host) = with_vms().await;
    let make = TpmMake {
        manufacturer: "id:49424D00".into(),
        model: "swtpm".into(),
        version: "id:20191023".into(),
        revision: 164,
    };
    let asks = EkRequest { make, rsa: "AAAA".into(), ecc: "AAAA".into() };
    for (path, body, why) in [
        ("/vms/plain/encrypt", json!({}), "no vTPM is made"),
        ("/vms/safe/recrypt", json!({ "deep": true }), "no vTPM is made"),
        ("/vms/safe/clone", json!({ "name": "copy", "tpm": "copy" }), "no vTPM is made"),
        // Here it may ask, for keys of a TPM.
        ("/vms/safe/clone", json!({ "name": "other", "tpm": "replace" }), "makes no sense"),
    ] {
        host.change(|inside| inside.hold = true);
        let task: TaskView = ward.api.post(path, body).await.unwrap();
        host.until("the job", |inside| !inside.jobs.is_empty()).await;
        host.change(|inside| {
            for job in inside.jobs.values_mut() {
                job.status.asks = Some(asks.clone());
                job.status.revision += 1;
            }
        });
        let problem = ward.api.ended(&task.info).await.problem.unwrap();
        assert_eq!(problem.code, Code::HostUnfit, "{path}: {problem:?}");
        assert!(problem.why.contains("`h`") && problem.why.contains(why), "{path}: {problem:?}");
        host.until("the job's end", |inside| inside.jobs.values().all(|job| job.status.outcome.is_some())).await;
        host.change(|inside| inside.hold = false);
        host.until("nothing is left of the job", |inside| inside.jobs.is_empty()).await;
    }
}

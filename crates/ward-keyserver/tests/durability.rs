//! What was answered is there, whatever happens; and what is not the server's is told so.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use kmip::attribute::{Attribute, RevocationReason};
use kmip::client::ClientError;
use kmip::names::{ResultReason, RevocationReasonCode, State};
use sqlx::{Connection, SqliteConnection};
use support::Process;
use ward_keyserver::{Config, Error, Server, audit_tail, init, operation_counts};

#[tokio::test]
async fn an_answered_key_survives_being_killed() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let mut kept: Vec<(String, kmip::SecretBytes)> = Vec::new();
    // Each time one more key, and those of before are looked at again.
    for round in 0..5 {
        let server = Process::start(&state_dir, &[]);
        let client = server.client(&state_dir, "alice");
        for (id, key) in &kept {
            assert!(client.get_key(id).await.unwrap() == *key);
            assert_eq!(client.state(id).await.unwrap(), State::ACTIVE);
        }
        let created = client.create_aes256(&[Attribute::custom_text("x-Round", &round.to_string())]).await.unwrap();
        assert_eq!(created.refused_attributes, []);
        let key = client.get_key(&created.id).await.unwrap();
        client.activate(&created.id).await.unwrap();
        server.kill();
        kept.push((created.id, key));
    }
}

/// Keys are answered from many connections while the server is killed: every answer that came must be true.
#[tokio::test(flavor = "multi_thread")]
async fn answers_of_many_clients_survive_being_killed() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let server = Process::start(&state_dir, &["alice"]);
    let (sender, mut answered) = tokio::sync::mpsc::unbounded_channel();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (client, sender) = (server.client(&state_dir, "alice"), sender.clone());
            tokio::spawn(async move {
                while let Ok(created) = client.create_aes256(&[]).await {
                    sender.send(created.id).unwrap();
                }
            })
        })
        .collect();
    drop(sender);
    let mut ids = Vec::new();
    while ids.len() < 100 {
        ids.push(answered.recv().await.unwrap());
    }
    server.kill();
    for task in tasks {
        task.await.unwrap();
    }
    while let Some(id) = answered.recv().await {
        ids.push(id);
    }

    let server = Process::start(&state_dir, &[]);
    let client = server.client(&state_dir, "alice");
    for id in &ids {
        assert_eq!(client.get_key(id).await.unwrap().len(), 32);
    }
}

#[tokio::test]
async fn another_master_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
    init(&one, &[]).await.unwrap();
    init(&other, &[]).await.unwrap();
    fs::copy(other.join("master.key"), one.join("master.key")).unwrap();
    match start(&one).await {
        Err(error @ Error::MasterKeyMismatch { .. }) => {
            assert!(error.to_string().contains("master.key"), "{error}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    }
    // Lost, it is missed, not made anew: that would make every key worthless without a word.
    fs::remove_file(one.join("master.key")).unwrap();
    assert!(matches!(init(&one, &[]).await, Err(Error::File { .. })));
    assert!(!one.join("master.key").exists());
}

async fn start(state_dir: &Path) -> Result<Server, Error> {
    Server::start(Config { listen: ([127, 0, 0, 1], 0).into(), state_dir: state_dir.to_owned() }).await
}

/// Any column that a key is bound to, and the sealed bytes themselves.
#[tokio::test]
async fn a_row_that_was_changed_is_told_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let changes = [
        "UPDATE object SET sealed = zeroblob(length(sealed)) WHERE id = ?",
        "UPDATE object SET sealed = (SELECT sealed FROM object AS other WHERE other.id <> object.id) WHERE id = ?",
        "UPDATE object SET length = 128 WHERE id = ?",
        "UPDATE object SET algorithm = 9 WHERE id = ?",
        "UPDATE object SET owner = 'cn:mallory' WHERE id = ?",
    ];
    for change in changes {
        let server = Process::start(&state_dir, &[]);
        let alice = server.client(&state_dir, "alice");
        let id = alice.create_aes256(&[]).await.unwrap().id;
        let other = alice.create_aes256(&[]).await.unwrap().id;
        server.stop();

        let mut database = database(&state_dir).await;
        sqlx::query(change).bind(&id).execute(&mut database).await.unwrap();
        database.close().await.unwrap();

        let server = Process::start(&state_dir, &[]);
        let owner = if change.contains("mallory") { "mallory" } else { "alice" };
        match server.client(&state_dir, owner).get_key(&id).await.err().unwrap() {
            ClientError::Server { reason: ResultReason::CRYPTOGRAPHIC_FAILURE, message, .. } => {
                assert!(message.contains(&id), "{message}");
            }
            error => panic!("{change}: {error}"),
        }
        // The other keys are as good as before.
        let alice = server.client(&state_dir, "alice");
        assert_eq!(alice.get_key(&other).await.unwrap().len(), 32);
        server.stop();
        fs::remove_dir_all(&state_dir).unwrap();
    }
}

async fn database(state_dir: &Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite:{}", state_dir.join("keys.db").display())).await.unwrap()
}

#[tokio::test]
async fn no_file_holds_a_key() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let server = Process::start(&state_dir, &[]);
    let client = server.client(&state_dir, "alice");
    let mut keys = Vec::new();
    for _ in 0..10 {
        let id = client.create_aes256(&[]).await.unwrap().id;
        keys.push((client.get_key(&id).await.unwrap(), id));
    }
    // While it runs, with the write-ahead log full of them, and after.
    search(&state_dir, &keys);
    server.kill();
    search(&state_dir, &keys);
}

fn search(state_dir: &Path, keys: &[(kmip::SecretBytes, String)]) {
    let mut ids_found = 0;
    let mut files = vec![state_dir.to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let contents = fs::read(&path).unwrap();
        let has = |what: &[u8]| contents.windows(what.len()).any(|window| window == what);
        for (key, id) in keys {
            let key = key.expose();
            ids_found += usize::from(has(id.as_bytes()));
            for form in [
                key.to_vec(),
                hex::encode(key).into_bytes(),
                hex::encode_upper(key).into_bytes(),
                STANDARD.encode(key).into_bytes(),
                URL_SAFE.encode(key).into_bytes(),
            ] {
                assert!(!has(&form), "{} holds a key", path.display());
                // Nor a good part of one.
                assert!(!has(&form[..form.len() / 2]), "{} holds half a key", path.display());
            }
        }
    }
    // That the search finds what is there.
    assert!(ids_found >= keys.len());
}

#[tokio::test]
async fn a_destroyed_keys_bytes_are_gone() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let server = Process::start(&state_dir, &[]);
    let client = server.client(&state_dir, "alice");
    let id = client.create_aes256(&[]).await.unwrap().id;
    client.destroy(&id).await.unwrap();
    assert_eq!(client.get_key(&id).await.err().unwrap().result_reason(), Some(ResultReason::OBJECT_DESTROYED));
    assert_eq!(client.state(&id).await.unwrap(), State::DESTROYED);
    let sealed: Option<Vec<u8>> = sqlx::query_scalar("SELECT sealed FROM object WHERE id = ?")
        .bind(&id)
        .fetch_one(&mut database(&state_dir).await)
        .await
        .unwrap();
    assert_eq!(sealed, None);
}

#[tokio::test]
async fn what_was_asked_can_be_seen() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let server = Process::start(&state_dir, &[]);
    let client = server.client(&state_dir, "alice");
    let id = client.create_aes256(&[]).await.unwrap().id;
    client.get_key(&id).await.unwrap();
    client.get_key("nothing").await.err().unwrap();
    let revoked = RevocationReason { code: RevocationReasonCode::KEY_COMPROMISE, message: None };
    client.revoke(&id, revoked, Some(1)).await.unwrap();

    // The change took along the records of what was only read before it.
    let audit = audit_tail(&state_dir, 4).await.unwrap();
    let seen: Vec<_> = audit
        .iter()
        .map(|entry| (entry.operation.as_str(), entry.object.as_deref(), entry.result.as_str(), entry.peer.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            ("Create", Some(id.as_str()), "Success", "alice"),
            ("Get", Some(id.as_str()), "Success", "alice"),
            ("Get", Some("nothing"), "Object Not Found", "alice"),
            ("Revoke", Some(id.as_str()), "Success", "alice"),
        ]
    );
    let counts = operation_counts(&state_dir).await.unwrap();
    let count = |operation: &str| counts.iter().find(|count| count.operation == operation).map(|count| count.count);
    assert_eq!((count("Create"), count("Get"), count("Revoke"), count("Destroy")), (Some(1), Some(2), Some(1), None));

    // What is only read is recorded when the server ends, at the latest.
    client.get_key(&id).await.unwrap();
    server.stop();
    assert_eq!(audit_tail(&state_dir, 1).await.unwrap()[0].operation, "Get");
}

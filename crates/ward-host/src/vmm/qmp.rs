//! QEMU's control socket: the few commands and events that matter here.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use ward_disk::send_descriptors;

/// QEMU answers these commands at once or is in trouble.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Its longest message, the greeting, has some hundred bytes.
const MAX_LINE: u64 = 1 << 20;
/// As many of its events wait to be heard.
const MAX_EVENTS: usize = 64;
/// By what name QEMU knows a descriptor that it is given.
const DESCRIPTOR: &str = "given";

/// Why a command has no answer.
#[derive(Debug)]
pub(crate) enum QmpError {
    /// The connection is gone: most likely QEMU is.
    Gone,
    /// QEMU doesn't answer.
    Silent,
    /// QEMU refused.
    Refused(String),
}

impl std::fmt::Display for QmpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("QEMU closed its control socket"),
            Self::Silent => f.write_str("QEMU does not answer on its control socket"),
            Self::Refused(why) => write!(f, "QEMU refused: {why}"),
        }
    }
}

/// What QEMU says unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The VM ends.
    Shutdown {
        /// Whether the guest wanted it.
        guest: bool,
        /// Why, in QEMU's words.
        reason: String,
    },
    /// The guest reset the machine.
    Reset,
    /// The guest's kernel panicked.
    GuestPanicked,
    /// Any other.
    Other(String),
}

type Answer = Result<Value, QmpError>;
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

/// A connection to one QEMU.
pub(crate) struct Qmp {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    next: AtomicU64,
}

/// What `query-status` says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct RunState {
    pub(crate) status: String,
    pub(crate) running: bool,
}

impl Qmp {
    /// Connects and gets ready for commands. Events come until QEMU ends.
    pub(crate) async fn connect(path: &Path) -> Result<(Self, mpsc::Receiver<Event>), QmpError> {
        Self::over(UnixStream::connect(path).await.map_err(|_| QmpError::Gone)?).await
    }

    /// As [`Qmp::connect`], where the connection is there.
    pub(crate) async fn over(stream: UnixStream) -> Result<(Self, mpsc::Receiver<Event>), QmpError> {
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        match timeout(ANSWER_WITHIN, read_line(&mut reader)).await {
            Err(_) => return Err(QmpError::Silent),
            Ok(Some(Message::Greeting)) => {}
            Ok(_) => return Err(QmpError::Gone),
        }
        let waiting = Waiting::default();
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        tokio::spawn(listen(reader, Arc::clone(&waiting), events));
        let qmp = Self { writer: tokio::sync::Mutex::new(writer), waiting, next: AtomicU64::new(1) };
        qmp.run("qmp_capabilities").await?;
        Ok((qmp, receiver))
    }

    /// How the VM is.
    pub(crate) async fn query_status(&self) -> Result<RunState, QmpError> {
        let state = self.run("query-status").await?;
        serde_json::from_value(state).map_err(|error| QmpError::Refused(error.to_string()))
    }

    /// Whether the processor runs the guest itself.
    pub(crate) async fn query_kvm(&self) -> Result<bool, QmpError> {
        Ok(self.run("query-kvm").await?.get("enabled").and_then(Value::as_bool).unwrap_or_default())
    }

    /// Lets the guest run.
    pub(crate) async fn cont(&self) -> Result<(), QmpError> {
        self.run("cont").await.map(drop)
    }

    /// Presses the power button.
    pub(crate) async fn system_powerdown(&self) -> Result<(), QmpError> {
        self.run("system_powerdown").await.map(drop)
    }

    /// Pulls the plug.
    pub(crate) async fn quit(&self) -> Result<(), QmpError> {
        match self.run("quit").await {
            // It may be gone before its answer is.
            Ok(_) | Err(QmpError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Begins to write the guest's memory to a pipe, as an ELF core file; the guest waits meanwhile.
    pub(crate) async fn dump_guest_memory(&self, to: BorrowedFd<'_>) -> Result<(), QmpError> {
        self.send("getfd", json!({ "fdname": DESCRIPTOR }), Some(to)).await?;
        let protocol = format!("fd:{DESCRIPTOR}");
        let arguments = json!({ "paging": false, "protocol": protocol, "detach": true });
        self.run_with("dump-guest-memory", arguments).await.map(drop)
    }

    /// How that goes: `active`, `completed`, `failed`, or `none`.
    pub(crate) async fn query_dump(&self) -> Result<String, QmpError> {
        let state = self.run("query-dump").await?;
        Ok(state.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    async fn run(&self, command: &str) -> Answer {
        self.run_with(command, json!({})).await
    }

    async fn run_with(&self, command: &str, arguments: Value) -> Answer {
        self.send(command, arguments, None).await
    }

    /// Sends a command, with a descriptor where it takes one.
    async fn send(&self, command: &str, arguments: Value, descriptor: Option<BorrowedFd<'_>>) -> Answer {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments, "id": id }));
        let told = timeout(ANSWER_WITHIN, async {
            let mut writer = self.writer.lock().await;
            let sent = match descriptor {
                Some(descriptor) => send_with(writer.as_ref(), line.as_bytes(), descriptor).await,
                None => Ok(0),
            };
            let sent = sent.map_err(|_| QmpError::Gone)?;
            writer.write_all(&line.as_bytes()[sent..]).await.map_err(|_| QmpError::Gone)?;
            drop(writer);
            receiver.await.map_err(|_| QmpError::Gone)?
        });
        let answer = told.await.unwrap_or(Err(QmpError::Silent));
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        answer
    }
}

/// Sends the beginning of some bytes together with a descriptor; tells how long that was.
async fn send_with(stream: &UnixStream, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    stream.async_io(Interest::WRITABLE, || send_descriptors(stream, bytes, &[descriptor])).await
}

/// What may stand on a line.
enum Message {
    Greeting,
    Event(Event),
    Answer(Option<u64>, Answer),
}

fn parse(line: &str) -> Option<Message> {
    let mut message: Value = serde_json::from_str(line).ok()?;
    if message.get("QMP").is_some() {
        return Some(Message::Greeting);
    }
    if let Some(name) = message.get("event").and_then(Value::as_str) {
        let data = |key: &str| message.get("data").and_then(|data| data.get(key));
        return Some(Message::Event(match name {
            "SHUTDOWN" => Event::Shutdown {
                guest: data("guest").and_then(Value::as_bool).unwrap_or_default(),
                reason: data("reason").and_then(Value::as_str).unwrap_or("unknown").to_owned(),
            },
            "RESET" => Event::Reset,
            "GUEST_PANICKED" => Event::GuestPanicked,
            other => Event::Other(other.to_owned()),
        }));
    }
    let id = message.get("id").and_then(Value::as_u64);
    if let Some(error) = message.get("error") {
        let why = error.get("desc").and_then(Value::as_str).unwrap_or("it does not say why").to_owned();
        return Some(Message::Answer(id, Err(QmpError::Refused(why))));
    }
    message.get_mut("return").map(|value| Message::Answer(id, Ok(value.take())))
}

async fn read_line(reader: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Message> {
    let mut line = String::new();
    match reader.take(MAX_LINE).read_line(&mut line).await {
        Ok(0) | Err(_) => None,
        Ok(_) => parse(&line),
    }
}

async fn listen(mut reader: BufReader<impl AsyncRead + Unpin>, waiting: Waiting, events: mpsc::Sender<Event>) {
    while let Some(message) = read_line(&mut reader).await {
        match message {
            Message::Greeting => {}
            // Nobody may want them; and whoever sends without end is not waited for.
            Message::Event(event) => drop(events.try_send(event)),
            Message::Answer(id, answer) => {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(sender) = id.and_then(|id| waiting.remove(&id)) {
                    let _ = sender.send(answer);
                }
            }
        }
    }
    // Dropping what waits tells it that there will be no answer.
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::net::UnixListener;

    use super::*;

    /// A QEMU that says these lines after each command but the first, `{id}` being the command's.
    async fn qemu(says: &'static [&'static str]) -> (tempfile::TempDir, Qmp, mpsc::Receiver<Event>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (reader, mut writer) = stream.into_split();
            writer.write_all(b"{\"QMP\": {\"version\": {}}}\r\n").await.unwrap();
            let mut lines = BufReader::new(reader).lines();
            let mut first = true;
            while let Some(line) = lines.next_line().await.unwrap() {
                let id = serde_json::from_str::<Value>(&line).unwrap()["id"].clone();
                let answers: &[&str] = if first { &["{\"return\": {}, \"id\": {id}}"] } else { says };
                first = false;
                for answer in answers {
                    let line = format!("{}\r\n", answer.replace("{id}", &id.to_string()));
                    writer.write_all(line.as_bytes()).await.unwrap();
                }
                if answers.is_empty() {
                    return;
                }
            }
        });
        let (qmp, events) = Qmp::connect(&path).await.unwrap();
        (dir, qmp, events)
    }

    #[tokio::test]
    async fn answers_and_events_are_told_apart() {
        let (_dir, qmp, mut events) = qemu(&[
            r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}, "timestamp": {}}"#,
            r#"{"return": {}, "id": 999}"#,
            r#"{"return": {"status": "running", "running": true}, "id": {id}}"#,
        ])
        .await;
        let state = qmp.query_status().await.unwrap();
        assert_eq!(state, RunState { status: "running".into(), running: true });
        let event = events.recv().await.unwrap();
        assert_eq!(event, Event::Shutdown { guest: true, reason: "guest-shutdown".into() });
    }

    #[tokio::test]
    async fn events_without_end_delay_no_answer_and_are_not_all_kept() {
        const FLOOD: [&str; 1001] = {
            let mut lines = [r#"{"event": "RESET", "data": {}}"#; 1001];
            lines[1000] = r#"{"return": {"status": "running", "running": true}, "id": {id}}"#;
            lines
        };
        let (_dir, qmp, mut events) = qemu(&FLOOD).await;
        assert!(qmp.query_status().await.unwrap().running);
        let mut kept = 0;
        while events.try_recv().is_ok() {
            kept += 1;
        }
        assert_eq!(kept, MAX_EVENTS);
    }

    #[tokio::test]
    async fn a_refusal_says_why() {
        let (_dir, qmp, _events) =
            qemu(&[r#"{"error": {"class": "GenericError", "desc": "not now"}, "id": {id}}"#]).await;
        assert_eq!(qmp.cont().await.unwrap_err().to_string(), "QEMU refused: not now");
    }

    #[tokio::test]
    async fn a_qemu_that_goes_leaves_nobody_waiting() {
        let (_dir, qmp, mut events) = qemu(&[]).await;
        assert!(matches!(qmp.query_status().await, Err(QmpError::Gone)));
        assert!(qmp.quit().await.is_ok(), "gone is what was wanted");
        assert!(events.recv().await.is_none());
    }
}

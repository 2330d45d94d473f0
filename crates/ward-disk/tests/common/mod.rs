//! What the tests share: a disk process of one's own, real tools, keys.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use ward_disk::{ConvertOrder, ConvertSide, DiskError, DiskProcess, ImageFormat, Order, Report, SectorSize, Summary};
use ward_secret::Dek;

/// The name under which each test binary runs the disk process: see [`disk_command`].
pub const ENTRY: &str = "disk_process_entry";

/// Makes the test binary able to play the disk process.
#[macro_export]
macro_rules! disk_process {
    () => {
        #[test]
        fn disk_process_entry() {
            if std::env::var_os("WARD_TEST_DISK_PROCESS").is_some() {
                let _ = ward_disk::process::main_loop();
                std::process::exit(0);
            }
        }
    };
}

/// This test binary, playing the disk process.
pub fn disk_command() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([ENTRY, "--exact", "--nocapture", "--test-threads=1"]).env("WARD_TEST_DISK_PROCESS", "1");
    command
}

pub const OFFSET: u64 = 1 << 20;

pub fn luks(sector_size: SectorSize) -> ImageFormat {
    ImageFormat::Luks2 { data_offset: OFFSET, sector_size }
}

pub fn dek(seed: u8) -> Dek {
    Dek::take(&mut std::array::from_fn::<u8, 64, _>(|i| seed.wrapping_mul(31).wrapping_add(u8::try_from(i).unwrap())))
        .unwrap()
}

pub fn side(path: &Path, format: ImageFormat, dek: Option<usize>) -> ConvertSide {
    ConvertSide { path: path.to_owned(), format, dek }
}

/// A LUKS2 target as its creator leaves it: header area, no payload.
pub fn make_luks_target(path: &Path) {
    let mut file = File::create(path).unwrap();
    file.write_all(&vec![0xa5; usize::try_from(OFFSET).unwrap()]).unwrap();
}

pub struct Outcome {
    pub result: Result<Summary, DiskError>,
    pub reports: Vec<Report>,
}

pub fn convert(order: ConvertOrder, deks: Vec<Dek>) -> Outcome {
    convert_with(disk_command(), order, deks)
}

pub fn convert_with(command: Command, order: ConvertOrder, deks: Vec<Dek>) -> Outcome {
    let mut process = DiskProcess::spawn_command(command, &Order::Convert(order), deks).unwrap();
    let mut reports = Vec::new();
    let result = loop {
        match process.recv() {
            Ok(Report::Done(summary)) => break Ok(summary),
            Ok(Report::Failed(error)) => break Err(error),
            Ok(other) => reports.push(other),
            Err(error) => break Err(error),
        }
    };
    process.wait().unwrap();
    Outcome { result, reports }
}

/// A tool that must succeed.
pub fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that look like nothing in particular and depend on the seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Decrypts a whole payload by the cipher alone.
pub fn decrypt_payload(image: &Path, dek: &Dek, sector: SectorSize, size: usize) -> Vec<u8> {
    let bytes = std::fs::read(image).unwrap();
    let sector_bytes = usize::try_from(sector.bytes()).unwrap();
    let start = usize::try_from(OFFSET).unwrap();
    let mut payload = bytes[start..start + size.next_multiple_of(sector_bytes)].to_vec();
    let sector = xts::SectorSize::from_bytes(sector.bytes()).unwrap();
    xts::Xts::new(dek.expose()).unwrap().decrypt(sector, 0, &mut payload).unwrap();
    assert!(payload[size..].iter().all(|byte| *byte == 0), "the padding is not zero");
    payload.truncate(size);
    payload
}

/// Waits until `done` says so, which it must in time.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::yield_now();
    }
}

//! Offline encryption, and what a disk process takes.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;
use ward_disk::{
    ConvertOrder, ConvertSide, DiskProcess, ExportDisk, ExportOrder, ImageFormat, Order, Report, SectorSize,
};
use ward_secret::Dek;

use super::DiskArguments;
use super::measure::{Spread, durable, peak_memory};
use crate::output::Output;

pub(super) type Failure = Box<dyn std::error::Error>;

const MIB: u64 = 1024 * 1024;
/// Where the payload of a LUKS2 volume begins that Ward makes.
const DATA_OFFSET: u64 = 16 * MIB;
const TIB: u64 = 1024 * 1024 * MIB;

#[derive(Serialize)]
struct Findings {
    size_mib: u64,
    runs: u32,
    /// MiB/s until the copy is on the storage.
    cp: Spread,
    qemu_img_luks: Spread,
    ward: Spread,
    /// Ward's rate over the other's, run by run.
    ward_over_cp: Spread,
    ward_over_qemu_img: Spread,
    /// The most that the converting process had resident, in bytes.
    converting_peak_memory: u64,
    /// The most that a process that serves one disk of 1 TiB had resident when it was ready, in bytes.
    serving_1_tib_peak_memory: u64,
}

pub(super) fn run(arguments: &DiskArguments, output: Output) -> Result<(), Failure> {
    let place = Place::new(&arguments.dir)?;
    let source = place.file("source.raw");
    let size = arguments.size_mib * MIB;
    eprintln!("writing an image of {} MiB to {}", arguments.size_mib, source.display());
    write_source(&source, size)?;

    let (mut cp, mut qemu, mut ward) = (Vec::new(), Vec::new(), Vec::new());
    let mut converting_peak_memory = 0;
    let rate = |time: std::time::Duration| arguments.size_mib as f64 / time.as_secs_f64();
    for run in 1..=arguments.runs {
        eprintln!("run {run} of {}: cp, ward, qemu-img", arguments.runs);
        let copy = place.file("copy.raw");
        cp.push(rate(durable(&copy, || {
            tool(Command::new("cp").arg("--reflink=never").arg("--sparse=never").args([&source, &copy]))
        })?));
        fs::remove_file(&copy)?;

        let copy = place.file("copy.luks");
        let time = durable(&copy, || {
            converting_peak_memory = converting_peak_memory.max(convert(&source, &copy, size, &place)?);
            Ok::<_, Failure>(())
        })?;
        ward.push(rate(time));
        fs::remove_file(&copy)?;

        let copy = place.file("copy.qemu-luks");
        qemu.push(rate(durable(&copy, || qemu_img(&source, &copy, &place))?));
        fs::remove_file(&copy)?;
    }
    let ratios = |others: &[f64]| Spread::of(ward.iter().zip(others).map(|(ward, other)| ward / other).collect());
    let findings = Findings {
        size_mib: arguments.size_mib,
        runs: arguments.runs,
        ward_over_cp: ratios(&cp),
        ward_over_qemu_img: ratios(&qemu),
        cp: Spread::of(cp),
        qemu_img_luks: Spread::of(qemu),
        ward: Spread::of(ward),
        converting_peak_memory,
        serving_1_tib_peak_memory: serve_1_tib(&place)?,
    };
    Ok(output.show(&findings, || table(&findings))?)
}

fn table(findings: &Findings) -> String {
    let mut text = format!(
        "encrypting an image of {} MiB, until it is on the storage; {} runs\n\n{:<24}{:>10}{:>10}{:>10}\n",
        findings.size_mib, findings.runs, "", "min", "median", "max"
    );
    let mut row = |name: &str, Spread { min, median, max }: Spread, digits: usize| {
        text += &format!("{name:<24}{min:>10.digits$}{median:>10.digits$}{max:>10.digits$}\n");
    };
    row("cp, MiB/s", findings.cp, 0);
    row("qemu-img luks, MiB/s", findings.qemu_img_luks, 0);
    row("ward, MiB/s", findings.ward, 0);
    row("ward / cp", findings.ward_over_cp, 2);
    row("ward / qemu-img luks", findings.ward_over_qemu_img, 2);
    text += &format!(
        "\npeak memory: {} MiB converting, {} MiB serving a disk of 1 TiB",
        findings.converting_peak_memory.div_ceil(MIB),
        findings.serving_1_tib_peak_memory.div_ceil(MIB)
    );
    text
}

/// Converts as a job does; gives the process's peak memory.
fn convert(source: &Path, target: &Path, size: u64, place: &Place) -> Result<u64, Failure> {
    File::create(target)?.set_len(DATA_OFFSET)?;
    let order = ConvertOrder {
        source: ConvertSide { path: source.to_owned(), format: ImageFormat::Raw, dek: None },
        target: ConvertSide { path: target.to_owned(), format: payload(), dek: Some(0) },
        size,
        checkpoint: place.file("checkpoint"),
    };
    let mut process = DiskProcess::spawn(&std::env::current_exe()?, &Order::Convert(order), vec![Dek::generate()?])?;
    let mut peak = 0;
    loop {
        match process.recv()? {
            Report::Done(_) => break,
            Report::Failed(error) => return Err(error.into()),
            // It is gone when it has said its last word.
            _ => peak = peak_memory(process.pid()).unwrap_or(peak),
        }
    }
    process.wait()?;
    let _ = fs::remove_file(place.file("checkpoint"));
    Ok(peak)
}

fn serve_1_tib(place: &Place) -> Result<u64, Failure> {
    let image = place.file("large.luks");
    File::create(&image)?.set_len(DATA_OFFSET + TIB)?;
    let disk = ExportDisk {
        path: image,
        format: payload(),
        size: TIB,
        socket: place.file("disk.sock"),
        serial: "bench".into(),
        read_only: false,
        num_queues: 1,
        dek: Some(0),
    };
    let order = Order::Export(ExportOrder { disks: vec![disk], ..ExportOrder::default() });
    let mut process = DiskProcess::spawn(&std::env::current_exe()?, &order, vec![Dek::generate()?])?;
    let peak = match process.recv()? {
        Report::Ready => peak_memory(process.pid())?,
        Report::Failed(error) => return Err(error.into()),
        other => return Err(format!("the disk process said {other:?}").into()),
    };
    process.stop()?;
    process.wait()?;
    Ok(peak)
}

const fn payload() -> ImageFormat {
    ImageFormat::Luks2 { data_offset: DATA_OFFSET, sector_size: SectorSize::B4096 }
}

fn qemu_img(source: &Path, target: &Path, place: &Place) -> Result<(), Failure> {
    // Of a disk that is thrown away.
    let passphrase = place.file("passphrase");
    fs::write(&passphrase, "benchmark")?;
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "raw", "-O", "luks", "-o", "key-secret=s,iter-time=10", "--object"]);
    command.arg(format!("secret,id=s,file={}", passphrase.display())).args([source, target]);
    tool(&mut command)
}

pub(super) fn tool(command: &mut Command) -> Result<(), Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let result = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run {name}: {error}"))?;
    if result.status.success() {
        return Ok(());
    }
    Err(format!("{name} failed: {}", String::from_utf8_lossy(&result.stderr).trim()).into())
}

/// Nothing in it is zero or can be compressed, so that no tool has less to do than another.
fn write_source(path: &Path, size: u64) -> Result<(), Failure> {
    let mut file = File::create(path)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0u8; 1 << 20];
    for _ in 0..size / MIB {
        for word in block.chunks_exact_mut(8) {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block)?;
    }
    Ok(file.sync_all()?)
}

/// A directory of its own, removed at the end.
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        let path = parent.join(format!("ward-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path.canonicalize()?))
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

//! How fast disks are converted and served, measured through the same process and socket as in earnest.
//!
//! ```text
//! disk_throughput convert SOURCE TARGET MIB    raw SOURCE into a LUKS2 payload TARGET and back to TARGET.raw
//! disk_throughput export IMAGE MIB             IMAGE as a LUKS2 payload (and plain), random reads and writes
//! ```
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/common/frontend.rs"]
mod frontend;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ward_disk::{
    ConvertOrder, ConvertSide, DiskProcess, ExportDisk, ExportOrder, ImageFormat, Order, Report, SectorSize, Summary,
};
use ward_secret::Dek;

const OFFSET: u64 = 16 << 20;
const LUKS: ImageFormat = ImageFormat::Luks2 { data_offset: OFFSET, sector_size: SectorSize::B4096 };

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[1..] {
        ["disk"] => return ward_disk::process::main_loop(),
        ["convert", source, target, mib] => convert(Path::new(source), Path::new(target), mib.parse().unwrap()),
        ["export", image, mib] => {
            export(Path::new(image), LUKS, mib.parse().unwrap());
            export(Path::new(image), ImageFormat::Raw, mib.parse().unwrap());
        }
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn dek() -> Dek {
    Dek::take(&mut std::array::from_fn::<u8, 64, _>(|i| u8::try_from(i).unwrap())).unwrap()
}

fn work(order: ConvertOrder) -> Summary {
    let _ = std::fs::remove_file(&order.checkpoint);
    let mut process =
        DiskProcess::spawn(&std::env::current_exe().unwrap(), &Order::Convert(order), vec![dek()]).unwrap();
    let mut peak = String::new();
    loop {
        match process.recv().unwrap() {
            Report::Done(summary) => {
                process.wait().unwrap();
                println!("    peak memory {peak}");
                return summary;
            }
            Report::Failed(error) => panic!("{error}"),
            _ => {
                let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap_or_default();
                if let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
                    line.trim().clone_into(&mut peak);
                }
            }
        }
    }
}

fn convert(source: &Path, target: &Path, mib: u64) {
    let size = mib << 20;
    let mut back = target.as_os_str().to_owned();
    back.push(".raw");
    let back = PathBuf::from(back);
    let _ = std::fs::remove_file(target);
    let _ = std::fs::remove_file(&back);
    std::fs::write(target, vec![0; usize::try_from(OFFSET).unwrap()]).unwrap();
    let plain = |path: &Path| ConvertSide { path: path.to_owned(), format: ImageFormat::Raw, dek: None };
    let crypt = ConvertSide { path: target.to_owned(), format: LUKS, dek: Some(0) };
    let checkpoint = target.with_extension("checkpoint");
    for (name, from, to) in [("encrypt", plain(source), crypt.clone()), ("decrypt", crypt, plain(&back))] {
        let begin = Instant::now();
        work(ConvertOrder { source: from, target: to, size, checkpoint: checkpoint.clone() });
        let seconds = begin.elapsed().as_secs_f64();
        println!("{name}: {seconds:.2} s, {:.2} GiB/s", size as f64 / seconds / f64::from(1 << 30));
    }
}

fn export(image: &Path, format: ImageFormat, mib: u64) {
    let size = match format {
        ImageFormat::Raw => std::fs::metadata(image).unwrap().len(),
        _ => mib << 20,
    };
    let socket = PathBuf::from(format!("/tmp/throughput-{}.sock", std::process::id()));
    let disk = ExportDisk {
        path: image.to_owned(),
        format,
        size,
        socket: socket.clone(),
        serial: String::new(),
        read_only: false,
        num_queues: 1,
        dek: format.is_encrypted().then_some(0),
    };
    let deks = if format.is_encrypted() { vec![dek()] } else { vec![] };
    let order = Order::Export(ExportOrder { disks: vec![disk], ..ExportOrder::default() });
    let mut process = DiskProcess::spawn(&std::env::current_exe().unwrap(), &order, deks).unwrap();
    assert_eq!(process.recv().unwrap(), Report::Ready);
    let mut frontend = frontend::Frontend::connect(&socket, 1, 32 << 20);
    println!("{format:?}");
    for (block, depth) in [(1 << 20, 8), (64 << 10, 16), (4096, 32), (4096, 1)] {
        for write in [false, true] {
            measure(&mut frontend, size, block, depth, write);
        }
    }
    drop(frontend);
    while !matches!(process.recv().unwrap(), Report::Done(_)) {}
    process.wait().unwrap();
}

fn measure(frontend: &mut frontend::Frontend, size: u64, block: usize, depth: usize, write: bool) {
    let mut state = 88_172_645_463_325_252u64;
    let mut begin_one = |frontend: &mut frontend::Frontend, tag: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let offset = state % (size / block as u64) * block as u64;
        if write {
            frontend.begin_write(0, offset, tag * block, block, tag);
        } else {
            frontend.begin_read(0, offset, tag * block, block, tag);
        }
    };
    (0..depth).for_each(|tag| begin_one(frontend, tag));
    let begin = Instant::now();
    let mut count = 0u64;
    while begin.elapsed() < Duration::from_secs(2) {
        for (tag, result) in frontend.wait_some(0, depth) {
            assert_eq!(result, 0);
            count += 1;
            begin_one(frontend, tag);
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    frontend.wait(0, depth);
    let name = if write { "write" } else { "read " };
    let rate = count as f64 * block as f64 / seconds / f64::from(1 << 20);
    println!(
        "    {name} {:4} KiB x {depth:2}: {rate:7.0} MiB/s, {:6.0} per second",
        block >> 10,
        count as f64 / seconds
    );
}

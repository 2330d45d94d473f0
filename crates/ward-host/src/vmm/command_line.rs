//! QEMU's command line, worked out without touching anything.
//!
//! QEMU runs in a directory of the VM's processes, where its sockets are, and can open nothing in the VM home: plain qcow2
//! images it is given open, what it boots lies beside its sockets. No key ever stands here, nor reaches QEMU in another way:
//! encrypted volumes are served to it by the disk process, and its TPM by swtpm.

use std::ffi::OsString;
use std::path::Path;

use serde_json::json;
use ward_types::{Boot, DiskId, Firmware, VmConfig};

use crate::isolate::FIRST_FD;

/// Names in the run directory.
pub(crate) const QMP: &str = "qmp.sock";
pub(crate) const SERIAL: &str = "serial.sock";
pub(crate) const NVRAM_SOCKET: &str = "nvram.sock";
pub(crate) const TPM_SOCKET: &str = "tpm.sock";
pub(crate) const KERNEL: &str = "kernel";
pub(crate) const INITRD: &str = "initrd";

/// The socket of a disk that the disk process serves.
pub(crate) fn disk_socket(disk: DiskId) -> String {
    format!("{disk}.sock")
}

/// How the guest's processors are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Kvm,
    Tcg,
}

/// How a disk comes to QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Served by the disk process.
    Served,
    /// A plain qcow2 image, which QEMU is given open: they come from [`FIRST_FD`] on, in the order of the disks.
    Qcow2,
}

/// How many request queues a disk has.
pub(crate) fn queues(config: &VmConfig) -> u16 {
    config.cpus.clamp(1, 4)
}

/// The arguments, for a VM whose disks come in these ways, with the firmware that it takes if that is UEFI.
pub(crate) fn arguments(
    config: &VmConfig,
    accelerator: Accelerator,
    disks: &[(DiskId, Way)],
    firmware: Option<&Path>,
) -> Vec<OsString> {
    let mut args = Arguments(Vec::new());
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg", "max"),
    };
    args.pair("-name", format!("guest={},debug-threads=on", config.name));
    args.pair("-uuid", config.id.to_string());
    args.flag("-nodefaults");
    args.flag("-no-user-config");
    args.pair("-display", "none");
    // Nothing runs before everything is connected.
    args.flag("-S");
    args.machine(&config.firmware, firmware);
    args.pair("-accel", accel);
    args.pair("-cpu", cpu);
    args.pair("-smp", config.cpus.to_string());
    args.pair("-m", format!("{}M", config.memory_mib));
    // Shared, since the disk process reads and writes the guest's buffers.
    args.pair("-object", format!("memory-backend-memfd,id=memory,size={}M,share=on", config.memory_mib));
    args.pair("-chardev", format!("socket,id=qmp,path={QMP},server=on,wait=off"));
    args.pair("-mon", "chardev=qmp,mode=control");
    args.pair("-chardev", format!("socket,id=serial,path={SERIAL},server=on,wait=off"));
    args.pair("-serial", "chardev:serial");
    args.pair("-object", "rng-builtin,id=rng");
    args.pair("-device", "virtio-rng-pci,rng=rng");
    args.pair("-boot", "strict=on");
    if let Boot::Kernel { initrd, command_line, .. } = &config.boot {
        args.pair("-kernel", KERNEL);
        if initrd.is_some() {
            args.pair("-initrd", INITRD);
        }
        args.pair("-append", command_line);
    }
    if config.tpm.is_some() {
        args.pair("-chardev", format!("socket,id=tpm,path={TPM_SOCKET}"));
        args.pair("-tpmdev", "emulator,id=tpm0,chardev=tpm");
        args.pair("-device", "tpm-crb,tpmdev=tpm0");
    }
    let mut descriptors = FIRST_FD..;
    for (position, (id, way)) in (1..).zip(disks) {
        match way {
            Way::Served => args.served(config, *id, position),
            Way::Qcow2 => args.given(*id, descriptors.next().unwrap_or(FIRST_FD), position),
        }
    }
    args.0
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn pair(&mut self, flag: &str, value: impl Into<OsString>) {
        self.0.extend([flag.into(), value.into()]);
    }

    fn machine(&mut self, kind: &Firmware, code: Option<&Path>) {
        let machine = "q35,memory-backend=memory";
        let (Firmware::Uefi { secure_boot, .. }, Some(code)) = (kind, code) else {
            self.pair("-machine", machine);
            return;
        };
        let file = json!({ "driver": "file", "filename": code.to_string_lossy() });
        let code = json!({ "driver": "raw", "node-name": "firmware", "read-only": true, "file": file });
        let server = json!({ "type": "unix", "path": NVRAM_SOCKET });
        let nvram = json!({ "driver": "nbd", "node-name": "nvram", "server": server });
        self.pair("-blockdev", code.to_string());
        self.pair("-blockdev", nvram.to_string());
        let smm = if *secure_boot { ",smm=on" } else { "" };
        self.pair("-machine", format!("{machine},pflash0=firmware,pflash1=nvram{smm}"));
        if *secure_boot {
            // Else the guest's kernel could write the variables past the firmware, or while it wakes.
            self.pair("-global", "driver=cfi.pflash01,property=secure,value=on");
            self.pair("-global", "ICH9-LPC.disable_s3=1");
        }
    }

    fn served(&mut self, config: &VmConfig, id: DiskId, bootindex: usize) {
        self.pair("-chardev", format!("socket,id={id},path={}", disk_socket(id)));
        let queues = queues(config);
        self.pair("-device", format!("vhost-user-blk-pci,chardev={id},num-queues={queues},bootindex={bootindex}"));
    }

    fn given(&mut self, id: DiskId, descriptor: i32, bootindex: usize) {
        self.pair("-add-fd", format!("fd={descriptor},set={descriptor}"));
        let file = json!({ "driver": "file", "filename": format!("/dev/fdset/{descriptor}"), "locking": "on" });
        let node = json!({
            "driver": "qcow2", "node-name": id.to_string(), "discard": "unmap", "backing": null, "file": file,
        });
        self.pair("-blockdev", node.to_string());
        self.pair("-device", format!("virtio-blk-pci,drive={id},serial={id},bootindex={bootindex}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ward_types::{DiskConfig, DiskCrypto, HomeCrypto, Nvram, PlainFormat, VirtualTpm, VmId, WrappedTpmKey};

    use super::*;

    #[test]
    fn a_vm_of_each_kind() {
        let disk = |n: u16, plain_format| DiskConfig {
            id: DiskId(n),
            file: format!("disk-{n}.{plain_format}").parse().unwrap(),
            size: 1 << 20,
            plain_format,
            crypto: DiskCrypto::Plain,
            attached: true,
        };
        let mut config = VmConfig {
            version: 1,
            id: VmId::new(),
            name: "web-1".parse().unwrap(),
            cpus: 8,
            memory_mib: 300,
            boot: Boot::Disk,
            home: HomeCrypto::Plain,
            disks: vec![disk(0, PlainFormat::Raw), disk(3, PlainFormat::Qcow2)],
            firmware: Firmware::Bios,
            tpm: None,
        };
        let line = |config: &VmConfig, accelerator| {
            let disks = [(DiskId(0), Way::Served), (DiskId(3), Way::Qcow2)];
            let code = config.firmware.nvram().map(|_| Path::new("/usr/share/OVMF/CODE.fd"));
            let args = arguments(config, accelerator, &disks, code);
            args.iter().map(|arg| arg.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        let text = line(&config, Accelerator::Tcg);
        for part in [
            "-accel tcg -cpu max -smp 8 -m 300M",
            "memory-backend-memfd,id=memory,size=300M,share=on",
            "-chardev socket,id=disk-0,path=disk-0.sock",
            "vhost-user-blk-pci,chardev=disk-0,num-queues=4,bootindex=1",
            "-add-fd fd=10,set=10",
            r#""filename":"/dev/fdset/10""#,
            "virtio-blk-pci,drive=disk-3,serial=disk-3,bootindex=2",
            "-nodefaults -no-user-config -display none -S",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        for part in ["-kernel", "pflash", "nbd", "tpm", "smm"] {
            assert!(!text.contains(part), "{part} is in {text}");
        }
        let nvram = Nvram { file: "nvram.raw".parse().unwrap(), size: 540_672 };
        config.firmware = Firmware::Uefi { secure_boot: false, nvram: nvram.clone() };
        let text = line(&config, Accelerator::Tcg);
        for part in [
            "-machine q35,memory-backend=memory,pflash0=firmware,pflash1=nvram -accel",
            r#""filename":"/usr/share/OVMF/CODE.fd""#,
            r#"{"driver":"nbd","node-name":"nvram","server":{"path":"nvram.sock","type":"unix"}}"#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("smm") && !text.contains("tpm") && !text.contains("nvram.raw"), "{text}");
        config.firmware = Firmware::Uefi { secure_boot: true, nvram };
        config.tpm = Some(VirtualTpm {
            state: "tpm".parse().unwrap(),
            wrapped_key: WrappedTpmKey("secret".into()),
            endorsement: None,
        });
        let text = line(&config, Accelerator::Tcg);
        for part in [
            "pflash1=nvram,smm=on -global driver=cfi.pflash01,property=secure,value=on -global ICH9-LPC.disable_s3=1",
            "-chardev socket,id=tpm,path=tpm.sock -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-crb,tpmdev=tpm0",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("secret"), "{text}");
        config.boot = Boot::Kernel {
            kernel: "kernel".parse().unwrap(),
            initrd: None,
            command_line: "console=ttyS0 -monitor stdio".into(),
        };
        let text = line(&config, Accelerator::Kvm);
        assert!(text.contains("-accel kvm -cpu host"), "{text}");
        let disks = [(DiskId(0), Way::Served)];
        let args = arguments(&config, Accelerator::Kvm, &disks, None);
        let at = args.iter().position(|arg| arg == "-append").unwrap();
        assert_eq!(args[at + 1], "console=ttyS0 -monitor stdio", "one argument, whatever it holds");
    }
}

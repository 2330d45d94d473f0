//! What a host does with a native provider's key: unwrapping a KEK, and all of a VM's start that comes before its processes.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ward_rpc::NativeEntry;
use ward_rpc::api::host::HomeRef;
use ward_secret::{HomeKey, Kdk};
use ward_types::{
    Boot, DiskConfig, DiskCrypto, DiskId, FileName, Firmware, HomeCrypto, HostId, KdkId, KdkRef, KeyRef, Name,
    PlainFormat, Problem, VmConfig, VmId,
};

use crate::fault::{Doing, Fault, Result};
use crate::files;
use crate::home::{VM_TOML, codec};
use crate::isolate::{Isolated, Isolator};
use crate::keys::SharedKeys;
use crate::vmm;
use crate::volume::{self, Label};

/// The size of a VM's disk, in bytes.
const DISK: u64 = 1 << 20;

/// A host that has the key of a native provider, in a directory.
pub struct NativeHost {
    id: HostId,
    isolated: Isolated,
    keys: SharedKeys,
    kdk: KdkRef,
    run_dir: PathBuf,
    datastore: PathBuf,
}

/// A VM with an encrypted home and one encrypted disk, under a KEK of its own.
pub struct NativeVm {
    id: VmId,
    home: HomeRef,
    key: KeyRef,
}

impl NativeHost {
    /// One that works in a directory.
    ///
    /// # Errors
    /// [`Problem`] where the directory can't be used, or there is no memory for the key.
    pub fn new(directory: &Path) -> std::result::Result<Self, Problem> {
        let make = || -> Result<Self> {
            let (run_dir, datastore) = (directory.join("run"), directory.join("store"));
            files::make_private_dir(directory)?;
            files::make_private_dir(&run_dir)?;
            files::make_private_dir(&datastore)?;
            let provider =
                "bench".parse().map_err(|error: ward_types::NameError| Fault::internal(error.to_string()))?;
            let kdk = KdkRef { provider, key_id: KdkId::new(), version: 1 };
            let keys = SharedKeys::default();
            let entry = NativeEntry { key: kdk.clone(), tpm_required: false };
            keys.lock().ring.replace([(entry, Kdk::generate()?)]);
            let isolated = Arc::new(Isolator::idle()).vm()?;
            Ok(Self { id: HostId::new(), isolated, keys, kdk, run_dir, datastore })
        };
        make().map_err(|fault| fault.problem("cannot make a host to measure"))
    }

    /// Makes a VM.
    ///
    /// # Errors
    /// [`Problem`] where its home can't be written.
    pub fn make_vm(&self, name: Name) -> std::result::Result<NativeVm, Problem> {
        let make = || -> Result<NativeVm> {
            let (id, disk) = (VmId::new(), DiskId(0));
            let key = self.keys.lock().ring.make(&self.kdk, id)?;
            let kek = self.keys.lock().resolve(&key)?;
            let home = HomeRef { datastore: self.datastore.clone(), directory: name.clone() };
            let path = home.path();
            files::make_private_dir(&path)?;
            let file = FileName::of_disk(disk, PlainFormat::Raw);
            let disk_path = path.join(file.as_str());
            let image = OpenOptions::new().read(true).write(true).create_new(true).open(&disk_path);
            volume::format(image.doing("create", &disk_path)?, &disk_path, &kek, &Label::new(key.clone(), id, disk))?;
            let image = OpenOptions::new().write(true).open(&disk_path).doing("open", &disk_path)?;
            image.set_len(volume::DATA_OFFSET + DISK).doing("enlarge", &disk_path)?;
            let home_key = HomeKey::generate()?;
            let config = VmConfig {
                version: VmConfig::VERSION,
                id,
                name,
                cpus: 1,
                memory_mib: 64,
                boot: Boot::Disk,
                home: HomeCrypto::Encrypted { key: key.clone(), wrapped_key: codec::wrap(&home_key, &kek)? },
                disks: vec![DiskConfig {
                    id: disk,
                    file,
                    size: DISK,
                    plain_format: PlainFormat::Raw,
                    crypto: DiskCrypto::Encrypted { key: key.clone() },
                    attached: true,
                }],
                firmware: Firmware::Bios,
                tpm: None,
            };
            let moments = files::Moments { written: "measure.written", renamed: "measure.renamed" };
            files::write_atomically(&path.join(VM_TOML), &codec::encode(&config, Some(&home_key))?, moments)?;
            Ok(NativeVm { id, home, key })
        };
        make().map_err(|fault| fault.problem("cannot make a VM to measure"))
    }

    /// Unwraps the VM's KEK, as is done each time that it is wanted: the key is derived, the KEK opened into locked memory,
    /// and wiped.
    ///
    /// # Errors
    /// [`Problem`] where it does not open.
    pub fn unwrap_kek(&self, vm: &NativeVm) -> std::result::Result<(), Problem> {
        let unwrapped = self.keys.lock().resolve(&vm.key);
        unwrapped.map(drop).map_err(|fault| fault.problem("cannot unwrap a key"))
    }

    /// Does all of the VM's start that comes before its processes: locks the home, unwraps the KEK, checks the home's code
    /// under it, opens the disk's keyslot and checks its token.
    ///
    /// # Errors
    /// [`Problem`] where the VM could not be started.
    pub fn prepare_start(&self, vm: &NativeVm) -> std::result::Result<(), Problem> {
        let prepared = vmm::prepare_only(self.id, &self.keys, &self.isolated, &self.run_dir, vm.id, &vm.home);
        prepared.map_err(|fault| fault.problem("cannot start a VM"))
    }
}

//! What `ward bench keys` measures with: many VMs at once, written into the database of a controller that does not run.

use std::path::Path;

use ward_types::{
    Boot, DiskConfig, DiskCrypto, DiskId, Firmware, HomeCrypto, KeyRef, Name, PlainFormat, Power, Problem, VmConfig,
    VmId, WrappedHomeKey,
};

use crate::store::vm::{self, VmRow};
use crate::store::{Store, cluster};

/// Adds a VM with one disk for each key, as if their homes lay on the first datastore.
///
/// # Errors
/// [`Problem`] where the database can't be written, or there is no datastore.
pub async fn add_vms(state_dir: &Path, keys: &[KeyRef]) -> Result<(), Problem> {
    let what = "cannot add VMs";
    let internal = |error: ward_types::NameError| Problem::internal(what, error);
    let store = Store::open_file(&state_dir.join("controller.db")).await?;
    let mut tx = store.write().await?;
    let datastore = cluster::datastores(&mut tx).await?.into_iter().next();
    let datastore = datastore.ok_or_else(|| Problem::internal(what, "there is no datastore"))?;
    for (n, key) in keys.iter().enumerate() {
        let name: Name = format!("vm-{n:06}").parse().map_err(internal)?;
        let config = VmConfig {
            version: VmConfig::VERSION,
            id: VmId::new(),
            name: name.clone(),
            cpus: 1,
            memory_mib: 512,
            boot: Boot::Disk,
            firmware: Firmware::Bios,
            tpm: None,
            home: HomeCrypto::Encrypted { key: key.clone(), wrapped_key: WrappedHomeKey(String::new()) },
            disks: vec![DiskConfig {
                id: DiskId(0),
                file: "disk-0.luks".parse().map_err(internal)?,
                size: 1 << 30,
                plain_format: PlainFormat::Raw,
                crypto: DiskCrypto::Encrypted { key: key.clone() },
                attached: true,
            }],
        };
        let row = VmRow {
            id: config.id,
            name: name.clone(),
            cluster: datastore.cluster,
            datastore: datastore.id,
            directory: name,
            config: None,
            host: None,
            power: Power::Off,
            locked: None,
            template: false,
        };
        vm::add(&mut tx, &row).await?;
        vm::set_config(&mut tx, row.id, &config).await?;
    }
    tx.commit().await?;
    store.close().await;
    Ok(())
}

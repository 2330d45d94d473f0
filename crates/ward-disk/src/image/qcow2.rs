//! A qcow2 image's header and tables: enough to say what it needs and whether the file holds all of it.
//!
//! The library that reads the clusters takes what lies beyond the end of the file for zeros. A truncated image would so
//! become a disk with holes; that is why every table entry is looked at here first.

use std::fs::File;
use std::path::Path;

use super::{ImageInfo, invalid, read_up_to, truncated};
use crate::error::{DiskError, DiskErrorKind, Doing, Result};

const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
const INCOMPATIBLE_KNOWN: u64 = (1 << 5) - 1;

/// Bits 9 to 55 of an L1 or L2 entry: where the table or cluster lies.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const L2_COMPRESSED: u64 = 1 << 62;
const L2_ZERO: u64 = 1;
/// 32 MiB of L1 table, QEMU's own limit.
const MAX_L1_ENTRIES: u64 = 4 << 20;

struct Layout {
    cluster_bits: u32,
    virtual_size: u64,
    l1_offset: u64,
    l1_entries: u64,
}

/// Fills in what the header says.
pub(super) fn examine(file: &File, path: &Path, info: &mut ImageInfo) -> Result<()> {
    let mut header = [0u8; 112];
    let read = read_up_to(file, &mut header, 0).doing("read the image", path)?;
    if read < 72 {
        return Err(truncated(path, "it ends within its header"));
    }
    let u32_at = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap_or_default());
    let u64_at = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().unwrap_or_default());
    let version = u32_at(4);
    let incompatible = match version {
        2 => 0,
        3 if read < 104 => return Err(truncated(path, "it ends within its header")),
        3 => u64_at(72),
        other => return Err(unsupported(path, format!("version {other} of qcow2 is unknown"))),
    };
    let has_compression_type = version == 3 && u32_at(100) > 104 && read > 104;

    if incompatible & INCOMPATIBLE_CORRUPT != 0 {
        return Err(invalid(path, "it is marked corrupt; repair it with qemu-img check -r all"));
    }
    if incompatible & INCOMPATIBLE_EXTENDED_L2 != 0 {
        return Err(unsupported(path, "subclusters (extended L2 entries) are not supported"));
    }
    if incompatible & INCOMPATIBLE_COMPRESSION != 0 && (!has_compression_type || header[104] != 0) {
        return Err(unsupported(path, "it is compressed in another way than deflate"));
    }
    if incompatible & !INCOMPATIBLE_KNOWN != 0 {
        return Err(unsupported(path, format!("it needs unknown features ({incompatible:#x})")));
    }
    let cluster_bits = u32_at(20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(invalid(path, format!("its header says 2^{cluster_bits} bytes per cluster")));
    }
    let layout =
        Layout { cluster_bits, virtual_size: u64_at(24), l1_entries: u32_at(36).into(), l1_offset: u64_at(40) };
    info.virtual_size = layout.virtual_size;
    info.has_backing_file = u64_at(8) != 0;
    info.encrypted = u32_at(32) != 0;
    info.snapshots = u32_at(60);
    info.dirty = incompatible & INCOMPATIBLE_DIRTY != 0;
    info.has_data_file = incompatible & INCOMPATIBLE_DATA_FILE != 0;
    if layout.virtual_size == 0 || !layout.virtual_size.is_multiple_of(512) {
        let why = format!("its header says {} bytes, no whole number of 512-byte sectors", layout.virtual_size);
        return Err(invalid(path, why));
    }
    let refcount_end =
        u64::from(u32_at(56)).checked_shl(cluster_bits).and_then(|length| u64_at(48).checked_add(length));
    if refcount_end.is_none_or(|end| end > info.file_size) {
        return Err(truncated(path, "it ends before its refcount table does"));
    }
    layout.check(file, path, info)
}

impl Layout {
    /// Every table and cluster that an entry names must lie in the file.
    fn check(&self, file: &File, path: &Path, info: &ImageInfo) -> Result<()> {
        let cluster = 1u64 << self.cluster_bits;
        let per_table = cluster / 8;
        let needed = self.virtual_size.div_ceil(cluster).div_ceil(per_table);
        if self.l1_entries < needed || self.l1_entries > MAX_L1_ENTRIES {
            return Err(invalid(path, format!("its first table has {} entries and needs {needed}", self.l1_entries)));
        }
        if self.l1_offset.checked_add(self.l1_entries * 8).is_none_or(|end| end > info.file_size) {
            return Err(truncated(path, "it ends before its first table does"));
        }
        let l1 = read_table(file, path, self.l1_offset, needed)?;
        for (index, entry) in l1.iter().enumerate() {
            let table = entry & OFFSET_MASK;
            if table == 0 {
                continue;
            }
            if table.checked_add(cluster).is_none_or(|end| end > info.file_size) {
                return Err(truncated(path, "it ends before one of its tables does").at_offset(table));
            }
            if info.has_data_file {
                continue;
            }
            for (within, entry) in read_table(file, path, table, per_table)?.into_iter().enumerate() {
                let guest = (index as u64 * per_table + within as u64) << self.cluster_bits;
                self.check_cluster(entry, guest, info.file_size, path)?;
            }
        }
        Ok(())
    }

    fn check_cluster(&self, entry: u64, guest: u64, file_size: u64, path: &Path) -> Result<()> {
        if guest >= self.virtual_size {
            return Ok(());
        }
        let (at, end) = if entry & L2_COMPRESSED != 0 {
            // The offset's width depends on the cluster size; above it stands the number of further 512-byte sectors,
            // of which the last may reach beyond the end of the file.
            let width = 62 - (self.cluster_bits - 8);
            let at = entry & ((1 << width) - 1);
            (at, at + 1)
        } else if entry & L2_ZERO != 0 || entry & OFFSET_MASK == 0 {
            return Ok(());
        } else {
            // The disk's last cluster need not be written to its end.
            let at = entry & OFFSET_MASK;
            (at, at + (self.virtual_size - guest).min(1 << self.cluster_bits))
        };
        if end > file_size {
            let why = format!("it ends before the data of the disk's byte {guest}");
            return Err(truncated(path, why).at_offset(at));
        }
        Ok(())
    }
}

fn read_table(file: &File, path: &Path, offset: u64, entries: u64) -> Result<Vec<u64>> {
    let bytes = usize::try_from(entries * 8).map_err(|_| invalid(path, "a table is too large"))?;
    let mut table = vec![0u8; bytes];
    if read_up_to(file, &mut table, offset).doing_at("read the image", path, offset)? < bytes {
        return Err(truncated(path, "it ends within one of its tables").at_offset(offset));
    }
    Ok(table.chunks_exact(8).map(|entry| u64::from_be_bytes(entry.try_into().unwrap_or_default())).collect())
}

fn unsupported(path: &Path, why: impl Into<String>) -> DiskError {
    DiskError::new(DiskErrorKind::ImageUnsupported, "use the image", why).at_path(path)
}

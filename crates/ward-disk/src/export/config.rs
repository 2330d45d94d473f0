//! What the device offers: feature bits and configuration space.

use vhost::vhost_user::message::VhostUserVirtioFeatures;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_TOPOLOGY,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::request::SECTOR;

/// Without indirect descriptors a request of that many segments, header and status fits a queue of 128, QEMU's default.
const SEG_MAX: u32 = 126;
/// Guests that were installed on an ordinary disk have partition tables that count 512-byte sectors, so the logical
/// block stays that; the physical one tells them what is done without reading first.
const PHYSICAL_EXPONENT: u8 = 3;
const CONFIG_SIZE: usize = 60;

pub(super) fn features(read_only: bool, queues: u16) -> u64 {
    let mut bits = vec![
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_FLUSH,
    ];
    if read_only {
        bits.push(VIRTIO_BLK_F_RO);
    }
    if queues > 1 {
        bits.push(VIRTIO_BLK_F_MQ);
    }
    bits.into_iter().fold(VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(), |all, bit| all | 1 << bit)
}

/// Whether the guest flushes by itself, or expects each write to be on the storage when it is done.
pub(super) fn flushes(acked: u64) -> bool {
    acked & (1 << VIRTIO_BLK_F_FLUSH) != 0
}

/// `struct virtio_blk_config`, little-endian.
pub(super) struct ConfigSpace([u8; CONFIG_SIZE]);

impl ConfigSpace {
    pub(super) fn new(size: u64, queues: u16) -> Self {
        let mut space = Self([0; CONFIG_SIZE]);
        space.put(0, &(size / SECTOR).to_le_bytes());
        space.put(12, &SEG_MAX.to_le_bytes());
        space.put(20, &512u32.to_le_bytes());
        space.put(24, &[PHYSICAL_EXPONENT, 0]);
        // The least that is efficient, in logical blocks.
        space.put(26, &(1u16 << PHYSICAL_EXPONENT).to_le_bytes());
        space.put(34, &queues.to_le_bytes());
        space
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Whatever part is asked for; beyond the end there are zeros, as for a device that knows fewer fields.
    pub(super) fn read(&self, offset: u32, size: u32) -> Vec<u8> {
        let byte = |at: u64| usize::try_from(at).ok().and_then(|at| self.0.get(at)).copied().unwrap_or_default();
        // The protocol has no more than this.
        (0..u64::from(size.min(256))).map(|at| byte(u64::from(offset) + at)).collect()
    }
}

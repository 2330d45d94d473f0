//! What a guest asks for, taken from memory that it may fill with anything and change at any time.
//!
//! By the virtio specification the framing of a request means nothing: its first 16 readable bytes are the header, its
//! last writable byte takes the status, and what is between is data, however it is cut into descriptors.

use std::ops::Deref;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory};

/// The device says how many segments it takes (`seg_max`); whoever gives far more is not heard.
const MAX_DESCRIPTORS: usize = 1024;
const HEADER: u32 = 16;
pub(super) const SECTOR: u64 = 512;

/// A piece of guest memory. Whether it is there shows when it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) address: GuestAddress,
    pub(super) length: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    GetId,
}

/// A request that makes sense for the disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) kind: Kind,
    /// Where on the disk, in bytes; whole sectors.
    pub(super) offset: u64,
    /// How much; for reading and writing whole sectors, all of them on the disk.
    pub(super) length: u64,
    pub(super) data: Vec<Segment>,
    pub(super) status: GuestAddress,
}

/// A request that is answered without being carried out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Where the answer goes, if there is a place for it, and what it is.
    pub(super) answer: Option<(GuestAddress, u8)>,
}

/// What a disk allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) size: u64,
    pub(super) read_only: bool,
}

pub(super) const STATUS_IO_ERROR: u8 = to_u8(VIRTIO_BLK_S_IOERR);
const STATUS_UNSUPPORTED: u8 = to_u8(VIRTIO_BLK_S_UNSUPP);

#[allow(clippy::cast_possible_truncation)]
const fn to_u8(status: u32) -> u8 {
    assert!(status <= 0xff);
    status as u8
}

/// Understands a descriptor chain.
pub(super) fn parse<M>(chain: DescriptorChain<M>, limits: Limits) -> Result<Request, Refused>
where
    M: Deref + Clone,
    M::Target: GuestMemory + Sized,
{
    let memory = chain.memory();
    let mut readable = Vec::new();
    let mut writable = Vec::new();
    let mut ended = false;
    for (count, descriptor) in chain.clone().enumerate() {
        if count == MAX_DESCRIPTORS {
            return Err(Refused { answer: None });
        }
        let segment = Segment { address: descriptor.addr(), length: descriptor.len() };
        if descriptor.is_write_only() {
            writable.push(segment);
        } else if writable.is_empty() {
            readable.push(segment);
        } else {
            // What the device reads must come before what it writes.
            return Err(Refused { answer: None });
        }
        ended = !descriptor.has_next();
    }
    // A chain that ends otherwise runs in a circle or out of its table.
    let status = take_last_byte(&mut writable).filter(|_| ended).ok_or(Refused { answer: None })?;
    let refuse = |with: u8| Refused { answer: Some((status, with)) };
    let header = take_header(memory, &mut readable).ok_or_else(|| refuse(STATUS_IO_ERROR))?;
    let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let sector = u64::from_le_bytes(header[8..16].try_into().unwrap_or_default());

    let (kind, data, other) = match kind {
        VIRTIO_BLK_T_IN => (Kind::Read, writable, readable),
        VIRTIO_BLK_T_OUT => (Kind::Write, readable, writable),
        VIRTIO_BLK_T_GET_ID => (Kind::GetId, writable, readable),
        // What a flush carries besides is of no concern.
        VIRTIO_BLK_T_FLUSH => {
            return Ok(Request { kind: Kind::Flush, offset: 0, length: 0, data: Vec::new(), status });
        }
        _ => return Err(refuse(STATUS_UNSUPPORTED)),
    };
    let length = data.iter().map(|segment| u64::from(segment.length)).sum();
    if other.iter().any(|segment| segment.length > 0) {
        return Err(refuse(STATUS_IO_ERROR));
    }
    if kind == Kind::GetId {
        return Ok(Request { kind, offset: 0, length, data, status });
    }
    let offset = sector.checked_mul(SECTOR).ok_or_else(|| refuse(STATUS_IO_ERROR))?;
    let end = offset.checked_add(length).ok_or_else(|| refuse(STATUS_IO_ERROR))?;
    let fits = length > 0 && length.is_multiple_of(SECTOR) && end <= limits.size;
    if !fits || (kind == Kind::Write && limits.read_only) {
        return Err(refuse(STATUS_IO_ERROR));
    }
    Ok(Request { kind, offset, length, data, status })
}

fn take_last_byte(segments: &mut Vec<Segment>) -> Option<GuestAddress> {
    loop {
        let last = segments.last_mut()?;
        if last.length == 0 {
            segments.pop();
            continue;
        }
        last.length -= 1;
        return last.address.0.checked_add(last.length.into()).map(GuestAddress);
    }
}

fn take_header<M: GuestMemory>(memory: &M, segments: &mut Vec<Segment>) -> Option<[u8; HEADER as usize]> {
    let mut header = [0u8; HEADER as usize];
    let mut have = 0usize;
    let mut used = 0;
    for segment in segments.iter_mut() {
        let part = segment.length.min(HEADER - u32::try_from(have).ok()?);
        let end = have + usize::try_from(part).ok()?;
        memory.read_slice(&mut header[have..end], segment.address).ok()?;
        have = end;
        segment.address = GuestAddress(segment.address.0.checked_add(part.into())?);
        segment.length -= part;
        if segment.length > 0 {
            break;
        }
        used += 1;
    }
    segments.drain(..used);
    (have == header.len()).then_some(header)
}

/// Copies guest memory, from `skip` bytes into the segments on, to `buffer`. `None` where it isn't all there.
pub(super) fn copy_in<M: GuestMemory>(memory: &M, segments: &[Segment], skip: u64, buffer: &mut [u8]) -> Option<()> {
    let mut have = 0;
    walk(segments, skip, buffer.len(), |address, length| {
        memory.read_slice(&mut buffer[have..have + length], address).ok()?;
        have += length;
        Some(())
    })
}

/// Copies `buffer` to guest memory, from `skip` bytes into the segments on. `None` where it isn't all there.
pub(super) fn copy_out<M: GuestMemory>(memory: &M, segments: &[Segment], skip: u64, buffer: &[u8]) -> Option<()> {
    let mut have = 0;
    walk(segments, skip, buffer.len(), |address, length| {
        memory.write_slice(&buffer[have..have + length], address).ok()?;
        have += length;
        Some(())
    })
}

fn walk(
    segments: &[Segment],
    mut skip: u64,
    length: usize,
    mut visit: impl FnMut(GuestAddress, usize) -> Option<()>,
) -> Option<()> {
    let mut left = length;
    for segment in segments {
        if left == 0 {
            break;
        }
        let size = u64::from(segment.length);
        if skip >= size {
            skip -= size;
            continue;
        }
        let part = usize::try_from(size - skip).ok()?.min(left);
        visit(GuestAddress(segment.address.0.checked_add(skip)?), part)?;
        left -= part;
        skip = 0;
    }
    (left == 0).then_some(())
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;

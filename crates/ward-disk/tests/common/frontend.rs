//! A virtual machine monitor's part, without one: a vhost-user-blk client with memory that it shares.
#![allow(unsafe_code, dead_code, clippy::unwrap_used, unreachable_pub)]

use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Duration;

use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};

pub struct Frontend {
    queues: Vec<Blkioq>,
    region: MemoryRegion,
    blkio: Blkio,
}

impl Frontend {
    pub fn connect(socket: &Path, queues: i32, memory: usize) -> Self {
        Self::connect_as(socket, queues, memory, false)
    }

    pub fn connect_as(socket: &Path, queues: i32, memory: usize, read_only: bool) -> Self {
        let mut blkio = Blkio::new("virtio-blk-vhost-user").unwrap();
        blkio.set_str("path", socket.to_str().unwrap()).unwrap();
        blkio.set_bool("read-only", read_only).unwrap();
        blkio.connect().unwrap();
        blkio.set_i32("num-queues", queues).unwrap();
        let started = blkio.start().unwrap();
        let region = blkio.alloc_mem_region(memory.next_multiple_of(1 << 20)).unwrap();
        blkio.map_mem_region(&region).unwrap();
        Self { queues: started.queues, region, blkio }
    }

    pub fn capacity(&self) -> u64 {
        self.blkio.get_u64("capacity").unwrap()
    }

    pub fn number(&self, property: &str) -> i32 {
        self.blkio.get_i32(property).unwrap()
    }

    fn pointer(&self, at: usize, length: usize) -> *mut u8 {
        assert!(at + length <= self.region.len);
        (self.region.addr + at) as *mut u8
    }

    /// Fills shared memory.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        let target = self.pointer(at, bytes.len());
        // SAFETY: the range is in the mapped region, as `pointer` checked; the device writes there only while a read is
        // in flight, which the tests wait for before they use the range again.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) }
    }

    /// What lies in shared memory.
    pub fn get(&self, at: usize, length: usize) -> Vec<u8> {
        let source = self.pointer(at, length);
        let mut bytes = vec![0; length];
        // SAFETY: as in `put`.
        unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), length) }
        bytes
    }

    pub fn begin_write(&mut self, queue: usize, offset: u64, at: usize, length: usize, tag: usize) {
        let pointer = self.pointer(at, length);
        self.queues[queue].write(offset, pointer, length, tag, ReqFlags::empty());
    }

    pub fn begin_read(&mut self, queue: usize, offset: u64, at: usize, length: usize, tag: usize) {
        let pointer = self.pointer(at, length);
        self.queues[queue].read(offset, pointer, length, tag, ReqFlags::empty());
    }

    pub fn begin_flush(&mut self, queue: usize, tag: usize) {
        self.queues[queue].flush(tag, ReqFlags::empty());
    }

    /// Hands over what was begun and waits for that many completions: tags and results.
    pub fn wait(&mut self, queue: usize, count: usize) -> Vec<(usize, i32)> {
        let completions = self.wait_for(queue, count, count);
        assert_eq!(completions.len(), count);
        completions
    }

    /// Hands over what was begun and waits for one completion at least.
    pub fn wait_some(&mut self, queue: usize, most: usize) -> Vec<(usize, i32)> {
        self.wait_for(queue, 1, most)
    }

    fn wait_for(&mut self, queue: usize, least: usize, most: usize) -> Vec<(usize, i32)> {
        let mut timeout = Duration::from_secs(30);
        let mut completions: Vec<MaybeUninit<Completion>> = (0..most).map(|_| MaybeUninit::uninit()).collect();
        let got = self.queues[queue].do_io(&mut completions, least, Some(&mut timeout), None).unwrap();
        completions
            .into_iter()
            .take(got)
            .map(|completion| {
                // SAFETY: `do_io` says that it has written that many.
                let completion = unsafe { completion.assume_init() };
                (completion.user_data, completion.ret)
            })
            .collect()
    }

    /// Hands over what was begun, without waiting.
    pub fn kick(&mut self, queue: usize) {
        self.queues[queue].do_io(&mut [], 0, None, None).unwrap();
    }

    pub fn write(&mut self, queue: usize, offset: u64, bytes: &[u8]) -> i32 {
        self.put(0, bytes);
        self.begin_write(queue, offset, 0, bytes.len(), 1);
        self.wait(queue, 1)[0].1
    }

    pub fn read(&mut self, queue: usize, offset: u64, length: usize) -> Result<Vec<u8>, i32> {
        self.put(0, &vec![0xee; length]);
        self.begin_read(queue, offset, 0, length, 1);
        match self.wait(queue, 1)[0].1 {
            0 => Ok(self.get(0, length)),
            error => Err(error),
        }
    }

    pub fn flush(&mut self, queue: usize) -> i32 {
        self.begin_flush(queue, 1);
        self.wait(queue, 1)[0].1
    }
}

//! The vhost-user side of one disk, for one connection of a front end.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use std::os::fd::AsRawFd;

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringRwLock};
use vm_memory::GuestMemoryAtomic;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use super::config::{self, ConfigSpace};
use super::disk::Disk;
use super::queue::{AtomicMemory, Memory, QueueWorker};

/// What QEMU allows at most.
const MAX_QUEUE_SIZE: usize = 1024;

/// A queue's engine, which outlives connections, with what others need to know about it.
pub(super) struct Queue {
    worker: Mutex<QueueWorker>,
    busy: Mutex<bool>,
    became_idle: Condvar,
}

impl Queue {
    pub(super) fn new(worker: QueueWorker) -> Self {
        Self { worker: Mutex::new(worker), busy: Mutex::new(false), became_idle: Condvar::new() }
    }

    /// Drops what a front end that is gone had asked for.
    pub(super) fn abandon(&self) {
        held(&self.worker).abandon();
        *held(&self.busy) = false;
    }

    fn run(&self, vring: &VringRwLock<AtomicMemory>, memory: &AtomicMemory) {
        // Only the thread of this queue takes it; nobody else is waited for.
        let mut worker = held(&self.worker);
        worker.run(vring, memory, || *held(&self.busy) = true);
        if worker.is_idle() {
            *held(&self.busy) = false;
            self.became_idle.notify_all();
        }
    }

    fn wait_idle(&self) {
        let busy = held(&self.busy);
        drop(self.became_idle.wait_while(busy, |busy| *busy).unwrap_or_else(PoisonError::into_inner));
    }
}

pub(super) type Daemon = VhostUserDaemon<Arc<Backend>>;

pub(super) struct Backend {
    disk: Arc<Disk>,
    queues: Arc<[Queue]>,
    config: ConfigSpace,
    memory: AtomicMemory,
    /// What a queue's thread hears of its own completions by, besides the guest's kicks.
    completion_event: u16,
}

impl Backend {
    /// A daemon for one connection.
    pub(super) fn daemon(disk: &Arc<Disk>, queues: &Arc<[Queue]>) -> Result<Daemon, String> {
        let memory: AtomicMemory = GuestMemoryAtomic::new(Memory::new());
        let backend = Arc::new(Self {
            disk: Arc::clone(disk),
            queues: Arc::clone(queues),
            config: ConfigSpace::new(disk.limits.size, disk.queues),
            memory: memory.clone(),
            completion_event: disk.queues + 1,
        });
        let completion_event = backend.completion_event;
        let daemon = VhostUserDaemon::new("vhost-user".into(), backend, memory).map_err(|error| error.to_string())?;
        for (handler, waker) in daemon.get_epoll_handlers().iter().zip(&disk.wakers) {
            handler
                .register_listener(waker.as_raw_fd(), EventSet::IN, completion_event.into())
                .map_err(|error| error.to_string())?;
        }
        Ok(daemon)
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = VringRwLock<AtomicMemory>;

    fn num_queues(&self) -> usize {
        self.queues.len()
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        config::features(self.disk.limits.read_only, self.disk.queues)
    }

    fn acked_features(&self, features: u64) {
        self.disk.set_write_through(!config::flushes(features));
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The rings know.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.config.read(offset, size)
    }

    fn set_config(&self, _offset: u32, _buffer: &[u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "nothing in the configuration can be changed"))
    }

    fn update_memory(&self, _memory: AtomicMemory) -> io::Result<()> {
        // It is the one that `self.memory` shares.
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.queues.len()).map(|queue| 1 << queue).collect()
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn stop_vring(&self, index: u32) -> io::Result<()> {
        // The ring is not ready any more, so nothing is taken; what was taken must be answered before the front end
        // learns where the ring stands, since it would be asked again or be lost.
        if let Some(queue) = usize::try_from(index).ok().and_then(|index| self.queues.get(index)) {
            queue.wait_idle();
        }
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        vrings: &[VringRwLock<AtomicMemory>],
        thread: usize,
    ) -> io::Result<()> {
        let (Some(queue), Some(vring)) = (self.queues.get(thread), vrings.first()) else { return Ok(()) };
        if event == self.completion_event
            && let Some(waker) = self.disk.wakers.get(thread)
        {
            // Empty where an earlier event was heard late.
            let _ = waker.read();
        }
        queue.run(vring, &self.memory);
        Ok(())
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Disks served over vhost-user-blk and NBD: plain raw images and LUKS2 payloads by the same road.
//!
//! ```text
//! export   a thread per disk that accepts front ends, and the end when all have gone
//! backend  the vhost-user protocol, for one connection
//! queue    a thread per queue with its own ring and cipher: the hot path
//! request  what a guest asks for, understood or refused
//! disk     file, geometry, what queues share (stripes, counters)
//! ring     io_uring; pool: bounce buffers; config: what the device offers
//! nbd      the other way out: small and slow, for what a VMM itself reads and writes
//! ```

mod backend;
mod config;
mod disk;
mod nbd;
mod pool;
mod queue;
mod request;
mod ring;
mod stripes;

use std::fs::File;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vhost::vhost_user::Listener;
use vhost_user_backend::ShutdownHandle;
use ward_secret::Dek;

use crate::cipher::PayloadCipher;
use crate::error::{DiskError, DiskErrorKind, Doing, Result};
use crate::order::{ExportDisk, ExportOrder, ImageFormat};
use crate::report::Stats;
use backend::{Backend, Queue};
use disk::{Counters, Disk};
use queue::QueueWorker;

/// Disks that are open, locked and listened for.
pub(crate) struct Export {
    disks: Vec<Served>,
    nbd: Vec<nbd::Served>,
    control: Arc<Control>,
}

struct Served {
    disk: Arc<Disk>,
    queues: Arc<[Queue]>,
    listener: Listener,
    /// The same listener, to be waited on.
    arrivals: UnixListener,
    path: PathBuf,
    socket: Socket,
}

/// Stops an export and counts for it, from another thread.
#[derive(Clone)]
pub(crate) struct Handle(Arc<Control>);

struct Control {
    /// Readable once the export is to end.
    stop: OwnedFd,
    state: Mutex<State>,
    connected: AtomicU32,
    disks: Vec<Arc<Disk>>,
    nbd: Vec<Arc<Counters>>,
}

#[derive(Default)]
struct State {
    stopping: bool,
    /// By disk, those over NBD last: what ends its connection.
    connections: Vec<Connection>,
}

#[derive(Clone, Default)]
enum Connection {
    #[default]
    NeverYet,
    Open(Ending),
    Closed,
}

/// What ends a connection.
#[derive(Clone)]
enum Ending {
    VhostUser(ShutdownHandle),
    Nbd(Arc<UnixStream>),
}

impl Ending {
    fn end(&self) {
        match self {
            Self::VhostUser(handle) => handle.shutdown(),
            // One that is gone has ended.
            Self::Nbd(stream) => drop(stream.shutdown(Shutdown::Read)),
        }
    }
}

impl Export {
    /// Locks all images, which are in the order's order, and makes all sockets.
    pub(crate) fn open(order: &ExportOrder, images: Vec<File>, deks: Vec<Dek>) -> Result<Self> {
        let queues: usize = order.disks.iter().map(|disk| usize::from(disk.num_queues)).sum();
        // This process makes nothing for others.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let mut images = images.into_iter();
        let disks = order.disks.iter().zip(images.by_ref());
        let disks = disks.map(|(disk, image)| Served::open(disk, image, &deks, queues)).collect::<Result<Vec<_>>>()?;
        let nbd = order.nbd.iter().zip(images);
        let nbd = nbd.map(|(disk, image)| nbd::Served::open(disk, image, &deks)).collect::<Result<Vec<_>>>()?;
        // From here on the keys are only where the ciphers keep them, expanded.
        drop(deks);
        let stop = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|source| DiskError::io("make an event", &source.into()))?;
        let control = Arc::new(Control {
            stop,
            state: Mutex::new(State {
                stopping: false,
                connections: vec![Connection::NeverYet; disks.len() + nbd.len()],
            }),
            connected: AtomicU32::new(0),
            disks: disks.iter().map(|served| Arc::clone(&served.disk)).collect(),
            nbd: nbd.iter().map(nbd::Served::counters).collect(),
        });
        Ok(Self { disks, nbd, control })
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.control))
    }

    /// Serves until it is stopped, or all front ends have come and gone. Then everything is on the storage.
    pub(crate) fn serve(self) -> Result<Stats> {
        let Self { disks, nbd, control } = self;
        let control = &control;
        // A disk that is lost is not to be noticed only by its guest.
        let served = |outcome: Result<()>| outcome.inspect_err(|_| control.stop());
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let first_nbd = disks.len();
            let disks = disks.into_iter().enumerate();
            let mut threads: Vec<_> =
                disks.map(|(index, disk)| scope.spawn(move || served(disk.serve(index, control)))).collect();
            for (index, disk) in (first_nbd..).zip(nbd) {
                threads.push(scope.spawn(move || served(disk.serve(index, control))));
            }
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(defect()))).collect()
        });
        outcomes.into_iter().collect::<Result<()>>()?;
        Ok(control.stats())
    }
}

impl Handle {
    /// Ends the export: what is in flight is finished and everything brought to the storage.
    pub(crate) fn stop(&self) {
        self.0.stop();
    }

    pub(crate) fn stats(&self) -> Stats {
        self.0.stats()
    }
}

impl Control {
    fn stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        // It stays readable for all who wait. Its counter being full, it has been written to.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        for connection in &state.connections {
            if let Connection::Open(ending) = connection {
                ending.end();
            }
        }
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats { connected: self.connected.load(Ordering::Relaxed), ..Stats::default() };
        self.disks.iter().for_each(|disk| disk.add_to(&mut stats));
        self.nbd.iter().for_each(|counters| counters.add_to(&mut stats));
        stats
    }

    fn opened(&self, index: usize, ending: Option<Ending>) {
        let mut state = self.state();
        if let Some(ending) = ending {
            if state.stopping {
                ending.end();
            }
            state.connections[index] = Connection::Open(ending);
        }
        self.connected.fetch_add(1, Ordering::Relaxed);
    }

    fn closed(&self, index: usize) {
        let mut state = self.state();
        state.connections[index] = Connection::Closed;
        self.connected.fetch_sub(1, Ordering::Relaxed);
        let gone = state.connections.iter().all(|connection| matches!(connection, Connection::Closed));
        drop(state);
        if gone {
            self.stop();
        }
    }

    /// Waits for a front end; `false` where the export ends.
    fn someone_connects(&self, arrivals: &UnixListener, socket: &Socket) -> Result<bool> {
        loop {
            let mut waited = [PollFd::new(arrivals, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            match poll(&mut waited, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).doing("wait for a front end at", &socket.0),
                Ok(_) if !waited[1].revents().is_empty() => return Ok(false),
                Ok(_) if !waited[0].revents().is_empty() => return Ok(true),
                Ok(_) => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Served {
    fn open(order: &ExportDisk, image: File, deks: &[Dek], all_queues: usize) -> Result<Self> {
        let disk = Arc::new(Disk::open(order, image)?);
        let queues = (0..usize::from(order.num_queues))
            .map(|index| {
                let cipher = cipher(order.format, order.dek, deks)?;
                let worker = QueueWorker::new(Arc::clone(&disk), index, cipher, all_queues);
                worker.map(Queue::new).doing("set up a queue for", &order.path)
            })
            .collect::<Result<_>>()?;
        let (socket, arrivals) = Socket::listen(&order.socket)?;
        let listener = Listener::from(arrivals.try_clone().doing("make the socket", &order.socket)?);
        Ok(Self { disk, queues, listener, arrivals, path: order.path.clone(), socket })
    }

    fn serve(mut self, index: usize, control: &Control) -> Result<()> {
        while control.someone_connects(&self.arrivals, &self.socket)? {
            let mut daemon = Backend::daemon(&self.disk, &self.queues).map_err(|why| self.failed(why))?;
            daemon.start(&mut self.listener).map_err(|error| self.failed(error.to_string()))?;
            control.opened(index, daemon.shutdown_handle().map(Ending::VhostUser));
            tracing::info!(disk = index, "a front end has connected");
            if let Err(error) = daemon.wait() {
                // That a front end goes away shows as all sorts of errors.
                tracing::info!(disk = index, %error, "the front end has gone");
            }
            // Ends the queues' threads; nobody but this thread uses the queues after that.
            drop(daemon);
            self.queues.iter().for_each(Queue::abandon);
            self.disk.sync(&self.path)?;
            control.closed(index);
        }
        drop(self.socket);
        self.disk.sync(&self.path)
    }

    fn failed(&self, why: String) -> DiskError {
        DiskError::new(DiskErrorKind::Io, "serve", why).at_path(&self.path)
    }
}

/// The name of a socket, which is taken away at the end.
struct Socket(PathBuf);

impl Socket {
    /// Makes it; takes away what an earlier process left.
    fn listen(path: &Path) -> Result<(Self, UnixListener)> {
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => {
                std::fs::remove_file(path).doing("replace the socket", path)?;
            }
            Ok(_) => {
                let why = "there is something else of that name";
                return Err(DiskError::new(DiskErrorKind::Protocol, "make the socket", why).at_path(path));
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).doing("make the socket", path)?;
        Ok((Self(path.to_owned()), listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Whoever starts the next process can do it as well.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn cipher(format: ImageFormat, dek: Option<usize>, deks: &[Dek]) -> Result<Option<PayloadCipher>> {
    let ImageFormat::Luks2 { sector_size, .. } = format else { return Ok(None) };
    let dek = dek.and_then(|index| deks.get(index));
    let dek = dek.ok_or_else(|| DiskError::new(DiskErrorKind::Protocol, "export", "a key is missing"))?;
    PayloadCipher::new(dek, sector_size).map(Some)
}

fn defect() -> DiskError {
    DiskError::new(DiskErrorKind::Io, "serve", "a thread failed; this is a defect")
}

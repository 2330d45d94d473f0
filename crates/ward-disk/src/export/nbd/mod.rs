//! A volume served over NBD, to one client at a time: what a VMM itself reads and writes, such as the store of UEFI
//! variables, which is small. One thread does one thing after the other.
//!
//! ```text
//! proto  what is said, understood or refused: pure
//! image  reading and writing at any byte, on whole encrypted sectors
//! ```
//!
//! A firmware never flushes. So what was written is brought to the storage by itself as soon as the client rests.

mod image;
mod proto;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ward_secret::Dek;

use super::disk::Counters;
use super::{Control, Ending, Socket};
use crate::buffer::Buffer;
use crate::error::{DiskError, Doing, Result};
use crate::order::NbdDisk;
use image::Image;
use proto::{Action, Errno, Negotiated, Offer, Request, Violation};

/// How long a client must have asked for nothing for what it wrote to be brought to the storage.
const REST: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

pub(super) struct Served {
    image: Image,
    offer: Offer,
    counters: Arc<Counters>,
    /// What a request reads or writes.
    data: Buffer,
    arrivals: UnixListener,
    path: PathBuf,
    socket: Socket,
}

/// Why a connection ends.
#[derive(Debug)]
enum Gone {
    /// The client is done, or gone, or was told to go.
    Left,
    Violated(Violation),
    /// What it wrote before can't be brought to the storage, and it doesn't ask whether it was.
    Failed(DiskError),
}

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self::Left
    }
}

impl From<Violation> for Gone {
    fn from(violation: Violation) -> Self {
        Self::Violated(violation)
    }
}

impl Served {
    pub(super) fn open(order: &NbdDisk, file: File, deks: &[Dek]) -> Result<Self> {
        let image = Image::open(order, file, deks)?;
        let data = Buffer::new(proto::MAX_LENGTH as usize).doing("get memory for", &order.path)?;
        let (socket, arrivals) = Socket::listen(&order.socket)?;
        let offer = Offer { size: order.size, read_only: order.read_only };
        let counters = Arc::new(Counters::default());
        Ok(Self { image, offer, counters, data, arrivals, path: order.path.clone(), socket })
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    pub(super) fn serve(mut self, index: usize, control: &Control) -> Result<()> {
        while control.someone_connects(&self.arrivals, &self.socket)? {
            let (stream, _) = self.arrivals.accept().doing("accept a client at", &self.socket.0)?;
            let stream = Arc::new(stream);
            control.opened(index, Some(Ending::Nbd(Arc::clone(&stream))));
            let outcome = match self.attend(&stream) {
                Err(Gone::Failed(error)) => Err(error),
                Err(Gone::Violated(Violation(why))) => {
                    tracing::warn!(path = %self.path.display(), why, "an NBD client was dropped");
                    self.image.sync()
                }
                Err(Gone::Left) | Ok(()) => self.image.sync(),
            };
            control.closed(index);
            outcome?;
        }
        Ok(())
    }

    /// Serves one client to its end.
    fn attend(&mut self, stream: &UnixStream) -> std::result::Result<(), Gone> {
        shake_hands(stream, self.offer)?;
        loop {
            if self.image.unsynced && rests(stream) {
                self.image.sync().map_err(Gone::Failed)?;
            }
            let Request { cookie, action } = proto::request(&read(stream)?, self.offer)?;
            let outcome = match action {
                Action::Disconnect => return Err(Gone::Left),
                Action::Refuse { error, skip } => {
                    io::copy(&mut stream.take(skip.into()), &mut io::sink())?;
                    Err(error)
                }
                Action::Read { offset, length } => {
                    let data = &mut self.data[..length as usize];
                    done(self.image.read(offset, data), &self.counters.reads).map(|()| {
                        self.counters.read_bytes.fetch_add(length.into(), Ordering::Relaxed);
                        length as usize
                    })
                }
                Action::Write { offset, length, fua } => {
                    let data = &mut self.data[..length as usize];
                    let mut stream = stream;
                    stream.read_exact(data)?;
                    let written = self.image.write(offset, data);
                    let written = written.and_then(|()| if fua { self.image.sync() } else { Ok(()) });
                    done(written, &self.counters.writes).map(|()| {
                        self.counters.written_bytes.fetch_add(length.into(), Ordering::Relaxed);
                        0
                    })
                }
                Action::Flush => done(self.image.sync(), &self.counters.flushes).map(|()| 0),
            };
            let mut stream = stream;
            match outcome {
                Ok(length) => {
                    stream.write_all(&proto::answer(cookie, Errno::None))?;
                    stream.write_all(&self.data[..length])?;
                }
                Err(error) => {
                    self.counters.errors.fetch_add(1, Ordering::Relaxed);
                    stream.write_all(&proto::answer(cookie, error))?;
                }
            }
        }
    }
}

fn done(outcome: Result<()>, counter: &AtomicU64) -> std::result::Result<(), Errno> {
    match outcome {
        Ok(()) => {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => {
            tracing::error!(%error, "a request failed");
            Err(Errno::Io)
        }
    }
}

/// Comes to terms with a client: after that it sends requests.
fn shake_hands(mut stream: &UnixStream, offer: Offer) -> std::result::Result<(), Gone> {
    stream.write_all(&proto::GREETING)?;
    let no_zeroes = proto::client_flags(read(stream)?)?;
    loop {
        let (option, length) = proto::option(&read(stream)?)?;
        let mut data = vec![0; length];
        stream.read_exact(&mut data)?;
        match proto::negotiate(option, &data, offer, no_zeroes)? {
            Negotiated::Answer(bytes) => stream.write_all(&bytes)?,
            Negotiated::Go(bytes) => return Ok(stream.write_all(&bytes)?),
            Negotiated::End(bytes) => {
                stream.write_all(&bytes)?;
                return Err(Gone::Left);
            }
        }
    }
}

fn read<const N: usize>(mut stream: &UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Whether a client asks for nothing for a while.
fn rests(stream: &UnixStream) -> bool {
    matches!(poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&REST)), Ok(0))
}

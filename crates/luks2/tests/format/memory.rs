//! A device in memory that can lose power.

use std::cell::RefCell;
use std::io::{Error, ErrorKind, Result};

use luks2::Io;

const SECTOR: usize = 512;

/// When the power goes, and what of the last write is done by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// How many writes and syncs go through.
    pub(crate) after: usize,
    /// How many bytes of the next write get through.
    pub(crate) torn: usize,
}

#[derive(Default)]
pub(crate) struct Memory {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// What reads see.
    cached: Vec<u8>,
    /// What is certain to survive.
    durable: Vec<u8>,
    /// Written and not yet synced: offset and length.
    pending: Vec<(usize, usize)>,
    operations: usize,
    reads: usize,
    cut: Option<Cut>,
    dead: bool,
}

impl Memory {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let state = State { cached: bytes.clone(), durable: bytes, ..State::default() };
        Self { state: RefCell::new(state) }
    }

    pub(crate) fn zeros(size: usize) -> Self {
        Self::new(vec![0; size])
    }

    pub(crate) fn cut(bytes: Vec<u8>, cut: Cut) -> Self {
        let memory = Self::new(bytes);
        memory.state.borrow_mut().cut = Some(cut);
        memory
    }

    /// What reads see.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state.borrow().cached.clone()
    }

    /// How many writes and syncs there were.
    pub(crate) fn operations(&self) -> usize {
        self.state.borrow().operations
    }

    /// How many bytes have been read.
    pub(crate) fn bytes_read(&self) -> usize {
        self.state.borrow().reads
    }

    /// Whether the power has gone.
    pub(crate) fn is_dead(&self) -> bool {
        self.state.borrow().dead
    }

    /// How many writes were not synced.
    pub(crate) fn pending(&self) -> usize {
        self.state.borrow().pending.len()
    }

    /// What is there after the power comes back. Of what was not synced, `survives` says for the number of each write
    /// and each of its sectors whether it is there.
    pub(crate) fn after_power_cut(&self, survives: impl Fn(usize, usize) -> bool) -> Vec<u8> {
        let state = self.state.borrow();
        let mut bytes = state.durable.clone();
        for (number, (offset, len)) in state.pending.iter().enumerate() {
            let mut at = *offset;
            while at < offset + len {
                let end = ((at / SECTOR + 1) * SECTOR).min(offset + len);
                if survives(number, at / SECTOR) {
                    bytes[at..end].copy_from_slice(&state.cached[at..end]);
                }
                at = end;
            }
        }
        bytes
    }
}

impl State {
    /// Counts an operation. Says how much of it may still be done, if the power goes now.
    fn step(&mut self) -> Result<Option<usize>> {
        if self.dead {
            return Err(Error::other("the power is gone"));
        }
        match self.cut {
            Some(cut) if self.operations == cut.after => {
                self.dead = true;
                Ok(Some(cut.torn))
            }
            _ => {
                self.operations += 1;
                Ok(None)
            }
        }
    }

    fn range(&self, len: usize, offset: u64) -> Result<std::ops::Range<usize>> {
        let start = usize::try_from(offset).map_err(|_| ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(len).filter(|end| *end <= self.cached.len()).ok_or(ErrorKind::UnexpectedEof)?;
        Ok(start..end)
    }
}

impl Io for Memory {
    fn size(&self) -> Result<u64> {
        Ok(self.state.borrow().cached.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut state = self.state.borrow_mut();
        let range = state.range(buffer.len(), offset)?;
        state.reads += buffer.len();
        buffer.copy_from_slice(&state.cached[range]);
        Ok(())
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        let mut state = self.state.borrow_mut();
        let range = state.range(buffer.len(), offset)?;
        let torn = state.step()?;
        let len = torn.unwrap_or(buffer.len()).min(buffer.len());
        let start = range.start;
        state.cached[start..start + len].copy_from_slice(&buffer[..len]);
        state.pending.push((start, len));
        if torn.is_some() { Err(Error::other("the power went")) } else { Ok(()) }
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.state.borrow_mut();
        if state.step()?.is_some() {
            return Err(Error::other("the power went"));
        }
        let State { cached, durable, pending, .. } = &mut *state;
        for (offset, len) in pending.drain(..) {
            durable[offset..offset + len].copy_from_slice(&cached[offset..offset + len]);
        }
        Ok(())
    }
}

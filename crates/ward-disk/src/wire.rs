//! Frames on the socket between the two sides: a length of four bytes, little-endian, and that much JSON. Open files go with
//! a byte of their own.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::order::MAX_DISKS;

/// An order names at most a few dozen files; a longer frame is not one of ours.
const MAX_FRAME: usize = 1 << 20;

pub(crate) fn write_frame<T: Serialize>(mut stream: impl Write, message: &T) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= MAX_FRAME);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the frame is too long"))?;
    let mut frame = Vec::with_capacity(4 + json.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&json);
    // One write, so that frames of several threads under one lock stay whole even where the peer goes away between.
    stream.write_all(&frame)
}

/// `None` at the end of the stream.
pub(crate) fn read_frame<T: DeserializeOwned>(mut stream: impl Read) -> io::Result<Option<T>> {
    let mut length = [0u8; 4];
    let mut have = 0;
    while have < length.len() {
        match stream.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is too long"));
    }
    let mut json = vec![0; length];
    stream.read_exact(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

pub(crate) fn send_files(stream: &UnixStream, files: &[File]) -> io::Result<()> {
    let files: Vec<_> = files.iter().map(File::as_fd).collect();
    send_descriptors(stream, &[0], &files).map(drop)
}

/// Sends some bytes together with open files, [`MAX_DISKS`] at most; tells how many of the bytes were sent.
///
/// # Errors
/// What the kernel says.
pub fn send_descriptors(stream: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DISKS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there are too many files"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// As many as there must be.
pub(crate) fn receive_files(stream: &UnixStream, count: usize) -> io::Result<Vec<File>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DISKS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message = recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let messages = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let files: Vec<File> = messages.flatten().map(File::from).collect();
    if files.len() == count {
        return Ok(files);
    }
    let why = format!("{} files are given and {count} are meant", files.len());
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

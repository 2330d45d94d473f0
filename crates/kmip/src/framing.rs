//! Whole messages from and to a stream.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::ttlv::{DecodeError, HEADER_LENGTH, Limits, message_length};

/// Why no message could be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The stream broke, or ended within a message.
    Io(io::Error),
    /// What the stream holds is no message.
    Malformed(DecodeError),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The first bytes of a message; `None` if the stream ended before it.
pub(crate) async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<[u8; HEADER_LENGTH]>, ReadError> {
    let mut header = [0; HEADER_LENGTH];
    let mut have = 0;
    while have < HEADER_LENGTH {
        match stream.read(&mut header[have..]).await? {
            0 if have == 0 => return Ok(None),
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            read => have += read,
        }
    }
    Ok(Some(header))
}

/// The rest of a message. The buffer, header included, has its final size from the start, so that no growing leaves a copy
/// behind, and is wiped when dropped.
pub(crate) async fn read_rest(
    stream: &mut (impl AsyncRead + Unpin),
    header: [u8; HEADER_LENGTH],
    limits: &Limits,
) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let length = message_length(&header, limits).map_err(ReadError::Malformed)?;
    let mut message = Zeroizing::new(vec![0; length]);
    let (start, rest) = message.split_at_mut(HEADER_LENGTH);
    start.copy_from_slice(&header);
    stream.read_exact(rest).await?;
    Ok(message)
}

pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    stream.write_all(message).await?;
    stream.flush().await
}

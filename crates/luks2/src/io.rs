//! Positioned I/O: all that this crate asks of a device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A device or file that holds a LUKS2 header.
///
/// Takes `&self`, as positioned I/O does on a file. Offsets and lengths that this crate uses are multiples of 4096,
/// save for the areas of keyslots that others have laid out (multiples of 512); its buffers are aligned to nothing.
pub trait Io {
    /// The size of the device in bytes.
    ///
    /// # Errors
    /// Those of the device.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// Those of the device; [`io::ErrorKind::UnexpectedEof`] where it ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buffer` at `offset`.
    ///
    /// # Errors
    /// Those of the device.
    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// Those of the device.
    fn sync(&self) -> io::Result<()>;
}

impl Io for File {
    fn size(&self) -> io::Result<u64> {
        let metadata = self.metadata()?;
        if metadata.is_file() {
            return Ok(metadata.len());
        }
        // A block device has no length of its own; the cursor that this moves is used by nothing here.
        io::Seek::seek(&mut { self }, io::SeekFrom::End(0))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl<T: Io + ?Sized> Io for &T {
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        (**self).write_all_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
}

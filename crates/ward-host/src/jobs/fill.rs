//! Filling files: the disks of a new VM, or a new disk of one that is there.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use ward_disk::image::{self, ImageKind};
use ward_disk::lock;
use ward_disk::{DiskError, ImageFormat};
use ward_secret::TpmKey;
use ward_types::{Code, Endorsement, FileName, PlainFormat};

use super::Environment;
use super::control::{Control, Stop};
use super::convert::{self, End};
use crate::fault::{Doing, Fault, Result};
use crate::files;
use crate::home::codec;
use crate::keys::ResolvedKeks;
use crate::volume::{self, DATA_OFFSET, Label, Volume};
use crate::vtpm;

/// What is read and written at a time.
const CHUNK: u64 = 1 << 20;
/// What a blank disk and the description take, at most.
pub(super) const SPARE: u64 = 1 << 20;

/// One file.
pub(crate) enum Part {
    /// A file as it is.
    Copy { source: Source, name: String },
    /// An encrypted disk as it is, but for whose it is, and under which KEK.
    CopyLuks { source: Source, name: String, old: Label, new: Label },
    /// A disk, written anew in another form.
    Convert { source: PathBuf, from: Form, name: String, to: Form, size: u64 },
    /// A blank disk.
    Blank { name: String, size: u64, form: Form },
    /// UEFI variables to begin with.
    Variables { source: Source, name: String, form: Form },
    /// The state of a vTPM: a new one, or a copy of another under a key of its own.
    Tpm { name: FileName, key: TpmKey, from: Option<(PathBuf, TpmKey)> },
}

/// How a disk lies in its file.
pub(crate) enum Form {
    Plain(PlainFormat),
    Luks(Label),
}

/// Something to copy, which nobody can change meanwhile where it is a disk.
pub(crate) struct Source {
    file: File,
    path: PathBuf,
    size: u64,
    /// What of it is no hole.
    data: u64,
}

/// Where files are made, and with which keys.
pub(crate) struct Filling<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) keys: &'a ResolvedKeks,
}

impl Part {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Copy { name, .. }
            | Self::CopyLuks { name, .. }
            | Self::Convert { name, .. }
            | Self::Variables { name, .. }
            | Self::Blank { name, .. } => name,
            Self::Tpm { name, .. } => name.as_str(),
        }
    }

    /// How much there is to be written.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Copy { source, .. } | Self::CopyLuks { source, .. } | Self::Variables { source, .. } => source.size,
            Self::Convert { size, .. } => *size,
            Self::Blank { .. } | Self::Tpm { .. } => 0,
        }
    }

    /// How much room it takes, at most.
    pub(crate) fn needed(&self) -> u64 {
        match self {
            Self::Copy { source, .. } => source.data,
            Self::CopyLuks { source, .. } => source.data + SPARE,
            Self::Convert { size, to: Form::Luks(_), .. } => size.next_multiple_of(4096) + DATA_OFFSET,
            Self::Convert { size, .. } => size + size / 4096 + SPARE,
            Self::Variables { source, .. } => 2 * source.size + DATA_OFFSET,
            Self::Blank { form: Form::Luks(_), .. } => DATA_OFFSET,
            Self::Blank { .. } | Self::Tpm { .. } => SPARE,
        }
    }

    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Copy { .. } | Self::CopyLuks { .. } => "copying",
            Self::Convert { to: Form::Luks(_), .. } => "encrypting",
            Self::Convert { .. } => "decrypting",
            Self::Blank { .. } | Self::Variables { .. } | Self::Tpm { .. } => "making",
        }
    }
}

impl Filling<'_> {
    /// Makes the file of a part; tells the endorsement keys of a vTPM that is new.
    pub(crate) fn fill(
        &self,
        environment: &Environment,
        control: &Control,
        part: &Part,
        progress: &mut dyn FnMut(u64),
    ) -> std::result::Result<Option<Endorsement>, Stop> {
        let path = self.dir.join(part.name());
        match part {
            Part::Tpm { key, from: None, .. } => {
                vtpm::make(&environment.isolator.vm()?, &path, key, |keys| control.certify(keys)).map(Some)
            }
            part => self.fill_file(environment, control, part, &path, progress).map(|()| None),
        }
    }

    fn fill_file(
        &self,
        environment: &Environment,
        control: &Control,
        part: &Part,
        path: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> std::result::Result<(), Stop> {
        match part {
            Part::Copy { source, .. } => source.copy_to(path, control, progress),
            Part::CopyLuks { source, old, new, .. } => {
                source.copy_to(path, control, progress)?;
                crash_point::reach("create.disk-to-rekey");
                Ok(self.rekey(path, old, new)?)
            }
            Part::Convert { source, from, to, size, .. } => {
                if let Form::Luks(label) = to {
                    volume::format(create(path)?, path, self.keys.get(&label.key)?, label)?;
                }
                self.convert(environment, control, (source, from), (path, to), *size, progress)
            }
            Part::Blank { size, form: Form::Luks(label), .. } => Ok(self.blank_luks(path, *size, label)?),
            Part::Blank { size, form: Form::Plain(PlainFormat::Raw), .. } => Ok(blank_raw(path, *size)?),
            Part::Blank { size, form: to @ Form::Plain(PlainFormat::Qcow2), .. } => {
                let raw = files::path_with(path, ".raw");
                blank_raw(&raw, *size)?;
                let from = Form::Plain(PlainFormat::Raw);
                self.convert(environment, control, (&raw, &from), (path, to), *size, &mut |_| {})?;
                Ok(files::remove(&raw)?)
            }
            Part::Variables { source, form: Form::Plain(_), .. } => source.copy_to(path, control, progress),
            Part::Variables { source, form: to @ Form::Luks(label), .. } => {
                // The host's own file is not locked, since others take a copy of it too; it holds no secret.
                let raw = files::path_with(path, ".raw");
                source.copy_to(&raw, control, &mut |_| {})?;
                volume::format(create(path)?, path, self.keys.get(&label.key)?, label)?;
                let from = Form::Plain(PlainFormat::Raw);
                self.convert(environment, control, (&raw, &from), (path, to), source.size, progress)?;
                Ok(files::remove(&raw)?)
            }
            Part::Tpm { key, from: Some((from, old)), .. } => {
                Ok(vtpm::rewrite(&environment.isolator.vm()?, (from, old), (path, key))?)
            }
            Part::Tpm { from: None, .. } => Err(Fault::internal("a new vTPM is no copy").into()),
        }
    }

    fn convert(
        &self,
        environment: &Environment,
        control: &Control,
        (source, from): (&Path, &Form),
        (target, to): (&Path, &Form),
        size: u64,
        progress: &mut dyn FnMut(u64),
    ) -> std::result::Result<(), Stop> {
        let checkpoint = files::path_with(target, codec::CHECKPOINT);
        let conversion = convert::Conversion { source, target, size, checkpoint: &checkpoint };
        let ends = || Ok((self.end(source, from)?, self.end(target, to)?));
        convert::run(&environment.isolator, &conversion, control, ends, progress)?;
        Ok(files::remove(&checkpoint)?)
    }

    fn end(&self, path: &Path, form: &Form) -> Result<End> {
        match form {
            Form::Plain(PlainFormat::Raw) => Ok(End::Plain(ImageFormat::Raw)),
            Form::Plain(PlainFormat::Qcow2) => Ok(End::Plain(ImageFormat::Qcow2)),
            Form::Luks(label) => {
                let volume = Volume::open(open(path, false)?, path, &label.key)?;
                volume.check_label(label)?;
                volume.unlock_target(self.keys.get(&label.key)?).map(End::Encrypted)
            }
        }
    }

    /// What it reads as before it is written is noise, as with any new LUKS2 volume.
    fn blank_luks(&self, path: &Path, size: u64, label: &Label) -> Result<()> {
        volume::format(create(path)?, path, self.keys.get(&label.key)?, label)?;
        let file = open(path, true)?;
        let length = DATA_OFFSET + size.next_multiple_of(4096);
        file.set_len(length).and_then(|()| file.sync_all()).doing("enlarge", path)
    }

    /// Makes a copied disk that of the new VM.
    fn rekey(&self, path: &Path, old: &Label, new: &Label) -> Result<()> {
        let keys = self.keys;
        let mut volume = Volume::open(open(path, true)?, path, &old.key)?;
        volume.add_key((keys.get(&old.key)?, old), (keys.get(&new.key)?, new))?;
        volume.keep_only(new)
    }
}

fn blank_raw(path: &Path, size: u64) -> Result<()> {
    let file = create(path)?;
    file.set_len(size).and_then(|()| file.sync_all()).doing("enlarge", path)
}

fn create(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).doing("create", path)
}

fn open(path: &Path, write: bool) -> Result<File> {
    files::open_regular(path, write)?.ok_or_else(|| Fault::internal(format!("{} is gone", path.display())))
}

impl Source {
    /// A file of any kind.
    pub(crate) fn open_file(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(|error| DiskError::io("open", &error).at_path(&path))?;
        let metadata = file.metadata().doing("look at", &path)?;
        if !metadata.is_file() {
            return Err(Fault::invalid(format!("{} is no regular file", path.display())));
        }
        Ok(Self { file, path, size: metadata.len(), data: metadata.len() })
    }

    /// A disk image, locked.
    pub(crate) fn open_image(path: PathBuf, format: Option<PlainFormat>) -> Result<(Self, PlainFormat, u64)> {
        let (file, _) = open_locked(&path)?;
        let info = match format {
            // A guest may have written anything to its disk.
            Some(PlainFormat::Raw) => image::probe_as(&path, ImageKind::Raw)?,
            Some(PlainFormat::Qcow2) => image::probe_as(&path, ImageKind::Qcow2)?,
            None => image::probe(&path)?,
        };
        info.check_plain(&path)?;
        let format = match info.format {
            ImageKind::Raw => PlainFormat::Raw,
            ImageKind::Qcow2 => PlainFormat::Qcow2,
            ImageKind::Luks { .. } => return Err(Fault::internal("an encrypted image passed for a plain one")),
        };
        Ok((Self { file, path, size: info.file_size, data: info.allocated }, format, info.virtual_size))
    }

    /// A disk of a VM, locked.
    pub(crate) fn open_disk(path: PathBuf) -> Result<Self> {
        let (file, data) = open_locked(&path)?;
        let size = file.metadata().doing("look at", &path)?.len();
        Ok(Self { file, path, size, data })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How long it is, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Where it is, for somebody else to open it: it is not locked any more.
    pub(crate) fn into_path(self) -> PathBuf {
        self.path
    }

    /// Copies it, leaving out its holes.
    fn copy_to(&self, path: &Path, control: &Control, progress: &mut dyn FnMut(u64)) -> std::result::Result<(), Stop> {
        let target = create(path)?;
        target.set_len(self.size).doing("enlarge", path)?;
        let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or(usize::MAX)];
        let mut at = 0;
        while let Some((from, to)) = self.data_from(at)? {
            at = from;
            while at < to {
                control.check()?;
                let length = usize::try_from((to - at).min(CHUNK)).unwrap_or(buffer.len());
                self.file.read_exact_at(&mut buffer[..length], at).doing("read", &self.path)?;
                target.write_all_at(&buffer[..length], at).doing("write", path)?;
                at += length as u64;
                progress(at);
            }
        }
        target.sync_all().doing("sync", path)?;
        progress(self.size);
        Ok(())
    }

    /// The next stretch that is no hole.
    fn data_from(&self, at: u64) -> Result<Option<(u64, u64)>> {
        if at >= self.size {
            return Ok(None);
        }
        let from = match seek(&self.file, SeekFrom::Data(at)) {
            Ok(from) => from,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            // The storage doesn't tell.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(Some((at, self.size))),
            Err(error) => return Err(Fault::io("read", &self.path, &error.into())),
        };
        let to = seek(&self.file, SeekFrom::Hole(from)).doing("read", &self.path)?.min(self.size);
        Ok((from < to).then_some((from, to)))
    }
}

/// Whether a file that may be used as a disk is a LUKS volume.
pub(super) fn is_encrypted(path: &Path) -> Result<bool> {
    let _lock = open_locked(path)?;
    Ok(matches!(image::probe(path)?.format, ImageKind::Luks { .. }))
}

/// Opens an image that nobody else changes, and keeps it so; tells how much of it is no hole.
fn open_locked(path: &Path) -> Result<(File, u64)> {
    // Before it is opened: opening a device may do something, and a pipe waits.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(Fault::new(
            Code::DeviceUnsuitable,
            format!("{} is no regular file", path.display()),
            "a VM's disk is a file of its own: copy the device into an image with `qemu-img convert`",
        ));
    }
    let file = lock::open_to_read(path)?;
    let metadata = file.metadata().doing("look at", path)?;
    let data = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    Ok((file, data))
}

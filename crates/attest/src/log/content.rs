//! What the data of events says, where its form is known.

use std::fmt;

use super::EventType;
use crate::tpm::{Endian, Malformed, Problem, Reader};

/// The longest text that is shown of an event, in characters.
const MAX_SHOWN: usize = 200;

/// The data of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A UEFI variable.
    Variable(UefiVariable),
    /// A UEFI image that was loaded.
    Image(FirmwareImage),
    /// TCG_PCClientTaggedEvent
    Tagged(Tagged),
    /// A text.
    Text(String),
    /// Anything else.
    Bytes,
}

impl Content {
    /// Reads the data of an event of that type.
    ///
    /// # Errors
    /// For the types that later steps rely on: UEFI variables and images. Other data may have any form.
    pub(super) fn read(event_type: EventType, data: &[u8]) -> Result<Self, Malformed> {
        Ok(match event_type {
            EventType::EFI_VARIABLE_DRIVER_CONFIG
            | EventType::EFI_VARIABLE_BOOT
            | EventType::EFI_VARIABLE_BOOT2
            | EventType::EFI_VARIABLE_AUTHORITY => Self::Variable(UefiVariable::from_bytes(data)?),
            EventType::EFI_BOOT_SERVICES_APPLICATION
            | EventType::EFI_BOOT_SERVICES_DRIVER
            | EventType::EFI_RUNTIME_SERVICES_DRIVER => Self::Image(FirmwareImage::from_bytes(data)?),
            EventType::EVENT_TAG => Tagged::from_bytes(data).map_or(Self::Bytes, Self::Tagged),
            EventType::ACTION | EventType::EFI_ACTION | EventType::IPL | EventType::POST_CODE => {
                text(data).map_or(Self::Bytes, Self::Text)
            }
            _ => Self::Bytes,
        })
    }
}

/// For people: control characters are escaped, and long texts cut.
impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(variable) => f.write_str(&shown(&variable.name)),
            Self::Image(image) => f.write_str(&shown(image.path.as_deref().unwrap_or("image without a path"))),
            Self::Tagged(tagged) => match text(&tagged.data) {
                Some(text) => f.write_str(&shown(&text)),
                None => write!(f, "tag {:#x}", tagged.id),
            },
            Self::Text(text) => f.write_str(&shown(text)),
            Self::Bytes => Ok(()),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect::<String>().escape_debug().to_string()
}

/// UEFI_VARIABLE_DATA. Section 10.2.6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UefiVariable {
    /// VariableName: its vendor's GUID, as UEFI writes it in memory.
    pub guid: [u8; 16],
    /// UnicodeName
    pub name: String,
    /// VariableData
    pub data: Vec<u8>,
}

impl UefiVariable {
    /// EFI_GLOBAL_VARIABLE, 8be4df61-93ca-11d2-aa0d-00e098032b8c.
    pub const GLOBAL: [u8; 16] =
        [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
    /// EFI_IMAGE_SECURITY_DATABASE_GUID, d719b2cb-3d3a-4596-a3bc-dad00e67656f.
    pub const SECURITY_DATABASE: [u8; 16] =
        [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];

    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("UEFI_VARIABLE_DATA", Endian::Little, bytes);
        let guid = reader.array("VariableName")?;
        let characters = reader.u64("UnicodeNameLength")?;
        let len = reader.u64("VariableDataLength")?;
        let name_len = usize::try_from(characters).unwrap_or(usize::MAX).saturating_mul(2);
        let name = reader.bytes("UnicodeName", name_len)?;
        let Some(name) = utf16(name) else {
            return Err(reader.error("UnicodeName", Problem::Expected("UTF-16")));
        };
        let data = reader.bytes("VariableData", usize::try_from(len).unwrap_or(usize::MAX))?.to_vec();
        reader.finish("VariableData")?;
        Ok(Self { guid, name, data })
    }
}

/// UEFI_IMAGE_LOAD_EVENT. Section 10.2.3. No digest covers it: the event's digest is the image's, as Authenticode makes
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirmwareImage {
    /// DevicePath, as bytes.
    pub device_path: Vec<u8>,
    /// The file in the device path, if it has one.
    pub path: Option<String>,
}

impl FirmwareImage {
    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("UEFI_IMAGE_LOAD_EVENT", Endian::Little, bytes);
        reader.u64("ImageLocationInMemory")?;
        reader.u64("ImageLengthInMemory")?;
        reader.u64("ImageLinkTimeAddress")?;
        let len = reader.u64("LengthOfDevicePath")?;
        let device_path = reader.bytes("DevicePath", usize::try_from(len).unwrap_or(usize::MAX))?.to_vec();
        reader.finish("DevicePath")?;
        let path = file_path(&device_path);
        Ok(Self { device_path, path })
    }
}

/// The file path media nodes of a device path (UEFI 2.10, sections 10.3.1 and 10.3.5.4), joined.
fn file_path(mut nodes: &[u8]) -> Option<String> {
    const MEDIA: u8 = 4;
    const FILE_PATH: u8 = 4;
    let mut path = None::<String>;
    while let Some((&[kind, subkind, low, high], rest)) = nodes.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([low, high])).checked_sub(4)?;
        let (content, rest) = rest.split_at_checked(len)?;
        nodes = rest;
        if (kind, subkind) == (MEDIA, FILE_PATH) {
            path.get_or_insert_default().push_str(utf16(content)?.trim_end_matches('\0'));
        }
    }
    path
}

/// TCG_PCClientTaggedEvent. Section 10.2.4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    /// taggedEventID
    pub id: u32,
    /// taggedEventData
    pub data: Vec<u8>,
}

impl Tagged {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new("TCG_PCClientTaggedEvent", Endian::Little, bytes);
        let id = reader.u32("taggedEventID").ok()?;
        let len = reader.u32("taggedEventDataSize").ok()?;
        let data = reader.bytes("taggedEventData", usize::try_from(len).ok()?).ok()?.to_vec();
        reader.finish("taggedEventData").ok()?;
        Some(Self { id, data })
    }
}

pub(crate) fn utf16(bytes: &[u8]) -> Option<String> {
    let (units, []) = bytes.as_chunks::<2>() else { return None };
    String::from_utf16(&units.iter().map(|&unit| u16::from_le_bytes(unit)).collect::<Vec<_>>()).ok()
}

/// Text in ASCII, or in UTF-16 of ASCII characters, with or without a NUL behind it.
pub(crate) fn text(bytes: &[u8]) -> Option<String> {
    let readable =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() || c.is_ascii_whitespace());
    let ascii = std::str::from_utf8(bytes).ok().map(|text| text.trim_end_matches('\0').to_owned());
    let wide = || utf16(bytes).map(|text| text.trim_end_matches('\0').to_owned());
    ascii.filter(|text| readable(text)).or_else(|| wide().filter(|text| readable(text)))
}

//! The two copies of a header: which one counts, and how both are written.

use std::io::ErrorKind;

use crate::binary::{HEAD_LEN, Header, Which, copy_size, is_luks1, parse};
use crate::error::{Damage, Error};
use crate::header::Health;
use crate::io::Io;
use crate::validate::copy_sizes;

/// Reads both copies and takes the newer sound one.
pub(crate) fn read(io: &impl Io) -> Result<(Header, Health), Error> {
    let mut head = [0; HEAD_LEN];
    let primary = match io.read_exact_at(&mut head, 0) {
        // A LUKS1 header is not a damaged LUKS2 one, whatever an earlier LUKS2 header may have left behind it.
        Ok(()) if is_luks1(&head) => return Err(Error::Luks1),
        Ok(()) => read_copy(io, Which::Primary, 0),
        Err(error) => Err(Damage::Unreadable(error)),
    };
    let secondary = match &primary {
        Ok(header) => read_copy(io, Which::Secondary, header.size),
        Err(_) => find_secondary(io),
    };
    match (primary, secondary) {
        (Ok(primary), Ok(secondary)) => Ok(newer(primary, secondary)),
        (Ok(primary), Err(damage)) => Ok((primary, Health::SecondaryDamaged(damage))),
        (Err(damage), Ok(secondary)) => Ok((secondary, Health::PrimaryDamaged(damage))),
        (Err(primary), Err(secondary)) if is_absent(&primary) && is_absent(&secondary) => Err(Error::NotLuks2),
        (Err(primary), Err(secondary)) => Err(Error::BothDamaged { primary, secondary }),
    }
}

fn newer(primary: Header, secondary: Header) -> (Header, Health) {
    if secondary.sequence > primary.sequence {
        (secondary, Health::PrimaryStale)
    } else if secondary == primary {
        (primary, Health::Good)
    } else {
        // Also where both have the same number: then the one that is written first is right.
        (primary, Health::SecondaryStale)
    }
}

/// Whether there is no sign that a header was ever there.
fn is_absent(damage: &Damage) -> bool {
    match damage {
        Damage::NoMagic => true,
        Damage::Unreadable(error) => error.kind() == ErrorKind::UnexpectedEof,
        _ => false,
    }
}

/// Looks for the second copy at each place where one may stand, since only the first would tell which.
fn find_secondary(io: &impl Io) -> Result<Header, Damage> {
    let mut worst = Damage::NoMagic;
    for offset in copy_sizes() {
        match read_copy(io, Which::Secondary, offset) {
            Ok(header) => return Ok(header),
            Err(damage) if is_absent(&worst) && !is_absent(&damage) => worst = damage,
            Err(_) => {}
        }
    }
    Err(worst)
}

fn read_copy(io: &impl Io, which: Which, offset: u64) -> Result<Header, Damage> {
    let mut head = [0; HEAD_LEN];
    io.read_exact_at(&mut head, offset).map_err(Damage::Unreadable)?;
    let size = copy_size(&head, which, offset)?;
    // At most 4 MiB: `copy_size` knows no larger ones.
    let mut copy = vec![0; usize::try_from(size).map_err(|_| Damage::Size(size))?];
    io.read_exact_at(&mut copy, offset).map_err(Damage::Unreadable)?;
    parse(&copy, which, offset)
}

/// Writes both copies, each durable before the next is touched. Where a copy is not in order, [`repair`] comes first: the
/// one that is overwritten must never be the only sound one.
pub(crate) fn write(io: &impl Io, header: &Header) -> Result<(), Error> {
    let copies = [Which::Primary, Which::Secondary];
    // Both before either, so that a header that can't be encoded fails while nothing has been written.
    let encoded = [header.encode(copies[0])?, header.encode(copies[1])?];
    for (which, copy) in copies.into_iter().zip(&encoded) {
        write_copy(io, header, which, copy)?;
    }
    Ok(())
}

/// Writes the copy that `health` says is not in order.
pub(crate) fn repair(io: &impl Io, header: &Header, health: &Health) -> Result<(), Error> {
    let which = match health {
        Health::Good => return Ok(()),
        Health::PrimaryDamaged(_) | Health::PrimaryStale => Which::Primary,
        Health::SecondaryDamaged(_) | Health::SecondaryStale => Which::Secondary,
    };
    write_copy(io, header, which, &header.encode(which)?)
}

fn write_copy(io: &impl Io, header: &Header, which: Which, copy: &[u8]) -> Result<(), Error> {
    io.write_all_at(copy, which.offset(header.size)).map_err(Error::io("write a copy of the LUKS2 header"))?;
    io.sync().map_err(Error::io("make the LUKS2 header durable"))
}

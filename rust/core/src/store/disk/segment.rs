//! A segment file: a short header, then records at multiples of 64 bytes. Read from end to end only to rebuild an index.
//!
//! ```text
//!  0  "HWKVSEG1"
//!  8  version u32, segment number u32
//! 16  store id, 16 bytes
//! 32  0, 24 bytes
//! 56  XXH3-64 of 0..56 u64
//! ```

use std::io;

use super::io::{IoFile, read_bytes_at};
use super::record::{self, MAGIC, Parsed, RECORD_ALIGN, StoreId, Stored};
use super::wire::{Fields, Malformed, PutFields};
use super::{checksum, image::NamespaceRow};
use crate::store::types::{Location, PartEntry, RecordInfo, SegmentId};

/// Bytes before the first record.
pub(super) const HEADER: u64 = 64;
const FILE_MAGIC: [u8; 8] = *b"HWKVSEG1";
const VERSION: u32 = 2;
/// Bytes read for a header at first: enough for a block of 256 tokens with some 180 parts.
const HEADER_READ: usize = 4096;
/// [`RECORD_ALIGN`] in memory.
const PLACE: usize = 64;
/// Bytes read at once where there is much.
const STRIDE: usize = 1 << 20;
/// Bytes that a disk fails to read together.
const PAGE: usize = 4096;

/// A segment's first bytes.
pub(super) fn encode_header(segment: SegmentId, store: &StoreId) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&FILE_MAGIC);
    out.put_u32(VERSION);
    out.put_u32(segment.0);
    out.extend_from_slice(store);
    out.extend_from_slice(&[0; 24]);
    let sum = checksum(&out);
    out.put_u64(sum);
    out
}

/// The store that a segment says it belongs to.
pub(super) fn store_of(file: &dyn IoFile) -> Option<StoreId> {
    let mut bytes = [0; 64];
    read_bytes_at(file, &mut bytes, 0).ok()?;
    let mut fields = Fields(&bytes);
    let honest = fields.array::<8>().ok()? == FILE_MAGIC
        && fields.u32().ok()? == VERSION
        && checksum(&bytes[..56]) == u64::from_le_bytes(*bytes.last_chunk()?);
    fields.u32().ok()?;
    honest.then(|| fields.array().ok())?
}

/// What a walk over a segment finds.
#[derive(Debug)]
pub(super) enum Step {
    Namespace(NamespaceRow),
    Record { info: RecordInfo, parts: Vec<PartEntry>, at: Location, last_used_ms: u64 },
}

/// Hops from header to header. Behind one that is damaged or cannot be read the next that holds is searched for: its
/// checksum knows its place, so payload bytes cannot pass for a header.
///
/// # Errors
/// What the system says of the file's first bytes: where these cannot be read, nothing can.
pub(super) fn walk(
    file: &dyn IoFile,
    segment: SegmentId,
    store: &StoreId,
    mut visit: impl FnMut(Step),
) -> io::Result<()> {
    let end = twice(|| file.bytes())?;
    let mut position = HEADER;
    if end > 0 {
        let mut first = [0; PLACE];
        let first = &mut first[..usize::try_from(end).unwrap_or(PLACE).min(PLACE)];
        twice(|| read_bytes_at(file, first, 0))?;
    }
    while position < end {
        let Ok(Ok(parsed)) = twice(|| header_at(file, segment, position, end, store)) else {
            match next_header(file, segment, position + RECORD_ALIGN, end, store) {
                Some(next) => position = next,
                None => return Ok(()),
            }
            continue;
        };
        let Parsed { stored, header_bytes, payload_bytes } = parsed;
        let at = Location { segment, offset: position, header_bytes, payload_bytes };
        let Some(next) = position.checked_add(at.record_bytes()).filter(|next| *next <= end) else { return Ok(()) };
        position = next.next_multiple_of(RECORD_ALIGN);
        visit(match stored {
            Stored::Namespace(row) => Step::Namespace(row),
            Stored::Record { header, last_used_ms } => {
                Step::Record { info: header.info, parts: header.parts, at, last_used_ms }
            }
        });
    }
    Ok(())
}

/// Tries once more what fails: an error may be the moment's.
fn twice<T>(mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    work().or_else(|_| work())
}

/// Reads and checks the header at `offset` of a file of `end` bytes.
pub(super) fn header_at(
    file: &dyn IoFile,
    segment: SegmentId,
    offset: u64,
    end: u64,
    store: &StoreId,
) -> io::Result<Result<Parsed, Malformed>> {
    let left = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; left.min(HEADER_READ)];
    read_bytes_at(file, &mut bytes, offset)?;
    let body = match record::body_of(&bytes) {
        Some(body) if body <= left => body,
        _ => return Ok(Err(Malformed("is no record"))),
    };
    if body > bytes.len() {
        let have = bytes.len();
        bytes.resize(body, 0);
        read_bytes_at(file, &mut bytes[have..], offset + have as u64)?;
    }
    Ok(record::parse(&bytes, record::seed(store, segment, offset)))
}

/// The next place from `from` on with a header that holds. What cannot be read is passed over, a page at a time.
fn next_header(file: &dyn IoFile, segment: SegmentId, from: u64, end: u64, store: &StoreId) -> Option<u64> {
    let mut stride = vec![0; STRIDE];
    let mut position = from;
    // How much to read at once: less where something could not be read, so that little is passed over with it.
    let mut most = STRIDE;
    while position < end {
        let count = usize::try_from(end - position).unwrap_or(most).min(most);
        if twice(|| read_bytes_at(file, &mut stride[..count], position)).is_err() {
            if most == STRIDE {
                most = PAGE;
            } else {
                position += count as u64;
            }
            continue;
        }
        for (index, place) in stride[..count].chunks(PLACE).enumerate() {
            let offset = position + index as u64 * RECORD_ALIGN;
            if place.starts_with(&MAGIC) && matches!(header_at(file, segment, offset, end, store), Ok(Ok(_))) {
                return Some(offset);
            }
        }
        position += count as u64;
    }
    None
}

/// Whether a payload can be read and every part's checksum holds.
pub(super) fn payload_is_good(file: &dyn IoFile, at: &Location, parts: &[PartEntry]) -> bool {
    twice(|| payload_holds(file, at, parts)).is_ok_and(|holds| holds)
}

/// Reads a payload whole; whether every part's checksum holds.
pub(super) fn payload_holds(file: &dyn IoFile, at: &Location, parts: &[PartEntry]) -> io::Result<bool> {
    let mut offset = at.offset + u64::from(at.header_bytes);
    let largest = parts.iter().map(|part| part.stored_bytes as usize).max().unwrap_or(0);
    let mut buffer = vec![0; largest.min(STRIDE)];
    for part in parts {
        let mut hasher = super::Checksum::new();
        let mut left = part.stored_bytes as usize;
        while left > 0 {
            let piece = &mut buffer[..left.min(STRIDE)];
            read_bytes_at(file, piece, offset)?;
            hasher.update(piece);
            offset += piece.len() as u64;
            left -= piece.len();
        }
        if hasher.finish() != part.checksum {
            return Ok(false);
        }
    }
    Ok(true)
}

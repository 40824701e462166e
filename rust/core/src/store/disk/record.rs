//! A record's header in a segment.
//!
//! ```text
//!   0  "HWR2"                    48  namespace digest, 32 bytes
//!   4  body bytes u32            80  chain of the prefix continued, 16 bytes
//!   8  XXH3-64 of 16..body u64   96  position of the first token u32
//!  16  header bytes u32         100  tokens (block) or bytes of the tail u32
//!  20  kind u8, 0 u8            104  parts u32, 0 u32
//!  22  tokens of the parent u16 112  last use, Unix milliseconds, u64
//!  24  id u64                   120  parts: bytes u32, codec's tag u32, XXH3-64 u64
//!  32  parent's id u64          ...  the tail: token ids u32, the snapshot's meta, or the namespace
//!  40  payload bytes u64        header bytes: the payload
//! ```
//!
//! The checksum is seeded with store, segment and offset, so a header that was written for another place (a stale or
//! misdirected write, a copied file) does not hold. Every segment repeats a namespace before its first record of it, so
//! that segments alone are enough to rebuild a store.

use super::image::NamespaceRow;
use super::wire::{Fields, Malformed, PutFields, count_u32, tokens_from};
use super::{NewRecord, RecordHeader, checksum, checksum_seeded};
use crate::quant::{Codec, Element};
use crate::store::types::{
    Attach, BLOCK_TOKENS, Layout, Location, NamespaceKey, PartEntry, PartLayout, RecordId, RecordInfo, RecordKind,
    SegmentId,
};

pub(super) const MAGIC: [u8; 4] = *b"HWR2";
/// Records begin at multiples of this.
pub(super) const RECORD_ALIGN: u64 = 64;
/// Bytes from which on a payload begins at a page, so that reads of it touch no page twice.
const PAGED_PAYLOAD: u64 = 64 << 10;
const PAGE: u64 = 4096;
/// Room in [`MAX_HEADER`] for padding.
const MOST_PADDING: usize = 4096;
/// The fixed fields.
pub(super) const FIXED: usize = 120;
const PART: usize = 16;
/// More than any honest header has; bounds what a damaged length can ask for.
pub(super) const MAX_HEADER: usize = 64 << 20;
const KIND_BLOCK: u8 = 0;
const KIND_SNAPSHOT: u8 = 1;
const KIND_NAMESPACE: u8 = 2;
const FLOAT16: u8 = 1;
const BFLOAT16: u8 = 2;
const FLOAT32: u8 = 3;
const NO_PARENT: u64 = u64::MAX;

/// A store's own id.
pub(super) type StoreId = [u8; 16];

/// The seed of the checksum of a header at this place.
pub(super) fn seed(store: &StoreId, segment: SegmentId, offset: u64) -> u64 {
    let mut place = [0; 28];
    place[..16].copy_from_slice(store);
    place[16..20].copy_from_slice(&segment.0.to_le_bytes());
    place[20..].copy_from_slice(&offset.to_le_bytes());
    super::checksum(&place)
}

/// What a header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Stored {
    /// A block or snapshot.
    Record { header: RecordHeader, last_used_ms: u64 },
    /// A namespace, for the records behind it.
    Namespace(NamespaceRow),
}

/// A header together with the extent that it claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parsed {
    pub(super) stored: Stored,
    pub(super) header_bytes: u32,
    pub(super) payload_bytes: u64,
}

/// Bytes of the header's body before padding.
fn body_bytes(parts: usize, tail: usize) -> usize {
    FIXED + parts * PART + tail
}

fn tail_bytes(kind: &RecordKind) -> usize {
    match kind {
        RecordKind::Block { tokens, .. } => tokens.len() * 4,
        RecordKind::Snapshot { meta } => meta.len(),
    }
}

/// Bytes of header and padding, if the header begins at `offset`.
fn padded(offset: u64, body: usize, payload_bytes: u64) -> u64 {
    (offset + body as u64).next_multiple_of(align_of(payload_bytes)) - offset
}

fn align_of(payload_bytes: u64) -> u64 {
    if payload_bytes >= PAGED_PAYLOAD { PAGE } else { RECORD_ALIGN }
}

/// The extent that a record takes at `offset`.
pub(super) fn place(record: &NewRecord<'_>, segment: SegmentId, offset: u64) -> Location {
    let payload_bytes = record.payload_bytes();
    let body = body_bytes(record.parts.len(), tail_bytes(&record.info.kind));
    let header_bytes = count_u32(usize::try_from(padded(offset, body, payload_bytes)).unwrap_or(usize::MAX));
    Location { segment, offset, header_bytes, payload_bytes }
}

/// At most the bytes of header and padding, wherever the record begins.
pub(super) fn most_header_bytes(record: &NewRecord<'_>) -> u64 {
    let body = body_bytes(record.parts.len(), tail_bytes(&record.info.kind)) as u64;
    body + align_of(record.payload_bytes()) + RECORD_ALIGN
}

/// What keeps a record from being written, if anything does.
pub(super) fn check(record: &NewRecord<'_>) -> Result<(), Malformed> {
    let stated: u64 = record.parts.iter().map(|part| u64::from(part.stored_bytes)).sum();
    if stated != record.payload_bytes() {
        return Err(Malformed("the parts do not add up to the payload"));
    }
    if body_bytes(record.parts.len(), tail_bytes(&record.info.kind)) + MOST_PADDING > MAX_HEADER {
        return Err(Malformed("parts or meta are too many"));
    }
    check_info(record.info)
}

/// The invariants that hold for a record by itself.
fn check_info(info: &RecordInfo) -> Result<(), Malformed> {
    if let Some(attach) = info.attach {
        if attach.parent >= info.id {
            return Err(Malformed("the parent's id is not lower"));
        }
        if attach.parent_tokens == 0 || usize::from(attach.parent_tokens) > BLOCK_TOKENS {
            return Err(Malformed("attaches outside its parent"));
        }
    }
    match &info.kind {
        RecordKind::Block { start, tokens } => {
            if !is_run(*start, tokens.len()) {
                return Err(Malformed("the run of tokens is empty or crosses a block boundary"));
            }
            if (*start == 0) != info.attach.is_none() {
                return Err(Malformed("the position does not fit the attachment"));
            }
        }
        RecordKind::Snapshot { .. } if info.attach.is_none() => return Err(Malformed("a snapshot without a block")),
        RecordKind::Snapshot { .. } => {}
    }
    if info.id.0 == u64::MAX {
        return Err(Malformed("the id is reserved"));
    }
    Ok(())
}

/// Whether `count` tokens from `start` on are 1 to 256 and within one block.
pub(super) fn is_run(start: u32, count: usize) -> bool {
    count >= 1 && start as usize % BLOCK_TOKENS + count <= BLOCK_TOKENS && start.checked_add(256).is_some()
}

/// The header and its padding, to be written at `at`.
pub(super) fn encode(record: &NewRecord<'_>, at: &Location, store: &StoreId) -> Vec<u8> {
    let info = record.info;
    let (kind, start, tail) = match &info.kind {
        RecordKind::Block { start, tokens } => (KIND_BLOCK, *start, tokens.len()),
        RecordKind::Snapshot { meta } => (KIND_SNAPSHOT, 0, meta.len()),
    };
    let mut out = Vec::with_capacity(at.header_bytes as usize);
    fixed(&mut out, kind, info.attach, info.id.0, at, &info.namespace);
    out.extend_from_slice(&info.attach_chain);
    out.put_u32(start);
    out.put_u32(count_u32(tail));
    out.put_u32(count_u32(record.parts.len()));
    out.put_u32(0);
    out.put_u64(record.last_used_ms);
    for part in record.parts {
        out.put_u32(part.stored_bytes);
        out.put_u32(part.codec);
        out.put_u64(part.checksum);
    }
    match &info.kind {
        RecordKind::Block { tokens, .. } => out.put_words(tokens),
        RecordKind::Snapshot { meta } => out.extend_from_slice(meta),
    }
    seal(out, at, store)
}

/// The record that repeats a namespace at `offset` of a segment, padded.
pub(super) fn encode_namespace(row: &NamespaceRow, segment: SegmentId, offset: u64, store: &StoreId) -> Vec<u8> {
    let mut tail = Vec::new();
    put_namespace(&mut tail, row);
    let header_bytes = count_u32(usize::try_from(padded(offset, body_bytes(0, tail.len()), 0)).unwrap_or(usize::MAX));
    let at = Location { segment, offset, header_bytes, payload_bytes: 0 };
    let mut out = Vec::with_capacity(header_bytes as usize);
    fixed(&mut out, KIND_NAMESPACE, None, 0, &at, &row.key);
    out.extend_from_slice(&[0; 20]);
    out.put_u32(count_u32(tail.len()));
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&tail);
    seal(out, &at, store)
}

fn fixed(out: &mut Vec<u8>, kind: u8, attach: Option<Attach>, id: u64, at: &Location, namespace: &NamespaceKey) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 12]);
    out.put_u32(at.header_bytes);
    out.put_u8(kind);
    out.put_u8(0);
    out.put_u16(attach.map_or(0, |attach| attach.parent_tokens));
    out.put_u64(id);
    out.put_u64(attach.map_or(NO_PARENT, |attach| attach.parent.0));
    out.put_u64(at.payload_bytes);
    out.extend_from_slice(&namespace.0);
}

fn seal(mut out: Vec<u8>, at: &Location, store: &StoreId) -> Vec<u8> {
    let body = count_u32(out.len());
    let sum = checksum_seeded(seed(store, at.segment, at.offset), &out[16..]);
    out[4..8].copy_from_slice(&body.to_le_bytes());
    out[8..16].copy_from_slice(&sum.to_le_bytes());
    out.resize(at.header_bytes as usize, 0);
    out
}

/// How many bytes from its start on are needed to parse a header of which at least 16 bytes are given; `None` if it is none.
pub(super) fn body_of(start: &[u8]) -> Option<usize> {
    let mut fields = Fields(start);
    let magic: [u8; 4] = fields.array().ok()?;
    let body = fields.u32().ok()? as usize;
    (magic == MAGIC && (FIXED..=MAX_HEADER).contains(&body)).then_some(body)
}

/// Reads a header; `bytes` may go on behind it.
pub(super) fn parse(bytes: &[u8], seed: u64) -> Result<Parsed, Malformed> {
    let body = body_of(bytes).ok_or(Malformed("is no record"))?;
    let bytes = bytes.get(..body).ok_or(Malformed("ends too early"))?;
    let mut fields = Fields(&bytes[8..]);
    if fields.u64()? != checksum_seeded(seed, &bytes[16..]) {
        return Err(Malformed("the header's checksum does not hold"));
    }
    let header_bytes = fields.u32()?;
    let (kind, _, parent_tokens) = (fields.u8()?, fields.u8()?, fields.u16()?);
    let (id, parent) = (RecordId(fields.u64()?), fields.u64()?);
    let payload_bytes = fields.u64()?;
    let namespace = NamespaceKey(fields.array()?);
    let attach_chain = fields.array()?;
    let (start, tail) = (fields.u32()?, fields.u32()? as usize);
    let (part_count, _) = (fields.u32()? as usize, fields.u32()?);
    let last_used_ms = fields.u64()?;
    if (header_bytes as usize) < body || header_bytes as usize > MAX_HEADER {
        return Err(Malformed("the header is longer than it says"));
    }
    if kind == KIND_NAMESPACE {
        let row = namespace_from(&mut fields)?;
        fields.end()?;
        return Ok(Parsed { stored: Stored::Namespace(row), header_bytes, payload_bytes: 0 });
    }
    if part_count.checked_mul(PART).is_none_or(|bytes| bytes > fields.0.len()) {
        return Err(Malformed("counts more than there is"));
    }
    let mut parts = Vec::with_capacity(part_count);
    for _ in 0..part_count {
        parts.push(PartEntry { stored_bytes: fields.u32()?, codec: fields.u32()?, checksum: fields.u64()? });
    }
    if parts.iter().map(|part| u64::from(part.stored_bytes)).sum::<u64>() != payload_bytes {
        return Err(Malformed("the parts do not add up to the payload"));
    }
    let kind = match kind {
        KIND_BLOCK if tail <= BLOCK_TOKENS => RecordKind::Block { start, tokens: tokens_from(fields.take(tail * 4)?) },
        KIND_SNAPSHOT => RecordKind::Snapshot { meta: fields.take(tail)?.to_vec() },
        _ => return Err(Malformed("is of an unknown kind")),
    };
    fields.end()?;
    let attach = (parent != NO_PARENT).then_some(Attach { parent: RecordId(parent), parent_tokens });
    let info = RecordInfo { id, namespace, attach, attach_chain, kind };
    check_info(&info)?;
    Ok(Parsed {
        stored: Stored::Record { header: RecordHeader { info, parts }, last_used_ms },
        header_bytes,
        payload_bytes,
    })
}

/// Bytes of a part's layout, its codec's name apart.
const PART_LAYOUT: usize = 13;

/// Bytes that the parts of a layout take where they are written.
pub(super) fn layout_bytes(layout: &Layout) -> usize {
    let codec_bytes = |part: &PartLayout| part.codec.map_or(0, |codec| codec.to_string().len());
    layout.parts.iter().map(|part| PART_LAYOUT + codec_bytes(part)).sum()
}

/// What [`PartEntry::codec`] says of a part's bytes: 0 if they are as in memory, otherwise a digest of the part, so that what
/// was encoded for another one is never decoded as this one's.
#[must_use]
pub fn codec_tag(part: &PartLayout) -> u32 {
    if part.codec.is_none() {
        return 0;
    }
    let mut written = Vec::new();
    put_part(&mut written, part);
    u32::try_from(checksum(&written) >> 32).unwrap_or(0).max(1)
}

/// A namespace as records, journal and index write it.
pub(super) fn put_namespace(out: &mut Vec<u8>, row: &NamespaceRow) {
    out.extend_from_slice(&row.key.0);
    out.put_u8(u8::from(row.layout.needs_snapshot));
    out.put_u32(count_u32(row.layout.parts.len()));
    row.layout.parts.iter().for_each(|part| put_part(out, part));
    out.put_bytes(&row.layout.description);
    out.put_bytes(row.label.as_bytes());
}

/// Rows, bytes of a row, the numbers' type (0: not encoded), the scheme's name.
fn put_part(out: &mut Vec<u8>, part: &PartLayout) {
    out.put_u32(part.rows);
    out.put_u32(part.row_bytes);
    out.put_u8(part.codec.map_or(0, |codec| match codec.element() {
        Element::Float16 => FLOAT16,
        Element::Bfloat16 => BFLOAT16,
        Element::Float32 => FLOAT32,
    }));
    out.put_bytes(part.codec.map(|codec| codec.to_string()).unwrap_or_default().as_bytes());
}

/// Reads what [`put_namespace`] wrote.
pub(super) fn namespace_from(fields: &mut Fields<'_>) -> Result<NamespaceRow, Malformed> {
    let key = NamespaceKey(fields.array()?);
    let needs_snapshot = fields.u8()? != 0;
    let count = fields.count(PART_LAYOUT)?;
    let parts = (0..count).map(|_| part_from(fields)).collect::<Result<_, _>>()?;
    let description = fields.bytes()?.to_vec();
    let label = fields.text()?;
    Ok(NamespaceRow { key, layout: Layout { parts, needs_snapshot, description }, label })
}

fn part_from(fields: &mut Fields<'_>) -> Result<PartLayout, Malformed> {
    let (rows, row_bytes) = (fields.u32()?, fields.u32()?);
    let (element, scheme) = (fields.u8()?, fields.text()?);
    let element = match element {
        0 if scheme.is_empty() => return Ok(PartLayout::plain(rows, row_bytes)),
        FLOAT16 => Element::Float16,
        BFLOAT16 => Element::Bfloat16,
        FLOAT32 => Element::Float32,
        _ => return Err(Malformed("has numbers of an unknown type")),
    };
    let width = row_bytes / u32::try_from(element.bytes()).unwrap_or(1);
    let codec = Codec::parse(&scheme, element, width).map_err(|_| Malformed("names an unknown codec"))?;
    let part = PartLayout { rows, row_bytes, codec: Some(codec) };
    if part.is_coherent() { Ok(part) } else { Err(Malformed("its rows are no vectors of its codec")) }
}

//! The journal's bytes: what happened since the index file was written.
//!
//! ```text
//! header   0  "HWKVJNL1"            entry   0  "HWJE"
//!          8  version u32, 0 u32            4  body bytes u32
//!         16  store id, 16 bytes            8  sequence u64
//!         32  generation u64               16  XXH3-64 of the body, seeded with store and sequence
//!         40  first sequence u64           24  facts, one behind the other
//!         48  0 u64                             0 to the next multiple of 8
//!         56  XXH3-64 of 0..56 u64
//! ```
//!
//! An entry is written after the data that it speaks of was synced, so one that holds can be believed even if entries
//! before it were lost.

use super::Fact;
use super::image::WriteDay;
use super::record::{StoreId, is_run, layout_bytes, namespace_from, put_namespace};
use super::wire::{Fields, Malformed, PutFields, count_u32};
use super::{checksum, checksum_seeded};
use crate::store::types::{
    Attach, BLOCK_TOKENS, Layout, Location, NamespaceKey, RecordId, RecordInfo, RecordKind, SegmentId,
};

pub(super) const HEADER: usize = 64;
pub(super) const VERSION: u32 = 2;
const FILE_MAGIC: [u8; 8] = *b"HWKVJNL1";
const ENTRY_MAGIC: [u8; 4] = *b"HWJE";
const ENTRY_HEADER: usize = 24;
const ALIGN: usize = 8;
/// Bytes of facts after which another entry is begun; one fact may be larger.
const ENTRY_TARGET: usize = 1 << 20;
/// Bounds what a damaged length can ask for.
pub(super) const MAX_ENTRY: usize = 256 << 20;

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// A record's data is durable there. A second time: it was moved.
    Committed { info: RecordInfo, at: Location, last_used_ms: u64 },
    /// A segment is unlinked, with all records in it.
    SegmentDropped(SegmentId),
    /// A record is bad.
    Quarantined { id: RecordId, why: String },
    /// What the index says.
    Noted(Fact),
}

/// A journal's beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) generation: u64,
    pub(super) first_sequence: u64,
}

impl Head {
    pub(super) fn encode(self, store: &StoreId) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(&FILE_MAGIC);
        out.put_u32(VERSION);
        out.put_u32(0);
        out.extend_from_slice(store);
        out.put_u64(self.generation);
        out.put_u64(self.first_sequence);
        out.put_u64(0);
        let sum = checksum(&out);
        out.put_u64(sum);
        out
    }

    /// The header and the store that it belongs to.
    pub(super) fn parse(bytes: &[u8]) -> Result<(Self, StoreId), Malformed> {
        let bytes = bytes.get(..HEADER).ok_or(Malformed("ends too early"))?;
        let mut fields = Fields(bytes);
        if fields.array::<8>()? != FILE_MAGIC || fields.u32()? != VERSION {
            return Err(Malformed("is no journal of this version"));
        }
        fields.u32()?;
        let store = fields.array()?;
        let (generation, first_sequence) = (fields.u64()?, fields.u64()?);
        fields.u64()?;
        if fields.u64()? != checksum(&bytes[..HEADER - 8]) {
            return Err(Malformed("the header's checksum does not hold"));
        }
        Ok((Self { generation, first_sequence }, store))
    }
}

/// Builds entries.
#[derive(Debug)]
pub(super) struct Entries {
    seed: u64,
    sequence: u64,
    /// Finished entries, then the body under way behind its blank header.
    out: Vec<u8>,
    begun: Option<usize>,
}

impl Entries {
    /// The next entry will have this sequence number.
    pub(super) fn new(store: &StoreId, sequence: u64) -> Self {
        Self { seed: checksum(store), sequence, out: Vec::new(), begun: None }
    }

    pub(super) fn committed(&mut self, info: &RecordInfo, at: &Location, last_used_ms: u64) {
        self.push(|out| put_committed(out, info, at, last_used_ms));
    }

    pub(super) fn event(&mut self, event: &Event) {
        self.push(|out| put_event(out, event));
    }

    pub(super) fn fact(&mut self, fact: &Fact) {
        self.push(|out| put_fact(out, fact));
    }

    fn push(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let begun = *self.begun.get_or_insert_with(|| {
            let begun = self.out.len();
            self.out.extend_from_slice(&[0; ENTRY_HEADER]);
            begun
        });
        put(&mut self.out);
        if self.out.len() - begun > ENTRY_TARGET {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let Some(begun) = self.begun.take() else { return };
        let body = begun + ENTRY_HEADER;
        let bytes = count_u32(self.out.len() - body);
        let sum = checksum_seeded(self.seed.wrapping_add(self.sequence), &self.out[body..]);
        self.out[begun..begun + 4].copy_from_slice(&ENTRY_MAGIC);
        self.out[begun + 4..begun + 8].copy_from_slice(&bytes.to_le_bytes());
        self.out[begun + 8..begun + 16].copy_from_slice(&self.sequence.to_le_bytes());
        self.out[begun + 16..body].copy_from_slice(&sum.to_le_bytes());
        self.out.resize(self.out.len().next_multiple_of(ALIGN), 0);
        self.sequence += 1;
    }

    /// The bytes, and the sequence number of what comes next.
    pub(super) fn finish(mut self) -> (Vec<u8>, u64) {
        self.seal();
        (self.out, self.sequence)
    }
}

/// What a journal says, as far as it can be read.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) events: Vec<Event>,
    /// Where the unbroken run of good entries ends, in bytes of what was given.
    pub(super) end: usize,
    /// The sequence number of the next entry.
    pub(super) next_sequence: u64,
    /// Good entries were found behind a bad one: something acknowledged may be missing.
    pub(super) damaged: bool,
}

/// Reads the entries in `bytes`, of which the first must have the sequence number `first`.
pub(super) fn replay(bytes: &[u8], store: &StoreId, first: u64) -> Replay {
    let seed = checksum(store);
    let mut found = Replay { next_sequence: first, ..Replay::default() };
    while let Some((sequence, body, end)) = entry_at(bytes, found.end, seed) {
        let Ok(events) = events_from(body) else { break };
        if sequence != found.next_sequence {
            break;
        }
        found.events.extend(events);
        found.next_sequence = sequence + 1;
        found.end = end;
    }
    // Behind a bad entry only whole, believable ones of a higher sequence count; the place of a torn one is skipped.
    let mut from = found.end;
    while let Some(next) = next_magic(bytes, from) {
        from = next + ALIGN;
        let Some((sequence, body, end)) = entry_at(bytes, next, seed) else { continue };
        if sequence < found.next_sequence {
            continue;
        }
        let Ok(events) = events_from(body) else { continue };
        found.damaged = true;
        found.events.extend(events);
        found.next_sequence = sequence + 1;
        from = end;
    }
    found
}

fn next_magic(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.next_multiple_of(ALIGN);
    let places = bytes.get(from..)?.chunks(ALIGN);
    places.into_iter().position(|place| place.starts_with(&ENTRY_MAGIC)).map(|index| from + index * ALIGN)
}

/// Sequence, body, and where the next entry begins, if there is a whole entry at `position`.
fn entry_at(bytes: &[u8], position: usize, seed: u64) -> Option<(u64, &[u8], usize)> {
    let mut fields = Fields(bytes.get(position..)?);
    if fields.array::<4>().ok()? != ENTRY_MAGIC {
        return None;
    }
    let body_bytes = fields.u32().ok()? as usize;
    let (sequence, sum) = (fields.u64().ok()?, fields.u64().ok()?);
    if body_bytes > MAX_ENTRY || sequence == u64::MAX {
        return None;
    }
    let body = fields.take(body_bytes).ok()?;
    let end = (position + ENTRY_HEADER + body_bytes).next_multiple_of(ALIGN);
    // The padding is part of the entry: a file that ends within it was torn.
    (end <= bytes.len() && checksum_seeded(seed.wrapping_add(sequence), body) == sum).then_some((sequence, body, end))
}

pub(super) fn events_from(body: &[u8]) -> Result<Vec<Event>, Malformed> {
    let mut fields = Fields(body);
    let mut events = Vec::new();
    while !fields.0.is_empty() {
        events.push(event_from(&mut fields)?);
    }
    Ok(events)
}

const COMMITTED: u8 = 1;
const SEGMENT_DROPPED: u8 = 2;
const QUARANTINED: u8 = 3;
const NAMESPACE: u8 = 4;
const NAMESPACE_FORGOTTEN: u8 = 5;
const TOUCHED: u8 = 6;
const REMOVED: u8 = 7;
const PINNED: u8 = 8;
const UNPINNED: u8 = 9;
const WRITTEN: u8 = 10;

fn put_event(out: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Committed { info, at, last_used_ms } => put_committed(out, info, at, *last_used_ms),
        Event::SegmentDropped(segment) => {
            out.put_u8(SEGMENT_DROPPED);
            out.put_u32(segment.0);
        }
        Event::Quarantined { id, why } => {
            out.put_u8(QUARANTINED);
            out.put_u64(id.0);
            out.put_bytes(why.as_bytes());
        }
        Event::Noted(fact) => put_fact(out, fact),
    }
}

fn put_fact(out: &mut Vec<u8>, fact: &Fact) {
    match fact {
        Fact::Namespace(row) => {
            out.put_u8(NAMESPACE);
            put_namespace(out, row);
        }
        Fact::NamespaceForgotten(key) => {
            out.put_u8(NAMESPACE_FORGOTTEN);
            out.extend_from_slice(&key.0);
        }
        Fact::Touched { ids, last_used_ms, reused } => {
            out.put_u8(TOUCHED);
            out.put_u64(*last_used_ms);
            out.put_u8(u8::from(*reused));
            put_ids(out, ids);
        }
        Fact::Removed(ids) => {
            out.put_u8(REMOVED);
            put_ids(out, ids);
        }
        Fact::Pinned(ids) => {
            out.put_u8(PINNED);
            put_ids(out, ids);
        }
        Fact::Unpinned(ids) => {
            out.put_u8(UNPINNED);
            put_ids(out, ids);
        }
        Fact::Written(written) => {
            out.put_u8(WRITTEN);
            out.put_u32(written.day);
            out.put_u64(written.bytes);
        }
    }
}

fn put_committed(out: &mut Vec<u8>, info: &RecordInfo, at: &Location, last_used_ms: u64) {
    out.put_u8(COMMITTED);
    out.put_u64(info.id.0);
    out.extend_from_slice(&info.namespace.0);
    out.put_u64(info.attach.map_or(u64::MAX, |attach| attach.parent.0));
    out.put_u16(info.attach.map_or(0, |attach| attach.parent_tokens));
    out.extend_from_slice(&info.attach_chain);
    out.put_u32(at.segment.0);
    out.put_u64(at.offset);
    out.put_u32(at.header_bytes);
    out.put_u64(at.payload_bytes);
    out.put_u64(last_used_ms);
    match &info.kind {
        RecordKind::Block { start, tokens } => {
            out.put_u8(0);
            out.put_u32(*start);
            out.put_u32(count_u32(tokens.len()));
            out.put_words(tokens);
        }
        RecordKind::Snapshot { meta } => {
            out.put_u8(1);
            out.put_bytes(meta);
        }
    }
}

fn put_ids(out: &mut Vec<u8>, ids: &[RecordId]) {
    out.put_u32(count_u32(ids.len()));
    for id in ids {
        out.put_u64(id.0);
    }
}

fn ids_from(fields: &mut Fields<'_>) -> Result<Vec<RecordId>, Malformed> {
    let count = fields.count(8)?;
    (0..count).map(|_| id_from(fields)).collect()
}

/// An id; the highest is none, so that every id has one behind it.
fn id_from(fields: &mut Fields<'_>) -> Result<RecordId, Malformed> {
    match fields.u64()? {
        u64::MAX => Err(Malformed("the id is reserved")),
        id => Ok(RecordId(id)),
    }
}

fn event_from(fields: &mut Fields<'_>) -> Result<Event, Malformed> {
    Ok(match fields.u8()? {
        COMMITTED => committed_from(fields)?,
        SEGMENT_DROPPED => Event::SegmentDropped(SegmentId(fields.u32()?)),
        QUARANTINED => Event::Quarantined { id: id_from(fields)?, why: fields.text()? },
        NAMESPACE => Event::Noted(Fact::Namespace(namespace_from(fields)?)),
        NAMESPACE_FORGOTTEN => Event::Noted(Fact::NamespaceForgotten(NamespaceKey(fields.array()?))),
        TOUCHED => {
            let (last_used_ms, reused) = (fields.u64()?, fields.u8()? != 0);
            Event::Noted(Fact::Touched { ids: ids_from(fields)?, last_used_ms, reused })
        }
        REMOVED => Event::Noted(Fact::Removed(ids_from(fields)?)),
        PINNED => Event::Noted(Fact::Pinned(ids_from(fields)?)),
        UNPINNED => Event::Noted(Fact::Unpinned(ids_from(fields)?)),
        WRITTEN => Event::Noted(Fact::Written(WriteDay { day: fields.u32()?, bytes: fields.u64()? })),
        _ => return Err(Malformed("is of an unknown kind")),
    })
}

fn committed_from(fields: &mut Fields<'_>) -> Result<Event, Malformed> {
    let (id, namespace) = (id_from(fields)?, NamespaceKey(fields.array()?));
    let (parent, parent_tokens) = (fields.u64()?, fields.u16()?);
    let attach_chain = fields.array()?;
    let at = Location {
        segment: SegmentId(fields.u32()?),
        offset: fields.u64()?,
        header_bytes: fields.u32()?,
        payload_bytes: fields.u64()?,
    };
    let last_used_ms = fields.u64()?;
    let kind = match fields.u8()? {
        0 => {
            let (start, tokens) = (fields.u32()?, fields.tokens()?);
            if tokens.len() > BLOCK_TOKENS || !is_run(start, tokens.len()) {
                return Err(Malformed("the run of tokens is empty or crosses a block boundary"));
            }
            RecordKind::Block { start, tokens }
        }
        1 => RecordKind::Snapshot { meta: fields.bytes()?.to_vec() },
        _ => return Err(Malformed("is of an unknown kind")),
    };
    let attach = (parent != u64::MAX).then_some(Attach { parent: RecordId(parent), parent_tokens });
    Ok(Event::Committed { info: RecordInfo { id, namespace, attach, attach_chain, kind }, at, last_used_ms })
}

/// At most the bytes of the journal that a record's commit takes.
pub(super) fn cost_bytes(info: &RecordInfo) -> u64 {
    let tail = match &info.kind {
        RecordKind::Block { tokens, .. } => tokens.len() * 4,
        RecordKind::Snapshot { meta } => meta.len(),
    };
    (ENTRY_HEADER + 128 + tail + ALIGN) as u64
}

/// Whether a namespace fits the formats' limits: layout, description and label together take at most 16 MiB.
#[must_use]
pub fn namespace_fits(layout: &Layout, label: &str) -> bool {
    const MOST_BYTES: usize = 16 << 20;
    layout.description.len() + label.len() + layout_bytes(layout) <= MOST_BYTES
}

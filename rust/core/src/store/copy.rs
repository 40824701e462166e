//! The copy of a save: out of the caller's arrays into buffers of RAM, encoded on the way where the layout says so.
//!
//! Done in pieces, on all lanes or by the copier alone. How long a lossless part becomes is known only afterwards: each
//! part has room for its most, and the record is pushed together where they took less.
#![expect(unsafe_code, reason = "follows the caller's sources")]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::disk::codec_tag;
use super::engine::{Engine, now_ms};
use super::memory::{self, Buffer, Resident, copy_in, gather};
use super::parts::StoredParts;
use super::queue::{Planned, Sources};
use super::stats::add;
use super::types::PartEntry;
use super::write::footprint_of;
use crate::quant::Strides;

/// Bytes of one piece of copying: enough to be worth handing to another thread, little enough to share out well.
const PIECE_BYTES: u64 = 1 << 20;

/// Some parts of a block, or arrays of a snapshot.
struct Piece {
    record: usize,
    parts: Range<usize>,
}

/// One part of a record, before and after its copy.
struct Part {
    /// Where it is copied to in the buffer.
    offset: usize,
    most_bytes: usize,
    bytes: AtomicUsize,
    checksum: AtomicU64,
}

impl Part {
    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Copies records of a job and hands them to the queue; false if memory was short, in which case none of them is kept.
/// `on_all_lanes`: with the lanes' help, otherwise on this thread alone.
///
/// # Safety
/// The job's sources are readable and nobody writes them.
pub(crate) unsafe fn copy_all(
    engine: &Engine,
    generation: u64,
    records: &[Planned],
    from: &Sources,
    on_all_lanes: bool,
) -> bool {
    let unfilled = Unfilled { engine, generation, records };
    let buffers: Option<Vec<Buffer>> =
        records.iter().map(|record| engine.pool.take(usize::try_from(record.bytes).ok()?)).collect();
    let Some(mut buffers) = buffers else {
        std::mem::forget(unfilled);
        abandon(engine, generation, records, "the system has no memory for the copy");
        return false;
    };
    let run = |pieces: usize, work: &(dyn Fn(usize) + Sync)| {
        if on_all_lanes { engine.lanes.run(pieces, work) } else { (0..pieces).for_each(work) }
    };
    let parts: Vec<Vec<Part>> = records.iter().map(|record| parts_of(from, record)).collect();
    let mut pieces = Vec::new();
    for (number, record) in records.iter().enumerate() {
        let bytes_of = |part: usize| memory_bytes(from, record, part);
        pieces.extend(pieces_of(parts[number].len(), bytes_of).map(|parts| Piece { record: number, parts }));
    }
    run(pieces.len(), &|piece| {
        let Piece { record: number, parts: range } = &pieces[piece];
        for part in range.clone() {
            // SAFETY: the caller vouches for the sources. The piece alone writes these parts of the buffer, which nobody
            // else has yet.
            unsafe { copy_part(engine, from, &records[*number], part, &parts[*number][part], &buffers[*number]) };
        }
    });
    if from.layout.has_lossless() {
        // SAFETY: the buffers are filled, and still nobody else's.
        run(records.len(), &|record| unsafe { push_together(&buffers[record], &parts[record]) });
        for (buffer, parts) in buffers.iter_mut().zip(&parts) {
            buffer.truncate(parts.iter().map(Part::bytes).sum());
        }
    }
    let tags: Vec<u32> = from.layout.parts.iter().map(codec_tag).collect();
    let residents: Vec<Arc<Resident>> = buffers
        .into_iter()
        .zip(records)
        .zip(parts)
        .map(|((buffer, record), parts)| Arc::new(resident(&tags, record, buffer, &parts)))
        .collect();
    std::mem::forget(unfilled);
    keep(engine, generation, records, residents);
    true
}

fn resident(tags: &[u32], record: &Planned, buffer: Buffer, parts: &[Part]) -> Resident {
    let entries = parts.iter().enumerate().map(|(number, part)| PartEntry {
        stored_bytes: u32::try_from(part.bytes()).unwrap_or(u32::MAX),
        codec: if record.block.is_some() { tags[number] } else { 0 },
        checksum: part.checksum.load(Ordering::Relaxed),
    });
    let footprint = footprint_of(buffer.footprint());
    Resident { parts: StoredParts::new(entries.collect()), footprint, buffer }
}

/// Records are served and written from now on, unless they were removed meanwhile.
fn keep(engine: &Engine, generation: u64, records: &[Planned], residents: Vec<Arc<Resident>>) {
    let bytes: u64 = residents.iter().map(|resident| resident.buffer.len() as u64).sum();
    let reserved: u64 = records.iter().map(|record| record.bytes).sum();
    let mut catalog = engine.catalog();
    let is_stale = catalog.generation != generation;
    let kept: Vec<bool> = records
        .iter()
        .zip(&residents)
        .map(|(record, resident)| {
            let kept = !is_stale && catalog.index.filled(record.id);
            if kept {
                catalog.hot.insert(record.id, Arc::clone(resident));
            }
            kept
        })
        .collect();
    if !is_stale && bytes < reserved {
        catalog.index.refund(reserved - bytes, now_ms());
    }
    drop(catalog);
    if is_stale {
        // Before the tickets are filled: a flush that sees these must see the loss.
        engine.lose(records.len() as u64, bytes, "the cache folder was made anew before it was written");
    }
    for ((record, resident), kept) in records.iter().zip(residents).zip(kept) {
        engine.queue.fill(record.ticket, kept.then_some(resident));
    }
}

/// Records that are being copied: abandoned if the copy panics, or whoever waits for them would wait for ever.
struct Unfilled<'c> {
    engine: &'c Engine,
    generation: u64,
    records: &'c [Planned],
}

impl Drop for Unfilled<'_> {
    fn drop(&mut self) {
        abandon(self.engine, self.generation, self.records, "the copy panicked");
    }
}

/// Records that were reserved will not be there.
pub(crate) fn abandon(engine: &Engine, generation: u64, records: &[Planned], why: &str) {
    let mut catalog = engine.catalog();
    let mut gone = Vec::new();
    let (mut lost, mut bytes) = (0, 0);
    for record in records {
        if catalog.generation != generation {
            (lost, bytes) = (lost + 1, bytes + record.bytes);
            continue;
        }
        let removed = catalog.index.remove(record.id);
        lost += removed.records.len() as u64;
        bytes += if removed.records.is_empty() { 0 } else { record.bytes };
        gone.extend(catalog.forget(&removed));
    }
    drop(catalog);
    drop(gone);
    engine.lose(lost, bytes, why);
    for record in records {
        engine.queue.fill(record.ticket, None);
    }
}

/// The parts of a record, each with room for its most.
fn parts_of(from: &Sources, record: &Planned) -> Vec<Part> {
    let most_bytes: Vec<u64> = match record.block {
        Some((_, tokens)) => from.layout.parts.iter().map(|part| part.most_stored_bytes(tokens)).collect(),
        None => from.arrays.iter().map(|array| array.bytes as u64).collect(),
    };
    let mut end = 0;
    let part = |most_bytes| {
        let most_bytes = usize::try_from(most_bytes).unwrap_or(usize::MAX);
        let offset = end;
        end += most_bytes;
        Part { offset, most_bytes, bytes: AtomicUsize::new(0), checksum: AtomicU64::new(0) }
    };
    most_bytes.into_iter().map(part).collect()
}

/// Bytes of a part in the caller's memory.
fn memory_bytes(from: &Sources, record: &Planned, part: usize) -> u64 {
    match record.block {
        Some((_, tokens)) => from.layout.parts[part].token_bytes() * tokens as u64,
        None => from.arrays[part].bytes as u64,
    }
}

/// # Safety
/// As [`copy_all`]; nobody else uses this part of the buffer.
unsafe fn copy_part(engine: &Engine, from: &Sources, record: &Planned, number: usize, part: &Part, into: &Buffer) {
    let room = (part.offset, part.most_bytes);
    let (bytes, checksum) = match record.block {
        None => {
            let array = from.arrays[number];
            // SAFETY: the caller vouches for the array.
            (array.bytes, unsafe { copy_in(array.ptr, array.bytes, into, part.offset) })
        }
        Some((start, tokens)) => {
            let (source, layout) = (&from.parts[number], from.layout.parts[number]);
            let first = source.ptr.wrapping_add((start - source.first_token) * source.token_stride_bytes);
            let (rows, row_bytes, token_bytes) =
                (layout.rows as usize, source.row_stride_bytes, source.token_stride_bytes);
            if let Some(codec) = layout.codec {
                let begun = Instant::now();
                let strides = Strides { rows, row_bytes, token_bytes };
                // SAFETY: the caller vouches for the source from its first token, which the plan does not go before, to
                // the last.
                let encoded = unsafe { memory::encode(&codec, (first, strides), tokens, into, room) };
                engine.counters.encode_us.add_since(begun);
                add(&engine.counters.bytes_before_encoding, memory_bytes(from, record, number));
                add(&engine.counters.bytes_after_encoding, encoded.0 as u64);
                encoded
            } else {
                let (rows, tokens) = ((rows, row_bytes), (tokens, token_bytes));
                // SAFETY: as above.
                let sum = unsafe { gather(first, rows, tokens, layout.row_bytes as usize, into, part.offset) };
                (part.most_bytes, sum)
            }
        }
    };
    part.bytes.store(bytes, Ordering::Relaxed);
    part.checksum.store(checksum, Ordering::Relaxed);
}

/// Moves each part to where the one before ends.
///
/// # Safety
/// Nobody else uses the buffer.
unsafe fn push_together(buffer: &Buffer, parts: &[Part]) {
    let mut end = 0;
    for part in parts {
        // SAFETY: this function's contract.
        unsafe { memory::move_down(buffer, part.offset, end, part.bytes()) };
        end += part.bytes();
    }
}

/// Divides parts into ranges of about [`PIECE_BYTES`].
pub(crate) fn pieces_of(parts: usize, bytes_of: impl Fn(usize) -> u64) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let first = next;
        let mut bytes = 0;
        while next < parts && (next == first || bytes + bytes_of(next) <= PIECE_BYTES) {
            bytes += bytes_of(next);
            next += 1;
        }
        (next > first).then_some(first..next)
    })
}

//! Buffers of any length out of recycled chunks.
//!
//! A buffer is a list of pieces: whole chunks, then the rest in slots of power-of-two size that several buffers share a
//! chunk for. So nothing is ever too fragmented to be used again, and at most an eighth of a small buffer is waste.
#![expect(unsafe_code, reason = "hands out raw memory")]

use std::collections::{BTreeSet, HashMap};
use std::mem::take;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::mapping::{CHUNK_BYTES, Chunk};

/// The smallest slot: a page.
const SLOT_BYTES: usize = 4096;
/// Sizes of slots: 4 KiB, 8 KiB, ... 1 MiB.
const SLOT_CLASSES: usize = (CHUNK_BYTES / SLOT_BYTES).trailing_zeros() as usize;

/// A chunk divided into slots of one size.
#[derive(Debug)]
struct Slab {
    chunk: Chunk,
    class: usize,
    free_slots: Vec<u16>,
}

impl Slab {
    fn slot_bytes(class: usize) -> usize {
        SLOT_BYTES << class
    }

    fn slots(class: usize) -> usize {
        CHUNK_BYTES / Self::slot_bytes(class)
    }
}

#[derive(Debug, Default)]
struct Chunks {
    free: Vec<Chunk>,
    /// Fewest free chunks since the last [`BufferPool::release_idle`]: so many were not needed.
    idle: usize,
    used: HashMap<usize, Chunk>,
    slabs: HashMap<usize, Slab>,
    /// For each class, the slabs that have a free slot.
    open: [BTreeSet<usize>; SLOT_CLASSES],
}

impl Chunks {
    fn take_chunk(&mut self) -> Option<Chunk> {
        let chunk = self.free.pop();
        self.idle = self.idle.min(self.free.len());
        chunk.or_else(Chunk::map)
    }

    fn take_slot(&mut self, class: usize) -> Option<NonNull<u8>> {
        let address = if let Some(address) = self.open[class].first() {
            *address
        } else {
            let chunk = self.take_chunk()?;
            let address = chunk.start().addr().get();
            let free_slots = (0..Slab::slots(class)).rev().filter_map(|slot| u16::try_from(slot).ok()).collect();
            self.slabs.insert(address, Slab { chunk, class, free_slots });
            self.open[class].insert(address);
            address
        };
        let slab = self.slabs.get_mut(&address)?;
        let slot = slab.free_slots.pop()?;
        if slab.free_slots.is_empty() {
            self.open[class].remove(&address);
        }
        // SAFETY: a slot of the slab lies within its chunk.
        Some(unsafe { slab.chunk.start().add(usize::from(slot) * Slab::slot_bytes(class)) })
    }

    fn give_slot(&mut self, start: NonNull<u8>) {
        let address = start.addr().get() & !(CHUNK_BYTES - 1);
        let Some(slab) = self.slabs.get_mut(&address) else { return };
        let class = slab.class;
        let slot = (start.addr().get() - address) / Slab::slot_bytes(class);
        slab.free_slots.extend(u16::try_from(slot));
        if slab.free_slots.len() < Slab::slots(class) {
            self.open[class].insert(address);
        } else {
            self.open[class].remove(&address);
            self.free.extend(self.slabs.remove(&address).map(|slab| slab.chunk));
        }
    }
}

/// Where buffers come from and go back to.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    chunks: Mutex<Chunks>,
}

impl BufferPool {
    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of `bytes`, whose contents are not defined; `None` where the system has no memory.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Buffer> {
        // From here on a failure gives back what was taken.
        let mut buffer = Buffer { pool: Arc::clone(self), pieces: Vec::new(), bytes };
        let mut chunks = self.chunks();
        for length in piece_lengths(bytes) {
            let start = if length == CHUNK_BYTES {
                chunks.take_chunk().map(|chunk| {
                    let start = chunk.start();
                    chunks.used.insert(start.addr().get(), chunk);
                    start
                })
            } else {
                chunks.take_slot((length / SLOT_BYTES).trailing_zeros() as usize)
            };
            let Some(start) = start else {
                drop(chunks); // what was taken goes back through the same lock
                return None;
            };
            buffer.pieces.push(Piece { start, bytes: length });
        }
        drop(chunks);
        Some(buffer)
    }

    fn give_back(&self, pieces: Vec<Piece>) {
        let mut chunks = self.chunks();
        for piece in pieces {
            if piece.bytes == CHUNK_BYTES {
                let chunk = chunks.used.remove(&piece.start.addr().get());
                chunks.free.extend(chunk);
            } else {
                chunks.give_slot(piece.start);
            }
        }
    }

    /// Bytes that a buffer of `bytes` takes.
    pub(crate) fn footprint(bytes: usize) -> usize {
        piece_lengths(bytes).sum()
    }

    /// Has so many bytes of free memory ready as to make the first copies as fast as the later ones.
    pub(crate) fn warm(&self, bytes: usize, stop: impl Fn() -> bool) {
        for _ in 0..bytes / CHUNK_BYTES {
            if stop() {
                return;
            }
            let Some(chunk) = Chunk::map() else { return };
            chunk.touch();
            self.chunks().free.push(chunk);
        }
    }

    /// Gives back to the system half of the free chunks that nobody needed since the last call, but keeps `keep_bytes`.
    pub(crate) fn release_idle(&self, keep_bytes: usize) {
        let mut chunks = self.chunks();
        let surplus = (chunks.idle / 2).min(chunks.free.len().saturating_sub(keep_bytes / CHUNK_BYTES));
        let kept = chunks.free.len() - surplus;
        let released = chunks.free.split_off(kept);
        chunks.idle = kept;
        drop(chunks);
        drop(released);
    }

    /// Bytes mapped: in buffers, and free to be used again.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        let chunks = self.chunks();
        ((chunks.free.len() + chunks.used.len() + chunks.slabs.len()) * CHUNK_BYTES) as u64
    }
}

/// How `bytes` are divided: whole chunks, then at most four slots, each half of the one before or less.
fn piece_lengths(bytes: usize) -> impl Iterator<Item = usize> {
    let rest = bytes % CHUNK_BYTES;
    let grain = (rest.next_power_of_two() / 8).max(SLOT_BYTES);
    let mut left = rest.next_multiple_of(grain);
    let slots = std::iter::from_fn(move || {
        let length = if left == 0 { return None } else { 1 << left.ilog2() };
        left -= length;
        Some(length)
    });
    std::iter::repeat_n(CHUNK_BYTES, bytes / CHUNK_BYTES).chain(slots)
}

#[derive(Debug)]
struct Piece {
    start: NonNull<u8>,
    bytes: usize,
}

/// Memory in pieces, given back to its pool when dropped. Read and written through [`Buffer::runs`].
#[derive(Debug)]
pub(crate) struct Buffer {
    pool: Arc<BufferPool>,
    pieces: Vec<Piece>,
    bytes: usize,
}

// SAFETY: the buffer owns its pieces; nothing of them is tied to a thread.
unsafe impl Send for Buffer {}
// SAFETY: through `&Buffer` bytes are only read, except by `runs`, whose users answer for it.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Its length.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// The memory of `offset..offset + bytes` as runs of (start, length), in order.
    pub(crate) fn runs(&self, offset: usize, bytes: usize) -> impl Iterator<Item = (NonNull<u8>, usize)> {
        debug_assert!(offset + bytes <= self.bytes);
        // All pieces but the last few are whole chunks, so the first one wanted is found without a search.
        let first = (offset / CHUNK_BYTES).min(self.pieces.len().saturating_sub(1));
        let whole = self.bytes / CHUNK_BYTES;
        let (mut index, mut skip) =
            if first < whole { (first, offset - first * CHUNK_BYTES) } else { (whole, offset - whole * CHUNK_BYTES) };
        let mut left = bytes;
        std::iter::from_fn(move || {
            while left > 0 {
                let piece = self.pieces.get(index)?;
                index += 1;
                if skip >= piece.bytes {
                    skip -= piece.bytes;
                    continue;
                }
                let length = left.min(piece.bytes - skip);
                // SAFETY: within the piece.
                let start = unsafe { piece.start.add(take(&mut skip)) };
                left -= length;
                return Some((start, length));
            }
            None
        })
    }

    /// The start of `offset..offset + bytes` if it lies in one run.
    pub(crate) fn run(&self, offset: usize, bytes: usize) -> Option<NonNull<u8>> {
        self.runs(offset, bytes).next().filter(|(_, length)| *length == bytes).map(|(start, _)| start)
    }

    /// Bytes of memory that it takes.
    pub(crate) fn footprint(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }

    /// Makes it shorter, and gives back the pieces that are not needed any more.
    pub(crate) fn truncate(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.bytes);
        self.bytes = bytes;
        let (mut needed, mut end) = (0, 0);
        while end < bytes {
            end += self.pieces[needed].bytes;
            needed += 1;
        }
        let surplus = self.pieces.split_off(needed);
        self.pool.give_back(surplus);
    }

    /// All of it as slices. Only for a buffer that is filled and that nobody writes any more.
    pub(crate) fn slices(&self) -> Vec<&[u8]> {
        // SAFETY: the runs are this buffer's own memory, alive as long as it is borrowed; the caller keeps the rule above.
        self.runs(0, self.bytes)
            .map(|(start, bytes)| unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) })
            .collect()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(take(&mut self.pieces));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first and the last byte of each run tell its buffer from all others.
    fn ends(buffer: &Buffer) -> impl Iterator<Item = NonNull<u8>> {
        // SAFETY: the last byte of a run, which is never empty.
        buffer.runs(0, buffer.len()).flat_map(|(start, bytes)| [start, unsafe { start.add(bytes - 1) }])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn buffers_never_share_a_byte(steps in prop::collection::vec((any::<bool>(), 0usize..(5 << 20)), 1..60)) {
            let pool = Arc::new(BufferPool::default());
            let mut alive: Vec<Buffer> = Vec::new();
            for (remove, bytes) in steps {
                if remove && !alive.is_empty() {
                    alive.swap_remove(bytes % alive.len());
                } else {
                    alive.push(pool.take(bytes).unwrap());
                }
            }
            let mut runs: Vec<(usize, usize)> = Vec::new();
            for buffer in &alive {
                let own = buffer.runs(0, buffer.len()).map(|(start, bytes)| (start.addr().get(), bytes));
                runs.extend(own);
                prop_assert_eq!(buffer.runs(0, buffer.len()).map(|run| run.1).sum::<usize>(), buffer.len());
                // SAFETY: the test owns the buffer.
                ends(buffer).for_each(|byte| unsafe { byte.write_volatile(1) });
            }
            runs.sort_unstable();
            prop_assert!(runs.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
            drop(alive);
            let chunks = pool.chunks();
            prop_assert!(chunks.used.is_empty() && chunks.slabs.is_empty());
        }

        #[test]
        fn a_buffer_made_shorter_keeps_what_is_left(bytes in 1usize..(5 << 20), left in any::<prop::sample::Index>()) {
            let pool = Arc::new(BufferPool::default());
            let mut buffer = pool.take(bytes).unwrap();
            let left = left.index(bytes + 1);
            let before: Vec<_> = buffer.runs(0, left).collect();
            buffer.truncate(left);
            prop_assert_eq!(buffer.runs(0, left).collect::<Vec<_>>(), before);
            prop_assert_eq!(buffer.len(), left);
            prop_assert!(buffer.footprint() >= left && buffer.footprint() <= BufferPool::footprint(bytes));
            prop_assert_eq!(left == 0, buffer.footprint() == 0);
            drop(buffer);
            let chunks = pool.chunks();
            prop_assert!(chunks.used.is_empty() && chunks.slabs.is_empty());
        }

        #[test]
        fn runs_cover_any_range(bytes in 1usize..(5 << 20), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
            let buffer = Arc::new(BufferPool::default()).take(bytes).unwrap();
            let (first, last) = (a.index(bytes).min(b.index(bytes)), a.index(bytes).max(b.index(bytes)));
            // Walk both lists of runs at once: the range's must be the whole's without what is before it.
            let mut whole = buffer.runs(0, bytes).map(|(start, length)| (start.addr().get(), length));
            let mut part = buffer.runs(first, last - first).map(|(start, length)| (start.addr().get(), length));
            let (mut skipped, mut left) = (first, last - first);
            while left > 0 {
                let (start, length) = whole.next().unwrap();
                if skipped >= length {
                    skipped -= length;
                    continue;
                }
                let expected = (length - skipped).min(left);
                prop_assert_eq!(part.next(), Some((start + std::mem::take(&mut skipped), expected)));
                left -= expected;
            }
            prop_assert_eq!(part.next(), None);
        }
    }

    #[test]
    fn memory_is_used_again() {
        let pool = Arc::new(BufferPool::default());
        drop(pool.take(7 << 20));
        let mapped = pool.mapped_bytes();
        for _ in 0..10 {
            drop(pool.take(7 << 20));
        }
        assert_eq!(pool.mapped_bytes(), mapped);
        pool.release_idle(0);
        for _ in 0..20 {
            pool.release_idle(0);
        }
        assert!(pool.mapped_bytes() <= CHUNK_BYTES as u64);
    }
}

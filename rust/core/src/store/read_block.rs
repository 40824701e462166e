//! One piece of a restore: some parts of one block, from RAM or disk into the rows of their targets.
//!
//! From disk it is read scattered into the rows and hashed there while it is in the cache. Where the rows are tiny, or the
//! block's end does not belong to the prefix, it goes through scratch memory instead. So do encoded parts, out of which what
//! is wanted is decoded into the rows.
#![expect(unsafe_code, reason = "writes through the caller's pointers")]

use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::disk::{Checksum, Disk, checksum};
use super::matched::Found;
use super::memory::{Resident, Scratch, decode, scatter};
use super::parts::StoredParts;
use super::read::{Origin, Piece, ReadError, Restore};
use super::types::{Location, PartLayout};
use crate::quant::Strides;

/// Rows shorter than this are read through scratch memory: the system's work for each would cost more than a copy.
const SCATTERED_ROW_BYTES: usize = 2 << 10;
/// Most rows read in one call.
const ROWS_AT_ONCE: usize = 512;

impl Restore<'_> {
    /// # Safety
    /// As [`super::Store::restore`]; the piece's tokens of its targets are nobody else's.
    pub(crate) unsafe fn fill(&self, piece: &Piece) -> Result<(), ReadError> {
        let found = &self.steps[piece.step];
        let used = found.used(self.tokens);
        let bytes: u64 = self.layout.parts[piece.parts.clone()].iter().map(PartLayout::token_bytes).sum();
        let bytes = bytes * used as u64;
        match &self.origins[piece.step] {
            Origin::Gone => return Err(ReadError::Gone),
            Origin::Hot(resident) => {
                for part in piece.parts.clone() {
                    // SAFETY: this function's contract.
                    unsafe { self.fill_from_ram(found, part, used, resident) }?;
                }
                self.bytes_hot.fetch_add(bytes, Ordering::Relaxed);
            }
            Origin::Cold(at) => {
                let disk = self.disk.ok_or(ReadError::Gone)?;
                // SAFETY: this function's contract.
                unsafe { self.fill_from_disk(disk, found, piece, used, at) }?;
                self.bytes_cold.fetch_add(bytes, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Where the tokens of a block go in a part's target: tokens of the block to leave out, and the address of row 0 there.
    fn destination(&self, found: &Found, part: usize) -> (usize, *mut u8) {
        let target = &self.targets[part - self.first_part];
        let start = found.step.start as usize;
        let skipped = target.first_token.saturating_sub(start);
        let position = (start + skipped).saturating_sub(target.first_token);
        (skipped, target.ptr.wrapping_add(position * self.layout.parts[part].row_bytes as usize))
    }

    /// The strides of a part's target.
    fn strides(&self, part: usize) -> Strides {
        let PartLayout { rows, row_bytes, .. } = self.layout.parts[part];
        let target = &self.targets[part - self.first_part];
        Strides { rows: rows as usize, row_bytes: target.row_stride_bytes, token_bytes: row_bytes as usize }
    }

    /// # Safety
    /// As [`Restore::fill`].
    unsafe fn fill_from_ram(&self, found: &Found, part: usize, used: usize, from: &Resident) -> Result<(), ReadError> {
        let (skipped, to) = self.destination(found, part);
        let strides = self.strides(part);
        let tokens = usize::from(found.step.block_tokens);
        let start = usize::try_from(from.parts.offset(part)).unwrap_or(usize::MAX);
        if let Some(codec) = self.layout.parts[part].codec {
            let range = start..start + from.parts.entries()[part].stored_bytes as usize;
            let begun = Instant::now();
            // SAFETY: `check` has made sure that `used` tokens fit in each row of the target.
            let decoded = unsafe { decode(&codec, (&from.buffer, range), (tokens, skipped..used), (to, strides)) };
            self.counters.decode_us.add_since(begun);
            return decoded.map_err(|why| ReadError::Encoding { part, why });
        }
        for row in 0..strides.rows {
            let at = start + (row * tokens + skipped) * strides.token_bytes;
            let bytes = (used - skipped) * strides.token_bytes;
            // SAFETY: as above.
            unsafe { scatter(&from.buffer, at, to.wrapping_add(row * strides.row_bytes), bytes) };
        }
        Ok(())
    }

    /// # Safety
    /// As [`Restore::fill`].
    unsafe fn fill_from_disk(
        &self,
        disk: &Disk,
        found: &Found,
        piece: &Piece,
        used: usize,
        at: &Location,
    ) -> Result<(), ReadError> {
        let stored = self.stored(disk, found, at)?;
        let tokens = usize::from(found.step.block_tokens);
        let is_last = std::ptr::from_ref(found) == std::ptr::from_ref(&self.steps[self.steps.len() - 1]);
        let direct = |part: usize| {
            let target = &self.targets[part - self.first_part];
            let start = found.step.start as usize;
            let fits = used == tokens || is_last && start + tokens <= target.first_token + target.token_capacity;
            let row_bytes = tokens * self.layout.parts[part].row_bytes as usize;
            let is_plain = self.layout.parts[part].codec.is_none();
            is_plain && start >= target.first_token && fits && row_bytes >= SCATTERED_ROW_BYTES
        };
        let mut next = piece.parts.start;
        while next < piece.parts.end {
            let is_direct = direct(next);
            let mut rows = 0;
            let alike = |part: &usize| {
                rows += self.layout.parts[*part].rows as usize;
                direct(*part) == is_direct && (*part == next || !is_direct || rows <= ROWS_AT_ONCE)
            };
            let parts = next..next + (next..piece.parts.end).take_while(alike).count();
            next = parts.end;
            // SAFETY: this function's contract; `direct` says that whole rows of the block fit in the targets.
            unsafe {
                if is_direct {
                    self.read_into_rows(disk, found, parts, at, stored)?;
                } else {
                    self.read_through_scratch(disk, found, parts, used, at, stored)?;
                }
            }
        }
        Ok(())
    }

    /// # Safety
    /// As [`Restore::fill`], and whole rows of the block fit in the targets.
    unsafe fn read_into_rows(
        &self,
        disk: &Disk,
        found: &Found,
        parts: Range<usize>,
        at: &Location,
        stored: &StoredParts,
    ) -> Result<(), ReadError> {
        let tokens = usize::from(found.step.block_tokens);
        let mut rows: Vec<(*mut u8, usize)> = Vec::new();
        for part in parts.clone() {
            let PartLayout { rows: heads, row_bytes, .. } = self.layout.parts[part];
            let (_, to) = self.destination(found, part);
            let stride = self.targets[part - self.first_part].row_stride_bytes;
            let row = |row| (to.wrapping_add(row * stride), tokens * row_bytes as usize);
            rows.extend((0..heads as usize).map(row));
        }
        // Made anew for each use: a read consumes its slices.
        let slice = |(start, bytes): &(*mut u8, usize)| {
            // SAFETY: the row has room for the block's tokens, is the caller's to write, and no other slice covers it while
            // this one lives.
            IoSliceMut::new(unsafe { std::slice::from_raw_parts_mut(*start, *bytes) })
        };
        disk.read(at, stored.offset(parts.start), &mut rows.iter().map(slice).collect::<Vec<_>>())?;
        let mut rest = rows.as_slice();
        for part in parts {
            let (own, others) = rest.split_at(self.layout.parts[part].rows as usize);
            rest = others;
            let mut sum = Checksum::new();
            own.iter().map(slice).for_each(|row| sum.update(&row));
            if sum.finish() != stored.entries()[part].checksum {
                return Err(ReadError::Checksum(part));
            }
        }
        Ok(())
    }

    /// # Safety
    /// As [`Restore::fill`].
    unsafe fn read_through_scratch(
        &self,
        disk: &Disk,
        found: &Found,
        parts: Range<usize>,
        used: usize,
        at: &Location,
        stored: &StoredParts,
    ) -> Result<(), ReadError> {
        let tokens = usize::from(found.step.block_tokens);
        let bytes = usize::try_from(stored.bytes(parts.clone())).unwrap_or(usize::MAX);
        Scratch::with(bytes, |scratch| {
            disk.read(at, stored.offset(parts.start), &mut [IoSliceMut::new(scratch)])?;
            let mut rest = &*scratch;
            for part in parts {
                let (own, others) = rest.split_at(stored.entries()[part].stored_bytes as usize);
                rest = others;
                if checksum(own) != stored.entries()[part].checksum {
                    return Err(ReadError::Checksum(part));
                }
                let (skipped, to) = self.destination(found, part);
                let strides = self.strides(part);
                if let Some(codec) = self.layout.parts[part].codec {
                    let begun = Instant::now();
                    // SAFETY: `check` has made sure that `used` tokens fit in each row of the target.
                    let decoded = unsafe { codec.decode(own, tokens, skipped..used, to, strides) };
                    self.counters.decode_us.add_since(begun);
                    decoded.map_err(|why| ReadError::Encoding { part, why })?;
                    continue;
                }
                let row_bytes = strides.token_bytes;
                for (row, from) in own.chunks_exact(tokens * row_bytes).enumerate() {
                    let wanted = &from[skipped * row_bytes..used * row_bytes];
                    let to = to.wrapping_add(row * strides.row_bytes);
                    // SAFETY: as above.
                    unsafe { std::ptr::copy_nonoverlapping(wanted.as_ptr(), to, wanted.len()) };
                }
            }
            Ok(())
        })
    }

    /// Where a record's parts are, as its header says, if it is the record that was planned to be read.
    fn stored<'f>(&self, disk: &Disk, found: &'f Found, at: &Location) -> Result<&'f StoredParts, ReadError> {
        if let Some(stored) = found.parts.get() {
            return Ok(stored);
        }
        let header = disk.read_header(at)?;
        let stored = StoredParts::new(header.parts);
        let tokens = usize::from(found.step.block_tokens);
        if header.info.id != found.step.record || !stored.fit(self.layout, &self.tags, tokens) {
            return Err(ReadError::Header);
        }
        Ok(found.parts.get_or_init(|| stored))
    }
}

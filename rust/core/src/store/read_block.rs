//! One piece of a restore: some parts of one block, from RAM or disk into the rows of their targets.
//!
//! From disk it is read scattered into the rows and hashed there while it is in the cache. Where the rows are tiny, or the
//! block's end does not belong to the prefix, it goes through scratch memory instead.
#![expect(unsafe_code, reason = "writes through the caller's pointers")]

use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::disk::{Checksum, Disk, checksum};
use super::matched::Found;
use super::memory::{Buffer, Scratch, scatter};
use super::read::{Origin, Piece, ReadError, Restore};
use super::types::{Location, PartEntry, PartLayout};

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
                    unsafe { self.fill_from_ram(found, part, used, &resident.buffer) };
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

    fn payload_offset(&self, found: &Found, part: usize) -> u64 {
        self.before[part] * u64::from(found.step.block_tokens)
    }

    /// # Safety
    /// As [`Restore::fill`].
    unsafe fn fill_from_ram(&self, found: &Found, part: usize, used: usize, from: &Buffer) {
        let PartLayout { rows, row_bytes } = self.layout.parts[part];
        let (skipped, to) = self.destination(found, part);
        let stride = self.targets[part - self.first_part].row_stride_bytes;
        let row_bytes = row_bytes as usize;
        let offset = usize::try_from(self.payload_offset(found, part)).unwrap_or(usize::MAX);
        for row in 0..rows as usize {
            let at = offset + (row * usize::from(found.step.block_tokens) + skipped) * row_bytes;
            // SAFETY: `check` has made sure that `used` tokens fit in each row of the target.
            unsafe { scatter(from, at, to.wrapping_add(row * stride), (used - skipped) * row_bytes) };
        }
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
        let entries = self.entries(disk, found, at)?;
        let tokens = usize::from(found.step.block_tokens);
        let is_last = std::ptr::from_ref(found) == std::ptr::from_ref(&self.steps[self.steps.len() - 1]);
        let direct = |part: usize| {
            let target = &self.targets[part - self.first_part];
            let start = found.step.start as usize;
            let fits = used == tokens || is_last && start + tokens <= target.first_token + target.token_capacity;
            let row_bytes = tokens * self.layout.parts[part].row_bytes as usize;
            start >= target.first_token && fits && row_bytes >= SCATTERED_ROW_BYTES
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
                    self.read_into_rows(disk, found, parts, at, entries)?;
                } else {
                    self.read_through_scratch(disk, found, parts, used, at, entries)?;
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
        entries: &[PartEntry],
    ) -> Result<(), ReadError> {
        let tokens = usize::from(found.step.block_tokens);
        let mut rows: Vec<(*mut u8, usize)> = Vec::new();
        for part in parts.clone() {
            let PartLayout { rows: heads, row_bytes } = self.layout.parts[part];
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
        disk.read(at, self.payload_offset(found, parts.start), &mut rows.iter().map(slice).collect::<Vec<_>>())?;
        let mut rest = rows.as_slice();
        for part in parts {
            let (own, others) = rest.split_at(self.layout.parts[part].rows as usize);
            rest = others;
            let mut sum = Checksum::new();
            own.iter().map(slice).for_each(|row| sum.update(&row));
            if sum.finish() != entries[part].checksum {
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
        entries: &[PartEntry],
    ) -> Result<(), ReadError> {
        let tokens = usize::from(found.step.block_tokens);
        let part_bytes =
            |part: usize| self.layout.parts[part].rows as usize * self.layout.parts[part].row_bytes as usize * tokens;
        Scratch::with(parts.clone().map(part_bytes).sum(), |scratch| {
            disk.read(at, self.payload_offset(found, parts.start), &mut [IoSliceMut::new(scratch)])?;
            let mut rest = &*scratch;
            for part in parts {
                let (own, others) = rest.split_at(part_bytes(part));
                rest = others;
                if checksum(own) != entries[part].checksum {
                    return Err(ReadError::Checksum(part));
                }
                let row_bytes = self.layout.parts[part].row_bytes as usize;
                let (skipped, to) = self.destination(found, part);
                let stride = self.targets[part - self.first_part].row_stride_bytes;
                for (row, from) in own.chunks_exact(tokens * row_bytes).enumerate() {
                    let wanted = &from[skipped * row_bytes..used * row_bytes];
                    // SAFETY: `check` has made sure that `used` tokens fit in each row of the target.
                    unsafe {
                        std::ptr::copy_nonoverlapping(wanted.as_ptr(), to.wrapping_add(row * stride), wanted.len());
                    }
                }
            }
            Ok(())
        })
    }

    fn entries<'f>(&self, disk: &Disk, found: &'f Found, at: &Location) -> Result<&'f [PartEntry], ReadError> {
        if let Some(entries) = found.entries.get() {
            return Ok(entries);
        }
        let header = disk.read_header(at)?;
        let tokens = u64::from(found.step.block_tokens);
        let as_planned =
            header.info.id == found.step.record
                && header.parts.len() == self.layout.parts.len()
                && header.parts.iter().zip(&self.layout.parts).all(|(entry, part)| {
                    entry.codec == 0 && u64::from(entry.stored_bytes) == part.token_bytes() * tokens
                });
        if !as_planned {
            return Err(ReadError::Header);
        }
        Ok(found.entries.get_or_init(|| header.parts))
    }
}

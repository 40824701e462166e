//! Copies between strided arrays and buffers.
//!
//! Plain copies: runs are tens of KiB long, and on the machine measured `memcpy` (5.1 GB/s a thread), hand-written
//! non-temporal stores (5.2 GB/s) and runs of 64 KiB to scattered places (5.0 GB/s) are equal, bound by memory.
#![expect(unsafe_code, reason = "follows the callers' pointers")]

use std::cell::RefCell;
use std::ptr::copy_nonoverlapping;

use crate::store::disk::Checksum;

use super::Buffer;

/// Copies `rows` × `tokens` × `token_bytes` from a strided array to `offset` of `into`, rows one after the other, and gives
/// the XXH3-64 of what was copied, taken while it is in the cache.
///
/// # Safety
/// All of the source is readable: `rows` at `row_stride` bytes, in each `tokens` at `token_stride` bytes. Nobody else uses
/// the buffer's range.
pub(crate) unsafe fn gather(
    from: *const u8,
    (rows, row_stride): (usize, usize),
    (tokens, token_stride): (usize, usize),
    token_bytes: usize,
    into: &Buffer,
    offset: usize,
) -> u64 {
    let (per_row, run_bytes) =
        if token_stride == token_bytes { (1, tokens * token_bytes) } else { (tokens, token_bytes) };
    let mut source_runs =
        (0..rows).flat_map(|row| (0..per_row).map(move |token| row * row_stride + token * token_stride));
    let mut sum = Checksum::new();
    let (mut source, mut source_left) = (from, 0);
    for (start, bytes) in into.runs(offset, rows * tokens * token_bytes) {
        let mut filled = 0;
        while filled < bytes {
            if source_left == 0 {
                let Some(at) = source_runs.next() else { break };
                // SAFETY: the caller vouches for every run of the source.
                source = unsafe { from.add(at) };
                source_left = run_bytes;
            }
            let step = source_left.min(bytes - filled);
            // SAFETY: `step` bytes are left of the source's run and of the buffer's; the buffer is the store's own memory.
            unsafe {
                copy_nonoverlapping(source, start.as_ptr().add(filled), step);
                source = source.add(step);
            }
            source_left -= step;
            filled += step;
        }
        // SAFETY: just filled, and nobody else writes it.
        sum.update(unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) });
    }
    sum.finish()
}

/// Copies `bytes` from `from` to `offset` of `into` and gives their XXH3-64.
///
/// # Safety
/// As [`gather`].
pub(crate) unsafe fn copy_in(from: *const u8, bytes: usize, into: &Buffer, offset: usize) -> u64 {
    /// Copied and hashed at a time, so that the hash reads from the cache.
    const STEP_BYTES: usize = 256 << 10;
    let mut sum = Checksum::new();
    let mut done = 0;
    while done < bytes {
        let step = STEP_BYTES.min(bytes - done);
        for (start, length) in into.runs(offset + done, step) {
            // SAFETY: the caller vouches for the source and the buffer's range.
            let copied = unsafe {
                copy_nonoverlapping(from.add(done), start.as_ptr(), length);
                std::slice::from_raw_parts(start.as_ptr(), length)
            };
            sum.update(copied);
            done += length;
        }
    }
    sum.finish()
}

/// Copies `bytes` at `offset` of `from` to `to`.
///
/// # Safety
/// `to` is writable for `bytes` and not the buffer's memory; nobody writes the buffer.
pub(crate) unsafe fn scatter(from: &Buffer, offset: usize, to: *mut u8, bytes: usize) {
    let mut done = 0;
    for (start, length) in from.runs(offset, bytes) {
        // SAFETY: the runs add up to `bytes`, for which the caller vouches.
        unsafe { copy_nonoverlapping(start.as_ptr(), to.add(done), length) };
        done += length;
    }
}

/// A thread's memory for bytes that are on their way elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Scratch(Vec<u8>);

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch(Vec::new())) };
}

impl Scratch {
    /// Scratch larger than this is given back after use.
    const KEPT_BYTES: usize = 8 << 20;

    /// Runs `work` with `bytes` of this thread's scratch.
    pub(crate) fn with<R>(bytes: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.0.len() < bytes {
                scratch.0.resize(bytes, 0);
            }
            let result = work(&mut scratch.0[..bytes]);
            if scratch.0.len() > Self::KEPT_BYTES {
                scratch.0 = Vec::new();
            }
            result
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::store::memory::BufferPool;

    proptest! {
        #[test]
        fn gathers_what_lies_at_the_strides(
            rows in 1usize..5, tokens in 1usize..300, token_bytes in 1usize..70, row_gap in 0usize..9, token_gap in 0usize..3,
            offset in 0usize..5000,
        ) {
            let token_stride = token_bytes + token_gap;
            let row_stride = tokens * token_stride + row_gap;
            let source: Vec<u8> = (0..rows * row_stride).map(|i| (i * 31).to_le_bytes()[0]).collect();
            let expected: Vec<u8> = (0..rows)
                .flat_map(|row| (0..tokens).map(move |token| row * row_stride + token * token_stride))
                .flat_map(|at| source[at..at + token_bytes].to_vec())
                .collect();
            let buffer = Arc::new(BufferPool::default()).take(offset + expected.len()).unwrap();
            // SAFETY: the source has all rows and tokens; the buffer is the test's.
            let sum = unsafe { gather(source.as_ptr(), (rows, row_stride), (tokens, token_stride), token_bytes, &buffer, offset) };
            prop_assert_eq!(sum, crate::store::disk::checksum(&expected));
            let mut back = vec![0; expected.len()];
            // SAFETY: `back` is as long as asked.
            unsafe { scatter(&buffer, offset, back.as_mut_ptr(), back.len()) };
            prop_assert_eq!(back, expected);
        }
    }
}

//! Encoded parts: out of strided arrays into buffers, and back.
//!
//! A codec wants its bytes in one run. Nearly every part lies in one run of its buffer and needs no other memory; one that
//! lies across two goes through the thread's scratch.
#![expect(unsafe_code, reason = "follows the callers' pointers")]

use std::ops::Range;

use crate::quant::{Codec, Malformed, Strides};
use crate::store::disk::checksum;

use super::{Buffer, Scratch, copy_in};

/// Encodes `tokens` tokens of a strided array to `offset` of `into`, where `most_bytes` are for it. Gives the bytes
/// written and their XXH3-64, taken while they are in the cache.
///
/// # Safety
/// All of the source is readable. Nobody else uses the buffer's range.
pub(crate) unsafe fn encode(
    codec: &Codec,
    (from, strides): (*const u8, Strides),
    tokens: usize,
    into: &Buffer,
    (offset, most_bytes): (usize, usize),
) -> (usize, u64) {
    if let Some(start) = into.run(offset, most_bytes) {
        // SAFETY: the caller vouches for the source and the buffer's range, which is one run.
        let (bytes, written) = unsafe {
            let own = std::slice::from_raw_parts_mut(start.as_ptr(), most_bytes);
            (codec.encode(from, strides, tokens, own), &*own)
        };
        return (bytes, checksum(&written[..bytes]));
    }
    Scratch::with(most_bytes, |scratch| {
        // SAFETY: as above; the scratch is this thread's.
        unsafe {
            let bytes = codec.encode(from, strides, tokens, scratch);
            (bytes, copy_in(scratch.as_ptr(), bytes, into, offset))
        }
    })
}

/// Decodes tokens `wanted` of a run of `tokens` whose bytes lie at `range` of `from`; the first of them goes to `to`.
///
/// # Safety
/// All of the target is writable and none of it the buffer's memory; nobody writes the buffer.
pub(crate) unsafe fn decode(
    codec: &Codec,
    (from, range): (&Buffer, Range<usize>),
    (tokens, wanted): (usize, Range<usize>),
    (to, strides): (*mut u8, Strides),
) -> Result<(), Malformed> {
    if let Some(start) = from.run(range.start, range.len()) {
        // SAFETY: filled and not written any more.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), range.len()) };
        // SAFETY: the caller vouches for the target.
        return unsafe { codec.decode(bytes, tokens, wanted, to, strides) };
    }
    Scratch::with(range.len(), |scratch| {
        // SAFETY: as above; the scratch is this thread's.
        unsafe {
            super::scatter(from, range.start, scratch.as_mut_ptr(), range.len());
            codec.decode(scratch, tokens, wanted, to, strides)
        }
    })
}

/// Moves `bytes` of a buffer from one offset to a lower one.
///
/// # Safety
/// Nobody else uses the buffer from `to` on.
pub(crate) unsafe fn move_down(buffer: &Buffer, from: usize, to: usize, bytes: usize) {
    if from == to {
        return;
    }
    let mut sources = buffer.runs(from, bytes);
    let (mut source, mut left) = (std::ptr::dangling::<u8>(), 0);
    for (start, length) in buffer.runs(to, bytes) {
        let mut moved = 0;
        while moved < length {
            if left == 0 {
                let Some((next, length)) = sources.next() else { return };
                (source, left) = (next.as_ptr().cast_const(), length);
            }
            let step = left.min(length - moved);
            // SAFETY: so much is left of both runs. They may overlap, and what is overwritten is before what is still to be
            // moved.
            unsafe {
                std::ptr::copy(source, start.as_ptr().add(moved), step);
                source = source.add(step);
            }
            left -= step;
            moved += step;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::store::memory::{BufferPool, scatter};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_is_moved_down_is_the_same(
            total in 1usize..(5 << 20), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(),
            c in any::<prop::sample::Index>(),
        ) {
            let buffer = Arc::new(BufferPool::default()).take(total).unwrap();
            let from = a.index(total);
            let (to, bytes) = (b.index(from + 1), c.index(total - from) + 1);
            let whole: Vec<u8> = (0..total).map(|i| (i * 31 + (i >> 8)).to_le_bytes()[0]).collect();
            let mut back = vec![0; bytes];
            // SAFETY: the buffer is the test's; `whole` and `back` are as long as asked.
            unsafe {
                copy_in(whole.as_ptr(), total, &buffer, 0);
                move_down(&buffer, from, to, bytes);
                scatter(&buffer, to, back.as_mut_ptr(), bytes);
            }
            prop_assert!(back == whole[from..from + bytes]);
        }
    }
}

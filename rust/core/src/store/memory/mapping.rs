//! Memory straight from the system, in chunks of one huge page.
//!
//! Chunks are as large as a huge page, lie on its boundary, and say so to the system: see [`crate::store::huge_pages`].
#![expect(unsafe_code, reason = "maps and unmaps memory")]

use std::ptr::NonNull;

/// Bytes of a chunk: a huge page of `x86-64` and of `AArch64` with 4 KiB pages.
pub(super) const CHUNK_BYTES: usize = 2 << 20;

/// One chunk, unmapped when dropped. Its bytes are not initialised to anything in particular.
#[derive(Debug)]
pub(super) struct Chunk {
    start: NonNull<u8>,
}

// SAFETY: the chunk owns its memory; nothing of it is tied to a thread.
unsafe impl Send for Chunk {}

impl Chunk {
    /// The first byte, on a multiple of [`CHUNK_BYTES`].
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Maps a chunk; `None` where the system has no memory.
    pub(super) fn map() -> Option<Self> {
        platform::map().map(|start| Self { start })
    }

    /// Makes the system provide the memory now, so that the first copy into it need not wait for that.
    pub(super) fn touch(&self) {
        const SMALLEST_PAGE_BYTES: usize = 4096;
        for offset in (0..CHUNK_BYTES).step_by(SMALLEST_PAGE_BYTES) {
            // SAFETY: within the chunk, which nobody else has while it is borrowed from its only owner.
            unsafe { self.start.add(offset).write_volatile(0) };
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and dropped once.
        unsafe { platform::unmap(self.start) };
    }
}

#[cfg(unix)]
mod platform {
    use std::ptr::{NonNull, null_mut};

    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    use super::CHUNK_BYTES;
    use crate::store::huge_pages::prefer_huge_pages;

    pub(super) fn map() -> Option<NonNull<u8>> {
        // Twice the size holds an aligned chunk somewhere; the rest goes back at once.
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private mapping at an address of the system's choice touches no existing memory.
        let start = unsafe { mmap_anonymous(null_mut(), 2 * CHUNK_BYTES, protection, MapFlags::PRIVATE) }.ok()?;
        let before = start.cast::<u8>().align_offset(CHUNK_BYTES);
        let chunk = start.cast::<u8>().wrapping_add(before);
        // SAFETY: both ranges lie in the mapping just made and outside the chunk, page-aligned, used by nobody. A failure
        // to give them back only wastes addresses.
        unsafe {
            if before > 0 {
                let _ = munmap(start, before);
            }
            if before < CHUNK_BYTES {
                let _ = munmap(chunk.wrapping_add(CHUNK_BYTES).cast(), CHUNK_BYTES - before);
            }
        }
        prefer_huge_pages(chunk, CHUNK_BYTES);
        NonNull::new(chunk)
    }

    pub(super) unsafe fn unmap(start: NonNull<u8>) {
        // SAFETY: the caller gives a chunk that `map` made and nobody uses any more.
        let _ = unsafe { munmap(start.as_ptr().cast(), CHUNK_BYTES) };
    }
}

#[cfg(not(unix))]
mod platform {
    use std::alloc::{Layout, alloc, dealloc};
    use std::ptr::NonNull;

    use super::CHUNK_BYTES;

    const LAYOUT: Layout = match Layout::from_size_align(CHUNK_BYTES, CHUNK_BYTES) {
        Ok(layout) => layout,
        Err(_) => panic!("a chunk is a power of two"),
    };

    pub(super) fn map() -> Option<NonNull<u8>> {
        // SAFETY: the layout's size is not zero.
        NonNull::new(unsafe { alloc(LAYOUT) })
    }

    pub(super) unsafe fn unmap(start: NonNull<u8>) {
        // SAFETY: the caller gives a chunk that `map` made with this layout.
        unsafe { dealloc(start.as_ptr(), LAYOUT) };
    }
}

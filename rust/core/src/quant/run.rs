//! A run's vectors in the caller's memory. The one place where a codec follows the caller's addresses.

#![expect(unsafe_code, reason = "follows the caller's addresses")]

use super::codec::Strides;

/// The vectors to encode.
#[derive(Clone, Copy)]
pub(super) struct Source {
    ptr: *const u8,
    strides: Strides,
    vector_bytes: usize,
}

impl Source {
    /// # Safety
    /// `vector_bytes` bytes are readable at each row and token that [`Self::vector`] is asked for, and nobody writes
    /// them meanwhile.
    pub(super) unsafe fn new(ptr: *const u8, strides: Strides, vector_bytes: usize) -> Self {
        Self { ptr, strides, vector_bytes }
    }

    pub(super) fn rows(&self) -> usize {
        self.strides.rows
    }

    /// The bytes of one vector.
    #[inline(always)]
    pub(super) fn vector(&self, row: usize, token: usize) -> &[u8] {
        let offset = row * self.strides.row_bytes + token * self.strides.token_bytes;
        // SAFETY: `new`'s contract.
        unsafe { std::slice::from_raw_parts(self.ptr.add(offset), self.vector_bytes) }
    }
}

/// Where decoded vectors go.
pub(super) struct Target {
    ptr: *mut u8,
    strides: Strides,
    vector_bytes: usize,
}

impl Target {
    /// # Safety
    /// `vector_bytes` bytes are writable at each row and token that [`Self::vector`] is asked for, no vector overlaps
    /// another, and nobody else reads or writes them meanwhile.
    pub(super) unsafe fn new(ptr: *mut u8, strides: Strides, vector_bytes: usize) -> Self {
        Self { ptr, strides, vector_bytes }
    }

    pub(super) fn rows(&self) -> usize {
        self.strides.rows
    }

    /// The bytes of one vector.
    #[inline(always)]
    pub(super) fn vector(&mut self, row: usize, token: usize) -> &mut [u8] {
        let offset = row * self.strides.row_bytes + token * self.strides.token_bytes;
        // SAFETY: `new`'s contract; one vector at a time, for it borrows the target.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(offset), self.vector_bytes) }
    }
}

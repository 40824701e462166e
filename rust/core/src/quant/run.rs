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

/// The pieces of equal length that the vectors of a source are made of, in order.
#[derive(Clone)]
pub(super) struct Pieces<'a> {
    source: &'a Source,
    tokens: usize,
    piece_bytes: usize,
    row: usize,
    token: usize,
    at: usize,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(source: &'a Source, tokens: usize, piece_bytes: usize) -> Self {
        Self { source, tokens, piece_bytes, row: 0, token: 0, at: 0 }
    }

    /// The next one. There must be one.
    #[inline(always)]
    pub(super) fn next(&mut self) -> &'a [u8] {
        let piece = &self.source.vector(self.row, self.token)[self.at..self.at + self.piece_bytes];
        self.at += self.piece_bytes;
        if self.at == self.source.vector_bytes {
            self.at = 0;
            self.token += 1;
            if self.token == self.tokens {
                self.token = 0;
                self.row += 1;
            }
        }
        piece
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

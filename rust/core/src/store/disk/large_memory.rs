//! Large buffers whose first touch is cheap, and words seen as bytes.

use crate::store::huge_pages::prefer_huge_pages;

/// Zeroed words, in huge pages where the system has them.
pub(super) fn zeroed_words(count: usize) -> Vec<u32> {
    let mut words = vec![0_u32; count];
    prefer_huge_pages(words.as_mut_ptr().cast(), count * size_of::<u32>());
    words
}

/// Zeroed bytes, in huge pages where the system has them.
pub(super) fn zeroed_bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0_u8; count];
    prefer_huge_pages(bytes.as_mut_ptr(), bytes.len());
    bytes
}

/// Room for this many elements without touching it.
pub(super) fn with_capacity<T>(count: usize) -> Vec<T> {
    let mut elements: Vec<T> = Vec::with_capacity(count);
    prefer_huge_pages(elements.as_mut_ptr().cast(), elements.capacity() * size_of::<T>());
    elements
}

/// Words as the bytes that they are made of.
#[expect(unsafe_code, reason = "a view of words as bytes")]
pub(super) fn as_bytes(words: &mut [u32]) -> &mut [u8] {
    // SAFETY: every byte pattern is a valid u32 and u8 has no alignment, so the same memory may be seen as bytes for as
    // long as the words are borrowed.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

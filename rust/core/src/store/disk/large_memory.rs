//! Large buffers whose first touch is cheap.
//!
//! Filling fresh memory in 4 KiB pages is slower than reading a file from the page cache; huge pages are not.

const HUGE_PAGE: usize = 2 << 20;

/// Zeroed words, in huge pages where the system has them.
pub(super) fn zeroed_words(count: usize) -> Vec<u32> {
    let mut words = vec![0_u32; count];
    advise(as_bytes(&mut words));
    words
}

/// Zeroed bytes, in huge pages where the system has them.
pub(super) fn zeroed_bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0_u8; count];
    advise(&mut bytes);
    bytes
}

/// Room for this many elements without touching it.
pub(super) fn with_capacity<T>(count: usize) -> Vec<T> {
    let mut elements: Vec<T> = Vec::with_capacity(count);
    advise_range(elements.as_mut_ptr().cast(), elements.capacity() * size_of::<T>());
    elements
}

fn advise(bytes: &mut [u8]) {
    advise_range(bytes.as_mut_ptr(), bytes.len());
}

#[cfg(not(target_os = "linux"))]
fn advise_range(_: *mut u8, _: usize) {}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "madvise")]
fn advise_range(start: *mut u8, bytes: usize) {
    let skip = start.align_offset(HUGE_PAGE);
    if bytes < HUGE_PAGE || skip > bytes - HUGE_PAGE {
        return;
    }
    let inside = start.wrapping_add(skip);
    // SAFETY: the range lies in one allocation that the caller owns and begins at a page; the advice changes no byte of
    // it. That it may be refused does not matter.
    let _ = unsafe { rustix::mm::madvise(inside.cast(), bytes - skip, rustix::mm::Advice::LinuxHugepage) };
}

/// Words as the bytes that they are made of.
#[expect(unsafe_code, reason = "a view of words as bytes")]
pub(super) fn as_bytes(words: &mut [u32]) -> &mut [u8] {
    // SAFETY: every byte pattern is a valid u32 and u8 has no alignment, so the same memory may be seen as bytes for as
    // long as the words are borrowed.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

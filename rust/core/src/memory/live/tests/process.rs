//! What the system says of this process.

use crate::memory::live::ProcessFigures;
use crate::memory::live::process::{cheap_footprint_bytes, private_bytes};

#[test]
fn memory_that_is_taken_shows_in_the_footprint() {
    let before = ProcessFigures::read().footprint_bytes.expect("a reading on this system");
    // Hidden from the optimizer, which would not take what nobody reads.
    let taken = std::hint::black_box(vec![1_u8; 64 << 20]);
    let after = ProcessFigures::read().footprint_bytes.expect("a reading on this system");
    assert!(after > before + (48 << 20), "{before} and then {after}, with {} bytes more", taken.len());
    assert!(cheap_footprint_bytes().is_some_and(|bytes| bytes > 64 << 20));
    assert!(ProcessFigures::read().major_faults.is_ok());
}

#[test]
fn a_rollup_is_read_by_its_names() {
    let text = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:  900 kB\nAnonymous:   300 kB\nAnonHugePages: 7 kB\nSwap: 5 kB\n";
    assert_eq!(private_bytes(text), Some(305 * 1024));
    assert_eq!(private_bytes("Anonymous: 300 kB\n"), Some(300 * 1024));
    assert_eq!(private_bytes("Rss: 900 kB\n"), None);
    assert_eq!(private_bytes("Anonymous: many kB\n"), None);
}

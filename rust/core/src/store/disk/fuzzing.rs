//! The parsers as a fuzzer sees them: on any bytes, also behind the checksums that would turn most of them away.

use super::image::WriteDay;
use super::index_format::{self, Head, ROW};
use super::record::{self, StoreId};
use super::wire::Fields;
use super::{JournalMark, checksum_seeded, journal};

const STORE: StoreId = [5; 16];

/// A record's header: as it is, then with a length and checksum that hold.
pub fn record(bytes: &[u8]) {
    let _ = record::parse(bytes, 7);
    let mut sealed = bytes.to_vec();
    if sealed.len() < record::FIXED {
        return;
    }
    let length = u32::try_from(sealed.len()).unwrap_or(u32::MAX);
    sealed[0..4].copy_from_slice(&record::MAGIC);
    sealed[4..8].copy_from_slice(&length.to_le_bytes());
    let sum = checksum_seeded(7, &sealed[16..]);
    sealed[8..16].copy_from_slice(&sum.to_le_bytes());
    let _ = record::parse(&sealed, 7);
}

/// A journal's header, its entries, and the events of one entry.
pub fn journal(bytes: &[u8]) {
    let _ = journal::Head::parse(bytes);
    let replayed = journal::replay(bytes, &STORE, 0);
    assert!(replayed.end <= bytes.len(), "what is replayed was given");
    let _ = journal::events_from(bytes);
}

/// An index's header, and its rows with counts from the first two bytes.
pub fn index(bytes: &[u8]) {
    let _ = Head::parse(bytes);
    let Some(([blocks, snapshots], body)) = bytes.split_first_chunk() else { return };
    let blocks = usize::from(*blocks).min(body.len() / ROW);
    let counts = body[..blocks * ROW].as_chunks::<ROW>().0.iter();
    let tokens = counts.map(|row| Fields(&row[20..]).u16().map_or(0, u64::from)).sum();
    let head = Head {
        store: STORE,
        generation: 1,
        mark: JournalMark { generation: 0, offset: 64, sequence: 0 },
        blocks: blocks as u64,
        snapshots: u64::from(*snapshots),
        tokens,
        rest_bytes: (body.len() - blocks * ROW) as u64,
        next_record: 0,
        next_segment: 0,
        written: WriteDay::default(),
        table_checksum: 0,
    };
    let _ = index_format::decode_body(body, &head);
}

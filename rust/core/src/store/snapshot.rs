//! How a snapshot's arrays are told from its description: their lengths stand before it in the record's `meta`.
//!
//! `meta` = number of arrays (u32), length of each (u64), the caller's description; little-endian.

use super::transfer::SnapshotSource;

/// Payload bytes.
pub(crate) fn bytes(snapshot: &SnapshotSource) -> u64 {
    snapshot.arrays.iter().map(|array| array.bytes as u64).sum()
}

/// Whether the format can hold it.
pub(crate) fn fits(snapshot: &SnapshotSource) -> bool {
    const MOST_META_BYTES: usize = 16 << 20;
    const MOST_ARRAYS: usize = 1 << 16;
    snapshot.arrays.len() <= MOST_ARRAYS
        && snapshot.meta.len() <= MOST_META_BYTES
        && snapshot.arrays.iter().all(|array| u32::try_from(array.bytes).is_ok())
}

/// The record's `meta`.
pub(crate) fn wrap(snapshot: &SnapshotSource) -> Vec<u8> {
    let mut meta = Vec::with_capacity(4 + 8 * snapshot.arrays.len() + snapshot.meta.len());
    meta.extend_from_slice(&u32::try_from(snapshot.arrays.len()).unwrap_or(0).to_le_bytes());
    for array in &snapshot.arrays {
        meta.extend_from_slice(&(array.bytes as u64).to_le_bytes());
    }
    meta.extend_from_slice(&snapshot.meta);
    meta
}

/// The arrays' lengths and the caller's description; `None` if it is not a `meta` of ours.
pub(crate) fn unwrap(meta: &[u8]) -> Option<(Vec<u64>, &[u8])> {
    let (count, rest) = meta.split_first_chunk::<4>()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let (lengths, own) = rest.split_at_checked(count.checked_mul(8)?)?;
    let lengths = lengths.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    Some((lengths, own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::transfer::SnapshotArray;

    #[test]
    fn what_was_wrapped_comes_out() {
        let array = |bytes| SnapshotArray { ptr: std::ptr::null(), bytes };
        let source = SnapshotSource { meta: b"state".to_vec(), arrays: vec![array(7), array(0)] };
        assert_eq!(bytes(&source), 7);
        assert_eq!(unwrap(&wrap(&source)), Some((vec![7, 0], b"state".as_slice())));
        assert_eq!(unwrap(&[1, 0]), None);
        assert_eq!(unwrap(&[2, 0, 0, 0, 9]), None);
    }
}

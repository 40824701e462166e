//! Where a record's parts are in its payload. Encoded parts differ in length, so each record says it for itself.

use std::ops::Range;

use super::types::{Layout, PartEntry};

/// A record's parts, one behind the other.
#[derive(Debug)]
pub(crate) struct StoredParts {
    entries: Vec<PartEntry>,
    /// Where each begins, and where the last ends.
    offsets: Vec<u64>,
}

impl StoredParts {
    pub(crate) fn new(entries: Vec<PartEntry>) -> Self {
        let mut end = 0;
        let mut offsets = Vec::with_capacity(entries.len() + 1);
        offsets.push(end);
        offsets.extend(entries.iter().map(|entry| {
            end += u64::from(entry.stored_bytes);
            end
        }));
        Self { entries, offsets }
    }

    pub(crate) fn entries(&self) -> &[PartEntry] {
        &self.entries
    }

    /// Where a part begins in the payload.
    pub(crate) fn offset(&self, part: usize) -> u64 {
        self.offsets[part]
    }

    /// Payload bytes of parts that follow each other.
    pub(crate) fn bytes(&self, parts: Range<usize>) -> u64 {
        self.offsets[parts.end] - self.offsets[parts.start]
    }

    /// Whether they can be what a block of so many tokens holds. `tags` are those of the layout's parts.
    pub(crate) fn fit(&self, layout: &Layout, tags: &[u32], tokens: usize) -> bool {
        self.entries.len() == layout.parts.len()
            && self.entries.iter().zip(&layout.parts).zip(tags).all(|((entry, part), tag)| {
                let (bytes, most) = (u64::from(entry.stored_bytes), part.most_stored_bytes(tokens));
                entry.codec == *tag && (bytes == most || part.is_lossless() && bytes < most)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other() {
        let entry = |stored_bytes| PartEntry { stored_bytes, codec: 0, checksum: 0 };
        let parts = StoredParts::new([7, 0, u32::MAX, 5].map(entry).to_vec());
        assert_eq!([0, 1, 2, 3].map(|part| parts.offset(part)), [0, 7, 7, 7 + u64::from(u32::MAX)]);
        assert_eq!((parts.bytes(0..0), parts.bytes(1..4)), (0, u64::from(u32::MAX) + 5));
    }
}

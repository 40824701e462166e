//! What each segment file holds, to the byte, and which of them may go.

use std::collections::BTreeMap;

use crate::store::index::answers::SegmentUse;
use crate::store::index::nodes::Record;
use crate::store::types::{Location, RecordId, SegmentId};

/// One segment file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) file_bytes: u64,
    pub(super) live_bytes: u64,
    pub(super) live_records: u64,
    /// Live records that something protects from eviction.
    pub(super) protected: u64,
    /// No live record was used later.
    pub(super) newest_ms: u64,
    /// `newest_ms` may be of a record that has gone.
    pub(super) newest_stale: bool,
    /// Every record that ever came here; some have gone or moved since.
    pub(super) records: Vec<RecordId>,
}

/// All segment files, by place; records name their segment by place.
#[derive(Debug, Default)]
pub(super) struct Segments {
    places: Vec<Option<Segment>>,
    by_id: BTreeMap<SegmentId, u32>,
}

impl Segments {
    /// The place of a segment, which is made if it is not known.
    #[expect(clippy::cast_possible_truncation, reason = "segment ids are 32 bits")]
    pub(super) fn open(&mut self, id: SegmentId) -> u32 {
        if let Some(place) = self.by_id.get(&id) {
            return *place;
        }
        let segment = Segment {
            id,
            file_bytes: 0,
            live_bytes: 0,
            live_records: 0,
            protected: 0,
            newest_ms: 0,
            newest_stale: false,
            records: Vec::new(),
        };
        let place = if let Some(place) = self.places.iter().position(Option::is_none) {
            self.places[place] = Some(segment);
            place
        } else {
            self.places.push(Some(segment));
            self.places.len() - 1
        };
        self.by_id.insert(id, place as u32);
        place as u32
    }

    pub(super) fn find(&self, id: SegmentId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, place: u32) -> Option<&Segment> {
        self.places.get(place as usize).and_then(Option::as_ref)
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Segment> {
        self.places.get_mut(place as usize).and_then(Option::as_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Segment)> {
        self.by_id.values().filter_map(|place| self.get(*place).map(|segment| (*place, segment)))
    }

    pub(super) fn close(&mut self, place: u32) {
        if let Some(segment) = self.places.get_mut(place as usize).and_then(Option::take) {
            self.by_id.remove(&segment.id);
        }
    }

    /// The file reaches at least to the end of this record.
    pub(super) fn reaches(&mut self, at: &Location) -> u32 {
        let place = self.open(at.segment);
        if let Some(segment) = self.get_mut(place) {
            segment.file_bytes = segment.file_bytes.max(at.offset + at.record_bytes());
        }
        place
    }

    /// Counts a record that is now in its segment.
    pub(super) fn enter(&mut self, record: &Record) {
        if let Some(segment) = self.get_mut(record.segment) {
            segment.file_bytes = segment.file_bytes.max(record.offset + record.disk_bytes());
            segment.live_bytes += record.disk_bytes();
            segment.live_records += 1;
            segment.protected += u64::from(record.holds > 0);
            segment.newest_ms = segment.newest_ms.max(record.last_used_ms);
            segment.records.push(record.id);
        }
    }

    /// Takes a record out of the count.
    pub(super) fn leave(&mut self, record: &Record, was_protected: bool) {
        if let Some(segment) = self.get_mut(record.segment) {
            segment.live_bytes -= record.disk_bytes();
            segment.live_records -= 1;
            segment.protected -= u64::from(was_protected);
            segment.newest_stale |= record.last_used_ms >= segment.newest_ms;
            if segment.live_records == 0 {
                segment.records = Vec::new();
            }
        }
    }

    pub(super) fn touched(&mut self, place: u32, now_ms: u64) {
        if let Some(segment) = self.get_mut(place) {
            segment.newest_ms = segment.newest_ms.max(now_ms);
        }
    }

    /// Those whose last use is to be found again.
    pub(super) fn stale(&self) -> Vec<u32> {
        self.iter().filter(|(_, segment)| segment.newest_stale).map(|(place, _)| place).collect()
    }

    /// What can be dropped next: empty ones first, then by the last use of what they hold.
    pub(super) fn oldest_evictable(&self, open: &[SegmentId]) -> Option<u32> {
        self.iter()
            .filter(|(_, segment)| segment.protected == 0 && !open.contains(&segment.id))
            .min_by_key(|(_, segment)| (segment.live_records > 0, segment.newest_ms, segment.id))
            .map(|(place, _)| place)
    }

    pub(super) fn evictable_bytes(&self, open: &[SegmentId]) -> u64 {
        self.iter()
            .filter(|(_, segment)| segment.protected == 0 && !open.contains(&segment.id))
            .map(|(_, segment)| segment.file_bytes)
            .sum()
    }

    pub(super) fn uses(&self) -> Vec<SegmentUse> {
        self.iter()
            .map(|(_, segment)| SegmentUse {
                segment: segment.id,
                file_bytes: segment.file_bytes,
                live_bytes: segment.live_bytes,
                live_records: segment.live_records,
                protected_records: segment.protected,
                last_used_ms: segment.newest_ms,
            })
            .collect()
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.iter().map(|(_, segment)| segment.file_bytes).sum()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Option<Segment>>()
            + self.by_id.len() * (size_of::<SegmentId>() + size_of::<u32>()) * 2
            + self.iter().map(|(_, segment)| segment.records.capacity() * size_of::<RecordId>()).sum::<usize>()
    }
}

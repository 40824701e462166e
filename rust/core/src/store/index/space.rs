//! Room: what is evicted, what has expired, what is worth compacting.

use crate::store::index::answers::{Refusal, Removed, Room, SegmentUse};
use crate::store::index::nodes::Entry;
use crate::store::index::{Index, Open};
use crate::store::types::{Location, RecordId, SegmentId};

impl Index {
    /// Evicts until `bytes` more fit within the quota and above the free-space floor. `physical_bytes`: what the quota counts
    /// now; `free_bytes`: what the file system has free now. Goes by whole segments: those without a live record first, then
    /// by the last use of anything in them, which puts what has expired before what has not. Never one of the segments in
    /// `open`, nor one with anything protected. All or nothing: if it cannot be enough, nothing is evicted.
    ///
    /// # Errors
    /// [`Refusal::NoRoom`] or [`Refusal::FreeSpace`].
    pub fn room_for(
        &mut self,
        bytes: u64,
        physical_bytes: u64,
        free_bytes: u64,
        open: Open<'_>,
    ) -> Result<Room, Refusal> {
        let over_quota = physical_bytes.saturating_add(bytes).saturating_sub(self.limits.quota_bytes);
        let below_floor = self.limits.min_free_bytes.saturating_add(bytes).saturating_sub(free_bytes);
        let evictable = if over_quota.max(below_floor) == 0 { 0 } else { self.segments.evictable_bytes(open) };
        if over_quota > evictable {
            return Err(Refusal::NoRoom);
        }
        if below_floor > evictable {
            return Err(Refusal::FreeSpace);
        }
        let mut room = Room::default();
        while room.freed_bytes < over_quota.max(below_floor) {
            for place in self.segments.stale() {
                self.find_newest(place);
            }
            let Some(place) = self.segments.oldest_evictable(open) else { break };
            room.removed.append(self.evict_unprotected(place));
            if let Some(segment) = self.segments.get(place) {
                room.victims.push(segment.id);
                room.freed_bytes += segment.file_bytes;
            }
            self.segments.close(place);
        }
        Ok(room)
    }

    /// Removes what has not been used for longer than the TTL and is not protected, looking at so many blocks from where the
    /// last call ended. Lookups do not serve what has expired even before it is swept.
    pub fn expire(&mut self, now_ms: u64, at_most: usize) -> Removed {
        let mut removed = Removed::default();
        let Some(ttl_ms) = self.limits.ttl_ms else { return removed };
        let oldest_ms = now_ms.saturating_sub(ttl_ms);
        for _ in 0..at_most.min(self.nodes.len()) {
            self.sweep = if self.sweep + 1 < self.nodes.len() { self.sweep + 1 } else { 0 };
            let record = &self.nodes[self.sweep].record;
            if !record.is_live() {
                continue;
            }
            let place = u32::try_from(self.sweep).unwrap_or(u32::MAX);
            if record.last_used_ms < oldest_ms && record.holds == 0 {
                // What continues it is older still, and nothing protects that either.
                removed.append(self.remove_subtree(place, true));
                continue;
            }
            for snapshot in self.snapshots_of(place) {
                let record = &self.snapshots[snapshot as usize].record;
                if record.last_used_ms < oldest_ms && record.holds == 0 {
                    removed.append(self.remove_snapshot(snapshot));
                }
            }
        }
        removed
    }

    /// Segments of which less than half is live, emptiest first. Those without a live record are only to be dropped.
    #[must_use]
    pub fn compaction_candidates(&self, open: Open<'_>) -> Vec<SegmentUse> {
        let mut candidates = self.segments.uses();
        candidates.retain(|segment| {
            !open.contains(&segment.segment)
                && (segment.live_records == 0 || segment.live_bytes.saturating_mul(2) < segment.file_bytes)
        });
        candidates.sort_by_key(|segment| (segment.live_bytes, segment.segment));
        candidates
    }

    /// The records in a segment that are in the tree, as they lie in it.
    #[must_use]
    pub fn records_in(&self, segment: SegmentId) -> Vec<(RecordId, Location)> {
        let Some(place) = self.segments.find(segment) else { return Vec::new() };
        let mut records: Vec<(RecordId, Location)> = self
            .entries_in(place)
            .into_iter()
            .filter_map(|entry| {
                let record = self.record(entry);
                self.location_of(record).map(|at| (record.id, at))
            })
            .collect();
        records.sort_by_key(|(_, at)| at.offset);
        records
    }

    /// Evicts what is not protected in a segment, so that compacting it moves little: for when nothing can be evicted whole.
    pub fn thin_out(&mut self, segment: SegmentId) -> Removed {
        self.segments.find(segment).map_or_else(Removed::default, |place| self.evict_unprotected(place))
    }

    /// A segment's file has this length (its end may be dead or torn).
    pub fn segment_file_bytes(&mut self, segment: SegmentId, bytes: u64) {
        let place = self.segments.open(segment);
        if let Some(segment) = self.segments.get_mut(place) {
            segment.file_bytes = bytes;
        }
    }

    /// A segment's file is gone, after compaction or because somebody deleted it. What was still in it leaves the index.
    pub fn segment_dropped(&mut self, segment: SegmentId) -> Removed {
        let mut removed = Removed::default();
        let Some(place) = self.segments.find(segment) else { return removed };
        for entry in self.entries_in(place) {
            removed.append(self.remove(self.record(entry).id));
        }
        // What is held keeps its place until it is released, but has no bytes any more.
        let held: Vec<Entry> =
            self.detached.iter().copied().filter(|entry| self.record(*entry).segment == place).collect();
        for entry in held {
            self.record_mut(entry).forget_bytes();
        }
        self.segments.close(place);
        removed
    }

    /// All segments with what they hold.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentUse> {
        self.segments.uses()
    }

    fn evict_unprotected(&mut self, place: u32) -> Removed {
        let mut removed = Removed::default();
        for entry in self.entries_in(place) {
            let record = self.record(entry);
            // It may have gone with something before it; then its place may be another's.
            if record.is_live() && record.holds == 0 && record.segment == place && record.disk_bytes() > 0 {
                removed.append(self.remove(record.id));
            }
        }
        removed
    }

    /// The records of a segment that are in the tree.
    fn entries_in(&self, place: u32) -> Vec<Entry> {
        let Some(segment) = self.segments.get(place) else { return Vec::new() };
        let known = segment.records.iter().filter_map(|record| self.entries.get(record).copied());
        known.filter(|entry| self.record(*entry).segment == place).collect()
    }

    fn find_newest(&mut self, place: u32) {
        let newest_ms = self.entries_in(place).into_iter().map(|entry| self.record(entry).last_used_ms).max();
        if let Some(segment) = self.segments.get_mut(place) {
            segment.newest_ms = newest_ms.unwrap_or(0);
            segment.newest_stale = false;
        }
    }
}

//! The index to and from the flat rows that the disk keeps.

use std::sync::Arc;

use crate::store::disk::{BlockRow, IndexDump, NO_ROW, NamespaceRow, Recovered, SnapshotRow};
use crate::store::index::Index;
use crate::store::index::admission::WriteBudget;
use crate::store::index::answers::{Limits, Touch};
use crate::store::index::nodes::{Children, Entries, Entry, NONE, Node, Record, Seeded, Snapshot, State};
use crate::store::index::tokens::TokenArena;
use crate::store::types::{Attach, Location, RecordId, SegmentId};

/// The segment of the row before, which most rows share.
type LastSegment = Option<(SegmentId, u32)>;

impl Index {
    /// The index of a store just opened. Gives the records too that it could not place, which is none if the rows are as
    /// recovery promises; they are to be journalled as removed.
    #[must_use]
    pub fn load(recovered: Recovered, limits: Limits, now_ms: u64) -> (Self, Vec<RecordId>) {
        let Recovered { image, parent_rows, snapshot_rows, segments, .. } = recovered;
        let mut index = Self::new(limits);
        let mut dropped = Vec::new();
        index.next_record = image.next_record;
        index.budget = WriteBudget { written: image.written };
        if let Some(rest) = index.evicted.read(&image.extra) {
            index.offered.read(rest);
        }
        for segment in &segments {
            index.segment_file_bytes(segment.id, segment.bytes);
        }
        let namespaces: Vec<u32> =
            image.namespaces.into_iter().map(|row| index.namespaces.add(row.key, &row.label, row.layout)).collect();
        index.tokens = TokenArena::load(image.tokens);
        index.nodes = Vec::with_capacity(image.blocks.len());
        index.children = Children::with_capacity_and_hasher(image.blocks.len(), Seeded::default());
        let entries = image.blocks.len() + image.snapshots.len();
        index.entries = Entries::with_capacity_and_hasher(entries, Seeded::default());
        index.snapshots = Vec::with_capacity(image.snapshots.len());

        let mut last = None;
        let mut pinned = Vec::new();
        // Each first token is a miss of the cache somewhere in 100 MB. Fetched in a loop of their own, many are under way at
        // once.
        let firsts: Vec<Option<u32>> = image.blocks.iter().map(|row| index.tokens.first(row.tokens)).collect();
        for ((row, parent_row), first) in image.blocks.iter().zip(&parent_rows).zip(firsts) {
            if !index.load_block(row, *parent_row, first, &namespaces, now_ms, &mut last) {
                dropped.push(row.id);
            } else if row.pinned {
                pinned.push(row.id);
            }
        }
        for (row, node) in image.snapshots.into_iter().zip(&snapshot_rows) {
            let (id, is_pinned) = (row.id, row.pinned);
            if !index.load_snapshot(row, *node, now_ms, &mut last) {
                dropped.push(id);
            } else if is_pinned {
                pinned.push(id);
            }
        }
        index.tokens.drop_unused();
        index.raise_ancestors();
        index.count_loaded();
        for record in pinned {
            index.pin_record(record);
        }
        (index, dropped)
    }

    /// Puts a block at the place that is its row's number, so that its children's rows find it without a lookup. A row that
    /// does not fit leaves its place vacant.
    fn load_block(
        &mut self,
        row: &BlockRow,
        parent_row: u32,
        first_token: Option<u32>,
        namespaces: &[u32],
        now_ms: u64,
        last: &mut LastSegment,
    ) -> bool {
        let place = u32::try_from(self.nodes.len()).unwrap_or(NONE);
        self.nodes.push(Node::vacant());
        let namespace = namespaces.get(row.namespace as usize).copied();
        let fits = match (row.attach, self.nodes.get(parent_row as usize)) {
            (None, _) => parent_row == NO_ROW && row.start == 0,
            (Some(attach), Some(parent)) => {
                parent.record.is_live()
                    && parent.record.id == attach.parent
                    && Some(parent.namespace) == namespace
                    && (1..=parent.tokens.count).contains(&attach.parent_tokens)
                    && parent.start + u32::from(attach.parent_tokens) == row.start
            }
            (Some(_), None) => false,
        };
        let (Some(namespace), Some(first_token), true) = (namespace, first_token, fits) else {
            self.vacant_nodes.push(place);
            return false;
        };
        self.tokens.adopt(row.tokens, place);
        self.next_record = self.next_record.max(row.id.0.saturating_add(1));
        let node = Node {
            record: self.loaded_record(row.id, &row.at, row.last_used_ms.min(now_ms), row.reused, last),
            attach_chain: row.attach_chain,
            tokens: row.tokens,
            start: row.start,
            parent: if row.attach.is_some() { parent_row } else { NONE },
            namespace,
            parent_tokens: row.attach.map_or(0, |attach| attach.parent_tokens),
            ..Node::vacant()
        };
        self.nodes[place as usize] = node;
        let key = node.child_key(first_token);
        if let Some(first) = self.children.get(&key).copied() {
            self.has_twins = true;
            self.nodes[place as usize].twin = std::mem::replace(&mut self.nodes[first as usize].twin, place);
        } else {
            self.children.insert(key, place);
        }
        self.link_sibling(place);
        self.entries.insert(row.id, Entry::Block(place));
        true
    }

    fn load_snapshot(&mut self, row: SnapshotRow, node: u32, now_ms: u64, last: &mut LastSegment) -> bool {
        let fits = self.nodes.get(node as usize).is_some_and(|node| {
            node.record.is_live()
                && node.record.id == row.attach.parent
                && (1..=node.tokens.count).contains(&row.attach.parent_tokens)
        });
        if !fits {
            return false;
        }
        self.next_record = self.next_record.max(row.id.0.saturating_add(1));
        let snapshot = Snapshot {
            record: self.loaded_record(row.id, &row.at, row.last_used_ms.min(now_ms), row.reused, last),
            attach_chain: row.attach_chain,
            meta: row.meta,
            node,
            next: self.nodes[node as usize].first_snapshot,
            tokens: row.attach.parent_tokens,
        };
        let place = self.snapshot_place(snapshot);
        self.nodes[node as usize].first_snapshot = place;
        self.entries.insert(row.id, Entry::Snapshot(place));
        true
    }

    fn loaded_record(
        &mut self,
        id: RecordId,
        at: &Location,
        last_used_ms: u64,
        reused: bool,
        last: &mut LastSegment,
    ) -> Record {
        let segment = match *last {
            Some((segment, place)) if segment == at.segment => place,
            _ => self.segments.open(at.segment),
        };
        *last = Some((at.segment, segment));
        Record {
            offset: at.offset,
            payload_bytes: at.payload_bytes,
            header_bytes: at.header_bytes,
            segment,
            state: State::Disk,
            reused,
            ..Record::new(id, last_used_ms)
        }
    }

    /// Only the deepest block of a used prefix is journalled: its ancestors were used with it.
    fn raise_ancestors(&mut self) {
        for snapshot in &self.snapshots {
            let node = &mut self.nodes[snapshot.node as usize].record;
            node.last_used_ms = node.last_used_ms.max(snapshot.record.last_used_ms);
            node.reused |= snapshot.record.reused;
        }
        // A parent's row comes before its children's.
        for place in (0..self.nodes.len()).rev() {
            let Node { record, parent, .. } = self.nodes[place];
            if record.is_live()
                && let Some(parent) = self.nodes.get_mut(parent as usize)
            {
                parent.record.last_used_ms = parent.record.last_used_ms.max(record.last_used_ms);
                parent.record.reused |= record.reused;
            }
        }
    }

    fn count_loaded(&mut self) {
        for node in self.nodes.iter().filter(|node| node.record.is_live()) {
            self.segments.enter(&node.record);
            if let Some(namespace) = self.namespaces.get_mut(node.namespace) {
                namespace.blocks += 1;
                namespace.tokens += u64::from(node.tokens.count);
                namespace.disk_bytes += node.record.disk_bytes();
                namespace.last_used_ms = namespace.last_used_ms.max(node.record.last_used_ms);
            }
        }
        for snapshot in &self.snapshots {
            self.segments.enter(&snapshot.record);
            if let Some(namespace) = self.namespaces.get_mut(self.nodes[snapshot.node as usize].namespace) {
                namespace.snapshots += 1;
                namespace.disk_bytes += snapshot.record.disk_bytes();
            }
        }
    }

    /// All that is committed, to be written to disk. Token chunks are shared, not copied.
    pub fn dump(&mut self) -> IndexDump {
        let mut namespace_rows = Vec::new();
        let mut namespaces = Vec::new();
        for (place, namespace) in self.namespaces.iter() {
            let place = place as usize;
            namespace_rows.resize(namespace_rows.len().max(place + 1), 0);
            namespace_rows[place] = u32::try_from(namespaces.len()).unwrap_or(NO_ROW);
            namespaces.push(NamespaceRow {
                key: namespace.key,
                layout: (*namespace.layout).clone(),
                label: namespace.label.clone(),
            });
        }
        let mut places: Vec<usize> = (0..self.nodes.len())
            .filter(|place| self.nodes[*place].record.is_live() && self.nodes[*place].record.state == State::Disk)
            .collect();
        places.sort_by_key(|place| self.nodes[*place].record.id);
        // Parents are committed before their children. Were one not, its children could not be found again.
        let mut written = vec![false; self.nodes.len()];
        let mut blocks = Vec::with_capacity(places.len());
        for place in places {
            let node = &self.nodes[place];
            let reachable = node.parent == NONE || written[node.parent as usize];
            let (Some(at), true) = (self.location_of(&node.record), reachable) else { continue };
            written[place] = true;
            blocks.push(BlockRow {
                id: node.record.id,
                attach: self.attach_of(node),
                namespace: namespace_rows[node.namespace as usize],
                start: node.start,
                tokens: node.tokens,
                attach_chain: node.attach_chain,
                at,
                last_used_ms: node.record.last_used_ms,
                pinned: self.pinned.contains(&node.record.id),
                reused: node.record.reused,
            });
        }
        let snapshots = self
            .snapshots
            .iter()
            .filter(|snapshot| snapshot.record.is_live() && written[snapshot.node as usize])
            .filter_map(|snapshot| {
                Some(SnapshotRow {
                    id: snapshot.record.id,
                    attach: Attach {
                        parent: self.nodes[snapshot.node as usize].record.id,
                        parent_tokens: snapshot.tokens,
                    },
                    attach_chain: snapshot.attach_chain,
                    at: self.location_of(&snapshot.record)?,
                    last_used_ms: snapshot.record.last_used_ms,
                    pinned: self.pinned.contains(&snapshot.record.id),
                    reused: snapshot.record.reused,
                    meta: Arc::clone(&snapshot.meta),
                })
            })
            .collect();
        let mut extra = Vec::new();
        self.evicted.write(&mut extra);
        self.offered.write(&mut extra);
        IndexDump {
            namespaces,
            blocks,
            snapshots,
            tokens: self.tokens.share(),
            next_record: self.next_record,
            written: self.budget.written,
            extra,
        }
    }

    /// The uses since the last call that are to be journalled.
    pub fn drain_touches(&mut self) -> Vec<Touch> {
        let touches = self.touches.drain();
        touches.map(|(record, (last_used_ms, reused))| Touch { record, last_used_ms, reused }).collect()
    }
}

//! The way down the tree: the longest stored prefix, and what of a prompt is still to be saved.

use std::ops::Range;

use crate::store::index::Index;
use crate::store::index::answers::{
    Continues, Lookup, MissReason, NodeId, Refusal, Run, SavePlan, SnapshotHit, SnapshotId, Step,
};
use crate::store::index::nodes::{ChildKey, Entry, NONE, State};
use crate::store::types::{BLOCK_TOKENS, NamespaceKey, root_chain};

/// A way down: the nodes, each with how many of its tokens belong to the prefix.
#[derive(Clone, Debug, Default)]
pub(super) struct Walk {
    pub(super) path: Vec<(u32, u16)>,
    pub(super) tokens: usize,
}

impl Index {
    /// The longest stored prefix of `tokens`, at most `limit` of them, that can be served now. Counts as a use of it; holds
    /// nothing. `label` names the model apart from its identity, for the reason of a miss.
    pub fn lookup(&mut self, key: &NamespaceKey, label: &str, tokens: &[u32], limit: usize, now_ms: u64) -> Lookup {
        let limit = limit.min(tokens.len());
        let oldest_ms = self.limits.ttl_ms.map_or(0, |ttl_ms| now_ms.saturating_sub(ttl_ms));
        let Some(namespace) = self.namespaces.find(key) else {
            let stopped = (limit > 0).then(|| self.miss_at_root(key, label, tokens[0]));
            return Lookup { stopped, ..Lookup::default() };
        };
        let walk = self.walk(namespace, &tokens[..limit], Some(oldest_ms));
        let snapshot = self.best_snapshot(&walk.path, oldest_ms).map(|(place, position)| {
            let record = &self.snapshots[place as usize].record;
            let at = self.location_of(record);
            SnapshotHit { snapshot: SnapshotId(place), record: record.id, position, at }
        });
        let needs_snapshot = self.namespaces.get(namespace).is_some_and(|namespace| namespace.layout.needs_snapshot);
        let restorable_tokens =
            if needs_snapshot { snapshot.map_or(0, |snapshot| snapshot.position) } else { walk.tokens };
        let stopped = if restorable_tokens >= limit {
            None
        } else if restorable_tokens < walk.tokens {
            Some(MissReason::NoSnapshot)
        } else if walk.tokens == 0 {
            Some(self.miss_at_root(key, label, tokens[0]))
        } else {
            let next = tokens[walk.tokens];
            Some(if self.was_evicted_behind(&walk, next) { MissReason::Evicted } else { MissReason::NoPrefix })
        };
        self.touch(&walk.path, now_ms, true);
        if let Some(hit) = snapshot {
            self.touch_snapshot(hit.snapshot.0, now_ms);
        }
        let path = walk.path.iter().map(|&(place, used)| self.step(place, used)).collect();
        Lookup { path, matched_tokens: walk.tokens, snapshot, restorable_tokens, stopped }
    }

    /// How many leading tokens are stored and can be served. Uses nothing.
    #[must_use]
    pub fn stored_prefix(&self, key: &NamespaceKey, tokens: &[u32]) -> usize {
        self.namespaces.find(key).map_or(0, |namespace| self.walk(namespace, tokens, Some(0)).tokens)
    }

    /// What of a prompt is to be saved. `have`: the tokens that the caller's arrays cover; those behind it are left out.
    /// Counts as a use of what is stored. What is being stored by another save counts as stored.
    ///
    /// # Errors
    /// [`Refusal::SourceIncomplete`] if less than `have.start` tokens are stored, [`Refusal::Stale`] if the namespace is not
    /// open.
    pub fn plan_save(
        &mut self,
        key: &NamespaceKey,
        tokens: &[u32],
        have: Range<usize>,
        now_ms: u64,
    ) -> Result<SavePlan, Refusal> {
        let namespace = self.namespaces.find(key).ok_or(Refusal::Stale)?;
        // Positions are 32 bits.
        let end = have.end.min(tokens.len()).min(u32::MAX as usize / 2);
        let walk = self.walk(namespace, &tokens[..end], None);
        if walk.tokens < have.start && walk.tokens < end {
            return Err(Refusal::SourceIncomplete);
        }
        self.touch(&walk.path, now_ms, false);
        let last = walk.path.last().copied();
        let mut runs = Vec::with_capacity((end - walk.tokens) / BLOCK_TOKENS + 2);
        let mut start = walk.tokens;
        while start < end {
            let stop = end.min((start / BLOCK_TOKENS + 1) * BLOCK_TOKENS);
            runs.push(Run { start, tokens: stop - start });
            start = stop;
        }
        Ok(SavePlan {
            stored_tokens: walk.tokens,
            attach: last.map(|(place, used)| Continues { node: NodeId(place), tokens: used }),
            runs,
            new_tokens: end - walk.tokens,
            has_snapshot: walk.tokens == end
                && last.is_some_and(|(place, used)| self.snapshot_exactly_at(place, used).is_some()),
        })
    }

    /// Goes down as far as the tokens are stored; with `served`, only as far as what was used since then can be served.
    pub(super) fn walk(&self, namespace: u32, tokens: &[u32], served: Option<u64>) -> Walk {
        let mut walk = Walk { path: Vec::with_capacity(tokens.len() / BLOCK_TOKENS + 2), tokens: 0 };
        let Some(first) = tokens.first() else { return walk };
        let mut best = None::<Walk>;
        let mut twins = Vec::new();
        let mut next = self.children.get(&ChildKey::at_root(namespace, *first)).copied();
        loop {
            while let Some(place) = next.take() {
                let node = &self.nodes[place as usize];
                if node.twin != NONE {
                    twins.push((node.twin, walk.path.len(), walk.tokens));
                }
                if served.is_some_and(|oldest_ms| !node.record.is_served(oldest_ms)) {
                    break;
                }
                let used = common_prefix(self.tokens.get(node.tokens), &tokens[walk.tokens..]);
                walk.path.push((place, used));
                walk.tokens += usize::from(used);
                if let Some(token) = tokens.get(walk.tokens) {
                    next = self.child(place, used, *token);
                }
            }
            // Without twins, which is nearly always, this is the end.
            let Some((twin, depth, position)) = twins.pop() else { break };
            if best.as_ref().is_none_or(|best| best.tokens < walk.tokens) {
                best = Some(walk.clone());
            }
            walk.path.truncate(depth);
            walk.tokens = position;
            next = Some(twin);
        }
        match best {
            Some(best) if best.tokens >= walk.tokens => best,
            _ => walk,
        }
    }

    /// The child behind so many tokens of a block that begins with this token.
    fn child(&self, place: u32, tokens: u16, first: u32) -> Option<u32> {
        // Prompts mostly go on where they went on last, and what was saved together lies together: then the child is next
        // in memory, and a probe would be a miss of the cache. Among twins only the table knows the first.
        let newest = self.nodes[place as usize].first_child;
        if let Some(node) = self.nodes.get(newest as usize)
            && node.parent_tokens == tokens
            && !self.has_twins
            && self.tokens.get(node.tokens)[0] == first
        {
            return Some(newest);
        }
        self.children.get(&ChildKey::of(place, tokens, first)).copied()
    }

    /// The last snapshot on a path that can be served, with its position.
    pub(super) fn best_snapshot(&self, path: &[(u32, u16)], oldest_ms: u64) -> Option<(u32, usize)> {
        path.iter().rev().find_map(|&(place, used)| {
            let node = &self.nodes[place as usize];
            let mut best = None::<(u32, u16)>;
            let mut next = node.first_snapshot;
            while next != NONE {
                let snapshot = &self.snapshots[next as usize];
                if snapshot.tokens <= used
                    && snapshot.record.is_served(oldest_ms)
                    && best.is_none_or(|(_, tokens)| tokens < snapshot.tokens)
                {
                    best = Some((next, snapshot.tokens));
                }
                next = snapshot.next;
            }
            best.map(|(snapshot, tokens)| (snapshot, node.start as usize + usize::from(tokens)))
        })
    }

    pub(super) fn snapshot_exactly_at(&self, node: u32, tokens: u16) -> Option<u32> {
        self.snapshots_of(node).into_iter().find(|snapshot| self.snapshots[*snapshot as usize].tokens == tokens)
    }

    fn step(&self, place: u32, used: u16) -> Step {
        let node = &self.nodes[place as usize];
        Step {
            node: NodeId(place),
            record: node.record.id,
            start: node.start,
            tokens: used,
            block_tokens: node.tokens.count,
            at: self.location_of(&node.record),
        }
    }

    /// All of a path is used now. Ancestors are, so that none is ever older than what continues it.
    fn touch(&mut self, path: &[(u32, u16)], now_ms: u64, reused: bool) {
        for &(place, _) in path {
            self.nodes[place as usize].record.reused |= reused;
            self.use_at(Entry::Block(place), now_ms);
        }
        if let Some((place, _)) = path.first() {
            let namespace = self.nodes[*place as usize].namespace;
            if let Some(namespace) = self.namespaces.get_mut(namespace) {
                namespace.last_used_ms = namespace.last_used_ms.max(now_ms);
            }
        }
        // What is deepest speaks for its ancestors; what is not durable is not journalled.
        let durable = path.iter().rev().find(|(place, _)| self.nodes[*place as usize].record.state == State::Disk);
        if let Some((place, _)) = durable {
            self.note_touch(Entry::Block(*place), reused);
        }
    }

    fn touch_snapshot(&mut self, place: u32, now_ms: u64) {
        self.snapshots[place as usize].record.reused = true;
        self.use_at(Entry::Snapshot(place), now_ms);
        if self.snapshots[place as usize].record.state == State::Disk {
            self.note_touch(Entry::Snapshot(place), true);
        }
    }

    fn note_touch(&mut self, entry: Entry, reused: bool) {
        let record = self.record(entry);
        let (id, last_used_ms) = (record.id, record.last_used_ms);
        let noted = self.touches.entry(id).or_insert((last_used_ms, reused));
        *noted = (last_used_ms, noted.1 || reused);
    }

    /// Sets a record's last use, and its segment's.
    pub(super) fn use_at(&mut self, entry: Entry, now_ms: u64) {
        let record = self.record_mut(entry);
        record.last_used_ms = record.last_used_ms.max(now_ms);
        let (state, segment) = (record.state, record.segment);
        if state == State::Disk {
            self.segments.touched(segment, now_ms);
        }
    }

    fn miss_at_root(&self, key: &NamespaceKey, label: &str, first: u32) -> MissReason {
        let expired = self.namespaces.find(key).is_some_and(|place| self.is_stored(ChildKey::at_root(place, first)));
        let holds_something =
            self.namespaces.find(key).and_then(|place| self.namespaces.get(place)).is_some_and(|own| own.blocks > 0);
        if expired || self.evicted.has(&root_chain(key), first) {
            MissReason::Evicted
        } else if !holds_something && self.namespaces.label_has_another_key(label, key) {
            MissReason::IdentityChanged
        } else {
            MissReason::NoPrefix
        }
    }

    fn was_evicted_behind(&self, walk: &Walk, next: u32) -> bool {
        let Some(&(place, used)) = walk.path.last() else { return false };
        let node = &self.nodes[place as usize];
        self.is_stored(ChildKey::of(place, used, next)) || self.evicted.has(&self.chain_after(node, used), next)
    }

    /// Whether there is a copied child that the walk did not enter: then it has expired.
    fn is_stored(&self, key: ChildKey) -> bool {
        let child = self.children.get(&key).map(|place| self.nodes[*place as usize].record.state);
        matches!(child, Some(State::Memory | State::Disk))
    }
}

/// How many leading tokens are the same: at most 256, since that is a block's most.
#[expect(clippy::cast_possible_truncation, reason = "a block has at most 256 tokens")]
fn common_prefix(block: &[u32], rest: &[u32]) -> u16 {
    let length = block.len().min(rest.len());
    // Whole blocks match nearly always, and comparing memory is faster than looking for a difference.
    if block[..length] == rest[..length] {
        return length as u16;
    }
    block.iter().zip(rest).take_while(|(own, other)| own == other).count() as u16
}

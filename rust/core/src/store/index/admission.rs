//! What is worth writing when little may be written, and what has gone: small sets that forget.

use crate::store::disk::WriteDay;
use crate::store::index::Index;
use crate::store::index::answers::{Refusal, SavePlan};
use crate::store::types::{Chain, NamespaceKey, root_chain};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A hit of fewer tokens than this says nothing: templates begin alike.
const REUSED_TOKENS: usize = 256;

/// Entries of a set of ghosts; 8 bytes each, taken at the first use.
const GHOSTS: usize = 32 * 1024;
/// A ghost displaces only one of its own set of so many.
const WAYS: usize = 4;

/// A bounded set of places in trees: each a prefix and the token behind it. Forgets what is oldest in each set of four.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    slots: Vec<u64>,
}

impl Ghosts {
    pub(super) fn add(&mut self, prefix: &Chain, next: u32) {
        self.add_mark(mark(prefix, next));
    }

    pub(super) fn has(&self, prefix: &Chain, next: u32) -> bool {
        let mark = mark(prefix, next);
        !self.slots.is_empty() && self.slots[set_of(mark)..][..WAYS].contains(&mark)
    }

    fn add_mark(&mut self, mark: u64) {
        if self.slots.is_empty() {
            self.slots = vec![0; GHOSTS];
        }
        let set = &mut self.slots[set_of(mark)..][..WAYS];
        let oldest = set.iter().position(|slot| *slot == mark).unwrap_or(WAYS - 1);
        set[..=oldest].rotate_right(1);
        set[0] = mark;
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>()
    }

    /// Appends the marks, oldest first: their number, then each, little-endian.
    pub(super) fn write(&self, into: &mut Vec<u8>) {
        let marks: Vec<u64> = self.slots.iter().rev().copied().filter(|mark| *mark != 0).collect();
        into.extend_from_slice(&(marks.len() as u64).to_le_bytes());
        into.extend(marks.iter().flat_map(|mark| mark.to_le_bytes()));
    }

    /// Reads what `write` wrote and gives the rest; `None` if it is something else.
    pub(super) fn read<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (count, rest) = bytes.split_first_chunk::<8>()?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok().filter(|count| *count <= GHOSTS)?;
        let (marks, rest) = rest.split_at_checked(count * 8)?;
        for mark in marks.as_chunks::<8>().0 {
            self.add_mark(u64::from_le_bytes(*mark));
        }
        Some(rest)
    }
}

/// 64 bits of a chain, which is a digest already, and the token. Never 0, which is an empty slot.
fn mark(prefix: &Chain, next: u32) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&prefix[..8]);
    let mixed = (u64::from_le_bytes(word) ^ u64::from(next)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 32)).max(1)
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is less than GHOSTS")]
fn set_of(mark: u64) -> usize {
    (mark % (GHOSTS / WAYS) as u64) as usize * WAYS
}

/// Bytes written today.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WriteBudget {
    pub(super) written: WriteDay,
}

impl WriteBudget {
    /// What is written on the day of `now_ms`. A clock that goes back does not give a day's budget again.
    fn today(&mut self, now_ms: u64) -> &mut u64 {
        let day = u32::try_from(now_ms / DAY_MS).unwrap_or(u32::MAX);
        if day > self.written.day {
            self.written = WriteDay { day, bytes: 0 };
        }
        &mut self.written.bytes
    }
}

impl Index {
    /// Whether a planned save of so many bytes may be written today. Below half of the daily budget all is admitted; above,
    /// only what continues a prefix that a lookup has used, or is offered a second time; at its end nothing. What is
    /// admitted is charged at once: give back with [`Index::refund`] what was not written.
    ///
    /// # Errors
    /// [`Refusal::DailyBudget`].
    pub fn admit(
        &mut self,
        key: &NamespaceKey,
        tokens: &[u32],
        plan: &SavePlan,
        bytes: u64,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        let Some(budget) = self.limits.daily_write_bytes else {
            self.charge(bytes, now_ms);
            return Ok(());
        };
        let written = *self.budget.today(now_ms);
        if written.saturating_add(bytes) > budget {
            return Err(Refusal::DailyBudget);
        }
        if written >= budget / 2 && !self.is_reused(plan) && !self.is_offered_again(key, tokens, plan) {
            return Err(Refusal::DailyBudget);
        }
        self.charge(bytes, now_ms);
        Ok(())
    }

    /// Counts bytes that are written without being asked for, such as by compaction.
    pub fn charge(&mut self, bytes: u64, now_ms: u64) {
        let today = self.budget.today(now_ms);
        *today = today.saturating_add(bytes);
    }

    /// Takes back what was charged and not written.
    pub fn refund(&mut self, bytes: u64, now_ms: u64) {
        let today = self.budget.today(now_ms);
        *today = today.saturating_sub(bytes);
    }

    /// The day last written on, and the bytes.
    #[must_use]
    pub fn written(&self) -> WriteDay {
        self.budget.written
    }

    fn is_reused(&self, plan: &SavePlan) -> bool {
        let attach = plan.attach.and_then(|at| self.place_of(at));
        plan.stored_tokens >= REUSED_TOKENS && attach.is_some_and(|node| node.record.reused)
    }

    fn is_offered_again(&mut self, key: &NamespaceKey, tokens: &[u32], plan: &SavePlan) -> bool {
        let prefix = match plan.attach {
            None => root_chain(key),
            Some(at) => match self.place_of(at) {
                Some(node) => self.chain_after(node, at.tokens),
                None => return false,
            },
        };
        // The first new block, or the end of the prefix where only a snapshot is new.
        let run = plan.runs.first().map_or(&[][..], |run| &tokens[run.start..run.start + run.tokens]);
        let chain = crate::store::types::extend_chain(&prefix, run);
        let again = self.offered.has(&chain, 0);
        self.offered.add(&chain, 0);
        again
    }
}

//! The restore path: from RAM or disk straight into the caller's arrays, on all lanes, every byte from disk verified.
//!
//! A piece of work is a range of parts of one block, about a MiB that lies together on disk; `read_block` does it.
#![expect(unsafe_code, reason = "writes through the caller's pointers")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::copy::pieces_of;
use super::disk::{Disk, DiskError, codec_tag};
use super::engine::Engine;
use super::error::StoreError;
use super::huge_pages::prefer_huge_pages;
use super::matched::{Found, Match};
use super::memory::Resident;
use super::stats::{Counters, add};
use super::transfer::{Restored, Target};
use super::types::{Layout, Location, PartLayout};
use crate::quant::Malformed;

/// How often a record that is moved while it is read is looked for again. Compaction writes all of it each time, which takes
/// far longer than a read.
pub(crate) const MOST_MOVES: usize = 8;

/// Where a record's bytes are now.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    Hot(Arc<Resident>),
    Cold(Location),
    /// Removed since the lookup.
    Gone,
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("part {0} is not what was written")]
    Checksum(usize),
    #[error("part {part} cannot be decoded: {why}")]
    Encoding { part: usize, why: Malformed },
    #[error("the header is another record's, or of another layout")]
    Header,
    #[error("it was removed")]
    Gone,
}

impl ReadError {
    pub(crate) fn into_disk(self) -> DiskError {
        match self {
            Self::Disk(error) => error,
            other => DiskError::Corrupt { what: other.to_string() },
        }
    }
}

pub(crate) struct Piece {
    pub(crate) step: usize,
    pub(crate) parts: Range<usize>,
}

/// A restore under way.
pub(crate) struct Restore<'r> {
    pub(crate) counters: &'r Counters,
    pub(crate) disk: Option<&'r Disk>,
    pub(crate) layout: &'r Layout,
    /// Of each part, what its entries in the records must say of its codec.
    pub(crate) tags: Vec<u32>,
    pub(crate) steps: &'r [Found],
    pub(crate) tokens: usize,
    pub(crate) first_part: usize,
    pub(crate) targets: &'r [Target],
    pub(crate) origins: Vec<Origin>,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) failed: Mutex<Vec<(usize, ReadError)>>,
    pub(crate) good: AtomicUsize,
    pub(crate) bytes_hot: AtomicU64,
    pub(crate) bytes_cold: AtomicU64,
}

/// Fills the targets with the parts.
///
/// # Safety
/// As [`super::Store::restore`].
pub(crate) unsafe fn restore(
    engine: &Arc<Engine>,
    found: &Match,
    parts: Range<usize>,
    targets: &[Target],
) -> Result<Restored, StoreError> {
    let tokens = found.restorable();
    let Some(layout) = found.layout().filter(|_| tokens > 0) else { return Ok(Restored::default()) };
    check(layout, tokens, &parts, targets)?;
    for (part, target) in parts.clone().zip(targets) {
        let PartLayout { rows, row_bytes, .. } = layout.parts[part];
        let last_row_bytes = (tokens - target.first_token.min(tokens)) * row_bytes as usize;
        prefer_huge_pages(target.ptr, (rows as usize).saturating_sub(1) * target.row_stride_bytes + last_row_bytes);
    }
    let disk = engine.disk();
    let mut restore = Restore {
        counters: &engine.counters,
        disk: disk.as_ref(),
        layout,
        tags: layout.parts.iter().map(codec_tag).collect(),
        steps: found.steps(),
        tokens,
        first_part: parts.start,
        targets,
        origins: origins(engine, found),
        pieces: Vec::new(),
        failed: Mutex::default(),
        good: AtomicUsize::new(tokens),
        bytes_hot: AtomicU64::new(0),
        bytes_cold: AtomicU64::new(0),
    };
    restore.divide(&parts, |_| true);
    // SAFETY: this function's contract.
    unsafe { restore.run(engine) };
    // Compaction may have moved a record between the look at its place and the read: then it is read again from where it is.
    let mut bad: BTreeMap<usize, ReadError> = BTreeMap::new();
    for moves in 0.. {
        let failed = std::mem::take(restore.failed.get_mut().unwrap_or_else(PoisonError::into_inner));
        if failed.is_empty() {
            break;
        }
        let now = origins(engine, found);
        let moved = |step: usize| {
            moves < MOST_MOVES && place(&now[step]).is_some_and(|at| place(&restore.origins[step]) != Some(at))
        };
        let (again, failed): (Vec<_>, Vec<_>) = failed.into_iter().partition(|(step, _)| moved(*step));
        bad.extend(failed);
        for (step, _) in &again {
            restore.origins[*step] = now[*step].clone();
        }
        restore.divide(&parts, |step| again.iter().any(|(moved, _)| *moved == step));
        // SAFETY: as above.
        unsafe { restore.run(engine) };
    }
    for (step, error) in bad {
        restore.good.fetch_min(restore.steps[step].step.start as usize, Ordering::Relaxed);
        let record = restore.steps[step].step.record;
        match (&restore.origins[step], restore.disk) {
            (Origin::Cold(at), Some(disk)) => {
                engine.judge(disk, record, at, &error);
            }
            (Origin::Hot(_), _) => engine.condemn(restore.disk, record, &error.to_string()),
            _ => {}
        }
    }
    Ok(restore.finish(engine))
}

fn place(origin: &Origin) -> Option<&Location> {
    match origin {
        Origin::Cold(at) => Some(at),
        Origin::Hot(_) | Origin::Gone => None,
    }
}

fn origins(engine: &Engine, found: &Match) -> Vec<Origin> {
    let mut catalog = engine.catalog();
    if catalog.generation != found.generation() {
        return vec![Origin::Gone; found.steps().len()];
    }
    found
        .steps()
        .iter()
        .map(|Found { step, .. }| match catalog.hot.get(step.record) {
            Some(resident) => Origin::Hot(resident),
            None => catalog.index.location(step.node).map_or(Origin::Gone, Origin::Cold),
        })
        .collect()
}

fn check(layout: &Layout, tokens: usize, parts: &Range<usize>, targets: &[Target]) -> Result<(), StoreError> {
    let wrong = |what: String| Err(StoreError::Target(what));
    if parts.end > layout.parts.len() || parts.len() != targets.len() {
        return wrong(format!("{} targets for parts {parts:?} of {}", targets.len(), layout.parts.len()));
    }
    for (part, target) in parts.clone().zip(targets) {
        let PartLayout { rows, row_bytes, .. } = layout.parts[part];
        if target.first_token.saturating_add(target.token_capacity) < tokens {
            let (first, capacity) = (target.first_token, target.token_capacity);
            return wrong(format!("part {part} has room for {capacity} tokens from {first}, not for {tokens}"));
        }
        let row_fits =
            target.token_capacity.checked_mul(row_bytes as usize).is_some_and(|n| n <= target.row_stride_bytes);
        if rows > 1 && !row_fits {
            return wrong(format!("the rows of part {part} overlap"));
        }
    }
    Ok(())
}

impl Restore<'_> {
    /// Divides the parts of the wanted steps into pieces of work, in the order in which they lie on disk.
    fn divide(&mut self, parts: &Range<usize>, wanted: impl Fn(usize) -> bool) {
        self.pieces.clear();
        for (number, found) in self.steps.iter().enumerate() {
            if !wanted(number) {
                continue;
            }
            let block_tokens = usize::from(found.step.block_tokens);
            let end = found.step.start as usize + found.used(self.tokens);
            // A sliding window's target begins later than the block ends.
            let useful = |part: usize| end > self.targets[part - parts.start].first_token;
            let mut next = parts.start;
            while next < parts.end {
                let first = (next..parts.end).find(|part| useful(*part)).unwrap_or(parts.end);
                let last = (first..parts.end).find(|part| !useful(*part)).unwrap_or(parts.end);
                let bytes_of = |part: usize| self.layout.parts[first + part].most_stored_bytes(block_tokens);
                let pieces = pieces_of(last - first, bytes_of);
                self.pieces
                    .extend(pieces.map(|parts| Piece { step: number, parts: first + parts.start..first + parts.end }));
                next = last;
            }
        }
    }

    /// # Safety
    /// As [`restore`].
    unsafe fn run(&self, engine: &Engine) {
        engine.lanes.run(self.pieces.len(), &|number| {
            let piece = &self.pieces[number];
            // SAFETY: each piece writes its own block's tokens in its own parts' targets.
            if let Err(error) = unsafe { self.fill(piece) } {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).push((piece.step, error));
            }
        });
    }

    fn finish(self, engine: &Engine) -> Restored {
        let counters = &engine.counters;
        let tokens = self.good.into_inner();
        let (bytes_hot, bytes_cold) = (self.bytes_hot.into_inner(), self.bytes_cold.into_inner());
        let mut read = Vec::new();
        for (found, origin) in self.steps.iter().zip(&self.origins) {
            let used = found.used(tokens) as u64;
            if used == 0 || !found.count() {
                continue;
            }
            match origin {
                Origin::Hot(_) => {
                    add(&counters.blocks_restored_hot, 1);
                    add(&counters.tokens_restored_hot, used);
                }
                Origin::Cold(at) => {
                    read.push(*at);
                    add(&counters.tokens_restored_cold, used);
                }
                Origin::Gone => {}
            }
        }
        counters.page_faults(read.len() as u64);
        engine.went_past_page_cache(read);
        add(&counters.bytes_restored_hot, bytes_hot);
        add(&counters.bytes_restored_cold, bytes_cold);
        Restored { tokens, bytes_hot, bytes_cold }
    }
}

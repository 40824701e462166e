//! Restoring a snapshot: its arrays, from RAM or disk, each verified.
#![expect(unsafe_code, reason = "writes through the caller's pointers")]

use std::io::IoSliceMut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::{Checksum, Disk};
use super::engine::Engine;
use super::error::StoreError;
use super::matched::{FoundSnapshot, Match};
use super::memory::scatter;
use super::read::{MOST_MOVES, Origin, ReadError};
use super::stats::add;
use super::transfer::SnapshotTarget;
use super::types::Location;

/// Read and hashed at a time, so that the hash reads from the cache.
const STEP_BYTES: usize = 1 << 20;

/// Fills one target for each array of the snapshot; false if it could not be read.
///
/// # Safety
/// As [`super::Store::restore_snapshot`].
pub(crate) unsafe fn restore(
    engine: &Arc<Engine>,
    found: &Match,
    targets: &[SnapshotTarget],
) -> Result<bool, StoreError> {
    let (Some(snapshot), Some(info)) = (found.found_snapshot(), found.snapshot()) else { return Ok(false) };
    let fits = info.array_bytes.len() == targets.len()
        && info.array_bytes.iter().zip(targets).all(|(bytes, target)| *bytes == target.bytes as u64);
    if !fits {
        return Err(StoreError::Target("their number or lengths are not those of the snapshot's arrays".to_owned()));
    }
    let disk = engine.disk();
    for attempt in 0.. {
        let origin = origin(engine, found, snapshot);
        // SAFETY: this function's contract.
        let read = unsafe { read(engine, disk.as_ref(), snapshot, &origin, targets) };
        match (read, &origin, disk.as_ref()) {
            (Ok(()), _, _) => return Ok(true),
            (Err(error), Origin::Cold(at), Some(disk)) => {
                let moved = !matches!(self::origin(engine, found, snapshot), Origin::Cold(now) if now == *at);
                if moved && attempt < MOST_MOVES {
                    continue; // by compaction, between the look at its place and the read
                }
                engine.judge(disk, snapshot.record, at, &error);
                return Ok(false);
            }
            (Err(_), ..) => return Ok(false),
        }
    }
    Ok(false)
}

fn origin(engine: &Engine, found: &Match, snapshot: &FoundSnapshot) -> Origin {
    let mut catalog = engine.catalog();
    if catalog.generation != found.generation() {
        return Origin::Gone;
    }
    match catalog.hot.get(snapshot.record) {
        Some(resident) => Origin::Hot(resident),
        None => catalog.index.snapshot_location(snapshot.id).map_or(Origin::Gone, Origin::Cold),
    }
}

/// # Safety
/// As [`restore`].
unsafe fn read(
    engine: &Engine,
    disk: Option<&Disk>,
    snapshot: &FoundSnapshot,
    origin: &Origin,
    targets: &[SnapshotTarget],
) -> Result<(), ReadError> {
    let mut offsets = Vec::with_capacity(targets.len());
    let mut total = 0;
    for target in targets {
        offsets.push(total);
        total += target.bytes;
    }
    match origin {
        Origin::Gone => return Err(ReadError::Gone),
        Origin::Hot(resident) => {
            engine.lanes.run(targets.len(), &|array| {
                // SAFETY: this function's contract; the lengths were compared.
                unsafe { scatter(&resident.buffer, offsets[array], targets[array].ptr, targets[array].bytes) };
            });
            add(&engine.counters.bytes_restored_hot, total as u64);
        }
        Origin::Cold(at) => {
            let disk = disk.ok_or(ReadError::Gone)?;
            let header = disk.read_header(at)?;
            let as_planned = header.info.id == snapshot.record
                && header.parts.len() == targets.len()
                && header
                    .parts
                    .iter()
                    .zip(targets)
                    .all(|(entry, target)| entry.codec == 0 && entry.stored_bytes as usize == target.bytes);
            if !as_planned {
                return Err(ReadError::Header);
            }
            let failed = AtomicBool::new(false);
            let error = Mutex::new(None);
            engine.lanes.run(targets.len(), &|array| {
                if failed.load(Ordering::Relaxed) {
                    return;
                }
                // SAFETY: this function's contract.
                let sum = unsafe { read_array(disk, at, offsets[array], targets[array]) };
                let wrong = match sum {
                    Ok(sum) if sum == header.parts[array].checksum => return,
                    Ok(_) => ReadError::Checksum(array),
                    Err(error) => error,
                };
                failed.store(true, Ordering::Relaxed);
                *error.lock().unwrap_or_else(PoisonError::into_inner) = Some(wrong);
            });
            if let Some(error) = error.into_inner().unwrap_or_else(PoisonError::into_inner) {
                return Err(error);
            }
            add(&engine.counters.bytes_restored_cold, total as u64);
        }
    }
    Ok(())
}

/// # Safety
/// The target is writable and nobody else uses it.
unsafe fn read_array(disk: &Disk, at: &Location, offset: usize, target: SnapshotTarget) -> Result<u64, ReadError> {
    let mut sum = Checksum::new();
    let mut done = 0;
    while done < target.bytes {
        let step = STEP_BYTES.min(target.bytes - done);
        // SAFETY: within the target, for which the caller vouches.
        let slice = unsafe { std::slice::from_raw_parts_mut(target.ptr.add(done), step) };
        disk.read(at, (offset + done) as u64, &mut [IoSliceMut::new(slice)])?;
        sum.update(slice);
        done += step;
    }
    Ok(sum.finish())
}

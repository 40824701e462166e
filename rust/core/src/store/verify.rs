//! Whole records read and checked, for verification and compaction.
#![expect(unsafe_code, reason = "reads into raw buffers")]

use std::io::{self, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering};

use super::disk::{Checksum, Disk, DiskError, RecordHeader};
use super::engine::Engine;
use super::error::StoreError;
use super::memory::Buffer;
use super::read::ReadError;
use super::transfer::{BadRecord, VerifyReport};
use super::types::{Location, RecordId};

/// Reads every durable record; takes bad ones out of use.
pub(crate) fn verify(engine: &Engine, stop: &AtomicBool) -> Result<VerifyReport, StoreError> {
    let segments = engine.catalog().index.segments();
    let mut report = VerifyReport::default();
    for segment in segments {
        let records = engine.catalog().index.records_in(segment.segment);
        for (id, at) in records {
            if stop.load(Ordering::Relaxed) {
                report.stopped = true;
                return Ok(report);
            }
            let disk = engine.disk();
            let disk = disk.as_ref().ok_or(StoreError::Closed)?;
            report.records += 1;
            report.bytes += at.payload_bytes;
            // Once more what the system fails to read: a second failure tells a bad record.
            for _ in 0..2 {
                let Err(error) = read_record(engine, disk, id, &at) else { break };
                if engine.judge(disk, id, &at, &error) {
                    report.bad.push(BadRecord {
                        id: id.0,
                        segment: at.segment.0,
                        offset: at.offset,
                        why: error.to_string(),
                    });
                    break;
                }
            }
        }
    }
    Ok(report)
}

/// Reads a record whole, verified, into a buffer.
pub(crate) fn read_record(
    engine: &Engine,
    disk: &Disk,
    id: RecordId,
    at: &Location,
) -> Result<(RecordHeader, Buffer), ReadError> {
    let header = disk.read_header(at)?;
    let bytes: u64 = header.parts.iter().map(|part| u64::from(part.stored_bytes)).sum();
    if header.info.id != id || bytes != at.payload_bytes {
        return Err(ReadError::Header);
    }
    let no_memory =
        || DiskError::Io { what: "memory for a record".to_owned(), source: io::ErrorKind::OutOfMemory.into() };
    let length = usize::try_from(bytes).map_err(|_| no_memory())?;
    let buffer = engine.pool.take(length).ok_or_else(no_memory)?;
    // SAFETY: the buffer is new, and these are its own runs, which do not overlap.
    let mut runs: Vec<IoSliceMut<'_>> = buffer
        .runs(0, length)
        .map(|(start, bytes)| IoSliceMut::new(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) }))
        .collect();
    disk.read(at, 0, &mut runs)?;
    drop(runs);
    let mut offset = 0;
    for (part, entry) in header.parts.iter().enumerate() {
        let mut sum = Checksum::new();
        for (start, bytes) in buffer.runs(offset, entry.stored_bytes as usize) {
            // SAFETY: filled above, and not written any more.
            sum.update(unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) });
        }
        if sum.finish() != entry.checksum {
            return Err(ReadError::Checksum(part));
        }
        offset += entry.stored_bytes as usize;
    }
    Ok((header, buffer))
}

//! System calls that fail: errors are told, nothing acknowledged is lost, and the store recovers without being reopened.

use super::corpus::{Sample, by_id, chain, check, commit, fresh, ids, namespace, open, places};
use crate::store::disk::faults::{Fault, FaultyIo, Operation};
use crate::store::disk::{Disk, DiskError, Fact};
use crate::store::types::{RecordId, SegmentId};

/// Two commits, an index between them, a dropped segment; each step is repeated until it works.
fn life(io: &FaultyIo, samples: &[Sample]) -> usize {
    let mut failed = 0;
    let mut again = |act: &mut dyn FnMut() -> Result<(), DiskError>| {
        for _ in 0..4 {
            match act() {
                Ok(()) => return,
                Err(DiskError::Io { .. }) => failed += 1,
                Err(other) => panic!("{other}"),
            }
        }
        panic!("does not recover");
    };
    let mut opened = None;
    again(&mut || open(io).map(|pair| opened = Some(pair)));
    let (disk, _) = opened.take().expect("open");
    again(&mut || disk.note(&[Fact::Namespace(namespace(1))], true));
    again(&mut || commit(&disk, &samples[..8].iter().collect::<Vec<_>>()).map(drop));
    drop(disk);
    again(&mut || open(io).map(|pair| opened = Some(pair)));
    let (disk, recovered): (Disk, _) = opened.take().expect("open");
    again(&mut || disk.write_index(&recovered.image, disk.mark()));
    again(&mut || commit(&disk, &samples[8..].iter().collect::<Vec<_>>()).map(drop));
    let first: Vec<&Sample> = {
        let at = places(&recovered);
        samples.iter().filter(|sample| at.get(&sample.info.id).is_some_and(|at| at.segment == SegmentId(0))).collect()
    };
    again(&mut || commit(&disk, &first).map(drop));
    again(&mut || match disk.drop_segment(SegmentId(0)) {
        Err(DiskError::Invalid { .. }) => Ok(()),
        other => other.map(drop),
    });
    failed
}

#[test]
fn any_one_failing_call_is_survived() {
    let samples = [chain(1, 8, 900), chain(9, 8, 900)].concat();
    for fault in [Fault::Eio, Fault::Enospc, Fault::Torn, Fault::Short] {
        let operations = match fault {
            Fault::Torn => Operation::Write,
            Fault::Short => Operation::Read,
            _ => Operation::Any,
        };
        let mut struck = 0;
        for skip in 0..200 {
            let io = FaultyIo::new();
            io.inject(operations, "", fault, skip, 1);
            struck += life(&io, &samples);
            io.heal();
            for io in [io.kill(), io.crash(skip)] {
                let (disk, recovered) = open(&io).expect("opens");
                let there = check(&disk, &recovered, &by_id(&samples));
                assert_eq!(there, ids(&samples), "{fault:?} {skip} {:?}", recovered.opened);
            }
        }
        assert!(struck > 10 || fault == Fault::Short, "{fault:?} struck {struck} times");
    }
}

#[test]
fn short_reads_and_writes_change_nothing() {
    let io = FaultyIo::new();
    io.inject(Operation::Read, "", Fault::Short, 0, u64::MAX);
    io.inject(Operation::Write, "", Fault::Short, 0, u64::MAX);
    let samples = [chain(1, 8, 900), chain(9, 8, 900)].concat();
    assert_eq!(life(&io, &samples), 0);
    let (disk, recovered) = open(&io).expect("opens");
    assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples));
}

#[test]
fn a_full_disk_is_told_apart_and_dropping_a_segment_makes_room() {
    let io = FaultyIo::new();
    let samples = [chain(1, 8, 900), chain(9, 8, 900)].concat();
    let disk = fresh(&io);
    commit(&disk, &samples[..8].iter().collect::<Vec<_>>()).expect("commits");
    let before = disk.usage();
    io.set_capacity(io.bytes());
    let full = commit(&disk, &samples[8..].iter().collect::<Vec<_>>()).expect_err("full");
    assert!(full.is_full(), "{full}");
    assert_eq!(disk.usage().segments_bytes, before.segments_bytes, "what was written was taken back");
    assert_eq!(disk.free_bytes().expect("asks"), 0);
    disk.drop_segment(SegmentId(0)).expect("drops on a full disk");
    assert!(disk.free_bytes().expect("asks") > 4096);
    commit(&disk, &[&samples[8], &samples[9]]).expect("commits");
    drop(disk);
    let (disk, recovered) = open(&io).expect("opens");
    assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples[8..10]));
}

#[test]
fn a_bit_flipped_on_the_way_to_the_disk_is_noticed() {
    for skip in 0..6 {
        let io = FaultyIo::new();
        let samples = chain(1, 4, 3000);
        let disk = fresh(&io);
        io.inject(Operation::Write, "segments/", Fault::FlipBit, skip, 1);
        for sample in &samples {
            commit(&disk, &[sample]).expect("commits");
        }
        drop(disk);
        let (disk, recovered) = open(&io).expect("opens");
        let bad: Vec<RecordId> =
            places(&recovered).iter().filter(|(_, at)| disk.verify(at).is_err()).map(|(id, _)| *id).collect();
        // A bit of padding or of the segment's own header is in no record.
        assert!(bad.len() <= 1, "{bad:?}");
        for id in &bad {
            disk.quarantine(*id, &places(&recovered)[id], "checksum");
        }
        assert_eq!(disk.usage().quarantined, bad.len() as u64);
        drop(disk);
        let (disk, recovered) = open(&io).expect("opens");
        check(&disk, &recovered, &by_id(&samples));
    }
}

#[test]
fn permission_and_read_only_are_errors_with_their_kind() {
    for (fault, kind) in [
        (Fault::ReadOnly, std::io::ErrorKind::ReadOnlyFilesystem),
        (Fault::Denied, std::io::ErrorKind::PermissionDenied),
        (Fault::Gone, std::io::ErrorKind::NotFound),
    ] {
        let io = FaultyIo::new();
        let disk = fresh(&io);
        io.inject(Operation::Any, "", fault, 0, u64::MAX);
        let refused = commit(&disk, &[&Sample::block(1, None, 4, 40)]).expect_err("fails");
        assert!(matches!(&refused, DiskError::Io { source, .. } if source.kind() == kind), "{refused}");
        io.heal();
        commit(&disk, &[&Sample::block(1, None, 4, 40)]).expect("goes on");
    }
}

//! What is committed is there again, by every way in.

use super::corpus::{SETTINGS, Sample, by_id, chain, check, commit, dump, fresh, ids, namespace, open, places, read};
use crate::quant::{Codec, Element};
use crate::store::disk::faults::FaultyIo;
use crate::store::disk::{Disk, DiskError, Fact, Opened, RealIo, WriteDay, codec_tag};
use crate::store::types::{PartLayout, RecordId, SegmentId};
use std::collections::HashSet;
use std::sync::Arc;

#[test]
fn committed_records_come_back_from_the_journal_alone() {
    let io = FaultyIo::new();
    let samples = chain(1, 12, 900);
    let disk = fresh(&io);
    let at = commit(&disk, &samples.iter().collect::<Vec<_>>()).expect("commits");
    assert!(at.last().expect("some").segment > SegmentId(0), "the corpus spans segments");
    drop(disk);
    let (disk, recovered) = open(&io).expect("opens");
    assert_eq!(recovered.opened, Opened::Indexed);
    assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples));
    assert_eq!(places(&recovered).into_values().collect::<Vec<_>>(), at);
    assert_eq!(recovered.image.namespaces, [namespace(1)]);
    assert_eq!(recovered.losses, crate::store::disk::Losses::default());
}

#[test]
fn the_index_takes_over_and_the_journal_goes_on_from_the_mark() {
    let io = FaultyIo::new();
    let samples = chain(1, 12, 900);
    let more = Sample::block(20, Some((&samples[3], 7)), 9, 300);
    let disk = fresh(&io);
    commit(&disk, &samples.iter().collect::<Vec<_>>()).expect("commits");
    drop(disk);
    let (disk, recovered) = open(&io).expect("opens");
    let mut image = dump(&recovered);
    image.extra = vec![1, 2, 3];
    image.blocks.reverse();
    let mark = disk.mark();
    commit(&disk, &[&more]).expect("commits between mark and index");
    disk.write_index(&image, mark).expect("writes");
    assert_eq!(disk.usage().index_bytes, Disk::index_bytes(&image));
    assert!(matches!(disk.write_index(&image, mark), Err(DiskError::Invalid { .. })), "an old mark");
    drop(disk);
    let (disk, recovered) = open(&io).expect("opens");
    let all = by_id(samples.iter().chain([&more]));
    assert_eq!(check(&disk, &recovered, &all), all.keys().copied().collect::<Vec<_>>());
    assert_eq!((recovered.opened, recovered.image.extra), (Opened::Indexed, vec![1, 2, 3]));
}

#[test]
fn facts_are_replayed() {
    let io = FaultyIo::new();
    let samples = chain(1, 6, 100);
    let disk = fresh(&io);
    commit(&disk, &samples.iter().collect::<Vec<_>>()).expect("commits");
    let facts = [
        Fact::Touched { ids: vec![RecordId(2)], last_used_ms: 9_000, reused: true },
        Fact::Touched { ids: vec![RecordId(2)], last_used_ms: 5, reused: false },
        Fact::Pinned(vec![RecordId(1), RecordId(2)]),
        Fact::Unpinned(vec![RecordId(1)]),
        Fact::Removed(vec![RecordId(4)]),
        Fact::Written(WriteDay { day: 20_000, bytes: 77 }),
        Fact::Namespace(namespace(2)),
        Fact::Namespace(namespace(3)),
        Fact::NamespaceForgotten(namespace(2).key),
        Fact::NamespaceForgotten(namespace(1).key),
    ];
    disk.note(&facts, true).expect("notes");
    drop(disk);
    let (disk, recovered) = open(&io).expect("opens");
    // What continues a removed block is gone with it; a namespace with records is not forgotten.
    assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples[..3]));
    let row = recovered.image.blocks[1];
    assert_eq!((row.last_used_ms, row.reused, row.pinned), (9_000, true, true));
    assert!(!recovered.image.blocks[0].pinned);
    assert_eq!(recovered.image.written, WriteDay { day: 20_000, bytes: 77 });
    assert_eq!(recovered.image.namespaces, [namespace(1), namespace(3)]);
    assert_eq!(recovered.image.next_record, 7);
    assert_eq!(recovered.losses.orphaned, 2);
}

#[test]
fn a_record_moves_when_it_is_committed_again_and_its_old_segment_goes() {
    let io = FaultyIo::new();
    let samples = chain(1, 12, 900);
    let disk = fresh(&io);
    let before = commit(&disk, &samples.iter().collect::<Vec<_>>()).expect("commits");
    let moved: Vec<&Sample> =
        samples.iter().zip(&before).filter(|(_, at)| at.segment == SegmentId(0)).map(|(sample, _)| sample).collect();
    commit(&disk, &moved).expect("commits again");
    let used = disk.usage();
    let freed = disk.drop_segment(SegmentId(0)).expect("drops");
    assert!(freed > 4096 && disk.usage().segments_bytes < used.segments_bytes);
    assert!(matches!(disk.drop_segment(SegmentId(0)), Err(DiskError::Invalid { .. })));
    drop(disk);
    let (disk, recovered) = open(&io).expect("opens");
    assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples));
}

#[test]
fn a_dropped_segment_takes_its_records_and_what_continues_them() {
    let io = FaultyIo::new();
    let samples = chain(1, 12, 900);
    let disk = fresh(&io);
    let at = commit(&disk, &samples.iter().collect::<Vec<_>>()).expect("commits");
    let second = at.iter().position(|at| at.segment > SegmentId(0)).expect("two segments");
    disk.drop_segment(at[second].segment).expect("drops");
    drop(disk);
    let (disk, recovered) = open(&io).expect("opens");
    assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples[..second]));
}

#[test]
fn reads_cover_any_range_and_nothing_else() {
    let io = FaultyIo::new();
    let sample = Sample::block(1, None, 256, 100_000);
    let disk = fresh(&io);
    let at = commit(&disk, &[&sample]).expect("commits")[0];
    assert_eq!((at.offset + u64::from(at.header_bytes)) % 4096, 0, "a large payload begins at a page");
    for (offset, count) in [(0, 100_000), (1, 4096), (99_999, 1), (100_000, 0), (33_333, 2)] {
        assert_eq!(read(&disk, &at, offset, count), sample.payload[usize::try_from(offset).expect("small")..][..count]);
    }
    let mut byte = [0];
    let past = disk.read(&at, 100_000, &mut [std::io::IoSliceMut::new(&mut byte)]);
    assert!(matches!(past, Err(DiskError::Invalid { .. })));
    let other = crate::store::types::Location { offset: at.offset + 64, ..at };
    assert!(matches!(disk.read_header(&other), Err(DiskError::Corrupt { .. })));
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let io = FaultyIo::new();
    let disk = fresh(&io);
    let good = Sample::block(5, None, 3, 30);
    let mut short = good.clone();
    short.payload.pop();
    let mut foreign = good.clone();
    foreign.info.namespace = namespace(9).key;
    let crossing = Sample::block(6, Some((&good, 2)), 255, 30);
    let mut itself = Sample::block(7, Some((&good, 2)), 2, 30);
    itself.info.attach.as_mut().expect("attached").parent = RecordId(7);
    for bad in [short, foreign, crossing, itself] {
        assert!(matches!(commit(&disk, &[&good, &bad]), Err(DiskError::Invalid { .. })), "{bad:?}");
    }
    drop(disk);
    assert!(open(&io).expect("opens").1.image.blocks.is_empty());
}

#[test]
fn usage_is_what_the_files_take() {
    let io = FaultyIo::new();
    let samples = chain(1, 30, 900);
    let disk = fresh(&io);
    let mut cost = 0;
    for sample in &samples {
        let before = disk.usage().physical_bytes();
        cost += disk.cost_bytes(&sample.new_record(&[&sample.payload]));
        commit(&disk, &[sample]).expect("commits");
        assert!(disk.usage().physical_bytes() - before <= disk.cost_bytes(&sample.new_record(&[&sample.payload])));
    }
    let physical: u64 =
        io.paths().iter().map(|path| io.contents(path).expect("there").len().next_multiple_of(4096) as u64).sum();
    assert_eq!(disk.usage().physical_bytes(), physical);
    assert!(physical <= cost + 5 * 4096);
    drop(disk);
    let (disk, _) = open(&io).expect("opens");
    assert_eq!(disk.usage().physical_bytes(), physical, "also right after start");
}

#[test]
fn the_lock_says_who_has_the_folder() {
    let io = FaultyIo::new();
    let disk = fresh(&io);
    assert!(matches!(open(&io), Err(DiskError::InUse { pid: Some(pid) }) if pid == std::process::id()));
    drop(disk);
    assert!(open(&io).is_ok());
}

#[test]
fn a_folder_of_the_system_works_like_the_simulated_one() {
    let folder = tempfile::tempdir().expect("makes");
    let io = Arc::new(RealIo::new(&folder.path().join("made/on/the/way")));
    let samples = chain(1, 12, 40_000);
    let (disk, _) = Disk::open(io.clone(), SETTINGS).expect("opens");
    assert!(matches!(Disk::open(io.clone(), SETTINGS), Err(DiskError::InUse { pid: Some(_) })));
    disk.note(&[Fact::Namespace(namespace(1))], false).expect("notes");
    let at = commit(&disk, &samples.iter().collect::<Vec<_>>()).expect("commits");
    disk.prefetch(&at[0], 0, 1 << 20);
    assert!(disk.free_bytes().expect("asks") > 0);
    disk.quarantine(RecordId(11), &at[10], "for the test");
    drop(disk);
    let (disk, recovered) = Disk::open(io.clone(), SETTINGS).expect("opens");
    assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples[..10]));
    let mark = disk.mark();
    disk.write_index(&recovered.image, mark).expect("writes");
    std::fs::remove_dir_all(folder.path()).expect("removes");
    let gone = commit(&disk, &[&samples[0]]).expect_err("the folder is gone");
    assert!(matches!(gone, DiskError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound));
}

#[test]
fn a_large_commit_is_written_and_synced_side_by_side() {
    let folder = tempfile::tempdir().expect("makes");
    let io = Arc::new(RealIo::new(folder.path()));
    let settings = crate::store::disk::DiskSettings { segment_bytes: 16 << 20 };
    let samples = chain(1, 8, 6 << 20);
    let (disk, _) = Disk::open(io.clone(), settings).expect("opens");
    disk.note(&[Fact::Namespace(namespace(1))], false).expect("notes");
    commit(&disk, &samples.iter().collect::<Vec<_>>()).expect("commits");
    drop(disk);
    let (disk, recovered) = Disk::open(io, settings).expect("opens");
    assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples));
    assert!(disk.usage().segments >= 3);
}

#[test]
fn what_goes_past_the_page_cache_arrives_like_the_rest() {
    let folder = tempfile::tempdir().expect("makes");
    let io = Arc::new(RealIo::new(folder.path()).past_page_cache(true));
    let settings = crate::store::disk::DiskSettings { segment_bytes: 64 << 20 };
    // Of pages, of pages and a bit, and too small.
    let samples = [3 << 20, (2 << 20) + 777, 100].into_iter().enumerate();
    let samples: Vec<Sample> = samples.map(|(id, bytes)| Sample::block(id as u64, None, 4, bytes)).collect();
    let (disk, _) = Disk::open(io.clone(), settings).expect("opens");
    disk.note(&[Fact::Namespace(namespace(1))], false).expect("notes");
    let mut memory = vec![0_u8; (4 << 20) + 4096];
    let page = memory.as_ptr().align_offset(4096);
    for misaligned in [0, 64] {
        for sample in &samples {
            let payload = &mut memory[page + misaligned..][..sample.payload.len()];
            payload.copy_from_slice(&sample.payload);
            disk.commit(&[sample.new_record(&[payload])]).expect("commits");
        }
        let (first, second) = samples[0].payload.split_at(1 << 20);
        disk.commit(&[samples[0].new_record(&[first, second])]).expect("commits in pieces");
    }
    drop(disk);
    for cached in [true, false] {
        if !cached {
            forget(&folder.path().join("segments"));
        }
        let (disk, recovered) = Disk::open(io.clone(), settings).expect("opens");
        assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples));
        let block = &recovered.image.blocks[0];
        for skip in [0, 1, 4096, 700_001] {
            let mut read = vec![0; samples[0].payload.len() - skip];
            let (first, second) = read.split_at_mut(999_999);
            let mut slices = [std::io::IoSliceMut::new(first), std::io::IoSliceMut::new(second)];
            disk.read(&block.at, skip as u64, &mut slices).expect("reads");
            assert!(read == samples[0].payload[skip..]);
        }
    }
}

/// Has the system drop a folder's files from the page cache, where it can be told to.
fn forget(folder: &std::path::Path) {
    for entry in std::fs::read_dir(folder).expect("lists") {
        let file = std::fs::File::open(entry.expect("lists").path()).expect("opens");
        file.sync_all().expect("syncs");
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advises");
    }
}

#[test]
fn a_codec_s_tag_tells_it_from_every_other() {
    let codec = |scheme, element, width| Codec::parse(scheme, element, width).expect("fits");
    let parts = [
        PartLayout::plain(2, 256),
        PartLayout::encoded(2, codec("affine:4:64", Element::Bfloat16, 128)),
        PartLayout::encoded(2, codec("affine:4:64", Element::Float16, 128)),
        PartLayout::encoded(1, codec("affine:4:64", Element::Bfloat16, 256)),
        PartLayout::encoded(2, codec("affine:4:32", Element::Bfloat16, 128)),
        PartLayout::encoded(2, codec("channel:4:64", Element::Bfloat16, 128)),
        PartLayout::encoded(2, codec("lossless", Element::Bfloat16, 128)),
    ];
    let tags: HashSet<u32> = parts.iter().map(codec_tag).collect();
    assert_eq!((tags.len(), codec_tag(&parts[0])), (parts.len(), 0));
    // It is written: another one would make what is stored unreadable.
    assert_eq!(codec_tag(&parts[1]), 2_799_029_387);
}

//! Files changed behind the store's back, and folders that are not its own.

use super::corpus::{Sample, by_id, chain, check, commit, fresh, ids, namespace, open, places};
use crate::store::disk::faults::FaultyIo;
use crate::store::disk::folder::{INDEX, JOURNAL, STORE, segment_path};
use crate::store::disk::{DiskError, Fact, NamespaceRow, Opened};
use crate::store::types::SegmentId;

/// A closed store: a chain in the index, another in the journal.
fn stored() -> (FaultyIo, Vec<Sample>) {
    let io = FaultyIo::new();
    let samples = [chain(1, 8, 900), chain(9, 8, 900)];
    let disk = fresh(&io);
    commit(&disk, &samples[0].iter().collect::<Vec<_>>()).expect("commits");
    drop(disk);
    let (disk, recovered) = open(&io).expect("opens");
    disk.write_index(&recovered.image, disk.mark()).expect("writes");
    commit(&disk, &samples[1].iter().collect::<Vec<_>>()).expect("commits");
    drop(disk);
    (io, samples.concat())
}

#[test]
fn all_is_found_again_without_index_journal_and_description() {
    for lost in 1..8 {
        let (io, samples) = stored();
        for (bit, path) in [INDEX, JOURNAL, STORE].into_iter().enumerate() {
            if lost >> bit & 1 == 1 {
                io.replace(path, None);
            }
        }
        let (disk, recovered) = open(&io).expect("opens");
        assert_eq!(matches!(recovered.opened, Opened::Rebuilt { .. }), lost & 3 != 0, "{lost}");
        assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples), "{lost}");
        assert_eq!(recovered.image.namespaces, [namespace(1)]);
        drop(disk);
        let (disk, recovered) = open(&io).expect("opens");
        assert_eq!(recovered.opened, Opened::Indexed, "a rebuilt store opens quickly again");
        assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples));
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_index_or_journal_loses_nothing_but_the_last_entry() {
    for path in [INDEX, JOURNAL] {
        let length = stored().0.contents(path).expect("there").len();
        for byte in (0..length).step_by(29) {
            let (io, samples) = stored();
            let mut contents = io.contents(path).expect("there");
            contents[byte] ^= 4;
            io.replace(path, Some(contents));
            let (disk, recovered) = open(&io).expect("opens");
            let there = check(&disk, &recovered, &by_id(&samples));
            // A bad last entry of the journal cannot be told from a torn one.
            assert!(there.starts_with(&ids(&samples[..8])), "{path} {byte} {there:?}");
            assert!(path == JOURNAL || there == ids(&samples), "{path} {byte} {there:?}");
        }
    }
}

#[test]
fn a_cut_file_is_no_harm() {
    for path in [INDEX, JOURNAL, STORE] {
        let length = stored().0.contents(path).expect("there").len();
        for keep in (0..length).step_by(101) {
            let (io, samples) = stored();
            let mut contents = io.contents(path).expect("there");
            contents.truncate(keep);
            io.replace(path, Some(contents));
            let (disk, recovered) = open(&io).expect("opens");
            assert!(check(&disk, &recovered, &by_id(&samples)).starts_with(&ids(&samples[..8])), "{path} {keep}");
        }
    }
}

#[test]
fn a_missing_or_cut_segment_takes_only_what_was_in_it() {
    let (io, samples) = stored();
    let (_, recovered) = open(&io).expect("opens");
    let at = places(&recovered);
    let lost = SegmentId(1);
    let first_lost = samples.iter().position(|sample| at[&sample.info.id].segment == lost).expect("two segments");
    let mut contents = io.contents(&segment_path(lost)).expect("there");
    contents.pop();
    io.replace(&segment_path(lost), Some(contents));
    let (disk, recovered) = open(&io).expect("opens");
    assert_eq!(recovered.losses.missing, 1);
    check(&disk, &recovered, &by_id(&samples));
    drop(disk);
    io.replace(&segment_path(lost), None);
    let (disk, recovered) = open(&io).expect("opens");
    assert!(recovered.losses.missing > 0);
    assert!(check(&disk, &recovered, &by_id(&samples)).starts_with(&ids(&samples[..first_lost])));
}

#[test]
fn a_bad_payload_is_noticed_and_a_rebuild_leaves_it_out() {
    let (io, samples) = stored();
    let (disk, recovered) = open(&io).expect("opens");
    let bad = places(&recovered)[&samples[4].info.id];
    drop(disk);
    let mut contents = io.contents(&segment_path(bad.segment)).expect("there");
    contents[usize::try_from(bad.offset + u64::from(bad.header_bytes)).expect("small") + 5] ^= 1;
    io.replace(&segment_path(bad.segment), Some(contents));
    let (disk, _) = open(&io).expect("opens");
    assert!(matches!(disk.verify(&bad), Err(DiskError::Corrupt { .. })));
    assert!(disk.read_header(&bad).is_ok());
    drop(disk);
    io.replace(INDEX, None);
    let (disk, recovered) = open(&io).expect("opens");
    let there = check(&disk, &recovered, &by_id(&samples));
    assert_eq!(there, [ids(&samples[..4]), ids(&samples[8..])].concat(), "without what continues it");
    assert_eq!((recovered.losses.quarantined, recovered.losses.orphaned), (1, 3));
}

#[test]
fn a_bad_header_hides_no_later_record_from_a_rebuild() {
    let (io, samples) = stored();
    let (disk, recovered) = open(&io).expect("opens");
    let bad = places(&recovered)[&samples[8].info.id];
    drop(disk);
    let mut contents = io.contents(&segment_path(bad.segment)).expect("there");
    contents[usize::try_from(bad.offset).expect("small") + 20] ^= 1;
    io.replace(&segment_path(bad.segment), Some(contents));
    io.replace(INDEX, None);
    io.replace(JOURNAL, None);
    let (disk, recovered) = open(&io).expect("opens");
    assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples[..8]));
    assert_eq!(recovered.losses.orphaned, 7, "they were found, and hang on nothing");
}

#[test]
fn a_segment_of_another_store_is_not_believed() {
    let (io, samples) = stored();
    let (other, _) = stored();
    io.replace(INDEX, None);
    io.replace(JOURNAL, None);
    io.replace(&segment_path(SegmentId(0)), other.contents(&segment_path(SegmentId(0))));
    let (disk, recovered) = open(&io).expect("opens");
    assert!(check(&disk, &recovered, &by_id(&samples)).iter().all(|id| *id > samples[0].info.id));
}

#[test]
fn foreign_folders_are_left_alone() {
    let foreign = [
        ("a/abcdef.safetensors", "oMLX"),
        ("_boundary_snapshots/x", "oMLX"),
        ("notes.txt", "notes.txt"),
        ("segments/photo.jpg", "photo.jpg"),
        ("index/file", "index"),
    ];
    for (path, named) in foreign {
        let io = FaultyIo::new();
        io.replace(path, Some(vec![1]));
        let refused = open(&io).expect_err("not ours");
        assert!(matches!(&refused, DiskError::Foreign { what } if what.contains(named)), "{path}: {refused}");
        assert_eq!(io.paths(), [path]);
    }
    for (text, version) in
        [(r#"{"format":"other"}"#, false), (r#"{"format":"hwledger-omlx paged KV store","version":1}"#, true)]
    {
        let io = FaultyIo::new();
        io.replace(STORE, Some(text.into()));
        match open(&io).expect_err("not ours") {
            DiskError::Version { found: 1, known: 2 } => assert!(version),
            DiskError::Foreign { .. } => assert!(!version),
            other => panic!("{other}"),
        }
        assert_eq!(io.paths(), [STORE]);
    }
    let io = FaultyIo::new();
    io.replace(".DS_Store", Some(vec![1]));
    assert!(open(&io).is_ok(), "the system's own files do not count");
}

#[test]
fn a_namespace_that_changed_within_a_segment_is_rebuilt_as_it_is_now() {
    let io = FaultyIo::new();
    let disk = fresh(&io);
    let samples = [Sample::block(1, None, 4, 100), Sample::block(2, None, 4, 100)];
    commit(&disk, &[&samples[0]]).expect("commits");
    disk.note(&[Fact::Removed(vec![samples[0].info.id])], true).expect("notes");
    let mut changed = namespace(1);
    changed.layout.description = b"another".to_vec();
    changed.label = "renamed".to_owned();
    disk.note(&[Fact::Namespace(changed.clone())], true).expect("notes");
    commit(&disk, &[&samples[1]]).expect("commits");
    drop(disk);
    io.replace(JOURNAL, None);
    let (_, recovered) = open(&io).expect("opens");
    let rows: Vec<NamespaceRow> = recovered.image.namespaces;
    assert_eq!(rows, [changed]);
}

#[test]
fn the_highest_segment_number_is_nobody_s() {
    let io = FaultyIo::new();
    let samples = chain(1, 8, 900);
    drop(fresh(&io));
    io.replace("segments/4294967295.kv", Some(vec![0; 100]));
    let (disk, _) = open(&io).expect("opens");
    commit(&disk, &samples.iter().collect::<Vec<_>>()).expect("commits");
    drop(disk);
    // The one below it is the last that can be used: there is none for the next record, and no number comes twice.
    io.replace("segments/4294967294.kv", Some(vec![0; 100]));
    let (disk, recovered) = open(&io).expect("opens");
    assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples));
    let full = Sample::block(20, None, 4, 9000);
    assert!(matches!(commit(&disk, &[&full]), Err(DiskError::Io { .. })));
    assert_eq!(check(&disk, &recovered, &by_id(&samples)), ids(&samples));
}

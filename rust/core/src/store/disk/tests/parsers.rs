//! The parsers on thousands of damaged inputs. The same entry points are fuzzed for longer by `rust/core/fuzz`.

use proptest::prelude::*;

use super::corpus::{chain, commit, fresh, open};
use crate::store::disk::faults::FaultyIo;
use crate::store::disk::{folder, fuzzing, journal};

/// A record's header, a journal's entries and one entry's events, an index's rows: good ones, to be damaged.
fn seeds() -> [Vec<u8>; 4] {
    let io = FaultyIo::new();
    let samples = chain(1, 6, 200);
    let disk = fresh(&io);
    commit(&disk, &samples.iter().collect::<Vec<_>>()).expect("commits");
    drop(disk);
    let (disk, recovered) = open(&io).expect("opens");
    let journal = io.contents(folder::JOURNAL).expect("there");
    disk.write_index(&recovered.image, disk.mark()).expect("writes");
    let index = io.contents(folder::INDEX).expect("there");
    let at = recovered.image.blocks[1].at;
    let segment = io.contents(&folder::segment_path(at.segment)).expect("there");
    let first = usize::try_from(at.offset).expect("small");
    let body =
        usize::try_from(u32::from_le_bytes(*segment[first + 4..].first_chunk().expect("a header"))).expect("small");
    let rows = [&[5, 1], &index[4096..]].concat();
    [segment[first..first + body].to_vec(), journal[64..].to_vec(), journal[64 + 24..].to_vec(), rows]
}

#[test]
fn the_highest_record_id_is_refused() {
    // A removal of one record.
    let removed = |id: u64| [&[7, 1, 0, 0, 0], id.to_le_bytes().as_slice()].concat();
    assert!(journal::events_from(&removed(u64::MAX)).is_err());
    assert_eq!(journal::events_from(&removed(u64::MAX - 1)).expect("reads").len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_inputs_are_refused_without_a_panic(
        which in 0_usize..4,
        cut in any::<prop::sample::Index>(),
        keep_whole in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        static SEEDS: std::sync::LazyLock<[Vec<u8>; 4]> = std::sync::LazyLock::new(seeds);
        let mut bytes = SEEDS[which].clone();
        if !keep_whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        for (place, value) in changes {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
        }
        match which {
            0 => fuzzing::record(&bytes),
            3 => fuzzing::index(&bytes),
            _ => fuzzing::journal(&bytes),
        }
    }

    #[test]
    fn noise_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::record(&bytes);
        fuzzing::journal(&bytes);
        fuzzing::index(&bytes);
    }
}

//! Power lost at any operation: what was acknowledged is there, nothing is wrong, and the store goes on.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::corpus::{Sample, chain, check, commit, namespace, open};
use crate::store::disk::faults::FaultyIo;
use crate::store::disk::{Disk, DiskError, Fact, Recovered};
use crate::store::types::RecordId;

#[derive(Clone, Debug)]
enum Step {
    /// A chain of this many records with payloads of this many bytes.
    Commit(u64, usize),
    /// One of the chains again, as compaction moves it.
    Move(prop::sample::Index),
    /// One record and what continues it.
    Remove(prop::sample::Index),
    /// Close, open, write the index.
    Index,
    /// Close and open.
    Reopen,
    /// One of the segments.
    Drop(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (2_u64..7, 0_usize..1500).prop_map(|(count, bytes)| Step::Commit(count, bytes)),
        1 => any::<prop::sample::Index>().prop_map(Step::Move),
        1 => any::<prop::sample::Index>().prop_map(Step::Remove),
        2 => Just(Step::Index),
        1 => Just(Step::Reopen),
        1 => any::<prop::sample::Index>().prop_map(Step::Drop),
    ]
}

/// What the store was told, and what it acknowledged.
#[derive(Default)]
struct Model {
    chains: Vec<Vec<Sample>>,
    attempted: BTreeMap<RecordId, Sample>,
    acknowledged: BTreeSet<RecordId>,
    /// Asked to go; whether it went is open if the power was lost meanwhile.
    doomed: BTreeSet<RecordId>,
    next: u64,
}

impl Model {
    /// Everything that must be there: acknowledged, and nothing that it hangs on was asked to go.
    fn required(&self) -> BTreeSet<RecordId> {
        let stands = |id: &RecordId| {
            let mut id = Some(*id);
            while let Some(now) = id {
                if self.doomed.contains(&now) || !self.acknowledged.contains(&now) {
                    return false;
                }
                id = self.attempted[&now].info.attach.map(|attach| attach.parent);
            }
            true
        };
        self.acknowledged.iter().copied().filter(stands).collect()
    }

    fn verify(&self, disk: &Disk, recovered: &Recovered) {
        let there: BTreeSet<RecordId> = check(disk, recovered, &self.attempted).into_iter().collect();
        let missing: Vec<_> = self.required().difference(&there).copied().collect();
        assert!(missing.is_empty(), "lost {missing:?}, opened {:?}, {:?}", recovered.opened, recovered.losses);
    }

    fn run(&mut self, io: &FaultyIo, steps: &[Step]) -> Result<(), DiskError> {
        let (mut disk, _) = open(io)?;
        disk.note(&[Fact::Namespace(namespace(1))], false)?;
        let mut places = BTreeMap::new();
        for step in steps {
            match step {
                Step::Commit(count, bytes) => {
                    let samples = chain(self.next, *count, *bytes);
                    self.next += count;
                    self.attempted.extend(samples.iter().map(|sample| (sample.info.id, sample.clone())));
                    let at = commit(&disk, &samples.iter().collect::<Vec<_>>())?;
                    self.acknowledged.extend(samples.iter().map(|sample| sample.info.id));
                    places.extend(samples.iter().map(|sample| sample.info.id).zip(at));
                    self.chains.push(samples);
                }
                Step::Move(which) if !self.chains.is_empty() => {
                    let samples = &self.chains[which.index(self.chains.len())];
                    let alive = |sample: &&Sample| !self.doomed.contains(&sample.info.id);
                    let samples: Vec<&Sample> = samples.iter().filter(alive).collect();
                    let at = commit(&disk, &samples)?;
                    places.extend(samples.iter().map(|sample| sample.info.id).zip(at));
                }
                Step::Remove(which) if !self.acknowledged.is_empty() => {
                    let ids: Vec<RecordId> = self.acknowledged.iter().copied().collect();
                    let id = ids[which.index(ids.len())];
                    self.doomed.insert(id);
                    disk.note(&[Fact::Removed(vec![id])], true)?;
                }
                Step::Drop(which) if !places.is_empty() => {
                    let segments: Vec<_> = places.values().map(|at| at.segment).collect();
                    let segment = segments[which.index(segments.len())];
                    self.doomed.extend(places.iter().filter(|(_, at)| at.segment == segment).map(|(id, _)| *id));
                    places.retain(|_, at| at.segment != segment);
                    match disk.drop_segment(segment) {
                        Err(DiskError::Invalid { .. }) => {} // reopening had removed it already, as nothing in it was alive
                        other => drop(other?),
                    }
                }
                Step::Index | Step::Reopen => {
                    drop(disk);
                    let (opened, recovered) = open(io)?;
                    self.verify(&opened, &recovered);
                    places.retain(|id, _| super::corpus::places(&recovered).contains_key(id));
                    disk = opened;
                    if matches!(step, Step::Index) {
                        disk.write_index(&recovered.image, disk.mark())?;
                    }
                }
                Step::Move(_) | Step::Remove(_) | Step::Drop(_) => {}
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_records_survive_a_power_loss_and_nothing_else_is_served(
        steps in prop::collection::vec(step(), 1..14),
        changes in 0_u64..160,
        seed in any::<u64>(),
        killed in prop::bool::weighted(0.2),
    ) {
        let io = FaultyIo::new();
        io.power_off_after(changes);
        let mut model = Model { next: 1, ..Model::default() };
        let ran = model.run(&io, &steps);
        prop_assert!(ran.is_ok() || io.is_off(), "{ran:?}");
        let io = if killed { io.kill() } else { io.crash(seed) };
        let (disk, recovered) = open(&io).expect("opens by itself");
        model.verify(&disk, &recovered);
        // It goes on, and a second crash right behind takes nothing of either life.
        disk.note(&[Fact::Namespace(namespace(1))], false).expect("notes");
        let more = chain(recovered.image.next_record.max(model.next), 4, 700);
        model.attempted.extend(more.iter().map(|sample| (sample.info.id, sample.clone())));
        commit(&disk, &more.iter().collect::<Vec<_>>()).expect("commits");
        model.acknowledged.extend(more.iter().map(|sample| sample.info.id));
        let before: BTreeSet<RecordId> = super::corpus::places(&recovered).into_keys().collect();
        drop(disk);
        let io = io.crash(seed ^ 1);
        let (disk, recovered) = open(&io).expect("opens again");
        model.verify(&disk, &recovered);
        let after: BTreeSet<RecordId> = super::corpus::places(&recovered).into_keys().collect();
        prop_assert!(before.is_subset(&after), "what came back once stays");
    }
}

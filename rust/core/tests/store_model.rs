//! The store against a plain map, under arbitrary sequences of saves, edits, lookups, crashes, faults and purges, on a disk in
//! memory: what was durable is found, what was never saved is not, and no byte is ever wrong.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_support;

use std::path::Path;
use std::sync::Arc;

use hwledger_omlx_core::store::disk::faults::FaultyIo;
use hwledger_omlx_core::store::types::Layout;
use hwledger_omlx_core::store::{Store, StoreConfig};
use proptest::prelude::*;
use store_support::*;

#[derive(Clone, Debug)]
struct Which {
    namespace: u8,
    family: u32,
    edit: usize,
    tokens: usize,
}

impl Which {
    fn tokens(&self) -> Vec<u32> {
        prompt(self.family, self.edit, self.tokens)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Save(Which, bool),
    Fetch(Which),
    Hold(Which),
    Release,
    Flush,
    /// The process is killed: what was written is there.
    Kill,
    /// The power fails: of what was not synced, anything may be there.
    Crash(u64),
    CloseAndOpen,
    Purge(u8),
    Compact,
}

fn which() -> impl Strategy<Value = Which> {
    // Few families and edits, so that prompts share prefixes that end inside blocks.
    (1u8..3, 0u32..2, prop_oneof![Just(0usize), Just(10), Just(300), Just(256)], 1usize..600)
        .prop_map(|(namespace, family, edit, tokens)| Which { namespace, family, edit, tokens })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (which(), any::<bool>()).prop_map(|(which, state)| Step::Save(which, state)),
        4 => which().prop_map(Step::Fetch),
        1 => which().prop_map(Step::Hold),
        1 => Just(Step::Release),
        2 => Just(Step::Flush),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::CloseAndOpen),
        1 => (1u8..3).prop_map(Step::Purge),
        1 => Just(Step::Compact),
    ]
}

/// What was ever saved, and how sure it is.
#[derive(Clone, Debug)]
struct Known {
    namespace: u8,
    tokens: Vec<u32>,
    durable: bool,
    /// Still certain to be there: saved since the last crash, or durable.
    certain: bool,
}

/// One namespace's parts are kept as they are, the other's mostly encoded.
fn layout_of(namespace: u8) -> Layout {
    if namespace == 1 { layout() } else { mixed() }
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn longest<'k>(known: impl Iterator<Item = &'k Known>, tokens: &[u32]) -> usize {
    known.map(|known| common(&known.tokens, tokens)).max().unwrap_or(0)
}

struct World {
    config: StoreConfig,
    io: FaultyIo,
    store: Arc<Store>,
    held: Vec<hwledger_omlx_core::store::Match>,
    known: Vec<Known>,
    /// Whether anything may be evicted at any time.
    evicts: bool,
}

impl World {
    fn new(config: StoreConfig, evicts: bool) -> Self {
        let io = FaultyIo::new();
        let store = Store::open_with(config.clone(), Arc::new(io.clone())).unwrap();
        Self { config, io, store, held: Vec::new(), known: Vec::new(), evicts }
    }

    fn reopen(&mut self, io: FaultyIo) {
        self.held.clear();
        self.io = io;
        self.store = Store::open_with(self.config.clone(), Arc::new(self.io.clone())).unwrap();
    }

    fn crash(&mut self, io: FaultyIo) {
        // The old store's threads run on, on a disk that answers nothing any more.
        self.known.iter_mut().for_each(|known| known.certain = known.durable);
        self.reopen(io);
        self.check_all();
    }

    fn fetch(&self, namespace: u8, tokens: &[u32]) {
        let (owner, layout) = (store_support::namespace(namespace), layout_of(namespace));
        let found = self.store.lookup(&owner, tokens, tokens.len());
        let own = || self.known.iter().filter(|known| known.namespace == namespace);
        let ceiling = longest(own(), tokens);
        assert!(found.tokens() <= ceiling, "found {} tokens, {ceiling} were ever saved", found.tokens());
        let restored = restore(&self.store, &owner, &layout, tokens, &found);
        if !self.evicts {
            let floor = longest(own().filter(|known| known.certain), tokens);
            assert!(found.tokens() >= floor, "found {} tokens of {floor} that must be there", found.tokens());
            assert_eq!(restored, found.restorable());
        }
        restore_state(&self.store, &owner, tokens, &found);
    }

    fn check_all(&self) {
        for known in &self.known {
            self.fetch(known.namespace, &known.tokens);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Save(which, with_state) => {
                let tokens = which.tokens();
                let saved =
                    save(&self.store, &namespace(which.namespace), &layout_of(which.namespace), &tokens, with_state);
                if !self.evicts {
                    assert_eq!(saved.refused, None);
                }
                let certain = !saved.deferred && saved.refused.is_none();
                self.known.push(Known { namespace: which.namespace, tokens, durable: false, certain });
            }
            Step::Fetch(which) => self.fetch(which.namespace, &which.tokens()),
            Step::Hold(which) => {
                let tokens = which.tokens();
                self.held.push(self.store.lookup(&namespace(which.namespace), &tokens, tokens.len()));
            }
            Step::Release => self.held.clear(),
            Step::Flush => {
                let flushed = self.store.flush();
                assert!(self.evicts || flushed.is_ok(), "{flushed:?}");
                // What was only a maybe before the last crash stays one.
                let in_store: Vec<bool> = self.known.iter().map(|known| self.has(known)).collect();
                for (known, in_store) in self.known.iter_mut().zip(in_store) {
                    known.durable |= in_store;
                    known.certain |= in_store;
                }
            }
            Step::Kill => self.crash(self.io.kill()),
            Step::Crash(seed) => self.crash(self.io.crash(seed)),
            Step::CloseAndOpen => {
                self.held.clear();
                let closed = self.store.close();
                assert!(self.evicts || closed.is_ok(), "{closed:?}");
                let io = self.io.clone();
                self.reopen(io);
                self.check_all();
            }
            Step::Purge(which) => {
                self.store.purge(Some(&namespace(which).key)).unwrap();
                let tokens = prompt(0, 0, 1);
                assert_eq!(self.store.lookup(&namespace(which), &tokens, 1).tokens(), 0);
                self.known.retain(|known| known.namespace != which);
            }
            Step::Compact => {
                self.store.compact().unwrap();
            }
        }
    }

    fn has(&self, known: &Known) -> bool {
        let found = self.store.lookup(&namespace(known.namespace), &known.tokens, known.tokens.len());
        found.tokens() == known.tokens.len()
    }
}

fn run(config: StoreConfig, evicts: bool, steps: Vec<Step>) {
    let mut world = World::new(config, evicts);
    for step in steps {
        world.step(step);
    }
    world.check_all();
    world.held.clear();
    world.step(Step::CloseAndOpen);
    assert_eq!(world.store.stats().counts.quarantined, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_durable_is_lost_and_nothing_wrong_is_served(
        steps in prop::collection::vec(step(), 1..40), hot in any::<bool>(),
    ) {
        let hot_bytes = if hot { 100_000 } else { 0 };
        let config = StoreConfig { hot_bytes, segment_bytes: Some(100_000), ..config(Path::new("model")) };
        run(config, false, steps);
    }

    #[test]
    fn with_hardly_any_room_still_nothing_wrong_is_served(
        steps in prop::collection::vec(step(), 1..60), quota_bytes in 300_000u64..900_000,
    ) {
        let config = StoreConfig { quota_bytes, hot_bytes: 0, segment_bytes: Some(50_000), ..config(Path::new("model")) };
        run(config, true, steps);
    }
}

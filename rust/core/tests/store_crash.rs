//! A writing process is killed at a random moment, again and again, on real files: whatever it had said to be durable is
//! there when the next one opens the folder, and every byte of what is there is right.
//!
//! The test runs itself as the child: `writer` does nothing unless the environment names a folder.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use hwledger_omlx_core::store::{Store, StoreConfig};
use store_support::*;

const FOLDER: &str = "HWLEDGER_OMLX_CRASH_TEST_FOLDER";
const ROUND: &str = "HWLEDGER_OMLX_CRASH_TEST_ROUND";
const ROUNDS: u32 = 200;
/// Rounds on one folder: what each has to recover grows.
const ROUNDS_OF_A_FOLDER: u32 = 20;

fn small(folder: &Path) -> StoreConfig {
    StoreConfig { segment_bytes: Some(1 << 20), ..config(folder) }
}

fn prompt_of(round: u32, number: u32) -> Vec<u32> {
    // Every other prompt goes on where the one before ended, or branches off inside it.
    prompt(round * 1000 + number / 2, 0, 10 + 45 * (number as usize % 7 + 1))
}

#[test]
fn writer() {
    let (Ok(folder), Ok(round)) = (std::env::var(FOLDER), std::env::var(ROUND)) else { return };
    let round: u32 = round.parse().unwrap();
    let store = Store::open(small(Path::new(&folder))).unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "\nopen").unwrap();
    for number in 0.. {
        save(&store, &namespace(1), &mixed(), &prompt_of(round, number), number % 3 == 0);
        if number % 2 == 1 {
            store.flush().unwrap();
            writeln!(out, "durable {number}").unwrap();
            out.flush().unwrap();
        }
    }
}

#[test]
fn a_killed_writer_leaves_all_that_was_durable_and_nothing_wrong() {
    // A killed process leaves what it wrote, synced or not, so a folder in memory does as well and is faster.
    let memory = Path::new("/dev/shm");
    let new_folder = || if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let mut folder = new_folder();
    let layout = mixed();
    let mut durable: Vec<(u32, u32)> = Vec::new();
    let mut total = 0;
    for round in 0..ROUNDS {
        if round % ROUNDS_OF_A_FOLDER == 0 {
            folder = new_folder();
            total += std::mem::take(&mut durable).len();
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed after so many acknowledgements and so much work of our own: before it has opened, amid writes, in a sync.
        let chance = prompt(7, 0, 2 * (round as usize + 1));
        let (acknowledgements, pause) = (chance[chance.len() - 2] % 6, chance[chance.len() - 1] * 20);
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let number_in = |line: &str| line.strip_prefix("durable ").map(|number| number.parse().unwrap());
        let mut last = None;
        for _ in 0..acknowledgements {
            last = said.by_ref().find_map(|line| number_in(&line));
        }
        for turn in 0..pause {
            std::hint::black_box(turn);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had still said before it died counts too.
        last = said.filter_map(|line| number_in(&line)).last().or(last);
        durable.extend((0..=last.unwrap_or(0)).filter(|_| last.is_some()).map(|number| (round, number)));
        // Now and then all of it, otherwise what this round has added.
        let recent = if (round + 1) % ROUNDS_OF_A_FOLDER == 0 { 0 } else { durable.len().saturating_sub(8) };
        let store = Store::open(small(folder.path())).unwrap();
        for (round, number) in &durable[recent..] {
            let tokens = prompt_of(*round, *number);
            assert_eq!(
                fetch(&store, &namespace(1), &layout, &tokens),
                tokens.len(),
                "prompt {number} of round {round}"
            );
        }
        for number in 0..last.unwrap_or(0) + 4 {
            let tokens = prompt_of(round, number);
            let found = store.lookup(&namespace(1), &tokens, tokens.len());
            assert_eq!(restore(&store, &namespace(1), &layout, &tokens, &found), found.restorable());
            assert_eq!(restore_state(&store, &namespace(1), &tokens, &found), found.snapshot().is_some());
        }
        assert_eq!(store.stats().counts.quarantined, 0);
        store.close().unwrap();
    }
    assert!(total > ROUNDS as usize, "the children wrote next to nothing");
}

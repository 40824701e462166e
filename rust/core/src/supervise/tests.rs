//! Supervision of shell scripts. Signals are tested on whole processes, in `tests/python/test_supervised.py`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{SuperviseError, Supervision, supervise};

/// A script that appends a line to `starts` each time, and is told its number as `$n`.
fn script(folder: &Path, body: &str) -> Supervision {
    let text = format!(
        "echo x >> starts; n=$(wc -l < starts); beat() {{ printf %s \"$1\" > \"/dev/fd/$HWLEDGER_OMLX_HEARTBEAT_FD\"; }}; {body}"
    );
    let arguments = ["-c".to_owned(), format!("cd '{}' && {{ {text}\n}}", folder.display())];
    Supervision {
        silence: Duration::from_secs(30),
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(2),
        ..Supervision::new("/bin/sh", arguments)
    }
}

fn starts(folder: &Path) -> usize {
    fs::read_to_string(folder.join("starts")).expect("it started").lines().count()
}

#[test]
fn its_status_is_the_childs_however_it_ends() {
    for (body, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("beat -; exit 3", 3)] {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(supervise(&script(folder.path(), body)).expect("supervised"), code, "{body}");
        assert_eq!(starts(folder.path()), 1, "{body}");
    }
}

#[test]
fn one_that_says_it_is_stuck_is_ended_with_all_it_started() {
    let folder = tempfile::tempdir().expect("a folder");
    // The grandchild would hold a lock of ours for as long as it lives: it has the reading end of a pipe open for writing.
    let body = "if [ $n -eq 1 ]; then sleep 600 & echo $! > grandchild; beat '+!'; sleep 600; fi; exit 5";
    let began = Instant::now();
    assert_eq!(supervise(&script(folder.path(), body)).expect("supervised"), 5);
    assert_eq!(starts(folder.path()), 2 + 4, "a failure right after the new start is tried again");
    assert!(began.elapsed() < Duration::from_secs(60));
    let grandchild: i32 =
        fs::read_to_string(folder.path().join("grandchild")).expect("told").trim().parse().expect("a number");
    let pid = rustix::process::Pid::from_raw(grandchild).expect("a process id");
    // Its new parent has to collect it; until then it is there, and dead.
    let state = fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
    assert!(rustix::process::test_kill_process(pid).is_err() || state.contains(") Z"), "it lives: {state}");
}

#[test]
fn one_that_falls_silent_is_started_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let body = "beat +; if [ $n -eq 1 ]; then sleep 600; fi; exit 0";
    let supervision = Supervision { silence: Duration::from_millis(300), ..script(folder.path(), body) };
    assert_eq!(supervise(&supervision).expect("supervised"), 0);
    assert_eq!(starts(folder.path()), 2);
}

#[test]
fn one_that_never_says_a_word_is_waited_for_as_long_as_a_start_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let body = "if [ $n -eq 1 ]; then sleep 600; fi; exit 0";
    let supervision = Supervision { start: Duration::from_millis(300), ..script(folder.path(), body) };
    assert_eq!(supervise(&supervision).expect("supervised"), 0);
    assert_eq!(starts(folder.path()), 2);
}

#[test]
fn silence_is_borne_for_as_long_as_being_stuck_but_not_for_moments() {
    let usual = Supervision::new("/bin/sh", [""; 0]);
    for (stuck_s, silence_s) in [(0.5, 15), (15.0, 15), (100.0, 100)] {
        let asked = usual.clone().restart_after(Duration::from_secs_f64(stuck_s));
        assert_eq!((asked.silence.as_secs(), asked.start), (silence_s, usual.start));
    }
}

#[test]
fn one_that_ends_may_be_silent() {
    let folder = tempfile::tempdir().expect("a folder");
    let supervision =
        Supervision { silence: Duration::from_millis(200), ..script(folder.path(), "beat -; sleep 1; exit 4") };
    assert_eq!(supervise(&supervision).expect("supervised"), 4);
    assert_eq!(starts(folder.path()), 1);
}

#[test]
fn what_cannot_be_started_is_said() {
    let error = supervise(&Supervision::new("/no/such/program", [""; 0])).expect_err("missing");
    assert!(matches!(&error, SuperviseError::Start { program, .. } if program == Path::new("/no/such/program")));
    assert!(error.to_string().contains("/no/such/program"));
}

#[test]
fn waits_grow_up_to_a_limit() {
    let supervision = Supervision::new("x", [""; 0]);
    let waits: Vec<_> = (0..8).map(|times| supervision.delay(times).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(supervision.delay(u32::MAX).as_secs(), 60);
}

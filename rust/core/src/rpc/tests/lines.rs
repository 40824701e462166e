//! Lines out of pieces.

use crate::rpc::{Line, Lines};

fn taken(lines: &mut Lines) -> Vec<Option<String>> {
    let mut found = Vec::new();
    while let Some(line) = lines.next_line() {
        found.push(match line {
            Line::Whole(line) => Some(String::from_utf8_lossy(line).into_owned()),
            Line::TooLong => None,
        });
    }
    found
}

#[test]
fn half_a_line_waits_for_its_other_half() {
    let mut lines = Lines::new(100);
    lines.feed(b"one\ntw");
    assert_eq!(taken(&mut lines), [Some("one".to_owned())]);
    lines.feed(b"o\n\n  \r\nthree");
    assert_eq!(taken(&mut lines), [Some("two".to_owned())]);
    assert_eq!(lines.end(), Some(Line::Whole(b"three")));
    assert_eq!(lines.end(), None);
}

#[test]
fn a_line_that_is_too_long_is_said_once_and_not_kept() {
    let mut lines = Lines::new(8);
    lines.feed(b"12345678\n123456789\n");
    assert_eq!(taken(&mut lines), [Some("12345678".to_owned()), None]);
    for _ in 0..1000 {
        lines.feed(&[b'x'; 64]);
        assert!(taken(&mut lines).len() <= 1);
    }
    lines.feed(b"rest\nnext\n");
    assert_eq!(taken(&mut lines), [Some("next".to_owned())]);
    lines.feed(b"123456789");
    assert_eq!(taken(&mut lines), [None]);
    assert_eq!(lines.end(), None);
}

//! The parser as a fuzzer sees it: on any bytes, in pieces of any size.

use serde_json::Value;

use super::lines::{Line, Lines};
use super::message::{Code, Id, Incoming, Rejected, error_text, notification_text, parse, result_text};

const LIMIT_BYTES: usize = 256;

/// Cuts the bytes after the first one into lines, in pieces of as many bytes as the first one says and all at once, and
/// reads each line. What would be answered must be JSON of one line, and the id that came.
///
/// # Panics
/// The lines differ, or an answer is none.
pub fn messages(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let lines = cut(bytes, usize::from(*piece).max(1));
    assert_eq!(lines, cut(bytes, bytes.len().max(1)), "the lines do not depend on how they come");
    for line in lines.iter().flatten() {
        assert!(line.len() <= LIMIT_BYTES, "a line is within the limit");
        match parse(line) {
            Incoming::One(parsed) => check(&parsed),
            Incoming::Batch(calls) => calls.iter().for_each(check),
        }
    }
}

fn cut(bytes: &[u8], piece: usize) -> Vec<Option<Vec<u8>>> {
    let kept = |line: Line<'_>| match line {
        Line::Whole(line) => Some(line.to_vec()),
        Line::TooLong => None,
    };
    let mut lines = Lines::new(LIMIT_BYTES);
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        lines.feed(piece);
        while let Some(line) = lines.next_line() {
            found.push(kept(line));
        }
    }
    found.extend(lines.end().map(kept));
    found
}

fn check(parsed: &Result<super::Call, Rejected>) {
    let (id, text) = match parsed {
        Ok(call) => {
            answer(&notification_text(&call.method, "{}"));
            let id = call.id.clone().unwrap_or(Id::Null);
            (id.clone(), result_text(&id, "[]"))
        }
        Err(rejected) => (rejected.id.clone(), error_text(&rejected.id, rejected.code, &rejected.why, Some("{}"))),
    };
    let said = answer(&text);
    let same = match id {
        Id::Null => Value::Null,
        Id::Number(number) => Value::Number(number),
        Id::Text(text) => Value::String(text),
    };
    assert_eq!(said["id"], same, "the id that came");
    if let Some(code) = said["error"]["code"].as_i64().and_then(|code| i32::try_from(code).ok()) {
        assert!(Code::from_number(code).is_some(), "a code of the specification's");
    }
}

fn answer(text: &str) -> Value {
    assert!(!text.contains('\n'), "an answer is one line");
    match serde_json::from_str(text) {
        Ok(said) => said,
        Err(error) => panic!("an answer is JSON: {error}"),
    }
}

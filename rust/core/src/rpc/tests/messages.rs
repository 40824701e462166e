//! What is a request and what is not, by the specification's own examples and beyond.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::rpc::message::{error_text, notification_text, result_text};
use crate::rpc::{Code, Id, Incoming, MAX_BATCH, fuzzing, parse};

fn one(line: &str) -> Incoming {
    parse(line.as_bytes())
}

#[test]
fn a_request_and_a_notification() {
    let Incoming::One(Ok(call)) = one(r#"{"jsonrpc":"2.0","method":"subtract","params":[42,23],"id":"a\n"}"#) else {
        panic!("a request");
    };
    assert_eq!((call.method.as_str(), call.params), ("subtract", Some(json!([42, 23]))));
    assert_eq!(call.id, Some(Id::Text("a\n".into())));
    let Incoming::One(Ok(call)) = one(r#"{"jsonrpc":"2.0","method":"update"}"#) else { panic!("a notification") };
    assert_eq!((call.id, call.params), (None, None));
    let Incoming::One(Ok(call)) = one(r#"{"jsonrpc":"2.0","method":"update","id":null}"#) else { panic!("a request") };
    assert_eq!(call.id, Some(Id::Null));
}

#[test]
fn what_is_no_request_is_rejected_with_its_id_where_it_has_one() {
    for (line, id, code, why) in [
        (r#"{"jsonrpc":"2.0","method":"foobar,"params":"bar","baz]"#, Id::Null, Code::Parse, "no JSON"),
        ("\u{feff}{}", Id::Null, Code::Parse, "no JSON"),
        (r#"{"jsonrpc":"2.0","method":"x","id":1,"params":{"a":1e400}}"#, Id::Null, Code::Parse, "out of range"),
        (r#"{"jsonrpc":"2.0","method":"\ud800","id":1}"#, Id::Null, Code::Parse, "no JSON"),
        (r#"{"jsonrpc":"2.0","method":"x","id":1} {}"#, Id::Null, Code::Parse, "trailing"),
        ("1", Id::Null, Code::InvalidRequest, "a JSON object"),
        ("[]", Id::Null, Code::InvalidRequest, "at least one"),
        (r#"{"jsonrpc":"2.0","method":1,"id":5}"#, Id::Number(5.into()), Code::InvalidRequest, "names its method"),
        (r#"{"jsonrpc":"2.0","result":1,"id":5}"#, Id::Number(5.into()), Code::InvalidRequest, "names its method"),
        (r#"{"jsonrpc":"1.0","method":"x","id":"q"}"#, Id::Text("q".into()), Code::InvalidRequest, "2.0"),
        (r#"{"method":"x","id":"q"}"#, Id::Text("q".into()), Code::InvalidRequest, "2.0"),
        (r#"{"jsonrpc":"2.0","method":"x","params":"bar"}"#, Id::Null, Code::InvalidRequest, "an array"),
        (r#"{"jsonrpc":"2.0","method":"x","id":{}}"#, Id::Null, Code::InvalidRequest, "an id"),
        (r#"{"jsonrpc":"2.0","method":"x","id":123456789012345678901}"#, Id::Null, Code::InvalidRequest, "64 bits"),
    ] {
        let Incoming::One(Err(rejected)) = one(line) else { panic!("{line} is taken") };
        assert_eq!((&rejected.id, rejected.code), (&id, code), "{line}");
        assert!(rejected.why.contains(why), "{line}: {}", rejected.why);
    }
    let Incoming::One(Err(rejected)) = parse(b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\xfe\"}") else { panic!("taken") };
    assert_eq!(rejected.code, Code::Parse);
}

#[test]
fn nesting_has_an_end() {
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let Incoming::One(Err(rejected)) = one(&deep) else { panic!("taken") };
    assert_eq!(rejected.code, Code::Parse);
    assert!(rejected.why.contains("recursion limit"), "{}", rejected.why);
}

#[test]
fn a_batch_is_read_call_by_call_and_bounded() {
    let Incoming::Batch(calls) = one(r#"[1, {"jsonrpc":"2.0","method":"a","id":1}, {"foo":"boo"}]"#) else {
        panic!("a batch");
    };
    assert_eq!(calls.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false]);
    let many = |count: usize| format!("[{}]", vec!["1"; count].join(","));
    assert!(matches!(one(&many(MAX_BATCH)), Incoming::Batch(calls) if calls.len() == MAX_BATCH));
    let Incoming::One(Err(rejected)) = one(&many(MAX_BATCH + 1)) else { panic!("taken") };
    assert_eq!((rejected.code, rejected.why.contains("1025")), (Code::InvalidRequest, true));
}

#[test]
fn codes_are_those_of_the_specification() {
    for code in [-32700, -32600, -32601, -32602, -32603, -32000] {
        assert_eq!(Code::from_number(code).map(Code::number), Some(code));
    }
    assert_eq!(Code::from_number(0), None);
}

proptest! {
    #[test]
    fn what_is_sent_is_one_line_of_json(text in ".*", id in any::<i64>()) {
        let id = Id::Number(id.into());
        let quoted = Value::from(text.as_str()).to_string();
        for sent in [
            result_text(&id, &quoted),
            error_text(&Id::Text(text.clone()), Code::Failed, &text, Some(&quoted)),
            notification_text(&text, &quoted),
        ] {
            prop_assert!(!sent.contains('\n'));
            let read: Value = serde_json::from_str(&sent).unwrap();
            prop_assert_eq!(&read["jsonrpc"], "2.0");
        }
    }

    #[test]
    fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::messages(&bytes);
    }

    #[test]
    fn near_messages_can_be_read(piece in any::<u8>(), pieces in proptest::collection::vec(
        prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\n", "\r\n", "\"", "\"jsonrpc\":\"2.0\"", "\"method\":\"m\"", "\"id\":", "1e3",
            "null", "\"params\":", "\\ud800", "\u{1f600}", "{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"id\":7}\n",
        ]), 0..60)) {
        let mut bytes = vec![piece];
        bytes.extend(pieces.concat().bytes());
        fuzzing::messages(&bytes);
    }
}

//! A connection over pipes: who writes nothing, reads nothing, or goes away.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::pipe::pipe;
use serde_json::{Value, json};

use crate::rpc::{Code, Connection, Limits, Received, Request};

const LONG: Duration = Duration::from_secs(60);
const LIMITS: Limits = Limits { message_bytes: 4096, queue_bytes: 1000 };

struct Client {
    to: Option<File>,
    from: Option<BufReader<File>>,
}

fn connected() -> (Connection, Client) {
    let ((input, to), (from, output)): ((OwnedFd, _), (OwnedFd, _)) = (pipe().unwrap(), pipe().unwrap());
    let connection = Connection::open(input, output, LIMITS).unwrap();
    (connection, Client { to: Some(to.into()), from: Some(BufReader::new(from.into())) })
}

impl Client {
    fn send(&mut self, text: &str) {
        self.to.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.from.as_mut().unwrap().read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

fn received(connection: &Connection, count: usize) -> Vec<Request> {
    let mut found = Vec::new();
    while found.len() < count {
        match connection.receive(LONG).unwrap() {
            Received::Requests(requests) => found.extend(requests),
            Received::Nothing => {}
            Received::Ended => panic!("ended after {} of {count}", found.len()),
        }
    }
    found
}

fn call(method: &str, id: usize) -> String {
    json!({"jsonrpc": "2.0", "method": method, "id": id}).to_string() + "\n"
}

#[test]
fn requests_come_in_order_and_answers_have_their_ids() {
    let (connection, mut client) = connected();
    let (first, second) = (call("a", 1), call("b", 2));
    client.send(&first);
    client.send(&second[..10]);
    let mut requests = received(&connection, 1);
    client.send(&second[10..]);
    requests.extend(received(&connection, 1));
    assert_eq!(requests.iter().map(|each| each.method.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    for request in requests.into_iter().rev() {
        request.answer.result("{}");
    }
    assert_eq!((client.read()["id"].clone(), client.read()["id"].clone()), (json!(2), json!(1)));
}

#[test]
fn what_is_no_request_is_answered_and_the_next_line_is_read() {
    let (connection, mut client) = connected();
    client.to.as_mut().unwrap().write_all(b"\xff\xfe\n{\n[]\n").unwrap();
    client.send(&"x".repeat(3 * LIMITS.message_bytes));
    client.send("\n");
    client.send(&call("a", 1));
    received(&connection, 1).remove(0).answer.error(Code::Failed, "no", Some("{\"class\":\"E\"}"));
    let codes: Vec<Value> = (0..5).map(|_| client.read()["error"]["code"].clone()).collect();
    assert_eq!(json!(codes), json!([-32700, -32700, -32600, -32700, -32000]));
}

#[test]
fn a_batch_has_one_answer_when_its_last_call_has_ended() {
    let (connection, mut client) = connected();
    let notification = json!({"jsonrpc": "2.0", "method": "n"});
    let calls = json!([{"jsonrpc": "2.0", "method": "a", "id": 1}, 5, notification,
        {"jsonrpc": "2.0", "method": "b", "id": 2}, {"jsonrpc": "2.0", "method": "c", "id": 3}]);
    client.send(&format!("{calls}\n[{notification}]\n"));
    let mut requests = received(&connection, 5);
    assert!(requests.pop().unwrap().answer.is_to_notification()); // dropped, and nothing is said
    requests.remove(1).answer.result("0"); // a notification's
    requests.remove(1).answer.result("2");
    requests.remove(0).answer.result("1");
    drop(requests); // c
    let answers = client.read();
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [&Value::Null, &json!(2), &json!(1), &json!(3)]);
    assert_eq!(answers[3]["error"]["code"], -32603);
    assert_eq!(answers[0]["error"]["code"], -32600);
}

#[test]
fn a_large_batch_is_given_in_parts() {
    let (connection, mut client) = connected();
    let calls: Vec<Value> = (0..90).map(|id| json!({"jsonrpc": "2.0", "method": "a", "id": id})).collect();
    client.send(&format!("{}\n", json!(calls)));
    let Received::Requests(first) = connection.receive(LONG).unwrap() else { panic!("requests") };
    assert_eq!(first.len(), 64);
    let rest = received(&connection, 26);
    for request in first.into_iter().chain(rest) {
        request.answer.result("0");
    }
    assert_eq!(client.read().as_array().unwrap().len(), 90);
}

#[test]
fn a_reader_that_is_slow_loses_no_text_and_bounds_what_is_kept() {
    let (connection, mut client) = connected();
    let streams = ["a", "b"].map(|id| connection.output().stream("token", id));
    let mut sent = [String::new(), String::new()];
    for number in 0..50_000 {
        for (stream, sent) in streams.iter().zip(&mut sent) {
            let piece = format!("{number}\u{e9}\n\"");
            stream.send(&piece);
            sent.push_str(&piece);
        }
    }
    // Without joining, each of the 100,000 pieces would have its own 70 bytes around it.
    let text: usize = sent.iter().map(String::len).sum();
    assert!(connection.output().waiting_bytes() < text + 2 * LIMITS.queue_bytes + 64 * 1024);
    assert!(!connection.output().wait_for_room(Duration::ZERO));
    // Nothing is read while there is no room.
    client.send(&call("a", 1));
    assert!(matches!(connection.receive(Duration::ZERO), Ok(Received::Nothing)));
    let mut read = [String::new(), String::new()];
    while read.iter().zip(&sent).any(|(read, sent)| read.len() < sent.len()) {
        let said = client.read();
        let place = usize::from(said["params"]["request_id"] == "b");
        read[place].push_str(said["params"]["text"].as_str().unwrap());
    }
    assert_eq!(read, sent);
    assert!(connection.output().flush(LONG));
    assert_eq!(received(&connection, 1)[0].method, "a");
}

#[test]
fn a_closed_output_is_known_at_once_and_ends_every_wait() {
    let (connection, mut client) = connected();
    client.from.take();
    let broken = connection.receive(LONG).unwrap_err();
    assert!(broken.to_string().contains("the output is closed"), "{broken}");
    connection.output().send("{}".to_owned());
    assert_eq!(connection.output().waiting_bytes(), 0);
}

#[test]
fn a_reader_that_goes_away_in_the_middle_ends_the_writing() {
    let (connection, mut client) = connected();
    let stream = connection.output().stream("token", "a");
    (0..100_000).for_each(|_| stream.send("some text"));
    client.read();
    client.from.take();
    assert!(!connection.output().flush(LONG));
    assert!(connection.receive(LONG).is_err());
}

#[test]
fn the_end_of_input_comes_after_the_last_half_line() {
    let (connection, mut client) = connected();
    client.send(call("a", 1).trim_end());
    client.to.take();
    received(&connection, 1).remove(0).answer.result("1");
    assert!(matches!(connection.receive(LONG), Ok(Received::Ended)));
    assert!(matches!(connection.receive(LONG), Ok(Received::Ended)));
    connection.output().close();
    let mut rest = String::new();
    assert!(connection.output().flush(LONG));
    drop(connection);
    client.from.as_mut().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1}\n");
}

#[test]
fn another_thread_ends_the_wait() {
    let (connection, _client) = connected();
    std::thread::scope(|scope| {
        scope.spawn(|| connection.wake());
        assert!(matches!(connection.receive(LONG), Ok(Received::Nothing)));
    });
}

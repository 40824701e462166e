//! What a line may hold: a call, a batch of calls, or what is neither; and the text of what is said back.

use std::fmt;

use serde_json::{Map, Value};

/// Most calls of a batch. A batch is answered as one message, which is in memory until its last call has ended.
pub const MAX_BATCH: usize = 1024;

/// Integers beyond these are not exact in every JSON reader (RFC 8259, section 6).
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// The codes of errors, by the specification's section 5.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// No JSON.
    Parse,
    /// JSON, and no request.
    InvalidRequest,
    /// No method of that name.
    MethodNotFound,
    /// The method does not take such parameters.
    InvalidParams,
    /// A fault of the server's.
    Internal,
    /// The method failed; the error's data say how.
    Failed,
}

impl Code {
    /// As it is sent.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Parse => -32700,
            Self::InvalidRequest => -32600,
            Self::MethodNotFound => -32601,
            Self::InvalidParams => -32602,
            Self::Internal => -32603,
            Self::Failed => -32000,
        }
    }

    /// The code of that number.
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            -32700 => Self::Parse,
            -32600 => Self::InvalidRequest,
            -32601 => Self::MethodNotFound,
            -32602 => Self::InvalidParams,
            -32603 => Self::Internal,
            -32000 => Self::Failed,
            _ => return None,
        })
    }
}

/// What a request calls itself; its answer has the same. Displayed as JSON.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Id {
    /// Also of an answer to what has no id that could be read.
    Null,
    /// A number.
    Number(serde_json::Number),
    /// A text.
    Text(String),
}

impl fmt::Display for Id {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => to.write_str("null"),
            Self::Number(number) => number.fmt(to),
            Self::Text(text) => to.write_str(&quoted(text)),
        }
    }
}

/// A request, or a notification where it has no id.
#[derive(Clone, PartialEq, Debug)]
pub struct Call {
    /// `None` for a notification, which nobody answers.
    pub id: Option<Id>,
    /// What is called.
    pub method: String,
    /// An object or an array, where there are any.
    pub params: Option<Value>,
}

/// Something that is no call, and what is to be answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// Its own where it could be read, else null.
    pub id: Id,
    /// Which rule it breaks.
    pub code: Code,
    /// In words.
    pub why: String,
}

/// What a line holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Incoming {
    /// A call, or what should be one.
    One(Result<Call, Rejected>),
    /// Several, at least one and at most [`MAX_BATCH`]; their answers are one message.
    Batch(Vec<Result<Call, Rejected>>),
}

/// Reads a line. Any bytes give something that can be answered.
#[must_use]
pub fn parse(line: &[u8]) -> Incoming {
    match serde_json::from_slice(line) {
        Ok(Value::Array(calls)) => batch(calls),
        Ok(value) => Incoming::One(call(value)),
        Err(error) => Incoming::One(Err(rejected(Code::Parse, format!("this is no JSON: {error}")))),
    }
}

fn batch(calls: Vec<Value>) -> Incoming {
    if calls.is_empty() {
        return Incoming::One(Err(rejected(Code::InvalidRequest, "a batch has at least one request")));
    }
    if calls.len() > MAX_BATCH {
        let why = format!("a batch has at most {MAX_BATCH} requests, and this one has {}", calls.len());
        return Incoming::One(Err(rejected(Code::InvalidRequest, why)));
    }
    Incoming::Batch(calls.into_iter().map(call).collect())
}

fn call(value: Value) -> Result<Call, Rejected> {
    let Value::Object(mut fields) = value else {
        return Err(rejected(Code::InvalidRequest, "a request is a JSON object"));
    };
    let id = take_id(&mut fields)?;
    let refused =
        |why: &str| Rejected { id: id.clone().unwrap_or(Id::Null), code: Code::InvalidRequest, why: why.into() };
    if fields.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(refused("a request has \"jsonrpc\": \"2.0\""));
    }
    let Some(Value::String(method)) = fields.remove("method") else {
        return Err(refused("a request names its method, a text"));
    };
    let params = fields.remove("params");
    if params.as_ref().is_some_and(|params| !params.is_object() && !params.is_array()) {
        return Err(refused("params are an object or an array"));
    }
    Ok(Call { id, method, params })
}

fn take_id(fields: &mut Map<String, Value>) -> Result<Option<Id>, Rejected> {
    Ok(Some(match fields.remove("id") {
        None => return Ok(None),
        Some(Value::Null) => Id::Null,
        Some(Value::String(text)) => Id::Text(text),
        // What was read as a float and is that large may have been another integer; its sender would wait for ever.
        Some(Value::Number(number))
            if !number.is_f64() || number.as_f64().is_some_and(|id| id.abs() < EXACT_INTEGERS) =>
        {
            Id::Number(number)
        }
        Some(_) => return Err(rejected(Code::InvalidRequest, "an id is a text, null, or a number of at most 64 bits")),
    }))
}

fn rejected(code: Code, why: impl Into<String>) -> Rejected {
    Rejected { id: Id::Null, code, why: why.into() }
}

/// The message that answers a request with its result, JSON without line feeds.
pub(super) fn result_text(id: &Id, result: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}")
}

/// The message that answers a request with an error; `data` is JSON without line feeds.
pub(super) fn error_text(id: &Id, code: Code, why: &str, data: Option<&str>) -> String {
    let data = data.map_or_else(String::new, |data| format!(",\"data\":{data}"));
    let (code, why) = (code.number(), quoted(why));
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":{code},\"message\":{why}{data}}}}}")
}

/// The message that tells something unasked; `params` is JSON without line feeds.
pub(super) fn notification_text(method: &str, params: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"method\":{},\"params\":{params}}}", quoted(method))
}

/// A text as JSON has it.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

//! What a formula comes to on a configuration, for one of the model's layers.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value as Json;

use super::config::Config;
use super::error::IngestError;
use super::formula::{Formula, Node, Operator};

/// Formulas that use each other, at most.
const DEEPEST: u32 = 32;

/// What a formula comes to.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Value<'c> {
    Missing,
    Bool(bool),
    Number(i64),
    Text(&'c str),
    List(&'c [Json]),
    /// A fraction or an object, with which no formula does anything.
    Other(&'c Json),
}

/// As config.json has it.
impl fmt::Display for Value<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => to.write_str("nothing"),
            Self::Bool(is) => write!(to, "{is}"),
            Self::Number(number) => write!(to, "{number}"),
            Self::Text(text) => write!(to, "{text:?}"),
            Self::List(items) => write!(to, "a list of {}", items.len()),
            Self::Other(Json::Object(_)) => to.write_str("an object"),
            Self::Other(json) => write!(to, "{json}"),
        }
    }
}

/// A configuration, the formulas that a family names, and the layer that is asked about.
pub(super) struct Scope<'c> {
    config: &'c Config,
    /// A family's own formulas before those of all.
    named: [&'c BTreeMap<String, Formula>; 2],
    layer: Option<i64>,
    depth: Cell<u32>,
    used: RefCell<BTreeSet<&'c str>>,
}

impl<'c> Scope<'c> {
    pub(super) fn new(config: &'c Config, named: [&'c BTreeMap<String, Formula>; 2]) -> Self {
        Self { config, named, layer: None, depth: Cell::new(0), used: RefCell::default() }
    }

    /// The same, asked about a layer.
    pub(super) fn of_layer(&self, layer: u32) -> Self {
        Self { layer: Some(i64::from(layer)), ..Self::new(self.config, self.named) }
    }

    /// The settings that were found and used since this was last asked.
    pub(super) fn take_used(&self) -> Vec<String> {
        self.used.take().into_iter().map(ToOwned::to_owned).collect()
    }

    /// A size: a whole number, 0 or more.
    pub(super) fn size(&self, formula: &'c Formula) -> Result<u64, IngestError> {
        self.optional(formula)?.ok_or_else(|| failed(formula, self.missing(formula)))
    }

    /// A size; `None` where a setting that it hangs on is missing.
    pub(super) fn optional(&self, formula: &'c Formula) -> Result<Option<u64>, IngestError> {
        match self.value(&formula.root).map_err(|what| failed(formula, what))? {
            Value::Missing => Ok(None),
            Value::Number(number) => {
                let size = u64::try_from(number);
                size.map(Some).map_err(|_| failed(formula, format!("it comes to {number}, below 0")))
            }
            other => Err(failed(formula, format!("it comes to {other}, which is no whole number"))),
        }
    }

    /// The size of that name; `None` where the family has no such formula or a setting is missing.
    pub(super) fn named_size(&self, name: &str) -> Result<Option<u64>, IngestError> {
        self.formula(name).map_or(Ok(None), |formula| self.optional(formula))
    }

    /// Whether it is so.
    pub(super) fn holds(&self, formula: &'c Formula) -> Result<bool, IngestError> {
        self.value(&formula.root).and_then(truth).map_err(|what| failed(formula, what))
    }

    /// The formula of that name.
    pub(super) fn formula(&self, name: &str) -> Option<&'c Formula> {
        self.named.iter().find_map(|formulas| formulas.get(name))
    }

    fn missing(&self, formula: &Formula) -> String {
        let mut settings = BTreeSet::new();
        self.settings(&formula.root, &mut settings, 0);
        let named: Vec<String> = settings.iter().map(|name| format!("`{name}`")).collect();
        format!("config.json says none of {}", named.join(", "))
    }

    fn settings(&self, node: &Node, found: &mut BTreeSet<String>, depth: u32) {
        match node {
            Node::Setting(path) => {
                found.insert(path.clone());
            }
            Node::Name(name) if depth < DEEPEST => {
                if let Some(formula) = self.formula(name) {
                    self.settings(&formula.root, found, depth + 1);
                }
            }
            Node::Length(one) | Node::Not(one) => self.settings(one, found, depth),
            Node::Choice(three) => three.iter().for_each(|one| self.settings(one, found, depth)),
            Node::Pair(_, two) => two.iter().for_each(|one| self.settings(one, found, depth)),
            Node::Name(_) | Node::Number(_) | Node::Text(_) => {}
        }
    }

    fn value(&self, node: &'c Node) -> Result<Value<'c>, String> {
        match node {
            Node::Number(number) => Ok(Value::Number(*number)),
            Node::Text(text) => Ok(Value::Text(text)),
            Node::Setting(path) => {
                let value = self.config.get(path).map_or(Value::Missing, of_json);
                if value != Value::Missing {
                    self.used.borrow_mut().insert(path);
                }
                Ok(value)
            }
            Node::Name(name) => self.named_value(name),
            Node::Length(list) => match self.value(list)? {
                Value::List(items) => count(items.len()),
                Value::Text(text) => count(text.chars().count()),
                other => Err(format!("{other} has no length")),
            },
            Node::Not(condition) => Ok(Value::Bool(!truth(self.value(condition)?)?)),
            Node::Choice(three) => {
                let [condition, then, or_else] = &**three;
                self.value(if truth(self.value(condition)?)? { then } else { or_else })
            }
            Node::Pair(operator, two) => self.pair(*operator, &two[0], &two[1]),
        }
    }

    fn named_value(&self, name: &str) -> Result<Value<'c>, String> {
        if name == "layer" {
            return self.layer.map(Value::Number).ok_or_else(|| "it hangs on the layer".to_owned());
        }
        match name {
            "true" => return Ok(Value::Bool(true)),
            "false" => return Ok(Value::Bool(false)),
            _ => {}
        }
        let formula = self.formula(name).ok_or_else(|| format!("there is no formula `{name}`"))?;
        if self.depth.get() >= DEEPEST {
            return Err(format!("`{name}` hangs on itself"));
        }
        self.depth.set(self.depth.get() + 1);
        let value = self.value(&formula.root);
        self.depth.set(self.depth.get() - 1);
        value
    }

    fn pair(&self, operator: Operator, left: &'c Node, right: &'c Node) -> Result<Value<'c>, String> {
        let first = self.value(left)?;
        match operator {
            Operator::Else if first == Value::Missing => return self.value(right),
            Operator::Else => return Ok(first),
            Operator::Or if truth(first)? => return Ok(Value::Bool(true)),
            Operator::And if !truth(first)? => return Ok(Value::Bool(false)),
            Operator::Or | Operator::And => return Ok(Value::Bool(truth(self.value(right)?)?)),
            _ => {}
        }
        let second = self.value(right)?;
        match operator {
            Operator::Equal => Ok(Value::Bool(first == second)),
            Operator::Unequal => Ok(Value::Bool(first != second)),
            Operator::In => match second {
                Value::List(items) => Ok(Value::Bool(items.iter().any(|item| of_json(item) == first))),
                Value::Missing => Ok(Value::Bool(false)),
                other => Err(format!("{other} is no list")),
            },
            Operator::Index => indexed(first, second),
            _ => match (first, second) {
                // What hangs on something missing is missing, so that `??` sees it.
                (Value::Missing, _) | (_, Value::Missing) => Ok(Value::Missing),
                (Value::Number(one), Value::Number(other)) => arithmetic(operator, one, other),
                (one, other) => Err(format!("{one} and {other} are not both whole numbers")),
            },
        }
    }
}

fn failed(formula: &Formula, what: String) -> IngestError {
    IngestError::Setting { formula: formula.text.clone(), what }
}

fn count(items: usize) -> Result<Value<'static>, String> {
    i64::try_from(items).map(Value::Number).map_err(|_| "too long".to_owned())
}

fn truth(value: Value) -> Result<bool, String> {
    match value {
        Value::Bool(is) => Ok(is),
        Value::Missing => Ok(false),
        other => Err(format!("{other} is neither true nor false")),
    }
}

fn of_json(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Missing,
        Json::Bool(is) => Value::Bool(*is),
        Json::String(text) => Value::Text(text),
        Json::Array(items) => Value::List(items),
        Json::Number(number) => {
            number.as_i64().or_else(|| whole(number.as_f64()?)).map_or(Value::Other(json), Value::Number)
        }
        Json::Object(_) => Value::Other(json),
    }
}

/// Some configurations have `4096.0`.
#[expect(clippy::cast_possible_truncation, reason = "it is a whole number of at most 2^53")]
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
}

fn indexed<'c>(list: Value<'c>, index: Value<'c>) -> Result<Value<'c>, String> {
    if let (Value::Other(Json::Object(nested)), Value::Text(name)) = (list, index) {
        return Ok(nested.get(name).map_or(Value::Missing, of_json));
    }
    if list == Value::Missing {
        return Ok(Value::Missing);
    }
    let at = match index {
        Value::Number(number) => usize::try_from(number).map_err(|_| format!("there is no place {number}"))?,
        other => return Err(format!("{other} is no place in a list")),
    };
    match list {
        Value::List(items) => {
            items.get(at).map(of_json).ok_or_else(|| format!("a list of {} has no place {at}", items.len()))
        }
        Value::Text(text) => {
            let letter = text.char_indices().nth(at).map(|(start, letter)| &text[start..start + letter.len_utf8()]);
            letter.map(Value::Text).ok_or_else(|| format!("`{text}` has no letter {at}"))
        }
        other => Err(format!("{other} is no list")),
    }
}

fn arithmetic(operator: Operator, one: i64, other: i64) -> Result<Value<'static>, String> {
    let number = match operator {
        Operator::Add => one.checked_add(other),
        Operator::Subtract => one.checked_sub(other),
        Operator::Multiply => one.checked_mul(other),
        Operator::Divide => one.checked_div_euclid(other),
        Operator::Remainder => one.checked_rem_euclid(other),
        Operator::Less => return Ok(Value::Bool(one < other)),
        Operator::LessOrEqual => return Ok(Value::Bool(one <= other)),
        Operator::More => return Ok(Value::Bool(one > other)),
        Operator::MoreOrEqual => return Ok(Value::Bool(one >= other)),
        _ => return Err("no arithmetic".to_owned()),
    };
    number.map(Value::Number).ok_or_else(|| format!("{one} and {other}: divided by 0, or too large"))
}

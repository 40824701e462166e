//! Values that know where they come from, before anybody knows their types.

use super::origin::Origin;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Nothing,
    Switch(bool),
    Whole(i64),
    Decimal(f64),
    Text(String),
    /// Text of a variable or a flag, which says a number, a switch or a list too.
    Word(String),
    List(Vec<Node>),
    /// In the order in which they were given.
    Table(Vec<(String, Node)>),
}

/// A value with its origin.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

impl Node {
    pub(super) fn new(value: Value, origin: Origin) -> Self {
        Self { value, origin }
    }

    /// What JSON says; its texts are words.
    pub(super) fn of_json(json: &serde_json::Value, origin: &Origin) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Nothing,
            serde_json::Value::Bool(switch) => Value::Switch(*switch),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => Value::Whole(whole),
                (None, Some(decimal)) => Value::Decimal(decimal),
                (None, None) => Value::Text(number.to_string()),
            },
            serde_json::Value::String(text) => Value::Word(text.clone()),
            serde_json::Value::Array(items) => {
                // A text within a list is one text, with its commas.
                let item = |json: &serde_json::Value| match json {
                    serde_json::Value::String(text) => Self::new(Value::Text(text.clone()), origin.clone()),
                    other => Self::of_json(other, origin),
                };
                Value::List(items.iter().map(item).collect())
            }
            serde_json::Value::Object(fields) => {
                let fields = fields.iter().map(|(key, field)| (key.clone(), Self::of_json(field, origin)));
                Value::Table(fields.collect())
            }
        };
        Self::new(value, origin.clone())
    }

    /// The node at a path.
    pub(super) fn at<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> Option<&Self> {
        path.into_iter().try_fold(self, |node, key| match &node.value {
            Value::Table(fields) => fields.iter().find(|(name, _)| name == key).map(|(_, field)| field),
            _ => None,
        })
    }

    /// The same, to be changed.
    pub(super) fn at_mut<'p>(&mut self, path: impl IntoIterator<Item = &'p str>) -> Option<&mut Self> {
        path.into_iter().try_fold(self, |node, key| match &mut node.value {
            Value::Table(fields) => fields.iter_mut().find(|(name, _)| name == key).map(|(_, field)| field),
            _ => None,
        })
    }

    /// Puts a stronger value in the place of what is there. What is no table on the way stays, to be found wrong.
    pub(super) fn put<'p>(&mut self, path: impl IntoIterator<Item = &'p str>, stronger: Self) {
        let mut node = self;
        for key in path {
            let Value::Table(fields) = &mut node.value else { return };
            let place = fields.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
                fields.push((key.to_owned(), Self::new(Value::Table(Vec::new()), stronger.origin.clone())));
                fields.len() - 1
            });
            node = &mut fields[place].1;
        }
        *node = stronger;
    }
}

//! `hwledger.toml` as a tree of values that know their lines.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeFloat, DeInteger, DeTable, DeValue};

use super::error::ConfigError;
use super::names;
use super::origin::Origin;
use super::tree::{Node, Value};

/// Far above any configuration.
const LARGEST_BYTES: u64 = 4 << 20;

/// Reads a file. Relative paths in it are those of its folder.
pub(super) fn read(path: &Path) -> Result<Node, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LARGEST_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST_BYTES {
        return Err(ConfigError::TooLong { path: path.to_owned(), largest_bytes: LARGEST_BYTES });
    }
    let folder = std::path::absolute(path).map_err(unreadable)?.parent().map(Path::to_owned).unwrap_or_default();
    parse(&name_of(path), &folder, &bytes)
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

pub(super) fn parse(file: &str, folder: &Path, bytes: &[u8]) -> Result<Node, ConfigError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ConfigError::Encoding { file: file.to_owned(), line: line(bytes, error.valid_up_to()) })?;
    let document = Document { file, text };
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        file: file.to_owned(),
        line: line(bytes, error.span().unwrap_or_default().start),
        problem: error.message().to_owned(),
    })?;
    let mut root = Node::new(document.table(table.into_inner())?, document.origin(0..0));
    names::each_path(&mut root, &mut |text| *text = anchored(folder, text));
    Ok(root)
}

/// A path of the file, absolute. `~` is the user's folder.
fn anchored(folder: &Path, text: &str) -> String {
    let home = || std::env::var_os("HOME").map(PathBuf::from);
    let path = match text.strip_prefix("~/").zip(home()) {
        Some((rest, home)) => home.join(rest),
        None => folder.join(text),
    };
    path.to_string_lossy().into_owned()
}

struct Document<'d> {
    file: &'d str,
    text: &'d str,
}

impl Document<'_> {
    fn origin(&self, span: Range<usize>) -> Origin {
        Origin::File { file: self.file.to_owned(), line: line(self.text.as_bytes(), span.start) }
    }

    fn table(&self, table: DeTable<'_>) -> Result<Value, ConfigError> {
        let fields = table.into_iter().map(|(key, value)| {
            // A value may begin on a later line than the key that a reader looks for.
            let origin = self.origin(key.span());
            Ok((key.get_ref().to_string(), self.node(value, origin)?))
        });
        Ok(Value::Table(fields.collect::<Result<_, ConfigError>>()?))
    }

    fn node(&self, value: Spanned<DeValue<'_>>, origin: Origin) -> Result<Node, ConfigError> {
        let value = match value.into_inner() {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => {
                Value::Whole(whole(&number).ok_or_else(|| wrong(&origin, format!("{number} is too large")))?)
            }
            DeValue::Float(number) => {
                Value::Decimal(decimal(&number).ok_or_else(|| wrong(&origin, format!("{number} is no number")))?)
            }
            DeValue::Boolean(switch) => Value::Switch(switch),
            DeValue::Datetime(time) => Value::Text(time.to_string()),
            DeValue::Array(items) => {
                let items = items.into_iter().map(|item| {
                    let origin = self.origin(item.span());
                    self.node(item, origin)
                });
                Value::List(items.collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => self.table(table)?,
        };
        Ok(Node::new(value, origin))
    }
}

fn wrong(origin: &Origin, problem: String) -> ConfigError {
    ConfigError::Setting { origin: origin.clone(), name: String::new(), problem }
}

fn whole(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn decimal(number: &DeFloat<'_>) -> Option<f64> {
    number.as_str().parse().ok()
}

/// The line of a byte, counted from 1.
fn line(bytes: &[u8], at: usize) -> usize {
    bytes[..at.min(bytes.len())].split(|byte| *byte == b'\n').count()
}
